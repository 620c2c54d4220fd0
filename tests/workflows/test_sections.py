"""The help of a command with many options has each of them once, under a heading."""

import click
from click.testing import CliRunner

from segpipe.workflows.commands.run import _SECTIONS, run
from segpipe.workflows.terminal.sections import command_with


def test_every_section_names_options_that_are_there() -> None:
    named = [name for names in _SECTIONS.values() for name in names]
    assert len(named) == len(set(named))
    assert set(named) <= {param.name for param in run.params}


def test_options_stand_under_their_heading_and_the_rest_at_the_end() -> None:
    @click.command(cls=command_with({"The map": ("output",), "Nothing": ("absent",)}))
    @click.option("--quiet", is_flag=True)
    @click.option("--output")
    def command(quiet: bool, output: str) -> None:
        """Makes a map."""

    lines = [line.split() for line in CliRunner().invoke(command, ["--help"]).output.splitlines()]
    headed = [line[:2] for line in lines if line and (line[0][0] == "-" or line[0] == "The")]
    assert headed == [["The", "map:"], ["--output", "TEXT"], ["--quiet"], ["--help", "Show"]]
    assert ["Nothing:"] not in lines
