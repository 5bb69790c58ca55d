"""Issue 9, section 1: words decide no final verdict."""

from __future__ import annotations

import re
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_importprog.exceptions import (
    ImportApiRefused,
    ImportApiUnauthorized,
    ImportApiUnreachable,
    ImportJobUnknown,
    ImportProgressException,
)
from tests.acceptance.helpers import GAVE_UP, HTML, Imports, says
from tests.blackbox.driver import Call, Connect
from tests.blackbox.server import (
    JOB,
    V2_ABORT,
    V2_COMMIT,
    V2_CREATE,
    Answer,
    ScriptedServer,
    v1_job,
    v2_job,
)

GONE = f"import job does not exist, jobID={JOB}: importing data failed"
KUBERNETES = {
    "kind": "Status",
    "apiVersion": "v1",
    "status": "Failure",
    "message": 'services "milvus" not found',
    "reason": "NotFound",
    "code": 404,
}
NO_ID = f'parse job id failed, err=%w strconv.ParseInt: parsing "{JOB}": invalid syntax'

UNKNOWN = {
    "2100": says(2100, GONE),
    "2101": says(2101, f"import job does not exist, jobID={JOB} on server side"),
    "2100 on 400": says(2100, GONE, 400),
    "2101 on 400": says(2101, GONE, 400),
    "2100 on 404": says(2100, GONE, 404),
    "404 that names the job": says(404, f"import job {JOB} does not exist", 404),
    "code in a string": says("2100", GONE),
}
NOT_UNKNOWN = {
    "database": says(800, "database not found[database=shop]"),
    "database on 400": says(800, "database not found[database=shop]", 400),
    "database on 404": says(800, "database not found[database=shop]", 404),
    "collection": says(100, "collection not found[database=shop][collection=books]"),
    "collection on 404": says(100, "collection not found[database=shop][collection=books]", 404),
    "node": says(901, "node not found[node=7]"),
    "node under 2100": says(2100, "importing data failed: node not found[node=7]"),
    "node under 2101": says(2101, "node not found[node=7]", 400),
    "collection under 2100 on 404": says(2100, "collection not found[collection=books]", 404),
    "route": says(404, "route not found", 404),
    "route on 200": says(404, "route not found"),
    "gateway": says(5, "Not Found", 404),
    "gateway with details": Answer({"code": 5, "message": "Not Found", "details": []}, 404),
    "Kubernetes": Answer(KUBERNETES, 404),
    "token": says(4040, "Token not found"),
    "token on 404": says(4040, "Token not found", 404),
}


@pytest.fixture(autouse=True)
def _v2(connect: Connect) -> None:
    connect({"api_version": "v2", "db_name": "shop"})


@pytest.mark.parametrize("answer", UNKNOWN.values(), ids=UNKNOWN)
def test_no_such_job(server: ScriptedServer, call: Call, answer: Answer) -> None:
    server.v2(answer)
    with pytest.raises(ImportJobUnknown):
        call.progress()


@pytest.mark.parametrize("answer", NOT_UNKNOWN.values(), ids=NOT_UNKNOWN)
def test_something_else_is_not_found(server: ScriptedServer, call: Call, answer: Answer) -> None:
    server.v2(answer)
    with pytest.raises(ImportProgressException) as caught:
        call.progress()
    assert not isinstance(caught.value, AirflowFailException)
    if answer.body["code"] in (800, 100):
        assert "db_name" in str(caught.value)
        assert "shop" in str(caught.value)


@pytest.mark.parametrize(("code", "name"), [(100, "collection"), (800, "database")])
def test_a_submission_names_the_setting(server: ScriptedServer, call: Call, code: int, name: str) -> None:
    server.on(V2_CREATE, says(code, f"{name} not found"))
    with pytest.raises(ImportProgressException, match=r"db_name.*shop|shop.*db_name") as caught:
        call("create_import_job", "books", files=["a"])
    assert not isinstance(caught.value, AirflowFailException)


@pytest.mark.parametrize("status", [200, 400, 404, 500])
@pytest.mark.parametrize("code", [21119, 80001, 80002, "21119"])
@pytest.mark.parametrize("dialect", ["v1", "v2"])
def test_the_codes_of_zilliz_for_a_bad_token(
    server: ScriptedServer, connect: Connect, call: Call, dialect: str, code: Any, status: int
) -> None:
    connect({"api_version": dialect})
    answer = says(code, "Token not found", status)
    server.v1(answer).v2(answer)
    with pytest.raises(ImportApiUnauthorized):
        call.progress()


