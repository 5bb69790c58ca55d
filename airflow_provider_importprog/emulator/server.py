"""The import API over HTTP: both dialects and the emulator's own controls on one port."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable, Collection
from datetime import datetime
from typing import Any

from aiohttp import web

from airflow_provider_importprog.emulator import backend as api
from airflow_provider_importprog.emulator.backend import (
    ApiError,
    Backend,
    FileStatus,
    ImportRequest,
    JobStatus,
)
from airflow_provider_importprog.emulator.faults import Faults

DIALECTS = ("v1", "v2")
CONTROL = "/emulator"
V1, V2 = "/v1/vector/collections/import", "/v2/vectordb/jobs/import"
CHANGES = (V1, f"{V2}/create", f"{V2}/commit", f"{V2}/abort")
"""Where a request changes something."""

LONGEST_KEY = 256
"""Bytes of an `Idempotency-Key`."""
SILENCE_POLL_SECONDS = 0.05

PROXY_PAGE = "<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"
V1_STATES = {api.COMPLETED: "ImportCompleted", api.FAILED: "ImportFailed"}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """Puts the wire's words before a backend.

    :param token: what clients must send as ``Authorization: Bearer <token>``; None lets everyone in.
    :param dialects: which of `DIALECTS` to serve; the other answers 404 as plain text, as an unknown route.
    :param idempotency: False ignores the header `Idempotency-Key`, as Milvus before 2.6.24 and 3.0.2.
    """

    def __init__(
        self,
        backend: Backend,
        faults: Faults,
        token: str | None = None,
        dialects: Collection[str] = DIALECTS,
        idempotency: bool = True,
    ) -> None:
        self._backend = backend
        self._faults = faults
        self._token = token
        self._dialects = tuple(dialects)
        self._idempotency = idempotency
        self._jobs_by_key: dict[tuple[str, str, str], str] = {}
        self._create_requests = 0
        self._creating = asyncio.Lock()

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._trouble, self._answer])
        if "v1" in self._dialects:
            app.router.add_get(f"{V1}/get", self._v1_get)
            app.router.add_get(f"{V1}/list", self._v1_list)
            app.router.add_post(V1, self._v1_create)
        if "v2" in self._dialects:
            for name in ("describe", "get_progress", "getProgress"):
                app.router.add_post(f"{V2}/{name}", self._v2_describe)
            app.router.add_post(f"{V2}/list", self._v2_list)
            app.router.add_post(f"{V2}/create", self._v2_create)
            app.router.add_post(f"{V2}/commit", self._v2_commit)
            app.router.add_post(f"{V2}/abort", self._v2_abort)
        app.router.add_get(CONTROL, self._control_show)
        app.router.add_post(f"{CONTROL}/outage", self._control_outage)
        app.router.add_post(f"{CONTROL}/rate_limit", self._control_rate_limit)
        app.router.add_post(f"{CONTROL}/restore", self._control_restore)
        app.router.add_post(f"{CONTROL}/forget", self._control_forget)
        app.router.add_post(f"{CONTROL}/fail_file", self._control_fail_file)
        return app

    @web.middleware
    async def _trouble(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let a request meet what `Faults` has for it; the controls stay within reach."""
        if request.path == CONTROL or request.path.startswith(CONTROL + "/"):
            return await handler(request)
        outage = self._faults.next_outage()
        if outage == "drop":
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=503)  # never arrives
        if outage == "html":
            return web.Response(status=502, text=PROXY_PAGE, content_type="text/html")
        if outage == "unavailable":
            return error(api.UNEXPECTED, "service unavailable", status=503)
        retry_after = self._faults.next_retry_after()
        if retry_after is not None:
            refused = error(api.RATE_LIMITED, "request is rejected by limiter", status=429)
            refused.headers["Retry-After"] = str(retry_after)
            return refused
        answer = await handler(request)
        if request.path in CHANGES:
            while self._faults.next_outage() == "silent":  # noqa: ASYNC110 (a test's clock wakes nobody)
                await asyncio.sleep(SILENCE_POLL_SECONDS)
        return answer

    @web.middleware
    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Check the token and put errors into the API's words."""
        if request.match_info.http_exception is not None:
            return web.Response(status=404, text="404 page not found")
        if not self._authenticated(request):
            return error(api.NOT_AUTHENTICATED, "user hasn't authenticated", status=401)
        try:
            return await handler(request)
        except ApiError as problem:
            return error(problem.code, problem.message)

    def _authenticated(self, request: web.Request) -> bool:
        if self._token is None:
            return True
        given = request.headers.get("Authorization", "").encode(errors="surrogateescape")
        return hmac.compare_digest(given, f"Bearer {self._token}".encode())

    # v1: the seed's API, as Zilliz Cloud's control plane answers it

    async def _v1_get(self, request: web.Request) -> web.Response:
        job_id = text(request.query, "jobId", required=True)
        return v1_answer(v1_job(await asyncio.to_thread(self._backend.get, job_id)))

    async def _v1_list(self, request: web.Request) -> web.Response:
        size, page = (positive(request.query.get(key), key, unset) for key, unset in V1_PAGING)
        jobs = await asyncio.to_thread(self._backend.list)
        tasks = [
            {
                "collectionName": job.collection_name,
                "jobId": job.job_id,
                "state": V1_STATES.get(job.state, "ImportRunning"),
            }
            for job in jobs[(page - 1) * size : page * size]
        ]
        return v1_answer({"tasks": tasks, "count": len(jobs), "currentPage": page, "pageSize": size})

    async def _v1_create(self, request: web.Request) -> web.Response:
        body = await json_object(request)
        if not body.get("objectUrl"):
            raise missing("objectUrl")
        # Only v2 documents the header.
        return v1_answer({"jobId": await self._create(request, body)})

    # v2: as Milvus answers it

    async def _v2_describe(self, request: web.Request) -> web.Response:
        job_id = text(await json_object(request), "jobId", required=True)
        return v2_answer(v2_job(await asyncio.to_thread(self._backend.get, job_id)))

    async def _v2_list(self, request: web.Request) -> web.Response:
        collection_name = text(await json_object(request), "collectionName")
        jobs = await asyncio.to_thread(self._backend.list, collection_name)
        return v2_answer({"records": [v2_record(job) for job in jobs]})

    async def _v2_create(self, request: web.Request) -> web.Response:
        body = await json_object(request)
        return v2_answer({"jobId": await self._create(request, body, self._idempotency_key(request))})

    async def _v2_commit(self, request: web.Request) -> web.Response:
        job_id = text(await json_object(request), "jobId", required=True)
        await asyncio.to_thread(self._backend.commit, job_id)
        return v2_answer({})

    async def _v2_abort(self, request: web.Request) -> web.Response:
        job_id = text(await json_object(request), "jobId", required=True)
        await asyncio.to_thread(self._backend.abort, job_id)
        return v2_answer({})

    def _idempotency_key(self, request: web.Request) -> str:
        """Read the key of a create request, in Milvus's own terms; empty where there is none that counts."""
        key = request.headers.get("Idempotency-Key", "") if self._idempotency else ""
        if len(key) > LONGEST_KEY or not (key.isascii() and key.isprintable()):
            raise wrong("Idempotency-Key", f"printable ASCII, at most {LONGEST_KEY} bytes")
        return key

    async def _create(self, request: web.Request, body: dict[str, Any], key: str = "") -> str:
        wanted = ImportRequest(
            collection_name=text(body, "collectionName", required=True),
            entries=entries_of(body),
            partition_name=text(body, "partitionName"),
            db_name=text(body, "dbName") or request.headers.get("DB-Name", ""),
            options=options_of(body),
        )
        self._create_requests += 1
        if not key:
            return await asyncio.to_thread(self._backend.create, wanted)
        async with self._creating:  # a repeat may come while the first is still under way
            # Whatever the files: Milvus does not compare the two requests.
            scoped = wanted.db_name, wanted.collection_name, key
            if scoped not in self._jobs_by_key:
                self._jobs_by_key[scoped] = await asyncio.to_thread(self._backend.create, wanted)
            return self._jobs_by_key[scoped]

    # the emulator's own controls

    async def _control_show(self, request: web.Request) -> web.Response:
        jobs = await asyncio.to_thread(self._backend.list)
        return v2_answer(
            {
                "backend": self._backend.name,
                "dialects": list(self._dialects),
                "idempotency": self._idempotency,
                **self._backend.describe(),
                "createRequests": self._create_requests,
                "jobs": [v2_record(job) for job in jobs],
            }
        )

    async def _control_outage(self, request: web.Request) -> web.Response:
        body = await json_object(request)
        return self._control(lambda: self._faults.outage(number(body, "seconds"), body.get("kind") or "unavailable"))

    async def _control_rate_limit(self, request: web.Request) -> web.Response:
        body = await json_object(request)
        return self._control(
            lambda: self._faults.rate_limit(
                number(body, "seconds") if "seconds" in body else None,
                positive(body["requests"], "requests") if "requests" in body else None,
                positive(body.get("retryAfter"), "retryAfter", 1),
            )
        )

    async def _control_restore(self, request: web.Request) -> web.Response:
        self._faults.restore()
        return v2_answer({})

    async def _control_forget(self, request: web.Request) -> web.Response:
        job_id = text(await json_object(request), "jobId", required=True)
        self._backend.forget(job_id)
        return v2_answer({})

    async def _control_fail_file(self, request: web.Request) -> web.Response:
        body = await json_object(request)
        self._backend.fail_file(text(body, "pattern", required=True), text(body, "reason"))
        return v2_answer({})

    def _control(self, change: Callable[[], None]) -> web.Response:
        try:
            change()
        except ValueError as problem:
            raise ApiError(api.PARAMETER_INVALID, str(problem)) from None
        return v2_answer({})


