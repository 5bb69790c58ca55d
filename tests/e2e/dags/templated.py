"""Where the job's id, the connection's id and the cluster's id may come from."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.common.compat.sdk import dag, task

from airflow_provider_importprog.sensors.import_progress import ImportProgressSensor


@dag(schedule=None, catchup=False)
def templated() -> None:
    """Take a job's id from an XCom, and all three from templates."""

    @task
    def submit(dag_run: Any = None) -> str:
        """Return a job's id, as whoever submits it does."""
        return str(dag_run.conf["job"])

    job_id = submit()
    for mode in ("poke", "reschedule", "deferrable"):
        settings: dict[str, Any] = {
            "deferrable": mode == "deferrable",
            "mode": "reschedule" if mode == "reschedule" else "poke",
            "poke_interval": 5 if mode == "reschedule" else 2,
            "timeout": 600,
            "retries": 2,
            "retry_delay": timedelta(seconds=1),
        }
        ImportProgressSensor(task_id=f"xcom_{mode}", job_id=job_id, importprog_conn_id="e2e", **settings)  # type: ignore[arg-type]
        pulled = ImportProgressSensor(
            task_id=f"template_{mode}",
            job_id="{{ ti.xcom_pull(task_ids='submit') }}",
            cluster_id="{{ dag_run.conf['cluster'] }}",
            importprog_conn_id="{{ dag_run.conf['connection'] }}",
            **settings,
        )
        job_id >> pulled


templated()
