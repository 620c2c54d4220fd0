"""What is installed by the lock files is what constraints.txt names, whole and hashed."""

import json
import re
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from importlib.metadata import PackageNotFoundError, requires
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.test_house import PYTHONS, ROOT, pins, requirements

BASE, CUDA, CPU = "requirements.lock", "requirements-cuda.lock", "requirements-cpu.lock"
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def locked(name: str) -> dict[Requirement, list[str]]:
    """Each requirement of a lock file with its hashes."""
    lines = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    entries = (line.partition(" --hash=") for line in lines if line and line[0] != "#")
    return {Requirement(pin): (mark + rest).split() for pin, mark, rest in entries}


def versions(name: str, python: str) -> dict[str, str]:
    """Name to version of what a lock file installs on Linux with this Python."""
    machine = {
        "python_version": python,
        "python_full_version": f"{python}.1",
        "sys_platform": "linux",
        "platform_machine": "x86_64",
    }
    found: dict[str, str] = {}
    for requirement in locked(name):
        if requirement.marker is None or requirement.marker.evaluate(machine):
            (pin,) = requirement.specifier
            assert pin.operator == "==", requirement
            assert canonicalize_name(requirement.name) not in found, requirement
            found[canonicalize_name(requirement.name)] = pin.version
    return found


@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_has_the_versions_of_the_constraints(python: str) -> None:
    base, constraints = versions(BASE, python), pins(python)
    assert base == {name: constraints[name] for name in base}
    for name in (CUDA, CPU):
        torch = versions(name, python)["torch"]
        assert torch.partition("+")[0] == constraints["torch"], name
    direct = {canonicalize_name(requirement.name) for requirement in requirements()}
    assert direct - base.keys() == {"torch"}


def test_nothing_is_locked_without_hashes() -> None:
    for name in (BASE, CUDA, CPU):
        for requirement, hashes in locked(name).items():
            assert hashes, requirement
            assert all(HASH.fullmatch(entry) for entry in hashes), requirement


def test_the_base_forces_no_build_of_torch() -> None:
    names = {requirement.name for requirement in locked(BASE)}
    assert not [name for name in names if re.match("torch|triton|cuda|nvidia", name)]
    assert {requirement.name for requirement in locked(CPU)} == {"torch"}
    assert any(requirement.name.startswith("nvidia") for requirement in locked(CUDA))


def test_whatever_a_locked_package_needs_is_locked() -> None:
    # pip refuses the rest, but a machine with other wheels at hand would not notice.
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    base = versions(BASE, python)
    torch = versions(CPU, python)
    missing = []
    for name in (*base, *torch):
        try:
            needs = [Requirement(line) for line in requires(name) or ()]
        except PackageNotFoundError:
            continue  # a marker of another platform
        missing += [
            f"{name} needs {need.name}"
            for need in needs
            if (need.marker is None or need.marker.evaluate({"extra": ""}))
            and canonicalize_name(need.name) not in base
            # The build with CUDA may be the one that is installed.
            and not (name == "torch" and re.match("triton|cuda|nvidia", need.name))
        ]
    assert not missing


def audit() -> ModuleType:
    """The script that CI runs, as a module."""
    loader = SourceFileLoader("audit", str(ROOT / ".ci" / "audit"))
    spec = spec_from_loader("audit", loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("said", "code", "told"),
    [
        ({"name": "a", "version": "1", "vulns": []}, 0, "1 of 1 packages were looked up"),
        ({"name": "a", "skip_reason": "Dependency not found"}, 0, "NOT AUDITED.*: all of them$"),
        (None, 0, "NOT AUDITED: pip-audit gave no result"),
        (
            {
                "name": "a",
                "version": "1",
                "vulns": [
                    {
                        "id": "PYSEC-2026-1",
                        "aliases": ["CVE-2026-1"],
                        "fix_versions": ["2"],
                        "description": "runs\ncode",
                    }
                ],
            },
            1,
            r"VULNERABLE: a 1: CVE-2026-1, PYSEC-2026-1, fixed in 2: runs code",
        ),
    ],
)
def test_ci_fails_at_a_vulnerability_alone(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    said: dict[str, object] | None,
    code: int,
    told: str,
) -> None:
    text = "" if said is None else json.dumps({"dependencies": [said], "fixes": []})

    def answer(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        assert all(str(ROOT / name) in command for name in (BASE, CUDA))
        return subprocess.CompletedProcess(command, 0, text, "no route to the service")

    monkeypatch.setattr(subprocess, "run", answer)
    assert audit().main() == code
    assert re.search(told, capsys.readouterr().out, re.MULTILINE)


def test_an_ignored_vulnerability_passes(tmp_path: Path) -> None:
    module = audit()
    hole = {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": [], "description": ""}
    packages = [{"name": "a", "version": "1", "vulns": [hole]}]
    known = module.ignored("# why\n\nCVE-1  # nobody calls it; until 2027-01-01\n")
    assert known == {"CVE-1"}
    assert not list(module.vulnerabilities(packages, known))
    assert list(module.vulnerabilities(packages, {"CVE-2"}))
