"""The operators, on the worker and deferred, against a server that keeps its jobs."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any, ClassVar
from urllib.parse import quote

import pytest
from airflow.providers.common.compat.sdk import (
    DAG,
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
    TaskDeferred,
    task,
)
from pytest_mock import MockerFixture

from airflow_provider_importprog import exceptions
from airflow_provider_importprog._submission import Clock
from airflow_provider_importprog.operators.import_job import (
    AbortImportJobOperator,
    CommitImportJobOperator,
    CreateImportJobOperator,
)
from airflow_provider_importprog.triggers import import_progress as triggers
from airflow_provider_importprog.triggers.import_progress import ImportProgressTrigger
from tests.blackbox.driver import AIRFLOW_2, TOKEN_PASSWORD, Connect, FakeTaskInstance, fire
from tests.blackbox.imports import GONE, BrokenStore, ImportServer, Store
from tests.blackbox.server import (
    V1_GET,
    V2_ABORT,
    V2_COMMIT,
    V2_CREATE,
    V2_DESCRIBE,
    V2_LIST,
    Answer,
    ScriptedServer,
)

if AIRFLOW_2:
    from airflow.models.taskinstance import set_current_context as current_context
    from airflow.utils.log.secrets_masker import redact
else:
    from airflow.sdk.execution_time.context import set_current_context as current_context
    from airflow.sdk.log import redact

FILES = ["a.parquet", "b/c.parquet"]
SHOWN = [[path] for path in FILES]
BEGAN = datetime.now(timezone.utc)
Told = Callable[[], str]
HTML = b"<html>Bad Gateway</html>"
REFRESH = "/v2/vectordb/collections/refresh_load"
PATHS = {CreateImportJobOperator: V2_CREATE, CommitImportJobOperator: V2_COMMIT, AbortImportJobOperator: V2_ABORT}


def says(code: int | None, message: str = "slow down", status: int = 200, later: int | None = None) -> Answer:
    return Answer({"code": code, "message": message}, status, {} if later is None else {"Retry-After": str(later)})


DENIED = says(1401, "permission deny")


class TaskInstance(FakeTaskInstance):
    def xcom_pull(self, key: str, **_: Any) -> Any:
        return self.pushed.get(key)


class Task:
    """One task instance over its tries, each in a new object, as Airflow makes one."""

    def __init__(
        self, deferrable: bool = False, store: Any = None, operator: Any = CreateImportJobOperator, tries: int = 0
    ) -> None:
        self.slept: list[float] = []
        self.meanwhile: Callable[[], Any] = lambda: None
        self.operator = type(operator.__name__, (operator,), {"_clock": Clock(lambda: sum(self.slept), self.sleep)})
        self.deferrable = deferrable
        self.store = store
        self.try_number = tries
        self.fired: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self.run = SimpleNamespace(start_date=BEGAN, clear_number=0, run_after=BEGAN)
        self.ti = TaskInstance()

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.meanwhile()

    def make(self, **kwargs: Any) -> Any:
        if issubclass(self.operator, CreateImportJobOperator):
            files = None if {"object_urls", "data_paths"} & kwargs.keys() else FILES
            kwargs = {"collection_name": "books", "files": files, **kwargs}
        if not issubclass(self.operator, AbortImportJobOperator):
            quick = {"poke_interval": 0.02, "timeout": 5, "unknown_job_grace": 0, "outage_tolerance": 0}
            kwargs = {"deferrable": self.deferrable, **quick, **kwargs}
        return self.operator(**{"task_id": "create", **kwargs})

    def __call__(self, **kwargs: Any) -> Any:
        self.try_number += 1
        self.ti = TaskInstance()
        self.ti.task_id, self.ti.try_number = "create", self.try_number
        context: dict[str, Any] = {"ti": self.ti, "task_instance": self.ti, "dag_run": self.run}
        if self.store is not None:
            context["task_state_store"] = self.store
        step: Callable[[], Any] = lambda: self.make(**kwargs).execute(context)  # noqa: E731
        while True:
            try:
                return step()
            except TaskDeferred as deferred:
                event = fire(deferred.trigger)
                self.fired.append((deferred.trigger.serialize()[1], event))
                resumed, how = self.make(**kwargs), {**(deferred.kwargs or {}), "event": event}
                name = deferred.method_name
                step = lambda o=resumed, n=name, k=how: o.resume_execution(n, k, context)  # noqa: E731

    def killed(self, imports: ImportServer, **kwargs: Any) -> None:
        """A try that a signal ends when the server has taken the request, and before it answers."""

        def kill(job_id: str) -> Answer:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
            return Answer(how="hang")

        def die(*_: Any) -> None:
            raise SystemExit

        before, imports.lose = signal.signal(signal.SIGTERM, die), kill
        try:
            with pytest.raises(SystemExit):
                self(**kwargs)
        finally:
            signal.signal(signal.SIGTERM, before)
            imports.lose = lambda job_id: None


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Told:
    """Return what was logged: Airflow 3's operators write to the standard output, and all else to logging."""
    caplog.set_level(logging.DEBUG)
    seen: list[str] = []

    def text() -> str:
        seen.extend(capfd.readouterr())
        return "".join(seen) + caplog.text

    return text


STORES: dict[str, Callable[[], Any]] = {"store": Store, "broken store": BrokenStore, "no store": lambda: None}
KEYS = ("said", "honoured", "ignored")
every_key = pytest.mark.parametrize("keys", KEYS, indirect=True)
either = pytest.mark.parametrize("keys", ["honoured", "ignored"], indirect=True)
said = pytest.mark.parametrize("keys", ["said"], indirect=True)
both_modes = pytest.mark.parametrize("deferrable", [False, True])


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> Any:
    return STORES[request.param]()


@pytest.fixture
def keys(request: pytest.FixtureRequest) -> str:
    """Whether the server honours idempotency keys, and the connection says so; most do not."""
    return str(getattr(request, "param", "ignored"))


@pytest.fixture
def imports(server: ScriptedServer, connect: Connect, keys: str) -> ImportServer:
    connect({"idempotency_keys": keys == "said"})
    one = ImportServer(server, honours_key=keys != "ignored")
    one.said = keys == "said"
    return one


@both_modes
class TestCreateAndWait:
    def test_it_is_the_gate(self, imports: ImportServer, deferrable: bool) -> None:
        imports.state = "Importing"
        imports.end_once_described()
        one = Task(deferrable)
        assert [file["file_name"] for file in one()] == ["[a.parquet]", "[b/c.parquet]"]
        assert one.ti.pushed["import_job"]["state"] == "completed"
        assert one.ti.pushed["job_id"] == "1000"
        assert len(imports.jobs) == 1

    def test_fewer_rows_than_were_asked_for(self, imports: ImportServer, deferrable: bool) -> None:
        with pytest.raises(exceptions.ImportRowsMissing):
            Task(deferrable)(min_rows=10**6)

    @pytest.mark.parametrize("operator", [CreateImportJobOperator, CommitImportJobOperator])
    def test_a_refresh_once_it_is_completed(self, imports: ImportServer, deferrable: bool, operator: Any) -> None:
        what = {"job_id": imports.add([["a"]], "Uncommitted")} if operator is CommitImportJobOperator else {}
        imports.end_once_described()
        imports.server.on(REFRESH, Answer({"code": 0, "data": {}}))
        assert Task(deferrable, operator=operator)(refresh_load=True, importprog_conn_id="importprog_default ", **what)
        assert [asked.json["collectionName"] for asked in imports.server.to(REFRESH)] == ["books"]

    def test_uncommitted(self, imports: ImportServer, deferrable: bool) -> None:
        imports.state = "Uncommitted"
        assert len(Task(deferrable)(auto_commit=False, wait_for="uncommitted")) == 2
        assert imports.creates[0].json["options"] == {"auto_commit": "false"}