@pytest.mark.parametrize("verb", ["commit", "abort"])
def test_an_id_that_commit_and_abort_cannot_parse(server: ScriptedServer, call: Call, verb: str) -> None:
    answer = says(1100, NO_ID)
    server.on(V2_COMMIT, answer).on(V2_ABORT, answer).v2(says(2100, NO_ID))
    with pytest.raises(ImportProgressException) as caught:
        call(f"{verb}_import_job", JOB)
    assert not isinstance(caught.value, ImportApiUnreachable)
    assert len(server.to(V2_COMMIT)) + len(server.to(V2_ABORT)) == 1


@pytest.mark.parametrize(
    "answer",
    [
        says(5, "Not Found", 404),
        Answer(KUBERNETES, 404),
        says(404, "route not found", 404),
        says(4040, "Token not found", 404),
        Answer({"error": "Not Found", "path": "/v1"}, 404),
        Answer(HTML, 404),
        Answer(b"", 404),
    ],
    ids=["gateway", "Kubernetes", "route", "token", "no code", "HTML", "empty"],
)
def test_auto_takes_any_404_on_v1_for_no_v1(
    server: ScriptedServer, connect: Connect, call: Call, answer: Answer
) -> None:
    connect({"api_version": "auto"})
    server.v1(answer).v2(v2_job("Completed"))
    assert call.progress().state == "completed"


@pytest.mark.parametrize(("dialect", "code"), [("v1", "0"), ("v1", "200"), ("v2", "0")])
def test_a_code_that_is_a_string(server: ScriptedServer, connect: Connect, call: Call, dialect: str, code: str) -> None:
    connect({"api_version": dialect})
    for answer in (one := v1_job(done=True), two := v2_job("Completed")):
        answer.body["code"] = code
    server.v1(one).v2(two)
    assert call.progress().state == "completed"


FORBIDDEN = {
    "1401": says(1401, "permission deny"),
    "1401 on 403": says(1401, "permission deny", 403),
    "403": Answer(HTML, 403),
    "65535": says(65535, "rpc error: code = PermissionDenied desc = no privilege DescribeImport"),
}


@pytest.mark.parametrize("answer", FORBIDDEN.values(), ids=FORBIDDEN)
def test_without_a_database_the_role_may_be_for_another(
    server: ScriptedServer, connect: Connect, call: Call, answer: Answer
) -> None:
    connect({"api_version": "v2"})
    server.v2(answer)
    with pytest.raises(ImportApiUnauthorized, match=r"(?i)another") as caught:
        call.progress()
    assert "db_name" in str(caught.value)
    connect({"api_version": "v2", "db_name": "shop"})
    with pytest.raises(ImportApiUnauthorized) as caught:
        call.progress()
    assert not re.search("(?i)another", str(caught.value))


RATE = {f"{code} on {status}": says(code, "slow down", status) for code in (4, 8, 9, 1807) for status in (200, 429)}


@pytest.mark.parametrize("answer", RATE.values(), ids=RATE)
def test_rate_limits(server: ScriptedServer, call: Call, answer: Answer, naps: list[float]) -> None:
    server.v2(answer)
    with pytest.raises(ImportApiUnreachable, match="slow down") as caught:
        call.progress()
    assert not caught.value.in_doubt


GAVE_UP_AND_MORE = {
    **GAVE_UP,
    "408 page": Answer(HTML, 408),
    "10001 on 500": says(10001, "timeout", 500),
    "10000 on 499": says(10000, "canceled", 499),
}


@pytest.mark.parametrize("answer", GAVE_UP_AND_MORE.values(), ids=GAVE_UP_AND_MORE)
def test_the_server_gave_up_waiting(server: ScriptedServer, call: Call, answer: Answer) -> None:
    server.v2(answer).on(V2_CREATE, answer)
    with pytest.raises(ImportApiUnreachable):
        call.progress()
    with pytest.raises(ImportApiUnreachable) as caught:
        call("create_import_job", "books", files=["a"])
    assert caught.value.in_doubt
    assert len(server.to(V2_CREATE)) == 1


def test_a_refusal_is_still_one(imports: Imports, call: Call) -> None:
    imports.server.on(V2_CREATE, says(1801, "bad JSON"))
    with pytest.raises(ImportApiRefused, match="bad JSON"):
        call("create_import_job", "books", files=["a"])
