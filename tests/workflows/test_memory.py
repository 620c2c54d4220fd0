"""Memory does not grow with the scene."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from segpipe.models.package import save
from tests import toys

MOST = 1.15


def peak(scene: Path, package: Path, output: Path) -> int:
    """The most bytes that a run of this scene held, as the report says and the kernel confirms."""
    script = (
        "import resource, sys; from segpipe.workflows import cli\n"
        "try: cli.main()\n"
        "finally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
    )
    words = ["run", str(scene), "-m", str(package), "-o", str(output), "--tile", "2048", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", script, *words], capture_output=True, text=True, check=True
    )
    reported: int = json.loads(done.stdout)["peak_rss_bytes"]
    kernel = 1024 * int(done.stderr.split()[-1])
    assert reported <= kernel <= 1.05 * reported
    return kernel


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_scene_sixteen_times_as_large_takes_no_more(examples: Path, tmp_path: Path) -> None:
    package = tmp_path / "toy"
    save(toys.model("unet", depth=1, width=2), package)
    tile = examples / "landsat8-224077-rgb.tif"
    peaks = {
        side: peak(
            toys.repeated(tmp_path / f"{side}.vrt", tile, side), package, tmp_path / f"{side}.tif"
        )
        for side in (5000, 20000)
    }
    print({side: f"{size / 1e6:.0f} MB" for side, size in peaks.items()})
    assert peaks[20000] <= MOST * peaks[5000]
