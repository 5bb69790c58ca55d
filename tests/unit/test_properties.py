"""Whatever a server answers, only a job or one of our own errors comes of it, and no verdict but the right one."""

from __future__ import annotations

import copy
import json
import math
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_importprog import _messages
from airflow_provider_importprog._gate import Decision, Gate, GatePolicy
from airflow_provider_importprog._validation import WAIT_FOR
from airflow_provider_importprog.api import (
    Address,
    ApiVersion,
    ImportFile,
    ImportJob,
    ImportState,
    NewImportJob,
    Response,
    fields,
)
from airflow_provider_importprog.api.errors import ImportApiError, UnexpectedAnswer
from airflow_provider_importprog.exceptions import from_api_error
from airflow_provider_importprog.verdict import Verdict
from tests.unit.helpers import Api, Clock, Log, Server

WHEN = "2024-05-18T03:00:22Z"
PARQUET = {"fileName": "1af7/1.parquet", "fileSize": 19599887}
ROWS = {"importedRows": 100000, "totalRows": 100000, "fileSize": 3279917, "completeTime": WHEN, "progress": 100}
GOOD: dict[str, dict[str, Any]] = {
    "v1": {"code": 200, "data": {
        **PARQUET, "collectionName": "medium_articles", "readyPercentage": 1, "completeTime": WHEN,
        "errorMessage": "Unknown type", "jobId": "1",
        "details": [
            {**PARQUET, "readyPercentage": 0.5, "completeTime": None, "errorMessage": None},
            {"fileName": "2.parquet", "completeTime": WHEN, "errorMessage": "bad row"},
        ]}},
    "v2": {"code": 0, "data": {
        **ROWS, "jobId": "1", "collectionName": "c", "state": "Completed",
        "details": [
            {**ROWS, "fileName": "[a.parquet]", "state": "Completed"},
            {"fileName": "[b.parquet]", "state": "Failed", "reason": "bad row", "progress": 3},
        ]}},
}  # fmt: skip
DIALECTS = pytest.mark.parametrize("version", ["v1", "v2"])

# Values that mean something to the API, beside any other.
WORDS = st.sampled_from(
    [
        "Completed", "Failed", "Importing", "PreImporting", "Pending", "Uncommitted", "Committing", "completed",
        "Unknown type", "unknown type", "null", "", " ", "0", "100", "1e5", "nan", "inf", "1", "2", "bad row",
        "2024-05-18T03:00:22Z", "2024-05-18T03:00:22+02:00", "2024-05-18", "2024-05-18T24:00", "9999-12-31T24:00:00",
        "0001-01-01T00:00:00+23:59", "2024-02-30T00:00:00Z", "2024-W01-7", "2024-001", "2024-05-18T03:00:22+99:99",
        "\0", "\ud800", "9" * 400, "import job does not exist", "job not found",
    ]
)  # fmt: skip
# What databases and logs choke on: NUL, and halves of surrogate pairs.
UNSTORABLE = st.text(st.sampled_from("ab \0\ud800\udfff\ufffd"), min_size=1, max_size=6)
TEXT = WORDS | UNSTORABLE | st.text(st.characters(), max_size=30) | st.text("0123456789-:TZW+. ", max_size=25)
NUMBERS = (
    st.integers()
    | st.floats()
    | st.sampled_from([0, 1, 8, 100, 200, 1400, 1401, 1800, 1807, 2**63 - 1, 2**63, 10**400, -0.0])
)
LEAVES = st.none() | st.booleans() | NUMBERS | TEXT
KEYS = st.sampled_from(
    ["code", "message", "data", *GOOD["v1"]["data"], *GOOD["v2"]["data"], "reason", "records", "tasks"]
) | st.text(max_size=5)
JSON = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=6))
STATUSES = (
    st.just(200) | st.sampled_from([200, 201, 204, 302, 400, 401, 403, 404, 429, 500, 503]) | st.integers(100, 599)
)
HEADERS = st.dictionaries(
    st.sampled_from(["retry-after", "location", "content-type"]),
    st.text(st.characters(max_codepoint=255), max_size=60)
    | st.sampled_from(["5", "²", "9" * 20, "Wed, 21 Oct 2015 07:28:00 GMT", "http://[::1", "//u:p@h:x/", "http://h/x"]),
    max_size=3,
)