SETS = ["s3://b/1.parquet", ["s3://b/i.npy", "s3://b/v.npy"]]


@pytest.mark.parametrize(
    ("how", "sent"),
    [
        (
            {"partition_name": "p", "options": {"timeout": "300s"}, "cluster_id": "d"},
            {"partitionName": "p", "options": {"timeout": "300s"}, "clusterId": "d", "files": SHOWN},
        ),
        ({"object_urls": SETS}, {"objectUrls": [["s3://b/1.parquet"], ["s3://b/i.npy", "s3://b/v.npy"]]}),
        ({"volume_name": "v", "data_paths": ["1.parquet"]}, {"volumeName": "v", "dataPaths": [["1.parquet"]]}),
    ],
)
@both_modes
def test_what_is_sent(imports: ImportServer, connect: Connect, how: Any, sent: Any, deferrable: bool) -> None:
    connect({"db_name": "shop", "cluster_id": "c"})
    one = Task(deferrable)
    assert one(idempotency_key="mine", wait=False, **how) == one.ti.pushed["job_id"] == "1000"
    (create,) = imports.creates
    assert create.json == {"collectionName": "books", "dbName": "shop", "clusterId": "c", **sent}
    assert create.header("Idempotency-Key") == "mine"
    assert [asked.path for asked in imports.server.asked if asked.path.startswith("/v2")] == [V2_LIST, V2_CREATE]


class TestV1:
    WHAT: ClassVar = {"object_urls": ["https://bucket.s3.amazonaws.com/1af7/1.parquet"]}

    @pytest.fixture(autouse=True)
    def _v1(self, server: ScriptedServer, connect: Connect) -> None:
        connect({"api_version": "v1"})
        self.imports = ImportServer(server, dialect="v1")

    @both_modes
    def test_one_object(self, deferrable: bool) -> None:
        one = Task(deferrable)
        assert len(one(**self.WHAT)) == 1
        assert self.imports.keys_sent == [None]
        assert one.ti.pushed["job_id"] == "1000"

    def test_several_are_refused_and_told_of_v2(self) -> None:
        with pytest.raises(exceptions.ImportApiRefused, match=r"exactly one object URL.* v2"):
            Task()(object_urls=["s3://b/1", "s3://b/2"])
        assert not self.imports.creates

    def test_a_lost_worker(self, store: Any) -> None:
        self.imports.rename = lambda path: path.removeprefix("https://bucket.s3.amazonaws.com/")
        one = Task(store=store)
        one.killed(self.imports, **self.WHAT)
        assert one(wait=False, **self.WHAT) == "1000"
        assert len(self.imports.jobs) == 1

    @pytest.mark.parametrize("operator", [CommitImportJobOperator, AbortImportJobOperator])
    def test_no_two_phase(self, operator: Any) -> None:
        with pytest.raises(exceptions.ImportApiRefused, match=r"Milvus 3\.0 or later"):
            Task(operator=operator)(job_id="1000")


class TestRetry:
    """What a later try, or a cleared task, makes of the job of an earlier one."""

    @every_key
    @pytest.mark.parametrize("state", ["Pending", "Importing", "Uncommitted", "Committing", "Completed"])
    @pytest.mark.parametrize("known", [False, True], ids=["before the answer", "after the answer"])
    def test_a_lost_worker(self, imports: ImportServer, store: Any, state: str, known: bool, told: Told) -> None:
        imports.state = state
        one = Task(deferrable=known, store=store)
        one(wait=False) if known else one.killed(imports)
        assert one(wait=False) == "1000"
        warned = re.search("(?i)warning.*import the same again, start a new DAG run", told())
        assert bool(warned) is (state == "Completed")
        assert "1000 was submitted before" in told()
        for words in ("record of an earlier try cannot be read", "No record can be kept"):
            assert (words in told()) is isinstance(store, BrokenStore)
        imports.end()
        assert len(one()) == 2
        assert len(imports.jobs) == 1

    @every_key
    def test_a_refused_request(self, imports: ImportServer, store: Any) -> None:
        one = Task(store=store)
        imports.server.on(V2_CREATE, says(1802, "missing"))
        with pytest.raises(exceptions.ImportApiRefused, match="missing"):
            one()
        imports.server.on(V2_CREATE, imports._create)
        assert len(one()) == 2
        assert len(imports.jobs) == 1

    @pytest.mark.parametrize(
        ("listed", "keys", "kept"),
        [
            (listed, keys, kept)
            for listed in (True, False)
            for keys in KEYS
            for kept in STORES
            if listed or keys == "said" or kept == "store"
        ],
        indirect=["keys"],
    )
    def test_a_failed_job_is_submitted_anew(self, imports: ImportServer, listed: bool, kept: str, told: Told) -> None:
        if not listed:
            imports.server.on(V2_LIST, DENIED)
        one = Task(listed, STORES[kept]())
        imports.state = "Failed"
        for number in (1, 2, 3):
            with pytest.raises(exceptions.ImportJobFailed):
                one()
            assert len(imports.jobs) == number
            assert one.ti.pushed["job_id"] == f"{999 + number}"
        imports.state, other = "Completed", {"files": ["other.parquet"]}
        if listed or imports.said:
            one.killed(imports, **other)
        assert one(wait=False, **other) == one(wait=False, **other) == "1003"
        assert ("does not list the import jobs" in told()) is not (listed or imports.said)
        assert len(set(imports.keys)) == (1 if listed and not imports.honours_key else 4)

    @either
    @pytest.mark.parametrize("kept", [True, False])
    def test_a_job_whose_record_expired(self, imports: ImportServer, kept: bool) -> None:
        one = Task(store=Store() if kept else None)
        one(wait=False)
        imports.jobs.clear()
        if kept or imports.honours_key:
            with pytest.raises(exceptions.ImportJobUnknown):
                one()
        else:  # nobody knows of it any more
            assert one()

    def test_every_run_and_map_index_has_its_own(self, imports: ImportServer) -> None:
        for run_id, map_index in (("r", -1), ("r", 0), ("s" * 500 + "é\n", -1)):
            ti = TaskInstance()
            ti.run_id, ti.map_index = run_id, map_index
            Task().make(wait=False).execute({"ti": ti})
        assert len(imports.jobs) == len(set(imports.keys_sent)) == 3
        assert all(key and key.isascii() and key.isprintable() and len(key) == 72 for key in imports.keys_sent)

    @every_key
    def test_other_files(self, imports: ImportServer, store: Any) -> None:
        one = Task(store=store)
        one(wait=False, files=["b", "a", ["v", "id"]])
        assert one(wait=False, files=[["id", "v"], "a", "b"]) == "1000"  # in another order they are the same
        again = {"files": ["d.parquet"], "idempotency_key": "again", "wait": False}
        if isinstance(store, Store) or imports.honours_key:
            for others in (["d.parquet"], ["a", "a", ["id", "v"]]):
                with pytest.raises(exceptions.ImportSettingInvalid, match=r"1000.*other files.*idempotency_key"):
                    one(files=others)
            assert len(imports.jobs) == 1
            assert one(**again) == "1001"
        assert one(**again) == "1001"

    @either
    def test_a_new_key_imports_again(self, imports: ImportServer) -> None:
        one = Task(store=Store())
        assert [one(wait=False, idempotency_key=key) for key in ("one", "one", "two")] == ["1000", "1000", "1001"]

    @either
    @pytest.mark.parametrize(
        ("kept", "found"),
        [
            ({"job_id": "1000", "submitting": False}, "1000"),
            ({"job_id": "1001", "submitting": False}, "1003"),
            ({"known_before": ["1000", "1001"]}, "1002"),
            ({"known_before": ["1000", "1001", "1002"]}, "1003"),
        ],
    )
    def test_what_release_0_1_0_wrote_is_read(self, imports: ImportServer, kept: dict[str, Any], found: str) -> None:
        for state in ("Completed", "Failed", "Completed"):
            imports.add(SHOWN, state)
        key = "airflow-3b2303cc364b5e6cf02eb4a095a1e4877671c63b37b003cd8a6907ce40260c82"
        old = {"key": key, "request": "0" * 64, "job_id": None, "submitting": True, "known_before": None}
        one = Task(store=Store())
        one.store.set("importprog_submission", {**old, **kept, "of_a_later_release": 1})
        assert one(wait=False) == found

    @every_key
    @pytest.mark.parametrize(
        ("moved", "found", "sent"), [("host", "1001", (1, 1)), ("database", "1001", (2, 0)), ("slash", "1000", (1, 0))]
    )
    def test_a_connection_that_moved(
        self, imports: ImportServer, connect: Connect, other_server: ScriptedServer, moved: str, found: str, sent: Any
    ) -> None:
        one = Task(store=Store())
        assert one(wait=False) == "1000"
        there = ImportServer(other_server, imports.honours_key)
        there.add([["z"]], "Importing", "shelves")
        host = {"host": other_server.url, "database": imports.server.url, "slash": f"{imports.server.url}/"}[moved]
        connect({"idempotency_keys": imports.said, "db_name": "shop" if moved == "database" else None}, host=host)
        imports.keys.clear()  # each database has its own
        assert one(wait=False) == one(wait=False) == found
        assert (len(imports.creates), len(there.creates)) == sent

    @either
    @pytest.mark.parametrize("failure", [Answer(HTML, 500), DENIED])
    def test_a_server_that_cannot_be_asked(self, imports: ImportServer, store: Any, failure: Answer) -> None:
        one = Task(store=store)
        one.killed(imports)
        imports.server.on(V2_LIST, failure).on(V2_DESCRIBE, failure)
        with pytest.raises((exceptions.ImportApiUnreachable, exceptions.ImportApiUnauthorized)):
            one()
        assert len(imports.creates) == 1


