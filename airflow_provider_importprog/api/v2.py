"""The v2 dialect: ``POST /v2/vectordb/jobs/import/…``.

Served by Milvus 2.4 and later, and by Zilliz Cloud. References:
https://milvus.io/api-reference/restful/v2.6.x/v2/Import%20(v2)/Describe.md and
https://docs.zilliz.com/reference/restful/get-import-job-progress-v2
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from airflow_provider_importprog.api import fields
from airflow_provider_importprog.api.model import Brief, ImportFile, ImportJob, ImportState
from airflow_provider_importprog.api.protocol import Address, NewImportJob, Request, encode_json

NAME = "v2"
TWO_PHASE = True

_ROOT = "/v2/vectordb/jobs/import"
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


def progress_request(address: Address, job_id: str) -> Request:
    """Ask how far an import job is."""
    return _post("describe", address, {"jobId": job_id, **_place(address)}, job_id=job_id)


def parse_progress(data: Any, job_id: str, brief: Brief | None = None) -> ImportJob:
    """Read the answer to :func:`progress_request`, without its files where they are not needed."""
    answer = fields.mapping(data, "data")
    details = fields.items(answer.get("details"), "details")
    done = sum([detail.get("state") == "Completed" for detail in details])
    job = _parse_job(answer, fields.identifier(answer, "jobId", expected=job_id), counts=(done, len(details)))
    if brief is not None and brief(job):
        return job
    return replace(job, files=tuple([_parse_file(detail) for detail in details]), counts=None)


def list_request(address: Address, collection_name: str | None, page: int, page_size: int) -> Request:
    """Ask for one page of the import jobs; Milvus ignores the paging and answers them all."""
    body = {
        "collectionName": collection_name,
        "dbName": address.db_name,
        **_place(address),
        "pageSize": page_size,
        "currentPage": page,
    }
    return _post("list", address, body)


def parse_list(data: Any) -> tuple[list[ImportJob], int | None]:
    """Read the answer to :func:`list_request`: jobs without their files, and how many there are in all.

    Milvus does not say how many, and answers all of them at once.
    """
    answer = fields.mapping(data, "data")
    records = fields.items(answer.get("records"), "records")
    jobs = [_parse_job(record, fields.identifier(record, "jobId")) for record in records]
    return jobs, fields.count(answer, "count")


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
        **_place(address),
    }
    # A server that does not know the header ignores it, so the request is not safe to repeat.
    headers = {} if new.idempotency_key is None else {"Idempotency-Key": new.idempotency_key}
    return _post("create", address, body, headers=headers, repeatable=False)


def parse_create(data: Any) -> str:
    """Read the answer to :func:`create_request`: the new job's id."""
    return fields.identifier(fields.mapping(data, "data"), "jobId")


def commit_request(address: Address, job_id: str) -> Request:
    """Make the rows of an uncommitted job visible; Milvus 3.0 and later."""
    return _post("commit", address, {"jobId": job_id, **_place(address)}, job_id=job_id, repeatable=False)


def abort_request(address: Address, job_id: str) -> Request:
    """Drop the rows of an uncommitted job; Milvus 3.0 and later."""
    return _post("abort", address, {"jobId": job_id, **_place(address)}, job_id=job_id, repeatable=False)


def _place(address: Address) -> dict[str, str | None]:
    """Return the keys that say where: a cluster, or a project with its region."""
    if address.cluster_id is not None:
        return {"clusterId": address.cluster_id}
    return {"projectId": address.project_id, "regionId": address.region_id}


def _post(
    call: str,
    address: Address,
    body: Mapping[str, Any],
    *,
    headers: Mapping[str, str] | None = None,
    job_id: str | None = None,
    repeatable: bool = True,
) -> Request:
    # Role checks read the database from the header, whatever the body says.
    database = {} if address.db_name is None else {"DB-Name": address.db_name}
    return Request("POST", f"{_ROOT}/{call}", encode_json(body), {**database, **(headers or {})}, repeatable, job_id)


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
