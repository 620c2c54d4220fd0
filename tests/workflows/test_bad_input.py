"""Whatever is wrong, a user gets one line, the right exit code, and keeps what was there."""

import ctypes
import json
import os
import pickle
import resource
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint

from segpipe.models.package import load
from segpipe.pipeline import storage
from segpipe.pipeline.execution import settings
from segpipe.pipeline.mapping import peak_rss
from segpipe.pipeline.scenes.scene import open_scene
from tests import processes
from tests.processes import Crew
from tests.workflows.conftest import (
    CLASSES,
    COMMAND,
    Command,
    Outcome,
    finish,
    noise,
    package,
    start,
    write_scene,
)

EXACT = ("--device", "cpu", "--precision", "fp32")
TIGHT = {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"}


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """Three bands without names, 300 x 280 pixels."""
    return write_scene(tmp_path / "scene.tif", noise())


@pytest.fixture
def model(tiny_model: Path) -> tuple[str, ...]:
    """The options that name the network and leave nothing to chance."""
    return ("-m", str(tiny_model), *EXACT)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under a folder, hidden ones too."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def staged(folder: Path) -> list[Path]:
    return sorted(folder.glob(".*.segpipe-*"))


def assert_one_line(outcome: Outcome, code: int) -> str:
    """The only line of a command that was refused."""
    assert outcome.code == code, outcome
    assert outcome.out == ""
    (line,) = outcome.lines
    assert line.startswith("segpipe: ")
    return line


def assert_resumable(outcome: Outcome, code: int) -> tuple[str, list[str]]:
    """The line of a run that was stopped, and the command that resumes it."""
    assert outcome.code == code, outcome
    assert outcome.out == ""
    line, resume = outcome.lines
    assert line.startswith("segpipe: ")
    assert resume.startswith("segpipe: resume with: segpipe run ")
    return line, shlex.split(resume.removeprefix("segpipe: resume with: segpipe "))


def assert_clean(folder: Path) -> None:
    """Neither staging folders nor half-written files are left."""
    assert [name for name in contents(folder) if ".part" in name or ".segpipe-" in name] == []
    assert staged(folder) == []


def assert_refused(segpipe: Command, folder: Path, code: int, *words: str | Path) -> str:
    """The line that a refused command prints, which changes nothing on the disk."""
    before = contents(folder)
    line = assert_one_line(segpipe(*words), code)
    assert contents(folder) == before
    assert staged(folder) == []
    return line


def labels(path: Path) -> NDArray[np.uint8]:
    with rasterio.open(path) as dataset:
        return np.asarray(dataset.read(1), np.uint8)


# Scenes that are refused


def missing(path: Path) -> None:
    """Nothing is made."""


def text(path: Path) -> None:
    path.write_text("not a raster")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def folder(path: Path) -> None:
    path.mkdir()


def too_many(path: Path) -> None:
    write_scene(path, noise(bands=4))


def too_few(path: Path) -> None:
    write_scene(path, noise(bands=2))


def complex_numbers(path: Path) -> None:
    write_scene(path, noise().astype(np.complex64))


def gcps_only(path: Path) -> None:
    write_scene(path, noise(), crs=None, transform=rasterio.Affine(1, 0, 0, 0, 1, 0))
    corners = [GroundControlPoint(r, c, c, r) for r, c in ((0, 0), (0, 280), (300, 0))]
    with rasterio.open(path, "r+") as dataset:
        dataset.gcps = (corners, rasterio.CRS.from_epsg(32621))


def cut_off(path: Path) -> None:
    write_scene(path, noise())
    os.truncate(path, path.stat().st_size * 2 // 3)


def header_cut(path: Path) -> None:
    write_scene(path, noise())
    os.truncate(path, 12)


def header_flipped(path: Path) -> None:
    write_scene(path, noise())
    data = bytearray(path.read_bytes())
    data[4] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (missing, ("doesn't exist", "GeoTIFF")),
        (text, ("not a raster", "gdal_translate")),
        (empty, ("not a raster", "gdal_translate")),
        (folder, ("Zarr",)),
        (too_many, ("4 bands", "wants 3", "red, green, blue", "--bands")),
        (too_few, ("2 bands", "wants 3", "red, green, blue", "--bands")),
        (complex_numbers, ("complex64", "float32", "convert")),
        (gcps_only, ("3 ground control points", "gdalwarp")),
        (cut_off, ("cut off", "get it again")),
        (header_cut, ("can't open", "get it again")),
        (header_flipped, ("can't open", "get it again")),
    ],
)
def test_a_scene_that_cannot_be_mapped_is_refused(
    segpipe: Command,
    tmp_path: Path,
    model: tuple[str, ...],
    make: Callable[[Path], None],
    words: tuple[str, ...],
) -> None:
    path = tmp_path / "bad.tif"
    make(path)
    line = assert_refused(segpipe, tmp_path, 3, "run", path, *model, "-o", "map.tif")
    assert str(path) in line
    for word in words:
        assert word in line


