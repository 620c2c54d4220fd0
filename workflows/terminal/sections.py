"""The help of a command with many options: headings in the order in which users think of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import click

Sections = Mapping[str, Sequence[str]]
"""Names of parameters under each heading."""


def command_with(sections: Sections) -> type[click.Command]:
    """A class of commands whose help has these sections, and an "Other options" for the rest."""

    class Sectioned(click.Command):
        """A command whose options stand under headings."""

        def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
            """Writes each section with the help of its options."""
            records = {
                param.name: record
                for param in self.get_params(ctx)
                if (record := param.get_help_record(ctx)) is not None
            }
            named = {
                title: [records.pop(name) for name in names if name in records]
                for title, names in sections.items()
            }
            for title, rows in {**named, "Other options": list(records.values())}.items():
                if rows:
                    with formatter.section(title):
                        formatter.write_dl(rows)

    return Sectioned
