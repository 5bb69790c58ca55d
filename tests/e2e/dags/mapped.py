"""Gates mapped over job ids, and tasks mapped over the files of a gate."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.common.compat.sdk import dag, task

from airflow_provider_importprog.sensors.import_progress import ImportProgressSensor

SETTINGS: dict[str, Any] = {
    "importprog_conn_id": "e2e",
    "poke_interval": 5,
    "timeout": 600,
    "retries": 2,
    "retry_delay": timedelta(seconds=1),
}


@dag(schedule=None, catchup=False)
def mapped() -> None:
    """Hand job ids to gates, and files to tasks."""

    @task
    def submitted(dag_run: Any = None) -> list[str]:
        """Return the job ids."""
        return list(dag_run.conf["jobs"])

    @task
    def take(file: dict[str, Any]) -> dict[str, Any]:
        """Hand back what came, with the types it came in."""
        return {"file": file, "types": {name: type(value).__name__ for name, value in file.items()}}

    @task
    def count(gates: Any) -> list[int]:
        """Count the files of each gate."""
        return [len(files) for files in gates]

    jobs = submitted()
    for mode in ("deferrable", "reschedule"):
        gates = ImportProgressSensor.partial(
            task_id=f"gates_{mode}", deferrable=mode == "deferrable", mode="reschedule", **SETTINGS
        ).expand(job_id=jobs)
        count.override(task_id=f"count_{mode}")(gates.output)

        gate = ImportProgressSensor(
            task_id=f"gate_{mode}",
            job_id="{{ dag_run.conf['single'] }}",
            deferrable=mode == "deferrable",
            mode="reschedule",
            allow_failed_files=True,
            **SETTINGS,
        )
        take.override(task_id=f"take_{mode}").expand(file=gate.output)


mapped()
