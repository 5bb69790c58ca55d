"""Import one folder for each collection, and wait for all of these imports with one mapped gate.

    submit (one for each collection) → gate (likewise) → report

In Airflow's UI each gate has the name of its collection in place of a number. Needs a connection
``importprog_default`` of type "Milvus / Zilliz Cloud import", and the collections.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.common.compat.sdk import Param, TriggerRule, dag, task

from airflow_provider_importprog.hooks.import_progress import ImportProgressHook
from airflow_provider_importprog.sensors.import_progress import ImportProgressSensor


@dag(
    schedule=None,
    catchup=False,
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
    params={
        "imports": Param(
            {"articles": ["articles/1.json"], "authors": ["authors/1.json"]},
            type="object",
            description="Paths in Milvus's bucket, for each collection",
        ),
    },
    tags=["milvus", "example"],
)
def mapped_gates() -> None:
    """Submit an import for each collection, and wait for all of them."""

    @task
    def imports(params: dict[str, Any]) -> list[dict[str, Any]]:
        """Return one dict for each import."""
        return [{"collection": name, "files": files} for name, files in params["imports"].items()]

    @task(map_index_template="{{ collection }}")
    def submit(collection: str, files: list[str]) -> str:
        """Submit the files of one collection as one import job and return its id."""
        return ImportProgressHook().create_import_job(collection, files=files)

    @task(trigger_rule=TriggerRule.ALL_DONE)
    def report(ti: Any) -> dict[str, int]:
        """Return how many rows each collection has got, also those whose gate failed."""
        jobs = ti.xcom_pull(task_ids="gate", key="import_job")
        return {job["collection_name"]: job["imported_rows"] for job in jobs}

    gate = ImportProgressSensor.partial(
        task_id="gate",
        deferrable=True,
        poke_interval=5,
        map_index_template="{{ import_job.collection_name }}: {{ import_job.state }}",
    ).expand(job_id=submit.expand_kwargs(imports()))
    gate >> report()


mapped_gates()
