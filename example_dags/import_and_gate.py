"""Import files into a Milvus collection, and go on only when every row is in.

    submit → gate → process (once for each file) → count_rows
                  ↘ quarantine (only where the gate fails)

Needs an Airflow connection ``importprog_default`` of type "Milvus / Zilliz Cloud import", and a collection.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.common.compat.sdk import Param, TriggerRule, dag, task

from airflow_provider_importprog.hooks.import_progress import ImportProgressHook
from airflow_provider_importprog.sensors.import_progress import ImportProgressSensor


@dag(
    schedule=None,
    catchup=False,
    params={
        "collection": Param("articles", type="string", description="Collection to import into"),
        "files": Param(["articles/1.json"], type="array", description="Paths in Milvus's bucket"),
    },
    tags=["milvus", "example"],
)
def import_and_gate() -> None:
    """Submit an import job, wait for it, and hand its files on one by one."""

    @task
    def submit(params: dict[str, Any]) -> str:
        """Submit the files as one import job and return its id."""
        return ImportProgressHook().create_import_job(params["collection"], files=params["files"])

    @task
    def process(file: dict[str, Any]) -> int:
        """Take one imported file on: index checks, promotion of an alias, a refresh."""
        print(f"{file['file_name']}: {file['imported_rows']} rows, {file['file_size']} bytes")
        return int(file["imported_rows"])

    @task
    def count_rows(rows: list[int]) -> int:
        """Add up what every file brought."""
        return sum(rows)

    @task(trigger_rule=TriggerRule.ONE_FAILED)
    def quarantine(ti: Any) -> list[dict[str, Any]]:
        """Set the failed files apart. The gate leaves their details in XCom also when it fails."""
        files = ti.xcom_pull(task_ids="gate", key="return_value") or []
        failed = [file for file in files if file["error_message"]]
        for file in failed:
            print(f"{file['file_name']} goes into quarantine: {file['error_message']}")
        return failed

    gate = ImportProgressSensor(
        task_id="gate",
        job_id=submit(),
        deferrable=True,
        poke_interval=5,
        retries=2,
        retry_delay=timedelta(seconds=10),
    )
    rows = process.expand(file=gate.output)
    count_rows(rows)  # type: ignore[arg-type]  # an XComArg, a list when the task runs
    gate >> quarantine()


import_and_gate()
