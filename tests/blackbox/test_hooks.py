"""Both hooks: what they send, what becomes of an answer, what they share, and what nobody may read.

What an answer means stands in tests/unit: one of each kind goes through both hooks here.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
import threading
import time
import traceback
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from airflow.providers.common.compat.sdk import AirflowException, Connection

from airflow_provider_importprog.api import NewImportJob
from airflow_provider_importprog.exceptions import (
    ImportApiRefused,
    ImportApiUnauthorized,
    ImportApiUnreachable,
    ImportJobUnknown,
    ImportSettingInvalid,
)
from airflow_provider_importprog.hooks.import_progress import ImportProgressAsyncHook, ImportProgressHook
from airflow_provider_importprog.triggers.import_progress import ImportProgressTrigger
from tests.blackbox import world
from tests.blackbox.driver import TOKEN_LOGIN, TOKEN_PASSWORD, Call, Connect, Gate
from tests.blackbox.server import (
    JOB,
    V1_CREATE,
    V1_GET,
    V1_LIST,
    V2,
    V2_ABORT,
    V2_COMMIT,
    V2_CREATE,
    V2_DESCRIBE,
    V2_LIST,
    Answer,
    Asked,
    ScriptedServer,
    dead_url,
    unknown_job,
    v1_job,
    v2_file,
    v2_job,
)

Server, Patch, Store, Logged = ScriptedServer, pytest.MonkeyPatch, Callable[[str], None], Callable[[], str]
HTML = b"<html>Bad Gateway</html>"
V2_REFRESH = "/v2/vectordb/collections/refresh_load"
NO_TIMES = ("junk", "1" * 5000, "Mon, 1 Jan 99999999999 00:00:00 GMT")
V2_PROGRESS = f"{V2}/get_progress"
CREATED, EMPTY = Answer({"code": 0, "data": {"jobId": JOB}}), Answer({"code": 0, "data": {"records": []}})
DONE, DENIED = v2_job("Completed"), Answer({"code": 1401, "message": "no privilege"})
ASK = ("get_import_progress", JOB)
CHANGES = [
    ("create_import_job", V2_CREATE, {"collection_name": "books", "files": ["a"]}),
    ("commit_import_job", V2_COMMIT, {"job_id": JOB}),
    ("abort_import_job", V2_ABORT, {"job_id": JOB}),
]
KINDS = ["sync", "async", "entered", "poller"]


def poller_of(hook: ImportProgressAsyncHook, brief: Callable[[Any], bool] = lambda job: False, **kwargs: Any) -> Any:
    return hook.poller(JOB, None, 0.01, brief=brief, listed=lambda job: None, **kwargs)


@asynccontextmanager
async def hook_of(kind: str, **kwargs: Any) -> AsyncIterator[Callable[..., Any]]:
    """A hook for several calls; with "poller" the poller of a gate asks for the job.

    :yield: a coroutine function that makes a call and returns what it returned or raised.
    """
    hook: Any = ImportProgressHook(**kwargs) if kind == "sync" else ImportProgressAsyncHook(**kwargs)
    async with AsyncExitStack() as stack:
        if kind == "entered":
            await stack.enter_async_context(hook)
        poller = await stack.enter_async_context(poller_of(hook)) if kind == "poller" else None

        async def call(method: str, *args: Any) -> Any:
            try:
                if poller is not None:
                    await poller.pause(0.0)
                    return await poller.poll()
                came = getattr(hook, method)(*args)
                return came if kind == "sync" else await came
            except AirflowException as error:
                return error

        yield call


def play(kind: str, *steps: Any, server: Server | None = None, **kwargs: Any) -> list[Any]:
    """Go through steps with one hook, each a call or something to do in between, and return what came of the calls.

    :param server: waited for until an asynchronous hook has closed all connections to it.
    """

    async def story() -> list[Any]:
        async with hook_of(kind, **kwargs) as call:
            came = [await call(*step) for step in steps if isinstance(step, tuple) or step()]
        await asyncio.to_thread(wait_until, lambda: server is None or kind == "sync" or not server.open_connections)
        return came

    return asyncio.run(story())


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def _v2(connect: Connect) -> None:
    connect({"api_version": "v2"})


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Callable[[], str]:
    caplog.set_level(logging.DEBUG)
    return lambda: "".join([caplog.text, *capfd.readouterr()])


class TestWhatIsSent:
    @pytest.mark.parametrize("version", ["v1", "v2", "auto"])
    def test_both_hooks_send_the_same_bytes(self, server: Server, connect: Connect, version: str) -> None:
        connect({"api_version": version, "cluster_id": "c", "db_name": "d", "timeout": 4.2})
        server.v1(v1_job()).v2(v2_job()).on(V1_LIST, EMPTY).on(V2_LIST, EMPTY).on(V1_CREATE, CREATED)
        for path in (V2_CREATE, V2_COMMIT, V2_ABORT, V2_REFRESH):
            server.on(path, CREATED)
        seen = []
        for call in Call("sync"), Call("async"):
            assert call.progress().collection_name == "books"
            assert call("list_import_jobs") == []
            new = {"object_urls": ["s3://b/ü.parquet"], "access_key": "k", "secret_key": "s", "idempotency_key": "k 1"}
            assert call("create_import_job", "books", **new) == JOB
            if version != "v1":
                assert call("commit_import_job", JOB) is call("abort_import_job", JOB) is None
                assert call("refresh_load", "books") is None
            seen.append([
                (one.method, one.target, {k.lower(): v for k, v in one.headers if k.lower() != "connection"}, one.body)
                for one in server.asked
            ])  # fmt: skip
            server.asked.clear()
        assert seen[0] == seen[1]
        assert len(seen[0]) == (3 if version == "v1" else 6)
        assert {headers["request-timeout"] for *_, headers, _ in seen[0]} == {"5"}
        assert seen[0][2][2].get("idempotency-key") == ("k 1" if version == "v2" else None)

    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            ({}, f"Bearer {TOKEN_LOGIN}:{TOKEN_PASSWORD}"),
            ({"login": None, "password": "key-123456"}, "Bearer key-123456"),
            ({"login": None, "password": None}, None),
        ],
    )
    def test_the_seeds_call_with_the_connections_token_and_none_of_a_netrc_file(
        self, server: Server, connect: Connect, call: Call, fields: dict[str, Any], expected: str | None,
        tmp_path: Path, monkeypatch: Patch
    ) -> None:  # fmt: skip
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login evil password evil\n")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nonexistent/ca.pem")  # of no use to http
        connect({"cluster_id": "inxx-1"}, **fields)
        server.v1(v1_job())
        job = call.progress()
        (asked,) = server.asked
        assert (asked.method, asked.target) == ("GET", f"{V1_GET}?jobId={JOB}&clusterId=inxx-1")
        assert (asked.header("Authorization"), asked.header("Content-Type")) == (expected, "application/json")
        assert "airflow-provider-importprog" in (asked.header("User-Agent") or "")
        assert asked.body == b""
        assert (job.state, job.collection_name, job.file_size, len(job.files)) == ("importing", "books", 10, 1)

    @pytest.mark.parametrize(
        ("method", "match", "wrong"),
        [
            *[(f"{verb}_import_job", "job_id", {"job_id": ""}) for verb in ("commit", "abort")],
            *[("get_import_progress", "job_id", {"job_id": one}) for one in (None, " ", "None", True)],
            *[("create_import_job", "idempotency_key", {**CHANGES[0][2], "idempotency_key": one})
              for one in ("", "x" * 257, "a\r\nX: 1", "\x7f", "é", 1e5)],
            ("refresh_load", "collection_name", {"collection_name": ""}),
        ],
    )  # fmt: skip
    def test_what_is_wrong_is_not_sent(self, server: Server, call: Call, method: str, match: str, wrong: Any) -> None:
        with pytest.raises(ImportSettingInvalid, match=match):
            call(method, **wrong)
        assert not server.asked

    def test_a_two_phase_job_is_asked_for_in_v2(self, server: Server, connect: Connect, call: Call) -> None:
        connect()
        server.v1(v1_job()).v2(v2_job("Uncommitted"))

        async def poll() -> Any:
            async with poller_of(ImportProgressAsyncHook(), two_phase=True) as poller:
                return await poller.poll()

        ways = (lambda: call(*ASK, two_phase=True), lambda: asyncio.run(poll()))
        assert [ask().state for ask in ways] == ["uncommitted"] * 2
        connect({"api_version": "v1"})
        for ask in ways:
            with pytest.raises(ImportSettingInvalid, match="v1"):
                ask()
        assert [one.path for one in server.asked] == [V2_DESCRIBE] * 2

    @pytest.mark.parametrize("kind", ["sync", "entered"])
    def test_a_hook_stays_with_what_the_server_serves_and_says_so_once(
        self, server: Server, connect: Connect, kind: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Milvus 2.4.0 to about 2.4.12 serve neither v1 nor `describe`."""
        connect()
        caplog.set_level(logging.INFO)
        server.on(V2_PROGRESS, Answer(unknown_job().body, headers={"Set-Cookie": "a=b"}), v2_job())
        unknown, *jobs = play(kind, *[ASK] * 3)
        assert type(unknown) is ImportJobUnknown
        assert {job.job_id for job in jobs} == {JOB}
        assert [one.path for one in server.asked] == [V1_GET, V2_DESCRIBE, *[V2_PROGRESS] * 3]
        assert sum("v2" in record.getMessage() for record in caplog.records) == 1
        assert (server.connections, {one.header("Cookie") for one in server.asked}) == (1, {None})