@pytest.mark.parametrize(
    ("bands", "words"),
    [
        ("1,2,nir", ("no band is named 'nir'", "it has 3 bands")),
        ("1,2,4", ("no band 4", "it has 3 bands", "counted from 1")),
        ("1,2", ("2 bands were named", "wants 3", "red, green, blue")),
    ],
)
def test_bands_that_are_not_there_are_refused(
    segpipe: Command,
    tmp_path: Path,
    scene: Path,
    model: tuple[str, ...],
    bands: str,
    words: tuple[str, ...],
) -> None:
    line = assert_refused(segpipe, tmp_path, 3, "run", scene, *model, "--bands", bands)
    for word in words:
        assert word in line


@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_small_file_that_claims_terabytes_is_refused_at_once(
    segpipe: Command, tmp_path: Path, model: tuple[str, ...], command: str
) -> None:
    path = tmp_path / "forged.tif"
    side = 2_400_000
    block = {"tiled": True, "blockxsize": 16384, "blockysize": 16384, "interleave": "band"}
    shape = {"height": side, "width": side, "count": 3, "dtype": "uint16"}
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        SPARSE_OK="TRUE",
        BIGTIFF="YES",
        **shape,
        **block,
        crs="EPSG:32621",
        transform=rasterio.Affine(30, 0, 0, 0, -30, 0),
    ):
        assert side * side * 3 * 2 > 32e12
    assert path.stat().st_size < 2_000_000
    before = peak_rss()
    began = time.monotonic()
    line = assert_refused(segpipe, tmp_path, 3, command, path, *model)
    assert time.monotonic() - began < 10
    assert peak_rss() - before < 300e6
    for word in ("2400000 x 2400000", "TB", "in a file of", "gdalinfo"):
        assert word in line


# Scenes that are odd, and are mapped


def test_a_scene_without_crs_is_mapped_with_a_warning(
    segpipe: Command, tmp_path: Path, model: tuple[str, ...]
) -> None:
    path = write_scene(tmp_path / "bare.tif", noise(), crs=None)
    outcome = segpipe("run", path, *model, "-o", "map.tif")
    assert outcome.code == 0
    assert outcome.lines == ["segpipe: warning: bare.tif has no crs: its map won't have one either"]
    with rasterio.open(tmp_path / "map.tif") as dataset:
        assert dataset.crs is None
    assert_clean(tmp_path)


@pytest.mark.parametrize("suffix", ["tif", "zarr"])
@pytest.mark.parametrize(
    "transform",
    [
        rasterio.Affine(30, 0, 694005, 0, 30, -2766615),
        rasterio.Affine(1 / 3, 0.1, 1e6 / 7, 0.2, -1 / 3, -1e6 / 7),
    ],
    ids=["south-up", "rotated"],
)
def test_a_transform_is_carried_bit_for_bit(
    segpipe: Command,
    tmp_path: Path,
    model: tuple[str, ...],
    suffix: str,
    transform: rasterio.Affine,
) -> None:
    path = write_scene(tmp_path / "scene.tif", noise(), transform=transform)
    output = tmp_path / f"map.{suffix}"
    assert segpipe("run", path, *model, "-o", output).code == 0
    assert open_scene(output, ["1"]).grid.transform == tuple(transform[:6])
    if suffix == "tif":
        with rasterio.open(output) as dataset:
            assert dataset.transform == transform
    assert_clean(tmp_path)


