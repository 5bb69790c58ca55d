"""Issue 9, section 2: nothing is imported twice, and nothing is taken for imported that is not."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowFailException, TaskDeferred

from airflow_provider_importprog.exceptions import (
    ImportApiUnreachable,
    ImportJobAmbiguous,
    ImportProgressException,
    ImportSettingInvalid,
)
from airflow_provider_importprog.operators.import_job import (
    AbortImportJobOperator,
    CommitImportJobOperator,
    CreateImportJobOperator,
)
from tests.acceptance.helpers import GAVE_UP, Imports, Task, Told, says
from tests.blackbox.driver import Call, Connect
from tests.blackbox.imports import Store
from tests.blackbox.server import V2_ABORT, V2_COMMIT, V2_CREATE, V2_DESCRIBE, V2_LIST, ScriptedServer

MEMORIES: dict[str, Callable[[], Any]] = {"store": Store, "no store": lambda: None}
HOW_TO_IMPORT_AGAIN = r"idempotency_key|DAG run"
ENDS = {
    "commit": (CommitImportJobOperator, V2_COMMIT, "Completed"),
    "abort": (AbortImportJobOperator, V2_ABORT, "Failed"),
}


def at(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


class TestInDoubt:
    @pytest.mark.parametrize("happens", ["at once", "late", "never"])
    @pytest.mark.parametrize("memory", [*MEMORIES, "keys"])
    @pytest.mark.parametrize("answer", GAVE_UP.values(), ids=GAVE_UP)
    def test_a_create(self, imports: Imports, connect: Connect, answer: Any, memory: str, happens: str) -> None:
        if memory == "keys":
            connect({"api_version": "v2", "idempotency_keys": True})
            imports.honours_key = True
        task = Task(store=MEMORIES.get(memory, Store)())
        if happens == "at once":
            imports.done_but(V2_CREATE, answer)
        else:
            imports.not_done(V2_CREATE, answer)
        job_id = None
        for _ in range(3):
            try:
                job_id = task(wait=False)
                break
            except ImportApiUnreachable:  # which is retried
                if happens == "late" and not imports.jobs:
                    imports._create(imports.creates[0])
        assert (job_id, list(imports.jobs)) == ("1000", ["1000"])

    @pytest.mark.parametrize("memory", MEMORIES)
    def test_a_create_after_which_nothing_can_be_asked(self, imports: Imports, memory: str) -> None:
        task = Task(store=MEMORIES[memory]())
        imports.done_but(V2_CREATE, GAVE_UP["408"])
        imports.server.on(V2_LIST, imports._list, says(1, "down", 500))
        with pytest.raises(ImportApiUnreachable) as caught:
            task(wait=False)
        assert caught.value.in_doubt
        imports.server.on(V2_LIST, imports._list)
        assert task(wait=False) == "1000"
        assert len(imports.creates) == 1

    @pytest.mark.parametrize("done", [True, False])
    @pytest.mark.parametrize("verb", ENDS)
    @pytest.mark.parametrize("answer", GAVE_UP.values(), ids=GAVE_UP)
    def test_commit_and_abort(self, imports: Imports, call: Call, answer: Any, verb: str, done: bool) -> None:
        operator, path, ended = ENDS[verb]
        job_id = imports.add([["a.parquet"]], "Uncommitted")
        if done:
            imports.done_but(path, answer)
        else:
            imports.server.on(path, answer)
        calls: list[Callable[[], Any]] = [lambda: call(f"{verb}_import_job", job_id)]
        if call.kind == "sync":
            how = {"wait": False} if verb == "commit" else {} if done else {"outage_tolerance": 0}
            calls.append(lambda: Task(operator)(job_id=job_id, **how))
        for one in calls:
            if done:
                one()
                assert imports.jobs[job_id]["state"] == ended
                imports.jobs[job_id]["state"] = "Uncommitted"
                imports.done_but(path, answer)
                continue
            with pytest.raises(ImportApiUnreachable):
                one()
            asked = [request.path for request in imports.server.asked]
            assert V2_DESCRIBE in asked[asked.index(path) :]

    @pytest.mark.parametrize(("timeout", "sent"), [(7, {"7"}), (2.5, {"2", "3"}), (0.3, {"1"})])
    def test_the_server_is_told_how_long_we_wait(
        self, imports: Imports, connect: Connect, call: Call, timeout: float, sent: set[str]
    ) -> None:
        connect({"api_version": "v2", "timeout": timeout})
        call("create_import_job", "books", files=["a"])
        call("get_import_progress", "1000")
        call("list_import_jobs")
        imports.jobs["1000"]["state"] = "Uncommitted"
        call("commit_import_job", "1000")
        assert {request.header("Request-Timeout") for request in imports.server.asked} <= sent


class TestARunMadeAgain:
    """Under its run id: no store, try 1, and the key that the server knows."""

    @pytest.mark.parametrize("listed", [True, False], ids=["listed", "not listed"])
    @pytest.mark.parametrize("keys", [True, False], ids=["keys", "no keys"])
    @pytest.mark.parametrize("state", ["Completed", "Importing"])
    @pytest.mark.parametrize("memory", MEMORIES)
    def test_it_imports(
        self, imports: Imports, connect: Connect, memory: str, state: str, keys: bool, listed: bool
    ) -> None:
        connect({"api_version": "v2", "idempotency_keys": keys})
        imports.honours_key, imports.state = True, state
        assert Task(store=MEMORIES[memory]())(wait=False) == "1000"
        now = datetime.now(timezone.utc)
        imports.jobs["1000"].update(createTime=at(now - timedelta(days=1)), completeTime=at(now - timedelta(hours=23)))
        if not listed:
            imports.server.on(V2_LIST, says(1401, "permission deny"))
        imports.state = "Importing"  # a job that has ended when it is new may be that of a run in between
        again = Task(store=MEMORIES[memory]())
        assert again(wait=False) == "1001"
        imports.jobs["1001"].update(createTime=at(now), completeTime=at(now + timedelta(minutes=1)))
        if keys or again.store:
            assert again(wait=False) == "1001"
        else:  # a person may have to be asked
            with suppress(ImportProgressException):
                again(wait=False)
        assert len(imports.jobs) == 2

    @pytest.mark.parametrize("keys", [True, False], ids=["keys", "no keys"])
    @pytest.mark.parametrize("memory", MEMORIES)
    def test_where_no_time_is_shown_the_list_tells(
        self, imports: Imports, connect: Connect, memory: str, keys: bool
    ) -> None:
        connect({"api_version": "v2", "idempotency_keys": keys})
        imports.honours_key = True
        Task(store=MEMORIES[memory]())(wait=False)
        assert Task(store=MEMORIES[memory]())(wait=False) == "1001"


S3 = "s3://bucket/dir/a.parquet"
HTTPS = "https://bucket.s3.amazonaws.com/dir/a.parquet"
#: What was asked for, what the server shows, and whether that is proof ("may be": it may be ours; "no": it is not).
PROOF: dict[str, tuple[dict[str, Any], list[str], str]] = {
    "equal": ({"files": ["dir/a.parquet"]}, ["dir/a.parquet"], "yes"),
    "from the root": ({"files": ["dir/a.parquet"]}, ["/dir/a.parquet"], "yes"),
    "longer in front": ({"files": ["dir/a.parquet"]}, ["files/insert/dir/a.parquet"], "yes"),
    "bare, as asked": ({"files": ["a.parquet"]}, ["a.parquet"], "yes"),
    "bare asked, longer shown": ({"files": ["a.parquet"]}, ["dir/a.parquet"], "yes"),
    "scheme and bucket": ({"object_urls": [S3]}, [S3], "yes"),
    "bucket alone": ({"object_urls": [S3]}, ["bucket/dir/a.parquet"], "yes"),
    "no bucket": ({"object_urls": [S3]}, ["dir/a.parquet"], "yes"),
    "https, path shown": ({"object_urls": [HTTPS]}, ["dir/a.parquet"], "yes"),
    "query": ({"object_urls": [f"{HTTPS}?X-Amz-Expires=9&X-Amz-Signature=f0"]}, ["dir/a.parquet"], "yes"),
    "percent": ({"object_urls": ["s3://bucket/d%C3%AFr/a%2B1.parquet"]}, ["dïr/a+1.parquet"], "yes"),
    "percent on both": ({"object_urls": ["s3://bucket/d%C3%AFr/a.parquet"]}, ["d%C3%AFr/a.parquet"], "yes"),
    "percent there": ({"object_urls": ["s3://bucket/dïr/a.parquet"]}, ["d%C3%AFr/a.parquet"], "yes"),
    "any order": ({"files": ["d/a", "d/b"]}, ["d/b", "d/a"], "yes"),
    "bare": ({"files": ["dir/a.parquet"]}, ["a.parquet"], "may be"),
    "bare for a URL": ({"object_urls": [HTTPS]}, ["a.parquet"], "may be"),
    "shorter in front": ({"files": ["x/dir/a.parquet"]}, ["dir/a.parquet"], "may be"),
    "one is bare": ({"files": ["d/a", "d/b"]}, ["d/a", "b"], "may be"),
    "partition": ({"files": ["d/a"], "partition_name": "p"}, ["d/a"], "may be"),
    "options": ({"files": ["d/a"], "options": {"timeout": "300s"}}, ["d/a"], "may be"),
    "other folder": ({"files": ["dir/a.parquet"]}, ["other/a.parquet"], "no"),
    "other name": ({"files": ["a.parquet"]}, ["aa.parquet"], "no"),
    "fewer": ({"files": ["d/a", "d/b"]}, ["d/a"], "no"),
    "more": ({"files": ["d/a"]}, ["d/a", "d/b"], "no"),
}


@pytest.mark.parametrize(("what", "shown", "proof"), PROOF.values(), ids=PROOF)
class TestProof:
    @pytest.mark.parametrize("memory", MEMORIES)
    def test_after_a_request_in_doubt(
        self, imports: Imports, what: dict[str, Any], shown: list[str], proof: str, memory: str
    ) -> None:
        def create(asked: Any) -> Any:
            imports.add([[name] for name in shown], "Importing")
            return GAVE_UP["408"]

        imports.server.on(V2_CREATE, create, imports._create)
        task = Task(store=MEMORIES[memory]())
        if proof == "yes":
            assert task(wait=False, **what) == "1000"
        else:
            with pytest.raises(ImportJobAmbiguous if proof == "may be" else ImportApiUnreachable):
                task(wait=False, **what)
        assert len(imports.creates) == 1

    def test_at_a_later_try_without_a_store(
        self, imports: Imports, what: dict[str, Any], shown: list[str], proof: str
    ) -> None:
        imports.add([[name] for name in shown], "Importing")
        task = Task()
        task.try_number = 1
        if proof == "may be":
            with pytest.raises(ImportJobAmbiguous, match="1000"):
                task(wait=False, **what)
        else:
            assert task(wait=False, **what) == {"yes": "1000", "no": "1001"}[proof]
        assert len(imports.creates) == (proof == "no")


NOW = datetime.now(timezone.utc)


@pytest.mark.parametrize(
    ("minutes", "expected"),
    [(-60, "1001"), (-15, "1001"), (-5, "one"), (5, "one"), (15, "1000"), (60, "1000")],
)
@pytest.mark.parametrize("shown", ["createTime", "completeTime"])
def test_clocks_are_compared_to_ten_minutes(imports: Imports, shown: str, minutes: int, expected: str) -> None:
    task = Task()
    task.try_number = 1
    began = NOW - timedelta(hours=2)
    task.run = SimpleNamespace(start_date=began, run_after=began, clear_number=0)
    moment = began + timedelta(minutes=minutes)
    times = {"completeTime": at(began + timedelta(minutes=60)), shown: at(moment)}
    imports.add([["a.parquet"], ["b/c.parquet"]], "Completed", **times)
    if expected == "one":  # whether it is ours cannot be told: taken over, or a person is asked
        with suppress(ImportJobAmbiguous):
            assert task(wait=False) == "1000"
        assert not imports.creates
    else:
        assert task(wait=False) == expected


def test_a_person_is_told_what_to_choose_from(imports: Imports) -> None:
    soon = NOW + timedelta(hours=1)
    first = {"createTime": at(soon), "completeTime": at(soon + timedelta(minutes=7))}
    imports.add([["a.parquet"], ["c.parquet"]], "Completed", **first)
    imports.add([["a.parquet"], ["c.parquet"]], "Importing", createTime=at(soon + timedelta(minutes=9)))
    task = Task()
    task.try_number = 1
    with pytest.raises(ImportJobAmbiguous, match=HOW_TO_IMPORT_AGAIN) as caught:
        task()
    said = str(caught.value)
    assert isinstance(caught.value, AirflowFailException)
    for word in ("1000", "1001", "completed", "importing", "ImportProgressSensor"):
        assert word in said
    assert any(f"{soon + timedelta(minutes=late):%H:%M}" in said for late in (0, 7))
    assert f"{soon + timedelta(minutes=9):%H:%M}" in said


class TestIdentity:
    def test_the_order_of_files_does_not_matter(self, imports: Imports) -> None:
        task = Task(store=Store())
        assert [task(wait=False, files=files) for files in (["a", "b"], ["b", "a"])] == ["1000", "1000"]

    def test_other_files_do(self, imports: Imports) -> None:
        task = Task(store=Store())
        task(wait=False, files=["a", "b"])
        with pytest.raises(ImportSettingInvalid, match=r"1000.*other files"):
            task(wait=False, files=["a", "a"])

    @pytest.mark.parametrize("keys", [True, False])
    def test_another_server(self, imports: Imports, other_server: ScriptedServer, connect: Connect, keys: bool) -> None:
        task = Task(store=Store())
        assert task(wait=False) == "1000"
        there = Imports(other_server, honours_key=keys)
        there.add([["z"]], "Importing", "shelves")
        connect({"api_version": "v2", "idempotency_keys": keys}, host=other_server.url)
        assert task(wait=False) == "1001"
        assert task(wait=False) == "1001"
        assert (len(imports.creates), len(there.creates)) == (1, 1)

    def test_another_database(self, imports: Imports, connect: Connect) -> None:
        task = Task(store=Store())
        task(wait=False)
        connect({"api_version": "v2", "db_name": "shop"})
        assert task(wait=False) == "1001"
        assert [asked.json.get("dbName") for asked in imports.creates] == [None, "shop"]

    def test_the_same_server_written_otherwise(self, imports: Imports, connect: Connect) -> None:
        task = Task(store=Store())
        task(wait=False)
        connect({"api_version": "v2"}, host=f"{imports.server.url}/")
        assert task(wait=False) == "1000"


LIMIT = "The number of jobs has reached the limit, please try again later"
LATER = {"Retry-After": "2"}
NOTHING_DONE = {
    "jobs 2100": says(2100, LIMIT),
    "jobs 2101": says(2101, LIMIT),
    "jobs on 400": says(2100, LIMIT, 400),
    "429": says(8, "slow down", 429),
    "429 page": says(None, "slow down", 429, LATER),
    "429 later": says(1807, "slow down", 429, LATER),
    "4": says(4, "slow down"),
    "8": says(8, "slow down"),
    "9": says(9, "slow down"),
    "1807": says(1807, "slow down"),
    "503 later": says(1, "starting", 503, LATER),
}


class TestNothingWasDone:
    @staticmethod
    def run(imports: Imports, verb: str, answers: list[Any], tolerance: float) -> tuple[str, Callable[[], Any]]:
        if verb == "create":
            path, task, what = V2_CREATE, Task(store=Store()), {"wait": False}
        else:
            operator, path, _ = ENDS[verb]
            job_id = imports.add([["a"]], "Uncommitted")
            task, what = Task(operator), {"job_id": job_id, **({"wait": False} if verb == "commit" else {})}
        imports.server.on(path, *[imports.handler(path) if answer is None else answer for answer in answers])
        return path, lambda: task(outage_tolerance=tolerance, **what)

    @pytest.mark.parametrize("verb", ["create", *ENDS])
    @pytest.mark.parametrize("name", NOTHING_DONE)
    def test_it_waits_and_sends_again(self, imports: Imports, naps: list[float], verb: str, name: str) -> None:
        answer = NOTHING_DONE[name]
        came: list[float] = []
        path, run = self.run(imports, verb, [None], 900)
        serve = imports.handler(path)

        def answered(asked: Any) -> Any:
            came.append(time.monotonic())
            return answer if len(came) == 1 else serve(asked)

        imports.server.on(path, answered)
        naps.clear()
        assert run() == "1000"
        assert len(came) == 2
        assert len(imports.jobs) == 1
        pause = max([came[1] - came[0], *naps])  # slept for, or only asked for
        assert (2 if "Retry-After" in answer.headers else 0.1) <= pause <= 60, naps

    @pytest.mark.parametrize("verb", ["create", *ENDS])
    def test_and_again(self, imports: Imports, verb: str) -> None:
        path, run = self.run(imports, verb, [NOTHING_DONE["jobs 2100"], NOTHING_DONE["4"], None], 900)
        assert run() == "1000"
        assert len(imports.server.to(path)) == 3
        assert len(imports.jobs) == 1

    @pytest.mark.parametrize("verb", ["create", *ENDS])
    @pytest.mark.parametrize("name", ["jobs 2100", "4", "429"])
    def test_until_the_tolerance_is_over(self, imports: Imports, verb: str, name: str) -> None:
        path, run = self.run(imports, verb, [NOTHING_DONE[name]], 1.5)
        with pytest.raises(ImportProgressException, match=r"(?i)limit|slow down") as caught:
            run()
        assert not isinstance(caught.value, AirflowFailException)
        assert not getattr(caught.value, "in_doubt", False)
        assert len(imports.server.to(path)) >= 2

    def test_one_that_asks_for_more_than_is_left(self, imports: Imports, naps: list[float]) -> None:
        _, run = self.run(imports, "create", [says(8, "slow down", 429, {"Retry-After": "600"})], 1)
        with pytest.raises(ImportApiUnreachable):
            run()
        assert max(naps) <= 1.5

    def test_a_busy_page_without_a_wish_may_have_done_it(self, imports: Imports) -> None:
        imports.done_but(V2_CREATE, says(1, "busy", 500))
        assert Task(store=Store())(wait=False, outage_tolerance=60) == "1000"
        assert len(imports.creates) == 1


class TestReschedule:
    @pytest.mark.parametrize("operator", [CreateImportJobOperator, CommitImportJobOperator])
    def test_set_after_construction_it_is_refused_before_anything_is_sent(
        self, imports: Imports, operator: Any
    ) -> None:
        what = {} if operator is CreateImportJobOperator else {"job_id": imports.add([["a"]], "Uncommitted")}
        task = Task(operator)
        made = task.make(**what)
        made.mode = "reschedule"
        with pytest.raises(ImportSettingInvalid, match="reschedule"):
            made.execute(task.context())
        assert not imports.server.asked

    @pytest.mark.parametrize("how", [{"deferrable": True}, {"wait": False}, {"deferrable": True, "wait": False}])
    @pytest.mark.parametrize("operator", [CreateImportJobOperator, CommitImportJobOperator])
    @pytest.mark.parametrize("late", [True, False], ids=["set on the operator", "default_args"])
    def test_what_does_not_poke_may_have_it(
        self, imports: Imports, operator: Any, how: dict[str, Any], late: bool
    ) -> None:
        imports.state = "Completed"
        what = {} if operator is CreateImportJobOperator else {"job_id": imports.add([["a"]], "Uncommitted")}
        task = Task(operator)
        with DAG("d", schedule=None, start_date=NOW, default_args={} if late else {"mode": "reschedule"}):
            made = task.make(**what, **how)
        made.mode = "reschedule"
        with suppress(TaskDeferred):  # which is no error
            assert made.execute(task.context())
        assert len(imports.jobs) == 1


@pytest.mark.parametrize("memory", MEMORIES)
def test_taking_over_what_is_completed_is_a_warning(imports: Imports, memory: str, told: Told) -> None:
    task = Task(store=MEMORIES[memory]())
    task(wait=False)
    assert task(wait=False) == "1000"
    assert not [line for line in told.warnings if "1000" in line]  # it goes on, so all is well
    imports.jobs["1000"]["completeTime"] = at(NOW + timedelta(hours=1))
    imports.end()
    assert task(wait=False) == "1000"
    said, *_ = [line for line in told.warnings if "1000" in line and "completed" in line]
    assert any(word in said for word in HOW_TO_IMPORT_AGAIN.split("|"))
