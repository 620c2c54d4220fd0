"""Runs, crashes, edits and damage in any order: a map is there whole and right, or isn't there.

A state machine types commands for one output, as a user and a disk might treat it. What is seen
under the output's name at any time is a map of one of the scenes that it was asked for; a run that
ends leaves the oracle's bytes and nothing else; a run that is refused says which difference it is.
"""

import json
import os
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from segpipe.pipeline.errors import FingerprintMismatchError, StorageError
from segpipe.pipeline.staging import Staging, begun, staged_beside
from tests import disks, toys
from tests.disks import Desk, Killed, Tree, half_made, stop, watched

KINDS = ("cog", "zarr-2", "zarr-3")
TILES = (256, 512)

MANY = 500
"""Examples of the slow test, over all kinds."""

Choice = tuple[int, int]
"""Which scene is mapped, and in tiles of which side."""

_ORACLES: dict[tuple[str, Choice], Tree] = {}
"""What a run leaves that nothing disturbs; shards are as large as tiles."""


class States(RuleBasedStateMachine):
    """One output, and all that happens to it."""

    kinds = KINDS

    @initialize(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        """An empty folder."""
        kind = data.draw(st.sampled_from(self.kinds))
        self.temporary = tempfile.TemporaryDirectory()
        self.kind = kind
        self.desk: Desk = disks.desks(Path(self.temporary.name))[kind]
        self.wholes: dict[Choice, Tree] = {}
        for scene, tile in product((1, 0), TILES):
            self.edit_input(scene)
            if (kind, (scene, tile)) not in _ORACLES:
                self.desk.clear()
                self.desk.run(tile=tile)
                _ORACLES[kind, (scene, tile)] = self.desk.seen()
            self.wholes[scene, tile] = _ORACLES[kind, (scene, tile)]
        self.desk.clear()
        self.tile = TILES[0]
        self.unfinished: Choice | None = None

    def teardown(self) -> None:
        """Whatever happened, the command that was begun can be ended."""
        if not hasattr(self, "temporary"):
            return
        if self.unfinished is not None:
            self.edit_input(self.unfinished[0])
            self.tile = self.unfinished[1]
        try:
            self.desk.run(tile=self.tile, overwrite=True)
        except StorageError as error:
            self._lost(error)
            self.desk.run(tile=self.tile, overwrite=True, new_run=True)
        assert self.desk.seen() == self.wholes[self.scene, self.tile]
        assert self.desk.hidden == []
        self.temporary.cleanup()

    # What a user does

    @rule(scene=st.sampled_from([0, 1]))
    def edit_input(self, scene: int) -> None:
        """The scene gets other pixels, and another time."""
        self.scene = scene
        toys.write_scene(self.desk.scene, disks.pixels(scene))
        os.utime(self.desk.scene, (10**9 + scene, 10**9 + scene))

    @rule(tile=st.sampled_from(TILES))
    def edit_option(self, tile: int) -> None:
        """The next command names other tiles."""
        self.tile = tile

    @rule(overwrite=st.booleans(), new_run=st.booleans())
    def run(self, overwrite: bool, new_run: bool) -> None:
        """The command is typed, and nothing stops it."""
        before = self.desk.seen()
        if self._typed(overwrite=overwrite, new_run=new_run):
            assert self.desk.seen() == self.wholes[self.scene, self.tile]
            assert self.desk.hidden == []
        else:
            assert self.desk.seen() == before

    @rule(at=st.integers(0, 200), overwrite=st.booleans(), new_run=st.booleans())
    def run_killed(self, at: int, overwrite: bool, new_run: bool) -> None:
        """The command is typed, and killed before step `at` if it comes so far."""
        with watched(stop(at)):
            try:
                self._typed(overwrite=overwrite, new_run=new_run)
            except Killed:
                self._look()

    # What happens to a disk

    @precondition(lambda self: self.staged)
    @rule(which=st.integers(0, 9), how=st.sampled_from(["delete", "truncate", "garble"]))
    def harm_receipt(self, which: int, how: str) -> None:
        """A receipt is lost, or isn't what it was."""
        self._harm("receipts/*/[0-9]*.json", which, how)

    @precondition(lambda self: self.staged)
    @rule(which=st.integers(0, 9), how=st.sampled_from(["delete", "truncate", "flip"]))
    def harm_chunk(self, which: int, how: str) -> None:
        """A chunk of the map, or of a level of its pyramid, is lost, or isn't what it was."""
        self._harm("store.zarr/**/classes/**/[0-9]", which, how)

    @precondition(lambda self: self.staged)
    @rule()
    def delete_run(self) -> None:
        """What the fingerprint was made of is lost."""
        for folder in staged_beside(self.desk.place):
            Staging(folder).run.unlink(missing_ok=True)
        self.unfinished = None

    @precondition(lambda self: hasattr(self, "desk"))
    @rule()
    def remove_output(self) -> None:
        """The user removes the map, and what lies beside it, if no run is about to end."""
        if not self.staged:
            self.desk.clear()

    # What is always true

    @precondition(lambda self: hasattr(self, "desk"))
    @invariant()
    def nothing_is_half_made(self) -> None:
        """What is seen is a map of a scene that was asked for."""
        assert half_made(self.desk.seen(), *self.wholes.values()) == []

    @property
    def staged(self) -> bool:
        """Whether there is an unfinished run."""
        return hasattr(self, "desk") and bool(staged_beside(self.desk.place))

    def _typed(self, *, overwrite: bool, new_run: bool) -> bool:
        """Whether the command ended well; if not, it was refused for a reason that is there."""
        choice = self.scene, self.tile
        there = self.desk.place.exists()
        differs = self.unfinished is not None and self.unfinished != choice and not new_run
        try:
            self.desk.run(tile=self.tile, overwrite=overwrite, new_run=new_run)
        except FingerprintMismatchError as error:
            text = str(error)
            self._look()
            if "begun differently" not in text:
                assert "exists" in text
                assert there
                assert not overwrite
                return False
            assert differs, text
            assert "--new-run" in text
            assert self.unfinished is not None
            tile = f"options.tile was {self.unfinished[1]}, is {self.tile}"
            assert (tile in text) == (self.unfinished[1] != self.tile)
            assert ("input" in text) == (self.unfinished[0] != self.scene)
            return False
        except StorageError as error:
            self._lost(error)
            self._look()
            return False
        assert not differs
        self.unfinished = None
        return True

    def _lost(self, error: StorageError) -> None:
        """There is one error that isn't mended: no receipt can be made again of what is gone."""
        assert "has lost its receipt" in str(error)
        assert "--new-run --overwrite" in str(error)
        assert self.desk.place.exists()

    def _look(self) -> None:
        """Finds out what is unfinished now."""
        if begun(self.desk.place) is None:
            self.unfinished = None
        elif self.unfinished is None or self._is_begun():
            self.unfinished = self.scene, self.tile

    def _is_begun(self) -> bool:
        """Whether the unfinished run is that of the command as it is now."""
        fields = begun(self.desk.place) or {}
        stamp = json.dumps(fields.get("input"))
        return fields["options"]["tile"] == self.tile and str(10**9 + self.scene) in stamp

    def _harm(self, pattern: str, which: int, how: str) -> None:
        (folder, *_) = staged_beside(self.desk.place)
        found = sorted(path for path in folder.glob(pattern) if path.is_file())
        if not found:
            return
        path = found[which % len(found)]
        data = path.read_bytes()
        match how:
            case "delete":
                path.unlink()
            case "truncate":
                path.write_bytes(data[: len(data) // 2])
            case "garble":
                path.write_bytes(b"\xff" + data)
            case _:
                middle = len(data) // 2
                path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])


@pytest.fixture(autouse=True, scope="module")
def quick_runs() -> Iterator[None]:
    with disks.quick_runs():
        yield


def examples(number: int) -> settings:
    """So many examples of a few steps each; their failures are printed as programs."""
    return settings(
        max_examples=number,
        stateful_step_count=6,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def test_some_states() -> None:
    run_state_machine_as_test(States, settings=examples(25))


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("kind", KINDS)
def test_many_states(kind: str) -> None:
    machine = type(f"States of {kind}", (States,), {"kinds": (kind,)})
    run_state_machine_as_test(machine, settings=examples(MANY // len(KINDS) + 1))
