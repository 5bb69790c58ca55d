"""Fill a new collection, and let an alias lead to it only when every row is in: readers never see half of it.

    load → swing

Readers search the alias. `load` fills a collection that nobody reads yet, fails if rows are missing, and asks the
server to refresh it; `swing` then sets the alias with one call of Milvus's REST API, which is no part of this package.
Needs a connection ``importprog_default`` of type "Milvus / Zilliz Cloud import" to a Milvus, the new collection with
the same schema as the old one, and the alias. (On Zilliz Cloud the alias is set at the cluster's own address, over
another connection.)
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.common.compat.sdk import AirflowException, Param, dag, task

from airflow_provider_importprog.hooks.import_progress import ImportProgressHook
from airflow_provider_importprog.operators.import_job import CreateImportJobOperator


@dag(
    schedule=None,
    catchup=False,
    default_args={"retries": 3, "retry_delay": timedelta(seconds=10)},
    params={
        "alias": Param("articles", type="string", description="What readers search"),
        "collection": Param("articles_20261125", type="string", description="The new collection"),
        "folder": Param("articles/2026-11-25", type="string", description="Where the files are in Milvus's bucket"),
    },
    tags=["milvus", "example"],
)
def swing_alias() -> None:
    """Import into a new collection, and let the alias lead to it."""
    load = CreateImportJobOperator(
        task_id="load",
        collection_name="{{ params.collection }}",
        files=["{{ params.folder }}/1.json", "{{ params.folder }}/2.json"],
        min_rows=1,
        refresh_load=True,
        deferrable=True,
        poke_interval=5,
    )

    @task
    def swing(params: dict[str, Any]) -> None:
        """Let the alias lead to the new collection. To do it twice does no harm."""
        hook = ImportProgressHook()
        body = {"aliasName": params["alias"], "collectionName": params["collection"]}
        answer = hook.get_conn().post(f"{hook.base_url}/v2/vectordb/aliases/alter", json=body, timeout=30).json()
        if answer["code"]:
            raise AirflowException(f"The alias {params['alias']!r} was not set: {answer['message']}")

    load >> swing()


swing_alias()
