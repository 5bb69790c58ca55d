"""The import API over HTTP: both dialects and the emulator's own controls on one port."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import json
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime
from typing import Any
from urllib.parse import unquote, urlsplit

from aiohttp import web

from airflow_provider_importprog.emulator import backend as api
from airflow_provider_importprog.emulator.backend import (
    ApiError,
    Backend,
    Collections,
    FileStatus,
    ImportRequest,
    JobStatus,
    UnknownJobError,
)
from airflow_provider_importprog.emulator.profile import ServerProfile, server_profile
from airflow_provider_importprog.emulator.simulated import simulated
from airflow_provider_importprog.emulator.state import ServerState

CONTROL = "/emulator"
V1, V2 = "/v1/vector/collections/import", "/v2/vectordb/jobs/import"
COLLECTIONS, ENTITIES, ALIASES = "/v2/vectordb/collections", "/v2/vectordb/entities", "/v2/vectordb/aliases"
REFRESH_LOAD = f"{COLLECTIONS}/refresh_load"
CALL_OF_PATH = {
    f"{V1}/get": "get",
    f"{V1}/list": "list",
    V1: "create",
    f"{V2}/describe": "describe",
    f"{V2}/get_progress": "describe",
    f"{V2}/getProgress": "describe",
    f"{V2}/list": "list",
    f"{V2}/create": "create",
    f"{V2}/commit": "commit",
    f"{V2}/abort": "abort",
    REFRESH_LOAD: "refresh_load",
}
"""The paths of the import API; other paths are the emulator's own."""
CHANGES = ("create", "commit", "abort")
"""Calls that change something."""

LONGEST_KEY = 256
"""Bytes of an `Idempotency-Key`."""
CLOCK_POLL_SECONDS = 0.05
BUCKET = "a-bucket"
"""What profile setting ``file_names="bucket"`` puts before a name."""

JOB_LIMIT = (
    "The number of jobs has reached the limit, please try again later. If your request is set to only import a "
    "single file, please consider importing multiple files in one request for better efficiency.: importing data failed"
)
PROXY_PAGE = "<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"
V1_STATES = {api.COMPLETED: "ImportCompleted", api.FAILED: "ImportFailed"}
ZILLIZ_STATES = {api.COMPLETED: "Completed", api.FAILED: "Failed", api.PENDING: "Pending"}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Call = Callable[[web.Request], Awaitable[dict[str, Any] | list[dict[str, Any]]]]


