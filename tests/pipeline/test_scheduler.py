"""A scheduler that can't unpickle tasks is named before the first one."""

import subprocess
import sys
from pathlib import Path

import pytest

from segpipe.pipeline.errors import ClusterError
from segpipe.pipeline.execution.existing import existing

BARE = """
import sys
from importlib.abc import MetaPathFinder

class Bare(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] == "segpipe":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Bare())
from distributed.cli.dask_scheduler import main
main()
"""


def test_a_scheduler_without_segpipe_is_refused_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "scheduler.json"
    where = ["--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(file)]
    scheduler = [sys.executable, "-c", BARE, *where, "--port", "0"]
    worker = [sys.executable, "-m", "dask", "worker", *where, "--no-nanny"]
    processes = [
        subprocess.Popen(words, stderr=subprocess.DEVNULL) for words in (worker, scheduler)
    ]
    try:
        with (
            pytest.raises(ClusterError, match=r"the scheduler or a worker .* can't load segpipe"),
            existing(7, scheduler_file=str(file)),
        ):
            pytest.fail("the cluster was taken")
    finally:
        for process in processes:
            process.kill()
            process.wait()
