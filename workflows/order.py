"""A run that was asked for and that nothing speaks against: with workers, it becomes a map."""

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from segpipe.models.engine import Engine, Precision
from segpipe.models.formats.onnx_session import is_portable, refusal
from segpipe.pipeline.driver import Driver
from segpipe.pipeline.errors import FingerprintMismatchError, StorageError
from segpipe.pipeline.execution.runner import Runner
from segpipe.pipeline.fingerprint import Fields
from segpipe.pipeline.guarantees import require_folder
from segpipe.pipeline.journal import Journal
from segpipe.pipeline.maps.label_store import STORE_MARKS
from segpipe.pipeline.scenes.location import Place, shown
from segpipe.pipeline.staging import discard, staged_beside, sweep_discarded
from segpipe.pipeline.staging import staging as stage
from segpipe.workflows.errors import OptionError
from segpipe.workflows.mapped import Mapped
from segpipe.workflows.memory import workspace
from segpipe.workflows.plan import Preparation
from segpipe.workflows.reading.series import Series, wanted
from segpipe.workflows.resident import Resident, Use, decide_engine
from segpipe.workflows.results.again import Origin
from segpipe.workflows.results.delivery import Delivery
from segpipe.workflows.results.products import Products
from segpipe.workflows.results.report import Report
from segpipe.workflows.stages import Run, Watcher, create_stores, fingerprint_of, run_id
from segpipe.workflows.tiles import Limits


@dataclass(frozen=True, slots=True)
class Computing:
    """What computes, as `run` is asked for it; the workers' number is None where it's theirs."""

    device: str
    precision: Precision | Literal["auto"]
    engine: str
    workers: int | None


