"""Dask clusters of this machine alone, with a worker for each GPU if there are some."""

import itertools
from collections.abc import Sequence
from typing import Any

from distributed import LocalCluster


def local_cluster(gpus: Sequence[str], **options: Any) -> LocalCluster:
    """A local cluster; its `options` are those of `LocalCluster`.

    dask-cuda's, where it is installed, puts a worker on the cores next to its GPU as well.
    """
    if not gpus:
        return LocalCluster(**options)
    try:
        from dask_cuda import LocalCUDACluster  # type: ignore[import-not-found]
    except ImportError:
        return _Pinned(gpus, **options)
    # Tensors are the predictor's own: there is nothing to spill from the device.
    cluster: LocalCluster = LocalCUDACluster(
        **{**options, "n_workers": len(gpus)},
        CUDA_VISIBLE_DEVICES=",".join(gpus),
        device_memory_limit=0,
    )
    return cluster


class _Pinned(LocalCluster):
    """A local cluster whose workers see one GPU each."""

    def __init__(self, gpus: Sequence[str], **options: Any) -> None:
        self._gpus = itertools.cycle(gpus)
        super().__init__(**{**options, "n_workers": 0})
        self.scale(len(gpus))

    def new_worker_spec(self) -> dict[str | int, dict[str, Any]]:
        """The next worker, and its GPU."""
        ((name, spec),) = super().new_worker_spec().items()
        environment = {"CUDA_VISIBLE_DEVICES": next(self._gpus)}
        return {name: {**spec, "options": {**spec["options"], "env": environment}}}
