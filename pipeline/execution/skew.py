"""Schedulers and workers that have other versions than the process that starts the run."""

from distributed import Client

from segpipe.pipeline.errors import ClusterError
from segpipe.pipeline.execution.losses import within
from segpipe.pipeline.execution.settings import silence
from segpipe.pipeline.versions import differences, installed


def require_one_version(client: Client) -> None:
    """Passes if scheduler and workers have the versions of this process.

    Raises:
        ClusterError: one of them differs.
        ImportError: one of them has no segpipe.
    """
    here = installed()
    # It unpickles tasks on their way, but computes nothing.
    told = within(client, silence(), lambda: client.run_on_scheduler(installed))
    packages = {name: told[name] for name in ("python", "segpipe", "dask", "distributed")}
    found = {"the scheduler": packages}
    workers = within(client, silence(), lambda: client.run(installed))
    for address, versions in sorted(workers.items()):
        found[f"the worker {address}"] = versions
    for who, versions in found.items():
        if skew := differences(here, versions):
            raise skewed(who, skew)


def skewed(who: str, skew: str) -> ClusterError:
    """What is said of one that has other versions."""
    return ClusterError(
        f"{who} has {skew}; install the versions of the machine that starts the run there, or run "
        "from one that has the cluster's"
    )
