"""What users copy to their clusters, run as far as one machine can.

The commands of batch systems and of ssh are stand-ins that run what they are given here.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from dask import config

from segpipe.models.package import save
from segpipe.pipeline.execution.existing import address_in
from segpipe.workflows.workers import unnamed_scheduler
from tests import toys
from tests.conftest import ROOT
from tests.workflows.conftest import COMMAND

RECIPES = ROOT / "examples" / "cluster"

SRUN = """#!/bin/bash
# Two nodes.
"$@" --host 127.0.0.1 & "$@" --host 127.0.0.1 & wait
"""
SCONTROL = """#!/bin/bash
[ "$1" = requeue ] && echo "$2" >> "$QUEUE"
"""
SBATCH = """#!/bin/bash
# Jobs run in the background, from a copy: dask-jobqueue removes the script at once.
cp "$1" "$QUEUE.script.$$"
cp "$1" "$QUEUE.script"
bash "$QUEUE.script.$$" > "$QUEUE.log" 2>&1 &
echo $! >> "$QUEUE"
echo "Submitted batch job $!"
"""
SCANCEL = """#!/bin/bash
pkill -P "$1" 2>/dev/null; kill "$1" 2>/dev/null; true
"""
SSH = """#!/bin/bash
# No other machine: the command runs here.
shift
exec bash -c "$* --host 127.0.0.1"
"""


def command(folder: Path, name: str, text: str) -> None:
    """A command of that name."""
    (folder / name).write_text(text, encoding="utf-8")
    (folder / name).chmod(0o755)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all machines see: a scene, a model, and the map that this machine makes."""
    folder = tmp_path_factory.mktemp("shared")
    toys.write_scene(folder / "scene.tif", toys.landscape(512, 768), tiled=True)
    save(toys.small(), folder / "model")
    words = ["run", folder / "scene.tif", "-o", folder / "alone.tif", *options(folder)]
    subprocess.run([*COMMAND, *map(str, words)], check=True, capture_output=True, cwd=folder)
    return folder


def options(shared: Path) -> list[str]:
    """What makes a run small, and the same everywhere."""
    return ["-m", str(shared / "model"), "--tile", "256", "--precision", "fp32"]


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    """The environment of a login node: the stand-ins, and `segpipe` and `dask` of this Python."""
    folder = tmp_path / "bin"
    folder.mkdir()
    stand_ins = {"srun": SRUN, "scontrol": SCONTROL, "sbatch": SBATCH, "scancel": SCANCEL}
    for name, text in {**stand_ins, "ssh": SSH}.items():
        command(folder, name, text)
    for name, module in (("segpipe", "segpipe.workflows.cli"), ("dask", "dask")):
        command(folder, name, f'#!/bin/bash\nexec "{sys.executable}" -m {module} "$@"\n')
    return os.environ | {
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "QUEUE": str(tmp_path / "queue"),
        "SLURM_JOB_ID": "17",
    }


def same(shared: Path, name: str) -> bool:
    """Whether a map has the bytes of the one that this machine made alone."""
    return (shared / name).read_bytes() == (shared / "alone.tif").read_bytes()


@pytest.mark.slow
def test_a_batch_job_maps_a_scene_and_goes_back_to_the_queue_in_time(
    shared: Path, machine: dict[str, str], tmp_path: Path
) -> None:
    words = ["bash", RECIPES / "segpipe.sbatch", "scene.tif", "-o", "batch.tif", *options(shared)]
    queue = Path(machine["QUEUE"])

    def job(**more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(word) for word in words],
            env=machine | more,
            cwd=shared,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )

    cut = job(STOP_AFTER="0.001s")
    assert cut.returncode == 75, cut.stderr
    assert queue.read_text() == "17\n"
    assert not (shared / "batch.tif").exists()
    done = job()
    assert done.returncode == 0, done.stderr
    assert queue.read_text() == "17\n"
    assert same(shared, "batch.tif")
    assert not list(shared.glob("scheduler-*"))


