"""Gates for tests.benchmark.ending, of each way to end and interval, and tasks that occupy every worker."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_importprog.sensors.import_progress import ImportProgressSensor
from tests.e2e.cases import ENDS, WORKERS


@task(retries=3, retry_delay=1)
def submitted(dag_run: Any = None) -> list[str]:
    """Return the job ids."""
    return list(dag_run.conf["jobs"])


for way in ENDS:
    for interval in (1, 5):
        with DAG(f"ending_{way}_{interval}", schedule=None, catchup=False) as dag:
            ImportProgressSensor.partial(
                task_id="gate",
                importprog_conn_id="e2e",
                deferrable=True,
                end_from_trigger=way == "triggerer",
                poke_interval=interval,
                timeout=1200,
                retries=0,
            ).expand(job_id=submitted())
        globals()[dag.dag_id] = dag

with DAG("busy", schedule=None, catchup=False):

    @task
    def occupy(number: int, dag_run: Any = None) -> None:
        """Hold a worker until a file is there."""
        while not Path(dag_run.conf["until"]).exists():
            time.sleep(1)

    occupy.expand(number=list(range(WORKERS)))
