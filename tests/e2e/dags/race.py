"""Many gates at once. Not retried: each that Airflow loses counts."""

from __future__ import annotations

from typing import Any

from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_importprog.sensors.import_progress import ImportProgressSensor
from tests.e2e.cases import INTERVALS


@task
def submitted(dag_run: Any = None) -> list[str]:
    """Return the job ids."""
    return list(dag_run.conf["jobs"])


for interval in INTERVALS:
    with DAG(f"race_{interval}", schedule=None, catchup=False) as dag:
        ImportProgressSensor.partial(
            task_id="gate", importprog_conn_id="e2e", deferrable=True, poke_interval=interval, timeout=600, retries=0
        ).expand(job_id=submitted())
    globals()[dag.dag_id] = dag