@pytest.mark.slow
def test_workers_come_from_slurm_through_jobqueue(
    shared: Path, machine: dict[str, str], tmp_path: Path
) -> None:
    pytest.importorskip("dask_jobqueue")
    recipe = (RECIPES / "slurm.py").read_text(encoding="utf-8")
    small = 'model="model", tile=256, precision="fp32"'
    (tmp_path / "slurm.py").write_text(
        recipe.replace("output=output,", f"output=output, {small},"), encoding="utf-8"
    )
    settings = yaml.safe_load((RECIPES / "jobqueue.yaml").read_text(encoding="utf-8"))
    settings["jobqueue"]["slurm"]["scheduler-options"] = {"host": "127.0.0.1"}
    (tmp_path / "dask.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "slurm.py"), "scene.tif", "jobqueue.tif"],
        env=machine | {"DASK_CONFIG": str(tmp_path / "dask.yaml")},
        cwd=shared,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith("/jobqueue.tif 6")
    assert same(shared, "jobqueue.tif")
    script = Path(f"{machine['QUEUE']}.script").read_text()
    for line in ("-p normal", "--cpus-per-task=16", "--mem=64G", "-t 02:00:00"):
        assert f"#SBATCH {line}\n" in script
    assert "--nthreads 3" in script
    assert "--lifetime 110m" in script


@pytest.mark.slow
def test_machines_are_joined_by_hand(shared: Path, machine: dict[str, str], tmp_path: Path) -> None:
    words = ["bash", str(RECIPES / "machines.sh"), "127.0.0.1", "node1", "node2"]
    with subprocess.Popen(
        words,
        env=machine | {"SSH": "ssh"},
        cwd=shared,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as cluster:
        assert cluster.stdout is not None
        told = cluster.stdout.readline().split()
        assert told[:5] == ["segpipe", "run", "SCENE", "-o", "OUTPUT"]
        words = ["run", "scene.tif", "-o", "hand.tif", *options(shared), *told[5:]]
        done = subprocess.run(
            [*COMMAND, *words], cwd=shared, capture_output=True, text=True, check=False
        )
        cluster.terminate()
        cluster.wait(30)
    assert done.returncode == 0, done.stderr
    assert same(shared, "hand.tif")


@pytest.mark.slow
def test_a_scheduler_of_dasks_configuration_is_used_and_told(
    shared: Path, machine: dict[str, str], tmp_path: Path
) -> None:
    """With certificates of the recipe, which only the configuration knows of."""
    tls = tmp_path / "tls"
    subprocess.run([RECIPES / "certificates.sh", tls], check=True, capture_output=True)
    assert {path.name for path in tls.iterdir()} == {
        *("authority.pem", "certificate.pem", "key.pem", "dask.yaml"),
    }
    file = tmp_path / "scheduler.json"
    settings = machine | {"DASK_CONFIG": str(tls / "dask.yaml")}
    where = ["--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(file)]
    roles = (["scheduler", "--protocol", "tls", "--port", "0"], ["worker", "--no-nanny"])
    crew = [
        subprocess.Popen(
            [sys.executable, "-m", "dask", *role, *where],
            env=settings,
            cwd=shared,
            stderr=subprocess.DEVNULL,
        )
        for role in roles
    ]
    try:
        address = address_in(file)
        words = [*COMMAND, "run", "scene.tif", *options(shared), "-o"]

        def run(*more: str, **settings: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [*words, *more],
                cwd=shared,
                env=machine | {"DASK_SCHEDULER_ADDRESS": address} | settings,
                capture_output=True,
                text=True,
                check=False,
                timeout=120,
            )

        assert address.startswith("tls://")
        told = f"segpipe: warning: the run goes to the Dask scheduler at {address}, which"
        done = run("tls.tif", DASK_CONFIG=settings["DASK_CONFIG"])
        assert done.returncode == 0, done.stderr
        assert told in done.stderr
        assert same(shared, "tls.tif")
        stranger = run("stranger.tif")
        assert stranger.returncode == 8
        said = [line for line in stranger.stderr.splitlines() if not line.startswith(told)]
        assert len(said) == 1
        assert "takes certificates" in said[0]
    finally:
        for process in reversed(crew):
            process.kill()
            process.wait()


def test_an_option_goes_before_dasks_configuration() -> None:
    with config.set({"scheduler-address": "tcp://10.0.0.1:8786"}):
        assert unnamed_scheduler(None, None, None) == "tcp://10.0.0.1:8786"
        assert unnamed_scheduler("tcp://10.0.0.2:8786", None, None) is None
        assert unnamed_scheduler(None, "scheduler.json", None) is None
        assert unnamed_scheduler(None, None, 1) is None
    with config.set({"scheduler-address": ""}):
        assert unnamed_scheduler(None, None, None) is None


def manifests() -> dict[str, dict[str, Any]]:
    """The Kubernetes objects by kind."""
    text = (RECIPES / "kubernetes.yaml").read_text(encoding="utf-8")
    return {entry["kind"]: entry for entry in yaml.safe_load_all(text)}


def pods() -> dict[str, dict[str, Any]]:
    """The specs of all pods."""
    cluster, job = manifests()["DaskCluster"]["spec"], manifests()["Job"]["spec"]
    return {
        "worker": cluster["worker"]["spec"],
        "scheduler": cluster["scheduler"]["spec"],
        "client": job["template"]["spec"],
    }


def test_manifests_are_what_kubernetes_takes() -> None:
    validate = pytest.importorskip("kubernetes_validate")
    found = manifests()
    cluster = found.pop("DaskCluster")["spec"]
    # The operator's schema says of these parts that they are Kubernetes's own.
    parts = [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        for name, spec in pods().items()
    ]
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "scheduler"}}
    service["spec"] = cluster["scheduler"]["service"]
    for entry in (*found.values(), *parts, service):
        validate.validate(entry, "1.35", strict=True)


def test_manifests_agree_with_each_other() -> None:
    found = manifests()
    cluster = found["DaskCluster"]
    assert cluster["apiVersion"] == "kubernetes.dask.org/v1"
    assert set(cluster["spec"]) == {"worker", "scheduler"}
    name = cluster["metadata"]["name"]
    service = cluster["spec"]["scheduler"]["service"]
    assert service["selector"] == {
        "dask.org/cluster-name": name,
        "dask.org/component": "scheduler",
    }
    (scheduler,) = pods()["scheduler"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in scheduler["ports"]}
    assert {port["targetPort"]: port["port"] for port in service["ports"]} == ports
    (client,) = pods()["client"]["containers"]
    address = {entry["name"]: entry["value"] for entry in client["env"]}["DASK_SCHEDULER_ADDRESS"]
    assert address == f"tcp://{name}-scheduler:{ports['tcp-comm']}"
    images = {container["image"] for pod in pods().values() for container in pod["containers"]}
    assert len(images) == 1
    claim = found["PersistentVolumeClaim"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for pod in (pods()["worker"], pods()["client"]):
        (volume,) = pod["volumes"]
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        (mount,) = pod["containers"][0]["volumeMounts"]
        assert mount == {"name": volume["name"], "mountPath": "/shared"}
    refused, _ = found["Job"]["spec"]["podFailurePolicy"]["rules"]
    assert refused["onExitCodes"]["containerName"] == client["name"]


def test_the_image_has_what_the_wheel_is_made_of() -> None:
    text = (RECIPES / "Dockerfile").read_text(encoding="utf-8")
    lines = re.findall(r"^COPY (.+)$", text, re.MULTILINE)
    copied = {
        name.replace("${TORCH}", "requirements-cpu.lock")
        for line in lines
        for name in line.split()[:-1]
    }
    assert not [name for name in copied if not (ROOT / name).exists()]
    assert {"pipeline", "models", "workflows", "pyproject.toml", "requirements.lock"} <= copied


def test_recipes_are_programs() -> None:
    for path in RECIPES.glob("*.s*"):
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        assert first == "#!/bin/bash", path.name
        subprocess.run(["bash", "-n", path], check=True)
    compile((RECIPES / "slurm.py").read_text(encoding="utf-8"), "slurm.py", "exec")
