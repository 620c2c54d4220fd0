"""What all tests share."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:  # most tests need no servers
    from tests.servers import Files

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


@pytest.fixture
def served(folder: Path) -> Iterator["Files"]:
    """A web server over the folder that the module's own fixture fills."""
    from tests.servers import serving

    with serving(folder) as files:
        yield files


@pytest.fixture(scope="module")
def endpoint(folder: Path) -> Iterator[str]:
    """An S3 server whose bucket `scenes` holds that folder."""
    from tests.servers import bucket

    with bucket("scenes", folder) as address:
        yield address


@pytest.fixture(scope="session")
def examples() -> Path:
    """The folder with the real scenes."""
    return ROOT / "examples"