class Server:
    """Answers requests from a backend."""

    def __init__(self, backend: Backend, state: ServerState) -> None:
        self._backend = backend
        self._state = state
        self._creating = asyncio.Lock()
        self._late: set[asyncio.Task[None]] = set()

    @property
    def _profile(self) -> ServerProfile:
        return self._state.profile

    def app(self) -> web.Application:
        """Build the application: every route is there, and the profile says which are served."""
        app = web.Application(middlewares=[self._answer])
        app.router.add_get(f"{V1}/get", self._api(self._v1_get, 200))
        app.router.add_get(f"{V1}/list", self._api(self._v1_list, 200))
        app.router.add_post(V1, self._api(self._v1_create, 200))
        for name in ("describe", "get_progress", "getProgress"):
            app.router.add_post(f"{V2}/{name}", self._api(self._v2_describe))
        app.router.add_post(f"{V2}/list", self._api(self._v2_list))
        app.router.add_post(f"{V2}/create", self._api(self._v2_create))
        app.router.add_post(f"{V2}/commit", self._api(self._v2_commit))
        app.router.add_post(f"{V2}/abort", self._api(self._v2_abort))
        app.router.add_post(REFRESH_LOAD, self._api(self._v2_refresh_load))
        if isinstance(self._backend, Collections):
            rows = self._backend
            app.router.add_post(f"{COLLECTIONS}/create", self._control(self._on_collection(rows.create_collection)))
            app.router.add_post(f"{COLLECTIONS}/drop", self._control(self._on_collection(rows.drop_collection)))
            app.router.add_post(f"{ENTITIES}/query", self._control(self._on_collection(rows.query)))
            app.router.add_post(f"{ENTITIES}/search", self._control(self._on_collection(rows.search)))
        app.router.add_post(f"{ALIASES}/create", self._api(self._v2_alias))
        app.router.add_post(f"{ALIASES}/alter", self._api(self._v2_alias))
        app.router.add_get(CONTROL, self._control(self._control_show))
        for name, control in (
            ("outage", self._control_outage),
            ("rate_limit", self._control_rate_limit),
            ("answer", self._control_answer),
            ("time_out", self._control_time_out),
            ("restore", self._control_restore),
            ("profile", self._control_profile),
            ("forget", self._control_forget),
            ("fail_file", self._control_fail_file),
            ("lose_rows", self._control_lose_rows),
            ("collections", self._control_collections),
        ):
            app.router.add_post(f"{CONTROL}/{name}", self._control(control))
        return app

    @web.middleware
    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Apply the faults to a request; the emulator's own paths meet no outage and no rate limit."""
        call = CALL_OF_PATH.get(request.path)
        if call is not None:
            self._state.requests[request.path] += 1
        if not is_own(request.path) and (met := self._trouble(request)) is not None:
            return met
        if request.match_info.http_exception is not None or not self._serves(request.path):
            return web.Response(status=404, text="404 page not found")
        if not self._authenticated(request):
            return error(api.NOT_AUTHENTICATED, "user hasn't authenticated", status=401)
        if call is None:
            return await handler(request)
        wanted = self._state.faults.next_answer(call)
        if wanted is not None:
            if wanted.done:
                # After the answer aiohttp no longer reads the body.
                await request.read()
                await self._do(request, handler, wanted.delay)
            refused = self._say(wanted.code, wanted.status, message=wanted.message)
            if wanted.retry_after is not None:
                refused.headers["Retry-After"] = str(wanted.retry_after)
            return refused
        answer = await handler(request)
        if call in CHANGES:
            while self._state.faults.next_outage() == "silent":  # noqa: ASYNC110 (a test's clock notifies nobody)
                await asyncio.sleep(CLOCK_POLL_SECONDS)
        return answer

    def _trouble(self, request: web.Request) -> web.Response | None:
        outage = self._state.faults.next_outage()
        if outage == "drop":
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=503)  # never arrives
        if outage == "html":
            return web.Response(status=502, text=PROXY_PAGE, content_type="text/html")
        if outage == "unavailable":
            return error(api.UNEXPECTED, "service unavailable", status=503)
        retry_after = self._state.faults.next_retry_after()
        if retry_after is None:
            return None
        refused = error(api.RATE_LIMITED, "request is rejected by limiter", status=429)
        refused.headers["Retry-After"] = str(retry_after)
        return refused

    async def _do(self, request: web.Request, handler: Handler, delay: float) -> None:
        """Do what was requested, by now or so many seconds later, whatever was answered."""
        if not delay:
            await handler(request)
            return
        due = self._state.faults.now() + delay

        async def later() -> None:
            while self._state.faults.now() < due:  # noqa: ASYNC110 (as above)
                await asyncio.sleep(CLOCK_POLL_SECONDS)
            await handler(request)

        task = asyncio.create_task(later())
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    def _serves(self, path: str) -> bool:
        """Say whether the server of this profile has the path."""
        profile = self._profile
        if path.startswith("/v1/"):
            return "v1" in profile.dialects
        if path.startswith("/v2/") and "v2" not in profile.dialects:
            return False
        unserved = {
            f"{V2}/describe": not profile.describe,
            f"{V2}/commit": not profile.two_phase,
            f"{V2}/abort": not profile.two_phase,
            REFRESH_LOAD: not profile.refresh_load,
        }
        return not unserved.get(path, False)

    def _authenticated(self, request: web.Request) -> bool:
        if self._state.token is None:
            return True
        given = request.headers.get("Authorization", "").encode(errors="surrogateescape")
        return hmac.compare_digest(given, f"Bearer {self._state.token}".encode())

    def _api(self, call: Call, success: int = 0) -> Handler:
        """Write a call's answer, or its error, as the API does."""

        async def handler(request: web.Request) -> web.Response:
            try:
                return self._say(success, data=await call(request))
            except ApiError as problem:
                code, message = problem.code, problem.message
                if isinstance(problem, UnknownJobError):
                    code, message = self._on_server_side(message)
                return self._say(code, 400 if self._profile.standard_statuses else 200, message=message)

        return handler

    def _say(self, code: int, status: int = 200, **rest: Any) -> web.Response:
        return web.json_response({"code": str(code) if self._profile.string_code else code, **rest}, status=status)

    def _on_server_side(self, message: str) -> tuple[int, str]:
        """Return code and message of a failure that newer servers call their own."""
        if self._profile.system_code:
            return api.IMPORT_FAILED_ON_SERVER, f"{message} on server side"
        return api.IMPORT_FAILED, message

    # v1, as Zilliz Cloud's control plane answers it

    async def _v1_get(self, request: web.Request) -> dict[str, Any]:
        job_id = text(request.query, "jobId", required=True)
        return self._v1_job(await asyncio.to_thread(self._job, job_id))

    async def _v1_list(self, request: web.Request) -> dict[str, Any]:
        jobs = await asyncio.to_thread(self._jobs)
        page, paging = page_of(jobs, request.query)
        tasks = [
            {
                "collectionName": job.collection_name,
                "jobId": job.job_id,
                "state": V1_STATES.get(job.state, "ImportRunning"),
            }
            for job in page
        ]
        return {"tasks": tasks, **paging}

    async def _v1_create(self, request: web.Request) -> dict[str, Any]:
        body = await json_object(request)
        if not body.get("objectUrl"):
            raise missing("objectUrl")
        # Only v2 documents the header.
        return {"jobId": await self._create(request, body)}

    # v2: as Milvus answers it

    async def _v2_describe(self, request: web.Request) -> dict[str, Any]:
        job_id = text(await json_object(request), "jobId", required=True)
        if (problem := self._parse_error(job_id)) is not None:
            raise ApiError(api.IMPORT_FAILED, f"parse job id failed, err=%w {problem}: importing data failed")
        return self._v2_job(await asyncio.to_thread(self._job, job_id))

    async def _v2_list(self, request: web.Request) -> dict[str, Any]:
        body = await json_object(request)
        collection_name = text(body, "collectionName")
        await asyncio.to_thread(self._backend.check, database_of(request, body), collection_name)
        jobs = await asyncio.to_thread(self._jobs, collection_name)
        if self._profile.list_progress:
            return {"records": [v2_record(job) for job in jobs]}
        page, paging = page_of(jobs, body)
        records = [
            {
                "collectionName": job.collection_name,
                "jobId": job.job_id,
                "state": ZILLIZ_STATES.get(job.state, "InProgress"),
            }
            for job in page
        ]
        return {**paging, "records": records}

    async def _v2_create(self, request: web.Request) -> dict[str, Any]:
        body = await json_object(request)
        return {"jobId": await self._create(request, body, self._idempotency_key(request))}

    async def _v2_commit(self, request: web.Request) -> dict[str, Any]:
        job = await self._two_phase_job(request, "commit")
        await asyncio.to_thread(self._backend.commit, job.job_id)
        return {}

    async def _v2_abort(self, request: web.Request) -> dict[str, Any]:
        job = await self._two_phase_job(request, "abort")
        if job.reason == api.ABORT_REASON and not self._profile.second_abort:
            raise ApiError(
                api.IMPORT_FAILED, f"cannot abort import job {job.job_id} in state {job.state}: importing data failed"
            )
        await asyncio.to_thread(self._backend.abort, job.job_id)
        return {}

    async def _v2_refresh_load(self, request: web.Request) -> dict[str, Any]:
        body = await json_object(request)
        collection, database = text(body, "collectionName", required=True), database_of(request, body)
        self._state.refresh_loads.append(qualified(database, collection))
        await asyncio.to_thread(self._backend.check, database, collection)
        await asyncio.to_thread(self._backend.refresh_load, database, collection)
        return {}

    async def _v2_alias(self, request: web.Request) -> dict[str, Any]:
        body = await json_object(request)
        name, collection = text(body, "aliasName", required=True), text(body, "collectionName", required=True)
        database = database_of(request, body)
        alias = qualified(database, name)
        if request.path == f"{ALIASES}/alter" and alias not in self._state.aliases:
            where = f"[database={database or 'default'}][alias={name}]"
            raise ApiError(api.ALIAS_NOT_FOUND, f"alias not found{where}")
        await asyncio.to_thread(self._backend.check, database, collection)
        self._state.aliases[alias] = qualified(database, collection)
        return {}

    def _parse_error(self, job_id: str) -> str | None:
        """Return what Go says of an id that is no int64; None if it is one, or need not be."""
        if not self._profile.numeric_job_ids:
            return None
        digits = job_id[1:] if job_id[:1] in ("+", "-") else job_id
        if not (digits.isascii() and digits.isdigit()):
            return f'strconv.ParseInt: parsing "{job_id}": invalid syntax'
        if not -(2**63) <= int(job_id) < 2**63:
            return f'strconv.ParseInt: parsing "{job_id}": value out of range'
        return None

    async def _two_phase_job(self, request: web.Request, verb: str) -> JobStatus:
        """Return the job to commit or abort: Milvus refuses both for one that commits by itself."""
        job_id = text(await json_object(request), "jobId", required=True)
        if (problem := self._parse_error(job_id)) is not None:
            raise ApiError(api.PARAMETER_INVALID, f"invalid job id, {problem}: invalid parameter")
        job = await asyncio.to_thread(self._job, job_id)
        if job.auto_commit:
            raise ApiError(
                api.IMPORT_FAILED,
                f"cannot {verb} import job {job_id}: it has auto_commit=true: importing data failed",
            )
        return job

    def _job(self, job_id: str) -> JobStatus:
        job = self._backend.get(job_id)
        if self._is_expired(job):
            self._backend.forget(job_id)
            raise UnknownJobError(job_id)
        return job

    def _jobs(self, collection_name: str = "") -> list[JobStatus]:
        jobs = []
        for job in self._backend.list(collection_name):
            if self._is_expired(job):
                self._backend.forget(job.job_id)
            else:
                jobs.append(job)
        return jobs

    def _is_expired(self, job: JobStatus) -> bool:
        retention = self._profile.retention
        return retention is not None and job.ended_for is not None and job.ended_for >= retention

    def _idempotency_key(self, request: web.Request) -> str:
        """Read the key of a create request, by Milvus's rules; empty where there is none that counts."""
        key = request.headers.get("Idempotency-Key", "") if self._profile.idempotency else ""
        if len(key) > LONGEST_KEY or not (key.isascii() and key.isprintable()):
            raise wrong("Idempotency-Key", f"printable ASCII, at most {LONGEST_KEY} bytes")
        return key

    async def _create(self, request: web.Request, body: dict[str, Any], key: str = "") -> str:
        options = options_of(body)
        if not self._profile.two_phase:
            options = {name: value for name, value in options.items() if name != "auto_commit"}
        wanted = ImportRequest(
            collection_name=text(body, "collectionName", required=True),
            entries=entries_of(body),
            partition_name=text(body, "partitionName"),
            db_name=database_of(request, body),
            options=options,
            partial_success=self._profile.partial_success,
        )
        self._state.create_requests += 1
        async with self._creating:  # a repeat may come while the first is still under way
            await asyncio.to_thread(self._backend.check, wanted.db_name, wanted.collection_name)
            await self._check_limit()
            # Whatever the files: Milvus does not compare the two requests.
            scoped = wanted.db_name, wanted.collection_name, key
            if key and scoped in self._state.jobs_by_key:
                return self._state.jobs_by_key[scoped]
            job_id = await asyncio.to_thread(self._backend.create, wanted)
            if key:
                self._state.jobs_by_key[scoped] = job_id
            return job_id

    async def _check_limit(self) -> None:
        if self._state.create_requests <= self._profile.job_limit:
            return  # so many jobs there cannot be, and counting them takes time
        jobs = await asyncio.to_thread(self._jobs)
        if sum(job.ended_for is None for job in jobs) >= self._profile.job_limit:
            raise ApiError(*self._on_server_side(JOB_LIMIT))

    def _v1_job(self, job: JobStatus) -> dict[str, Any]:
        """Write a job as v1 `get` does."""
        return {
            "collectionName": job.collection_name,
            "fileName": self._name(job.files[0]),
            "fileSize": job.size,
            "readyPercentage": job.progress,
            "completeTime": timestamp(job.complete_time) or None,
            "errorMessage": job.reason or None,
            "jobId": job.job_id,
            "details": [
                {
                    "fileName": self._name(file),
                    "fileSize": file.size,
                    "readyPercentage": file.progress,
                    "completeTime": timestamp(file.complete_time) or None,
                    "errorMessage": file.reason or None,
                }
                for file in job.files
            ],
        }

    def _v2_job(self, job: JobStatus) -> dict[str, Any]:
        """Write a job as v2 `describe` does; `fileName` is a list in brackets, as Go prints one."""
        if job.state == api.PENDING:  # Milvus has not looked at the files yet
            job = replace(job, files=())
        body = {
            "jobId": job.job_id,
            "collectionName": job.collection_name,
            "fileSize": job.size,
            **v2_progress(job),
            "details": [
                {"fileName": f"[{self._name(file, ' ')}]", "fileSize": file.size, **v2_progress(file)}
                for file in job.files
            ],
        }
        if job.state == api.FAILED:
            body.update(importedRows=0, totalRows=0)
        if self._profile.create_time:
            body["createTime"] = timestamp(job.create_time)
        return body

    def _name(self, file: FileStatus, separator: str = ",") -> str:
        return separator.join(shown_name(path, self._profile.file_names) for path in file.paths)

    # the emulator's own controls

    def _control(self, call: Call) -> Handler:
        """Serve a call that no web page may make: it would send another content type, or its own host name."""

        async def handler(request: web.Request) -> web.Response:
            if not is_local(request.headers.get("Host", ""), self._state.host):
                return error(api.PARAMETER_INVALID, "this host name may not control the emulator", status=403)
            if request.method == "POST" and request.content_type != "application/json":
                return error(api.NOT_JSON, "send Content-Type: application/json", status=415)
            try:
                return web.json_response({"code": 0, "data": await call(request)})
            except ApiError as problem:
                return error(problem.code, problem.message)
            except ValueError as problem:
                return error(api.PARAMETER_INVALID, str(problem))

        return handler

    def _on_collection(self, call: Callable[[str, str, dict[str, Any]], Any]) -> Call:
        async def handler(request: web.Request) -> Any:
            body = await json_object(request)
            collection = text(body, "collectionName", required=True)
            found = await asyncio.to_thread(call, database_of(request, body), collection, body)
            return {} if found is None else found

        return handler

    async def _control_show(self, request: web.Request) -> dict[str, Any]:
        jobs = await asyncio.to_thread(self._jobs)
        profile = self._profile
        return {
            "backend": self._backend.name,
            "profile": {name: getattr(profile, name) for name in profile.__dataclass_fields__},
            "dialects": list(profile.dialects),
            "idempotency": profile.idempotency,
            **self._backend.describe(),
            "createRequests": self._state.create_requests,
            "requests": dict(self._state.requests),
            "refreshLoads": list(self._state.refresh_loads),
            "aliases": dict(self._state.aliases),
            "jobs": [v2_record(job) for job in jobs],
        }

    async def _control_outage(self, request: web.Request) -> dict[str, Any]:
        body = await json_object(request)
        self._state.faults.outage(number(body, "seconds"), body.get("kind") or "unavailable")
        return {}

    async def _control_rate_limit(self, request: web.Request) -> dict[str, Any]:
        body = await json_object(request)
        self._state.faults.rate_limit(
            number(body, "seconds") if "seconds" in body else None,
            positive(body["requests"], "requests") if "requests" in body else None,
            positive(body.get("retryAfter"), "retryAfter", 1),
        )
        return {}

    async def _control_answer(self, request: web.Request) -> dict[str, Any]:
        body = await json_object(request)
        self._state.faults.answer(
            text(body, "call", required=True),
            positive(body.get("code"), "code"),
            text(body, "message"),
            **answer_options(body),
            done=body.get("done") is True,
            retry_after=positive(body["retryAfter"], "retryAfter") if "retryAfter" in body else None,
        )
        return {}

    async def _control_time_out(self, request: web.Request) -> dict[str, Any]:
        body = await json_object(request)
        self._state.faults.time_out(text(body, "call") or "create", **answer_options(body, status=408))
        return {}

    async def _control_restore(self, request: web.Request) -> dict[str, Any]:
        self._state.faults.restore()
        return {}

    async def _control_profile(self, request: web.Request) -> dict[str, Any]:
        settings = await json_object(request)
        self._state.profile = server_profile(settings.pop("profile", self._profile), settings)
        return {}

    async def _control_forget(self, request: web.Request) -> dict[str, Any]:
        job_id = text(await json_object(request), "jobId", required=True)
        self._backend.forget(job_id)
        return {}

    async def _control_fail_file(self, request: web.Request) -> dict[str, Any]:
        body = await json_object(request)
        simulated(self._backend).fail_file(text(body, "pattern", required=True), text(body, "reason"))
        return {}

    async def _control_lose_rows(self, request: web.Request) -> dict[str, Any]:
        body = await json_object(request)
        rows = positive(body.get("rows"), "rows")
        simulated(self._backend).lose_rows(text(body, "pattern", required=True), rows)
        return {}

    async def _control_collections(self, request: web.Request) -> dict[str, Any]:
        names = (await json_object(request)).get("names")
        if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise wrong("names", "a list of collections, or null")
        simulated(self._backend).set_collections(names)
        return {}


