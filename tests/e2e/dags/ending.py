"""Tasks that wait for the job they submitted, for a person to end."""

from __future__ import annotations

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_importprog.operators.import_job import CreateImportJobOperator
from tests.e2e.cases import ENDED

with DAG("ending", schedule=None, catchup=False):
    for task_id, (deferrable, abort_on_kill) in ENDED.items():
        CreateImportJobOperator(
            task_id=task_id,
            collection_name="ended",
            files=[f"{task_id}.json"],
            auto_commit=False,
            importprog_conn_id="e2e",
            deferrable=deferrable,
            abort_on_kill=abort_on_kill,
            poke_interval=5,
            timeout=600,
        )