class TestWhatComesBack:
    @pytest.mark.parametrize(
        ("answer", "error", "words"),
        [
            (Answer({"code": "80001", "message": "x"}, 404), ImportApiUnauthorized, "does not accept the token"),
            (Answer(HTML, 403), ImportApiUnauthorized, "set db_name in the connection"),
            (Answer({"code": 9, "message": "x"}), ImportApiUnreachable, "quota"),
            (Answer(HTML, 429, {"Retry-After": "600"}), ImportApiUnreachable, "limits the rate"),
            (Answer({"code": 10001, "message": "x"}), ImportApiUnreachable, "own time limit was over"),
            (Answer(HTML, 500, {"Retry-After": "(\xff"}), ImportApiUnreachable, "is down"),
            (Answer(HTML), ImportApiUnreachable, "not an answer of the import API"),
            (Answer(b"[" * 9000), ImportApiUnreachable, "not an answer of the import API"),
            (Answer({"code": 5, "message": "Job NOT FOUND"}, 404), ImportApiUnreachable, "does not serve .*/describe"),
            (v2_job(jobId="other"), ImportApiUnreachable, "'other'"),
            (Answer(b"", 301, {"Location": V2_LIST}), ImportApiUnreachable, "redirects"),
            (Answer(b"", 307, {"Location": V2_LIST}), ImportApiUnreachable, "redirects"),
            (Answer(b"", 302, {"Location": "http://\xff\xfe/"}), ImportApiUnreachable, "redirects|can't decode"),
            (unknown_job(status=404), ImportJobUnknown, "no record"),
            (Answer({"code": 2100, "message": "parse job id failed"}), ImportSettingInvalid, "'job-1' is not the id"),
            (Answer({"code": 800, "message": "x"}), ImportApiRefused, "no database 'default'.*db_name"),
            (Answer({"code": 5, "message": "other"}), ImportApiRefused, "other"),
        ],
    )
    def test_one_answer_of_each_kind(self, server: Server, call: Call, answer: Answer, error: Any, words: str) -> None:
        server.v2(answer)
        with pytest.raises(error, match=words) as caught:
            call.progress()
        assert type(caught.value) is error
        str(caught.value).encode()
        # Of an old server the other path, and no more: no redirect is followed.
        assert len(server.asked) == (2 if "describe" in words else 1)

    NETWORKS = ("hang", "close", "reset", "cut", "trickle", "trickle_head", "garbage")

    @pytest.mark.parametrize("how", NETWORKS)
    @pytest.mark.usefixtures("naps")
    def test_on_a_bad_network_every_call_ends(self, server: Server, connect: Connect, call: Call, how: str) -> None:
        connect({"timeout": 0.3, "api_version": "v2"})
        server.v2(Answer(DONE.body, how=how))  # which trickles for longer than that, and would be a good one
        words = "in time|timed out" if how == "hang" else "cannot be reached|in time"
        with pytest.raises(ImportApiUnreachable, match=words):
            call.progress()

    @pytest.mark.parametrize(
        ("answer", "in_doubt"),
        [
            (Answer(HTML, 503), False),
            (Answer(HTML, 503, {"Retry-After": "0"}), False),
            (Answer(HTML, 502), True),
            *[(Answer(CREATED.body, how=how), True) for how in NETWORKS if "trickle" not in how],
        ],
    )
    def test_a_change_is_sent_once_and_says_whether_it_may_have_been_done(
        self, server: Server, connect: Connect, call: Call, answer: Answer, in_doubt: bool
    ) -> None:
        connect({"api_version": "v2", "timeout": 0.3})
        for method, path, arguments in CHANGES:
            server.on(path, answer)
            with pytest.raises(ImportApiUnreachable) as caught:
                call(method, **arguments)
            assert caught.value.in_doubt is in_doubt
            assert caught.value.nothing_done is ("Retry-After" in answer.headers)
            assert len(server.to(path)) == 1
        server.v2(v2_job("Committing", 99))  # the job tells
        if in_doubt:
            call("commit_import_job", JOB)

    @pytest.mark.parametrize("where", ["nobody listens", "no such host", "a full queue"])
    def test_what_was_never_sent_is_not_in_doubt(
        self, connect: Connect, call: Call, where: str, naps: list[float], monkeypatch: Patch
    ) -> None:
        monkeypatch.setattr("airflow_provider_importprog._connection._CONNECT_TIMEOUT", 0.2)
        with full_queue() as full:
            host = {"nobody listens": dead_url(), "no such host": "http://no-such-host.invalid"}.get(where, full)
            connect({"timeout": None}, host=host)
            words = "did not answer in time" if host == full else r"cannot be reached: \w*error"
            with pytest.raises(ImportApiUnreachable, match=f"(?i){words}") as caught:
                call("create_import_job", "books", files=["a"])
        assert not caught.value.in_doubt
        assert TOKEN_PASSWORD not in str(caught.value)
        assert [nap for nap in naps if nap > 0.1] == ([0.4] if call.kind == "sync" else [])  # tried twice more

    def test_a_missing_ca_bundle(self, connect: Connect, call: Call, server: Server, monkeypatch: Patch) -> None:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nonexistent/ca.pem")
        connect({"timeout": 2, "api_version": "v2"}, host=server.url.replace("http:", "https:"))
        with pytest.raises(ImportApiUnreachable, match=r"invalid path: /nonexistent/ca\.pem|No such file"):
            call.progress()

    @pytest.mark.parametrize(
        ("script", "asked", "pauses"),
        [
            ([Answer(HTML, 429, {"Retry-After": "1"}), DONE], 2, [1]),
            ([Answer(HTML, 429, {"Retry-After": "2"})], 1, []),
            ([Answer(HTML, 429), DONE], 2, []),
            ([*[Answer(HTML, 503, {"Retry-After": one}) for one in NO_TIMES], DONE], 4, [0.4, 0.8]),
            ([Answer(HTML, 503)], 4, [0.4, 0.8]),
            ([Answer(HTML, 502), Answer(HTML, 504), Answer(HTML, 503), DONE], 4, [0.4, 0.8]),
            ([Answer(HTML, 500), DONE], 1, []),
            ([Answer(how="close"), DONE], 2, []),
            ([Answer(how="close")], 2, []),
        ],
    )
    def test_the_blocking_hook_repeats_what_is_safe_to_repeat_and_the_other_nothing(
        self, server: Server, call: Call, naps: list[float], script: list[Answer], asked: int,
        pauses: list[float],
    ) -> None:  # fmt: skip
        server.v2(*script)
        good = call.kind == "sync" and script[-1] is DONE and asked > 1
        words = "cannot be reached" if script[0].how == "close" else "is down: HTTP 50|limits the rate"
        with nullcontext() if good else pytest.raises(ImportApiUnreachable, match=words):
            assert call.progress().state == "completed"
        assert len(server.asked) == (asked if call.kind == "sync" else 1)
        assert [nap for nap in naps if nap > 0.1] == (pauses if call.kind == "sync" else [])


