"""The collection as an asset: ``milvus://host:port/database/collection``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

from airflow_provider_importprog._collection import DEFAULT_DATABASE, DEFAULT_PORT, Collection

if TYPE_CHECKING:
    from airflow.providers.common.compat.openlineage.facet import Dataset as OpenLineageDataset
    from airflow.providers.common.compat.sdk import Asset


def create_asset(
    collection_name: str,
    *,
    host: str,
    port: int = DEFAULT_PORT,
    db_name: str = DEFAULT_DATABASE,
    cluster_id: str | None = None,
) -> Asset:
    """Return the asset of a collection. Its name is its URI, so that whoever makes it makes the same one.

    As an outlet of a sensor or an operator of this provider, its event gets ``job_id``, ``imported_rows`` and
    ``failed_files`` (how many).

    :param host: the server's name or address, without scheme and port; of Zilliz Cloud, the cluster's own endpoint.
    :param cluster_id: takes the place of `host`, which on Zilliz Cloud's control plane stands for every cluster.
    :raises ValueError: a value that no collection can have.
    """
    # Imported here, because Airflow imports this module while it makes the first asset of a DAG file.
    from airflow.providers.common.compat.sdk import Asset

    if cluster_id is None:
        collection = Collection.checked(host, port, db_name, collection_name)
    else:
        collection = Collection.checked(cluster_id, port, db_name, collection_name, "cluster_id")
    return Asset(uri=collection.uri.geturl())


def sanitize_uri(uri: SplitResult) -> SplitResult:
    """Return the one way to write a collection's URI: the host in lower case, a port, names percent-encoded.

    Airflow calls it for each asset of the scheme ``milvus``.

    :raises ValueError: it is no collection's.
    """
    return Collection.of(uri).uri


def convert_asset_to_openlineage(asset: Asset, lineage_context: Any) -> OpenLineageDataset:
    """Return the dataset that OpenLineage knows a collection as: the one that this provider's tasks report."""
    from airflow.providers.common.compat.openlineage.facet import Dataset

    collection = Collection.of(urlsplit(asset.uri))
    return Dataset(namespace=collection.namespace, name=collection.qualified_name)
