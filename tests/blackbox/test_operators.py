"""The operators, on the worker and deferred, against a server that keeps its jobs."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any, ClassVar
from urllib.parse import quote

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
    TaskDeferred,
)

from airflow_provider_importprog._blocking_client import BlockingClient
from airflow_provider_importprog._submission import STORE_KEY, Clock, default_key
from airflow_provider_importprog.exceptions import (
    ImportApiRefused,
    ImportApiUnauthorized,
    ImportApiUnreachable,
    ImportJobAmbiguous,
    ImportJobFailed,
    ImportJobUnknown,
    ImportSettingInvalid,
)
from airflow_provider_importprog.operators.import_job import (
    AbortImportJobOperator,
    CommitImportJobOperator,
    CreateImportJobOperator,
)
from airflow_provider_importprog.triggers.import_progress import ImportProgressTrigger
from tests.blackbox.driver import AIRFLOW_2, TOKEN_PASSWORD, Connect, FakeTaskInstance, fire
from tests.blackbox.imports import BrokenStore, ImportServer, Store
from tests.blackbox.server import (
    V1_GET,
    V2_ABORT,
    V2_COMMIT,
    V2_CREATE,
    V2_DESCRIBE,
    V2_LIST,
    Answer,
    ScriptedServer,
    dead_url,
)

FILES = ["a.parquet", "b/c.parquet"]
BEGAN = datetime.now(timezone.utc)
HTML = b"<html>Bad Gateway</html>"
DENIED = Answer({"code": 1401, "message": "permission deny"})


class Task:
    """One task instance over its tries, each in a new object, as Airflow makes one."""

    def __init__(self, deferrable: bool = False, store: Any = None, operator: Any = CreateImportJobOperator) -> None:
        self.slept: list[float] = []
        self.meanwhile: Callable[[], Any] = lambda: None
        self.operator = type(operator.__name__, (operator,), {"_clock": Clock(lambda: sum(self.slept), self.sleep)})
        self.deferrable = deferrable
        self.store = store
        self.try_number = 0
        self.fired: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self.run = SimpleNamespace(start_date=BEGAN, clear_number=0, run_after=BEGAN)
        self.ti = FakeTaskInstance()

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.meanwhile()

    def make(self, **kwargs: Any) -> Any:
        if issubclass(self.operator, CreateImportJobOperator):
            kwargs = {"collection_name": "books", "files": FILES, **kwargs}
        if not issubclass(self.operator, AbortImportJobOperator):
            quick = {"poke_interval": 0.02, "timeout": 5, "unknown_job_grace": 0, "outage_tolerance": 0}
            kwargs = {"deferrable": self.deferrable, **quick, **kwargs}
        return self.operator(**{"task_id": "create", **kwargs})

    def __call__(self, **kwargs: Any) -> Any:
        self.try_number += 1
        self.ti = FakeTaskInstance()
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

    def killed(self, **kwargs: Any) -> None:
        """A try that ends as by SIGKILL when the server has taken the request."""
        send = BlockingClient.send

        def die(client: BlockingClient, request: Any) -> Any:
            response = send(client, request)
            if request.target.endswith(("/import/create", "/collections/import")):
                raise SystemExit
            return response

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(BlockingClient, "send", die)
            with pytest.raises(SystemExit):
                self(**kwargs)


class Told:
    """What was logged meanwhile: Airflow 3's operators write to the standard output, and all else to logging."""

    def __init__(self, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
        self._caplog, self._capsys = caplog, capsys
        self._out = ""

    def __enter__(self) -> None:
        self._caplog.set_level(logging.INFO)

    def __exit__(self, *_: object) -> None:
        pass

    def __contains__(self, words: str) -> bool:
        self._out += self._capsys.readouterr().out
        return words in self._out or words in self._caplog.text


def current_context(context: dict[str, Any]) -> Any:
    if AIRFLOW_2:
        from airflow.models.taskinstance import set_current_context
    else:
        from airflow.sdk.execution_time.context import set_current_context
    return set_current_context(context)


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> Told:
    return Told(caplog, capsys)


@pytest.fixture(params=["store", "broken store", "no store"])
def store(request: pytest.FixtureRequest) -> Any:
    return {"store": Store, "broken store": BrokenStore, "no store": lambda: None}[request.param]()


@pytest.fixture(params=[True, False], ids=["with the header", "without the header"])
def imports(request: pytest.FixtureRequest, server: ScriptedServer, connect: Connect) -> ImportServer:
    return ImportServer(server, honours_key=request.param)


@pytest.mark.parametrize("deferrable", [False, True])
class TestCreateAndWait:
    def test_it_is_the_gate(self, imports: ImportServer, deferrable: bool) -> None:
        imports.state = "Importing"
        task = Task(deferrable)

        def advance(asked: Any) -> Answer:
            answer = imports._describe(asked)
            imports.end()
            return answer

        imports.server.on(V2_DESCRIBE, advance)
        files = task()
        assert [file["file_name"] for file in files] == ["[a.parquet]", "[b/c.parquet]"]
        assert task.ti.pushed["import_job"]["state"] == "completed"
        assert task.ti.pushed["job_id"] == "1000"
        assert len(imports.jobs) == 1

    def test_the_job_id_is_there_when_the_gate_fails(self, imports: ImportServer, deferrable: bool) -> None:
        imports.state = "Failed"
        task = Task(deferrable)
        with pytest.raises(ImportJobFailed):
            task()
        assert task.ti.pushed["job_id"] == "1000"
        assert len(imports.jobs) == 1

    def test_without_a_wait_it_returns_the_job_id(self, imports: ImportServer, deferrable: bool) -> None:
        imports.state = "Importing"
        task = Task(deferrable)
        assert task(wait=False) == task.ti.pushed["job_id"] == "1000"
        assert not imports.server.to(V2_DESCRIBE)

    def test_uncommitted(self, imports: ImportServer, deferrable: bool) -> None:
        imports.state = "Uncommitted"
        assert len(Task(deferrable)(auto_commit=False, wait_for="uncommitted")) == 2
        assert imports.creates[0].json["options"] == {"auto_commit": "false"}


def test_what_is_sent(imports: ImportServer, connect: Connect) -> None:
    connect({"db_name": "shop", "cluster_id": "c"})
    Task()(partition_name="p", options={"timeout": "300s"}, idempotency_key="mine", wait=False, cluster_id="d")
    (create,) = imports.creates
    assert create.json == {
        "collectionName": "books",
        "partitionName": "p",
        "dbName": "shop",
        "files": [["a.parquet"], ["b/c.parquet"]],
        "options": {"timeout": "300s"},
        "clusterId": "d",
    }
    assert create.header("Idempotency-Key") == "mine"
    assert [asked.path for asked in imports.server.asked if asked.path.startswith("/v2")] == [V2_LIST, V2_CREATE]


def test_the_other_sources(imports: ImportServer) -> None:
    Task()(files=None, object_urls=["s3://b/1.parquet", ["s3://b/i.npy", "s3://b/v.npy"]])
    Task()(files=None, volume_name="v", data_paths=["1.parquet"], idempotency_key="other")
    first, second = imports.creates
    assert first.json["objectUrls"] == [["s3://b/1.parquet"], ["s3://b/i.npy", "s3://b/v.npy"]]
    assert (second.json["volumeName"], second.json["dataPaths"]) == ("v", [["1.parquet"]])


class TestV1:
    @pytest.fixture(autouse=True)
    def _v1(self, server: ScriptedServer, connect: Connect) -> None:
        connect({"api_version": "v1"})
        self.imports = ImportServer(server, dialect="v1")

    @pytest.mark.parametrize("deferrable", [False, True])
    def test_one_object(self, deferrable: bool) -> None:
        task = Task(deferrable)
        assert len(task(files=None, object_urls=["https://bucket.s3.amazonaws.com/1af7/1.parquet"])) == 1
        assert self.imports.keys_sent == [None]
        assert task.ti.pushed["job_id"] == "1000"

    def test_several_are_refused_and_told_of_v2(self) -> None:
        with pytest.raises(ImportApiRefused, match=r"exactly one object URL.* v2"):
            Task()(files=None, object_urls=["s3://b/1", "s3://b/2"])
        assert not self.imports.creates

    @pytest.mark.parametrize("kept", [True, False])
    def test_a_lost_worker(self, kept: bool) -> None:
        self.imports.rename = lambda path: path.removeprefix("https://bucket.s3.amazonaws.com/")
        task = Task(store=Store() if kept else None)
        what = {"files": None, "object_urls": ["https://bucket.s3.amazonaws.com/1af7/1.parquet"]}
        task.killed(**what)
        assert task(wait=False, **what) == "1000"
        assert len(self.imports.jobs) == 1

    @pytest.mark.parametrize("operator", [CommitImportJobOperator, AbortImportJobOperator])
    def test_no_two_phase(self, operator: Any) -> None:
        with pytest.raises(ImportApiRefused, match=r"Milvus 3\.0 or later"):
            Task(operator=operator)(job_id="1000")


class TestRetry:
    """What a later try, or a cleared task, makes of the job of an earlier one."""

    @pytest.mark.parametrize("state", ["Pending", "Importing", "Uncommitted", "Committing", "Completed"])
    @pytest.mark.parametrize("known", [False, True], ids=["before the answer", "after the answer"])
    def test_a_lost_worker(self, imports: ImportServer, store: Any, state: str, known: bool, told: Told) -> None:
        imports.state = state
        task = Task(deferrable=known, store=store)
        task(wait=False) if known else task.killed()
        with told:
            assert task(wait=False) == "1000"
        assert ("import the same again, start a new DAG run" in told) is (state == "Completed")
        imports.end()
        assert len(task()) == 2
        assert "1000 was submitted before" in told
        assert len(imports.jobs) == 1

    def test_a_refused_request(self, imports: ImportServer, store: Any) -> None:
        task = Task(store=store)
        imports.server.on(V2_CREATE, Answer({"code": 1802, "message": "missing"}))
        with pytest.raises(ImportApiRefused, match="missing"):
            task()
        imports.server.on(V2_CREATE, imports._create)
        assert len(task()) == 2
        assert len(imports.jobs) == 1

    def test_a_failed_job_is_submitted_anew_each_time(self, imports: ImportServer, store: Any) -> None:
        task = Task(store=store)
        imports.state = "Failed"
        for number in (1, 2, 3):
            with pytest.raises(ImportJobFailed):
                task()
            assert len(imports.jobs) == number
        imports.state = "Completed"
        task.killed(files=["other.parquet"])
        assert {task(wait=False, files=["other.parquet"]) for _ in range(2)} == {"1003"}
        assert len(set(imports.keys)) == (4 if imports.honours_key else 1)

    @pytest.mark.parametrize("kept", [True, False])
    def test_a_job_whose_record_expired(self, imports: ImportServer, kept: bool) -> None:
        task = Task(store=Store() if kept else None)
        task(wait=False)
        imports.jobs.clear()
        if kept or imports.honours_key:
            with pytest.raises(ImportJobUnknown):
                task()
        else:  # nobody knows of it any more
            assert task()

    def test_every_run_and_map_index_has_its_own(self, imports: ImportServer) -> None:
        for run_id, map_index in (("r", -1), ("r", 0), ("s" * 500 + "é\n", -1)):
            ti = FakeTaskInstance()
            ti.run_id, ti.map_index = run_id, map_index
            Task().make(wait=False).execute({"ti": ti})
        assert len(imports.jobs) == len(set(imports.keys_sent)) == 3
        assert all(key and key.isascii() and key.isprintable() and len(key) == 72 for key in imports.keys_sent)

    def test_other_files(self, imports: ImportServer, store: Any) -> None:
        task = Task(store=store)
        task(wait=False, files=["b", "a", ["v", "id"]])
        assert task(wait=False, files=[["id", "v"], "a", "b"]) == "1000"  # in another order they are the same
        if isinstance(store, Store) or imports.honours_key:
            with pytest.raises(ImportSettingInvalid, match=r"1000.*other files.*idempotency_key"):
                task(files=["d.parquet"])
            assert len(imports.jobs) == 1
            assert task(files=["d.parquet"], idempotency_key="again", wait=False) == "1001"
        assert task(files=["d.parquet"], idempotency_key="again", wait=False) == "1001"

    def test_a_new_key_imports_again(self, imports: ImportServer) -> None:
        task = Task(store=Store())
        assert [task(wait=False, idempotency_key=key) for key in ("one", "one", "two")] == ["1000", "1000", "1001"]

    @pytest.mark.parametrize(
        ("kept", "found"),
        [
            ({"job_id": "1000"}, "1000"),
            ({"job_id": "1001"}, "1003"),
            ({"submitting": True, "known_before": ["1000", "1001"]}, "1002"),
            ({"submitting": True, "known_before": ["1000", "1001", "1002"]}, "1003"),
        ],
    )
    def test_what_release_0_1_0_wrote_is_read(self, imports: ImportServer, kept: dict[str, Any], found: str) -> None:
        for state in ("Completed", "Failed", "Completed"):
            imports.add([[path] for path in FILES], state)
        task = Task(store=Store())
        old = {"key": default_key("d", "r", "create", -1), "request": "0" * 64, "job_id": None, "submitting": False}
        task.store.set(STORE_KEY, {**old, "known_before": None, **kept, "of_a_later_release": 1})
        assert task(wait=False) == found

    @pytest.mark.parametrize("moved", ["host", "db_name"])
    def test_a_connection_that_moved(
        self, imports: ImportServer, connect: Connect, other_server: ScriptedServer, moved: str
    ) -> None:
        task = Task(store=Store())
        there = imports
        task(wait=False)
        if moved == "host":
            there = ImportServer(other_server)
            connect(host=other_server.url)
        else:
            connect({"db_name": "other"})
        task(wait=False)
        assert task(wait=False) == ("1000" if moved == "host" else "1001")
        assert len(there.creates) == (1 if moved == "host" else 3 if imports.honours_key else 2)

    @pytest.mark.parametrize("failure", [Answer(HTML, 500), Answer({"code": 1401, "message": "permission deny"})])
    def test_a_server_that_cannot_be_asked_is_not_sent_a_second(
        self, imports: ImportServer, store: Any, failure: Answer
    ) -> None:
        task = Task(store=store)
        task.killed()
        imports.server.on(V2_LIST, failure).on(V2_DESCRIBE, failure)
        with pytest.raises((ImportApiUnreachable, ImportApiUnauthorized)):
            task()
        assert len(imports.creates) == 1


class TestAJobFromBeforeTheRun:
    """A run that was deleted and made again under its run id, or a key that two runs share."""

    @pytest.fixture(params=["said", "honoured", "ignored"])
    def keys(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    @pytest.fixture
    def imports(self, server: ScriptedServer, connect: Connect, keys: str) -> ImportServer:
        connect({"idempotency_keys": keys == "said"})
        return ImportServer(server, honours_key=keys != "ignored")

    @pytest.mark.parametrize("state", ["Pending", "Completed", "Failed"])
    def test_it_is_not_the_runs(self, imports: ImportServer, store: Any, state: str) -> None:
        imports.state = state
        for number in range(3):
            task = Task(store=Store() if isinstance(store, Store) else store)
            assert task(wait=False) == f"{1000 + number}"
        imports.state = "Importing"
        killed = Task(store=store if isinstance(store, Store) else Store())
        killed.killed()
        assert killed(wait=False) == killed(wait=False) == "1003"
        assert len(imports.jobs) == 4

    def test_without_a_record_it_takes_ten_minutes_to_tell(self, imports: ImportServer) -> None:
        imports.ends_at = BEGAN - timedelta(minutes=11)
        assert Task()(wait=False) == "1000"
        imports.ends_at = BEGAN - timedelta(minutes=9)
        again = Task()
        again.killed()
        assert again(wait=False) == again(wait=False) == "1001"
        assert len(imports.jobs) == 2

    @pytest.mark.parametrize("due", [11, 9])
    def test_a_run_that_was_cleared_began_when_it_was_due(self, imports: ImportServer, due: int) -> None:
        imports.ends_at = BEGAN
        task = Task()
        task(wait=False)
        task.run.clear_number, task.run.run_after = 1, BEGAN + timedelta(minutes=due)
        task.run.start_date = BEGAN + timedelta(days=1)
        assert task(wait=False) == ("1000" if due == 9 else "1001")

    def test_without_a_list(self, imports: ImportServer, store: Any, keys: str) -> None:
        imports.server.on(V2_LIST, DENIED)
        imports.state = "Importing"
        assert Task()(wait=False) == "1000"
        imports.end()
        again = Task(store=store)
        if keys == "said" and not isinstance(store, Store):
            # Only the usual key can be found again, and its job is not known to be new.
            with pytest.raises(ImportJobAmbiguous, match=r"1000 \(completed, ended at .*\) may be it"):
                again()
            imports.keys.clear()
            assert Task(store=store)(wait=False) == "1001"
            return
        assert again(wait=False) == "1001"
        if isinstance(store, Store):
            assert again(wait=False) == "1001"
            again.killed(idempotency_key="x")
            if keys == "said":
                assert again(wait=False, idempotency_key="x") == "1002"


class TestProof:
    """A second try without a record: which job it adopts, and when it submits none."""

    @staticmethod
    def second_try(began: datetime | None = BEGAN, **kwargs: Any) -> Any:
        task = Task()
        task.try_number, task.run.start_date = 1, began  # type: ignore[assignment]
        return task(wait=False, **kwargs)

    URL = "s3://bucket/a/b%20c.parquet?sig=1"

    @pytest.mark.parametrize(
        ("shown", "how", "found"),
        [
            (["a/b c.parquet"], {}, "adopted"),
            (["bucket/a/b c.parquet"], {}, "adopted"),
            (["a/b c.parquet"], {"auto_commit": False}, "adopted"),
            (["a/b c.parquet"], {"partition_name": "p"}, "ambiguous"),
            (["a/b c.parquet"], {"options": {"timeout": "300s"}}, "ambiguous"),
            (["b c.parquet"], {}, "ambiguous"),
            ([""], {}, "ambiguous"),
            (["a/other.parquet"], {}, "submitted"),
            (["a/other.parquet"], {"partition_name": "p"}, "submitted"),
            (["a/b c.parquet"], {"collection_name": "shelves"}, "submitted"),
        ],
    )
    def test_files(self, imports: ImportServer, shown: list[str], how: dict[str, Any], found: str) -> None:
        imports.add([shown], "Importing")
        what = {"files": None, "object_urls": [self.URL], **how}
        if found == "ambiguous":
            with pytest.raises(ImportJobAmbiguous, match="1000"):
                self.second_try(**what)
        else:
            assert self.second_try(**what) == ("1000" if found == "adopted" else "1001")
        assert len(imports.creates) == (found == "submitted")

    def test_several(self, imports: ImportServer) -> None:
        for state in ("Importing", "Completed", "Failed"):
            imports.add([[path] for path in FILES], state)
        ended_at = re.escape(imports.ends_at.isoformat(timespec="seconds"))
        ended = rf"1001 \(completed, ended at {ended_at}\), 1000 \(importing\) may be it"
        with pytest.raises(
            ImportJobAmbiguous, match=f"{ended}.*ImportProgressSensor.*new DAG run.*idempotency_key"
        ) as e:
            self.second_try()
        assert isinstance(e.value, AirflowFailException)
        assert not imports.creates

    @pytest.mark.parametrize(
        ("minutes", "began", "found"),
        [(11, BEGAN, "1001"), (9, BEGAN, "1000"), (-9, BEGAN, "1000"), (11, None, "1000")],
    )
    def test_times(self, imports: ImportServer, minutes: int, began: datetime | None, found: str) -> None:
        imports.ends_at = BEGAN - timedelta(minutes=minutes)
        imports.add([[path] for path in FILES])
        assert self.second_try(began) == found

    def test_files_that_show_later(self, imports: ImportServer) -> None:
        imports.add([[path] for path in FILES], "Pending", hidden=2)
        assert self.second_try() == "1000"

    def test_files_that_never_show(self, imports: ImportServer) -> None:
        imports.add([[path] for path in FILES], "Pending", hidden=9)
        with pytest.raises(ImportApiUnreachable, match="1000 may be the one"):
            self.second_try()
        assert not imports.creates

    def test_very_many_jobs(self, imports: ImportServer, told: Told) -> None:
        for number in range(150):
            imports.add([[f"{number}.parquet"]], "Importing")
        with told:
            assert self.second_try(files=["149.parquet"]) == "1149"
        assert "150 import jobs" in told
        assert len(imports.server.to(V2_DESCRIBE)) == 100

    def test_a_job_that_is_listed_and_gone(self, imports: ImportServer) -> None:
        imports.add([[path] for path in FILES], "Importing")
        imports.server.on(V2_DESCRIBE, Answer({"code": 2100, "message": "import job does not exist"}))
        assert self.second_try() == "1001"


class TestWithoutAList:
    """A server, or a role, that does not list jobs. More of it under the keys that the server honours."""

    @pytest.fixture(autouse=True)
    def _refused(self, imports: ImportServer) -> None:
        imports.server.on(V2_LIST, DENIED)

    def test_the_record_is_enough(self, imports: ImportServer) -> None:
        task = Task(store=Store())
        imports.state = "Failed"
        assert [task(wait=False) for _ in range(3)] == ["1000", "1001", "1002"]
        imports.state = "Importing"
        assert task(wait=False) == task(wait=False) == "1003"

    def test_a_lost_answer_is_told(self, imports: ImportServer) -> None:
        imports.lose = lambda job_id: Answer(how="close")
        with pytest.raises(ImportApiUnreachable, match=r"submitted all the same.*was not found: .*permission deny"):
            Task()()
        assert len(imports.creates) == 1

    def test_a_server_that_answers_with_the_same_failed_job(self, imports: ImportServer) -> None:
        task = Task(store=Store())
        imports.state = "Failed"
        task(wait=False)
        imports.server.on(V2_CREATE, Answer({"code": 0, "data": {"jobId": "1000"}}))
        with pytest.raises(ImportApiRefused, match="import job 1000"):
            task()


class TestALostAnswer:
    LOST: ClassVar = {
        "cut off": Answer(how="close"),
        "reset": Answer(how="reset"),
        "half": Answer({"code": 0, "data": {"jobId": "1000"}}, how="cut"),
        "502": Answer(HTML, 502),
        "500": Answer(HTML, 500),
        "a page": Answer(HTML),
        "late": Answer({"code": 0}, delay=1),
        "408": Answer({"code": 10001, "message": "request timeout"}, 408),
        **{str(code): Answer({"code": code, "message": "context done"}) for code in (2, 10000, 10001, 65535)},
    }

    @pytest.mark.parametrize("lost", LOST)
    def test_its_job_is_found(self, imports: ImportServer, connect: Connect, lost: str, told: Told) -> None:
        connect({"timeout": 0.3})
        imports.add([[path] for path in FILES])  # somebody else's, from before
        imports.ends_at = BEGAN - timedelta(hours=1)  # by a clock that is wrong: the list says what is new
        imports.lose = lambda job_id: self.LOST[lost]
        task = Task(store=Store())
        with told:
            assert len(task()) == 2
        assert task.ti.pushed["job_id"] == "1001"
        assert len(imports.creates) == 1
        assert "no good answer came" in told

    def test_a_job_that_comes_while_it_is_searched_for(self, imports: ImportServer) -> None:
        imports.server.on(V2_CREATE, Answer(how="close"))
        task = Task()
        task.meanwhile = lambda: len(task.slept) == 3 and imports.add([[path] for path in FILES])
        assert len(task()) == 2
        assert len(imports.creates) == 1

    @pytest.mark.parametrize("kept", [True, False])
    def test_a_job_that_comes_later(self, imports: ImportServer, kept: bool) -> None:
        task = Task(store=Store() if kept else None)
        for answer in (Answer(how="close"), Answer(HTML, 503)):  # nor is it forgotten when one was not taken since
            imports.server.on(V2_CREATE, answer)
            with pytest.raises(ImportApiUnreachable):
                task()
        imports.server.on(V2_CREATE, imports._create)
        task.meanwhile = lambda: imports.jobs or imports.add([[path] for path in FILES])
        if not kept:  # without a record a later try does not know that one is expected
            task.meanwhile()
        assert task(wait=False) == "1000"
        assert len(imports.creates) == 2

    def test_a_request_that_never_arrived(self, imports: ImportServer, store: Any) -> None:
        task = Task(store=store)
        imports.server.on(V2_CREATE, Answer(how="close"))
        with pytest.raises(ImportApiUnreachable, match="the next try of this task searches for it") as caught:
            task()
        assert caught.value.in_doubt
        imports.server.on(V2_CREATE, imports._create)
        assert task(wait=False) == "1000"

    def test_nobody_listens(self, connect: Connect) -> None:
        connect(host=dead_url())
        with pytest.raises(ImportApiUnreachable, match="cannot be reached") as caught:
            Task()()
        assert not caught.value.in_doubt

    def test_several_new_ones(self, imports: ImportServer) -> None:
        def lose(job_id: str) -> Answer:
            imports.add([[path] for path in FILES])
            return Answer(how="close")

        imports.lose = lose
        with pytest.raises(ImportJobAmbiguous):
            Task()()


class TestKeysThatTheServerHonours:
    """The connection says so: nothing needs to be searched for."""

    @pytest.fixture
    def imports(self, server: ScriptedServer, connect: Connect) -> ImportServer:
        connect({"idempotency_keys": True})
        return ImportServer(server)

    def test_they_tell_runs_with_the_same_files_apart(self, imports: ImportServer, store: Any) -> None:
        # Milvus lists a job's files only once it imports, however long it queues.
        imports.state = "Pending"
        runs = {run_id: Task(store=Store() if isinstance(store, Store) else store) for run_id in ("run-1", "run-2")}
        for run_id, task in runs.items():
            task.killed(idempotency_key=run_id)
        imports.jobs["1000"]["hidden"] = 99
        assert [task(idempotency_key=run_id, wait=False) for run_id, task in runs.items()] == ["1000", "1001"]
        assert len(imports.jobs) == 2

    def test_they_need_no_list(self, imports: ImportServer, store: Any, told: Told) -> None:
        imports.server.on(V2_LIST, DENIED)
        imports.state = "Importing"
        task = Task(store=store)
        task.killed()
        with told:
            assert task(wait=False) == task(wait=False) == "1000"
        assert "permission deny" not in told

    def test_a_failed_job_is_submitted_anew_each_time(self, imports: ImportServer, store: Any) -> None:
        imports.server.on(V2_LIST, DENIED)
        imports.state = "Failed"
        task = Task(store=store)
        assert [task(wait=False) for _ in range(3)] == ["1000", "1001", "1002"]
        imports.state = "Completed"
        task.killed()
        assert task(wait=False) == task(wait=False) == "1003"
        assert len(set(imports.keys)) == 4

    @pytest.mark.parametrize("lost", TestALostAnswer.LOST)
    def test_a_lost_answer(self, imports: ImportServer, connect: Connect, lost: str, told: Told) -> None:
        connect({"timeout": 0.3, "idempotency_keys": "true"})
        answers = [TestALostAnswer.LOST[lost], Answer(HTML, 503), None]
        imports.lose = lambda job_id: answers.pop(0)
        with told:
            assert Task(store=Store())(wait=False) == "1000"
        assert "again under the same key" in told
        assert len(imports.creates) == 3
        assert len(imports.jobs) == len(set(imports.keys_sent)) == 1
        assert not imports.server.to(V2_DESCRIBE)

    def test_answers_that_are_lost_again_and_again(self, imports: ImportServer, store: Any) -> None:
        imports.lose = lambda job_id: Answer(how="close")
        task = Task(store=store)
        with pytest.raises(ImportApiUnreachable, match="makes no second one") as caught:
            task()
        assert caught.value.in_doubt
        assert task.slept == [1, 2, 4, 8]
        imports.lose = lambda job_id: None
        assert task(wait=False) == "1000"
        assert len(imports.jobs) == 1


BUSY = Answer({"code": 8, "message": "too many"}, 429)
VERBS: dict[Any, tuple[str, str]] = {
    CreateImportJobOperator: (V2_CREATE, "_create"),
    CommitImportJobOperator: (V2_COMMIT, "_commit"),
    AbortImportJobOperator: (V2_ABORT, "_abort"),
}


@pytest.mark.parametrize("operator", VERBS)
class TestNothingDone:
    """The server says that it did nothing."""

    @pytest.fixture
    def how(self, imports: ImportServer, operator: Any) -> dict[str, Any]:
        job_id = imports.add([["a.parquet"]], "Uncommitted")
        own = {} if operator is CreateImportJobOperator else {"job_id": job_id}
        return {"outage_tolerance": 900, **own}

    def test_it_is_asked_again(self, imports: ImportServer, operator: Any, how: dict[str, Any]) -> None:
        path, handler = VERBS[operator]
        busy = [Answer(BUSY.body, 429, {"Retry-After": "77"}), Answer(HTML, 503, {"Retry-After": "60"}), BUSY]
        busy += [Answer({"code": code, "message": "slow"}) for code in (4, 9, 1807)]
        if operator is CreateImportJobOperator:
            busy += [Answer({"code": 2101, "message": "The number of jobs has reached the limit, please try again"})]
        imports.server.on(path, *busy, getattr(imports, handler))
        task = Task(operator=operator)
        task(**how)
        assert task.slept[:2] == [77, 60]
        assert 4 <= task.slept[2] <= 5
        assert len(imports.server.to(path)) == len(task.slept) + 1 == len(busy) + 1

    def test_not_for_ever(self, imports: ImportServer, operator: Any, how: dict[str, Any]) -> None:
        last = Answer({"code": 8, "message": "the last"}, 429, {"Retry-After": "500"})
        imports.server.on(VERBS[operator][0], last)
        for tolerance, slept in ((900, [500, 400]), (timedelta(0), [])):
            task = Task(operator=operator)
            with pytest.raises(ImportApiUnreachable, match="the last"):
                task(**{**how, "outage_tolerance": tolerance})
            assert task.slept == slept


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"files": None}, "one source.*none"),
        ({"files": []}, "files must be a list .*not empty"),
        ({"files": "a.parquet"}, "files must be a list"),
        ({"files": [[]]}, "files holds"),
        ({"files": ["a", ""]}, "files holds ''"),
        ({"object_urls": ["s3://b/1"]}, "files and object_urls"),
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
        ({"wait_for": "done"}, "wait_for"),
        # What is told of one parameter does not wait for another's template.
        ({"collection_name": "{{ params.c }}", "files": []}, "files must be a list"),
    ],
)
def test_bad_input_is_refused_when_the_dag_is_read(kwargs: dict[str, Any], match: str) -> None:
    with pytest.raises(ImportSettingInvalid, match=match):
        Task().make(**kwargs)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("files", "['a.parquet']"),
        ("files", []),
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
    with pytest.raises(ImportSettingInvalid, match=name):
        operator.execute({"ti": FakeTaskInstance()})
    assert not imports.server.asked