@contextmanager
def full_queue() -> Iterator[str]:
    """A server that takes no connection: its queue is full with the first of four, and all others wait."""
    with ExitStack() as stack:
        listener, *queue = [stack.enter_context(socket.socket()) for _ in range(5)]
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for one in queue:
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def echo(asked: Asked) -> Answer:
    return Answer({"code": 1800, "message": asked.header("Authorization")}, 401)


KNOWN_NOT, NO_TOKEN = unknown_job(), {"login": None, "password": None}
TESTED: dict[str, tuple[dict[str, Any], dict[str, Any], bool, str]] = {
    "fine": ({V2_DESCRIBE: KNOWN_NOT, V2_LIST: EMPTY}, {}, True, r"answers, accepts the token, and serves v2\.$"),
    "both": ({V1_GET: KNOWN_NOT, V1_LIST: EMPTY, V2_DESCRIBE: DENIED, V2_LIST: EMPTY}, {"extra": {}}, True,
             "serves v1. v2: The token's owner is not permitted"),
    "older": ({V2_PROGRESS: KNOWN_NOT, V2_LIST: EMPTY}, NO_TOKEN, True, "asks for no token"),
    "no list": ({V2_DESCRIBE: KNOWN_NOT, V2_LIST: DENIED}, {}, True,
                "v2 shows no list of jobs: The token's owner is not permitted to do this: no privilege"),
    "no database": ({V2_DESCRIBE: KNOWN_NOT, V2_LIST: Answer({"code": 800, "message": "x"})}, {}, False, "database"),
    "no privilege": ({V2_DESCRIBE: DENIED, V2_LIST: EMPTY}, {}, False, "a gate cannot ask for a job. The token's"),
    "token": ({V2_DESCRIBE: echo}, {}, False, r"\*\*\*.*Check the user name and the password"),
    "key": ({V2_DESCRIBE: echo}, {"login": None}, False, r"\*\*\*.*Check the API key"),
    "no token": ({V2_DESCRIBE: echo}, NO_TOKEN, False, "Fill in the user name"),
    "404": ({}, {}, False, "answers, but not as the import API does. Check the base URL. .*describe"),
    "many words": ({V2_DESCRIBE: Answer({"code": 1800, "message": "w " * 999})}, {}, False, r" …\. Check the user"),
    "nobody listens": ({}, {"host": "http://127.0.0.1:1"}, False, "cannot be reached"),
    "no TLS": ({}, {"host": "https"}, False, "write http:// before the host"),
    "another type": ({}, {"conn_type": "http"}, False, "^This connection is of type 'http'"),
    "no connection": ({}, {}, False, "^This connection is not defined: add it with the type 'Milvus"),
}  # fmt: skip


