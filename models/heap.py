"""Memory that a network frees is kept for its next layer, and goes back before it piles up."""

import ctypes
import sys

import psutil

_TRIM_THRESHOLD = -1
_MMAP_MAX = -4
_ARENA_MAX = -8
_NEVER = -1

GROWTH = 1.1
"""How much more a process may hold than after a pass into an empty heap, before it gives back what
is free: blocks of other sizes leave gaps that the next pass can't use."""

CHEAP = 512 << 20
"""Fewer bytes than these go back before every pass: fetching them takes no time that shows, and
gaps are large beside so little."""


def keep_freed_memory() -> None:
    """Tells glibc to reuse what was freed instead of handing it back; elsewhere does nothing.

    Without it each feature map is fetched from the kernel page by page and given back after the
    layer, which can take as long as the layer itself. One arena, because the others can't hold
    blocks of this size; so this must be called before the threads that compute are started.
    """
    library = _glibc()
    if library is None:
        return
    for option, value in ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER)):
        library.mallopt(option, value)


class Kept:
    """Watches how much memory a process keeps from pass to pass of a network.

    `before` and `after` are called around every pass, by one thread at a time.
    """

    def __init__(self) -> None:
        self._library = _glibc()
        self._least: int | None = None
        self._usual = 0
        self._trimmed = False

    def before(self) -> None:
        """Gives back what is free, if it is little, or grew since a pass into an empty heap."""
        held = _resident()
        few = self._least is None or held - self._least < CHEAP
        self._trimmed = few or held > GROWTH * self._usual
        if self._trimmed:
            if self._library is not None:
                self._library.malloc_trim(0)
            self._least = _resident()

    def after(self) -> None:
        """Notes what a pass into an empty heap leaves."""
        if self._trimmed:
            self._usual = _resident()


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None


def _resident() -> int:
    return int(psutil.Process().memory_info().rss)
