"""Tasks that submit files, and wait for them in each way that there is."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_importprog.operators.import_job import CreateImportJobOperator
from airflow_provider_importprog.sensors.import_progress import ImportProgressSensor
from tests.e2e.cases import KILLED, SUBMITTERS

for how in SUBMITTERS:
    settings: dict[str, Any] = {
        "importprog_conn_id": "{{ dag_run.conf['connection'] }}",
        "poke_interval": 5,
        "timeout": 600,
        "retries": 2,
        "retry_delay": timedelta(seconds=1),
    }
    with DAG(f"submit_{how}", schedule=None, catchup=False, render_template_as_native_obj=True) as dag:
        create = CreateImportJobOperator(
            task_id="create",
            collection_name="{{ dag_run.conf['collection'] }}",
            files="{{ dag_run.conf['files'] }}",
            wait=how != "gate",
            deferrable=how == "deferrable",
            **settings,
        )
        if how == "gate":
            ImportProgressSensor(task_id="gate", job_id=create.output, deferrable=True, **settings)
    globals()[dag.dag_id] = dag

with DAG("stopped", schedule=None, catchup=False):
    for task_id, (deferrable, abort_on_kill) in KILLED.items():
        CreateImportJobOperator(
            task_id=task_id,
            collection_name="stopped",
            files=[f"{task_id}.json"],
            auto_commit=False,
            importprog_conn_id="e2e",
            deferrable=deferrable,
            abort_on_kill=abort_on_kill,
            poke_interval=5,
            timeout=600,
        )
