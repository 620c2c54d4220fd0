"""Which numbers a network is fed: those that a scene stores, or the reflectances they stand for."""

import math
from dataclasses import replace

import numpy as np

from segpipe.models.card import ModelCard
from segpipe.pipeline.errors import InputRefusedError
from segpipe.pipeline.scenes.band_choice import title
from segpipe.pipeline.scenes.scene import Scene
from segpipe.pipeline.scenes.source import Band
from segpipe.workflows.errors import OptionError


def with_scaling(scene: Scene, scale: float | None, offset: float | None, card: ModelCard) -> Scene:
    """The scene whose bands have the scale and offset that make reflectances of their numbers.

    A scene of which a model takes the stored numbers stays as it is.

    Args:
        scene: any.
        scale, offset: for all bands, in place of what the scene says; None for what it says.
        card: of the model that will read it.

    Raises:
        OptionError: the numbers make no sense, or the model takes no reflectances.
        InputRefusedError: nobody says what the numbers of a band stand for.
    """
    if card.units != "reflectance":
        if scale is not None or offset is not None:
            raise OptionError(
                f"{card.name} takes the numbers that a scene stores; leave --scale and --offset out"
            )
        return scene
    if scale is not None:
        if not 0 < scale < math.inf or not math.isfinite(offset or 0.0):
            raise OptionError(
                f"--scale is positive and --offset a number, got {scale} and {offset}"
            )
        own = tuple(replace(band, scale=scale, offset=offset or 0.0) for band in scene.bands)
        return replace(scene, bands=own)
    if offset is not None:
        raise OptionError("--offset goes with --scale, such as --scale 0.0001 --offset -0.1")
    assumed = [title(*pair) for pair in _numbered(scene) if not _is_scaled(scene, *pair, card)]
    if not assumed:
        return scene
    remark = f"{scene.path} doesn't scale {', '.join(assumed)}: taken as reflectances"
    return replace(scene, warnings=(*scene.warnings, remark))


def in_stored_units(card: ModelCard, scene: Scene) -> ModelCard:
    """The card with mean and deviation in the scene's own numbers.

    Raises:
        ModelError: they leave the range of floats.
    """
    if card.units == "stored":
        return card
    scales, offsets = zip(*scaling(scene), strict=True)
    return card.in_stored_units(scales, offsets)


def scaling(scene: Scene) -> list[tuple[float, float]]:
    """Scale and offset of every chosen band."""
    return [(band.scale, band.offset) for band in scene.bands]


def _numbered(scene: Scene) -> list[tuple[Band, int]]:
    return list(zip(scene.bands, scene.band_indexes, strict=True))


def _is_scaled(scene: Scene, band: Band, index: int, card: ModelCard) -> bool:
    """Whether the scene says what a band's numbers stand for; for fractions nobody has to.

    Raises:
        InputRefusedError: it doesn't, and they're whole numbers; or what it says can't be.
    """
    name = f"{scene.path}: {title(band, index)}"
    if not 0 < band.scale < math.inf or not math.isfinite(band.offset):
        raise InputRefusedError(
            f"{name} has the scale {band.scale:g} and the offset {band.offset:g}, which give no "
            "reflectances; name others with --scale and --offset"
        )
    if (band.scale, band.offset) != (1.0, 0.0):
        return True
    if not np.issubdtype(np.dtype(band.dtype), np.floating):
        raise InputRefusedError(
            f"{name} is {band.dtype} and nothing says how it's scaled, and {card.name} takes "
            "reflectances; say it with --scale and --offset (reflectance = scale * number + offset)"
        )
    return False
