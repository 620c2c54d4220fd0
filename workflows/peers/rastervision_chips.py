"""Raster Vision's sliding windows over a scene, predicted by its learner."""

from segpipe.workflows.peers.subject import Mapped, Normalising, Subject
from segpipe.workflows.peers.vision import import_vision

import_vision()

from rastervision.core.data import (  # noqa: E402
    ClassConfig,
    RasterioSource,
    Scene,
    SemanticSegmentationLabels,
)
from rastervision.pytorch_learner import (  # noqa: E402
    SemanticSegmentationGeoDataConfig,
    SemanticSegmentationLearner,
    SemanticSegmentationLearnerConfig,
    SemanticSegmentationSlidingWindowGeoDataset,
    SolverConfig,
)


def labels(subject: Subject, *, patch: int, overlap: float, batch: int) -> Mapped:
    """The labels of its learner on its windows, counted where they overlap."""
    order = [index - 1 for index in subject.scene.band_indexes]
    scene = Scene(id="scene", raster_source=RasterioSource(subject.scene.path, channel_order=order))
    step = round(patch * (1 - overlap))
    windows = SemanticSegmentationSlidingWindowGeoDataset(
        scene, size=patch, stride=step, normalize=False
    )
    names = [info.name for info in subject.model.card.classes]
    learner = SemanticSegmentationLearner(
        SemanticSegmentationLearnerConfig(
            data=SemanticSegmentationGeoDataConfig(class_config=ClassConfig(names=names)),
            solver=SolverConfig(batch_sz=batch),
        ),
        model=Normalising(subject),
        training=False,
    )
    found = SemanticSegmentationLabels.from_predictions(
        windows.windows,
        learner.predict_dataset(windows, raw_out=False, numpy_out=True, progress_bar=False),
        extent=scene.extent,
        num_classes=len(names),
        smooth=False,
    )
    return Mapped(subject.values[found.get_label_arr(scene.extent)], patch)
