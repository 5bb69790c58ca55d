"""Both hooks against every row of the API's facts, and against a hostile network."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowException

from airflow_provider_importprog._async_client import AsyncClient
from airflow_provider_importprog.api import NewImportJob
from airflow_provider_importprog.exceptions import (
    ImportApiRefused,
    ImportApiUnauthorized,
    ImportApiUnreachable,
    ImportJobUnknown,
    ImportSettingInvalid,
)
from airflow_provider_importprog.hooks.import_progress import (
    ImportProgressAsyncHook,
    ImportProgressHook,
)
from tests.blackbox.driver import TOKEN_LOGIN, TOKEN_PASSWORD, Call, Connect
from tests.blackbox.server import (
    JOB,
    V1_CREATE,
    V1_GET,
    V1_LIST,
    V2_ABORT,
    V2_COMMIT,
    V2_CREATE,
    V2_DESCRIBE,
    V2_LIST,
    Answer,
    Asked,
    ScriptedServer,
    dead_url,
    timed,
    unknown_job,
    v1_job,
    v2_file,
    v2_job,
)

HTML = b"<html>Bad Gateway</html>"
V2_REFRESH = "/v2/vectordb/collections/refresh_load"


@pytest.mark.parametrize("code", [0, 200])
def test_v1_seed_call(server: ScriptedServer, connect: Connect, call: Call, code: int) -> None:
    connect({"cluster_id": "inxx-1"})
    server.v1(Answer({**v1_job().body, "code": code}))
    job = call.progress()
    (asked,) = server.asked
    assert (asked.method, asked.target) == ("GET", f"{V1_GET}?jobId={JOB}&clusterId=inxx-1")
    assert asked.header("Authorization") == f"Bearer {TOKEN_LOGIN}:{TOKEN_PASSWORD}"
    assert asked.header("Content-Type") == "application/json"
    assert "airflow-provider-importprog" in (asked.header("User-Agent") or "")
    assert asked.body == b""
    assert (job.state, job.collection_name, job.file_size, len(job.files)) == ("importing", "books", 10, 1)


@pytest.mark.parametrize("version", ["v1", "v2", "auto"])
def test_both_hooks_send_the_same_bytes(server: ScriptedServer, connect: Connect, version: str) -> None:
    connect({"api_version": version, "cluster_id": "c", "db_name": "d"})
    server.v1(v1_job()).v2(v2_job())
    server.on(V1_LIST, Answer({"code": 0, "data": {"tasks": []}})).on(V2_LIST, Answer({"code": 0, "data": {}}))
    server.on(V1_CREATE, Answer({"code": 0, "data": {"jobId": JOB}}))
    server.on(V2_CREATE, Answer({"code": 0, "data": {"jobId": JOB}}))
    server.on(V2_COMMIT, Answer({"code": 0, "data": {}})).on(V2_ABORT, Answer({"code": 0, "data": {}}))
    seen = []
    for kind in ("sync", "async"):
        call = Call(kind)
        call.progress()
        call("list_import_jobs")
        call("create_import_job", "books", object_urls=["s3://b/ü.parquet"], access_key="k", secret_key="s")
        if version != "v1":
            call("commit_import_job", JOB)
            call("abort_import_job", JOB)
        seen.append(
            [(a.method, a.target, sorted((k.lower(), v) for k, v in a.headers if k.lower() != "connection"), a.body)
             for a in server.asked]
        )  # fmt: skip
        server.asked.clear()
    assert seen[0] == seen[1]
    assert len(seen[0]) >= 3


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"login": None, "password": "key-123456"}, "Bearer key-123456"),
        ({"login": None, "password": None}, None),
        ({"login": "u", "password": "a:b"}, "Bearer u:a:b"),
    ],
)
def test_tokens(
    server: ScriptedServer, connect: Connect, call: Call, fields: dict[str, Any], expected: str | None
) -> None:
    connect(**fields)
    server.v1(v1_job())
    call.progress()
    assert server.asked[0].header("Authorization") == expected


@pytest.mark.parametrize("login", [None, TOKEN_LOGIN])
def test_netrc_is_not_read(
    server: ScriptedServer,
    connect: Connect,
    call: Call,
    login: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login evil password evil\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    connect(login=login, password=TOKEN_PASSWORD if login else None)
    server.v1(v1_job())
    call.progress()
    assert "Basic" not in (server.asked[0].header("Authorization") or "")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_missing_ca_bundle(
    server: ScriptedServer, connect: Connect, call: Call, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nonexistent/ca.pem")
    server.v1(v1_job())
    if scheme == "http":
        assert call.progress()
        return
    connect({"timeout": 2}, host=server.url.replace("http:", "https:"))
    with pytest.raises(AirflowException):
        call.progress()


def test_proxy_of_the_environment(
    server: ScriptedServer, other_server: ScriptedServer, connect: Connect, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", other_server.url)
    connect({"api_version": "v1"}, host="http://milvus.test:19530")
    other_server.on(f"http://milvus.test:19530{V1_GET}", v1_job())
    assert call.progress().job_id == JOB
    assert not server.asked


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(
    server: ScriptedServer, other_server: ScriptedServer, call: Call, status: int
) -> None:
    other_server.v1(v1_job(done=True))
    server.v1(Answer(b"", status, {"Location": f"{other_server.url}{V1_GET}"}))
    with pytest.raises(ImportApiUnreachable):
        call.progress()
    assert not other_server.asked


def test_location_with_stray_bytes(server: ScriptedServer, call: Call) -> None:
    server.v1(Answer(b"", 302, {"Location": "http://\xff\xfe/"}))
    with pytest.raises(ImportApiUnreachable) as caught:
        call.progress()
    str(caught.value).encode()


def test_auto_moves_to_v2_and_says_so_once(
    server: ScriptedServer, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    server.v2(v2_job())
    with caplog.at_level(logging.INFO):
        hook = ImportProgressHook()
        for _ in range(3):
            hook.get_import_progress(JOB)
    assert [asked.path for asked in server.asked] == [V1_GET, V2_DESCRIBE, V2_DESCRIBE, V2_DESCRIBE]
    assert sum("v2" in record.getMessage() for record in caplog.records) == 1
    assert server.connections == 1


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answer({"code": "80001", "message": "x"}), ImportApiUnauthorized),
        (Answer({"code": 5, "message": "x"}, 403), ImportApiUnauthorized),
        (Answer({"code": 9, "message": "x"}), ImportApiUnreachable),
        (Answer(HTML, 429, {"Retry-After": "600"}), ImportApiUnreachable),
        (Answer(HTML, 200), ImportApiUnreachable),
        (unknown_job(status=400), ImportJobUnknown),
        (Answer({"code": 5, "message": "Job NOT FOUND"}, 404), ImportApiUnreachable),
        (Answer({"code": 2100, "message": "parse job id failed"}), ImportSettingInvalid),
        (Answer({"code": 5, "message": "other"}), ImportApiRefused),
        (Answer({"code": 100, "message": "other"}), ImportApiRefused),
        (v2_job(jobId="other"), ImportApiUnreachable),
    ],
)
def test_errors(
    server: ScriptedServer, connect: Connect, call: Call, answer: Answer, expected: type[Exception]
) -> None:
    connect({"api_version": "v2"})
    server.v2(answer)
    with pytest.raises(expected) as caught:
        call.progress()
    assert type(caught.value) is expected


@pytest.mark.parametrize("how", ["hang", "close", "reset", "cut", "trickle", "trickle_head"])
def test_bad_networks_end_in_time(server: ScriptedServer, connect: Connect, call: Call, how: str) -> None:
    connect({"timeout": 0.3, "api_version": "v1"})
    server.v1(Answer(v1_job().body, how=how))

    def ask() -> None:
        with pytest.raises(ImportApiUnreachable):
            call.progress()

    _, took = timed(ask)
    assert took < 5


def test_nobody_listens(connect: Connect, call: Call) -> None:
    connect(host=dead_url())
    with pytest.raises(ImportApiUnreachable) as caught:
        call.progress()
    assert TOKEN_PASSWORD not in str(caught.value)


CHANGES = [
    ("create_import_job", ("books",), {"files": [["a.parquet"]]}, V2_CREATE),
    ("commit_import_job", (JOB,), {}, V2_COMMIT),
    ("abort_import_job", (JOB,), {}, V2_ABORT),
]


@pytest.mark.parametrize(("method", "args", "kwargs", "path"), CHANGES, ids=[c[0] for c in CHANGES])
@pytest.mark.parametrize("trouble", ["503", "retry later", "cut", "close", "reset"])
def test_changes_are_sent_once(
    server: ScriptedServer, connect: Connect, call: Call, method: str, args: Any, kwargs: Any, path: str, trouble: str
) -> None:
    connect({"api_version": "v2"})
    answers = {
        "503": Answer(HTML, 503),
        "retry later": Answer(HTML, 503, {"Retry-After": "0"}),
        **{how: Answer({"code": 0, "data": {"jobId": JOB}}, how=how) for how in ("cut", "close", "reset")},
    }
    server.on(path, answers[trouble])
    with pytest.raises(AirflowException):
        call(method, *args, **kwargs)
    assert len(server.to(path)) == 1


@pytest.mark.parametrize(("version", "sent"), [("v1", None), ("v2", "key 1")])
def test_idempotency_key(server: ScriptedServer, connect: Connect, call: Call, version: str, sent: str | None) -> None:
    connect({"api_version": version})
    for path in (V1_CREATE, V2_CREATE):
        server.on(path, Answer({"code": 0, "data": {"jobId": JOB}}))
    call("create_import_job", "books", object_urls=["s3://b/1.parquet"], idempotency_key="key 1")
    (asked,) = server.asked
    assert asked.header("Idempotency-Key") == sent
    for wrong in ("", "x" * 257, "a\r\nX: 1", "\x7f", "é", 1e5):
        with pytest.raises(ImportSettingInvalid, match="idempotency_key"):
            call("create_import_job", "books", object_urls=["s3://b/1.parquet"], idempotency_key=wrong)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("answer", "in_doubt"),
    [
        (Answer(HTML, 502), True),
        (Answer(HTML, 504), True),
        (Answer(HTML, 500), True),
        (Answer(HTML, 503), False),
        (Answer(HTML, 429), False),
        (Answer(HTML, 302), False),
        (Answer(HTML, 404), False),
        (Answer(HTML, 408), True),
        (Answer({"code": 10001, "message": "x"}), True),
        (Answer({"code": 2100, "message": "has reached the limit"}), False),
        (Answer(HTML), True),
        (Answer(how="close"), True),
        (Answer(how="reset"), True),
        (Answer({"code": 0}, how="hang"), True),
        (Answer({"code": 0, "data": {"jobId": JOB}}, how="cut"), True),
        (Answer(b"\0\1\2 no http", how="garbage"), True),
    ],
)
def test_whether_it_may_have_been_done(
    server: ScriptedServer, connect: Connect, call: Call, answer: Answer, in_doubt: bool
) -> None:
    connect({"api_version": "v2", "timeout": 0.3})
    server.on(V2_CREATE, answer)
    with pytest.raises(ImportApiUnreachable) as caught:
        call("create_import_job", "books", files=["a"])
    assert caught.value.in_doubt is in_doubt


@pytest.mark.parametrize("host", [None, "http://no-such-host.invalid"])
def test_what_was_never_sent_is_not_in_doubt(connect: Connect, call: Call, host: str | None) -> None:
    connect(host=host or dead_url())
    with pytest.raises(ImportApiUnreachable) as caught:
        call("create_import_job", "books", files=["a"])
    assert not caught.value.in_doubt


def test_test_connection(server: ScriptedServer, connect: Connect, call: Call) -> None:
    connect({"api_version": "v2"})
    server.v2(unknown_job()).on(V2_LIST, Answer({"code": 0, "data": {"records": []}}))
    assert call("test_connection") == (True, f"{server.url} answers, accepts the token, and serves v2.")
    assert [asked.path for asked in server.asked] == [V2_DESCRIBE, V2_LIST]

    server.on(V2_LIST, Answer({"code": 1401, "message": "no privilege"}))
    good, said = call("test_connection")
    assert good
    assert "v2 shows no list of jobs: The token's owner is not permitted to do this: no privilege" in said
    server.on(V2_LIST, Answer({"code": 800, "message": "no database"}))
    assert not call("test_connection")[0]
    server.v2(Answer({"code": 1401, "message": "no privilege"}))
    bad, said = call("test_connection")
    assert not bad
    assert "a gate cannot ask for a job. The token's owner is not permitted" in said

    server.v2(lambda asked: Answer({"code": 1800, "message": asked.header("Authorization")}, 401))
    bad, said = call("test_connection")
    assert not bad
    assert "Check the user name and the password" in said
    assert TOKEN_PASSWORD not in said
    server.v2(Answer(b"404 page not found", 404))
    assert "answers, but not as the import API does" in call("test_connection")[1]
    connect(host=dead_url())
    bad, said = call("test_connection")
    assert not bad
    assert "cannot be reached" in said


ECHOES = {
    "plain": lambda header: json.dumps({"code": 7, "message": header}).encode(),
    "Go's escapes": lambda header: (
        b'{"code": 7, "message": "%s"}'
        % header.replace("&", "\\u0026").replace("<", "\\u003c").replace("/", "\\/").encode()
    ),
    "all escaped": lambda header: (
        b'{"code": 7, "message": "%s"}' % "".join(f"\\u{ord(c):04x}" for c in header).encode()
    ),
    "UTF-16": lambda header: json.dumps({"code": 7, "message": header}).encode("utf-16"),
    "no JSON": lambda header: b"<html>" + header.encode(),
}


@pytest.mark.parametrize("password", ["p&ss<w/rd1", "key-1", "a\\b\"c'd-12"])
@pytest.mark.parametrize("echo", ECHOES)
def test_echoed_token(server: ScriptedServer, connect: Connect, call: Call, echo: str, password: str) -> None:
    connect({"api_version": "v1"}, password=password)
    server.v1(lambda asked: Answer(ECHOES[echo](asked.header("Authorization"))))
    with pytest.raises(AirflowException) as caught:
        call.progress()
    assert password not in str(caught.value)
    assert password not in repr(caught.value)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_every_request_says_how_long_it_waits(
    server: ScriptedServer, connect: Connect, call: Call, version: str
) -> None:
    connect({"api_version": version, "timeout": 4.2})
    server.v1(v1_job()).v2(v2_job()).on(V2_CREATE, Answer({"code": 0, "data": {"jobId": JOB}}))
    call.progress()
    if version == "v2":
        call("create_import_job", "books", files=["a"])
    assert {asked.header("Request-Timeout") for asked in server.asked} == {"5"}


def test_refresh_load(server: ScriptedServer, connect: Connect, call: Call) -> None:
    connect({"db_name": "shop"})
    server.on(V2_REFRESH, Answer({"code": 0, "data": {}}))
    assert call("refresh_load", "books") is None
    (asked,) = server.asked
    assert (asked.json, asked.header("DB-Name")) == ({"collectionName": "books", "dbName": "shop"}, "shop")
    server.on(V2_REFRESH, Answer({"code": 101, "message": "collection not loaded"}))
    with pytest.raises(ImportApiRefused, match="not loaded"):
        call("refresh_load", "books")
    server.on(V2_REFRESH, Answer(b"404 page not found", 404))
    with pytest.raises(ImportApiRefused, match="Zilliz Cloud"):
        call("refresh_load", "books")
    connect({"api_version": "v1"})
    with pytest.raises(ImportApiRefused, match="v1 API"):
        call("refresh_load", "books")
    assert len(server.asked) == 3


def test_commit_in_doubt_is_settled_by_the_job(server: ScriptedServer, connect: Connect, call: Call) -> None:
    connect({"api_version": "v2", "timeout": 1})
    server.on(V2_COMMIT, Answer(how="close")).v2(v2_job("Committing", 99))
    call("commit_import_job", JOB)
    server.v2(v2_job("Uncommitted", 99))
    with pytest.raises(ImportApiUnreachable, match="is uncommitted; whether the commit is still to come") as caught:
        call("commit_import_job", JOB)
    assert caught.value.in_doubt


@pytest.mark.parametrize("job_id", [None, " ", "None", True])
def test_a_job_id_is_checked_before_anything_is_sent(server: ScriptedServer, call: Call, job_id: Any) -> None:
    for method in ("get_import_progress", "commit_import_job", "abort_import_job"):
        with pytest.raises(ImportSettingInvalid, match="job_id"):
            call(method, job_id)
    assert not server.asked


def test_what_is_checked_already_is_created_as_it_is(server: ScriptedServer, connect: Connect, call: Call) -> None:
    connect({"api_version": "v2"})
    server.on(V2_CREATE, lambda asked: Answer({"code": 7, "message": f"denied: {asked.json['secretKey']}"}))
    new = NewImportJob("books", object_urls=[["s3://b/1"]], access_key="AKIA123", secret_key="hush-hush")
    with pytest.raises(ImportApiRefused, match=r"denied: \*\*\*$"):
        call("create", new, "in01")
    assert server.asked[0].json["clusterId"] == "in01"


class TestRotation:
    """The token is rotated while a hook has the old one."""

    @pytest.fixture
    def rotated(self, server: ScriptedServer, connect: Connect) -> Callable[[], None]:
        """Have the server take only a new token, which the connection then holds."""
        connect({"api_version": "v2"})
        server.v2(v2_job()).on(V2_LIST, Answer({"code": 0, "data": {"records": []}}))

        def rotate() -> None:
            def check(asked: Asked) -> Answer:
                if asked.header("Authorization") != "Bearer new-secret":
                    return Answer({"code": 1800, "message": "no"}, 401)
                return v2_job()

            server.v2(check)
            connect({"api_version": "v2"}, login=None, password="new-secret")

        return rotate

    def test_blocking(self, server: ScriptedServer, connect: Connect, rotated: Callable[[], None]) -> None:
        hook = ImportProgressHook()
        hook.get_import_progress(JOB)
        rotated()
        assert hook.get_import_progress(JOB).job_id == JOB
        connect({"api_version": "v2"}, password="wrong-one")
        hook = ImportProgressHook()
        server.asked.clear()
        with pytest.raises(ImportApiUnauthorized):
            hook.get_import_progress(JOB)
        assert len(server.asked) == 1  # nothing has changed, so the error is believed

    @pytest.mark.parametrize("entered", [False, True])
    def test_async(self, rotated: Callable[[], None], entered: bool) -> None:
        async def story() -> None:
            hook = ImportProgressAsyncHook()
            async with hook if entered else nullcontext():
                await hook.get_import_progress(JOB)
                rotated()
                jobs = await asyncio.gather(*[hook.get_import_progress(JOB) for _ in range(3)])
                assert {job.job_id for job in jobs} == {JOB}
                # An entered hook keeps the new session open too.
                assert len(AsyncClient._shared[asyncio.get_running_loop()]) == (2 if entered else 0)

        asyncio.run(story())

    @pytest.mark.parametrize("number", [1, 3])
    def test_pollers(self, server: ScriptedServer, rotated: Callable[[], None], number: int) -> None:
        async def story() -> None:
            async with AsyncExitStack() as stack:
                pollers = [
                    await stack.enter_async_context(ImportProgressAsyncHook().poller(JOB, None, 0.01))
                    for _ in range(number)
                ]
                for turn in range(3):
                    await asyncio.gather(*[poller.poll(lambda job: True) for poller in pollers])
                    await asyncio.gather(*[poller.pause(0.02) for poller in pollers])
                    if turn == 0:
                        rotated()
            assert not AsyncClient._shared[asyncio.get_running_loop()]

        asyncio.run(story())

    def test_a_poller_believes_a_token_that_stays_wrong(self, server: ScriptedServer, connect: Connect) -> None:
        connect({"api_version": "v2"})
        server.v2(Answer({"code": 1401, "message": "no"}, 403))

        async def story() -> None:
            async with ImportProgressAsyncHook().poller(JOB, None, 0.01) as poller:
                with pytest.raises(ImportApiUnauthorized):
                    await poller.poll(lambda job: True)

        asyncio.run(story())
        assert len(server.asked) == 1

    @pytest.mark.parametrize("kind", ["sync", "async"])
    def test_airflows_cache_of_secrets_is_passed_by(
        self, rotated: Callable[[], None], monkeypatch: pytest.MonkeyPatch, kind: str
    ) -> None:
        cache = pytest.importorskip("airflow.sdk.execution_time.cache").SecretCache
        monkeypatch.setattr(cache, "_cache", {})
        monkeypatch.setattr(cache, "_ttl", timedelta(minutes=15), raising=False)
        call = Call(kind)
        call.progress()
        kept = cache._cache["__c_importprog_default"]
        rotated()
        assert call.progress().job_id == JOB
        assert cache._cache["__c_importprog_default"] is not kept


class TestStorageKeys:
    """The keys of a storage that a server was told, and repeats."""

    SECRET, ACCESS = "wJalrXUtnFEMI/K7MDENG", "AKIAIOSFODNN7EXAMPLE"

    @pytest.fixture
    def store(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
        connection = {"conn_type": "aws", "login": self.ACCESS, "password": self.SECRET}
        return lambda: monkeypatch.setenv("AIRFLOW_CONN_STORE", json.dumps(connection))

    def ask(self, kind: str, polls: int = 1, between: Callable[[], None] = lambda: None) -> list[Any]:
        """Return what came of asking for the job: what a gate logs of it."""

        def shown(job: Any) -> str:
            return " ".join([str(job.error_message), *[str(file.error_message) for file in job.files]])

        async def story() -> list[str]:
            hook = ImportProgressAsyncHook(storage_conn_id="store")
            said: list[str] = []
            async with hook.poller(JOB, None, 0.01) as poller:
                for _ in range(polls):
                    try:
                        asked = poller.poll(lambda job: False) if kind == "poller" else hook.get_import_progress(JOB)
                        said.append(shown(await asked))
                    except AirflowException as error:
                        said.append(str(error))
                    between()
            return said

        if kind != "sync":
            return asyncio.run(story())
        try:
            return [shown(ImportProgressHook(storage_conn_id="store").get_import_progress(JOB))]
        except AirflowException as error:
            return [str(error)]

    @pytest.mark.parametrize("kind", ["sync", "async", "poller"])
    @pytest.mark.parametrize("where", ["error", "job", "file"])
    @pytest.mark.parametrize("readable", [True, False])
    def test_they_are_redacted_or_the_servers_words_withheld(
        self, server: ScriptedServer, connect: Connect, store: Callable[[], None], kind: str, where: str, readable: bool
    ) -> None:
        connect({"api_version": "v2"})
        words = f"denied {self.ACCESS} {self.SECRET}"
        server.v2(
            {
                "error": Answer({"code": 7, "message": words}),
                "job": v2_job("Failed", reason=words),
                "file": v2_job("Completed", files=[v2_file(reason=words)]),
            }[where]
        )
        if readable:
            store()
        (said,) = self.ask(kind)
        assert self.ACCESS not in said
        assert self.SECRET not in said
        assert ("denied *** ***" in said) is readable
        sentence = f"import job {JOB} is not shown: it may hold keys of connection 'store', which cannot be read"
        assert (sentence in said) is not readable

    def test_a_connection_that_can_be_read_again_is(
        self, server: ScriptedServer, connect: Connect, store: Callable[[], None]
    ) -> None:
        connect({"api_version": "v2"})
        server.v2(Answer({"code": 7, "message": self.SECRET}))
        first, second = self.ask("poller", 2, store)
        assert "is not shown" in first
        assert second.endswith("(HTTP 200): ***")

    @pytest.mark.parametrize("readable", [True, False])
    def test_the_log_of_a_list_shows_none(
        self,
        server: ScriptedServer,
        connect: Connect,
        store: Callable[[], None],
        caplog: pytest.LogCaptureFixture,
        readable: bool,
    ) -> None:
        connect({"api_version": "v2"})
        server.v2(v2_job()).on(V2_LIST, Answer({"code": 7, "message": f"denied {self.SECRET} {TOKEN_PASSWORD}"}))
        if readable:
            store()

        async def story() -> None:
            # The one that asks for the list knows of no storage.
            async with (
                ImportProgressAsyncHook(storage_conn_id="store").poller(JOB, None, 0.01) as one,
                ImportProgressAsyncHook().poller(JOB, None, 0.01) as other,
            ):
                await one.poll(lambda job: True)
                await asyncio.sleep(0.2)
                caplog.clear()
                for _ in range(5):
                    await other.poll(lambda job: True)
                    await asyncio.sleep(0.05)

        with caplog.at_level(logging.INFO):
            asyncio.run(story())
        assert "list of import jobs cannot be had" in caplog.text
        assert ("denied *** ***" in caplog.text) is readable
        assert self.SECRET not in caplog.text


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_the_password_of_a_proxy_is_in_no_error(
    connect: Connect, kind: str, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url.replace("//", "//bob:proxy-pa%40ss@"))
    connect({"api_version": "v1"}, host="http://milvus.test:19530")
    server.on(
        f"http://milvus.test:19530{V1_GET}",
        lambda asked: Answer({"code": 7, "message": f"{asked.header('Proxy-Authorization')} proxy-pa@ss"}),
        Answer(how="close"),
    )
    for _ in range(2):
        with pytest.raises(AirflowException) as caught:
            Call(kind).progress()
        assert "proxy-pa" not in str(caught.value)
        assert "Ym9iOn" not in str(caught.value)


def test_a_short_retry_after_is_waited_out(server: ScriptedServer, connect: Connect) -> None:
    connect({"api_version": "v1", "timeout": 0.4})
    server.v1(Answer(HTML, 429, {"Retry-After": "1"}), v1_job(done=True))
    job, took = timed(lambda: ImportProgressHook().get_import_progress(JOB))
    assert job.state == "completed"
    assert took >= 1  # longer than the time-out of a request, which the wait must not use up
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    "value", ["-1", "0.5", "junk", "", "Fri, 99 Foo", "(", '"', "\xff", "1" * 500, "Mon, 1 Jan 0000 00:00:00 +9999"]
)
def test_any_retry_after(server: ScriptedServer, connect: Connect, call: Call, value: str) -> None:
    connect({"api_version": "v2"})
    server.v2(Answer(b"{}", 500, {"Retry-After": value}))
    with pytest.raises(ImportApiUnreachable):
        call.progress()


@pytest.mark.parametrize(
    "body", [b"", b"\xff\xfe\0", b"[" * 9000, b'{"code": 0}', b'{"code": 0, "data": {"state": "\0"}}']
)
def test_any_body(server: ScriptedServer, connect: Connect, call: Call, body: bytes) -> None:
    connect({"api_version": "v2"})
    server.v2(Answer(body))
    with pytest.raises(ImportApiUnreachable):
        call.progress()