def test_what_rendering_made_of_text(imports: ImportServer) -> None:
    operator = Task().make(
        **dict.fromkeys(("collection_name", "partition_name", "idempotency_key", "cluster_id"), "{{ params.x }}"),
        wait=False,
    )
    operator.collection_name, operator.files, operator.options = 7, [8, ["9", 10]], {"timeout": 300}
    operator.partition_name, operator.idempotency_key, operator.cluster_id = "", "None", " "
    operator.importprog_conn_id = "importprog_default "
    operator.execute({"ti": FakeTaskInstance()})
    assert imports.creates[0].json == {
        "collectionName": "7",
        "files": [["8"], ["9", "10"]],
        "options": {"timeout": "300"},
    }
    assert (imports.keys_sent[0] or "").startswith("airflow-")


@pytest.mark.parametrize("operator", [CreateImportJobOperator, CommitImportJobOperator])
def test_what_will_happen_in_reschedule_mode_decides(imports: ImportServer, operator: Any) -> None:
    how = {"mode": "reschedule", **({"job_id": "1000"} if operator is CommitImportJobOperator else {})}
    for harmless in ({"deferrable": True}, {"wait": False}):
        Task(operator=operator).make(**how, **harmless)
    changed = Task(operator=operator).make(**{**how, "mode": "poke"})
    changed.mode = "reschedule"  # as a policy does, or an executor for debugging
    with pytest.raises(ImportSettingInvalid, match="deferrable=True"):
        changed.execute({"ti": FakeTaskInstance()})
    assert not imports.server.asked