@every_key
class TestAJobFromBeforeTheRun:
    """A run that was deleted and made again under its run id, or a key that two runs share."""

    @pytest.mark.parametrize("state", ["Pending", "Completed", "Failed"])
    def test_it_is_not_the_runs(self, imports: ImportServer, store: Any, state: str, told: Told) -> None:
        imports.state = state
        assert [Task(store=type(store)())(wait=False) for _ in range(3)] == ["1000", "1001", "1002"]
        assert ("1001 has failed, or was there before this DAG run" in told()) is imports.honours_key
        imports.state = "Importing"
        killed = Task(store=store if isinstance(store, Store) else Store())
        killed.killed(imports)
        assert killed(wait=False) == killed(wait=False) == "1003"
        assert len(imports.jobs) == 4

    def test_without_a_record_it_takes_ten_minutes_to_tell(self, imports: ImportServer) -> None:
        imports.ends_at = BEGAN - timedelta(minutes=11)
        assert Task()(wait=False) == "1000"
        imports.ends_at = BEGAN - timedelta(minutes=9)
        again = Task()
        again.killed(imports)
        assert again(wait=False) == again(wait=False) == "1001"
        assert len(imports.jobs) == 2

    def test_the_record_says_what_is_new_whatever_the_clock_says(self, imports: ImportServer) -> None:
        imports.ends_at = BEGAN - timedelta(days=1)
        one = Task(store=Store())
        one.killed(imports)
        assert one(wait=False) == one(wait=False) == "1000"

    def test_without_a_list_a_clock_that_is_wrong_makes_no_row_of_jobs(self, imports: ImportServer) -> None:
        imports.server.on(V2_LIST, DENIED)
        imports.ends_at = BEGAN - timedelta(days=1)
        imports.lose = lambda job_id: says(1802, "too many") if len(imports.jobs) > 3 else None
        second = Task(tries=1)
        with pytest.raises(exceptions.ImportJobAmbiguous if imports.said else exceptions.ImportApiUnauthorized):
            second(wait=False)
        assert len(imports.jobs) == (2 if imports.said else 0)
        imports.server.on(V2_LIST, imports._list)
        assert second(wait=False) == ("1002" if imports.said else "1000")

    @pytest.mark.parametrize("due", [11, 9])
    def test_a_run_that_was_cleared_began_when_it_was_due(self, imports: ImportServer, due: int) -> None:
        imports.ends_at = BEGAN
        one = Task()
        one(wait=False)
        one.run.clear_number, one.run.run_after = 1, BEGAN + timedelta(minutes=due)
        one.run.start_date = BEGAN + timedelta(days=1)
        assert one(wait=False) == ("1000" if due == 9 else "1001")

    @pytest.mark.parametrize("days", [0, 1])
    @pytest.mark.parametrize("state", ["Importing", "Completed"])
    def test_without_a_list(self, imports: ImportServer, store: Any, state: str, days: int) -> None:
        imports.server.on(V2_LIST, DENIED)
        imports.state = "Importing"
        assert Task()(wait=False) == "1000"
        at = (BEGAN - timedelta(days=days)).isoformat()
        imports.jobs["1000"].update(state=state, createTime=at, ends_at=at)
        again = Task(store=store)
        if imports.said and not isinstance(store, Store) and not days:
            if state == "Importing":  # nothing tells it from the run's own
                assert again(wait=False) == "1000"
                return
            # Only the usual key can be found again, and its job is not known to be new.
            with pytest.raises(exceptions.ImportJobAmbiguous, match=r"1000 \(completed, created .*, ended .*\) may be"):
                again()
            imports.keys.clear()
            assert Task(store=store)(wait=False) == "1001"
            return
        assert again(wait=False) == "1001"
        if imports.said or isinstance(store, Store):
            assert again(wait=False) == "1001"
        else:  # a person has to be asked
            with pytest.raises(exceptions.ImportApiUnauthorized):
                again(wait=False)
        if isinstance(store, Store):
            again.killed(imports, idempotency_key="x")
            if imports.said:
                assert again(wait=False, idempotency_key="x") == "1002"


URL = "s3://bucket/a/b%20c.parquet?sig=1"