# What decides about a job or a file, in every combination.
TIMES = st.sampled_from([None, "Unknown type", "", "2024-05-18T03:00:22Z"])
REASONS = st.sampled_from([None, "Unknown type", "", "bad row"])
PERCENTAGES = st.sampled_from([None, 0, 0.5, 1, 99.9, 100, "100", 250, 10**400, float("nan"), True])
STATES = st.sampled_from(
    ["Completed", "Failed", "Importing", "Pending", "Uncommitted", "Committing", "New", "completed"]
)
ENTRIES = {
    "v1": st.fixed_dictionaries(
        {}, optional={"completeTime": TIMES, "errorMessage": REASONS, "readyPercentage": PERCENTAGES, "fileName": WORDS}
    ),
    "v2": st.fixed_dictionaries(
        {"state": STATES}, optional={"completeTime": TIMES, "reason": REASONS, "progress": PERCENTAGES}
    ),
}


@st.composite
def mutated(draw: st.DrawFn, sample: dict[str, Any]) -> dict[str, Any]:
    """A good answer with up to four of its parts replaced, taken out or put in."""
    answer = copy.deepcopy(sample)
    for _ in range(draw(st.integers(0, 4))):
        places: list[tuple[Any, Any]] = []
        todo: list[Any] = [answer]
        while todo:
            container = todo.pop()
            keys = range(len(container)) if isinstance(container, list) else list(container)
            places += [(container, key) for key in keys]
            todo += [container[key] for key in keys if isinstance(container[key], (dict, list))]
        if not places:
            break
        container, key = draw(st.sampled_from(places))
        act = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        if act == "replace":
            container[key] = draw(LEAVES | JSON)
        elif act == "remove":
            del container[key]
        elif isinstance(container, dict):
            container[draw(KEYS)] = draw(LEAVES)
        else:
            container.append(draw(st.fixed_dictionaries({"state": WORDS, "completeTime": WORDS, "reason": WORDS})))
    return answer


def ask(version: ApiVersion, response: Response, **more: Any) -> ImportJob | ImportApiError:
    try:
        # Where v2 is not served, both of its paths are asked.
        return Server(response, response).serve(Api(Address(), version).progress("1", **more))
    except ImportApiError as error:
        return error


def assert_storable_text(text: str) -> None:
    text.encode("utf-8")
    assert "\0" not in text


def assert_plain_json(value: Any) -> None:
    """Every database, log and XCom backend of Airflow can hold it."""
    dumped = json.dumps(value, allow_nan=False, ensure_ascii=False)
    assert json.loads(dumped) == value
    assert_storable_text(dumped)
    assert r"\u0000" not in dumped

    def walk(part: Any) -> None:
        if isinstance(part, dict):
            assert all(type(key) is str for key in part)
            for inner in part.values():
                walk(inner)
        elif isinstance(part, list):
            for inner in part:
                walk(inner)
        else:
            assert type(part) in (str, int, float, type(None))
            assert type(part) is not int or abs(part) < 2**63

    walk(value)


def assert_sound(result: ImportJob | ImportFile | ImportApiError) -> None:
    if isinstance(result, ImportApiError):
        assert str(result)
        assert_storable_text(str(result))
        return
    assert_plain_json(result.to_dict())
    assert type(result.progress) is float
    assert 0 <= result.progress <= 100
    assert isinstance(result.state, ImportState)
    if result.complete_time is not None:
        assert result.complete_time.utcoffset() == timedelta(0)
    if isinstance(result, ImportJob):
        for file in result.files:
            assert_sound(file)


# The oracle: api.md once more, in as few words as it takes, for entries whose fields are of a type that it names.


def is_null(value: Any) -> bool:
    return value is None or value.strip().lower() in ("", "null", "unknown type")


def v1_state(entry: dict[str, Any]) -> str:
    if not is_null(entry.get("errorMessage")):
        return "failed"
    if not is_null(entry.get("completeTime")):
        return "completed"
    if "completeTime" in entry:
        return "going on"
    try:
        full = not isinstance(entry.get("readyPercentage"), bool) and float(entry.get("readyPercentage", 0)) >= 100
        return "completed" if full and math.isfinite(float(entry["readyPercentage"])) else "going on"
    except OverflowError:
        return "completed" if entry["readyPercentage"] > 0 else "going on"
    except (TypeError, ValueError):
        return "going on"


