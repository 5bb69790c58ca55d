"""One gate for each mode, ending and soft_fail, all at once."""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_importprog.sensors.import_progress import ImportProgressSensor
from tests.e2e.cases import CASES, MODES, RETRIES

# Few at a time: a scheduler that lags behind by a poke interval takes a rescheduled or resumed task for a dead one.
AT_ONCE = {"poke": 8, "reschedule": 4, "deferrable": 5}

for mode in MODES:
    dag = DAG(f"matrix_{mode}", schedule=None, catchup=False, max_active_tasks=AT_ONCE[mode])
    globals()[dag.dag_id] = dag
    for case in (each for each in CASES if each.mode == mode):
        ImportProgressSensor(
            dag=dag,
            task_id=case.task_id,
            job_id=f"{{{{ dag_run.conf['jobs']['{case.task_id}'] }}}}",
            importprog_conn_id="e2e",
            allow_failed_files=case.ending == "files_failed_allowed",
            mode="reschedule" if case.mode == "reschedule" else "poke",
            deferrable=case.mode == "deferrable",
            soft_fail=case.soft_fail,
            poke_interval=case.poke_interval,
            timeout=case.timeout,
            unknown_job_grace=3,
            outage_tolerance=5,
            retries=RETRIES,
            retry_delay=timedelta(seconds=1),
        )
