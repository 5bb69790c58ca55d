"""Gates that end in the triggerer: what they push there, and what has them resume on a worker all the same."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, BaseOperator, TaskDeferred

from airflow_provider_importprog.operators.import_job import CommitImportJobOperator, CreateImportJobOperator
from airflow_provider_importprog.sensors.import_progress import ImportProgressSensor
from airflow_provider_importprog.triggers.import_progress import ImportProgressTrigger
from tests.blackbox.driver import AIRFLOW_2, Connect, FakeTaskInstance
from tests.blackbox.server import JOB, V2_COMMIT, V2_CREATE, Answer, ScriptedServer, unknown_job, v2_file, v2_job

pytestmark = pytest.mark.usefixtures("connect", "no_listeners")
airflow_3 = pytest.mark.skipif(AIRFLOW_2, reason="Airflow 2 cannot end a gate in the triggerer")
PLAN = {"return_value": True, "mapped_over": False, "dag_result": False}


Said = Callable[[str], int]


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Said:
    """Count messages that hold some words, wherever this Airflow puts them."""
    caplog.set_level(logging.INFO)
    printed: list[str] = []

    def count(words: str) -> int:
        printed.extend(capfd.readouterr())
        return max("".join(printed).count(words), caplog.text.count(words))

    return count


@pytest.fixture
def no_listeners() -> Iterator[None]:
    """Do without the listener of Airflow's own example plugin."""
    if AIRFLOW_2:
        yield
        return
    from airflow.sdk.listener import get_listener_manager

    manager = get_listener_manager()
    installed = manager.pm.get_plugins()
    manager.clear()
    yield
    manager.clear()
    for listener in installed:
        manager.add_listener(listener)


def gate(**kwargs: Any) -> ImportProgressSensor:
    own = {"deferrable": True, "end_from_trigger": True, "poke_interval": 0.05, **kwargs}
    return ImportProgressSensor(task_id="gate", job_id=JOB, **own)


def first_leg(task: Any) -> dict[str, Any]:
    """Return the row of the trigger that a task defers to."""
    ti = FakeTaskInstance()
    with pytest.raises(TaskDeferred) as deferred:
        task.execute({"ti": ti, "task_instance": ti})
    row: dict[str, Any] = deferred.value.trigger.serialize()[1]
    return row


class OwnEnd(ImportProgressSensor):
    def execute_complete(self, *args: Any, **kwargs: Any) -> Any:
        return super().execute_complete(*args, **kwargs)


class AfterAll(ImportProgressSensor):
    def post_execute(self, context: Any, result: Any = None) -> None: ...


class Link:
    name = "Job"

    def __init__(self, url: str) -> None:
        self.url = url

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        assert (operator.job_id, ti_key.task_id) == (JOB, "gate")
        if self.url == "broken":
            raise LookupError
        return self.url


def linked(url: str) -> type[ImportProgressSensor]:
    return type("Linked", (ImportProgressSensor,), {"operator_extra_links": (Link(url),)})


def in_dag(kind: type[Any] = ImportProgressSensor, dag: dict[str, Any] | None = None, **kwargs: Any) -> Any:
    with DAG("d", schedule=None, **(dag or {})):
        own = {"deferrable": True, "end_from_trigger": True, "poke_interval": 0.05, **kwargs}
        return kind(task_id="gate", job_id=JOB, **own)


def mapped_over(**kwargs: Any) -> Any:
    task = in_dag(**kwargs)
    BaseOperator.partial(task_id="each", dag=task.dag).expand(doc=task.output)
    return task


