"""Networks as `torch.jit.save` writes them."""

import io
import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from segpipe.models.errors import ModelError
from segpipe.models.footprints.exported import REFUSALS, first_line
from segpipe.models.formats.foreign import Foreign
from segpipe.models.pointwise import Settling


class ScriptNetwork(Foreign):
    """A TorchScript module with one image tensor as its input and one tensor as its output.

    Its interpreter calls the same operations as Python would, so the structure is followed as that
    of any network; a branch that depends on values ends the walk, and nothing is called exact.

    Raises:
        ModelError: the content is no such module.
    """

    kind: ClassVar[str] = "torchscript"

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        script = _load(content)
        if hasattr(script, "training"):  # a frozen one has lost its modes
            script.eval()
        # No child: torch.export takes no parameters of a script, and finds these as constants.
        object.__setattr__(self, "_script", script)

    @property
    def script(self) -> Any:
        """The module that the interpreter runs."""
        return self.__dict__["_script"]

    @property
    def parameter_count(self) -> int:
        """How many numbers training could have changed; a frozen script keeps none apart."""
        return sum(parameter.numel() for parameter in self.script.parameters())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "ScriptNetwork":
        self.script._apply(fn)
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Class scores, (N, classes, H, W)."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # What an optimiser fuses depends on the shapes that it has seen.
            with Settling(), torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
                scores: Tensor = self.script(images)
        return scores


def _load(content: bytes) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.jit.load(io.BytesIO(content), map_location="cpu")  # type: ignore[no-untyped-call]
    except (*REFUSALS, OSError, EOFError) as error:
        raise ModelError(
            f"torch {torch.__version__} can't read it as TorchScript: {first_line(error)}"
        ) from error