# What a request says

V1_PAGING = (("pageSize", 10), ("currentPage", 1))
SOURCES = ("files", "objectUrls", "dataPaths", "objectUrl")


async def json_object(request: web.Request) -> dict[str, Any]:
    """Read the request's body; whatever its content type, as Milvus does."""
    try:
        body = json.loads(await request.read())
    except ValueError as problem:
        raise ApiError(api.NOT_JSON, f"can only accept json format request, error: {problem}") from None
    if not isinstance(body, dict):
        raise ApiError(api.NOT_JSON, "can only accept json format request, error: the body is not an object")
    return body


def missing(key: str) -> ApiError:
    """Say that a parameter is not there."""
    return ApiError(api.PARAMETER_MISSING, f"missing required parameters, error: '{key}' is required")


def wrong(key: str, expected: str) -> ApiError:
    """Say what a parameter should be."""
    return ApiError(api.PARAMETER_INVALID, f"invalid parameter[expected={expected}][actual={key}]")


def text(values: Any, key: str, required: bool = False) -> str:
    """Read a string; null and empty stand for unset."""
    value = values.get(key)
    if value is None or value == "":
        if required:
            raise missing(key)
        return ""
    if not isinstance(value, str):
        raise ApiError(api.NOT_JSON, f"can only accept json format request, error: '{key}' must be a string")
    return value


