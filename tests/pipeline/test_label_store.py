"""A store gives back what was written, and every byte of it counts."""

import os
import pickle
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segpipe.pipeline import storage
from segpipe.pipeline.errors import StorageError
from segpipe.pipeline.maps.label_store import LabelStore, ZarrFormat, create, shard_side
from segpipe.pipeline.plan import CHUNK
from segpipe.pipeline.window import Window
from tests.pipeline.maps import (
    ATTRIBUTES,
    LAYER,
    LEGEND,
    Labels,
    grid,
    random_labels,
    stored,
    tiles,
)

FORMATS: tuple[ZarrFormat, ...] = (2, 3)
formats = pytest.mark.parametrize("zarr_format", FORMATS)
some = settings(max_examples=12, deadline=None)


def files(folder: Path) -> dict[str, bytes]:
    """Every file under a folder, by its place."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def empty(path: Path, height: int, width: int, side: int, zarr_format: ZarrFormat) -> LabelStore:
    where = grid(height, width)
    return create(path, where, LAYER, side=side, attributes=ATTRIBUTES, zarr_format=zarr_format)


@some
@given(st.data(), st.sampled_from(FORMATS), st.sampled_from((256, 512, 768)))
def test_windows_give_back_what_tiles_were_given(
    data: st.DataObject, zarr_format: ZarrFormat, side: int
) -> None:
    height, width = data.draw(st.integers(1, 900)), data.draw(st.integers(1, 900))
    labels = random_labels((height, width), data.draw(st.integers(0, 9)))
    expected = np.full_like(labels, LEGEND.nodata)
    with TemporaryDirectory() as folder:
        store = empty(Path(folder) / "map.zarr", height, width, side, zarr_format)
        owned: set[Path] = set()
        for tile in data.draw(st.permutations(list(tiles((height, width), side)))):
            if data.draw(st.booleans()):
                store.write(tile, labels[tile.slices])
                expected[tile.slices] = labels[tile.slices]
            own = set(store.chunk_files(tile))
            assert own.isdisjoint(owned)
            owned |= own
        top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
        window = Window(top, left, height - top, width - left)
        assert np.array_equal(store.read(window), expected[window.slices])
        written = {path for path in owned if path.exists()}
        assert written == {
            path
            for path in store.path.rglob("*")
            if path.is_file()
            and path.name.isdigit()
            and path.relative_to(store.path).parts[0] == "classes"
        }


@some
@given(st.data(), st.sampled_from(FORMATS))
def test_a_flipped_byte_changes_the_digest(data: st.DataObject, zarr_format: ZarrFormat) -> None:
    window = Window(0, 0, 300, 500)
    with TemporaryDirectory() as folder:
        store = stored(
            Path(folder) / "map.zarr",
            grid(300, 500),
            random_labels((300, 500)),
            zarr_format=zarr_format,
        )
        total, sha256 = store.digest(window)
        chunks = store.chunk_files(window)
        assert total == sum(path.stat().st_size for path in chunks)
        file = data.draw(st.sampled_from(chunks))
        whole = file.read_bytes()
        torn = bytearray(whole)
        place = data.draw(st.integers(0, len(torn) - 1))
        torn[place] ^= data.draw(st.integers(1, 255))
        file.write_bytes(torn)
        assert store.digest(window)[1] != sha256
        file.write_bytes(whole[:-1])
        assert store.digest(window) != (total, sha256)
        file.unlink()
        assert store.digest(window) != (total, sha256)
        file.write_bytes(whole)
        assert store.digest(window) == (total, sha256)


@formats
def test_labels_in_another_place_have_another_digest(
    tmp_path: Path, zarr_format: ZarrFormat
) -> None:
    store = empty(tmp_path / "map.zarr", 256, 512, 256, zarr_format)
    whole = Window(0, 0, 256, 512)
    digests = set()
    for first in (True, False):
        for left in (0, 256):
            fill = LEGEND.nodata if first == (left == 0) else 5
            window = Window(0, left, 256, 256)
            store.write(window, np.full(window.shape, fill, dtype=np.uint8))
        digests.add(store.digest(whole))
    assert len(digests) == 2


@formats
def test_labels_are_on_the_disk_when_write_returns(
    tmp_path: Path, zarr_format: ZarrFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = empty(tmp_path / "map.zarr", 512, 512, 512, zarr_format)
    window = Window(0, 0, 512, 512)
    steps: list[tuple[str, Path]] = []
    monkeypatch.setattr(storage, "step", lambda action, path: steps.append((action, path)))
    for labels in (random_labels(window.shape), np.full(window.shape, 255, dtype=np.uint8)):
        steps.clear()
        store.write(window, labels)
        changed = [
            (at, path) for at, (what, path) in enumerate(steps) if what not in ("sync", "make")
        ]
        assert changed
        for at, path in changed:
            assert ("sync", path.parent) in steps[at:]


@formats
def test_nodata_takes_no_file_and_replaces_one(tmp_path: Path, zarr_format: ZarrFormat) -> None:
    store = empty(tmp_path / "map.zarr", 512, 512, 512, zarr_format)
    window = Window(0, 0, 512, 512)
    nothing = store.digest(window)
    assert nothing[0] == 0
    store.write(window, random_labels(window.shape))
    assert store.digest(window) != nothing
    store.write(window, np.full(window.shape, LEGEND.nodata, dtype=np.uint8))
    assert store.digest(window) == nothing
    assert not any(path.exists() for path in store.chunk_files(window))


@formats
def test_writers_of_different_tiles_dont_disturb_each_other(
    tmp_path: Path, zarr_format: ZarrFormat
) -> None:
    shape, side = (700, 800), 256
    labels = random_labels(shape)
    alone = stored(
        tmp_path / "alone.zarr", grid(*shape), labels, side=side, zarr_format=zarr_format
    )
    for name, pool in (
        ("threads", ThreadPoolExecutor(8)),
        ("processes", ProcessPoolExecutor(2, get_context("spawn"))),
    ):
        store = empty(tmp_path / f"{name}.zarr", *shape, side, zarr_format)
        with pool:
            futures = [
                pool.submit(store.write, tile, labels[tile.slices]) for tile in tiles(shape, side)
            ]
            for future in futures:
                future.result()
        assert files(store.path) == files(alone.path)


@formats
def test_every_byte_goes_through_the_storage_module(
    tmp_path: Path, zarr_format: ZarrFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: dict[Path, bytes] = {}
    put = storage._put

    def noted(path: Path, data: bytes) -> None:
        written[path] = data
        put(path, data)

    monkeypatch.setattr(storage, "_put", noted)
    store = stored(
        tmp_path / "map.zarr", grid(600, 300), random_labels((600, 300)), zarr_format=zarr_format
    )
    assert files(store.path) == {
        path.relative_to(store.path).as_posix(): data for path, data in written.items()
    }


class Killed(BaseException):
    """Stands for SIGKILL: no handler of errors sees it."""


@formats
def test_a_killed_creation_is_taken_up_again(
    tmp_path: Path, zarr_format: ZarrFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = files(empty(tmp_path / "whole.zarr", 300, 300, 256, zarr_format).path)
    for last in range(200):
        steps = iter(range(last))

        def step(action: str, path: Path, steps: Iterator[int] = steps) -> None:
            if next(steps, None) is None:
                raise Killed

        path = tmp_path / f"{last}.zarr"
        with monkeypatch.context() as patch:
            patch.setattr(storage, "step", step)
            patch.setattr(os, "fsync", int)  # nobody pulls the plug here, and it takes long
            try:
                empty(path, 300, 300, 256, zarr_format)
                break
            except Killed:
                pass
        if LabelStore(path).complete:
            assert whole.keys() <= files(path).keys()
        storage.sweep(tmp_path)
        assert files(empty(path, 300, 300, 256, zarr_format).path) == whole
    else:
        pytest.fail("a store takes more steps than expected")
    assert last > 10


def test_creating_again_keeps_the_labels(tmp_path: Path) -> None:
    labels = random_labels((300, 300))
    before = files(stored(tmp_path / "map.zarr", grid(300, 300), labels).path)
    empty(tmp_path / "map.zarr", 300, 300, 512, 2)
    assert files(tmp_path / "map.zarr") == before


@formats
def test_a_store_travels_as_its_name(tmp_path: Path, zarr_format: ZarrFormat) -> None:
    labels = random_labels((300, 300))
    store = stored(tmp_path / "map.zarr", grid(300, 300), labels, zarr_format=zarr_format)
    parcel = pickle.dumps(store)
    assert len(parcel) < 400
    twin = pickle.loads(parcel)
    assert twin == store
    assert np.array_equal(twin.read(Window(0, 0, 300, 300)), labels)


@pytest.mark.parametrize(
    "window",
    [
        Window(0, 0, 100, 256),
        Window(128, 0, 256, 256),
        Window(0, 0, 256, 512),
        Window(0, -256, 256, 512),
        Window(512, 0, 256, 256),
    ],
)
def test_a_window_that_shares_a_file_is_refused(tmp_path: Path, window: Window) -> None:
    store = empty(tmp_path / "map.zarr", 400, 500, 256, 2)
    with pytest.raises(ValueError, match="whole number of files"):
        store.chunk_files(window)
    with pytest.raises(ValueError, match="whole number of files"):
        store.write(window, np.zeros(window.shape, dtype=np.uint8))


@pytest.mark.parametrize("labels", [np.zeros((256, 255), np.uint8), np.zeros((256, 256), np.int64)])
def test_labels_of_another_shape_or_kind_are_refused(tmp_path: Path, labels: Labels) -> None:
    store = empty(tmp_path / "map.zarr", 256, 256, 256, 2)
    with pytest.raises(ValueError, match="takes"):
        store.write(Window(0, 0, 256, 256), labels)


@formats
def test_a_late_writer_leaves_nothing_where_the_store_was(
    tmp_path: Path, zarr_format: ZarrFormat
) -> None:
    store = empty(tmp_path / "map.zarr", 256, 256, 256, zarr_format)
    window = Window(0, 0, 256, 256)
    assert store.read(window).min() == LEGEND.nodata
    store.path.rename(tmp_path / "published.zarr")
    with pytest.raises(StorageError, match="write into"):
        store.write(window, random_labels(window.shape))
    assert not store.path.exists()


@given(st.integers(1, 64))
def test_a_tile_is_a_whole_number_of_shards(chunks: int) -> None:
    side = shard_side(chunks * CHUNK)
    assert side % CHUNK == 0
    assert chunks * CHUNK % side == 0
    assert side <= 2048
