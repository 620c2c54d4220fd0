"""From a trained DeepLabV3 to the same weights with a local mean, so that its tiles are exact."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from segpipe.models.architectures.deeplab import DeepLabV3ResNet50, localised
from segpipe.models.card import ModelCard
from segpipe.models.errors import ModelError
from segpipe.models.footprint import Footprint
from segpipe.models.package import PackageExistsError, SegmentationModel, save
from segpipe.pipeline.storage import reported
from segpipe.workflows.catalogue import Model, find


@dataclass(frozen=True, slots=True)
class Localised:
    """A package of a network that was made local.

    Attributes:
        package: the folder.
        card: as it stands in the package.
        parameters: how many numbers training can change.
        window: side in pixels over which the mean slides.
        footprint: of the local network.
        warnings: what the user should know.
    """

    package: Path
    card: ModelCard
    parameters: int
    window: int
    footprint: Footprint
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The package as `segpipe convert --pooling-window --json` prints it."""
        return {
            "package": str(self.package),
            "name": self.card.name,
            "parameters": self.parameters,
            "bands": list(self.card.bands),
            "classes": [info.name for info in self.card.classes],
            "pooling_window": self.window,
            "footprint": self.footprint.to_dict(),
            "warnings": list(self.warnings),
        }


def localise(
    model: Model, *, output: str | Path, window: int, overwrite: bool = False
) -> Localised:
    """Makes a package of a DeepLabV3 whose mean over the image becomes one over `window` pixels.

    Figures in the card are of the network before, so the new card has none.

    Args:
        model: a package of `deeplabv3-resnet50`.
        output: the new package's folder, whose name becomes the model's.
        window: side of the images that the model was trained on, a multiple of 8.
        overwrite: whether an older package of that name may go.

    Raises:
        ModelError: there's no such model, or it is another network.
        PackageExistsError: `output` is there already.
    """
    folder = Path(output)
    if folder.exists() and not overwrite:
        raise PackageExistsError(f"{folder} is already there; choose another name or remove it")
    before = find(model)
    if not isinstance(before.network, DeepLabV3ResNet50):
        name = before.architecture.name if before.architecture else type(before.network).__name__
        raise ModelError(
            f"{before.card.name} is a {name}, which has no pooling over the image that could be "
            "made local; only deeplabv3-resnet50 has"
        )
    card = replace(before.card, name=folder.name, metrics={})
    after = SegmentationModel(localised(before.network, window), card)
    with reported("write", folder):
        save(after, folder, overwrite=overwrite)
    return Localised(
        package=folder,
        card=card,
        parameters=after.parameters,
        window=window,
        footprint=after.footprint,
        warnings=_warnings(before.card, window),
    )


def _warnings(card: ModelCard, window: int) -> tuple[str, ...]:
    found: list[str] = []
    if card.metrics:
        found.append(f"the figures of {card.name} aren't those of the new model; evaluate it again")
    if card.window != window:
        found.append(f"{card.name} was trained on {card.window} pixels, its mean is over {window}")
    return tuple(found)
