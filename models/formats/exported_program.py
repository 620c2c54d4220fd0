"""Networks as `torch.export.save` writes them."""

import io
import pickle
import warnings
import zipfile
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.export import ExportedProgram

from segpipe.models.errors import ModelError
from segpipe.models.footprints.exported import REFUSALS, first_line
from segpipe.models.formats.foreign import Foreign
from segpipe.models.pointwise import Settling


class ImageRefusedError(ModelError, ValueError):
    """An exported program takes no image of this size."""


class ExportedNetwork(Foreign):
    """An exported program with one image tensor as its input and one tensor as its output.

    One that was exported with fixed height and width has a `window`. Images of a batch go through
    one by one, so that a program for a single image will do.

    Raises:
        ModelError: the content is no such program.
    """

    kind: ClassVar[str] = "exported"

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        program = _load(content)
        shape = _image_shape(program)
        self.window = _window(shape)
        self.bands = shape[1] if isinstance(shape[1], int) else None
        self.program = program.module()

    def train(self, mode: bool = True) -> "ExportedNetwork":
        """The mode is noted and changes nothing: it was fixed by the export."""
        self.training = mode
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Class scores, (N, classes, H, W).

        Raises:
            ImageRefusedError: the program was exported for other sizes.
        """
        try:
            with Settling():
                scores = [self.program(image[None]) for image in images]
        except AssertionError as error:
            raise ImageRefusedError(
                f"the exported program refuses an image of {images.shape[2]} x {images.shape[3]} "
                f"pixels: {first_line(error)}; export it with torch.export.Dim.AUTO for height "
                "and width"
            ) from error
        return scores[0] if len(scores) == 1 else torch.cat(scores)


def _load(content: bytes) -> ExportedProgram:
    if not zipfile.is_zipfile(io.BytesIO(content)):
        # torch would log pages about it.
        raise ModelError("can't read it as an exported program: it is no archive, or cut short")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program: ExportedProgram = torch.export.load(io.BytesIO(content))
    except (*REFUSALS, OSError, EOFError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        raise ModelError(
            f"torch {torch.__version__} can't read it as an exported program: {first_line(error)}"
        ) from error
    return program


def _image_shape(program: ExportedProgram) -> tuple[Any, ...]:
    """The input's shape (N, bands, H, W), with a symbol for a side that may change."""
    signature = program.graph_signature
    nodes = {node.name: node for node in program.graph.nodes}
    shapes = [
        tuple(nodes[name].meta["val"].shape)
        for name in signature.user_inputs
        if isinstance(name, str) and isinstance(nodes[name].meta.get("val"), Tensor)
    ]
    if len(shapes) != 1 or len(signature.user_inputs) != 1 or len(shapes[0]) != 4:
        raise ModelError(
            f"an exported program takes one tensor (1, bands, H, W), this one takes "
            f"{len(signature.user_inputs)} inputs; export it again"
        )
    if len(signature.user_outputs) != 1:
        raise ModelError(
            f"an exported program gives one tensor (1, classes, H, W), this one gives "
            f"{len(signature.user_outputs)} outputs; export it with the scores alone"
        )
    if isinstance(shapes[0][0], int) and shapes[0][0] != 1:
        raise ModelError(
            f"the program was exported for batches of {shapes[0][0]} images; export it with one"
        )
    return shapes[0]


def _window(shape: tuple[Any, ...]) -> int | None:
    height, width = shape[2:]
    fixed = [side for side in (height, width) if isinstance(side, int)]
    if not fixed:
        return None
    if len(fixed) == 1 or height != width or height % 2:
        raise ModelError(
            f"an exported program takes any height and width or one square with an even side, "
            f"this one takes {height} x {width}; export it with torch.export.Dim.AUTO for both"
        )
    return fixed[0]