@dataclass(frozen=True, slots=True)
class Order:
    """A run before it has workers.

    Attributes:
        scene: what is mapped, as it was named.
        ready: what is known of scene, model and tiles without them.
        remarks: what its report warns of besides.
        products, delivery: what is made beside the map, and what of all is sent away.
        series: what is shared with the other scenes of the same command.
        origin: how the run was called.
        journal: is told what happens.
        computing: what is to compute it.
        zarr_format, overwrite, new_run, style: as `run` takes them.
    """

    scene: Place
    ready: Preparation
    remarks: tuple[str, ...]
    products: Products
    delivery: Delivery
    series: Series
    origin: Origin
    journal: Journal
    computing: Computing
    zarr_format: int
    overwrite: bool
    new_run: bool
    style: bool

    def refuse(self) -> None:
        """Passes if nothing is lost that somebody has, and nothing is made that is there already.

        Raises:
            AlreadyMappedError: an earlier call of the same series made all of it.
            FingerprintMismatchError: something is there under one of the names.
            OptionError: an output is a scene, or something that can't be a map.
            StorageError, UnreachableError: a place can't be written to.
        """
        ready = self.ready
        _refuse_target(ready)
        self.products.form.check(ready.plan.grid)
        self.series.refuse_finished(ready.output, self._asked, overwrite=self.overwrite)
        self.delivery.refuse_scene(ready.scene)
        sweep_discarded(ready.output)
        if not staged_beside(ready.output):
            self._refuse_existing()
            self.delivery.claim(None, overwrite=self.overwrite)

    def begin(self) -> str:
        """The run's id, under which the journal goes on."""
        name = run_id(self.ready)
        self.journal.begin(
            name,
            scene=shown(str(self.scene)),
            output=self.ready.output,
            model=self.ready.model.card.name,
        )
        return name

    def carried_out(
        self, name: str, lent: Runner[Resident], limits: Limits, watch: Watcher, start: float
    ) -> Report:
        """The report of the run of this id after all is published; `start` is when it began.

        Raises:
            TilesFailedError, CorruptInputError: tiles failed, and the limits don't allow that.
            StoppedError: the time is over.
            PipelineError, ModelError, DeviceError: see their classes.
        """
        with self._begun(name, lent.of_run(name, self.series.rank)) as begun:
            mapped = Mapped.of(begun, limits, watch)
            made = mapped.publish(self.scene, start, style=self.style, overwrite=self.overwrite)
            made = replace(made, addresses=self.delivery.published)
            fields = fingerprint_of(begun.ready, begun.engine, self.zarr_format)
            made = self.products.write(made, begun.ready, fields, self.origin)
            if not made.failed:
                self.series.note(made, self._asked, self.products.paths)
            self.delivery.send(overwrite=self.overwrite)
            discard(begun.staged)
            self.journal.note("published", output=made.output, seconds=made.seconds.total)
        return made

    @property
    def _asked(self) -> Fields:
        """What decides the map and its products."""
        return wanted(self.ready, self.zarr_format, self.origin.arguments)

    @contextlib.contextmanager
    def _begun(self, name: str, everyone: Runner[Resident]) -> Iterator[Run]:
        """The run with its engine and its folder, which is locked while the block runs."""
        use = self.ready.use()
        ready, chosen, runner = self._fitted(everyone, use)
        fields = fingerprint_of(ready, chosen, self.zarr_format)

        def fill(path: Path) -> None:
            self._refuse_existing()  # since it was looked for
            create_stores(ready, chosen, name, self.zarr_format, path)

        with stage(ready.output, fields, new_run=self.new_run, create=fill, run=name) as staged:
            lacking = require_folder(staged.folder, runner)
            remarks = (*self.remarks, *lacking, *self._instead(chosen))
            begun = Run(name, ready, use, chosen, staged, runner, self.journal, remarks)
            if self.new_run:
                self.delivery.clear(staged)
            if not begun.is_published:
                _refuse_existing(ready.output, self.overwrite)
            self.products.claim(staged, overwrite=self.overwrite)
            self.delivery.claim(staged, overwrite=self.overwrite)
            if not begun.is_published:
                self._announce(begun)
            yield begun

    def _fitted(
        self, everyone: Runner[Resident], use: Use
    ) -> tuple[Preparation, Engine, Runner[Resident]]:
        """The engine, the tiles that fit beside it into memory, and the workers that have it."""
        ready, computing = self.ready, self.computing
        chosen = everyone.on(computing.device).call(
            partial(
                decide_engine,
                ready.scene,
                ready.plan,
                computing.device,
                computing.precision,
                computing.engine,
                use,
            )
        )
        runner = everyone.on(chosen.device)
        meter = partial(workspace, chosen, use, ready.scene.dtype, ready.wanted)
        ready = ready.fitted(ready.costs(chosen, runner.call(meter)), computing.workers or 1)
        self.journal.note(
            "cluster",
            dashboard=runner.dashboard,
            tiles=len(ready.selection),
            tile=ready.plan.side,
            device=chosen.device,
            engine=chosen.name,
            precision=chosen.precision,
        )
        return ready, chosen, runner

    def _announce(self, begun: Run) -> None:
        """Tells those who look at the staging folder who drives the run, and how to resume it."""
        command = self.origin.command
        Driver(
            run=begun.id,
            tiles=len(begun.ready.selection),
            plan=begun.ready.plan,
            layers=tuple(store.array for store in begun.job.stores),
            started=time.time(),
            host=socket.gethostname(),
            pid=os.getpid(),
            command=f"{command} --overwrite" if self.overwrite else command,
            folder=str(Path.cwd()),
            dashboard=begun.runner.dashboard,
        ).announce(begun.staged)

    def _instead(self, chosen: Engine) -> Iterator[str]:
        """Says so where torch computed what another library was meant for."""
        network = self.ready.tiled.network
        if self.computing.engine == "auto" and chosen.name == "torch" and is_portable(network):
            why = refusal(network, chosen.device, chosen.precision)
            yield f"torch computed this ONNX file: {why}"

    def _refuse_existing(self) -> None:
        _refuse_existing(self.ready.output, self.overwrite)
        self.products.refuse_existing(overwrite=self.overwrite)


def _refuse_target(ready: Preparation) -> None:
    """Passes if whoever replaces the output loses nothing but a map.

    Raises:
        OptionError: the output is the scene itself, or something that can't be a map.
        StorageError: its folder can't be written to.
    """
    output = ready.output
    sources = (Path(name) for name in (ready.scene.path, *ready.scene.files))
    if output.exists() and any(path.exists() and output.samefile(path) for path in sources):
        raise OptionError(f"{output} is the scene itself; name another output with -o")
    if output.is_dir() and not any((output / name).is_file() for name in STORE_MARKS):
        raise OptionError(f"{output} is a folder and no Zarr store; name another output with -o")
    if not os.access(output.parent, os.W_OK | os.X_OK):
        raise StorageError(
            f"the folder {output.parent} can't be written to; choose another with -o"
        )


def _refuse_existing(output: Path, overwrite: bool) -> None:
    if output.exists() and not overwrite:
        raise FingerprintMismatchError(
            f"{output} exists; name another output with -o, or replace it with --overwrite"
        )
