"""How a finished map comes to stand under the output's name: whole, at once, and last of all.

What is published lies in the run's staging folder beside the output, so that renaming moves it. A
step that was killed is taken again by calling the same function again.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from segpipe.pipeline import storage
from segpipe.pipeline.errors import FingerprintMismatchError, StorageError
from segpipe.pipeline.maps.label_store import LabelStore
from segpipe.pipeline.maps.layer import Layer
from segpipe.pipeline.maps.pam import Counts, geotiff_pam
from segpipe.pipeline.maps.qml import qgis_style, share_style

_REPLACED = ".replaced"
"""Ends the name of the folder, beside what is published, to which an old output is moved."""

_HOME = ".home"
"""The file there that tells where the old output belongs."""

SideCars = Mapping[Path, bytes | None]
"""What stands beside an output; None where nothing may."""


def publish_cog(
    staged: Path, output: Path, layer: Layer, counts: Counts, *, style: bool, overwrite: bool
) -> None:
    """Moves a GeoTIFF to `output`, beside its legend for GDAL and, with `style`, that for QGIS.

    Args:
        staged: the verified GeoTIFF, in the staging folder.
        output: where it belongs, on the same file system.
        layer: what it is.
        counts: pixels of each class, if it has classes.
        style: whether to write `BASENAME.qml`; one that is there stays, unless `overwrite`.
        overwrite: whether an output that is there may be replaced.

    Raises:
        FingerprintMismatchError: there is an output that mustn't be replaced.
        StorageError: the disk refuses; what was there before is there again.
    """
    # A side-car of another file would tell lies.
    pam = geotiff_pam(layer.legend, counts) if layer.legend else None
    side_cars: SideCars = {output.with_name(f"{output.name}.aux.xml"): pam}
    _publish(staged, output, {**side_cars, **_style(output, layer, style, overwrite)}, overwrite)


def publish_zarr(
    staged: Path, output: Path, layer: Layer, counts: Counts, *, style: bool, overwrite: bool
) -> None:
    """Moves a store to `output`, with the classes' pixels in its legend; see `publish_cog`."""
    if staged.exists() and layer.legend:
        LabelStore(staged, layer.name).write_legend(layer.legend, counts)
    _publish(staged, output, _style(output, layer, style, overwrite), overwrite)
    # A worker of a driver that died may have been at a chunk that another has written meanwhile.
    storage.sweep(output)


def put_back(folder: Path) -> None:
    """Moves back what overwrites in this staging folder set aside, if they never ended."""
    for replaced in folder.glob(f"**/*{_REPLACED}"):
        home = replaced / _HOME
        if not home.exists():
            continue
        output = Path(home.read_text())
        if output.exists():
            continue
        # The output goes last: where it stands, its side-cars stand beside it.
        old = (path for path in replaced.iterdir() if path != home)
        for path in sorted(old, key=lambda path: path.name == output.name):
            storage.rename(path, output.with_name(path.name))


def _style(output: Path, layer: Layer, style: bool, overwrite: bool) -> SideCars:
    path = output.with_suffix(".qml")
    # Without an output, a style is what someone made for it, or our own from a call that ended.
    if not style or (path.exists() and not overwrite):
        return {}
    return {path: qgis_style(layer.legend) if layer.legend else share_style()}


def _publish(staged: Path, output: Path, side_cars: SideCars, overwrite: bool) -> None:
    replaced = staged.with_name(f"{staged.name}{_REPLACED}")
    if not staged.exists():
        if not output.exists():
            raise StorageError(
                f"there is nothing at {staged} to publish as {output}; start anew with --new-run"
            )
        storage.sync(output.parent)
        storage.remove(replaced)
        return
    if output.exists() and not overwrite:
        raise FingerprintMismatchError(
            f"{output} exists; name another output with -o, or replace it with --overwrite"
        )
    try:
        _set_aside(output, side_cars, replaced)
        for path, data in side_cars.items():
            storage.sweep_beside(path)
            if data is not None:
                storage.write(path, data)
            elif path.exists():
                storage.remove(path)
        if staged.is_dir():
            # Whoever made a folder may have been killed before it was sure of it.
            storage.sync_folders(staged)
        storage.rename(staged, output)
    except StorageError:
        # What was renamed is published, even if the disk can't say that it will stay.
        if staged.exists():
            _restore(output, side_cars, replaced)
        raise
    storage.remove(replaced)


def _set_aside(output: Path, side_cars: Iterable[Path], replaced: Path) -> None:
    """Moves an output that is there and its side-cars into `replaced`.

    The output goes last: as long as it stands, the side-cars beside it are its own, and once it is
    gone, they are the new one's.
    """
    if not output.exists():
        return
    if (replaced / output.name).exists():
        storage.remove(replaced)
    storage.make_folder(replaced)
    storage.write(replaced / _HOME, str(output).encode())
    for path in (*side_cars, output):
        if path.exists():
            storage.rename(path, replaced / path.name)


def _restore(output: Path, side_cars: Iterable[Path], replaced: Path) -> None:
    """Puts back what `_set_aside` moved; may be called again after a crash."""
    moved = (replaced / output.name).exists()
    for path in side_cars:
        old = replaced / path.name
        if old.exists():
            storage.write(path, old.read_bytes())
        elif moved:
            storage.remove(path)
    if moved:
        storage.rename(replaced / output.name, output)
    storage.remove(replaced)
