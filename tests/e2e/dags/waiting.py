"""As many deferred gates as the run's conf has job ids."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.common.compat.sdk import dag, task

from airflow_provider_importprog.sensors.import_progress import ImportProgressSensor


@dag(schedule=None, catchup=False)
def waiting() -> None:
    """Wait for many jobs in the triggerer."""

    @task
    def submitted(dag_run: Any = None) -> list[str]:
        """Return the job ids."""
        return list(dag_run.conf["jobs"])

    ImportProgressSensor.partial(
        task_id="gate",
        importprog_conn_id="e2e",
        deferrable=True,
        poke_interval=3,
        timeout=600,
        unknown_job_grace=3,
        retries=2,
        retry_delay=timedelta(seconds=1),
    ).expand(job_id=submitted())


waiting()