def number(values: dict[str, Any], key: str) -> float:
    """Read a number above 0."""
    value = values.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise wrong(key, "a number above 0")
    return float(value)


def positive(value: Any, key: str, unset: int | None = None) -> int:
    """Read an integer above 0, which a query has as text."""
    if value is None and unset is not None:
        return unset
    try:
        found = int(value)
    except (TypeError, ValueError):
        found = 0
    if found < 1:
        raise wrong(key, "an integer above 0")
    return found


def entries_of(body: dict[str, Any]) -> tuple[tuple[str, ...], ...]:
    """Read the files to import from whichever key names them; unset ones may come as null or empty."""
    key = next((key for key in SOURCES if body.get(key)), None)
    if key is None:
        raise missing("files")
    found = [[body[key]]] if key == "objectUrl" else body[key]
    if not isinstance(found, list) or not all(is_entry(entry) for entry in found):
        raise ApiError(
            api.NOT_JSON,
            f"can only accept json format request, error: '{key}' must be a list of lists of paths",
        )
    return tuple(tuple(entry) for entry in found)


def is_entry(entry: Any) -> bool:
    """Say whether this is a list of paths."""
    return isinstance(entry, list) and bool(entry) and all(isinstance(path, str) and path for path in entry)


def options_of(body: dict[str, Any]) -> dict[str, str]:
    """Read the options; a JSON boolean is refused, as Milvus does."""
    options = body.get("options") or {}
    if not isinstance(options, dict) or not all(isinstance(value, str) for value in options.values()):
        raise ApiError(api.NOT_JSON, "can only accept json format request, error: 'options' must be a map of strings")
    return options