@pytest.mark.parametrize("name", TESTED)
@pytest.mark.usefixtures("naps")
def test_the_test_of_a_connection(server: Server, connect: Connect, call: Call, name: str, monkeypatch: Patch) -> None:
    scripts, fields, good, words = TESTED[name]
    if fields.get("host") == "https":
        fields = {"host": server.url.replace("http:", "https:")}
    connect(**{"extra": {"api_version": "v2"}, **fields})
    if name == "no connection":
        monkeypatch.delenv("AIRFLOW_CONN_IMPORTPROG_DEFAULT")
    for path, answer in scripts.items():
        server.on(path, answer)
    found, said = call("test_connection")
    assert found is good
    assert re.search(words, said), said
    assert TOKEN_PASSWORD not in said


class TestRotation:
    """The token is rotated while a hook has the old one."""

    @pytest.fixture
    def rotate(self, server: Server, connect: Connect) -> Callable[[], None]:
        """Have the server take only a new token, which the connection then holds."""
        refused = Answer({"code": 1800, "message": "no"}, 401)

        def rotate_it() -> None:
            server.v2(lambda one: v2_job() if one.header("Authorization") == "Bearer new-secret" else refused)
            connect({"api_version": "v2"}, login=None, password="new-secret")

        server.v2(v2_job()).on(V2_LIST, EMPTY)
        return rotate_it

    @pytest.mark.parametrize("kind", KINDS)
    def test_the_connection_is_read_anew_and_an_error_believed_where_nothing_has_changed(
        self, server: Server, connect: Connect, rotate: Callable[[], None], kind: str,
        monkeypatch: Patch,
    ) -> None:  # fmt: skip
        assert [job.job_id for job in play(kind, ASK, rotate, ASK, ASK, server=server)] == [JOB] * 3
        assert (len(server.asked), server.connections) == (4, 4 if kind == "async" else 2)  # others keep theirs open
        connect({"api_version": "v2"}, password="wrong-one")
        came = play(kind, ASK, lambda: monkeypatch.delenv("AIRFLOW_CONN_IMPORTPROG_DEFAULT"), ASK)
        assert [type(one) for one in came] == [ImportApiUnauthorized] * 2
        assert len(server.asked) == 6

    def test_gates_that_share_a_client_move_on_together(self, server: Server, rotate: Callable[[], None]) -> None:
        async def story() -> None:
            async with hook_of("poller") as one, hook_of("poller") as two, hook_of("poller") as three:
                for step in (lambda: None, rotate, lambda: None):
                    step()
                    jobs = await asyncio.gather(*[call(*ASK) for call in (one, two, three)])
                    assert {job.job_id for job in jobs} == {JOB}
            await asyncio.to_thread(wait_until, lambda: not server.open_connections)

        asyncio.run(story())

    def test_nothing_is_kept_of_the_old_token(self, server: Server, rotate: Callable[[], None]) -> None:
        """A watcher enters its hook once, for ever."""
        from airflow_provider_importprog._async_client import AsyncClient

        async def story() -> None:
            async with ImportProgressAsyncHook() as hook:
                await hook.get_import_progress(JOB)
                rotate()
                await hook.get_import_progress(JOB)
                assert len(AsyncClient._shared[asyncio.get_running_loop()]) == 1

        asyncio.run(story())

    def test_a_gate_that_waits_with_a_new_token_bears_the_next_one_too(self, server: Server, connect: Connect) -> None:
        """It may wait for very long within one poll, because a list goes on telling it to."""
        tokens = ["token-1"]

        def answer(asked: Asked) -> Answer:
            if asked.header("Authorization") != f"Bearer {tokens[-1]}":
                return Answer({"code": 1800, "message": "no"}, 401)
            return v2_job()

        def listed(asked: Asked) -> Answer:
            if asked.header("Authorization") == f"Bearer {tokens[-1]}":
                tokens.append(f"token-{len(tokens) + 1}")
                connect({"api_version": "v2"}, login=None, password=tokens[-1])
            return Answer({"code": 1800, "message": "no"}, 401)

        async def story() -> None:
            async with hook_of("poller") as one, hook_of("poller") as two:
                for _ in range(3):
                    jobs = await asyncio.gather(one(*ASK), two(*ASK))
                    assert {job.job_id for job in jobs} == {JOB}

        connect({"api_version": "v2"}, login=None, password=tokens[0])
        server.v2(answer).on(V2_LIST, listed)
        asyncio.run(story())
        assert len(tokens) > 2

    @pytest.mark.parametrize("kind", ["sync", "async"])
    def test_airflows_cache_is_passed_by(self, rotate: Callable[[], None], monkeypatch: Patch, kind: str) -> None:
        cache = pytest.importorskip("airflow.sdk.execution_time.cache").SecretCache
        monkeypatch.setattr(cache, "_cache", {})
        monkeypatch.setattr(cache, "_ttl", timedelta(minutes=15), raising=False)
        kept: list[Any] = []
        play(kind, ASK, lambda: kept.append(cache._cache["__c_importprog_default"]), rotate, ASK)
        assert cache._cache["__c_importprog_default"] is not kept[0]


