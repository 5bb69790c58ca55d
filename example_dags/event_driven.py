"""Gate what comes after imports that somebody else submits. Airflow 3.0 and later.

    an import job ends → a run of this DAG → ended → gate → process (once for each job)

Needs an Airflow connection ``importprog_default`` of type "Milvus / Zilliz Cloud import".
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import Asset, AssetWatcher, dag, task, task_group

from airflow_provider_importprog.sensors.import_progress import ImportProgressSensor
from airflow_provider_importprog.triggers.import_ended import ImportEndedTrigger

COLLECTION = "milvus://localhost:19530/default/articles"
# A job that failed brings an event too: its gate fails, and says why.
IMPORT_ENDED = ImportEndedTrigger(collection_name="articles", states=["completed", "failed"])
ARTICLES = Asset(COLLECTION, COLLECTION, watchers=[AssetWatcher(name="import_ended", trigger=IMPORT_ENDED)])


# An event starts one run: a task that a worker loses must be tried again, or nobody looks at the job.
RETRIES = {"retries": 3, "retry_delay": timedelta(seconds=10)}


@dag(schedule=[ARTICLES], catchup=False, default_args=RETRIES, tags=["milvus", "example"])
def event_driven() -> None:
    """Start when import jobs of the collection have ended, and take each on by itself."""

    @task
    def ended(triggering_asset_events: Any = None) -> list[str]:
        """Return the jobs' ids. Several may have ended since the last run, and an event may come twice."""
        events = triggering_asset_events[ARTICLES]
        # What else updates the asset, a task that has it as an outlet, brings no payload.
        return list(dict.fromkeys(event.extra["payload"]["job_id"] for event in events if "payload" in event.extra))

    @task
    def process(files: list[dict[str, Any]]) -> int:
        """Take on what one job imported: index checks, promotion of an alias, a refresh."""
        return sum(file["imported_rows"] for file in files)

    @task_group
    def job(job_id: str) -> None:
        """Wait for nothing: the gate gives the verdict on a job that has ended, and its files."""
        gate = ImportProgressSensor(task_id="gate", job_id=job_id, deferrable=True)
        process(gate.output)  # type: ignore[arg-type]  # an XComArg, a list when the task runs

    job.expand(job_id=ended())


event_driven()
