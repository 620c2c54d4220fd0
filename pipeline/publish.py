"""How a finished map comes to stand under the output's name: whole, at once, and last of all.

What is published lies in the run's staging folder beside the output, so that renaming moves it. A
step that was killed is taken again by calling the same function again.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from segpipe.pipeline import storage
from segpipe.pipeline.errors import FingerprintMismatchError, StorageError
from segpipe.pipeline.label_store import LabelStore
from segpipe.pipeline.legend import Legend
from segpipe.pipeline.pam import Counts, geotiff_pam
from segpipe.pipeline.qml import qgis_style

_REPLACED = "replaced"


def publish_cog(
    staged: Path, output: Path, legend: Legend, counts: Counts, *, style: bool, overwrite: bool
) -> None:
    """Moves a GeoTIFF to `output`, beside its legend for GDAL and, with `style`, that for QGIS.

    Args:
        staged: the verified GeoTIFF, in the staging folder.
        output: where it belongs.
        legend: what its values mean.
        counts: pixels of each class.
        style: whether to write `BASENAME.qml`; one that is there stays, unless `overwrite`.
        overwrite: whether an output that is there may be replaced.

    Raises:
        FingerprintMismatchError: there is an output that mustn't be replaced.
        StorageError: the disk refuses; what was there before is there again.
    """
    side_cars = {output.with_name(f"{output.name}.aux.xml"): geotiff_pam(legend, counts)}
    _publish(staged, output, side_cars | _style(output, legend, style, overwrite), overwrite)


def publish_zarr(
    staged: Path, output: Path, legend: Legend, counts: Counts, *, style: bool, overwrite: bool
) -> None:
    """Moves a store to `output`, with the classes' pixels in its legend; see `publish_cog`."""
    if staged.exists():
        LabelStore(staged).write_legend(legend, counts)
    _publish(staged, output, _style(output, legend, style, overwrite), overwrite)


def put_back(folder: Path, output: Path) -> None:
    """Moves back what an overwrite in this staging folder set aside, if it never ended."""
    if output.exists():
        return
    for replaced in folder.glob(f"**/{_REPLACED}"):
        # The output goes last: where it stands, its side-cars stand beside it.
        for path in sorted(replaced.iterdir(), key=lambda path: path.name == output.name):
            storage.rename(path, output.with_name(path.name))


def _style(output: Path, legend: Legend, style: bool, overwrite: bool) -> dict[Path, bytes]:
    path = output.with_suffix(".qml")
    # Without an output, a style is what someone made for it, or our own from a call that ended.
    return {path: qgis_style(legend)} if style and (overwrite or not path.exists()) else {}


def _publish(staged: Path, output: Path, side_cars: Mapping[Path, bytes], overwrite: bool) -> None:
    replaced = staged.parent / _REPLACED
    if not staged.exists():
        if not output.exists():
            raise StorageError(
                f"there is nothing at {staged} to publish as {output}; start anew with --new-run"
            )
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
            storage.write(path, data)
        storage.sync_folder(output.parent)
        storage.rename(staged, output)
    except StorageError:
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
