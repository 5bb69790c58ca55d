"""Gates that end in the triggerer where they open, and gates that resume all the same."""

from __future__ import annotations

from typing import Any

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_importprog.sensors.import_progress import ImportProgressSensor
from tests.e2e.dags.gates import RETRIES, WAITS, conf, count, gate, process, take

ENDS: dict[str, Any] = {"deferrable": True, "end_from_trigger": True, **WAITS, **RETRIES}

with DAG("in_triggerer", schedule=None, catchup=False):
    gates = ImportProgressSensor.partial(task_id="gates", **ENDS)
    count(gates.expand(job_id=conf("jobs")).output)
    take.expand(file=gate("gate", "deferrable", end_from_trigger=True, allow_failed_files=True).output)
    gate("quiet", "deferrable", end_from_trigger=True, do_xcom_push=False)
    gate("called_back", "deferrable", end_from_trigger=True, on_success_callback=print)
    gate("fails", "deferrable", end_from_trigger=True)
    process.expand(files=gate("too_many", "deferrable", end_from_trigger=True, retries=0).output)

with DAG("killed_in_triggerer", schedule=None, catchup=False):
    ImportProgressSensor.partial(task_id="gates", **ENDS).expand(job_id=conf("jobs"))