def test_nan_and_inf_are_nodata_and_their_neighbours_are_labelled_as_in_the_whole_image(
    segpipe: Command, tmp_path: Path, tiny_model: Path, model: tuple[str, ...]
) -> None:
    pixels = noise(301, 283).astype(np.float32)
    pixels[0, 10, 10:20] = np.nan
    pixels[1, 255:257, 250:260] = np.inf
    pixels[2, 300, 282] = -np.inf
    path = write_scene(tmp_path / "scene.tif", pixels)
    assert segpipe("run", path, *model, "--tile", "256", "-o", "map.tif").code == 0
    np.testing.assert_array_equal(labels(tmp_path / "map.tif"), whole_image(tiny_model, pixels))


def whole_image(package: Path, pixels: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The reference: one pass over everything."""
    found = load(package)
    valid = np.isfinite(pixels).all(axis=0)
    mean, std = (
        np.array(part, np.float32).reshape(3, 1, 1) for part in (found.card.mean, found.card.std)
    )
    image = np.where(valid, (pixels - mean) / std, 0).astype(np.float32)
    stride = found.footprint.stride
    down, right = (-side % stride for side in valid.shape)
    padded = np.pad(image, ((0, 0), (0, down), (0, right)))
    with torch.inference_mode():
        scores = found.network(torch.from_numpy(padded)[None])[0].numpy()
    values = np.array([info.value for info in CLASSES], np.uint8)
    chosen = values[scores.argmax(axis=0)][: valid.shape[0], : valid.shape[1]]
    return np.where(valid, chosen, np.uint8(255))


def test_a_scene_without_a_measurement_gives_a_map_without_a_label(
    segpipe: Command, tmp_path: Path, model: tuple[str, ...]
) -> None:
    path = write_scene(tmp_path / "void.tif", noise() * 0, nodata=0)
    outcome = segpipe("run", path, *model, "-o", "map.tif", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    report = json.loads(outcome.out)
    assert report["valid_pixels"] == 0
    assert {count["pixels"] for count in report["classes"].values()} == {0}
    assert (labels(tmp_path / "map.tif") == 255).all()
    assert_clean(tmp_path)


# Scenes that turn out to be damaged


@pytest.fixture
def flipped(tmp_path: Path) -> Path:
    """A scene with one flipped bit in its last block, which no sample of the scene touches."""
    path = write_scene(tmp_path / "flipped.tif", noise(300, 2048), **TIGHT)
    with rasterio.open(path) as dataset:
        offset = int(dataset.get_tag_item("BLOCK_OFFSET_31_4", "TIFF", bidx=1))
    data = bytearray(path.read_bytes())
    # In a block's middle, libtiff notices one only by chance: it ignores deflate's checksum.
    data[offset] ^= 16
    path.write_bytes(data)
    return path


def test_a_damaged_block_stops_the_run_and_publishes_nothing(
    tmp_path: Path, model: tuple[str, ...], flipped: Path
) -> None:
    words = ("run", str(flipped), *model, "--tile", "256", "-o", "map.tif", "--quiet")
    outcome = finish(start(*words, cwd=tmp_path))
    line, resume = assert_resumable(outcome, 6)
    for word in (str(flipped), "rows", "columns", "damaged", "get it again"):
        assert word in line
    assert resume == list(words)
    assert not (tmp_path / "map.tif").exists()
    assert len(staged(tmp_path)) == 1
    assert {path.name for path in tmp_path.iterdir()} == {flipped.name, staged(tmp_path)[0].name}


# Outputs


@pytest.mark.parametrize("suffix", ["tif", "zarr"])
def test_an_output_that_is_there_stays_until_overwrite(
    segpipe: Command, tmp_path: Path, scene: Path, model: tuple[str, ...], suffix: str
) -> None:
    output = tmp_path / f"map.{suffix}"
    if suffix == "tif":
        output.write_bytes(b"precious")
        old = output
    else:
        output.mkdir()
        old = output / "zarr.json"
        old.write_bytes(b"precious")
    line = assert_refused(segpipe, tmp_path, 5, "run", scene, *model, "-o", output)
    for word in (str(output), "exists", "-o", "--overwrite"):
        assert word in line
    assert segpipe("run", scene, *model, "-o", output, "--overwrite").code == 0
    assert not old.exists() or old.read_bytes() != b"precious"
    assert open_scene(output, ["1"]).grid.shape == (300, 280)
    assert_clean(tmp_path)


def test_not_even_overwrite_replaces_the_scene_or_a_folder_of_other_things(
    segpipe: Command, tmp_path: Path, scene: Path, model: tuple[str, ...]
) -> None:
    (tmp_path / "link.tif").symlink_to(scene)
    (tmp_path / "photos.zarr").mkdir()
    (tmp_path / "photos.zarr" / "1.jpg").write_bytes(b"precious")
    for output, word in (
        (scene, "scene itself"),
        ("link.tif", "scene itself"),
        ("photos.zarr", "no Zarr store"),
    ):
        line = assert_refused(
            segpipe, tmp_path, 2, "run", scene, *model, "-o", output, "--overwrite"
        )
        assert word in line
        assert "-o" in line


def test_a_missing_folder_is_named(
    segpipe: Command, tmp_path: Path, scene: Path, model: tuple[str, ...]
) -> None:
    line = assert_refused(segpipe, tmp_path, 7, "run", scene, *model, "-o", "nowhere/map.tif")
    assert f"no folder {tmp_path / 'nowhere'}; make it" in line


def obey_permissions() -> None:
    """Takes root's right to write everywhere from this process and from what it executes."""
    if os.geteuid() == 0:
        drop_from_bounding_set, dac_override = 24, 1
        ctypes.CDLL(None, use_errno=True).prctl(drop_from_bounding_set, dac_override, 0, 0, 0)


def test_a_folder_that_cannot_be_written_to_is_named(
    tmp_path: Path, scene: Path, model: tuple[str, ...]
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0o555)
    before = contents(tmp_path)
    process = start("run", scene, *model, "-o", closed / "map.tif", preexec_fn=obey_permissions)
    line = assert_one_line(finish(process), 7)
    for word in (str(closed), "can't be written to", "-o"):
        assert word in line
    assert contents(tmp_path) == before
    assert list(closed.iterdir()) == []


# Disks


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a file system can only be mounted by root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("moment", ["store.zarr", "receipts", "scratch"])
def test_a_full_disk_stops_the_run_which_resumes_when_there_is_room(
    segpipe: Command,
    tmp_path: Path,
    scene: Path,
    model: tuple[str, ...],
    small_disk: Path,
    moment: str,
) -> None:
    assert segpipe("run", scene, *model, "-o", "whole.tif").code == 0
    ballast = small_disk / "ballast"

    def fill(action: str, path: Path) -> None:
        if moment in path.parts and not ballast.exists():
            # Where less is left than is asked for, a part is written.
            with ballast.open("wb", buffering=0) as file:
                while file.write(bytes(4096)) == 4096 and shutil.disk_usage(small_disk).free:
                    pass

    output = small_disk / "map.tif"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "step", fill)
        outcome = segpipe("run", scene, *model, "-o", output)
    line, resume = assert_resumable(outcome, 7)
    assert "No space left" in line
    assert "free some space" in line
    assert not output.exists()
    ballast.unlink()
    assert segpipe(*resume).code == 0
    assert output.read_bytes() == (tmp_path / "whole.tif").read_bytes()
    assert_clean(small_disk)