@pytest.mark.parametrize("rendered", [{"auto_commit": "true"}, {"auto_commit": "false"}])
def test_what_options_render_to_decides_whether_the_job_can_be_aborted(
    imports: ImportServer, rendered: dict[str, str]
) -> None:
    operator = Task().make(abort_on_kill=True, options="{{ params.x }}", wait=False)
    operator.options = rendered
    if rendered["auto_commit"] == "false":
        assert operator.execute({"ti": FakeTaskInstance()}) == "1000"
    else:
        with pytest.raises(ImportSettingInvalid, match="abort_on_kill"):
            operator.execute({"ti": FakeTaskInstance()})


def test_a_connection_that_is_wrong_is_told_at_once(imports: ImportServer, connect: Connect, told: Told) -> None:
    connect(host="ftp://x")
    with told, pytest.raises(ImportSettingInvalid, match="host"):
        Task(store=Store())()
    assert "lost answer" not in told


def test_templates_and_outputs_pass_until_the_task_runs() -> None:
    from airflow.providers.common.compat.sdk import DAG, task

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
    from airflow.providers.common.compat.sdk import DAG

    names = CreateImportJobOperator.template_fields
    assert "storage_conn_id" not in names
    with DAG("d", schedule=None, start_date=BEGAN):
        operator = Task().make(
            wait=False,
            collection_name="{{ x }}-books",
            files=["{{ x }}.parquet", ["{{ x }}/id.npy", "{{ x }}/v.npy"]],
            options={"timeout": "{{ x }}s"},
            idempotency_key="{{ x }}",
        )
    operator.render_template_fields({"x": "7"})
    operator.execute({"ti": FakeTaskInstance()})
    (create,) = imports.creates
    assert create.json["collectionName"] == "7-books"
    assert create.json["files"] == [["7.parquet"], ["7/id.npy", "7/v.npy"]]
    assert create.json["options"] == {"timeout": "7s"}
    assert create.header("Idempotency-Key") == "7"


