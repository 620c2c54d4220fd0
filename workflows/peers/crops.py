"""A classifier that is slid over the scene: a crop for every score."""

import torch

from segpipe.models.converted import sliding_window
from segpipe.workflows.peers.subject import Mapped, Padded, Subject


def labels(subject: Subject, *, batch: int) -> Mapped:
    """The labels of the classifier on `batch` crops at a time; 0 for as many as segpipe takes.

    Raises:
        ModelError: the network is no converted classifier.
    """
    window = sliding_window(subject.model.network)
    window.batch = batch or window.batch
    with torch.inference_mode():
        scores = Padded(window, window.converted.stride)(subject.image()[None])[0]
        return Mapped(subject.labelled(scores), window.converted.side)
