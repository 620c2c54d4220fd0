"""In how large pixels a scene is read: its own, those of the model's card, or so many metres."""

import math
from dataclasses import replace

from segpipe.models.card import ModelCard
from segpipe.pipeline.area import pixel_size
from segpipe.pipeline.errors import InputRefusedError
from segpipe.pipeline.scenes.resampled import rescaled
from segpipe.pipeline.scenes.scene import Scene
from segpipe.workflows.errors import OptionError

TOLERANCE = 0.1
"""How far a pixel's side may be off the card's resolution before `auto` resamples the scene."""

_SAME = 1e-6


def at_resolution(scene: Scene, resolution: str | float, card: ModelCard) -> Scene:
    """The scene in pixels of that size, from the same upper left corner; or the scene itself.

    Args:
        scene: any.
        resolution: `native`, `auto` for the card's if it has one, or the side of a pixel in metres;
            in a geographic crs these are metres at the scene's centre.
        card: of the model that will read it.

    Raises:
        OptionError: it's no resolution.
        InputRefusedError: the crs has no metres, or the scene's pixels are too far from that size.
    """
    metres = _metres(resolution, card)
    if metres is None:
        return scene
    automatic = resolution == "auto"
    size = pixel_size(scene.grid)
    if size is None:
        why = f"{scene.path} has no crs that tells its pixels' size in metres"
        if not automatic:
            raise InputRefusedError(f"{why}; use --resolution native")
        return _told(scene, f"{why}: read as it is, though {card.name} wants {metres:g} m")
    if max(abs(side / metres - 1) for side in size) <= (TOLERANCE if automatic else _SAME):
        return scene
    resampled = scene.on_grid(rescaled(scene.grid, metres / size[0], metres / size[1]))
    if not automatic:
        return resampled
    return _told(
        resampled,
        f"{scene.path} has pixels of {size[0]:.4g} x {size[1]:.4g} m: resampled to the {metres:g} m"
        f" of {card.name}; --resolution native leaves them",
    )


def _metres(resolution: str | float, card: ModelCard) -> float | None:
    if resolution == "native":
        return None
    if resolution == "auto":
        return card.resolution
    try:
        metres = float(resolution)
    except (TypeError, ValueError):
        metres = math.nan
    if not 0 < metres < math.inf:
        raise OptionError(
            f"a resolution is auto, native, or a pixel's side in metres, got {resolution!r:.80}"
        )
    return metres


def _told(scene: Scene, remark: str) -> Scene:
    return replace(scene, warnings=(*scene.warnings, remark))