@pytest.mark.parametrize("deferrable", [False, True])
class TestCommit:
    @pytest.mark.parametrize("state", ["Uncommitted", "Committing", "Completed"])
    def test_done_already_counts_as_done(self, imports: ImportServer, deferrable: bool, state: str) -> None:
        job_id = imports.add([["a.parquet"]], state)

        def finish(asked: Any) -> Answer:
            answer = imports._describe(asked)
            imports.end()
            return answer

        imports.server.on(V2_DESCRIBE, finish)
        task = Task(deferrable, operator=CommitImportJobOperator)
        assert len(task(job_id=job_id)) == 1
        assert len(task(job_id=job_id)) == 1
        assert task.ti.pushed["import_job"]["state"] == "completed"

    def test_without_a_wait(self, imports: ImportServer, deferrable: bool) -> None:
        job_id = imports.add([["a.parquet"]], "Uncommitted")
        assert Task(deferrable, operator=CommitImportJobOperator)(job_id=job_id, wait=False) == job_id
        assert imports.jobs[job_id]["state"] == "Completed"

    @pytest.mark.parametrize(
        ("state", "advice"), [("Importing", "Wait until it is uncommitted"), ("Failed", "import again")]
    )
    def test_refused(self, imports: ImportServer, deferrable: bool, state: str, advice: str) -> None:
        job_id = imports.add([["a.parquet"]], state)
        with pytest.raises(ImportApiRefused, match=f"cannot commit.*1000 is {state.lower()}.*{advice}"):
            Task(deferrable, operator=CommitImportJobOperator)(job_id=job_id)

    def test_bad_input(self, imports: ImportServer, deferrable: bool) -> None:
        with pytest.raises(ImportSettingInvalid, match="job_id"):
            Task(deferrable, operator=CommitImportJobOperator)(job_id="None")


