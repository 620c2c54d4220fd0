"""Schedulers that want certificates: found with them, refused in one line without."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from dask import config

from segpipe.pipeline.errors import ClusterError
from segpipe.pipeline.execution.embedded import embedded
from segpipe.pipeline.execution.existing import address_in, existing
from tests.pipeline.test_execution import scaled

pytest.importorskip("cryptography", reason="there is nothing that makes certificates")


def certificates(folder: Path) -> dict[str, object]:
    """Dask's settings for an authority of its own and one certificate for all roles."""
    from distributed.security import Security

    made = Security.temporary()  # type: ignore[no-untyped-call]
    folder.mkdir()
    places = {}
    for name in ("tls_ca_file", "tls_client_cert", "tls_client_key"):
        places[name] = folder / f"{name}.pem"
        places[name].write_text(getattr(made, name), encoding="ascii")
    return {"distributed.comm.require-encryption": True, **tls_settings(*places.values())}


def tls_settings(authority: Path, certificate: Path, key: Path) -> dict[str, object]:
    """Dask's settings that name these files, for all roles."""
    files = {"ca-file": authority}
    for role in ("scheduler", "worker", "client"):
        files |= {f"{role}.cert": certificate, f"{role}.key": key}
    return {f"distributed.comm.tls.{name}": str(path) for name, path in files.items()}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What everybody who belongs to the cluster has in Dask's configuration."""
    return certificates(tmp_path_factory.mktemp("tls") / "certificates")


@pytest.fixture(scope="module")
def cluster(settings: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real scheduler that refuses whoever has no certificate; it has a worker."""
    folder = tmp_path_factory.mktemp("cluster")
    file = folder / "scheduler.json"
    where = ["--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(file)]
    with config.set(settings):
        environment = {"DASK_INTERNAL_INHERIT_CONFIG": config.serialize(config.config)}
    roles = (["scheduler", "--protocol", "tls", "--port", "0"], ["worker", "--no-nanny"])
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "dask", *role, *where],
            env=os.environ | environment,
            stderr=subprocess.DEVNULL,
        )
        for role in roles
    ]
    yield address_in(file)
    for process in reversed(processes):
        process.terminate()
        process.wait(20)


def test_certificates_open_an_encrypted_cluster(cluster: str, settings: dict[str, object]) -> None:
    assert cluster.startswith("tls://")
    with config.set(settings), existing(7, scheduler=cluster) as runner:
        assert sorted(runner.map(scaled, range(4))) == [0, 7, 14, 21]


def test_a_client_without_certificates_is_refused(cluster: str) -> None:
    with pytest.raises(ClusterError, match=r"none; set ca-file"), existing(7, scheduler=cluster):
        pytest.fail("the cluster was taken")


def test_a_client_that_does_not_encrypt_is_refused(cluster: str) -> None:
    plain = cluster.replace("tls://", "tcp://")
    with pytest.raises(ClusterError, match="no Dask scheduler"), existing(7, scheduler=plain):
        pytest.fail("the cluster was taken")


def test_a_stranger_with_certificates_is_refused(cluster: str, tmp_path: Path) -> None:
    with (
        config.set(certificates(tmp_path / "own")),
        pytest.raises(ClusterError, match="TLS certificate does not match"),
        existing(7, scheduler=cluster),
    ):
        pytest.fail("the cluster was taken")


def test_certificates_that_are_not_there_are_named(cluster: str, tmp_path: Path) -> None:
    gone = tmp_path / "gone.pem"
    with (
        config.set(tls_settings(gone, gone, gone)),
        pytest.raises(ClusterError, match="can't be read"),
        existing(7, scheduler=cluster),
    ):
        pytest.fail("the cluster was taken")


def test_whoever_requires_encryption_takes_nothing_else(settings: dict[str, object]) -> None:
    with (
        config.set(settings),
        pytest.raises(ClusterError, match="requires encryption, and tcp://"),
        existing(7, scheduler="tcp://127.0.0.1:1"),
    ):
        pytest.fail("the cluster was taken")


@pytest.mark.parametrize("workers", [1, 2])
def test_the_embedded_cluster_encrypts_where_that_is_required(
    settings: dict[str, object], workers: int
) -> None:
    with config.set(settings), embedded(7, workers=workers) as runner:
        assert sorted(runner.map(scaled, range(4))) == [0, 7, 14, 21]
