"""torchvision without its compiled operators, for tools that import it and don't use them."""

import torch


def import_vision() -> None:
    """Imports torchvision, also where its operators were compiled for another build of torch.

    It registers shapes for two of its operators whether they are there or not, and can't be
    imported where they aren't. Declaring them is enough; a call would still fail.

    Raises:
        ImportError: there is no torchvision.
    """
    try:
        import torchvision
    except RuntimeError:
        signature = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", signature)
        import torchvision  # noqa: F401
