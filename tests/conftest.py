"""What all tests share."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True, scope="session")
def workers_find_the_tests() -> None:
    """Lets processes that tests start import the functions that tests send them."""
    os.environ["PYTHONPATH"] = str(ROOT)


@pytest.fixture(scope="session")
def examples() -> Path:
    """The folder with the real scenes."""
    return ROOT / "examples"