@either
@pytest.mark.parametrize(
    ("what", "shown", "proof"),
    [
        ({"files": ["dir/a.parquet"]}, ["files/insert/dir/a.parquet"], "yes"),
        ({"files": ["d/a", "d/b"]}, ["d/b", "d/a"], "yes"),
        ({"object_urls": [URL]}, ["a/b c.parquet"], "yes"),
        ({"object_urls": [URL], "auto_commit": False}, ["a/b c.parquet"], "yes"),
        ({"object_urls": ["s3://bucket/dïr/a.parquet"]}, ["d%C3%AFr/a.parquet"], "yes"),
        ({"files": ["dir/a.parquet"]}, ["a.parquet"], "may be"),
        ({"files": ["dir/a.parquet"]}, [""], "may be"),
        ({"files": ["d/a", "d/b"]}, ["d/a", "b"], "may be"),
        ({"files": ["d/a"], "partition_name": "p"}, ["d/a"], "may be"),
        ({"files": ["d/a"], "options": {"timeout": "300s"}}, ["d/a"], "may be"),
        ({"files": ["d/a"]}, ["d/a", "d/b"], "no"),
        ({"files": ["d/a"], "partition_name": "p"}, ["d/b"], "no"),
        ({"files": ["d/a"], "collection_name": "shelves"}, ["d/a"], "no"),
    ],
)
class TestProof:
    """What the files that a server shows of a job prove; tests/unit/test_file_matching.py has more of them."""

    def test_after_a_lost_answer(self, imports: ImportServer, what: dict[str, Any], shown: Any, proof: str) -> None:
        def create(asked: Any) -> Answer:
            imports.add([[name] for name in shown], "Importing")
            return says(10001, "request timeout", 408)

        imports.server.on(V2_CREATE, create, imports._create)
        one = Task(store=Store())
        if proof == "yes":
            assert one(wait=False, **what) == "1000"
        else:
            with pytest.raises(exceptions.ImportJobAmbiguous if proof == "may be" else exceptions.ImportApiUnreachable):
                one(wait=False, **what)
        assert len(imports.creates) == 1

    def test_at_a_later_try(self, imports: ImportServer, what: dict[str, Any], shown: Any, proof: str) -> None:
        imports.add([[name] for name in shown], "Importing")
        second = Task(tries=1)
        if proof == "may be":
            with pytest.raises(exceptions.ImportJobAmbiguous, match="1000"):
                second(wait=False, **what)
        else:
            assert second(wait=False, **what) == {"yes": "1000", "no": "1001"}[proof]
        assert len(imports.creates) == (proof == "no")


class TestALaterTryWithoutARecord:
    """Which job it adopts, and when it submits none."""

    def test_several(self, imports: ImportServer) -> None:
        for state in ("Importing", "Completed", "Failed"):
            imports.add(SHOWN, state, createTime=(BEGAN + timedelta(hours=1)).isoformat())
        times = [re.escape(at.isoformat(timespec="seconds")) for at in (BEGAN + timedelta(hours=1), imports.ends_at)]
        which = rf"1001 \(completed, created at {times[0]}, ended at {times[1]}\), 1000 \(importing, created at .*\)"
        advice = "may be it.*ImportProgressSensor.*new DAG run.*idempotency_key"
        with pytest.raises(exceptions.ImportJobAmbiguous, match=f"{which} {advice}") as caught:
            Task(tries=1)()
        assert isinstance(caught.value, AirflowFailException)
        assert not imports.creates

    @pytest.mark.parametrize(
        ("created", "ended", "began", "found"),
        [
            (None, -11, BEGAN, "1001"),
            (None, -9, BEGAN, "1000"),
            (None, 9, BEGAN, "1000"),
            (None, 15, BEGAN, "1000"),
            (None, -11, None, "1000"),
            (-11, 60, BEGAN, "1001"),
            (-9, 60, BEGAN, "1000"),
            (15, 60, BEGAN, "1000"),
        ],
    )
    def test_times(self, imports: ImportServer, created: int | None, ended: int, began: Any, found: str) -> None:
        imports.ends_at = BEGAN + timedelta(minutes=ended)
        shown = {} if created is None else {"createTime": (BEGAN + timedelta(minutes=created)).isoformat()}
        imports.add(SHOWN, **shown)
        second = Task(tries=1)
        second.run.start_date = began
        assert second(wait=False) == found

    def test_files_that_show_later(self, imports: ImportServer) -> None:
        imports.add(SHOWN, "Pending", hidden=2)
        assert Task(tries=1)(wait=False) == "1000"

    def test_files_that_never_show(self, imports: ImportServer) -> None:
        imports.add(SHOWN, "Pending", hidden=9)
        second = Task(tries=1)
        with pytest.raises(exceptions.ImportApiUnreachable, match="1000 may be the one"):
            second(wait=False)
        assert second.slept == [1, 2, 4, 8]
        assert not imports.creates

    def test_very_many_jobs(self, imports: ImportServer, told: Told) -> None:
        for number in range(150):
            imports.add([[f"{number}.parquet"]], "Importing")
        assert Task(tries=1)(files=["149.parquet"], wait=False) == "1149"
        assert "150 import jobs" in told()
        assert len(imports.server.to(V2_DESCRIBE)) == 100

    def test_a_job_that_is_listed_and_gone(self, imports: ImportServer) -> None:
        imports.add(SHOWN, "Importing")
        imports.server.on(V2_DESCRIBE, GONE)
        assert Task(tries=1)(wait=False) == "1001"


def test_a_server_that_answers_with_the_same_failed_job(imports: ImportServer) -> None:
    imports.server.on(V2_LIST, DENIED)
    one = Task(store=Store())
    imports.state = "Failed"
    one(wait=False)
    imports.server.on(V2_CREATE, Answer({"code": 0, "data": {"jobId": "1000"}}))
    with pytest.raises(exceptions.ImportApiRefused, match="import job 1000"):
        one()


LOST = {
    "cut off": Answer(how="close"),
    "reset": Answer(how="reset"),
    "half": Answer({"code": 0, "data": {"jobId": "1000"}}, how="cut"),
    "502": Answer(HTML, 502),
    "500": Answer(HTML, 500),
    "busy": says(1, "busy", 500),
    "a page": Answer(HTML),
    "late": Answer({"code": 0}, delay=1),
    "408": says(10001, "request timeout", 408),
    **{str(code): says(code, "context done") for code in (2, 10000, 10001, 65535)},
}