def test_a_disk_that_is_too_small_is_seen_beforehand(
    segpipe: Command, model: tuple[str, ...], small_disk: Path, tmp_path: Path
) -> None:
    path = write_scene(tmp_path / "scene.tif", noise(1024, 2048))
    line = assert_refused(segpipe, tmp_path, 7, "run", path, *model, "-o", small_disk / "map.tif")
    for word in (str(small_disk), "may need", "are free", "-o"):
        assert word in line


@pytest.mark.parametrize("share", [0.2, 0.9], ids=["chunk", "map"])
def test_a_limit_on_file_sizes_stops_the_run_which_resumes_without_it(
    segpipe: Command, tmp_path: Path, scene: Path, model: tuple[str, ...], share: float
) -> None:
    assert segpipe("run", scene, *model, "-o", "whole.tif").code == 0
    limit = int(share * (tmp_path / "whole.tif").stat().st_size)

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    words = ("run", str(scene), *model, "-o", "map.tif")
    line, resume = assert_resumable(finish(start(*words, cwd=tmp_path, preexec_fn=limited)), 7)
    assert "can't write" in line
    assert not (tmp_path / "map.tif").exists()
    assert segpipe(*resume).code == 0
    assert (tmp_path / "map.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()
    assert_clean(tmp_path)


# Models


def no_package(folder: Path) -> None:
    shutil.rmtree(folder)


def nothing_inside(folder: Path) -> None:
    (folder / "model.json").unlink()


def no_json(folder: Path) -> None:
    (folder / "model.json").write_text("{ nonsense")


def other_json(folder: Path) -> None:
    (folder / "model.json").write_text('{"type": "Feature"}')


def no_weights(folder: Path) -> None:
    (folder / "weights.safetensors").unlink()


def weights_cut(folder: Path) -> None:
    os.truncate(folder / "weights.safetensors", 1000)


def wrong_shape(folder: Path) -> None:
    wide = package(folder.with_name("wide"), seed=1, width=8)
    shutil.copy(wide / "weights.safetensors", folder)


def other_weights(folder: Path) -> None:
    other = package(folder.with_name("other"), seed=2)
    shutil.copy(other / "weights.safetensors", folder)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (no_package, ("there is no model", "segpipe models")),
        (nothing_inside, ("there is no model", "model.json")),
        (no_json, ("model.json",)),
        (other_json, ("model.json",)),
        (no_weights, ("weights.safetensors",)),
        (weights_cut, ("weights.safetensors", "can't be read")),
        (wrong_shape, ("weights.safetensors", "this network has")),
        (other_weights, ("weights.safetensors", "get the package again")),
    ],
)
def test_a_model_that_is_not_whole_is_refused(
    segpipe: Command,
    tmp_path: Path,
    scene: Path,
    tiny_model: Path,
    damage: Callable[[Path], None],
    words: tuple[str, ...],
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_model, broken)
    damage(broken)
    line = assert_refused(segpipe, tmp_path, 4, "run", scene, "-m", broken, *EXACT)
    for word in words:
        assert word in line


