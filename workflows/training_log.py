"""What a training says of itself while it runs, as TensorBoard reads it."""

from importlib.util import find_spec
from pathlib import Path

from segpipe.models.errors import ModelError
from segpipe.models.learning.training import Step


class TrainingLog:
    """Event files with the loss and the rate of every step, and the score of every validation.

    Args:
        folder: where they go; several trainings may have folders of their own side by side.
        done: steps from before. What an interrupted training logged beyond them is hidden.

    Raises:
        ModelError: tensorboard isn't installed.
    """

    def __init__(self, folder: Path, done: int) -> None:
        require("tensorboard", "a log for TensorBoard")
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=done + 1)

    def __call__(self, step: Step) -> None:
        """Logs a step."""
        figures = {"loss": step.loss, "rate": step.rate, "validation/mean_iou": step.score}
        for name, figure in figures.items():
            if figure is not None:
                self._writer.add_scalar(name, figure, step.number)

    def close(self) -> None:
        """Writes what is held back."""
        self._writer.close()


def require(module: str, what: str, otherwise: str = "leave it out") -> None:
    """Passes if a library of the extra `train` is installed.

    Raises:
        ModelError: it isn't.
    """
    if find_spec(module) is None:
        raise ModelError(
            f"{what} takes {module}, which isn't installed: pip install 'segpipe[train]', or "
            f"{otherwise}"
        )
