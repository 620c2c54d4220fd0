"""What all tests share."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).parents[1]

# The same examples every time, so that a change is what breaks a test and not chance;
# HYPOTHESIS_PROFILE=explore looks for new ones.
settings.register_profile("repeat", derandomize=True)
settings.register_profile("explore", print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeat"))


@pytest.fixture(autouse=True, scope="session")
def workers_find_the_tests() -> None:
    """Lets processes that tests start import the functions that tests send them."""
    os.environ["PYTHONPATH"] = str(ROOT)


@pytest.fixture(scope="session")
def examples() -> Path:
    """The folder with the real scenes."""
    return ROOT / "examples"
