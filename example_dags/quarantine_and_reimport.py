"""Set the failed files of an import apart, repair them, and import those alone once more.

    incoming → load → quarantine → again → done
                        (no file failed: quarantine and again are skipped)

For servers that complete a job without some of its files, as Zilliz Cloud does: a second import of all files would
double the rows of the good ones. Milvus imports all files of a job or none, so there `load` fails, and all of them
can be imported anew. Needs a connection ``importprog_default`` of type "Milvus / Zilliz Cloud import", and a
collection.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.common.compat.sdk import AirflowSkipException, Param, TriggerRule, dag, task

from airflow_provider_importprog.operators.import_job import CreateImportJobOperator


@dag(
    schedule=None,
    catchup=False,
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
    params={
        "collection": Param("articles", type="string", description="Collection to import into"),
        "files": Param(["incoming/1.json", "incoming/2.json"], type="array", description="Paths in the bucket"),
    },
    tags=["zilliz", "example"],
)
def quarantine_and_reimport() -> None:
    """Import files, and those that failed once more."""

    @task
    def incoming(params: dict[str, Any]) -> list[str]:
        """Return the files to import."""
        return list(params["files"])

    @task
    def quarantine(files: list[dict[str, Any]], params: dict[str, Any]) -> list[str]:
        """Return the files for the next import: the failed ones, from where they were repaired."""
        # Some servers show the names in brackets, and some without their folders.
        failed = {file["file_name"].strip("[]").rpartition("/")[2] for file in files if file["error_message"]}
        paths = [path for path in params["files"] if path.rpartition("/")[2] in failed]
        if not paths:
            raise AirflowSkipException("No file failed.")
        for path in paths:
            print(f"{path} goes into quarantine")  # here you move it and repair it
        return [path.replace("incoming/", "repaired/") for path in paths]

    @task(trigger_rule=TriggerRule.NONE_FAILED)
    def done() -> None:
        """Go on: every file is in, at the first import or at the second."""

    load = CreateImportJobOperator(
        task_id="load",
        collection_name="{{ params.collection }}",
        files=incoming(),
        allow_failed_files=True,
        deferrable=True,
        poke_interval=5,
    )
    again = CreateImportJobOperator(
        task_id="again",
        collection_name="{{ params.collection }}",
        files=quarantine(load.output),  # type: ignore[arg-type]  # an XComArg, a list when the task runs
        deferrable=True,
        poke_interval=5,
    )
    again >> done()


quarantine_and_reimport()