@airflow_3
class TestTheFirstLeg:
    @pytest.mark.parametrize(
        ("make", "plan"),
        [
            (in_dag, PLAN),
            (lambda: gate(), PLAN),  # in no DAG
            (lambda: in_dag(do_xcom_push=False), {**PLAN, "return_value": False}),
            (lambda: in_dag(dag={"default_args": {"on_failure_callback": print}}, soft_fail=True), PLAN),
            (mapped_over, {**PLAN, "mapped_over": True}),
            (lambda: in_dag(linked(""), map_index_template="{{ task.job_id }}"), PLAN),
            (lambda: in_dag(linked("broken")), PLAN),
        ],
    )
    def test_writes_into_the_row_how_the_gate_ends(
        self, server: ScriptedServer, said: Said, make: Callable[[], Any], plan: Any
    ) -> None:
        server.v2(v2_job())
        assert first_leg(make())["end"] == plan
        assert said("end_from_trigger") == 0

    @pytest.mark.parametrize(
        ("make", "reason"),
        [
            (lambda: in_dag(outlets=[_asset()]), "it has outlets"),
            (lambda: in_dag(on_success_callback=print), "it has an on_success_callback"),
            (lambda: in_dag(dag={"default_args": {"on_success_callback": print}}), "it has an on_success_callback"),
            (lambda: in_dag(dag={"on_success_callback": print}), "its DAG has an on_success_callback"),
            (lambda: in_dag(OwnEnd), "its execute_complete is overridden"),
            (lambda: in_dag(AfterAll), "its post_execute is overridden"),
            (lambda: in_dag(post_execute=print), "it has the parameter post_execute"),
            (lambda: in_dag(linked("https://console")), "it shows a link"),
            (lambda: in_dag(map_index_template="{{ import_job }}"), "its map_index_template names import_job"),
            (lambda: in_dag(refresh_load=True), "refresh_load is set"),
            (lambda: mapped_over(do_xcom_push=False), "a task maps over its files, and do_xcom_push is off"),
        ],
    )
    def test_says_once_why_the_gate_resumes_on_a_worker(
        self, server: ScriptedServer, said: Said, make: Callable[[], Any], reason: str
    ) -> None:
        server.v2(v2_job())
        task = make()
        assert "end" not in first_leg(task)
        assert said(f"end_from_trigger has no effect: {reason}.") == 1

    def test_resumes_where_no_link_to_the_job_is_shown_yet(self, server: ScriptedServer, said: Said) -> None:
        server.v2(Answer(b"", 500))
        assert "end" not in first_leg(in_dag(outage_tolerance=60))
        assert said("the server has not answered yet") == 1

    def test_ends_there_with_the_link_to_the_job(self, server: ScriptedServer, connect: Connect) -> None:
        connect({"console_url": "https://console.example/{job_id}"})
        server.v2(v2_job())
        assert first_leg(in_dag())["end"] == PLAN

    def test_finds_a_listener_and_the_dag_is_parsed_all_the_same(self, server: ScriptedServer, said: Said) -> None:
        from airflow.dag_processing.dagbag import DagBag
        from airflow.listeners.listener import get_listener_manager as of_the_parser
        from airflow.sdk.listener import get_listener_manager as of_the_worker

        server.v2(v2_job())
        task = in_dag()
        listener = type("Listener", (), {})()
        for manager in (of_the_parser(), of_the_worker()):
            manager.add_listener(listener)
        try:
            assert "end" not in first_leg(task)
            DagBag(dag_folder="/dev/null", collect_dags=False).bag_dag(task.dag)
        finally:
            for manager in (of_the_parser(), of_the_worker()):
                manager.pm.unregister(listener)
        assert said("a listener is installed") == 1

    def test_finds_a_backend_that_sets_xcoms_its_own_way(
        self, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, said: Said
    ) -> None:
        from airflow.sdk.bases.xcom import BaseXCom

        backend = type("Backend", (BaseXCom,), {"set": classmethod(lambda cls, *args, **kwargs: None)})
        monkeypatch.setattr("airflow.sdk.execution_time.xcom.XCom", backend)
        server.v2(v2_job())
        assert "end" not in first_leg(in_dag())
        assert said("the XCom backend overrides set or aset") == 1

    def test_of_the_operators_too(self, server: ScriptedServer) -> None:
        ids = Answer({"code": 0, "data": {"jobId": JOB}})
        server.on(V2_CREATE, ids).on(V2_COMMIT, ids).v2(v2_job())
        more = {"deferrable": True, "end_from_trigger": True}
        create = CreateImportJobOperator(task_id="gate", collection_name="c", files=["a.json"], **more)
        assert first_leg(create)["end"] == PLAN
        assert first_leg(CommitImportJobOperator(task_id="gate", job_id=JOB, **more))["end"] == PLAN


@pytest.mark.parametrize("end_from_trigger", [True, False])
def test_nothing_of_it_is_in_the_row_unless_asked_for_or_on_an_older_airflow(
    server: ScriptedServer, said: Said, end_from_trigger: bool
) -> None:
    server.v2(v2_job())
    row = first_leg(gate(end_from_trigger=end_from_trigger))
    assert ("end" in row) == (end_from_trigger and not AIRFLOW_2)
    assert said("to end in the triggerer needs Airflow 3.3 or later.") == (end_from_trigger and AIRFLOW_2)


# In the triggerer


class Comms:
    """What the triggerer's supervisor does of a trigger's messages: it keeps XComs, and knows the task's state."""

    def __init__(self) -> None:
        self.xcoms: list[Any] = []
        self.state = "deferred"
        self.refuse = ""
        self.asked: list[Any] = []

    async def asend(self, message: Any) -> Any:
        await asyncio.sleep(0)
        return self.send(message)

    def send(self, message: Any) -> Any:
        from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
        from airflow.sdk.execution_time.comms import ErrorResponse, GetTICount, TICount

        if isinstance(message, GetTICount):
            self.asked.append(message)
            return TICount(count=int(self.state in (message.states or [])))
        if message.key == self.refuse:
            raise AirflowRuntimeError(ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail={"status_code": 400}))
        self.xcoms.append(message)
        return None


@pytest.fixture
def comms(monkeypatch: pytest.MonkeyPatch) -> Iterator[Comms]:
    one = Comms()
    monkeypatch.setattr("airflow.sdk.execution_time.task_runner.SUPERVISOR_COMMS", one, raising=False)
    return one


def trigger(**row: Any) -> ImportProgressTrigger:
    own = {"poke_interval": 0.05, "unknown_job_grace": 0, "outage_tolerance": 0, "end": PLAN, **row}
    made = ImportProgressTrigger(JOB, **own)
    made.task_instance = SimpleNamespace(dag_id="d", task_id="gate", run_id="r", map_index=3)
    return made


