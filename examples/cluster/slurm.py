"""Maps a scene with workers that SLURM starts as its queue allows, through dask-jobqueue.

    python slurm.py /shared/scene.tif /shared/map.tif

Queue, cores and walltime are in jobqueue.yaml beside this file; Dask reads it from ~/.config/dask,
or from the folder that DASK_CONFIG names.
"""

import sys

from dask_jobqueue import SLURMCluster

from segpipe.workflows.run import run

MOST_JOBS = 20


def main() -> None:
    """Jobs come while there are tiles, and go when there are none."""
    scene, output = sys.argv[1:]
    with SLURMCluster() as cluster:
        cluster.adapt(minimum_jobs=1, maximum_jobs=MOST_JOBS)
        with cluster.get_client() as client:
            client.wait_for_workers(1)  # however long the queue is
        report = run(scene, output=output, scheduler=cluster.scheduler_address)
    print(report.output, report.tiles)


if __name__ == "__main__":
    main()
