"""The environment in which other tools are installed: over this one, and apart from it."""

import subprocess
import sysconfig
import tempfile
import venv
from pathlib import Path

import torch

from segpipe.workflows.errors import OptionError
from segpipe.workflows.peers.known import Peer


class InstallError(Exception):
    """A tool can't be installed: the installer's own last line."""


class Environment:
    """A virtual environment that sees all that this one has, segpipe and torch among it.

    Every tool so computes with the same build of torch, and nothing of it is downloaded again. What
    is installed there isn't seen from here.

    Args:
        folder: is made where it isn't there or empty; one that is there has to be an environment.

    Raises:
        OptionError: the folder is something else.
        InstallError: the environment can't be made.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "pyvenv.cfg").is_file():
            if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                raise OptionError(f"{folder} is no virtual environment; name another --environment")
            _make(folder)
        self.python = str(folder.absolute() / "bin" / "python")

    def install(self, peer: Peer) -> None:
        """Installs a tool beside this torch; one that is installed already takes a second.

        What a tool asks for is given where it is needed, as many ask for gigabytes that sliding
        windows don't touch.

        Raises:
            InstallError: it can't be installed.
        """
        with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as constraints:
            constraints.write("\n".join(_constraints()))
            constraints.flush()
            for words in (["--no-deps", *peer.packages], list(peer.needs)):
                if words:
                    self._pip(["--constraint", constraints.name, *words])

    def _pip(self, words: list[str]) -> None:
        quiet = ["--quiet", "--disable-pip-version-check", "--no-input"]
        _done([self.python, "-m", "pip", "install", *quiet, *words])


def _make(folder: Path) -> None:
    venv.create(folder, with_pip=False, symlinks=True)
    python = str(folder.absolute() / "bin" / "python")
    _done([python, "-m", "ensurepip", "--default-pip"])
    inside = sysconfig.get_path("purelib", vars={"base": str(folder.absolute())})
    beneath = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    lines = [f"import site; site.addsitedir({path!r})" for path in beneath]
    (Path(inside) / "beneath.pth").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _constraints() -> list[str]:
    """The torch that is here, and the torchvision that belongs to it."""
    version = torch.__version__.partition("+")[0]
    major, minor, patch = version.split(".")[:3]
    lines = [f"torch=={version}"]
    if major == "2":
        lines.append(f"torchvision==0.{int(minor) + 15}.{patch}")
    return lines


def _done(command: list[str]) -> None:
    ended = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if ended.returncode:
        lines = [line for line in ended.stderr.splitlines() if line.strip()]
        raise InstallError(lines[-1].strip() if lines else f"ended with {ended.returncode}")