async def event_of(made: ImportProgressTrigger) -> Any:
    (event,) = [each async for each in made.run()]
    return event


def run(made: ImportProgressTrigger) -> Any:
    return asyncio.run(asyncio.wait_for(event_of(made), 20))


@airflow_3
class TestTheTriggerer:
    @pytest.mark.parametrize(
        "plan", [PLAN, {**PLAN, "return_value": False}, {**PLAN, "mapped_over": True, "dag_result": True}]
    )
    def test_pushes_and_ends(self, server: ScriptedServer, comms: Comms, said: Said, plan: dict[str, bool]) -> None:
        from airflow.triggers.base import TaskSuccessEvent

        server.v2(v2_job(), v2_job("Completed", 100, [v2_file("[a]"), v2_file("[b]")]))
        event = run(trigger(end=plan))

        assert (type(event), event.xcoms) == (TaskSuccessEvent, None)
        assert {(each.dag_id, each.task_id, each.run_id, each.map_index) for each in comms.xcoms} == {
            ("d", "gate", "r", 3)
        }
        pushed = {each.key: each for each in comms.xcoms}
        assert list(pushed) == ["import_job", *(["return_value"] if plan["return_value"] else [])]
        assert pushed["import_job"].value["job_id"] == JOB
        assert {each.dag_result for each in comms.xcoms} == {plan["dag_result"]}
        if plan["return_value"]:
            assert [file["file_name"] for file in pushed["return_value"].value] == ["[a]", "[b]"]
            assert pushed["return_value"].mapped_length == (2 if plan["mapped_over"] else None)
        assert said("The gate opens after") == 1

    @pytest.mark.parametrize(
        ("answer", "verdict"),
        [
            (v2_job("Failed", 0, reason="no"), "job_failed"),
            (v2_job("Completed", 100, [v2_file(state="Failed", reason="no")]), "files_failed"),
            (unknown_job(), "job_unknown"),
            (Answer(b"", 502), "unreachable"),
        ],
    )
    def test_any_other_verdict_resumes(
        self, server: ScriptedServer, comms: Comms, answer: Answer, verdict: str
    ) -> None:
        server.v2(answer)
        assert run(trigger()).payload["verdict"] == verdict
        assert comms.xcoms == comms.asked == []

    @pytest.mark.parametrize("row", [{}, {"newer": 1}, {"end": None}, {"end": {}}, {"end": "newer"}])
    def test_a_row_that_does_not_say_how_to_end_resumes(
        self, server: ScriptedServer, comms: Comms, row: dict[str, Any]
    ) -> None:
        server.v2(v2_job("Completed", 100))
        made = trigger(**{"end": None, **row})
        assert run(made).payload["verdict"] == "open"
        assert comms.xcoms == []

    @pytest.mark.parametrize("key", ["import_job", "return_value"])
    def test_a_push_that_fails_resumes(self, server: ScriptedServer, comms: Comms, said: Said, key: str) -> None:
        comms.refuse = key
        server.v2(v2_job("Completed", 100))
        assert run(trigger()).payload["verdict"] == "open"
        assert said("its XComs were not pushed (AirflowRuntimeError)") == 1
        assert said("The gate opens") == 0

    def test_a_task_that_waits_no_more_gets_no_xcom(self, server: ScriptedServer, comms: Comms) -> None:
        comms.state = "running"
        server.v2(v2_job("Completed", 100))
        assert run(trigger()).payload["verdict"] == "open"
        assert comms.xcoms == []
        (asked,) = comms.asked
        assert (asked.dag_id, asked.task_ids, asked.run_ids, asked.map_index) == ("d", ["gate"], ["r"], 3)

    def test_a_slow_backend_holds_up_no_other_gate_and_a_cancelled_push_leaves_nothing(
        self, server: ScriptedServer, comms: Comms, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from airflow.sdk.bases.xcom import BaseXCom

        begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

        def serialize_value(value: Any, **_: Any) -> Any:
            begun.set()
            go_on.wait(10)
            ended.set()
            return value

        backend = type("Slow", (BaseXCom,), {"serialize_value": staticmethod(serialize_value)})
        monkeypatch.setattr("airflow.sdk.execution_time.xcom.XCom", backend)
        server.v2(v2_job("Completed", 100))

        async def cancel_in_the_middle() -> float:
            ends = asyncio.create_task(event_of(trigger()))
            longest = 0.0
            while not begun.is_set() or longest == 0.0:
                before = time.monotonic()
                await asyncio.sleep(0.01)
                longest = max(longest, time.monotonic() - before)
            ends.cancel()
            with pytest.raises(asyncio.CancelledError):
                await ends
            go_on.set()
            await asyncio.to_thread(ended.wait, 10)
            await asyncio.sleep(0.1)
            return longest

        assert asyncio.run(cancel_in_the_middle()) < 5
        assert comms.xcoms == []


def _asset() -> Any:
    from airflow.providers.common.compat.sdk import Asset

    return Asset("milvus://a/b/c")
