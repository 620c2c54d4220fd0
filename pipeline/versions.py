"""Which versions of the libraries that decide a label this process has, and how two such differ."""

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

PACKAGES = (
    *("segpipe", "torch", "openvino", "onnxruntime"),
    *("numpy", "rasterio", "zarr", "dask", "distributed"),
)
"""What computes, reads and writes pixels, and what carries tasks."""

Versions = Mapping[str, str]
"""By name; "none" for what isn't installed."""


def installed() -> Versions:
    """The versions in this process; of Python the minor one, which decides what can be pickled."""
    python = ".".join(platform.python_version_tuple()[:2])
    return {"python": python, **{name: _version(name) for name in PACKAGES}}


def differences(here: Versions, there: Versions) -> str:
    """What `there` has otherwise than `here`, such as "numpy 2.1 instead of 2.2"; "" for nothing.

    Local parts of versions don't count: torch 2.13.0+cpu and 2.13.0+cu130 are one version.
    """
    return ", ".join(
        f"{name} {there[name]} instead of {here[name]}"
        for name in here
        if name in there and _public(here[name]) != _public(there[name])
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _public(version: str) -> str:
    return version.partition("+")[0]
