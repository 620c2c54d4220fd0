"""Maps by OpenVINO: the law, and what the report says."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

from segpipe.models.engine import Precision, default_threads, is_native
from segpipe.models.openvino_session import is_installed
from segpipe.workflows.run import run
from segpipe.workflows.verify import verify
from tests import toys
from tests.workflows.conftest import Command

needs_openvino = pytest.mark.skipif(not is_installed(), reason="OpenVINO isn't installed")


def labels_of(path: Path) -> NDArray[np.uint8]:
    with rasterio.open(path) as file:
        labels: NDArray[np.uint8] = file.read(1)
    return labels


@needs_openvino
def test_tiles_are_invisible_with_openvino(examples: Path, tmp_path: Path) -> None:
    scene = examples / "landsat8-224077-rgb.tif"
    model = toys.small()
    maps = []
    for side in (256, 512):
        output = tmp_path / f"{side}.tif"
        report = run(
            scene, model=model, output=output, tile=side, engine="openvino", precision="fp32"
        )
        engine = report.engine
        assert (engine.name, engine.precision, engine.threads) == (
            *("openvino", "fp32"),
            default_threads(),
        )
        assert engine.version
        assert engine.agreement is not None
        assert engine.agreement > 0.9999
        assert report.footprint.exact
        maps.append(labels_of(output))
    np.testing.assert_array_equal(maps[0], maps[1])
    assert len(np.unique(maps[0])) > 3

    by_torch = run(scene, model=model, output=tmp_path / "t.tif", engine="torch", precision="fp32")
    assert np.mean(labels_of(by_torch.output) == maps[0]) >= 0.9999
    checked = verify(
        scene,
        tmp_path / "512.tif",
        model=model,
        windows=2,
        engine="openvino",
        precision="fp32",
    )
    assert checked.differing == 0


@needs_openvino
@pytest.mark.slow
@pytest.mark.parametrize(
    "precision",
    [
        "fp32",
        pytest.param(
            "bf16",
            marks=pytest.mark.skipif(not is_native("bf16", "cpu"), reason="this CPU has no bf16"),
        ),
    ],
)
def test_neither_workers_nor_tiles_change_a_byte(
    precision: Precision, examples: Path, tmp_path: Path
) -> None:
    scene = examples / "landsat8-224077-rgb.tif"
    maps = []
    for workers, side in ((None, 256), (1, 256), (2, 256), (None, 768)):
        report = run(
            scene,
            model=toys.small(),
            output=tmp_path / f"{workers}-{side}.tif",
            tile=side,
            engine="openvino",
            precision=precision,
            workers=workers,
        )
        assert (report.engine.name, report.engine.precision) == ("openvino", precision)
        maps.append((report.output.read_bytes(), labels_of(report.output)))
    one, *others, whole = maps
    assert [found == one[0] for found, _ in others] == [True, True]
    np.testing.assert_array_equal(one[1], whole[1])


def test_what_openvino_cant_compute_is_refused_in_a_line(
    segpipe: Command, tiny_model: Path, examples: Path
) -> None:
    scene = examples / "landsat8-224077-rgb.tif"
    asked = ("--engine", "openvino", "--precision", "fp16")
    done = segpipe("run", scene, "-m", tiny_model, "-o", "map.tif", *asked)
    assert done.code == 2
    assert "not in fp16; use --engine torch" in done.err
