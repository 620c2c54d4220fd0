"""Files that others damaged or forged: seeded mutations, and what reading each of them ends with.

As a program it takes sound files in a folder and reads mutated copies of one, a line of JSON each:
`python -m tests.mutations SAMPLES KIND FIRST COUNT`.
"""

import json
import random
import resource
import shutil
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import numpy as np
import zarr

from segpipe.models.architectures.registry import build
from segpipe.models.errors import ModelError
from segpipe.models.package import ClassInfo, ModelCard, SegmentationModel, load, save
from segpipe.pipeline.errors import CorruptInputError, InputRefusedError
from segpipe.pipeline.scenes.scene import open_scene
from segpipe.pipeline.window import Window
from tests import toys

MEMORY = 12 << 30
"""Bytes of address space that reading may take: torch's own, and what a forged chunk may claim."""

SECONDS = 30
"""How long reading one file may take before it counts as hanging."""

ALLOWED = {"read", "InputRefusedError", "CorruptInputError", "DamagedError", "ModelError"}
"""What may become of a mutated file: exit codes 0, 3, 6 and 4."""

LARGEST = 4096
"""Rows and columns of a scene that are read, whatever its header claims."""


def make_samples(folder: Path) -> dict[str, Path]:
    """Sound files of each kind: GeoTIFFs of several layouts, Zarr stores, a model package."""
    pixels = toys.landscape(150, 170)
    kinds = {
        "tiled": toys.write_scene(
            folder / "tiled.tif", pixels, tiled=True, blockxsize=64, blockysize=64, compress="zstd"
        ),
        "striped": toys.write_scene(folder / "striped.tif", pixels, compress="deflate"),
        "plain": toys.write_scene(folder / "plain.tif", pixels, bigtiff="yes"),
        "zarr2": folder / "zarr2.zarr",
        "zarr3": folder / "zarr3.zarr",
        "package": folder / "package",
    }
    _write_zarr(kinds["zarr2"], pixels, 2)
    _write_zarr(kinds["zarr3"], pixels, 3)
    card = ModelCard("toy", ("red",), (ClassInfo(1, "water", "#4060c8"),), (1.0,), (1.0,))
    save(SegmentationModel(build("unet", 1, 1, depth=2, width=2), card), kinds["package"])
    return kinds


def mutate(path: Path, seed: int) -> None:
    """Damages a file, or one of the files in a folder, in one to four places."""
    chance = random.Random(seed)
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    for _ in range(chance.randint(1, 4)):
        file = chance.choice(files)
        data = bytearray(file.read_bytes())
        chance.choice(_MUTATIONS)(data, chance)
        file.write_bytes(data)


def outcome(path: Path) -> str:
    """What became of reading all that can be read: "read", or the name of the error."""
    try:
        if (path / "model.json").exists():
            load(path)
        else:
            _read(path)
    except (InputRefusedError, CorruptInputError, ModelError) as error:
        return type(error).__name__ if "\n" not in str(error) else f"several lines: {error}"
    return "read"


def _read(path: Path) -> None:
    scene = open_scene(path)
    height, width = (min(side, LARGEST) for side in scene.grid.shape)
    scene.identity()
    for top in range(0, height, 512):
        for left in range(0, width, 512):
            scene.read(Window(top, left, min(512, height - top), min(512, width - left)))


def _flip(data: bytearray, chance: random.Random) -> None:
    if data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _flip_near_the_head(data: bytearray, chance: random.Random) -> None:
    if data:
        data[chance.randrange(min(len(data), 400))] = chance.choice((0, 1, 127, 128, 255))


def _cut(data: bytearray, chance: random.Random) -> None:
    del data[chance.randrange(len(data) + 1) :]


def _fill(data: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(data) + 1)
    end = min(len(data), start + chance.choice((4, 8, 100, 4000)))
    data[start:end] = chance.choice((b"\0", b"\xff")) * (end - start)


def _repeat(data: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(data) + 1)
    place = chance.randrange(len(data) + 1)
    data[place:place] = data[start : start + chance.choice((1, 16, 300))]


def _change_a_number(data: bytearray, chance: random.Random) -> None:
    """Another number where text has one; in binary files, another word of four bytes."""
    digits = [place for place, byte in enumerate(data[:20_000]) if 48 <= byte <= 57]
    if digits and chance.random() < 0.7:
        place = chance.choice(digits)
        numbers = (b"0", b"-1", b"99999999999", b"1e999", b"null", b'"x"', b"[]", b"{}")
        data[place : place + 1] = chance.choice(numbers)
    elif len(data) > 4:
        place = chance.randrange(len(data) - 4)
        data[place : place + 4] = chance.choice((b"\xff\xff\xff\x7f", b"\xff" * 4, b"\0\0\1\0"))


_MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    _flip,
    _flip_near_the_head,
    _cut,
    _fill,
    _repeat,
    _change_a_number,
)


def _write_zarr(
    path: Path, pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint16]], form: int
) -> None:
    root = zarr.create_group(path, zarr_format=2 if form == 2 else 3)
    names = ("band", "y", "x")
    array = root.create_array(
        "scene",
        shape=pixels.shape,
        dtype=pixels.dtype,
        chunks=(1, 64, 64),
        attributes={"_ARRAY_DIMENSIONS": list(names)} if form == 2 else {},
        dimension_names=None if form == 2 else names,
    )
    array[:] = pixels


def _hanging(number: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"not read after {SECONDS} seconds")


def main(samples: Path, kind: str, first: int, count: int) -> None:
    """Prints the seed and the outcome of each mutated copy; the seed first, for when it kills."""
    warnings.simplefilter("ignore")
    sound = next(path for path in samples.iterdir() if path.stem == kind)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGALRM, _hanging)
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(first, first + count):
            print(json.dumps({"seed": seed}), flush=True)
            path = Path(folder) / f"{seed}{sound.suffix}"
            shutil.copytree(sound, path) if sound.is_dir() else shutil.copy(sound, path)
            mutate(path, seed)
            signal.alarm(SECONDS)
            try:
                found = outcome(path)
            except Exception as error:  # noqa: BLE001  # whatever it is, the test wants its name
                found = f"{type(error).__name__}: {error}"
            signal.alarm(0)
            print(json.dumps({"seed": seed, "outcome": found}), flush=True)
            shutil.rmtree(path) if path.is_dir() else path.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
