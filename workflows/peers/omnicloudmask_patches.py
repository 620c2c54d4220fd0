"""OmniCloudMask's engine with another network in it."""

from segpipe.workflows.peers.subject import Mapped, Subject
from segpipe.workflows.peers.vision import import_vision

import_vision()

from omnicloudmask import predict_from_array  # noqa: E402


def labels(subject: Subject, *, patch: int, overlap: float, batch: int) -> Mapped:
    """The labels that `predict_from_array` gives for the scene's own numbers.

    It normalises each patch by itself, whatever a network was trained with.
    """
    pixels, _ = subject.pixels()
    nodata = subject.scene.nodata[0]
    channels = predict_from_array(
        pixels,
        patch_size=patch,
        patch_overlap=round(patch * overlap),
        batch_size=batch,
        no_data_value=0 if nodata is None else nodata,
        custom_models=subject.network(),
        pred_classes=len(subject.values),
    )
    return Mapped(subject.values[channels[0]], patch, "each patch normalised by itself")