class TestALostAnswer:
    @every_key
    @pytest.mark.parametrize("lost", LOST)
    def test_its_job_is_found(self, imports: ImportServer, connect: Connect, lost: str, told: Told) -> None:
        connect({"timeout": 0.3, "idempotency_keys": str(imports.said).lower()})
        imports.add(SHOWN)  # somebody else's, from before
        imports.ends_at = BEGAN - timedelta(hours=1)  # by a clock that is wrong: the list says what is new
        answers = [LOST[lost], Answer(HTML, 503) if imports.said else None, None]
        imports.lose = lambda job_id: answers.pop(0)
        assert Task(store=Store())(wait=False) == "1001"
        assert len(imports.jobs) == 2
        assert len(imports.creates) == (3 if imports.said else 1)
        assert len(set(imports.keys_sent)) == 1
        assert ("again under the same key" if imports.said else "no good answer came") in told()
        assert bool(imports.server.to(V2_DESCRIBE)) is (not imports.said)

    def test_a_job_that_comes_while_it_is_searched_for(self, imports: ImportServer) -> None:
        imports.server.on(V2_CREATE, Answer(how="close"))
        one = Task()
        one.meanwhile = lambda: len(one.slept) == 3 and imports.add(SHOWN)
        assert len(one()) == 2
        assert len(imports.creates) == 1

    @pytest.mark.parametrize("kept", [True, False])
    def test_a_job_that_comes_later(self, imports: ImportServer, kept: bool) -> None:
        one = Task(store=Store() if kept else None)
        for answer in (Answer(how="close"), Answer(HTML, 503)):  # nor is it forgotten when one was not taken since
            imports.server.on(V2_CREATE, answer)
            with pytest.raises(exceptions.ImportApiUnreachable):
                one()
        imports.server.on(V2_CREATE, imports._create)
        one.meanwhile = lambda: imports.jobs or imports.add(SHOWN)
        if not kept:  # without a record a later try does not know that one is expected
            one.meanwhile()
        assert one(wait=False) == "1000"
        assert len(imports.creates) == 2

    def test_a_request_that_never_arrived(self, imports: ImportServer, store: Any) -> None:
        one = Task(store=store)
        imports.server.on(V2_CREATE, Answer(how="close"))
        with pytest.raises(
            exceptions.ImportApiUnreachable, match="the next try of this task searches for it"
        ) as caught:
            one()
        assert caught.value.in_doubt
        imports.server.on(V2_CREATE, imports._create)
        assert one(wait=False) == "1000"

    def test_a_server_that_lists_nothing_after_it(self, imports: ImportServer, store: Any) -> None:
        imports.done_but(V2_CREATE, LOST["408"])
        imports.server.on(V2_LIST, imports._list, DENIED)
        one = Task(store=store)
        with pytest.raises(
            exceptions.ImportApiUnreachable, match=r"submitted all the same.*not found: .*permission den"
        ) as caught:
            one()
        assert caught.value.in_doubt
        imports.server.on(V2_LIST, imports._list)
        assert one(wait=False) == "1000"
        assert len(imports.creates) == 1

    def test_several_new_ones(self, imports: ImportServer) -> None:
        imports.done_but(V2_CREATE, LOST["cut off"])
        imports.lose = lambda job_id: imports.add(SHOWN) and None
        with pytest.raises(exceptions.ImportJobAmbiguous):
            Task()()

    @pytest.mark.parametrize("operator", [CommitImportJobOperator, AbortImportJobOperator])
    @pytest.mark.parametrize("done", [True, False])
    @pytest.mark.parametrize("lost", ["cut off", "408", "2", "10000", "10001", "65535"])
    def test_of_a_commit_or_an_abort(self, imports: ImportServer, operator: Any, lost: str, done: bool) -> None:
        job_id = imports.add([["a.parquet"]], "Uncommitted")
        one, path = Task(operator=operator), PATHS[operator]
        how = {"job_id": job_id, "outage_tolerance": 0, **({"wait": False} if path == V2_COMMIT else {})}
        if done:
            imports.done_but(path, LOST[lost])
            assert one(**how) == job_id
            assert imports.jobs[job_id]["state"] == ("Completed" if path == V2_COMMIT else "Failed")
        else:
            imports.server.on(path, LOST[lost])
            with pytest.raises(exceptions.ImportApiUnreachable):
                one(**how)
        asked = [one.path for one in imports.server.asked]
        assert V2_DESCRIBE in asked[asked.index(path) :]


@said
class TestKeysThatTheServerHonours:
    """The connection says so: nothing needs to be searched for."""

    def test_they_tell_runs_with_the_same_files_apart(self, imports: ImportServer, store: Any) -> None:
        # Milvus lists a job's files only once it imports, however long it queues.
        imports.state = "Pending"
        runs = {run_id: Task(store=type(store)()) for run_id in ("run-1", "run-2")}
        for run_id, one in runs.items():
            one.killed(imports, idempotency_key=run_id)
        imports.jobs["1000"]["hidden"] = 99
        assert [one(idempotency_key=run_id, wait=False) for run_id, one in runs.items()] == ["1000", "1001"]
        assert len(imports.jobs) == 2

    def test_answers_that_are_lost_again_and_again(self, imports: ImportServer, store: Any) -> None:
        imports.lose = lambda job_id: Answer(how="close")
        one = Task(store=store)
        with pytest.raises(exceptions.ImportApiUnreachable, match="makes no second one") as caught:
            one()
        assert caught.value.in_doubt
        assert one.slept == [1, 2, 4, 8]
        imports.lose = lambda job_id: None
        assert one(wait=False) == "1000"
        assert len(imports.jobs) == 1


LIMIT = "The number of jobs has reached the limit, please try again later"


@pytest.mark.parametrize("operator", PATHS)
class TestNothingDone:
    """The server says that it did nothing."""

    @pytest.fixture
    def how(self, imports: ImportServer, operator: Any) -> dict[str, Any]:
        job_id = imports.add([["a.parquet"]], "Uncommitted")
        return {"outage_tolerance": 900, **({} if operator is CreateImportJobOperator else {"job_id": job_id})}

    def test_it_is_asked_again(self, imports: ImportServer, operator: Any, how: dict[str, Any]) -> None:
        busy = [says(8, status=429, later=77), Answer(HTML, 503, {"Retry-After": "60"}), says(8, status=429)]
        busy += [says(code) for code in (4, 8, 9, 1807)]
        busy += [says(None, status=429), says(None, status=429, later=2), says(1807, status=429, later=500)]
        busy += [says(1, "starting", 503, later=2), says(2100, LIMIT), says(2101, LIMIT), says(2100, LIMIT, 400)]
        imports.server.on(PATHS[operator], *busy, getattr(imports, f"_{PATHS[operator].rpartition('/')[2]}"))
        one = Task(operator=operator)
        one(**{**how, "outage_tolerance": 9000})
        assert len(imports.jobs) == (2 if operator is CreateImportJobOperator else 1)
        assert len(imports.server.to(PATHS[operator])) == len(one.slept) + 1 == len(busy) + 1
        for number, (answer, slept) in enumerate(zip(busy, one.slept, strict=True)):
            asked_for, back_off = float(answer.headers.get("Retry-After", 0)), min(2.0**number, 60)
            assert max(asked_for, back_off) <= slept <= max(asked_for, 1.25 * back_off)

    def test_not_for_ever(self, imports: ImportServer, operator: Any, how: dict[str, Any]) -> None:
        imports.server.on(PATHS[operator], says(8, "the last", 429, later=500))
        for tolerance, slept in ((900, [500, 400]), (timedelta(0), [])):
            one = Task(operator=operator)
            with pytest.raises(exceptions.ImportApiUnreachable, match="the last") as caught:
                one(**{**how, "outage_tolerance": tolerance})
            assert one.slept == slept
            assert not caught.value.in_doubt
            assert not isinstance(caught.value, AirflowFailException)


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"files": None}, "one source.*none"),
        ({"files": []}, "files must be a list .*not empty"),
        ({"files": ["a", ""]}, "files holds ''"),
        ({"files": FILES, "object_urls": ["s3://b/1"]}, "files and object_urls"),
        ({"volume_name": "v"}, "files and volume_name"),
        ({"files": None, "volume_name": "v"}, "data_paths go together"),
        ({"collection_name": ""}, "collection_name"),
        ({"idempotency_key": "x" * 257}, "idempotency_key must be 1 to 256"),
        ({"idempotency_key": "é"}, "idempotency_key"),
        ({"idempotency_key": "a\nb"}, "idempotency_key must be printable"),
        ({"idempotency_key": 1e5}, "render_template_as_native_obj"),
        ({"auto_commit": "false"}, "auto_commit must be True or False"),
        ({"wait": "no"}, "wait must be True or False"),
        ({"abort_on_kill": 1}, "abort_on_kill must be True or False"),
        ({"options": {"auto_commit": False}}, r"options\['auto_commit'\] must be a string"),
        ({"options": ["x"]}, "options must be a dict"),
        ({"auto_commit": False, "options": {"auto_commit": "true"}}, "do not go together"),
        ({"mode": "reschedule"}, "deferrable=True"),
        ({"abort_on_kill": True}, "refuses to abort an import that commits by itself"),
        ({"abort_on_kill": True, "options": {"timeout": "9s"}}, "auto_commit=False"),
        # What is told of one parameter does not wait for another's template.
        ({"collection_name": "{{ params.c }}", "files": []}, "files must be a list"),
    ],
)
def test_bad_input_is_refused_when_the_dag_is_read(kwargs: dict[str, Any], match: str) -> None:
    with pytest.raises(exceptions.ImportSettingInvalid, match=match):
        Task().make(**kwargs)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("files", "['a.parquet']"),
        ("collection_name", ""),
        ("idempotency_key", "x" * 257),
        ("options", {"a": True}),
        ("options", "{'a': '1'}"),
        ("cluster_id", 1e5),
        ("importprog_conn_id", ""),
        ("partition_name", True),
    ],
)
def test_bad_input_is_refused_once_it_is_rendered(imports: ImportServer, name: str, value: Any) -> None:
    operator = Task().make(**{name: "{{ params.x }}"})
    setattr(operator, name, value)
    with pytest.raises(exceptions.ImportSettingInvalid, match=name):
        operator.execute({"ti": TaskInstance()})
    assert not imports.server.asked