# What a request says

SOURCES = ("files", "objectUrls", "dataPaths", "objectUrl")


def is_own(path: str) -> bool:
    """Say whether a path is the emulator's own: outages and rate limits do not reach it."""
    return (
        path == CONTROL
        or path.startswith((f"{CONTROL}/", f"{ENTITIES}/"))
        or (path.startswith(f"{COLLECTIONS}/") and path != REFRESH_LOAD)
    )


def is_local(host: str, bound: str) -> bool:
    """Say whether a `Host` header names this machine, and not a web page's own name that leads here.

    :param bound: the address that the server is bound to.
    """
    with contextlib.suppress(ValueError):
        name = urlsplit(f"//{host}").hostname or ""
        if name in ("localhost", bound.lower(), socket.gethostname().lower()):
            return True
        address = ipaddress.ip_address(name)
        # A page's name is never an address. Bound to every interface, we do not know all addresses that are ours.
        return address.is_loopback or bound in ("", "0.0.0.0", "::")  # noqa: S104 (compared, not bound)
    return False


def page_of(jobs: list[JobStatus], values: Any) -> tuple[list[JobStatus], dict[str, int]]:
    """Return the jobs of the page that was asked for, and what the answer says of it."""
    size, page = positive(values.get("pageSize"), "pageSize", 10), positive(values.get("currentPage"), "currentPage", 1)
    return jobs[(page - 1) * size : page * size], {"count": len(jobs), "currentPage": page, "pageSize": size}


