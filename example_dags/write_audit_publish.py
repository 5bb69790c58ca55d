"""Write, audit, publish: nobody ever reads a half-imported collection.

    manifest → write → audit → publish
                          ↘ drop → reject (the run then ends failed, so that a person looks)

`write` is a two-phase import: its rows are invisible until `publish` commits them. Needs Milvus 3.0 or later, a
connection ``importprog_default`` of type "Milvus / Zilliz Cloud import" whose api_version is v2, and a collection.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.common.compat.sdk import AirflowFailException, Param, dag, task

from airflow_provider_importprog.operators.import_job import (
    AbortImportJobOperator,
    CommitImportJobOperator,
    CreateImportJobOperator,
)


@dag(
    schedule=None,
    catchup=False,
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
    params={
        "collection": Param("articles", type="string", description="Collection to import into"),
        "manifest": Param({"articles/1.json": 2000}, type="object", description="Rows that each file should bring"),
    },
    tags=["milvus", "example"],
)
def write_audit_publish() -> None:
    """Import files, compare their rows with a manifest, and only then let anybody see them."""

    @task
    def manifest(params: dict[str, Any]) -> list[str]:
        """Return the files to import."""
        return sorted(params["manifest"])

    @task.branch
    def audit(files: list[dict[str, Any]], params: dict[str, Any]) -> str:
        """Compare the rows of each file with the manifest, and say which task is next."""
        # The server puts each entry of an import into brackets.
        found = {file["file_name"].strip("[]"): file["imported_rows"] for file in files}
        for name, rows in params["manifest"].items():
            print(f"{name}: {found.get(name)} rows, {rows} expected")
        return "publish" if found == params["manifest"] else "drop"

    @task
    def reject() -> None:
        """End the run as failed: the rows were dropped, and the files need a person."""
        raise AirflowFailException("The files do not match the manifest: see the log of audit.")

    write = CreateImportJobOperator(
        task_id="write",
        collection_name="{{ params.collection }}",
        files=manifest(),
        auto_commit=False,
        wait_for="uncommitted",
        deferrable=True,
        poke_interval=5,
    )
    job_id = write.output["job_id"]
    publish = CommitImportJobOperator(task_id="publish", job_id=job_id, deferrable=True, poke_interval=5)
    drop = AbortImportJobOperator(task_id="drop", job_id=job_id)

    audit(write.output) >> [publish, drop]  # type: ignore[arg-type]  # an XComArg, a list when the task runs
    drop >> reject()


write_audit_publish()
