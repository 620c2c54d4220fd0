"""Memory that a network frees is kept for its next layer."""

import ctypes
import sys

_TRIM_THRESHOLD = -1
_MMAP_MAX = -4
_ARENA_MAX = -8
_NEVER = -1


def keep_freed_memory() -> None:
    """Tells glibc to reuse what was freed instead of handing it back; elsewhere does nothing.

    Without it each feature map is fetched from the kernel page by page and given back after the
    layer, which can take as long as the layer itself. One arena, because the others can't hold
    blocks of this size; so this must be called before the threads that compute are started.
    """
    if not sys.platform.startswith("linux"):
        return
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return
    for option, value in ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER)):
        library.mallopt(option, value)
