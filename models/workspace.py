"""How much memory a network takes while it computes, counted in a small pass."""

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from segpipe.models.pointwise import CONVOLUTIONS

_TOGETHER = 16
"""Channels that oneDNN computes together; its own layouts hold a multiple of them."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """Bytes that all tensors of a pass take at most.

    Attributes:
        fixed: whatever its window.
        per_pixel: for each pixel of the window that is wanted.
        per_other: for each pixel of the window that isn't.
    """

    fixed: float
    per_pixel: float
    per_other: float

    @classmethod
    def through(cls, small: tuple[int, int], large: tuple[int, int]) -> "Workspace":
        """The one on which two passes lie, each with its pixels and its bytes."""
        (few, less), (many, more) = small, large
        slope = max(more - less, 0) / (many - few)
        return cls(max(less - slope * few, 0.0), slope, slope)


class Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensors that are made inside of it: all, and the most at once.

    What a convolution on a CPU takes for itself is added: oneDNN copies image and result into
    layouts of its own. A tensor counts as long as somebody holds it, a variable of a forward method
    for instance. Shapes alone decide the result, so that it's the same each time.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak: int = 0
        self.made: int = 0
        self._alive: int = 0
        self._counted: set[int] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # To skip its compiler torch would have to import it, which takes a second.
        return False

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """What the operation gives."""
        result = func(*args, **(kwargs or {}))
        read = {one.untyped_storage()._cdata for one in _tensors((args, kwargs))}
        for one in _tensors(result):
            if one.untyped_storage()._cdata not in read:
                self._count(one.untyped_storage())
        own = _copied(args[0], result) if func in CONVOLUTIONS else 0
        self.peak = max(self.peak, self._alive + own)
        return result

    def _count(self, storage: UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._counted:
            self._counted.add(key)
            self._alive += size
            self.made += size
            weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._counted.discard(key)
        self._alive -= size


def _copied(*tensors: Tensor) -> int:
    return sum(map(_own_layout, (one for one in tensors if one.device.type == "cpu")))


def _own_layout(image: Tensor) -> int:
    """Bytes of an image (batch, channel, row, column) in oneDNN's layout, if not of its own."""
    if not image.numel() or not image.is_contiguous():  # channels_last needs no more
        return image.nbytes
    channels = image.shape[1]
    return image.nbytes // channels * (-(-channels // _TOGETHER) * _TOGETHER)


def _tensors(tree: object) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))