def test_what_rendering_made_of_text(imports: ImportServer) -> None:
    names = ("collection_name", "partition_name", "idempotency_key", "cluster_id")
    operator = Task().make(**dict.fromkeys(names, "{{ params.x }}"), wait=False)
    operator.collection_name, operator.files, operator.options = 7, [8, ["9", 10]], {"timeout": 300}
    operator.partition_name, operator.idempotency_key, operator.cluster_id = "", "None", " "
    operator.importprog_conn_id = "importprog_default "
    operator.execute({"ti": TaskInstance()})
    (create,) = imports.creates
    assert create.json == {"collectionName": "7", "files": [["8"], ["9", "10"]], "options": {"timeout": "300"}}
    assert (imports.keys_sent[0] or "").startswith("airflow-")


@pytest.mark.parametrize("operator", [CreateImportJobOperator, CommitImportJobOperator])
def test_what_will_happen_in_reschedule_mode_decides(imports: ImportServer, operator: Any) -> None:
    imports.state = "Uncommitted"
    how = {"job_id": imports.add(SHOWN, "Uncommitted")} if operator is CommitImportJobOperator else {}
    changed = Task(operator=operator).make(**how)
    changed.mode = "reschedule"  # as a policy does, or an executor for debugging
    with pytest.raises(exceptions.ImportSettingInvalid, match="deferrable=True"):
        changed.execute({"ti": TaskInstance()})
    assert not imports.server.asked
    for harmless in ({"deferrable": True}, {"wait": False}):
        made = Task(operator=operator).make(mode="reschedule", **how, **harmless)
        with suppress(TaskDeferred):
            made.execute({"ti": TaskInstance()})
        imports.end("Uncommitted")
    assert len(imports.server.to(PATHS[operator])) == 2


def test_what_options_render_to_decides_whether_the_job_can_be_aborted(imports: ImportServer) -> None:
    operator = Task().make(abort_on_kill=True, options="{{ params.x }}", wait=False)
    operator.options = {"auto_commit": "true"}
    with pytest.raises(exceptions.ImportSettingInvalid, match="abort_on_kill"):
        operator.execute({"ti": TaskInstance()})
    operator.options = {"auto_commit": "false"}
    assert operator.execute({"ti": TaskInstance()}) == "1000"


def test_a_connection_that_is_wrong_is_told_at_once(imports: ImportServer, connect: Connect, told: Told) -> None:
    connect(host="ftp://x")
    with pytest.raises(exceptions.ImportSettingInvalid, match="host"):
        Task(store=Store())()
    assert "lost answer" not in told()


def test_templates_and_outputs_pass_until_the_task_runs() -> None:
    with DAG("d", schedule=None, start_date=BEGAN, default_args={"poke_interval": 7}):

        @task
        def files() -> list[str]:
            return FILES

        made = files()
        whole = Task().make(task_id="a", files=made, poke_interval=7)
        nested = Task().make(task_id="b", files=[made, "{{ params.y }}"], options={"timeout": "{{ params.t }}"})
        Task().make(task_id="c", files="{{ params.files }}", object_urls="{{ params.urls }}")
        mapped = CreateImportJobOperator.partial(task_id="e", collection_name="books").expand(files=[["a"], ["b"]])
        commit = CommitImportJobOperator(task_id="f", job_id=whole.output["job_id"])
        abort = AbortImportJobOperator(task_id="g", job_id=made)
        default = CreateImportJobOperator(task_id="h", collection_name="books", files=["a"])
    assert whole.upstream_task_ids == nested.upstream_task_ids == abort.upstream_task_ids == {"files"}
    assert commit.upstream_task_ids == {"a"}
    assert mapped.task_id == "e"
    assert (default.poke_interval, default.wait_for, default.wait) == (7, "completed", True)


def test_template_fields_are_rendered(imports: ImportServer) -> None:
    assert "storage_conn_id" not in CreateImportJobOperator.template_fields
    x = "{{ x }}"
    with DAG("d", schedule=None, start_date=BEGAN):
        operator = Task().make(
            wait=False,
            collection_name=f"{x}-books",
            files=[f"{x}.parquet", [f"{x}/id.npy", f"{x}/v.npy"]],
            options={"timeout": f"{x}s"},
            idempotency_key=x,
        )
    operator.render_template_fields({"x": "7"})
    operator.execute({"ti": TaskInstance()})
    (create,) = imports.creates
    files = [["7.parquet"], ["7/id.npy", "7/v.npy"]]
    assert create.json == {"collectionName": "7-books", "files": files, "options": {"timeout": "7s"}}
    assert create.header("Idempotency-Key") == "7"


@both_modes
class TestCommit:
    @pytest.mark.parametrize("state", ["Uncommitted", "Committing", "Completed"])
    def test_done_already_counts_as_done(self, imports: ImportServer, deferrable: bool, state: str) -> None:
        job_id = imports.add([["a.parquet"]], state)
        imports.end_once_described()
        one = Task(deferrable, operator=CommitImportJobOperator)
        assert len(one(job_id=job_id)) == len(one(job_id=job_id)) == 1
        assert one.ti.pushed["import_job"]["state"] == "completed"

    def test_bad_input(self, imports: ImportServer, deferrable: bool) -> None:
        with pytest.raises(exceptions.ImportSettingInvalid, match="job_id"):
            Task(deferrable, operator=CommitImportJobOperator)(job_id="None")


@pytest.mark.parametrize(
    ("operator", "state", "match"),
    [
        (CommitImportJobOperator, "Importing", "cannot commit.*1000 is importing.*Wait until it is uncommitted"),
        (CommitImportJobOperator, "Failed", "cannot commit.*1000 is failed.*import again"),
        (AbortImportJobOperator, "Completed", "1000 is completed.*delete them"),
    ],
)
def test_a_refused_commit_or_abort(imports: ImportServer, operator: Any, state: str, match: str) -> None:
    job_id = imports.add([["a.parquet"]], state)
    with pytest.raises(exceptions.ImportApiRefused, match=match):
        Task(operator=operator)(job_id=job_id)


