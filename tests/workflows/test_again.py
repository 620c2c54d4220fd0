"""A call's command line means that call: click reads from it what was given."""

import shlex
from pathlib import Path
from unittest.mock import patch

from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from segpipe.workflows.cli import cli
from segpipe.workflows.results.again import PLACEHOLDER, command
from segpipe.workflows.run import run
from tests import toys

WORDS = st.text("abc $'\";&*\\é-_.", min_size=1).filter(lambda word: word.strip(" -"))
NAMES = st.text("abc $'\"é", min_size=1).filter(lambda name: name == name.strip())
GIVEN = st.fixed_dictionaries(
    {"scene": WORDS.map(lambda word: f"s{word}")},
    optional={
        "model": WORDS.map(lambda word: f"m{word}"),
        "output": WORDS.map(lambda word: Path(f"o{word}.tif")),
        "bands": st.lists(NAMES, min_size=1, max_size=3)
        | st.dictionaries(NAMES, NAMES, min_size=1, max_size=3),
        "scale": st.floats(1e-6, 1),
        "tile": st.integers(1, 9).map(lambda count: 256 * count),
        "device": st.sampled_from(["cpu", "cuda"]),
        "workers": st.integers(2, 9),
        "style": st.just(False),
        "zarr_format": st.just(3),
        "report": WORDS.map(lambda word: Path(f"r{word}.html")),
        "aoi": WORDS.map(lambda word: f"a{word}.gpkg"),
    },
)


@settings(deadline=None, max_examples=60)
@given(arguments=GIVEN)
def test_the_command_line_means_the_call(arguments: dict[str, object]) -> None:
    program, name, *words = shlex.split(command(run, arguments))
    assert (program, name) == ("segpipe", "run")
    with patch.object(cli.commands["run"], "callback", new=lambda **found: seen.update(found)):
        seen: dict[str, object] = {}
        outcome = CliRunner().invoke(cli, ["run", *words], catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    assert seen["scenes"] == (arguments["scene"],)
    for key, value in arguments.items():
        if key != "scene":
            assert str(seen[key]) == str(value), key


def test_signatures_are_left_out() -> None:
    files = {"red": "https://host/red.tif?sig=secret", "green": "green.tif"}
    line = command(run, {"scene": "https://me:secret@host/a.tif", "bands": files})
    assert line == (
        "segpipe run https://host/a.tif --bands red=https://host/red.tif,green=green.tif"
    )


def test_what_cannot_be_typed_has_a_placeholder() -> None:
    line = command(
        run, {"scene": "a.tif", "model": toys.small(), "overwrite": True, "tile": "auto"}
    )
    assert line == f"segpipe run a.tif -m {PLACEHOLDER}"
