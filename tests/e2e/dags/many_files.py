"""Tasks mapped over the files of an import job that has more of them than Airflow maps over."""

from __future__ import annotations

from typing import Any

from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_importprog.sensors.import_progress import ImportProgressSensor

SETTINGS: dict[str, Any] = {
    "job_id": "{{ dag_run.conf['job'] }}",
    "importprog_conn_id": "e2e",
    "deferrable": True,
    "poke_interval": 3,
    "timeout": 600,
}


@task
def in_lists(files: list[dict[str, Any]], size: int = 500) -> list[list[dict[str, Any]]]:
    """Cut a list into lists."""
    return [files[first : first + size] for first in range(0, len(files), size)]


@task
def process(files: list[dict[str, Any]]) -> list[str]:
    """Say which files came."""
    return [file["file_name"] for file in files]


with DAG("many_files", schedule=None, catchup=False):
    gate = ImportProgressSensor(task_id="gate", **SETTINGS)
    process.expand(files=in_lists(gate.output))

with DAG("too_many_files", schedule=None, catchup=False):
    gate = ImportProgressSensor(task_id="gate", **SETTINGS)
    process.expand(files=gate.output)
