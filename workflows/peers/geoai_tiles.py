"""geoai's `predict_geotiff`, from file to file."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from geoai.inference import predict_geotiff
from numpy.typing import NDArray

from segpipe.models.card import NODATA
from segpipe.workflows.peers.subject import Labels, Mapped, Subject, written


def labels(subject: Subject, *, patch: int, overlap: float, batch: int) -> Mapped:
    """The labels that `predict_geotiff` writes, blended as it does by default."""

    def normalised(tile: NDArray[np.float32]) -> NDArray[np.float32]:
        return subject.normalised(torch.from_numpy(tile)).numpy()

    def labelled(scores: NDArray[np.float32]) -> Labels:
        return subject.labelled(torch.from_numpy(scores))[None]

    with tempfile.TemporaryDirectory(prefix="segpipe-peers-") as folder:
        output = Path(folder) / "map.tif"
        predict_geotiff(
            subject.network(),
            subject.scene.path,
            str(output),
            tile_size=patch,
            overlap=round(patch * overlap),
            batch_size=batch,
            input_bands=list(subject.scene.band_indexes),
            num_classes=len(subject.values),
            output_dtype="uint8",
            output_nodata=NODATA,
            preprocess_fn=normalised,
            postprocess_fn=labelled,
            verbose=False,
        )
        return Mapped(written(output), patch)