class TestAbort:
    @pytest.mark.parametrize("state", ["Uncommitted", "Failed"])
    def test_done_already_counts_as_done(self, imports: ImportServer, state: str, told: Told) -> None:
        job_id = imports.add([["a.parquet"]], state)
        one = Task(operator=AbortImportJobOperator)
        assert one(job_id=job_id) == one(job_id=f" {job_id} ") == job_id
        assert imports.jobs[job_id]["state"] == "Failed"
        assert f"Import job {job_id} is aborted, and its rows are dropped. It was {state.lower()}" in told()

    def test_one_whose_record_is_gone_at_once(self, imports: ImportServer, told: Told) -> None:
        job_id = imports.add([["a.parquet"]], "Uncommitted")
        imports.server.on(V2_DESCRIBE, GONE)
        assert Task(operator=AbortImportJobOperator)(job_id=job_id) == job_id
        assert "It was in a state that is not known" in told()


TWO_PHASE = {"auto_commit": False, "wait_for": "uncommitted", "abort_on_kill": True}


class TestKilled:
    @pytest.mark.parametrize("abort", [False, True])
    @pytest.mark.parametrize("new", [False, True], ids=["the same object", "a new object"])
    def test_on_the_worker(self, imports: ImportServer, abort: bool, new: bool, told: Told) -> None:
        imports.state = "Uncommitted"
        ti = TaskInstance()
        how = {"wait": False, **(TWO_PHASE if abort else {})}
        operator = Task().make(**how)
        operator.execute({"ti": ti})
        killed = Task().make(**how) if new else operator  # as at the end of a deferral on Airflow 2
        with current_context({"ti": ti}):
            killed.on_kill()
        assert imports.jobs["1000"]["state"] == ("Failed" if abort else "Uncommitted")
        assert ("1000 is aborted" if abort else "1000 goes on") in told()

    def test_where_there_is_no_job(self, imports: ImportServer, told: Told) -> None:
        ti = TaskInstance()
        with current_context({"ti": ti}):
            Task().make(**TWO_PHASE).on_kill()
            assert "The task was ended" not in told()
            operator = Task().make(**TWO_PHASE)
            imports.lose = lambda job_id: operator.on_kill()
            operator.execute({"ti": ti})
            assert "while it submitted its import, which may go on" in told()
        assert not imports.server.to(V2_ABORT)

    def test_where_it_is_not_aborted(self, imports: ImportServer, told: Told) -> None:
        operator = Task().make(wait=False, **TWO_PHASE)
        operator.execute({"ti": TaskInstance()})
        imports.server.on(V2_ABORT, Answer(HTML, 503))
        operator.on_kill()
        assert "1000 was not aborted" in told()
        Task().make(**TWO_PHASE).on_kill()  # outside of a task
        assert "its import job was not aborted" in told()

    @pytest.mark.parametrize("answer", [Answer({"code": 0, "data": {}}), Answer(HTML, 503)])
    def test_an_abort_outlives_that_airflow_cancels_it_each_second(
        self, imports: ImportServer, told: Told, answer: Answer
    ) -> None:
        job_id = imports.add([["a.parquet"]], "Uncommitted")
        imports.server.on(V2_ABORT, Answer(answer.body, answer.status, delay=0.5))

        async def end() -> None:
            ending = asyncio.create_task(ImportProgressTrigger(job_id, abort_on_kill=True).on_kill())
            for _ in range(3):
                await asyncio.sleep(0.1)
                ending.cancel()
            await ending

        asyncio.run(end())
        assert len(imports.server.to(V2_ABORT)) == 1
        assert (f"{job_id} is aborted" if answer.status == 200 else f"{job_id} was not aborted") in told()

    def test_an_abort_that_lasts_is_given_up(
        self, imports: ImportServer, told: Told, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(triggers, "_LONGEST_ABORT", 0.2)
        job_id = imports.add([["a.parquet"]], "Uncommitted")
        imports.server.on(V2_ABORT, Answer({"code": 0, "data": {}}, delay=1))
        asyncio.run(ImportProgressTrigger(job_id, abort_on_kill=True).on_kill())
        assert f"import job {job_id} was not aborted. The server did not answer within 0.2 s." in told()

    @pytest.mark.skipif(AIRFLOW_2, reason="it never tells a trigger")
    @pytest.mark.parametrize(
        ("state", "said"),
        [
            ("failed", "1000 is aborted"),
            ("scheduled", "1000 is aborted"),  # as a task that was cleared soon is
            ("deferred", "1000 is not aborted: nobody has ended its task"),
            ("success", "1000 is not aborted: nobody has ended its task"),
            (None, "1000 was not aborted. Airflow does not say whether somebody has ended the task (OSError)"),
        ],
    )
    def test_a_trigger_that_another_triggerer_took_over_aborts_nothing(
        self, imports: ImportServer, told: Told, mocker: MockerFixture, state: str | None, said: str
    ) -> None:
        """Airflow 3.3.2 tells it the same as of a task that a person ended."""
        from airflow.sdk.execution_time.comms import TICount

        def answer(asked: Any) -> TICount:
            if state is None:
                raise OSError
            assert (asked.dag_id, asked.task_ids, asked.run_ids, asked.map_index) == ("d", ["write"], ["r"], 3)
            return TICount(count=int(state in asked.states))

        comms = mocker.patch("airflow.sdk.execution_time.task_runner.SUPERVISOR_COMMS", create=True)
        comms.send.side_effect = answer
        job_id = imports.add([["a.parquet"]], "Uncommitted")
        assert job_id == "1000"
        trigger = ImportProgressTrigger(job_id, abort_on_kill=True)
        trigger.task_instance = SimpleNamespace(dag_id="d", task_id="write", run_id="r", map_index=3)
        asyncio.run(trigger.on_kill())
        assert said in told()
        assert imports.jobs["1000"]["state"] == ("Failed" if "is aborted" in said else "Uncommitted")

    @pytest.mark.parametrize("abort", [False, True])
    def test_in_the_triggerer(self, imports: ImportServer, abort: bool, told: Told) -> None:
        imports.state = "Uncommitted"
        operator = Task(deferrable=True).make(auto_commit=False, abort_on_kill=abort)
        with pytest.raises(TaskDeferred) as deferred:
            operator.execute({"ti": TaskInstance()})
        path, kwargs = deferred.value.trigger.serialize()
        assert ("abort_on_kill" in kwargs) is abort
        again = ImportProgressTrigger(**json.loads(json.dumps(kwargs)))
        assert again.serialize() == (path, kwargs)
        asyncio.run(again.on_kill())
        assert imports.jobs["1000"]["state"] == ("Failed" if abort else "Uncommitted")
        if abort:
            imports.jobs["1000"]["state"] = "Completed"
            asyncio.run(again.on_kill())
            assert "was not aborted" in told()

    def test_a_deferral_that_times_out(self, imports: ImportServer) -> None:
        imports.state = "Importing"
        ti = TaskInstance()
        with pytest.raises(TaskDeferred) as deferred:
            Task().make(deferrable=True).execute({"ti": ti})
        assert deferred.value.timeout <= timedelta(seconds=5)
        with pytest.raises(AirflowSensorTimeout, match="Import job 1000 was not completed"):
            Task().make(deferrable=True).resume_execution("__fail__", {"error": "Trigger timeout"}, {"ti": ti})


ACCESS, SECRET, SESSION = "AKIA-access-1", "secret-key-22", "session-token-333"
LOGIN = {"login": ACCESS, "password": SECRET}
STORAGE: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {  # type, fields, extra
    "aws": ("aws", LOGIN, {"aws_session_token": SESSION}),
    "aws in extra": ("aws", {}, {"aws_access_key_id": ACCESS, "aws_secret_access_key": SECRET, "region_name": "eu"}),
    "s3": ("s3", LOGIN, {}),
    "generic": ("generic", {"host": "minio", **LOGIN}, {}),
    "gcp": ("google_cloud_platform", LOGIN, {}),
    "gcp in extra": ("google_cloud_platform", {}, {"hmac_access_id": ACCESS, "hmac_secret": SECRET}),
    "wasb": ("wasb", LOGIN, {}),
    "wasb host": ("wasb", {"host": f"https://{ACCESS.lower()}.blob.core.windows.net", "password": SECRET}, {}),
    "wasb bare": ("wasb", {"host": ACCESS, "password": SECRET}, {}),
}
NO_KEYS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {  # by what is said of it
    "no access key and secret key.*role": ("aws", {}, {"role_arn": "arn:x"}),
    "access key": ("aws", LOGIN, {"aws_session_token": 5}),
    "HMAC": ("google_cloud_platform", {}, {"keyfile_dict": "{}"}),
    "account's key": ("wasb", {"login": "account"}, {}),
    "storage account's name": ("wasb", {"password": SECRET}, {}),
    "'postgres', not one of aws": ("postgres", LOGIN, {}),
}
ECHO = f"denied: <AWSAccessKeyId>{ACCESS}</AWSAccessKeyId>, {quote(SECRET, safe='')}, {SECRET}, {SESSION}"
#: Cut within a key by whoever shortens it.
LONG_ECHO = "x" * 488 + SECRET + "y" * 200


class TestStorage:
    WHAT: ClassVar = {"object_urls": ["s3://b/1.parquet"], "storage_conn_id": "store"}

    @pytest.fixture(autouse=True)
    def _monkeypatch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.setenv = monkeypatch.setenv

    def store(self, conn_type: str, fields: dict[str, Any], extra: dict[str, Any]) -> None:
        self.setenv("AIRFLOW_CONN_STORE", json.dumps({"conn_type": conn_type, **fields, "extra": extra}))

    @pytest.mark.parametrize("name", STORAGE)
    def test_keys(self, imports: ImportServer, name: str) -> None:
        # Airflow remembers what it masks: each case brings keys of its own.
        own = json.dumps(STORAGE[name])
        for key in (ACCESS, ACCESS.lower(), SECRET, SESSION):
            own = own.replace(key, f"{key}{list(STORAGE).index(name)}")
        self.store(*json.loads(own))
        Task()(**self.WHAT)
        body = imports.creates[0].json
        sent = [body["accessKey"], body["secretKey"], *([body["token"]] if "token" in body else [])]
        assert [key[:-1].lower() for key in sent] == [ACCESS.lower(), SECRET, *([SESSION] if name == "aws" else [])]
        assert not any(key in str(redact(f"it says {key}.")) for key in sent)

    @pytest.mark.parametrize("match", NO_KEYS)
    def test_no_keys(self, imports: ImportServer, match: str) -> None:
        self.store(*NO_KEYS[match])
        with pytest.raises(exceptions.ImportSettingInvalid, match=match) as caught:
            Task()(**self.WHAT)
        assert SECRET not in str(caught.value)
        assert not imports.server.asked

    def test_no_connection(self, imports: ImportServer) -> None:
        with pytest.raises(exceptions.ImportSettingInvalid, match="'nowhere' is not defined"):
            Task()(**{**self.WHAT, "storage_conn_id": "nowhere"})

    @both_modes
    @pytest.mark.parametrize("dialect", ["v1", "v2"])
    @pytest.mark.parametrize("echoed_by", ["job", "file", "error", "long error"])
    def test_keys_that_the_server_echoes_stay_secret(
        self, server: ScriptedServer, connect: Connect, told: Told, dialect: str, deferrable: bool, echoed_by: str
    ) -> None:
        connect({"api_version": dialect})
        self.store(*STORAGE["aws" if dialect == "v2" else "s3"])  # v1 takes no session token
        imports = ImportServer(server, dialect=dialect)
        imports.state = "Importing"
        progress = imports._describe if dialect == "v2" else imports._v1_get

        def echo(asked: Any) -> Answer:
            if "error" in echoed_by:
                return Answer({"code": 7, "message": LONG_ECHO if echoed_by == "long error" else ECHO})
            answer, reason = progress(asked), "reason" if dialect == "v2" else "errorMessage"
            data = answer.body["data"]
            (data if echoed_by == "job" else data["details"][0])[reason] = ECHO
            data["completeTime"] = "2026-01-01T00:00:00Z"
            if dialect == "v2":
                data["state"] = "Failed" if echoed_by == "job" else "Completed"
            return answer

        server.on(V2_DESCRIBE if dialect == "v2" else V1_GET, progress, echo)
        kept = Store()
        one = Task(deferrable, kept)
        with pytest.raises(AirflowException) as caught:
            one(**self.WHAT, outage_tolerance=0.01)
        seen = [str(caught.value), *map(repr, (vars(caught.value), one.ti.pushed, one.fired, kept.written)), told()]
        for secret in (ACCESS, SECRET, TOKEN_PASSWORD, *([SESSION] if dialect == "v2" else [])):
            assert not any(secret[:8] in text for text in seen), secret
        assert "***" in str(caught.value)
        assert bool(one.fired) is deferrable
        for kwargs, event in one.fired:
            assert kwargs["storage_conn_id"] == "store"
            assert "***" in event["message"]

    @pytest.mark.parametrize("echoed_by", ["reason", "error"])
    def test_where_the_keys_cannot_be_read_the_servers_words_are_kept_back(
        self, imports: ImportServer, echoed_by: str, told: Told
    ) -> None:
        job_id = imports.add([["a.parquet"]], "Failed", reason=ECHO)
        if echoed_by == "error":
            imports.server.on(V2_DESCRIBE, says(7, ECHO))
        policy = {"poke_interval": 0.01, "outage_tolerance": 0.02}
        event = fire(ImportProgressTrigger(job_id=job_id, storage_conn_id="store", **policy))
        assert event["verdict"] == ("job_failed" if echoed_by == "reason" else "unreachable")
        assert f"import job {job_id} is not shown" in event["message"]
        assert "connection 'store', which cannot be read" in event["message"]
        assert not any(secret in told() for secret in (ACCESS, SECRET))

    def test_a_trigger_names_a_storage_only_where_there_is_one(self) -> None:
        assert "storage_conn_id" not in ImportProgressTrigger(job_id="1").serialize()[1]

    @pytest.mark.parametrize("where", ["worker", "triggerer"])
    def test_a_refused_abort_echoes_no_key(self, imports: ImportServer, where: str, told: Told) -> None:
        self.store(*STORAGE["aws"])
        imports.server.on(V2_ABORT, says(7, ECHO))
        operator = Task().make(**self.WHAT, wait=False, **TWO_PHASE)
        operator.execute({"ti": TaskInstance()})
        if where == "worker":
            operator.on_kill()
        else:
            trigger = ImportProgressTrigger(job_id="1000", storage_conn_id="store", abort_on_kill=True)
            asyncio.run(trigger.on_kill())
        assert "was not aborted" in told()
        assert "denied: <AWSAccessKeyId>***" in told()
        assert not any(secret in told() for secret in (ACCESS, SECRET, SESSION))
