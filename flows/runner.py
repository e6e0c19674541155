"""The task runner of every flow that maps over partitions: threads here, or Dask's machines, by a setting."""

from typing import Any

from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows.settings import settings


def task_runner() -> TaskRunner[Any]:
    """Threads; with BENTOFLOW_TASK_RUNNER=dask the scheduler at BENTOFLOW_DASK_ADDRESS, or a local cluster."""
    chosen = settings()
    if chosen.task_runner == "threads":
        return ThreadPoolTaskRunner(max_workers=4)
    from prefect_dask import DaskTaskRunner

    if chosen.dask_address:
        return DaskTaskRunner(address=chosen.dask_address)
    return DaskTaskRunner(
        cluster_kwargs={
            "n_workers": chosen.dask_workers,
            "threads_per_worker": 1,
            "processes": True,
            "dashboard_address": None,
            "host": "127.0.0.1",
        }
    )
