"""A watcher of import jobs, over a server on loopback and Airflow's own accessors of the asset state store."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from airflow_provider_importprog import _ended_jobs
from tests.blackbox.driver import AIRFLOW_2, TOKEN_PASSWORD, Connect
from tests.blackbox.server import V2_LIST, Answer, Asked, ScriptedServer

if AIRFLOW_2:
    pytest.skip("Airflow 2.11 has no watchers", allow_module_level=True)

from airflow.exceptions import SerializationError
from airflow.sdk import DAG, Asset, AssetWatcher
from airflow.sdk.exceptions import AirflowRuntimeError
from airflow.sdk.execution_time import comms
from airflow.sdk.execution_time.context import AssetStateStoreAccessors
from airflow.serialization.serialized_objects import DagSerialization

from airflow_provider_importprog.triggers import import_ended
from airflow_provider_importprog.triggers.import_ended import ImportEndedTrigger

#: What a test waits for, one condition after the other, and does between them; it is given the events so far.
Steps = Callable[[list[dict[str, str]]], Iterator[Callable[[], Any]]]
ARTICLES = Asset("articles", "milvus://localhost:19530/default/articles")
BOOKS = Asset("books", "milvus://localhost:19530/default/books")
STORE = AssetStateStoreAccessors([ARTICLES])
OLD = {f"old-{number}": "Completed" for number in range(150)}


class Supervisor:
    """The process above a triggerer's, as far as it serves the asset state store: what it keeps goes through JSON."""

    def __init__(self) -> None:
        self.kept: dict[str, str] = {}
        self.out_of_order: set[type] = set()
        self.threads: set[threading.Thread] = set()

    @property
    def known(self) -> set[str]:
        """The ids under the key that was written last."""
        return set(json.loads([*self.kept.values()][-1])) if self.kept else set()

    def send(self, message: Any) -> Any:
        self.threads.add(threading.current_thread())
        if type(message) in self.out_of_order:
            raise AirflowRuntimeError(comms.ErrorResponse(detail={"message": "the database is away"}))
        if isinstance(message, comms.SetAssetStateStoreByName):
            others = {key: value for key, value in self.kept.items() if key != message.key}
            self.kept = {**others, message.key: json.dumps(message.value)}
            return comms.OKResponse(ok=True)
        if message.key not in self.kept:
            return comms.ErrorResponse(error="ASSET_STORE_NOT_FOUND")
        return comms.AssetStateStoreResult(value=json.loads(self.kept[message.key]))


class Jobs(dict[str, str]):
    """A server's import jobs, by id their state, listed page by page.

    :param server: lists them, but for what `instead` says of the next requests.
    """

    def __init__(self, server: ScriptedServer, jobs: dict[str, str]) -> None:
        super().__init__(jobs)
        self.server = server
        self.instead: list[Callable[[Asked], Answer | None]] = []
        server.on(V2_LIST, self._list)

    def more_lists(self, number: int = 2) -> Callable[[], bool]:
        """Wait until so many more requests have come: the list before the last one is taken in then."""
        wanted = len(self.server.to(V2_LIST)) + number
        return lambda: len(self.server.to(V2_LIST)) >= wanted

    def _list(self, asked: Asked) -> Answer:
        if self.instead and (answer := self.instead.pop(0)(asked)):
            return answer
        size, page = asked.json["pageSize"], asked.json["currentPage"]
        shown = list(self.items())[(page - 1) * size : page * size]
        records = [{"jobId": job_id, "collectionName": "articles", "state": state} for job_id, state in shown]
        return Answer({"code": 0, "data": {"records": records, "count": len(self)}})


@pytest.fixture
def supervisor(monkeypatch: pytest.MonkeyPatch, connect: Connect) -> Supervisor:
    connect({"api_version": "v2"})
    one = Supervisor()
    monkeypatch.setattr("airflow.sdk.execution_time.task_runner.SUPERVISOR_COMMS", one, raising=False)
    monkeypatch.setattr(_ended_jobs, "_HANDED_ON", 0.01)
    monkeypatch.setattr(import_ended, "_RUN_BEGUN", 0.01)
    return one