# What an answer says


def error(code: int, message: str, status: int = 200) -> web.Response:
    """Answer an error in the words of both dialects."""
    return web.json_response({"code": code, "message": message}, status=status)


def v1_answer(data: dict[str, Any]) -> web.Response:
    """Answer success in v1."""
    return web.json_response({"code": 200, "data": data})


def v2_answer(data: dict[str, Any]) -> web.Response:
    """Answer success in v2."""
    return web.json_response({"code": 0, "data": data})


def timestamp(moment: datetime | None) -> str:
    """Write a moment in UTC to the second; empty where there is none yet."""
    return "" if moment is None else moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def v1_job(job: JobStatus) -> dict[str, Any]:
    """Write a job as v1 `get` does."""
    return {
        "collectionName": job.collection_name,
        "fileName": ",".join(job.files[0].paths),
        "fileSize": job.size,
        "readyPercentage": job.progress,
        "completeTime": timestamp(job.complete_time) or None,
        "errorMessage": job.reason or None,
        "jobId": job.job_id,
        "details": [v1_file(file) for file in job.files],
    }


def v1_file(file: FileStatus) -> dict[str, Any]:
    """Write one of the `details` of v1."""
    return {
        "fileName": ",".join(file.paths),
        "fileSize": file.size,
        "readyPercentage": file.progress,
        "completeTime": timestamp(file.complete_time) or None,
        "errorMessage": file.reason or None,
    }


def v2_job(job: JobStatus) -> dict[str, Any]:
    """Write a job as v2 `describe` does; `fileName` is a list in brackets, as Go prints one."""
    return {
        "jobId": job.job_id,
        "collectionName": job.collection_name,
        "fileSize": job.size,
        **v2_progress(job),
        "details": [
            {"fileName": f"[{' '.join(file.paths)}]", "fileSize": file.size, **v2_progress(file)} for file in job.files
        ],
    }


def v2_record(job: JobStatus) -> dict[str, Any]:
    """Write a job as v2 `list` does."""
    record = {
        "jobId": job.job_id,
        "collectionName": job.collection_name,
        "state": job.state,
        "progress": job.progress,
    }
    return {**record, "reason": job.reason} if job.reason else record


def v2_progress(what: JobStatus | FileStatus) -> dict[str, Any]:
    """Write what a job and a file have in common; Milvus leaves an empty reason out."""
    progress = {
        "state": what.state,
        "progress": what.progress,
        "completeTime": timestamp(what.complete_time),
        "importedRows": what.imported_rows,
        "totalRows": what.total_rows,
    }
    return {**progress, "reason": what.reason} if what.reason else progress