class TestShared:
    """What all hooks of a connection share in an event loop."""

    def test_one_session_until_the_last_one_leaves(self, server: Server) -> None:
        server.v2(v2_job())

        async def story() -> None:
            async with ImportProgressAsyncHook() as first:
                await first.get_import_progress(JOB)
                async with ImportProgressAsyncHook() as second:
                    await asyncio.gather(*[hook.get_import_progress(JOB) for hook in (first, second) for _ in range(3)])
                assert server.open_connections
            await asyncio.to_thread(wait_until, lambda: not server.open_connections)
            used = server.connections
            await first.get_import_progress(JOB)
            assert server.connections == used + 1

        asyncio.run(story())

    def test_few_connections_and_no_request_times_out_waiting_for_one(self, server: Server, connect: Connect) -> None:
        connect({"api_version": "v2", "timeout": 1})
        server.v2(Answer(DONE.body, delay=0.4))

        async def story() -> None:
            async with hook_of("entered") as call:
                assert {job.state for job in await asyncio.gather(*[call(*ASK) for _ in range(96)])} == {"completed"}

        asyncio.run(story())
        assert server.connections == 32

    @pytest.mark.parametrize("kind", ["sync", "entered"])
    def test_one_rate(self, server: Server, connect: Connect, kind: str, naps: list[float]) -> None:
        connect({"api_version": "v2", "max_requests_per_second": 10})
        server.v2(v2_job())
        began = time.monotonic()
        play(kind, *[ASK] * 4)
        assert time.monotonic() - began >= 3 * 1.05 / 10
        assert len(naps) >= 3 or kind == "entered"

    @pytest.mark.parametrize(
        ("answer", "left"),
        [
            (Answer(HTML, 429, {"Retry-After": "120"}), 120),
            (Answer(HTML, 503, {"Retry-After": "11"}), 11),
            (Answer({"code": 8, "message": "slow down"}, headers={"Retry-After": "3600"}), 300),
        ],
    )
    def test_one_pause_and_none_in_silence(self, server: Server, answer: Answer, left: int) -> None:
        server.v2(answer)
        told, held_up = play("entered", ASK, ASK)
        assert told.retry_after == float(answer.headers["Retry-After"])
        assert f"asked for a pause, of which {left} s are left" in str(held_up)
        assert held_up.retry_after == pytest.approx(left, abs=1)
        assert (told.nothing_done, held_up.nothing_done) == (True, True)
        assert len(server.asked) == 1

    @pytest.mark.parametrize("answer", [Answer({"code": 8, "message": "x"}), Answer(HTML, 503)])
    def test_a_limit_without_a_time_is_a_pause_of_a_second(self, server: Server, answer: Answer) -> None:
        server.v2(answer, v2_job())
        began = time.monotonic()
        assert play("entered", ASK, ASK)[1].job_id == JOB
        assert time.monotonic() - began >= 1 or answer.status == 503

    def test_a_large_answer_is_parsed_off_the_event_loop(self, server: Server) -> None:
        server.v2(v2_job(), v2_job(collectionName="x" * 100_000))
        threads: list[str] = []

        async def story() -> None:
            hook = ImportProgressAsyncHook()
            async with poller_of(hook, lambda job: bool(threads.append(threading.current_thread().name))) as poller:  # type: ignore[func-returns-value]
                for _ in range(2):
                    await poller.poll()

        asyncio.run(story())
        assert [name == threading.current_thread().name for name in threads] == [True, False]

    def test_a_connection_is_read_once_for_many_though_one_is_cancelled(
        self, server: Server, monkeypatch: Patch
    ) -> None:
        read, reads = asyncio.Event(), []
        server.v2(v2_job())

        async def get(conn_id: str) -> Connection:
            reads.append(conn_id)
            await read.wait()
            return Connection(conn_id=conn_id, conn_type="importprog", host=server.url, extra='{"api_version": "v2"}')

        monkeypatch.setattr("airflow.providers.common.compat.connection.get_async_connection", get)

        async def story() -> None:
            first, second = (asyncio.create_task(ImportProgressAsyncHook().get_import_progress(JOB)) for _ in range(2))
            await asyncio.sleep(0)
            first.cancel()
            await asyncio.sleep(0)
            read.set()
            assert (await second).job_id == JOB

        asyncio.run(story())
        assert reads == ["importprog_default"]


