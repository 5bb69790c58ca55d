"""Many gates at once, with and without what keeps Airflow's race away. Not retried: each loss counts."""

from __future__ import annotations

from typing import Any

from airflow.providers.common.compat.sdk import DAG, task

from tests.e2e.variants import INTERVALS, VARIANTS, RacingSensor

for variant in VARIANTS:
    for interval in INTERVALS:
        with DAG(f"race_{variant}_{interval}", schedule=None, catchup=False) as dag:

            @task
            def submitted(dag_run: Any = None) -> list[str]:
                """Return the job ids."""
                return list(dag_run.conf["jobs"])

            RacingSensor.partial(
                task_id="gate",
                variant=variant,
                importprog_conn_id="e2e",
                deferrable=True,
                poke_interval=interval,
                timeout=600,
                retries=0,
            ).expand(job_id=submitted())
        globals()[dag.dag_id] = dag
