"""MONAI's sliding window inference."""

import torch
from monai.inferers import sliding_window_inference

from segpipe.workflows.peers.subject import Mapped, Subject


def labels(subject: Subject, *, patch: int, overlap: float, mode: str, batch: int) -> Mapped:
    """The labels of the scores that `sliding_window_inference` gives for the image."""
    with torch.inference_mode():
        image, network = subject.image()[None], subject.network()
        scores = sliding_window_inference(image, patch, batch, network, overlap, mode)
        return Mapped(subject.labelled(scores[0]), patch)
