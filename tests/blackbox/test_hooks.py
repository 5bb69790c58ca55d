"""Both hooks against every row of the API's facts, and against a hostile network."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from airflow.providers.common.compat.sdk import AirflowException

from airflow_provider_importprog.exceptions import (
    ImportApiUnauthorized,
    ImportApiUnreachable,
    ImportJobUnknown,
    ImportSettingInvalid,
)
from airflow_provider_importprog.hooks.import_progress import ImportProgressAsyncHook, ImportProgressHook
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
    ScriptedServer,
    dead_url,
    timed,
    unknown_job,
    v1_file,
    v1_job,
    v2_file,
    v2_job,
)

HTML = b"<html>Bad Gateway</html>"


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


def test_cluster_left_out_and_given(server: ScriptedServer, connect: Connect, call: Call) -> None:
    server.v1(v1_job())
    call.progress()
    call.progress(cluster_id="mine")
    connect({"cluster_id": "theirs"})
    call.progress(cluster_id="mine")
    assert [asked.query for asked in server.asked] == [
        f"jobId={JOB}", f"jobId={JOB}&clusterId=mine", f"jobId={JOB}&clusterId=mine"
    ]  # fmt: skip


@pytest.mark.parametrize("job_id", ["a b&c=d", "ü/%", "x?y#z"])
def test_ids_are_encoded(server: ScriptedServer, call: Call, job_id: str) -> None:
    from urllib.parse import parse_qs

    server.v1(v1_job(jobId=job_id))
    assert call("get_import_progress", job_id).job_id == job_id
    assert parse_qs(server.asked[0].query) == {"jobId": [job_id]}


def test_v2_call(server: ScriptedServer, connect: Connect, call: Call) -> None:
    connect({"api_version": "v2", "db_name": "shop", "project_id": "p", "region_id": "r"})
    server.v2(v2_job("Completed"))
    job = call.progress()
    call.progress(cluster_id="c")
    first, second = server.asked
    assert first.json == {"jobId": JOB, "projectId": "p", "regionId": "r"}
    assert second.json["clusterId"] == "c"
    assert (first.method, first.header("DB-Name")) == ("POST", "shop")
    assert (job.state, job.progress, job.imported_rows, job.total_rows) == ("completed", 100.0, 5, 5)
    assert job.complete_time.isoformat() == "2024-05-18T03:00:22+00:00"


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


@pytest.mark.parametrize("field", ["verify", "cert"])
def test_a_file_that_is_no_certificate(
    server: ScriptedServer, connect: Connect, call: Call, field: str, tmp_path: Path
) -> None:
    (tmp_path / "junk.pem").write_text("junk")
    connect({"timeout": 2, field: str(tmp_path / "junk.pem")}, host=server.url.replace("http:", "https:"))
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


def test_async_auto_and_reuse(server: ScriptedServer, connect: Connect) -> None:
    server.v2(v2_job())

    async def ask() -> None:
        async with ImportProgressAsyncHook() as hook:
            for _ in range(3):
                await hook.get_import_progress(JOB)

    asyncio.run(ask())
    assert [asked.path for asked in server.asked] == [V1_GET, V2_DESCRIBE, V2_DESCRIBE, V2_DESCRIBE]
    assert server.connections == 1


@pytest.mark.parametrize("answer", [Answer(HTML, 500), unknown_job(), Answer({"code": 1800, "message": "no"})])
def test_auto_stays_with_v1_where_it_is_served(server: ScriptedServer, call: Call, answer: Answer) -> None:
    server.v1(answer).v2(v2_job("Completed"))
    with pytest.raises(AirflowException):
        call.progress()
    assert not server.to(V2_DESCRIBE)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answer({"code": 1800, "message": "x"}), ImportApiUnauthorized),
        (Answer({"code": 1400, "message": "x"}), ImportApiUnauthorized),
        (Answer({"code": 1401, "message": "x"}), ImportApiUnauthorized),
        (Answer({"code": 5, "message": "x"}, 401), ImportApiUnauthorized),
        (Answer({"code": 5, "message": "x"}, 403), ImportApiUnauthorized),
        (Answer({"code": 1807, "message": "x"}), ImportApiUnreachable),
        (Answer({"code": 8, "message": "x"}), ImportApiUnreachable),
        (Answer(HTML, 429, {"Retry-After": "600"}), ImportApiUnreachable),
        (Answer(HTML, 429, {"Retry-After": "Fri, 31 Dec 2060 23:59:59 GMT"}), ImportApiUnreachable),
        (Answer(HTML, 500), ImportApiUnreachable),
        (Answer(HTML, 200), ImportApiUnreachable),
        (Answer({"code": 5, "message": "import job does not exist"}), ImportJobUnknown),
        (Answer({"code": 5, "message": "Job NOT FOUND"}, 404), ImportJobUnknown),
        (Answer({"code": 5, "message": "other"}), AirflowException),
        (v2_job(jobId="other"), ImportApiUnreachable),
        (v2_job(details=7), ImportApiUnreachable),
        (v2_job(files=[3]), ImportApiUnreachable),
        (v2_job(state={}), ImportApiUnreachable),
        (Answer({"code": "0", "data": v2_job().body["data"]}), AirflowException),
        (Answer({"code": 0, "data": []}), ImportApiUnreachable),
    ],
)
def test_errors(
    server: ScriptedServer, connect: Connect, call: Call, answer: Answer, expected: type[Exception]
) -> None:
    connect({"api_version": "v2"})
    server.v2(answer)
    with pytest.raises(expected):
        call.progress()


@pytest.mark.parametrize(
    ("fields", "state", "progress"),
    [
        ({"readyPercentage": 100}, "importing", 100),
        ({"readyPercentage": 0.5}, "importing", 0.5),
        ({"readyPercentage": -3}, "importing", 0),
        ({"readyPercentage": 1000}, "importing", 100),
        ({"completeTime": "2024-05-18T03:00:22Z"}, "completed", 100),
        ({"errorMessage": "bad", "completeTime": "2024-05-18T03:00:22Z"}, "failed", None),
        ({"errorMessage": "bad"}, "failed", None),
        ({"errorMessage": "Unknown type", "completeTime": "Unknown type"}, "importing", 0),
    ],
)
def test_v1_states(
    server: ScriptedServer, call: Call, fields: dict[str, Any], state: str, progress: float | None
) -> None:
    server.v1(v1_job(**fields))
    job = call.progress()
    assert job.state == state
    assert progress is None or job.progress == progress


@pytest.mark.parametrize(("percentage", "state"), [(100, "completed"), (99, "importing"), (1, "importing")])
def test_v1_without_complete_time(server: ScriptedServer, call: Call, percentage: float, state: str) -> None:
    body = v1_job(readyPercentage=percentage).body
    del body["data"]["completeTime"]
    server.v1(Answer(body))
    assert call.progress().state == state


def test_v1_proof_of_the_scale(server: ScriptedServer, call: Call) -> None:
    files = [v1_file(done=True, readyPercentage=1), v1_file(readyPercentage=0.5)]
    server.v1(v1_job(readyPercentage=0.75, files=files))
    job = call.progress()
    assert (job.progress, [file.progress for file in job.files]) == (75, [100, 50])


def test_hostile_strings(server: ScriptedServer, call: Call) -> None:
    server.v1(v1_job(files=[v1_file("a\0b\ud800c", fileSize=10**40, readyPercentage="x", errorMessage="\0")]))
    plain = json.dumps(call.progress().to_dict(), allow_nan=False, ensure_ascii=False)
    plain.encode()
    assert "\\u0000" not in plain


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
    assert len(server.asked) == 1


def test_create(server: ScriptedServer, connect: Connect, call: Call) -> None:
    connect({"cluster_id": "c", "db_name": "shop"})
    server.on(V2_CREATE, Answer({"code": 0, "data": {"jobId": 448}}))
    job_id = call("create_import_job", "books", files=[["a.parquet"]], options={"auto_commit": "false"})
    assert job_id == "448"
    body = server.to(V2_CREATE)[0].json
    assert body["files"] == [["a.parquet"]]
    assert (body["collectionName"], body["options"], body["dbName"]) == ("books", {"auto_commit": "false"}, "shop")
    with pytest.raises((AirflowException, ValueError)):
        call("create_import_job", "books", files=[["a"]], options={"auto_commit": False})


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


def _record(number: int) -> dict[str, Any]:
    return {"jobId": f"job-{number}", "collectionName": "books", "state": "ImportRunning"}


def test_v1_list_pages(server: ScriptedServer, connect: Connect, call: Call) -> None:
    from urllib.parse import parse_qs

    def page(asked: Any) -> Answer:
        query = parse_qs(asked.query)
        size, current = int(query["pageSize"][0]), int(query["currentPage"][0])
        wanted = [_record(n) for n in range(250)][(current - 1) * size : current * size]
        return Answer({"code": 200, "data": {"tasks": wanted, "count": 250}})

    server.on(V1_LIST, page)
    jobs = call("list_import_jobs")
    assert [job.job_id for job in jobs] == [f"job-{n}" for n in range(250)]
    assert {job.state.value for job in jobs} == {"importing"}


@pytest.mark.parametrize("number", [0, 1, 10, 50, 100, 200, 230])
def test_list_of_a_server_that_ignores_paging(
    server: ScriptedServer, connect: Connect, call: Call, number: int
) -> None:
    connect({"api_version": "v2"})
    records = [{"jobId": str(n), "collectionName": "books", "state": "Completed", "progress": 100}
               for n in range(number)]  # fmt: skip
    server.on(V2_LIST, Answer({"code": 0, "data": {"records": records}}))
    assert len(call("list_import_jobs")) == number
    assert len(server.asked) <= 4


def test_test_connection(server: ScriptedServer, connect: Connect, call: Call) -> None:
    server.on(V2_LIST, Answer({"code": 0, "data": {"records": []}}))
    good, said = call("test_connection")
    assert good
    assert "v2" in said
    server.on(V2_LIST, lambda asked: Answer({"code": 1800, "message": asked.header("Authorization")}, 401))
    bad, said = call("test_connection")
    assert not bad
    assert TOKEN_PASSWORD not in said
    connect(host=dead_url())
    bad, said = call("test_connection")
    assert not bad
    assert said


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


@pytest.mark.parametrize("password", ["123456", "Completed", "books/", "completeTime", "parquet"])
def test_a_password_does_not_change_answers(
    server: ScriptedServer, connect: Connect, call: Call, password: str
) -> None:
    connect({"api_version": "v2"}, password=password)
    server.v2(v2_job("Completed", fileSize=1234567, files=[v2_file("[x.json]")]))
    job = call.progress()
    assert (job.state, job.file_size) == ("completed", 1234567)


WRONG = {
    "host": [{"host": None}, {"host": ""}, {"host": "ftp://x"}, {"host": "http://"}, {"host": "http://a b"},
             {"host": "http://x:99999"}, {"host": "http://root:hunter2secret@x"},
             {"host": "http://root:1#hunter2secret@x"}, {"host": "root:hunter2secret?@x"}],
    "schema": [{"host": "x", "schema": "gopher"}],
    "port": [{"host": "127.0.0.1", "port": 70000}, {"host": "127.0.0.1", "port": -1}],
    "password": [{"password": "a b\n"}, {"password": "é-hunter2secret"}],
    **{name: [{"extra": {name: value}} for value in (5, [], {"a": 1}, True)]
       for name in ("cluster_id", "project_id", "region_id", "db_name")},
    "api_version": [{"extra": {"api_version": value}} for value in ("v3", 1, True, "V2 ")],
    **{name: [{"extra": {name: value}} for value in (0, -1, "x", "nan", "inf", True, [], {})]
       for name in ("timeout", "max_requests_per_second")},
    "verify": [{"extra": {"verify": value}} for value in (5, "/nonexistent", [])],
    "cert": [{"extra": {"cert": value}} for value in (5, "/nonexistent", ["a"], [1, 2], {})],
    "extra": [{"extra": "[1]"}, {"extra": "no json"}],
}  # fmt: skip
CASES = [(name, fields) for name, cases in WRONG.items() for fields in cases]


@pytest.mark.parametrize(("name", "fields"), CASES, ids=[f"{n}-{i}" for i, (n, _) in enumerate(CASES)])
def test_bad_connections(
    server: ScriptedServer, call: Call, name: str, fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = {"conn_type": "importprog", "host": server.url, "login": "root", "password": TOKEN_PASSWORD, **fields}
    monkeypatch.setenv("AIRFLOW_CONN_IMPORTPROG_DEFAULT", json.dumps(connection))
    with pytest.raises((AirflowException, ValueError), match=name) as caught:
        call.progress()
    assert TOKEN_PASSWORD not in str(caught.value)
    assert "hunter2secret" not in str(caught.value)
    assert not server.asked


@pytest.mark.parametrize(
    ("extra", "good"),
    [
        ("timeout=5&max_requests_per_second=100&verify=false&cluster_id=c&api_version=v1", True),
        ("timeout=soon", False),
        ("api_version=v9", False),
    ],
)
def test_uri(server: ScriptedServer, call: Call, extra: str, good: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    place = quote(server.url, safe="")
    monkeypatch.setenv("AIRFLOW_CONN_IMPORTPROG_DEFAULT", f"importprog://root:{TOKEN_PASSWORD}@{place}/?{extra}")
    server.v1(v1_job())
    if good:
        call.progress()
        assert server.asked[0].query == f"jobId={JOB}&clusterId=c"
        assert server.asked[0].header("Authorization") == f"Bearer root:{TOKEN_PASSWORD}"
        return
    with pytest.raises((AirflowException, ValueError), match=extra.partition("=")[0]) as caught:
        call.progress()
    assert TOKEN_PASSWORD not in str(caught.value)


def test_schema_and_port(server: ScriptedServer, connect: Connect, call: Call) -> None:
    connect(host="127.0.0.1", schema="http", port=server.port)
    server.v1(v1_job())
    assert call.progress()


def test_rate_limit(server: ScriptedServer, connect: Connect) -> None:
    connect({"max_requests_per_second": 20, "api_version": "v1"})
    server.v1(v1_job())
    hook = ImportProgressHook()
    began = time.monotonic()
    for _ in range(7):
        hook.get_import_progress(JOB)
    assert time.monotonic() - began >= 0.28


def test_a_success_that_says_not_found(server: ScriptedServer, call: Call) -> None:
    server.v1(Answer({**v1_job(done=True).body, "message": "warning: schema hint not found"}))
    assert call.progress().state == "completed"


def test_a_short_retry_after_is_waited_out(server: ScriptedServer, connect: Connect) -> None:
    connect({"api_version": "v1", "timeout": 0.4})
    server.v1(Answer(HTML, 429, {"Retry-After": "1"}), v1_job(done=True))
    job, took = timed(lambda: ImportProgressHook().get_import_progress(JOB))
    assert job.state == "completed"
    assert took >= 1  # longer than the time-out of a request, which the wait must not use up
    assert len(server.asked) == 2
