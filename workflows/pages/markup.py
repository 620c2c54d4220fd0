"""HTML that is put together out of texts, each of them escaped."""

import html

_EMPTY = {"img", "input", "meta", "br"}


class Html(str):
    """Text that is HTML already; any other text is escaped where it meets this."""

    __slots__ = ()


def element(name: str, /, *children: str, **attributes: str | int | None) -> Html:
    """An element with these children.

    Args:
        name: of the element.
        children: `Html` stands as it is, any other text is escaped.
        attributes: names may end in an underscore, and have others for hyphens; those that are
            None are left out.
    """
    told = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _EMPTY:
        return Html(f"<{name}{told}>")
    return Html(f"<{name}{told}>{joined(*children)}</{name}>")


def joined(*parts: str) -> Html:
    """The parts one behind the other."""
    return Html("".join(part if isinstance(part, Html) else html.escape(part) for part in parts))
