"""The house: what is promised in the README, what is packaged, and on what it stands."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
FOLDERS = ("pipeline", "models", "workflows")
CONDA_NAMES = {"torch": "pytorch", "dask": "dask-core"}
BINARY = {".tif", ".png", ".safetensors", ".dbf", ".shp", ".shx"}
PYTHONS = ("3.11", "3.12", "3.13")


def tracked(*patterns: str) -> list[Path]:
    """Files that git tracks."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", *patterns], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return [ROOT / name for name in listed.stdout.split("\0") if name]


def project() -> dict[str, Any]:
    """The tables of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def requirements(*extras: str) -> list[Requirement]:
    """What the package depends on, with these extras."""
    table = project()["project"]
    optional = [line for extra in extras for line in table["optional-dependencies"][extra]]
    return [Requirement(line) for line in (*table["dependencies"], *optional)]


def pins(python: str) -> dict[str, str]:
    """Name to version in constraints.txt for this Python."""
    environment = {"python_version": python}
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found: dict[str, str] = {}
    for requirement in (Requirement(line) for line in lines if line and line[0] != "#"):
        if requirement.marker and not requirement.marker.evaluate(environment):
            continue
        (pin,) = requirement.specifier
        assert pin.operator == "==", requirement
        name = canonicalize_name(requirement.name)
        assert name not in found, f"{name} is pinned twice for Python {python}"
        found[name] = pin.version
    return found


def fences(kind: str) -> list[str]:
    """The bodies of the README's fenced blocks of this kind."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{kind}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


class TestReadme:
    def test_the_first_two_blocks_are_one_command_each(self) -> None:
        text = (ROOT / "README.md").read_text(encoding="utf-8")
        opened = re.findall(r"^```(\w*)$", text, re.MULTILINE)
        # Openings and endings take turns.
        assert opened[:4] == ["sh", "", "sh", ""]
        assert fences("sh")[:2] == ["make map\n", "make test\n"]

    def test_the_commands_are_targets_of_the_makefile(self) -> None:
        rules = (ROOT / "Makefile").read_text(encoding="utf-8")
        named = set(re.findall(r"^(\w+):", rules, re.MULTILINE))
        for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / ".ci" / "run"):
            text = path.read_text(encoding="utf-8")
            used = set(re.findall(r"\bmake (?:--no-print-directory )?([a-z]+)(?=[`\s])", text))
            assert used & named
            if path.name != "README.md":
                assert used <= named, path

    def test_a_picture_stands_before_the_commands(self) -> None:
        text = (ROOT / "README.md").read_text(encoding="utf-8")
        pictures = re.findall(r"^!\[.+\]\((.+)\)$", text[: text.index("```")], re.MULTILINE)
        assert pictures
        for name in pictures:
            data = (ROOT / name).read_bytes()
            assert data.startswith(b"\x89PNG")
            assert len(data) < 700_000

    def test_every_file_that_it_names_is_there(self) -> None:
        text = (ROOT / "README.md").read_text(encoding="utf-8")
        names = set(re.findall(r"(?:docs|examples)/[\w./-]*\w", text))
        assert names
        assert not [name for name in sorted(names) if not (ROOT / name).exists()]

    def test_its_python_runs_as_it_is_written(self, tmp_path: Path) -> None:
        (tmp_path / "examples").symlink_to(ROOT / "examples")
        (example,) = fences("python")
        run = subprocess.run(
            [sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr
        assert set(ast.literal_eval(run.stdout)) == {"water", "land"}
        assert (tmp_path / "my-map.tif").is_file()

    def test_its_exit_codes_are_those_of_the_errors(self) -> None:
        from segpipe.models import errors as models
        from segpipe.pipeline import errors as pipeline
        from segpipe.workflows import errors as workflows

        text = (ROOT / "README.md").read_text(encoding="utf-8")
        listed = {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}
        raised = {
            value.exit_code
            for module in (models, pipeline, workflows)
            for value in vars(module).values()
            if isinstance(value, type) and hasattr(value, "exit_code")
        }
        assert raised <= listed


class TestDependencies:
    def test_conda_has_the_bounds_of_pip(self) -> None:
        listed = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
        conda = {
            requirement.name: requirement.specifier
            for requirement in map(
                Requirement, (line for line in listed["dependencies"] if isinstance(line, str))
            )
        }
        assert conda.pop("pip") == SpecifierSet()
        assert conda.pop("python") == SpecifierSet(project()["project"]["requires-python"])
        assert conda == {
            CONDA_NAMES.get(requirement.name, requirement.name): requirement.specifier
            for requirement in requirements()
        }
        assert listed["channels"] == ["conda-forge"]

    @pytest.mark.parametrize("python", PYTHONS)
    def test_the_pins_lie_within_the_bounds(self, python: str) -> None:
        pinned = pins(python)
        extras = project()["project"]["optional-dependencies"].keys() - {"smp"}
        for requirement in requirements(*extras):
            version = pinned[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(version), requirement

    def test_every_python_that_is_named_is_pinned_for(self) -> None:
        named = {
            classifier.rpartition(" ")[2]
            for classifier in project()["project"]["classifiers"]
            if classifier.startswith("Programming Language :: Python :: 3.")
        }
        assert named == set(PYTHONS)

    def test_an_older_torch_will_do(self) -> None:
        (torch,) = (entry for entry in requirements() if entry.name == "torch")
        assert torch.specifier.contains("2.6.0")
        assert {pins(python)["torch"] for python in PYTHONS} == {"2.13.0"}


class TestPackage:
    def test_every_module_says_what_it_is(self) -> None:
        modules = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
        assert modules
        silent = [
            path.name
            for path in modules
            if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        ]
        assert not silent

    def test_every_module_stands_in_the_architecture(self) -> None:
        text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
        names = {
            path.relative_to(ROOT).with_suffix("").as_posix()
            for folder in FOLDERS
            for path in (ROOT / folder).rglob("*.py")
            if path.stem != "__init__" and path.parent.name != "commands"
        }
        names.add("workflows/commands")
        listed = set(
            re.findall(r"^\| `((?:pipeline|models|workflows)/[\w/]+)` \|", text, re.MULTILINE)
        )
        assert names == listed

    def test_every_folder_is_a_package_of_the_wheel(self) -> None:
        found = {
            "segpipe." + ".".join(path.parent.relative_to(ROOT).parts)
            for folder in FOLDERS
            for path in (ROOT / folder).glob("**/*.py")
        }
        assert found == set(project()["tool"]["setuptools"]["packages"])

    def test_folders_are_one_deep(self) -> None:
        assert not [path for folder in FOLDERS for path in (ROOT / folder).glob("*/*/**/*.py")]

    def test_no_file_names_a_machine(self) -> None:
        # Without their slashes, so that this file passes its own test.
        homes = "|".join(("home", "Users", "root", "work", "tmp"))
        place = re.compile(rf"(?<![\w.])/(?:{homes})/\w".encode())
        texts = (path for path in tracked() if path.suffix not in BINARY and path.is_file())
        found = [
            f"{path.relative_to(ROOT)}: {match.group().decode()}"
            for path in texts
            for match in place.finditer(path.read_bytes())
        ]
        assert not found
