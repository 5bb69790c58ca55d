"""One waiting gate in each mode, for what people and accidents do to it."""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_importprog.sensors.import_progress import ImportProgressSensor

with DAG("single", schedule=None, catchup=False):
    for mode in ("poke", "reschedule", "deferrable"):
        ImportProgressSensor(
            task_id=mode,
            job_id=f"{{{{ dag_run.conf['jobs']['{mode}'] }}}}",
            importprog_conn_id="{{ dag_run.conf.get('connection', 'e2e') }}",
            mode="reschedule" if mode == "reschedule" else "poke",
            deferrable=mode == "deferrable",
            poke_interval=6 if mode == "reschedule" else 2,
            timeout=600,
            unknown_job_grace=3,
            retries=2,
            retry_delay=timedelta(seconds=1),
        )
