"""One pass over the whole scene: the reference of all labels."""

import torch

from segpipe.models.engine import Engine, default_threads
from segpipe.models.predictor import TorchPredictor
from segpipe.workflows.peers.subject import Mapped, Subject


def labels(subject: Subject) -> Mapped:
    """The labels of one forward pass in fp32."""
    pixels, valid = subject.pixels()
    model = subject.model
    engine = Engine(threads=default_threads())
    predict = TorchPredictor(model.network, model.card, model.footprint.stride, engine)
    height, width = valid.shape
    found = predict(pixels, valid, (slice(0, height), slice(0, width)))
    return Mapped(found, 0, f"torch {torch.__version__}, fp32")