def v2_state(entry: dict[str, Any]) -> str:
    names = {"Completed": "completed", "Failed": "failed", "Uncommitted": "uncommitted", "Committing": "committing"}
    return names.get(entry.get("state") or "", "going on")


ORACLES = {"v1": (v1_state, "errorMessage"), "v2": (v2_state, "reason")}


def judged_by_the_oracle(version: ApiVersion, answer: Any) -> Verdict:
    """Say what a gate must make of a body that was parsed into a job."""
    state_of, reason = ORACLES[version]
    assert answer["code"] in (0, 200)
    job = answer["data"]
    files = job.get("details") or ([job] if version == "v1" and not is_null(job.get("fileName")) else [])
    state = state_of(job)
    if state == "failed":
        return Verdict.JOB_FAILED
    if state != "completed":
        return Verdict.WAIT
    broken = any(state_of(file) == "failed" or not is_null(file.get(reason)) for file in files)
    return Verdict.FILES_FAILED if broken else Verdict.OPEN


def new_gate(**policy: Any) -> Gate:
    return Gate("1", GatePolicy(**policy), log=Log(), clock=Clock())


def decide(result: ImportJob | ImportApiError, **policy: Any) -> Decision:
    gate = new_gate(**policy)
    return gate.answered(result) if isinstance(result, ImportJob) else gate.failed(from_api_error(result, str(result)))


class TestAnyAnswer:
    @DIALECTS
    @given(body=st.binary(max_size=200), status=STATUSES, headers=HEADERS)
    def test_any_bytes(self, version: ApiVersion, body: bytes, status: int, headers: dict[str, str]) -> None:
        result = ask(version, Response(status, headers, body))
        assert isinstance(result, ImportApiError)
        assert_sound(result)

    @DIALECTS
    @given(answer=JSON, status=STATUSES, headers=HEADERS)
    def test_any_json(self, version: ApiVersion, answer: Any, status: int, headers: dict[str, str]) -> None:
        assert_sound(ask(version, Response(status, headers, json.dumps(answer).encode())))

    @DIALECTS
    @given(data=st.data())
    def test_bytes_of_a_good_answer_gone_wrong(self, version: ApiVersion, data: st.DataObject) -> None:
        body = bytearray(json.dumps(GOOD[version]).encode())
        for _ in range(data.draw(st.integers(1, 5))):
            body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
        cut = data.draw(st.none() | st.integers(0, len(body)))
        assert_sound(ask(version, Response(200, {}, bytes(body[:cut]))))

    @DIALECTS
    @given(data=JSON)
    def test_any_data_in_place_of_a_list_or_an_id(self, version: ApiVersion, data: Any) -> None:
        api = Api(Address(), version)
        response = Response(200, {}, json.dumps({"code": 0, "data": data}).encode())
        try:
            for job in Server(*[response] * 2).serve(api.list_jobs()).jobs:
                assert_sound(job)
        except UnexpectedAnswer as error:
            assert_sound(error)
        try:
            job_id = Server(response).serve(api.create(NewImportJob("c", object_urls=[["u"]])))
            assert job_id
            assert_storable_text(job_id)
        except UnexpectedAnswer as error:
            assert_sound(error)