class TestAbort:
    @pytest.mark.parametrize("state", ["Uncommitted", "Failed"])
    def test_done_already_counts_as_done(self, imports: ImportServer, state: str, told: Told) -> None:
        job_id = imports.add([["a.parquet"]], state)
        task = Task(operator=AbortImportJobOperator)
        with told:
            assert task(job_id=job_id) == task(job_id=f" {job_id} ") == job_id
        assert imports.jobs[job_id]["state"] == "Failed"
        assert f"Import job {job_id} is aborted, and its rows are dropped. It was {state.lower()}" in told

    def test_refused(self, imports: ImportServer) -> None:
        job_id = imports.add([["a.parquet"]], "Completed")
        with pytest.raises(ImportApiRefused, match=r"1000 is completed.*delete them"):
            Task(operator=AbortImportJobOperator)(job_id=job_id)

    def test_one_whose_record_is_gone_at_once(self, imports: ImportServer) -> None:
        job_id = imports.add([["a.parquet"]], "Uncommitted")
        imports.server.on(V2_DESCRIBE, Answer({"code": 2100, "message": "import job does not exist"}))
        assert Task(operator=AbortImportJobOperator)(job_id=job_id) == job_id


class TestKilled:
    ABORT: ClassVar = {"auto_commit": False, "wait_for": "uncommitted", "abort_on_kill": True}

    @pytest.mark.parametrize("abort", [False, True])
    @pytest.mark.parametrize("new", [False, True], ids=["the same object", "a new object"])
    def test_on_the_worker(self, imports: ImportServer, abort: bool, new: bool, told: Told) -> None:
        imports.state = "Uncommitted"
        ti = FakeTaskInstance()
        ti.xcom_pull = lambda **_: ti.pushed["job_id"]  # type: ignore[attr-defined]
        how = self.ABORT if abort else {}
        operator = Task().make(wait=False, **how)
        operator.execute({"ti": ti})
        killed = Task().make(wait=False, **how) if new else operator  # as at the end of a deferral on Airflow 2
        with told, current_context({"ti": ti}):
            killed.on_kill()
        assert imports.jobs["1000"]["state"] == ("Failed" if abort else "Uncommitted")
        assert ("1000 is aborted" if abort else "1000 goes on") in told

    def test_where_there_is_no_job(self, imports: ImportServer, told: Told) -> None:
        ti = FakeTaskInstance()
        ti.xcom_pull = lambda **_: None  # type: ignore[attr-defined]
        with told, current_context({"ti": ti}):
            Task().make(**self.ABORT).on_kill()
            assert "The task was ended" not in told
            operator = Task().make(**self.ABORT)
            imports.lose = lambda job_id: operator.on_kill()
            operator.execute({"ti": ti})
            assert "while it submitted its import, which may go on" in told
        assert not imports.server.to(V2_ABORT)

    def test_where_it_is_not_aborted(self, imports: ImportServer, told: Told) -> None:
        operator = Task().make(wait=False, **self.ABORT)
        operator.execute({"ti": FakeTaskInstance()})
        imports.server.on(V2_ABORT, Answer(HTML, 503))
        with told:
            operator.on_kill()
            assert "1000 was not aborted" in told
            Task().make(**self.ABORT).on_kill()  # outside of a task
            assert "its import job was not aborted" in told

    @pytest.mark.parametrize("abort", [False, True])
    def test_in_the_triggerer(self, imports: ImportServer, abort: bool, told: Told) -> None:
        imports.state = "Uncommitted"
        operator = Task(deferrable=True).make(auto_commit=False, abort_on_kill=abort)
        with pytest.raises(TaskDeferred) as deferred:
            operator.execute({"ti": FakeTaskInstance()})
        path, kwargs = deferred.value.trigger.serialize()
        assert ("abort_on_kill" in kwargs) is abort
        again = ImportProgressTrigger(**json.loads(json.dumps(kwargs)))
        assert again.serialize() == (path, kwargs)
        with told:
            asyncio.run(again.on_kill())
        assert imports.jobs["1000"]["state"] == ("Failed" if abort else "Uncommitted")
        if abort:
            imports.jobs["1000"]["state"] = "Completed"
            asyncio.run(again.on_kill())
            assert "was not aborted" in told

    def test_a_deferral_that_times_out(self, imports: ImportServer) -> None:
        imports.state = "Importing"
        ti = FakeTaskInstance()
        ti.xcom_pull = lambda **_: ti.pushed["job_id"]  # type: ignore[attr-defined]
        with pytest.raises(TaskDeferred) as deferred:
            Task().make(deferrable=True).execute({"ti": ti})
        assert deferred.value.timeout <= timedelta(seconds=5)
        with pytest.raises(AirflowSensorTimeout, match="Import job 1000 was not completed"):
            Task().make(deferrable=True).resume_execution("__fail__", {"error": "Trigger timeout"}, {"ti": ti})


