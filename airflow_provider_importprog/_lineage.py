"""What OpenLineage is told of an import."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from airflow_provider_importprog._collection import Collection
from airflow_provider_importprog.api.model import ImportJob, ImportState

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage

#: An event of more inputs is of use to nobody, and a job may have 10,000 files.
MOST_INPUTS = 1_000
_S3 = re.compile(r"(?:(?P<bucket>.+)\.)?s3[.-](?:[\w-]+\.)*amazonaws\.com(?:\.cn)?")
_GCS = re.compile(r"(?:(?P<bucket>.+)\.)?storage\.(?:googleapis|cloud\.google)\.com")
_AZURE = re.compile(r"(?P<account>[^.]+)\.blob\.core\.windows\.net")
# In a set of files, such as "[s3://b/id.npy s3://b/vector.npy]".
_BETWEEN_URLS = re.compile(r"[\s,]+(?=\w+://)")


@dataclass(frozen=True)
class Import:
    """An import that ended, as far as lineage goes."""

    job: ImportJob
    collection: Collection


def facets(ended: Import | None, sources_of: Callable[[ImportJob], Iterable[str]]) -> OperatorLineage[Any, Any]:
    """Return what OpenLineage is told, of None that there is nothing to tell.

    It runs in a forked child, for a limited time, so it asks nobody.

    :param sources_of: the URLs and paths that a job read. They may hold secrets.
    """
    from airflow.providers.common.compat.openlineage.facet import (
        Dataset,
        ExternalQueryRunFacet,
        OutputDataset,
        OutputStatisticsOutputDatasetFacet,
    )
    from airflow.providers.openlineage.extractors import OperatorLineage

    if ended is None:
        return OperatorLineage()
    job, collection = ended.job, ended.collection
    statistics: dict[str, Any] = {}  # of a job that failed, no row is there to stay
    if job.state is ImportState.COMPLETED and job.imported_rows is not None:
        statistics["outputStatistics"] = OutputStatisticsOutputDatasetFacet(rowCount=job.imported_rows)
    return OperatorLineage(
        inputs=[Dataset(namespace=namespace, name=name) for namespace, name in inputs(sources_of(job))],
        outputs=[
            OutputDataset(namespace=collection.namespace, name=collection.qualified_name, outputFacets=statistics)
        ],
        run_facets={"externalQuery": ExternalQueryRunFacet(externalQueryId=job.job_id, source=collection.namespace)},
    )


def named_by(file_name: str) -> list[str]:
    """Return the URLs, or the paths, that a server names as one file: a set of files is one name."""
    return _BETWEEN_URLS.split(file_name[1:-1] if file_name.startswith("[") else file_name)


def inputs(sources: Iterable[str]) -> list[tuple[str, str]]:
    """Return namespace and name of each object, and of what is too much only how many there are."""
    found = list(dict.fromkeys(named for source in sources if (named := _dataset(source))))
    shown, more = found[:MOST_INPUTS], found[MOST_INPUTS:]
    return [*shown, (more[0][0], f"and {len(more):,} more objects")] if more else shown


def _dataset(url: str) -> tuple[str, str] | None:
    """Return namespace and name as OpenLineage's naming page has them, or None of a path in Milvus's own bucket.

    What may be a secret is left out: a user, a query such as that of a SAS URL, a fragment.
    """
    # A key in S3 may hold "?" and "#". It is cut all the same, for what follows may be a signature.
    scheme, separator, rest = re.split("[?#]", url)[0].partition("://")
    authority, _, path = rest.partition("/")
    scheme, authority = scheme.lower(), authority.rpartition("@")[2].lower()
    if not separator or not authority:
        return None
    if scheme in ("s3", "gs"):
        return f"{scheme}://{authority}", path
    if scheme not in ("http", "https"):
        return None
    path = unquote(path)
    return _in_bucket(authority, path) or (f"{scheme}://{authority}", path)


def _in_bucket(host: str, path: str) -> tuple[str, str] | None:
    """Return namespace and name of an object in a storage whose https URLs are known, or None."""
    first, _, rest = path.partition("/")
    for storage, scheme in ((_S3, "s3"), (_GCS, "gs")):
        if found := storage.fullmatch(host):
            return (f"{scheme}://{found['bucket']}", path) if found["bucket"] else (f"{scheme}://{first}", rest)
    if found := _AZURE.fullmatch(host):
        # As openlineage-python's naming.dataset.WASBS has it.
        return f"wasbs://{first}@{found['account']}.dfs.core.windows.net", rest
    return None
