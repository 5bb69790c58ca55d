"""The v2 dialect: ``POST /v2/vectordb/jobs/import/…``.

Served by Milvus 2.4 and later, and by Zilliz Cloud. References:
https://milvus.io/api-reference/restful/v2.6.x/v2/Import%20(v2)/Describe.md and
https://docs.zilliz.com/reference/restful/get-import-job-progress-v2
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from airflow_provider_importprog.api import fields
from airflow_provider_importprog.api.model import Brief, ImportFile, ImportJob, ImportState
from airflow_provider_importprog.api.protocol import Address, ListPage, NewImportJob, Request, encode_json

NAME = "v2"
TWO_PHASE = True

_ROOT = "/v2/vectordb/jobs/import"
# Milvus before about 2.4.13 serves only the second, with the same body and answer.
PROGRESS_PATHS: tuple[str, ...] = (f"{_ROOT}/describe", f"{_ROOT}/get_progress")
# A state that is not listed here means that the import goes on.
_STATES = {
    "Pending": ImportState.PENDING,
    "PreImporting": ImportState.IMPORTING,
    "Importing": ImportState.IMPORTING,
    "Uncommitted": ImportState.UNCOMMITTED,
    "Committing": ImportState.COMMITTING,
    "Completed": ImportState.COMPLETED,
    "Failed": ImportState.FAILED,
}


# A gate sends the same one at every poll, and JSON is written slowly.
@lru_cache(maxsize=1024)
def progress_request(address: Address, job_id: str, path: str) -> Request:
    """Ask how far an import job is.

    :param path: one of :data:`PROGRESS_PATHS`.
    """
    return _post(path, address, {"jobId": job_id, **_deployment(address)}, job_id=job_id)


def parse_progress(data: Any, job_id: str, brief: Brief | None = None) -> ImportJob:
    """Read the answer to :func:`progress_request`, without its files where they are not needed."""
    answer = fields.mapping(data, "data")
    details = fields.items(answer.get("details"), "details")
    done = sum([detail.get("state") == "Completed" and not detail.get("reason") for detail in details])
    job = _parse_job(answer, fields.identifier(answer, "jobId", expected=job_id), counts=(done, len(details)))
    if brief is not None and brief(job):
        return job
    return replace(job, files=tuple([_parse_file(detail) for detail in details]), counts=None)


def list_request(address: Address, collection_name: str | None, page: int, page_size: int) -> Request:
    """Ask for one page of the import jobs; Milvus ignores the paging and answers them all."""
    body = {
        "collectionName": collection_name,
        "dbName": address.db_name,
        **_deployment(address),
        "pageSize": page_size,
        "currentPage": page,
    }
    return _post(f"{_ROOT}/list", address, body)


def parse_list(data: Any) -> ListPage:
    """Read the answer to :func:`list_request`. Milvus does not count them, and answers all of them at once."""
    answer = fields.mapping(data, "data")
    records = fields.items(answer.get("records"), "records")
    jobs = [_parse_job(record, fields.identifier(record, "jobId")) for record in records]
    # Zilliz Cloud leaves it out: https://docs.zilliz.com/reference/restful/list-import-jobs-v2
    shows_progress = any(record.get("progress") is not None for record in records)
    return ListPage(jobs, fields.count(answer, "count"), shows_progress)


def create_request(address: Address, new: NewImportJob) -> Request:
    """Submit files, objects, or paths of a volume."""
    body = {
        "collectionName": new.collection_name,
        "dbName": address.db_name,
        "partitionName": new.partition_name,
        "files": new.files,
        "objectUrls": new.object_urls,
        "volumeName": new.volume_name,
        "dataPaths": new.data_paths,
        "accessKey": new.access_key,
        "secretKey": new.secret_key,
        "token": new.session_token,
        "options": new.options,
        **_deployment(address),
    }
    # A server that does not know the header ignores it, so the request is not safe to repeat.
    headers = {} if new.idempotency_key is None else {"Idempotency-Key": new.idempotency_key}
    return _post(f"{_ROOT}/create", address, body, headers=headers, repeatable=False)


def parse_create(data: Any) -> str:
    """Read the answer to :func:`create_request`: the new job's id."""
    return fields.identifier(fields.mapping(data, "data"), "jobId")


def end_request(address: Address, job_id: str, verb: str) -> Request:
    """End a two-phase import; Milvus 3.0 and later.

    :param verb: ``commit`` to make its rows visible, ``abort`` to drop them.
    """
    body = {"jobId": job_id, **_deployment(address)}
    return _post(f"{_ROOT}/{verb}", address, body, job_id=job_id, repeatable=False)


def refresh_load_request(address: Address, collection_name: str) -> Request:
    """Load into memory what a loaded collection has gained; Milvus alone."""
    body = {"collectionName": collection_name, "dbName": address.db_name}
    return _post("/v2/vectordb/collections/refresh_load", address, body, repeatable=False)


def _deployment(address: Address) -> dict[str, str | None]:
    """Return the keys of a body that name a cluster, or a project with its region."""
    if address.cluster_id is not None:
        return {"clusterId": address.cluster_id}
    return {"projectId": address.project_id, "regionId": address.region_id}


def _post(
    path: str,
    address: Address,
    body: Mapping[str, Any],
    *,
    headers: Mapping[str, str] | None = None,
    job_id: str | None = None,
    repeatable: bool = True,
) -> Request:
    # Role checks read the database from the header, whatever the body says.
    database = {} if address.db_name is None else {"DB-Name": address.db_name}
    return Request("POST", path, encode_json(body), {**database, **(headers or {})}, repeatable, job_id)


def _parse_job(job: Mapping[str, Any], job_id: str, counts: tuple[int, int] | None = None) -> ImportJob:
    state = _STATES.get(fields.required_text(job, "state"), ImportState.IMPORTING)
    return ImportJob(
        job_id=job_id,
        collection_name=fields.text(job, "collectionName") or "",
        # The job's own state decides: it may still be importing when every file is completed.
        state=state,
        progress=_progress(job, state),
        file_size=fields.count(job, "fileSize"),
        imported_rows=fields.count(job, "importedRows"),
        total_rows=fields.count(job, "totalRows"),
        complete_time=fields.timestamp(job, "completeTime"),
        error_message=fields.text(job, "reason"),
        create_time=fields.informative_timestamp(job, "createTime"),
        counts=counts,
    )


def _parse_file(detail: Mapping[str, Any]) -> ImportFile:
    state = _STATES.get(fields.text(detail, "state") or "", ImportState.IMPORTING)
    return ImportFile(
        file_name=fields.text(detail, "fileName") or "",
        file_size=fields.count(detail, "fileSize"),
        state=state,
        progress=_progress(detail, state),
        imported_rows=fields.count(detail, "importedRows"),
        total_rows=fields.count(detail, "totalRows"),
        complete_time=fields.timestamp(detail, "completeTime"),
        error_message=fields.text(detail, "reason"),
    )


def _progress(entry: Mapping[str, Any], state: ImportState) -> float:
    return 100.0 if state is ImportState.COMPLETED else fields.percent(entry.get("progress"))