class TestStorage:
    ACCESS, SECRET, SESSION = "AKIA-access-1", "secret-key-22", "session-token-333"

    @pytest.fixture
    def storage(self, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
        def set_it(**fields: Any) -> None:
            monkeypatch.setenv("AIRFLOW_CONN_STORE", json.dumps(fields))

        return set_it

    KEPT: ClassVar = {
        "aws": {"conn_type": "aws", "login": ACCESS, "password": SECRET, "extra": {"aws_session_token": SESSION}},
        "aws in extra": {
            "conn_type": "aws",
            "extra": {
                "aws_access_key_id": ACCESS,
                "aws_secret_access_key": SECRET,
                "aws_session_token": SESSION,
                "region_name": "eu",
            },
        },
        "s3": {"conn_type": "s3", "login": ACCESS, "password": SECRET},
        "generic": {"conn_type": "generic", "host": "minio", "login": ACCESS, "password": SECRET},
        "gcp": {"conn_type": "google_cloud_platform", "login": ACCESS, "password": SECRET},
        "gcp in extra": {
            "conn_type": "google_cloud_platform",
            "extra": {"hmac_access_id": ACCESS, "hmac_secret": SECRET},
        },
        "wasb": {"conn_type": "wasb", "login": ACCESS, "password": SECRET},
        "wasb host": {
            "conn_type": "wasb",
            "host": f"https://{ACCESS.lower()}.blob.core.windows.net",
            "password": SECRET,
        },
        "wasb bare": {"conn_type": "wasb", "host": ACCESS, "password": SECRET},
    }

    @pytest.mark.parametrize("kept", KEPT)
    def test_keys(
        self, imports: ImportServer, storage: Callable[..., None], kept: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        masked: list[Any] = []
        monkeypatch.setattr("airflow_provider_importprog._storage.mask_secret", masked.append)
        storage(**self.KEPT[kept])
        Task()(files=None, object_urls=["s3://b/1.parquet"], storage_conn_id="store")
        body = imports.creates[0].json
        assert (body["accessKey"].lower(), body["secretKey"]) == (self.ACCESS.lower(), self.SECRET)
        assert body.get("token") == (self.SESSION if "aws" in kept else None)
        assert {self.SECRET, body.get("token")} <= {*masked, None}

    @pytest.mark.parametrize(
        ("fields", "match"),
        [
            ({"conn_type": "aws", "extra": {"role_arn": "arn:x"}}, "no access key and secret key.*role"),
            (
                {"conn_type": "aws", "login": ACCESS, "password": SECRET, "extra": {"aws_session_token": 5}},
                "access key",
            ),
            ({"conn_type": "google_cloud_platform", "extra": {"keyfile_dict": "{}"}}, "HMAC"),
            ({"conn_type": "wasb", "login": "account"}, "account's key"),
            ({"conn_type": "wasb", "password": SECRET}, "storage account's name"),
            ({"conn_type": "postgres", "login": ACCESS, "password": SECRET}, "'postgres', not one of aws"),
        ],
    )
    def test_no_keys(
        self, imports: ImportServer, storage: Callable[..., None], fields: dict[str, Any], match: str
    ) -> None:
        storage(**fields)
        with pytest.raises(ImportSettingInvalid, match=match) as caught:
            Task()(files=None, object_urls=["s3://b/1.parquet"], storage_conn_id="store")
        assert self.SECRET not in str(caught.value)
        assert not imports.server.asked

    def test_no_connection(self, imports: ImportServer) -> None:
        with pytest.raises(ImportSettingInvalid, match="'nowhere' is not defined"):
            Task()(files=None, object_urls=["s3://b/1.parquet"], storage_conn_id="nowhere")

    ECHO = f"denied: <AWSAccessKeyId>{ACCESS}</AWSAccessKeyId>, {quote(SECRET, safe='')}, {SECRET}, {SESSION}"
    #: Cut within a key by whoever shortens it.
    LONG_ECHO = "x" * 488 + SECRET + "y" * 200

    @pytest.mark.parametrize("dialect", ["v1", "v2"])
    @pytest.mark.parametrize("deferrable", [False, True])
    @pytest.mark.parametrize("echoed_by", ["job", "file", "error", "long error"])
    def test_keys_that_the_server_echoes_stay_secret(
        self,
        server: ScriptedServer,
        connect: Connect,
        storage: Callable[..., None],
        caplog: pytest.LogCaptureFixture,
        capfd: Any,
        dialect: str,
        deferrable: bool,
        echoed_by: str,
    ) -> None:
        connect({"api_version": dialect})
        storage(**self.KEPT["aws" if dialect == "v2" else "s3"])  # v1 takes no session token
        imports = ImportServer(server, dialect=dialect)
        imports.state = "Importing"
        looks = 0

        def echo(asked: Any) -> Answer:
            nonlocal looks
            looks += 1
            answer = imports._describe(asked) if dialect == "v2" else imports._v1_get(asked)
            if looks == 1:
                return answer
            if "error" in echoed_by:
                return Answer({"code": 7, "message": self.LONG_ECHO if echoed_by == "long error" else self.ECHO})
            data, reason = answer.body["data"], "reason" if dialect == "v2" else "errorMessage"
            (data if echoed_by == "job" else data["details"][0])[reason] = self.ECHO
            ended = {"completeTime": "2026-01-01T00:00:00Z", "state": "Failed" if echoed_by == "job" else "Completed"}
            data.update(ended if dialect == "v2" else {"completeTime": ended["completeTime"]})
            return answer

        server.on(V2_DESCRIBE if dialect == "v2" else V1_GET, echo)
        kept = Store()
        task = Task(deferrable, kept)
        with caplog.at_level(logging.DEBUG), pytest.raises(AirflowException) as caught:
            task(files=None, object_urls=["s3://b/1.parquet"], storage_conn_id="store", outage_tolerance=0.01)
        captured = capfd.readouterr()
        seen = [str(caught.value), repr(caught.value.__dict__), repr(task.ti.pushed), caplog.text, repr(task.fired)]
        seen += [captured.out, captured.err, repr(kept.written)]
        for secret in (self.ACCESS, self.SECRET, TOKEN_PASSWORD, *([self.SESSION] if dialect == "v2" else [])):
            assert not any(secret[:8] in text for text in seen), secret
        assert "***" in str(caught.value)
        assert bool(task.fired) is deferrable
        for kwargs, event in task.fired:
            assert kwargs["storage_conn_id"] == "store"
            assert "***" in event["message"]

    @pytest.mark.parametrize("echoed_by", ["reason", "error"])
    def test_where_the_keys_cannot_be_read_the_servers_words_are_kept_back(
        self, imports: ImportServer, echoed_by: str, told: Told
    ) -> None:
        job_id = imports.add([["a.parquet"]], "Failed", reason=self.ECHO)
        if echoed_by == "error":
            imports.server.on(V2_DESCRIBE, Answer({"code": 7, "message": self.ECHO}))
        policy = {"poke_interval": 0.01, "outage_tolerance": 0.02}
        with told:
            event = fire(ImportProgressTrigger(job_id=job_id, storage_conn_id="store", **policy))
        assert event["verdict"] == ("job_failed" if echoed_by == "reason" else "unreachable")
        assert f"import job {job_id} is not shown" in event["message"]
        assert "connection 'store', which cannot be read" in event["message"]
        assert self.ACCESS not in told
        assert self.SECRET not in told

    def test_a_trigger_names_a_storage_only_where_there_is_one(self) -> None:
        assert "storage_conn_id" not in ImportProgressTrigger(job_id="1").serialize()[1]

    @pytest.mark.parametrize("where", ["worker", "triggerer"])
    def test_a_refused_abort_echoes_no_key(
        self, imports: ImportServer, storage: Callable[..., None], where: str, told: Told
    ) -> None:
        storage(**self.KEPT["aws"])
        imports.server.on(V2_ABORT, Answer({"code": 7, "message": self.ECHO}))
        operator = Task().make(
            files=None, object_urls=["s3://b/1"], storage_conn_id="store", wait=False, **TestKilled.ABORT
        )
        operator.execute({"ti": FakeTaskInstance()})
        with told:
            if where == "worker":
                operator.on_kill()
            else:
                trigger = ImportProgressTrigger(job_id="1000", storage_conn_id="store", abort_on_kill=True)
                asyncio.run(trigger.on_kill())
        assert "was not aborted" in told
        assert "denied: <AWSAccessKeyId>***" in told
        assert not any(secret in told for secret in (self.ACCESS, self.SECRET, self.SESSION))