class Trap:
    """Runs a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {shlex.quote(str(self.marker))}",)


@pytest.mark.parametrize("place", ["model.pth", "package/weights.safetensors"])
@pytest.mark.parametrize("archive", [True, False], ids=["torch.save", "pickle"])
def test_a_pickle_is_never_opened(
    segpipe: Command, tmp_path: Path, scene: Path, tiny_model: Path, place: str, archive: bool
) -> None:
    marker = tmp_path / "marker"
    shutil.copytree(tiny_model, tmp_path / "package")
    trap = tmp_path / place
    if archive:
        torch.save(Trap(marker), trap)
    else:
        trap.write_bytes(pickle.dumps(Trap(marker)))
    named = trap if trap.suffix == ".pth" else trap.parent
    line = assert_refused(segpipe, tmp_path, 4, "run", scene, "-m", named, *EXACT)
    assert "safetensors" in line
    if trap.suffix != ".pth":
        assert "pickle" in line
    assert not marker.exists()


# Options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--tile", "300"), ("multiple of 256", "got 300", "512")),
        (("--tile", "0"), ("multiple of 256", "got 0")),
        (("--tile", "big"), ("--tile", "big", "auto")),
        (("--memory", "nonsense"), ("size such as 8GB", "nonsense")),
        (("--memory", "-5GB"), ("size such as 8GB", "-5GB")),
        (("-o", "map.png"), (".tif", ".zarr", "map.png")),
        (("--scheduler", "tcp://h:1", "--scheduler-file", "f"), ("--scheduler", "leave one out")),
        (("--workers", "0"), ("--workers",)),
        (("--device", "abacus"), ("'abacus'", "cpu")),
        (("--precision", "fp8"), ("--precision", "fp8", "bf16")),
        (("--zarr-format", "4"), ("--zarr-format", "4")),
        (("--bands", "1,,2"), ("--bands", "1,,2", "red,green,blue")),
        (("--nonsense",), ("--nonsense", "segpipe run --help")),
    ],
)
def test_options_that_make_no_sense_are_refused(
    segpipe: Command,
    tmp_path: Path,
    scene: Path,
    tiny_model: Path,
    options: tuple[str, ...],
    words: tuple[str, ...],
) -> None:
    line = assert_refused(segpipe, tmp_path, 2, "run", scene, "-m", tiny_model, *options)
    for word in words:
        assert word in line


def test_one_output_cannot_hold_several_scenes(segpipe: Command, tmp_path: Path) -> None:
    line = assert_refused(segpipe, tmp_path, 2, "run", "a.tif", "b.tif", "-o", "map.tif")
    assert "-o names one output" in line


def test_an_unknown_command_is_refused(segpipe: Command, tmp_path: Path) -> None:
    assert "'mpa'" in assert_refused(segpipe, tmp_path, 2, "mpa")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused(
    segpipe: Command, tmp_path: Path, scene: Path, tiny_model: Path
) -> None:
    line = assert_refused(segpipe, tmp_path, 2, "run", scene, "-m", tiny_model, "--device", "cuda")
    for word in ("'cuda'", "isn't there", "--device cpu"):
        assert word in line


def test_too_little_memory_is_seen_beforehand(
    segpipe: Command, tmp_path: Path, scene: Path, model: tuple[str, ...]
) -> None:
    line = assert_refused(segpipe, tmp_path, 3, "run", scene, *model, "--memory", "10MB")
    for word in ("10.0 MB", "needs", "--memory"):
        assert word in line


@pytest.mark.parametrize(
    "options",
    [
        ("--scheduler", "tcp://127.0.0.1:9"),
        ("--scheduler", "nonsense"),
        ("--scheduler-file", "missing.json"),
    ],
)
@pytest.mark.timeout(60)
def test_a_scheduler_that_does_not_answer_is_named(
    segpipe: Command,
    tmp_path: Path,
    scene: Path,
    model: tuple[str, ...],
    options: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(settings, "CONNECT", 1)
    line = assert_refused(segpipe, tmp_path, 8, "run", scene, *model, *options)
    for word in (options[1], "dask scheduler", "this machine"):
        assert word in line


# Runs that were stopped


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"]
)
def test_an_interrupted_run_resumes_with_the_command_that_it_prints(
    segpipe: Command, tmp_path: Path, model: tuple[str, ...], number: signal.Signals, code: int
) -> None:
    path = write_scene(tmp_path / "scene.tif", noise(1024, 2048))
    options = (*model, "--tile", "256", "--json")
    assert segpipe("run", path, *options, "-o", "whole.tif").code == 0
    process = start("run", path, *options, "-o", "map.tif", cwd=tmp_path)
    while process.poll() is None and not list(tmp_path.glob(".*/receipts/*/*.json")):
        time.sleep(0.01)
    process.send_signal(number)
    outcome = finish(process)
    assert outcome.seconds < 5
    line, resume = assert_resumable(outcome, code)
    assert "interrupted" in line
    assert not (tmp_path / "map.tif").exists()
    outcome = segpipe(*resume)
    assert (outcome.code, outcome.err) == (0, "")
    report = json.loads(outcome.out)
    assert 0 < report["tiles_resumed"] < report["tiles"] == 32
    assert (tmp_path / "map.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()
    assert_clean(tmp_path)


@pytest.mark.slow
def test_a_run_on_a_scheduler_that_is_terminated_resumes_there(
    segpipe: Command, tmp_path: Path, model: tuple[str, ...]
) -> None:
    path, file = write_scene(tmp_path / "scene.tif", noise(1024, 2048)), tmp_path / "scheduler.json"
    options = (*model, "--tile", "256", "--json", "--scheduler-file", str(file))
    scheduler = processes.scheduler(file)
    with Crew(file, 2).at_work():
        assert segpipe("run", path, *options, "-o", "whole.tif").code == 0
        process = start("run", path, *options, "-o", "map.tif", cwd=tmp_path)
        while process.poll() is None and not list(tmp_path.glob(".*/receipts/*/*.json")):
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        outcome = finish(process)
        assert outcome.seconds < 5
        line, resume = assert_resumable(outcome, 143)
        assert "interrupted" in line
        assert not (tmp_path / "map.tif").exists()
        outcome = segpipe(*resume)
    scheduler.kill()
    assert (outcome.code, outcome.err) == (0, "")
    assert json.loads(outcome.out)["tiles_resumed"] > 0
    assert (tmp_path / "map.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()
    assert_clean(tmp_path)


def test_another_model_does_not_go_on_with_an_unfinished_run(
    segpipe: Command, tmp_path: Path, scene: Path, model: tuple[str, ...]
) -> None:
    def stop(action: str, path: Path) -> None:
        if path.name == "scratch":
            raise OSError(28, "No space left on device")

    output = ("-o", "map.tif")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "step", stop)
        assert segpipe("run", scene, *model, *output).code == 7
    before = contents(tmp_path)
    other = package(tmp_path / "models" / "other", seed=2)
    shutil.move(other, tmp_path.parent / f"{tmp_path.name}-other")
    (tmp_path / "models").rmdir()
    other = tmp_path.parent / f"{tmp_path.name}-other"
    line = assert_one_line(segpipe("run", scene, "-m", other, *EXACT, *output), 5)
    for word in ("unfinished run", "model.name was tiny, is other", "model.sha256", "--new-run"):
        assert word in line
    assert contents(tmp_path) == before
    outcome = segpipe("run", scene, "-m", other, *EXACT, *output, "--new-run", "--json")
    assert outcome.code == 0
    report = json.loads(outcome.out)
    assert (report["model"], report["tiles_resumed"]) == ("other", 0)
    assert_clean(tmp_path)


# What is printed when all is well


def test_json_is_one_object_and_nothing_else(
    tmp_path: Path, scene: Path, model: tuple[str, ...]
) -> None:
    outcome = finish(start("run", scene, *model, "-o", "map.tif", "--json", cwd=tmp_path))
    assert (outcome.code, outcome.err) == (0, "")
    report = json.loads(outcome.out)
    assert report["output"] == str(tmp_path / "map.tif")
    assert report["pixels"] == report["valid_pixels"] == 300 * 280
    assert sum(count["pixels"] for count in report["classes"].values()) == 300 * 280
    assert_clean(tmp_path)


@pytest.mark.parametrize("command", ["plan", "inspect", "models"])
def test_every_command_has_json_and_a_text(
    segpipe: Command, scene: Path, tiny_model: Path, command: str
) -> None:
    words: dict[str, tuple[str | Path, ...]] = {
        "plan": ("plan", scene, "-m", tiny_model),
        "inspect": ("inspect", tiny_model),
        "models": ("models",),
    }
    outcome = segpipe(*words[command], "--json")
    assert (outcome.code, outcome.err) == (0, "")
    assert isinstance(json.loads(outcome.out), dict)
    outcome = segpipe(*words[command])
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out


def test_results_that_cannot_be_printed_are_one_line_too() -> None:
    with Path("/dev/full").open("w") as full:
        process = subprocess.run(
            [*COMMAND, "models"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert process.returncode == 7
    (line,) = process.stderr.splitlines()
    assert line.startswith("segpipe: ")
    assert "No space left" in line