def qualified(database: str, name: str) -> str:
    """Write a collection or an alias with its database, the default one without."""
    return f"{database}.{name}" if database else name


def database_of(request: web.Request, body: dict[str, Any]) -> str:
    """Read the database: the body's, then the header's; empty for the default one."""
    return text(body, "dbName") or request.headers.get("DB-Name", "")


def answer_options(body: dict[str, Any], status: int = 200) -> dict[str, Any]:
    """Read what answers that are asked for have in common."""
    return {
        "status": positive(body.get("status"), "status", status),
        "requests": positive(body.get("requests"), "requests", 1),
        "delay": number(body, "delay") if "delay" in body else 0.0,
    }


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
    """Answer an error in the form of both dialects."""
    return web.json_response({"code": code, "message": message}, status=status)


def timestamp(time: datetime | None) -> str:
    """Write a time in UTC to the second; empty where there is none yet."""
    return "" if time is None else time.strftime("%Y-%m-%dT%H:%M:%SZ")


def shown_name(path: str, file_names: str) -> str:
    """Write a file's name as a server of this kind shows it."""
    if file_names == "bare":
        return path.rsplit("/", 1)[-1]
    if file_names == "bucket":
        return f"{BUCKET}/{path.lstrip('/')}"
    return unquote(path) if file_names == "decoded" else path


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