KEYS = {"one": ("AKIA-access-1", "secret/key+22"), "two": ("AKIA-access-2", "other/key+333")}
SECRETS = [form for keys in KEYS.values() for key in keys for form in (key, quote(key, safe=""))]
ECHO, TOKEN = " ".join(SECRETS), f"{TOKEN_LOGIN}:{TOKEN_PASSWORD}"


@pytest.fixture
def store(monkeypatch: Patch) -> Store:
    """Define the connection of an object storage."""

    def set_it(name: str) -> None:
        access, secret = KEYS[name]
        connection = {"conn_type": "aws", "login": access, "password": secret}
        monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(connection))

    return set_it


class TestStorageKeys:
    """The keys of a storage that a server was told, and repeats."""

    ACCESS, SECRET = KEYS["one"]
    WORDS = f"denied {ACCESS} {SECRET}"
    SAID: dict[str, Answer] = {  # noqa: RUF012
        "error": Answer({"code": 7, "message": WORDS}),
        "job": v2_job("Failed", reason=WORDS),
        "file": v2_job("Completed", files=[v2_file(reason=WORDS), v2_file()]),
    }

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("where", SAID)
    def test_words_are_withheld_until_they_can_be_redacted(
        self, server: Server, store: Store, kind: str, where: str
    ) -> None:
        server.v2(self.SAID[where])
        withheld, redacted = map(repr, play(kind, ASK, lambda: store("one"), ASK, storage_conn_id="one"))
        for said in withheld, redacted:
            assert self.ACCESS not in said
            assert self.SECRET not in said
        sentence = f"import job {JOB} is not shown: it may hold keys of connection 'one', which cannot be read now"
        assert withheld.count(sentence) == 1
        assert "denied *** ***" in redacted
        assert "not shown" not in redacted

    def test_of_a_list_too(self, server: Server, call: Call) -> None:
        record = {"jobId": JOB, "state": "Failed", "reason": self.WORDS}
        server.on(V2_LIST, Answer({"code": 0, "data": {"records": [record]}}))
        (jobs,) = play(call.kind, ("list_import_jobs",), storage_conn_id="one")
        assert "What the server said of its import jobs is not shown" in repr(jobs)
        assert self.SECRET not in repr(jobs)

    def test_a_new_jobs_keys_are_redacted_and_it_is_sent_as_it_is(self, server: Server, call: Call) -> None:
        told = ("accessKey", "secretKey", "token")
        server.on(V2_CREATE, lambda asked: Answer({"code": 7, "message": " ".join(asked.json[key] for key in told)}))
        new = NewImportJob("books", None, None, [["s3://b/1"]], None, None, "AKIA123", "hush-hush", "open-sesame")
        with pytest.raises(ImportApiRefused, match=r"\): \*\*\* \*\*\* \*\*\*$"):
            call("create", new, "in01")
        assert server.asked[0].json["clusterId"] == "in01"

    PAGE = f"<html>{ECHO} {TOKEN}</html>".encode()
    ODD = ({"jobId": ECHO, "state": 7, "reason": TOKEN},)
    TALKING = tuple({"jobId": one, "collectionName": ECHO, "state": TOKEN, "reason": ECHO} for one in ("one", "two"))
    LISTS = tuple(Answer({"code": 0, "data": {"records": records}}) for records in (ODD, TALKING))

    @pytest.mark.parametrize("path", [V2_DESCRIBE, V2_LIST])
    @pytest.mark.parametrize(
        "answer", [Answer({"code": 7, "message": f"{ECHO} {TOKEN}"}), Answer(PAGE, 500), Answer(PAGE), *LISTS]
    )
    def test_gates_that_share_a_list_show_none_of_anybodys(
        self, server: Server, store: Store, logged: Logged, path: str, answer: Answer
    ) -> None:
        for name in KEYS:
            store(name)

        def describe(asked: Asked) -> Answer:
            job_id, number = asked.json["jobId"], len(server.to(V2_DESCRIBE))
            if number < 8:
                return answer if path == V2_DESCRIBE and number in (3, 4) else v2_job(jobId=job_id)
            # A gate that waits alone knows its own keys.
            words = f"denied: {' '.join(KEYS[job_id])} {quote(KEYS[job_id][1], safe='')} {TOKEN}"
            return v2_job("Failed", jobId=job_id, reason=words, files=[v2_file(state="Failed", reason=words)])

        server.v2(describe).on(V2_LIST, answer if path == V2_LIST else EMPTY)
        events = world.run(*[ImportProgressTrigger(name, storage_conn_id=name, poke_interval=0.05) for name in KEYS])
        assert [event["verdict"] for event in events] == ["job_failed", "job_failed"]
        assert server.to(V2_LIST)
        seen = logged() + repr(events)
        assert "denied: *** *** *** ***" in seen
        assert not [secret for secret in [*SECRETS, TOKEN_PASSWORD] if secret in seen]

    @pytest.mark.parametrize("read_again", [False, True])
    def test_a_list_that_another_gate_asks_for_shows_none_that_cannot_be_read(
        self,
        server: Server,
        caplog: pytest.LogCaptureFixture,
        read_again: bool,
        monkeypatch: Patch,
    ) -> None:
        server.v2(v2_job()).on(V2_LIST, Answer({"code": 7, "message": f"{self.WORDS} {TOKEN_PASSWORD}"}))

        async def for_ever(conn_id: str) -> Any:
            await asyncio.sleep(20)

        async def story() -> None:
            async with (
                hook_of("poller", storage_conn_id="one") as knows,
                hook_of("poller") as asks,
                hook_of("poller") as shares,
            ):
                await asyncio.gather(asks(*ASK), shares(*ASK))
                await knows(*ASK)
                caplog.clear()
                monkeypatch.setattr("airflow.providers.common.compat.connection.get_async_connection", for_ever)
                reading = asyncio.create_task(knows(*ASK) if read_again else asyncio.sleep(20))
                while "list of import jobs cannot be had" not in caplog.text:
                    await asyncio.gather(asks(*ASK), shares(*ASK))
                    await asyncio.sleep(0.02)
                reading.cancel()

        caplog.set_level(logging.INFO)
        asyncio.run(asyncio.wait_for(story(), 10))
        assert "what the server said may hold keys of a storage" in caplog.text
        assert self.SECRET not in caplog.text