@pytest.fixture
def log(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """What has been logged so far: Airflow 3's triggers write to the standard output."""
    parts: list[str] = []

    def text() -> str:
        parts.append(capsys.readouterr().out)
        return "".join(parts)

    return text


def watch(steps: Steps, store: Any = STORE, **kwargs: Any) -> list[dict[str, str]]:
    """Run a trigger of its row until the last of the steps, and return the payloads of its events."""
    path, row = ImportEndedTrigger(**{"collection_name": "articles", "poke_interval": 0.02, **kwargs}).serialize()
    assert path == "airflow_provider_importprog.triggers.import_ended.ImportEndedTrigger"
    trigger = ImportEndedTrigger(**json.loads(json.dumps(row)))
    trigger.asset_state_store = store
    return asyncio.run(_run(trigger, steps))


async def _run(trigger: ImportEndedTrigger, steps: Steps) -> list[dict[str, str]]:
    events: list[dict[str, str]] = []

    async def take() -> None:
        async for fired in trigger.run():
            events.append(fired.payload)  # noqa: PERF401 (the steps look at each as it comes)

    async def take_steps() -> None:
        for condition in steps(events):
            while not condition():
                assert not task.done(), task.result()
                await asyncio.sleep(0.005)

    task = asyncio.create_task(take())
    await asyncio.wait_for(take_steps(), 20)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return events


def event(job_id: str, state: str = "completed") -> dict[str, str]:
    return {"job_id": job_id, "collection_name": "articles", "state": state}


@pytest.mark.parametrize("states", [("completed",), ("completed", "failed")])
def test_each_job_that_ends_brings_one_event_and_none_after_a_restart(
    states: tuple[str, ...], server: ScriptedServer, supervisor: Supervisor
) -> None:
    jobs = Jobs(server, {**OLD, "a": "Importing", "b": "Importing", "c": "Importing"})

    def first(_: Any) -> Iterator[Callable[[], bool]]:
        yield lambda: supervisor.known == OLD.keys()
        jobs.update(a="Completed", b="Failed", unseen="Completed")
        yield lambda: supervisor.known == {*OLD, "a", "b", "unseen"}
        yield jobs.more_lists(3)

    def second(_: Any) -> Iterator[Callable[[], bool]]:
        yield lambda: supervisor.known == jobs.keys()
        yield jobs.more_lists(3)

    wanted = [event("a"), event("b", "failed"), event("unseen")]
    assert watch(first, states=states) == [one for one in wanted if one["state"] in states]
    jobs["c"] = "Completed"  # while nobody watches
    assert watch(second, states=states) == [event("c")]
    assert watch(second, states=["failed"]) == [], "for other states, all of it is old"
    assert len(supervisor.kept) == 2
    assert threading.main_thread() not in supervisor.threads, "the event loop stands still while the store is asked"
    assert {asked.json["collectionName"] for asked in server.to(V2_LIST)} == {"articles"}


def test_who_is_killed_between_an_event_and_its_mark_tells_of_it_again(
    server: ScriptedServer, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = Jobs(server, {"a": "Importing", "b": "Completed"})

    def until_killed(events: list[Any]) -> Iterator[Callable[[], bool]]:
        yield lambda: supervisor.known == {"b"}
        monkeypatch.setattr(_ended_jobs, "_HANDED_ON", 60)
        jobs["a"] = "Completed"
        yield lambda: len(events) == 1

    assert watch(until_killed) == [event("a")]
    assert supervisor.known == {"b"}
    monkeypatch.setattr(_ended_jobs, "_HANDED_ON", 0.01)
    assert watch(lambda _: iter([lambda: supervisor.known == {"a", "b"}])) == [event("a")]
    assert watch(lambda _: iter([jobs.more_lists(3)])) == []


def test_the_last_of_several_events_comes_when_airflow_has_begun_a_run_for_the_first(
    server: ScriptedServer, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = Jobs(server, {"a": "Completed"})
    monkeypatch.setattr(import_ended, "_RUN_BEGUN", 60)

    def steps(events: list[Any]) -> Iterator[Callable[[], bool]]:
        yield lambda: supervisor.known == {"a"}
        jobs["b"] = "Completed"
        yield lambda: supervisor.known == {"a", "b"}
        jobs.update(c="Completed", d="Completed", e="Completed")
        yield lambda: len(events) == 3

    assert watch(steps) == [event("b"), event("c"), event("d")]
    monkeypatch.setattr(import_ended, "_RUN_BEGUN", 0.01)
    again = [event("c"), event("d"), event("e")]
    assert watch(lambda _: iter([lambda: supervisor.known == jobs.keys()])) == again


@pytest.mark.parametrize(
    ("store", "said"),
    [
        (None, "no asset state store"),
        (AssetStateStoreAccessors([ARTICLES, BOOKS]), "More than one asset is watched with the same arguments"),
    ],
    ids=["no store", "a store of two assets"],
)
def test_without_a_store_of_its_own_the_process_remembers(
    store: Any, said: str, server: ScriptedServer, supervisor: Supervisor, log: Callable[[], str]
) -> None:
    jobs = Jobs(server, {"a": "Importing", "b": "Completed"})

    def steps(events: list[Any]) -> Iterator[Callable[[], bool]]:
        yield jobs.more_lists()
        jobs["a"] = "Completed"
        yield lambda: bool(events)
        yield jobs.more_lists(3)

    assert watch(steps, store) == [event("a")]
    assert log().count(said) == 1
    jobs["c"] = "Completed"  # while nobody watches
    assert watch(lambda _: iter([jobs.more_lists(3)]), store) == []
    assert supervisor.kept == {}


NOT_ACCEPTED = {"code": 1800, "message": f"auth check failure: {TOKEN_PASSWORD}"}
TROUBLES: dict[str, tuple[Callable[[Asked], Answer | None], str]] = {
    "down": (lambda _: Answer(b"<html>Bad Gateway</html>", 502), "502"),
    "hangs up": (lambda _: Answer(how="close"), "cannot be reached"),
    "not accepted": (lambda _: Answer(NOT_ACCEPTED), "Check the login and the password"),
    "not permitted": (lambda _: Answer({"code": 1401, "message": "no"}, 403), "the role of its user"),
    "refused": (lambda _: Answer({"code": 100, "message": "collection not found"}), "collection not found"),
    "nonsense": (lambda _: Answer({"code": 0, "data": {"records": 5}}), "records"),
    "second page": (lambda asked: Answer(b"", 502) if asked.json["currentPage"] == 2 else None, "502"),
    "empty": (lambda _: Answer({"code": 0, "data": {"records": []}}), ""),
}


@pytest.mark.parametrize("name", TROUBLES)
def test_a_list_that_fails_or_lacks_jobs_makes_no_old_job_new(
    name: str, server: ScriptedServer, supervisor: Supervisor, log: Callable[[], str]
) -> None:
    answer, said = TROUBLES[name]
    jobs = Jobs(server, {**OLD, "a": "Importing"})

    def steps(_: Any) -> Iterator[Callable[[], bool]]:
        yield lambda: supervisor.known == OLD.keys()
        jobs.instead = [answer] * 3
        yield lambda: not jobs.instead
        jobs["a"] = "Completed"
        yield lambda: supervisor.known == jobs.keys()

    assert watch(steps) == [event("a")]
    assert said in log()
    assert ("watched again" in log()) == bool(said)
    assert TOKEN_PASSWORD not in log() + str(supervisor.kept)


@pytest.mark.parametrize("message", [comms.GetAssetStateStoreByName, comms.SetAssetStateStoreByName])
def test_a_store_out_of_order_is_tried_again(
    message: type, server: ScriptedServer, supervisor: Supervisor, log: Callable[[], str]
) -> None:
    jobs = Jobs(server, {"a": "Importing", "b": "Completed"})

    def steps(events: list[Any]) -> Iterator[Callable[[], bool]]:
        yield lambda: supervisor.known == {"b"}
        supervisor.out_of_order = {message}
        jobs["a"] = "Completed"
        yield lambda: log().count("the database is away") >= 2
        supervisor.out_of_order = set()
        yield lambda: supervisor.known == {"a", "b"}

    assert watch(steps) == [event("a")]
    supervisor.out_of_order = {message}
    jobs["c"] = "Completed"
    before = log().count("the database is away")
    watch(lambda _: iter([lambda: log().count("the database is away") > before]))
    supervisor.out_of_order = set()
    assert watch(lambda _: iter([lambda: supervisor.known == jobs.keys()])) == [event("c")]


def test_what_ended_on_another_server_is_old_there_and_a_corrected_connection_is_read(
    server: ScriptedServer, other_server: ScriptedServer, supervisor: Supervisor, connect: Connect
) -> None:
    jobs, others = Jobs(server, {"a": "Completed"}), Jobs(other_server, {"x": "Completed", "y": "Importing"})

    def steps(_: Any) -> Iterator[Callable[[], bool]]:
        yield lambda: supervisor.known == {"a"}
        connect({"api_version": "v2"}, host=other_server.url)
        jobs.instead = [TROUBLES["down"][0]]
        yield lambda: supervisor.known == {"x"}
        others["y"] = "Completed"
        yield lambda: supervisor.known == {"x", "y"}

    assert watch(steps) == [event("y")]
    assert len(supervisor.kept) == 2


BAD: list[tuple[dict[str, Any], str]] = [
    ({"states": ["done"]}, "states must be a list of completed and failed, or of one of them, not ['done']."),
    ({"states": "completed"}, "states must be"),
    ({"states": ()}, "states must be"),
    ({"states": [[]]}, "states must be"),
    ({"states": None}, "states must be"),
    ({"poke_interval": 0}, "poke_interval must be more than 0 seconds."),
    ({"poke_interval": "60"}, "poke_interval must be"),
    ({"collection_name": 1.5}, "collection_name must be a string"),
    ({"cluster_id": True}, "cluster_id must be a string"),
    ({"importprog_conn_id": " "}, "importprog_conn_id is blank"),
]


@pytest.mark.parametrize(("kwargs", "said"), BAD)
def test_a_bad_setting_is_told_where_the_dag_file_is_read_and_ends_no_triggerer(
    kwargs: dict[str, Any], said: str, supervisor: Supervisor, log: Callable[[], str]
) -> None:
    trigger = ImportEndedTrigger(**kwargs)
    asset = Asset("articles", watchers=[AssetWatcher(name="import_ended", trigger=trigger)])
    with pytest.raises(SerializationError, match=re.escape(said)):  # what the DAG processor makes an import error of
        DagSerialization.to_dict(DAG("any", schedule=[asset]))
    assert asyncio.run(_run(trigger, lambda _: iter([lambda: said in log()]))) == []


def test_equal_arguments_make_equal_rows_however_they_are_written() -> None:
    one = ImportEndedTrigger("articles", states=("failed", "completed"), poke_interval=timedelta(minutes=1))
    other = ImportEndedTrigger(" articles ", cluster_id="", states=["completed", "failed", "failed"], poke_interval=60)
    assert one.serialize() == other.serialize()
