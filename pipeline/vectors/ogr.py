"""What all work with vector files shares: pyogrio's errors, and GDAL's settings for a block."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pyogrio

ERRORS = (
    pyogrio.errors.DataSourceError,
    pyogrio.errors.DataLayerError,
    pyogrio.errors.CRSError,
    pyogrio.errors.FeatureError,
    pyogrio.errors.FieldError,
    pyogrio.errors.GeometryError,
)
"""What pyogrio raises where a vector file can't be read or written."""

# GDAL's settings belong to the process: two blocks at once would restore each other's.
_lock = threading.RLock()


@contextmanager
def settings(values: Mapping[str, str]) -> Iterator[None]:
    """GDAL's options of these names have these values while the block runs, one block at a time.

    pyogrio itself has no settings that end with a block.
    """
    with _lock:
        before = {name: pyogrio.get_gdal_config_option(name) for name in values}
        pyogrio.set_gdal_config_options(dict(values))
        try:
            yield
        finally:
            pyogrio.set_gdal_config_options(before)