class TestNoVerdictButTheRightOne:
    @DIALECTS
    @given(data=st.data())
    def test_of_a_mutated_answer(self, version: ApiVersion, data: st.DataObject) -> None:
        body = json.dumps(data.draw(mutated(GOOD[version])))
        result = ask(version, Response(200, {}, body.encode()))
        assert_sound(result)
        decision = decide(result)
        if isinstance(result, ImportJob):
            assert result.job_id == "1"
            # Through JSON and back, as the other side reads it.
            assert decision.verdict is judged_by_the_oracle(version, json.loads(body))
        else:
            assert decision.verdict in (Verdict.WAIT, Verdict.UNAUTHORIZED)

    @DIALECTS
    @given(data=st.data())
    def test_of_every_combination_of_what_decides(self, version: ApiVersion, data: st.DataObject) -> None:
        job = data.draw(ENTRIES[version])
        files = data.draw(st.lists(ENTRIES[version], max_size=3))
        answer = {"code": 0, "data": {**job, "details": files}}
        result = ask(version, Response(200, {}, json.dumps(answer).encode()))
        assert isinstance(result, ImportJob)
        assert_sound(result)
        assert decide(result).verdict is judged_by_the_oracle(version, answer)

    @DIALECTS
    @given(data=st.data(), allow_failed_files=st.booleans(), wait_for=st.sampled_from(WAIT_FOR))
    def test_a_gate_decides_the_same_without_the_files_that_it_says_it_needs_not(
        self, version: ApiVersion, data: st.DataObject, **policy: Any
    ) -> None:
        files = data.draw(st.lists(ENTRIES[version], max_size=3))
        answer = {"code": 0, "data": {**data.draw(ENTRIES[version]), "details": files}}
        response = Response(200, {}, json.dumps(answer).encode())
        whole, brief = ask(version, response), ask(version, response, brief=new_gate(**policy).needs_no_files)
        assert isinstance(whole, ImportJob)
        assert isinstance(brief, ImportJob)
        decided, briefly = decide(whole, **policy), decide(brief, **policy)
        assert (decided.verdict, decided.message) == (briefly.verdict, briefly.message)
        assert brief == whole or brief.files == ()

    @DIALECTS
    @given(status=st.integers(100, 599).filter(lambda status: not 200 <= status < 300), headers=HEADERS)
    def test_a_good_body_under_a_bad_status_opens_no_gate(
        self, version: ApiVersion, status: int, headers: dict[str, str]
    ) -> None:
        body = json.dumps(GOOD[version]).encode()
        assert isinstance(ask(version, Response(status, headers, body)), ImportApiError)


class TestEvent:
    @DIALECTS
    @given(answer=JSON | mutated(GOOD["v1"]) | mutated(GOOD["v2"]), status=STATUSES, headers=HEADERS)
    def test_whatever_was_answered_the_decision_is_plain_and_finite(
        self, version: ApiVersion, answer: Any, status: int, headers: dict[str, str]
    ) -> None:
        decision = decide(ask(version, Response(status, headers, json.dumps(answer).encode())))
        event = {"verdict": decision.verdict.value, "message": _messages.brief(decision.message, 2000)}
        assert_plain_json(event)
        assert len(json.dumps(event)) < 2100
        assert bool(decision.message) is (decision.verdict is not Verdict.WAIT)
        assert 0 <= decision.delay <= 900


class TestFields:
    @given(value=TEXT | LEAVES | JSON)
    def test_identifier(self, value: Any) -> None:
        try:
            found = fields.identifier({"x": value}, "x")
        except UnexpectedAnswer as error:
            assert_sound(error)
            assert isinstance(value, bool) or not isinstance(value, (int, str)) or is_null(value)
            return
        assert_storable_text(found)
        assert found == str(value).replace("\0", "\ufffd").encode("utf-8", "replace").decode()
        assert fields.identifier({"x": value}, "x", expected=found) == found
        with pytest.raises(UnexpectedAnswer):
            fields.identifier({"x": value}, "x", expected=f"{found}x")

    @given(value=st.datetimes(timezones=st.none() | st.timezones()))
    def test_a_moment_that_python_writes_is_read_back(self, value: datetime) -> None:
        try:
            moment = fields.timestamp({"x": value.isoformat()}, "x")
        except UnexpectedAnswer:
            # An hour before year 1, or an offset with seconds in it: no server writes these.
            offset = value.utcoffset()
            assert offset is not None
            assert value.year in (1, 9999) or offset.total_seconds() % 60
            return
        assert moment is not None
        assert moment.replace(tzinfo=None) == value.replace(tzinfo=None) - (value.utcoffset() or timedelta(0))

    @given(value=LEAVES | JSON)
    def test_count_never_raises(self, value: Any) -> None:
        found = fields.count({"x": value}, "x")
        assert found is None or (type(found) is int and 0 <= found < 2**63)
        if type(value) is int and 0 <= value < 2**63:
            assert found == value
