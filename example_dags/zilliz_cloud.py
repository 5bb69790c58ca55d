"""Import Parquet files from an S3 bucket into a collection of a Zilliz Cloud cluster, and print the rows of each file.

    load → report

Needs a connection ``importprog_default`` of type "Milvus / Zilliz Cloud import" (an API key and a cluster id), a
connection ``articles_bucket`` of type ``aws`` (the keys of the bucket), and a collection.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.common.compat.sdk import Param, dag, task

from airflow_provider_importprog.operators.import_job import CreateImportJobOperator


@dag(
    schedule=None,
    catchup=False,
    default_args={"retries": 3, "retry_delay": timedelta(minutes=1)},
    params={
        "collection": Param("articles", type="string", description="Collection to import into"),
        "folder": Param("s3://articles/2026-11-25", type="string", description="Where the Parquet files are"),
    },
    tags=["zilliz", "example"],
)
def zilliz_cloud() -> None:
    """Submit files of an object storage, wait for them in the triggerer, and report what was imported."""
    load = CreateImportJobOperator(
        task_id="load",
        collection_name="{{ params.collection }}",
        object_urls=["{{ params.folder }}/1.parquet", "{{ params.folder }}/2.parquet"],
        storage_conn_id="articles_bucket",
        # Zilliz Cloud can complete a job without some of its files: the gate then fails and names them.
        allow_failed_files=False,
        deferrable=True,
        poke_interval=30,
        timeout=timedelta(hours=6),
    )

    @task
    def report(files: list[dict[str, Any]]) -> int:
        """Print each file, and return how many rows the server has announced."""
        for file in files:
            print(f"{file['file_name']}: {file['total_rows']} rows, {file['state']}")
        return sum(file["total_rows"] or 0 for file in files)

    report(load.output)  # type: ignore[arg-type]  # an XComArg, a list when the task runs


zilliz_cloud()
