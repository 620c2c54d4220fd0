"""How the tensors of an ONNX file stand: bands first or last, scores or probabilities."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from segpipe.models.errors import ModelError
from segpipe.models.formats.onnx_graph import Graph

_TRANSPARENT = frozenset(("Cast", "Identity", "Transpose"))
"""Operations after which a probability is still one."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Between images (N, bands, H, W) with scores (N, classes, H, W) and a file's own tensors.

    Attributes:
        bands: how many the file takes, None where it doesn't say.
        window: side of the only images that it takes, None where any side will do.
        batch: how many images it takes at once, None for any number.
        bands_last: whether its images are (N, H, W, bands), as Keras has them.
        final: the operation that its output comes from.
    """

    bands: int | None
    window: int | None
    batch: int | None
    bands_last: bool
    final: str

    @classmethod
    def of(cls, graph: Graph) -> "Layout":
        """The layout of a graph.

        Raises:
            ModelError: the images that it takes are neither of any size nor square.
        """
        batch, *sides = graph.shape
        bands_last = _are_bands_last(*sides)
        bands, height, width = (sides[2], *sides[:2]) if bands_last else sides
        if height != width:
            told = " x ".join(str(side or "any") for side in (height, width))
            raise ModelError(
                f"the file takes images of {told} pixels; images of any size, or square ones, were "
                "expected: export the network with both sides dynamic"
            )
        return cls(bands, height, batch, bands_last, _final(graph))

    def refuse(self, shape: tuple[int, ...]) -> None:
        """Passes if the file takes images (N, bands, H, W) of this shape.

        Raises:
            ValueError: it doesn't.
        """
        _, bands, *sides = shape
        if self.bands not in (None, bands):
            raise ValueError(f"the file takes {self.bands} bands, got {bands}")
        if self.window is not None and sides != [self.window] * 2:
            raise ValueError(f"the file takes images of {self.window} x {self.window} only")

    def image(self, images: Tensor) -> Tensor:
        """The images as the file has them."""
        return images.permute(0, 2, 3, 1) if self.bands_last else images

    def scores(self, output: Tensor, height: int, width: int) -> Tensor:
        """Scores (N, classes, H, W) from the file's output for images of that size.

        Probabilities become logarithms, so that a softmax gives them back; a single channel becomes
        the two classes of which it is the second.

        Raises:
            ValueError: the output isn't a map of scores.
        """
        if output.ndim != 4 or not output.is_floating_point():
            raise ValueError(
                f"the file gives {output.dtype} of shape {tuple(output.shape)}, not scores for "
                "each class and pixel; export the network without its arg-max"
            )
        if self._is_last(tuple(output.shape), height, width):
            output = output.permute(0, 3, 1, 2)
        single = output.shape[1] == 1
        if self.final == "Sigmoid" and single:
            output = torch.cat([1 - output, output], 1)
        elif single:
            return F.pad(output, (0, 0, 0, 0, 1, 0))
        elif self.final != "Softmax":
            return output
        return output.clamp(min=torch.finfo(output.dtype).tiny).log()

    def _is_last(self, shape: tuple[int, ...], height: int, width: int) -> bool:
        first, last = shape[2:] == (height, width), shape[1:3] == (height, width)
        return last and (self.bands_last or not first)


def _are_bands_last(first: int | None, second: int | None, third: int | None) -> bool:
    """Whether sides after the first are (H, W, bands)."""
    if third is None:
        return False
    if first is None or first == second != third:
        return True
    return third < first and second != third


def _final(graph: Graph) -> str:
    makers = {name: node for node in graph.nodes for name in node.outputs}
    node = makers.get(graph.output)
    while node is not None and node.operation in _TRANSPARENT:
        node = makers.get(node.inputs[0])
    return node.operation if node else ""
