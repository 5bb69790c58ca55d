"""The v1 dialect: ``GET /v1/vector/collections/import/get``, and its siblings.

Served by Zilliz Cloud's control plane, and announced as about to be deprecated. Reference:
https://docs.zilliz.com/reference/restful/get-import-progress
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

from airflow_provider_importprog.api import fields
from airflow_provider_importprog.api.errors import Unsupported
from airflow_provider_importprog.api.model import Brief, ImportFile, ImportJob, ImportState
from airflow_provider_importprog.api.protocol import Address, ListPage, NewImportJob, Request, encode_json

NAME = "v1"
TWO_PHASE = False

_ROOT = "/v1/vector/collections/import"
PROGRESS_PATHS: tuple[str, ...] = (f"{_ROOT}/get",)
_LIST_STATES = {
    "ImportPending": ImportState.PENDING,
    "ImportCompleted": ImportState.COMPLETED,
    "ImportFailed": ImportState.FAILED,
    "ImportFailedAndCleaned": ImportState.FAILED,
}


def progress_request(address: Address, job_id: str, path: str) -> Request:
    """Ask how far an import job is.

    :param path: one of :data:`PROGRESS_PATHS`.
    """
    return _get(path, {"jobId": job_id, "clusterId": address.cluster_id}, job_id)


def parse_progress(data: Any, job_id: str, brief: Brief | None = None) -> ImportJob:
    """Read the answer to :func:`progress_request`, without its files where they are not needed."""
    answer = fields.mapping(data, "data")
    details = fields.items(answer.get("details"), "details")
    # Older answers name the one file on the job itself.
    if not details and fields.text(answer, "fileName") is not None:
        details = [answer]
    scale = _percent_scale([answer, *details])
    state = _state(answer)
    done = sum([_state(detail) is ImportState.COMPLETED for detail in details])
    job = ImportJob(
        job_id=fields.identifier(answer, "jobId", expected=job_id),
        collection_name=fields.text(answer, "collectionName") or "",
        state=state,
        progress=_progress(answer, state, scale),
        file_size=fields.count(answer, "fileSize"),
        complete_time=fields.timestamp(answer, "completeTime"),
        error_message=fields.text(answer, "errorMessage"),
        counts=(done, len(details)),
    )
    if brief is not None and brief(job):
        return job
    return replace(job, files=tuple([_parse_file(detail, scale) for detail in details]), counts=None)


def list_request(address: Address, collection_name: str | None, page: int, page_size: int) -> Request:
    """Ask for one page of a cluster's import jobs; v1 cannot ask for one collection's."""
    query = {"clusterId": address.cluster_id, "pageSize": page_size, "currentPage": page}
    return _get(f"{_ROOT}/list", query)


def parse_list(data: Any) -> ListPage:
    """Read the answer to :func:`list_request`."""
    answer = fields.mapping(data, "data")
    # Older pages of the reference name them records.
    records = fields.items(answer.get("tasks", answer.get("records")), "tasks")
    jobs = [_parse_record(record) for record in records]
    return ListPage(jobs, fields.count(answer, "count"), shows_progress=False)


def create_request(address: Address, new: NewImportJob) -> Request:
    """Submit one object. There is no such thing as an idempotency key here, so it is left out.

    :raises Unsupported: more than one object, or anything else that only v2 takes.
    """
    only_v2 = ("files", "volume_name", "data_paths", "session_token", "options")
    refused = [name for name in only_v2 if getattr(new, name)]
    urls = [url for entry in new.object_urls or () for url in entry]
    if refused or len(urls) != 1:
        given = ", ".join(refused) if refused else f"{len(urls)} objects"
        raise Unsupported(
            f"The v1 import API takes exactly one object URL, and was given {given}. "
            "Set api_version to v2 in the connection's extra."
        )
    body = {
        "clusterId": address.cluster_id,
        "collectionName": new.collection_name,
        "partitionName": new.partition_name,
        "objectUrl": urls[0],
        "accessKey": new.access_key,
        "secretKey": new.secret_key,
    }
    return Request("POST", _ROOT, encode_json(body), repeatable=False)


def parse_create(data: Any) -> str:
    """Read the answer to :func:`create_request`: the new job's id."""
    return fields.identifier(fields.mapping(data, "data"), "jobId")


def end_request(address: Address, job_id: str, verb: str) -> Request:
    """Refuse: v1 has no two-phase import.

    :raises Unsupported: always.
    """
    raise Unsupported(
        f"The v1 import API cannot {verb} an import job. Two-phase imports need Milvus 3.0 or later and "
        "api_version v2 in the connection's extra."
    )


def refresh_load_request(address: Address, collection_name: str) -> Request:
    """Refuse: v1 has no such call.

    :raises Unsupported: always.
    """
    raise Unsupported(
        "The v1 API cannot refresh what is loaded of a collection. It needs Milvus, and api_version v2 or auto in the "
        "connection's extra."
    )


def _get(path: str, query: Mapping[str, Any], job_id: str | None = None) -> Request:
    known = {name: value for name, value in query.items() if value is not None}
    return Request("GET", f"{path}?{urlencode(known)}", job_id=job_id)


def _state(entry: Mapping[str, Any]) -> ImportState:
    """Infer the state of a job or a file, which v1 does not tell."""
    if fields.text(entry, "errorMessage") is not None:
        return ImportState.FAILED
    if fields.timestamp(entry, "completeTime") is not None:
        return ImportState.COMPLETED
    # A null completeTime is still going on, whatever the percentage: only a missing key leaves it to that.
    if "completeTime" not in entry and fields.percent(entry.get("readyPercentage")) >= 100:
        return ImportState.COMPLETED
    return ImportState.IMPORTING


def _percent_scale(entries: Sequence[Mapping[str, Any]]) -> float:
    """Return what turns this answer's percentages into 0 to 100.

    The reference calls the number a percentage. A completed job or file that shows 1 proves that this server
    counts to 1 instead.
    """
    shown = [fields.percent(entry.get("readyPercentage")) for entry in entries]
    proof = any(
        percent == 1 and _state(entry) is ImportState.COMPLETED for entry, percent in zip(entries, shown, strict=True)
    )
    return 100.0 if proof and max(shown) <= 1 else 1.0


def _progress(entry: Mapping[str, Any], state: ImportState, scale: float) -> float:
    if state is ImportState.COMPLETED:
        return 100.0
    return fields.percent(fields.percent(entry.get("readyPercentage")) * scale)


def _parse_file(detail: Mapping[str, Any], scale: float) -> ImportFile:
    state = _state(detail)
    return ImportFile(
        file_name=fields.text(detail, "fileName") or "",
        file_size=fields.count(detail, "fileSize"),
        state=state,
        progress=_progress(detail, state, scale),
        complete_time=fields.timestamp(detail, "completeTime"),
        error_message=fields.text(detail, "errorMessage"),
    )


def _parse_record(record: Mapping[str, Any]) -> ImportJob:
    state = _LIST_STATES.get(fields.text(record, "state") or "", ImportState.IMPORTING)
    return ImportJob(
        job_id=fields.identifier(record, "jobId"),
        collection_name=fields.text(record, "collectionName") or "",
        state=state,
        progress=100.0 if state is ImportState.COMPLETED else 0.0,
    )
