"""What a run relies on of the storage that it writes to, tried before any work is done.

Of a folder: that a name can be made once only, that a rename moves at once, that locks hold, and
that the driver and every worker see what the other writes. Of an object store: that what was put is
read back, and that an object can be made once only. Nothing of a trial is left over.
"""

import contextlib
import fcntl
import hashlib
import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from segpipe.pipeline import storage
from segpipe.pipeline.errors import StorageError
from segpipe.pipeline.execution.runner import Runner
from segpipe.pipeline.mapping import this_process
from segpipe.pipeline.objects import Objects
from segpipe.pipeline.scenes.location import Address

_TRIAL = "trial"
_PROBE = Path("renamed", ".zarr.json.aux.xml")
"""A name as the longest kinds that a run writes: with a dot in front, and several."""

_PATIENCE = 3.0
"""Seconds after which what another machine wrote should be seen: NFS looks again after that."""

_LOOK_AGAIN = 0.05


@dataclass(frozen=True, slots=True)
class Sight:
    """What a worker saw of the driver's trial.

    Attributes:
        process: which process it is.
        answer: the name of the file that it wrote beside the trial; "" where it couldn't.
        problem: why it couldn't, "" where it doesn't see the trial at all.
        locked: whether the driver's lock holds there.
    """

    process: str
    answer: str = ""
    problem: str = ""
    locked: bool = True


def require_folder(folder: Path, runner: Runner[object]) -> tuple[str, ...]:
    """Passes if a run's folder keeps what the run relies on, here and on every worker.

    Args:
        folder: the staging folder of the run, which nobody else writes to.
        runner: where the run's tiles will be computed.

    Returns:
        Remarks for the user on what is missing, and isn't needed for this run alone.

    Raises:
        StorageError: something that is needed is missing; or a worker doesn't see the folder.
    """
    trial, token = folder / _TRIAL, uuid.uuid4().hex
    storage.remove(trial)
    storage.make_folder(trial / "made")
    try:
        with _locked(trial / "lock"):
            _try_names(trial, token)
            seen = runner.everywhere(partial(_look, trial, token))
            for worker, sight in sorted(seen.items()):
                _require_sight(folder, trial, token, worker, sight)
    finally:
        with contextlib.suppress(StorageError):
            storage.remove(trial)
    strangers = [sight for sight in seen.values() if sight.process != this_process()]
    if all(sight.locked for sight in strangers):
        return ()
    return (
        f"{folder.parent}: its locks hold on one machine only, so two runs for one output on two "
        "machines aren't told apart; start one at a time",
    )


def require_object_store(folder: Address, owner: str) -> tuple[str, ...]:
    """Passes if objects below an address can be made, read back and removed.

    Args:
        folder: where the run's objects will lie.
        owner: what the run has in common with its resumptions, and with no other run: what a trial
            left that was killed is removed by the next one.

    Returns:
        Remarks for the user, as `require_folder` gives them.

    Raises:
        StorageError: they can't; or there is no such bucket.
        UnreachableError: the store doesn't answer.
    """
    objects = Objects(folder)
    key = f".segpipe-{_TRIAL}-{hashlib.sha256(owner.encode()).hexdigest()[:16]}"
    data = uuid.uuid4().bytes
    objects.remove([key])
    try:
        if not objects.create(key, data) or objects.read(key) != data:
            raise StorageError(f"{objects.at(key)}: the store doesn't show what it was given")
        conditional = not objects.create(key, data + data)
    finally:
        objects.remove([key])
    if conditional:
        return ()
    return (
        f"{folder}: the store makes an object twice where it should once, so two runs for one "
        "output aren't told apart; start one at a time",
    )


def _try_names(trial: Path, token: str) -> None:
    made, probe = trial / "made" / _PROBE.name, trial / _PROBE
    storage.write(made, token.encode())
    with storage.reported("write", made), contextlib.suppress(FileExistsError):
        made.open("xb").close()
        raise StorageError(
            f"the file system of {trial.parent} makes a file twice where it should once (O_EXCL); "
            "choose another with -o"
        )
    storage.rename(made.parent, probe.parent)
    if made.exists() or _read(probe) != token:
        raise StorageError(
            f"the file system of {trial.parent} doesn't move a folder at once; choose another "
            "with -o"
        )


def _look(trial: Path, token: str) -> Sight:
    """What this process sees of a trial; it answers with a file of its own."""
    process, answer = this_process(), uuid.uuid4().hex
    if not _shows(trial / _PROBE, token):
        return Sight(process)
    try:
        storage.write(trial / answer, token.encode())
        # NFS makes a byte-range lock of it, which takes a file that is open for writing.
        with storage.reported("lock", trial), (trial / "lock").open("r+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return Sight(process, answer)
    except StorageError as error:
        return Sight(process, problem=str(error))
    return Sight(process, answer, locked=False)


def _require_sight(folder: Path, trial: Path, token: str, worker: str, sight: Sight) -> None:
    remedy = "name an output on storage that all workers share, or --staging there"
    if sight.problem:
        raise StorageError(f"the worker {worker} {sight.problem}")
    if not sight.answer:
        raise StorageError(f"the worker {worker} doesn't see {folder.parent}; {remedy}")
    if not _shows(trial / sight.answer, token):
        raise StorageError(
            f"what the worker {worker} writes into {folder.parent} isn't seen here; {remedy}"
        )


def _shows(path: Path, token: str) -> bool:
    """Whether a file has this content, now or soon."""
    deadline = time.monotonic() + _PATIENCE
    while _read(path) != token:
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOK_AGAIN)
    return True


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = storage.open_lock(path)
    try:
        with storage.reported("lock", path):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)
