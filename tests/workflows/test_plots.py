"""Plots are files like any other: whole or not at all, and the same for the same drawing."""

import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import pytest
from PIL import Image

from segpipe.pipeline.errors import StorageError
from segpipe.workflows.errors import OptionError
from segpipe.workflows.results.plots import figure


def draw(path: Path, height: float = 1.0) -> Path:
    with figure(path, 80, 50) as axes:
        axes.plot([0, 1], [0, height], label="a line")
        axes.set_xlabel("factor")
        axes.set_title("a title")
        axes.legend()
    return path


def test_the_same_drawing_gives_the_same_bytes(tmp_path: Path) -> None:
    first, again = draw(tmp_path / "a.png"), draw(tmp_path / "b.png")
    assert first.read_bytes() == again.read_bytes()
    assert draw(tmp_path / "c.png", height=2).read_bytes() != first.read_bytes()


def test_a_picture_has_the_size_that_was_asked_for(tmp_path: Path) -> None:
    with Image.open(draw(tmp_path / "a.png")) as picture:
        assert picture.size == (629, 393)  # 80 mm and 50 mm at 200 dots an inch
        assert "Software" not in picture.info


def test_global_settings_stay_as_they_are(tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    script = (
        "import sys; from segpipe.workflows.results.plots import figure\n"
        "with figure(sys.argv[1]) as axes: axes.plot([1, 2])\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "a.png")], check=True)
    draw(tmp_path / "b.png")
    assert dict(mpl.rcParams) == before


def test_what_fails_leaves_the_older_picture(tmp_path: Path) -> None:
    path = draw(tmp_path / "a.png")
    before = path.read_bytes()
    with pytest.raises(ZeroDivisionError), figure(path) as axes:
        axes.plot([1 / 0])
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_other_suffixes_and_places_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"ends in \.png"):
        draw(tmp_path / "a.jpg")
    with pytest.raises(StorageError, match="No such file"):
        draw(tmp_path / "missing" / "a.png")


def test_without_matplotlib_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(OptionError, match=r"pip install 'segpipe\[plot\]'"):
        draw(tmp_path / "a.png")