class TestTheProxysPassword:
    USER, PASSWORD = "puser", "pr0xy/Pa55-word"
    CREDENTIALS = f"{USER}:{quote(PASSWORD, safe='')}"
    SECRET = (PASSWORD, quote(PASSWORD, safe=""), b64encode(f"{USER}:{PASSWORD}".encode()).decode())

    @pytest.fixture
    def proxy(
        self, request: pytest.FixtureRequest, server: Server, other_server: Server, connect: Connect,
        monkeypatch: Patch, naps: list[float],
    ) -> str:  # fmt: skip
        connect({"api_version": "v2", "timeout": 2})
        how: str = request.param

        def repeat(asked: Asked) -> Answer:
            words = f"{asked.header('Proxy-Authorization')} {self.PASSWORD}"
            files = [v2_file(f"[{words}]", "Failed", reason=words)]
            said = {"error": Answer({"code": 7, "message": words}), "407": Answer(words.encode(), 407)}
            return v2_job("Failed", reason=words, files=files) if how == "job" else said.get(how, Answer(how="close"))

        other_server.on(f"{server.url}{V2_DESCRIBE}", repeat)
        address = how if ":" in how else other_server.url.removeprefix("http://")
        for name in ("HTTP_PROXY", "http_proxy"):
            monkeypatch.setenv(name, f"http://{self.CREDENTIALS}@{address}")
        return how

    WAYS = ("127.0.0.1:99999", "no-such-host.invalid:3128", "hangs up", "407", "job", "error")

    @pytest.mark.parametrize("proxy", WAYS, indirect=True)
    def test_is_in_no_words_of_a_hook(self, server: Server, proxy: str, call: Call, logged: Logged) -> None:
        (came,) = play(call.kind, ASK)
        assert isinstance(came, AirflowException) is (proxy != "job")
        shown = "".join(traceback.format_exception(came)) if isinstance(came, AirflowException) else repr(came)
        seen = shown + repr(call("test_connection")) + logged()
        assert not [secret for secret in self.SECRET if secret in seen]
        assert not server.asked  # but the proxy was

    @pytest.mark.parametrize("proxy", ["hangs up", "job"], indirect=True)
    def test_is_in_nothing_that_a_gate_leaves(self, proxy: str, gate: Gate, logged: Logged) -> None:
        with pytest.raises(AirflowException) as caught:
            gate.run(outage_tolerance=0.1, timeout=0.5)
        rows = [(one.trigger.serialize(), one.kwargs, vars(one.trigger)) for one in gate.deferred]
        left = [logged(), repr(gate.ti.pushed), repr(gate.events), repr(rows), repr(vars(caught.value))]
        seen = "\n".join([*left, "".join(traceback.format_exception(caught.value))])
        assert not [secret for secret in self.SECRET if secret in seen]
