"""Many gates in one event loop: they share a list, and end as each would alone, whatever the list is worth."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from airflow.secrets import BaseSecretsBackend

from airflow_provider_importprog.triggers.import_progress import ImportProgressTrigger
from tests.blackbox import world
from tests.blackbox.driver import Connect
from tests.blackbox.server import (
    NOT_SERVED,
    V1_GET,
    V1_LIST,
    V2_DESCRIBE,
    V2_LIST,
    Answer,
    Asked,
    ScriptedServer,
    v1_job,
    v2_job,
)


def trigger(job_id: str, **kwargs: Any) -> ImportProgressTrigger:
    kwargs = {"poke_interval": 0.05, "unknown_job_grace": 0, "outage_tolerance": 0, **kwargs}
    return ImportProgressTrigger(job_id, **kwargs)


@pytest.mark.parametrize("name", world.LISTINGS)
def test_every_gate_ends_as_it_would_alone(name: str, server: ScriptedServer, connect: Connect) -> None:
    connect({"api_version": "v2"})
    jobs = world.World(server, world.LISTINGS[name]())
    events = world.run(*map(trigger, jobs.job_ids))
    assert {event["job_id"]: event["verdict"] for event in events} == jobs.verdicts
    if name in ("good", "without progress"):
        lists, describes = len(server.to(V2_LIST)), len(server.to(V2_DESCRIBE))
        # One that checks each list, one for each job's end, and one for those in which one ended while it checked.
        assert describes <= 2 * lists + world.GATES
        assert describes + lists < sum(jobs.answers.values()) / 3


@pytest.mark.parametrize("clusters", [{"job-0": None}, {"job-0": "in01-a", "job-4": "in01-b"}])
def test_a_gate_alone_on_its_cluster_asks_for_no_list(
    server: ScriptedServer, connect: Connect, clusters: dict[str, str | None]
) -> None:
    connect({"api_version": "v2"})
    jobs = world.World(server, world.good)
    events = world.run(*[trigger(job_id, cluster_id=cluster_id) for job_id, cluster_id in clusters.items()])
    assert [event["verdict"] for event in events] == [jobs.verdicts[job_id] for job_id in clusters]
    assert server.to(V2_LIST) == []


def test_a_shared_list_names_cluster_and_database(server: ScriptedServer, connect: Connect) -> None:
    connect({"api_version": "v2", "db_name": "books"})
    jobs = world.World(server, world.good)
    world.run(*[trigger(job_id, cluster_id="in01-a") for job_id in jobs.job_ids[:5]])
    asked = server.to(V2_LIST)
    assert asked
    assert {(one.json["clusterId"], one.json["dbName"], one.header("DB-Name")) for one in asked} == {
        ("in01-a", "books", "books")
    }


def test_the_gate_that_asks_for_the_list_may_be_cancelled(server: ScriptedServer, connect: Connect) -> None:
    connect({"api_version": "v2"})
    asked_for_the_list = threading.Event()

    def slow_at_first(asked: Asked, records: world.Records) -> Answer:
        delay = 0.0 if asked_for_the_list.is_set() else 0.4
        asked_for_the_list.set()
        return Answer(world.good(asked, records).body, delay=delay)

    async def cancel_half(tasks: Sequence[asyncio.Task[Any]]) -> None:
        await asyncio.to_thread(asked_for_the_list.wait, 10)
        for task in tasks[::2]:
            task.cancel()

    jobs = world.World(server, slow_at_first)
    events = world.run(*map(trigger, jobs.job_ids), then=cancel_half)
    assert events[::2] == [None] * (world.GATES // 2)
    assert {event["job_id"]: event["verdict"] for event in events[1::2]} == {
        job_id: jobs.verdicts[job_id] for job_id in jobs.job_ids[1::2]
    }


def test_one_gate_that_is_not_permitted_does_not_disturb_the_others(server: ScriptedServer, connect: Connect) -> None:
    connect({"api_version": "v2"})
    jobs = world.World(server, world.good)
    forbidden = Answer({"code": 1401, "message": "no privilege"}, 403)
    server.v2(lambda asked: forbidden if asked.json["jobId"] == "job-0" else jobs.describe(asked))
    events = world.run(*map(trigger, jobs.job_ids))
    assert {event["job_id"]: event["verdict"] for event in events} == {**jobs.verdicts, "job-0": "unauthorized"}


def test_gates_share_the_list_of_v1_too(server: ScriptedServer, connect: Connect) -> None:
    """Its list has names of its own for the states, and no percentage."""
    connect({"api_version": "v1"})

    def get(asked: Asked) -> Answer:
        job_id = asked.query.partition("jobId=")[2].partition("&")[0]
        return v1_job(done=len(server.to(V1_LIST)) > 5, jobId=job_id)

    def list_them(asked: Asked) -> Answer:
        state = "ImportCompleted" if len(server.to(V1_LIST)) > 5 else "ImportRunning"
        tasks = [{"jobId": f"job-{n}", "collectionName": "books", "state": state} for n in range(10)]
        return Answer({"code": 200, "data": {"tasks": tasks, "count": len(tasks)}})

    server.v1(get).on(V1_LIST, list_them)
    events = world.run(*[trigger(f"job-{n}") for n in range(10)])
    assert {event["verdict"] for event in events} == {"open"}
    assert len(server.to(V1_GET)) < 10 + 2 * len(server.to(V1_LIST))


def test_a_gate_that_waits_for_uncommitted_opens_as_soon_as_the_list_says_so(
    server: ScriptedServer, connect: Connect
) -> None:
    connect({"api_version": "v2"})
    state = {"job-0": "Importing", "job-1": "Importing"}

    def list_them(asked: Asked) -> Answer:
        records = [{"jobId": job, "state": now, "progress": 50} for job, now in state.items()]
        state["job-0"] = "Uncommitted"
        return world.good(asked, records)

    def describe(asked: Asked) -> Answer:
        if len(server.to(V2_DESCRIBE)) > 8:
            state["job-1"] = "Completed"
        return v2_job(state[asked.json["jobId"]], 50, jobId=asked.json["jobId"])

    server.v2(describe).on(V2_LIST, list_them)
    events = world.run(trigger("job-0", wait_for="uncommitted"), trigger("job-1"))
    assert [event["verdict"] for event in events] == ["open", "open"]
    assert "uncommitted" in events[0]["message"]


class SlowSecrets(BaseSecretsBackend):
    """Holds the connection `storage`, and gives it when the test says so."""

    asked, give = threading.Event(), threading.Event()

    def get_conn_value(self, conn_id: str, **_: Any) -> str | None:
        if conn_id != "storage":
            return None
        self.asked.set()
        assert self.give.wait(10), "the test never let the keys be read"
        return json.dumps({"conn_type": "aws", "login": "AKIA-access-1", "password": "secret-key-22"})


def test_keys_that_are_read_slowly_are_known_before_the_gate_shares_a_list(
    server: ScriptedServer,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A list that is asked for by another gate may show them, and its error is logged."""
    connect({"api_version": "v2"})
    monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND", f"{__name__}.SlowSecrets")
    SlowSecrets.asked.clear()
    SlowSecrets.give.clear()
    caplog.set_level(logging.DEBUG)
    polls = 0

    def describe(asked: Asked) -> Answer:
        nonlocal polls
        polls += SlowSecrets.asked.is_set()
        if polls == 3:  # the gate that is not slow has polled, and no list was asked for
            SlowSecrets.give.set()
        return v2_job("Completed" if server.to(V2_LIST) else "Importing", jobId=asked.json["jobId"])

    def list_them(asked: Asked) -> Answer:
        SlowSecrets.give.set()
        return Answer({"code": 65535, "message": "denied: AKIA-access-1 secret-key-22"})

    server.v2(describe).on(V2_LIST, list_them)
    events = world.run(trigger("job-0"), trigger("job-1", storage_conn_id="storage"))
    captured = capfd.readouterr()
    assert [event["verdict"] for event in events] == ["open", "open"]
    assert "The list of import jobs cannot be had: " in (seen := caplog.text + captured.out + captured.err)
    assert "AKIA-access-1" not in seen
    assert "secret-key-22" not in seen


def test_the_loop_goes_on_while_a_gate_asks(server: ScriptedServer, connect: Connect) -> None:
    beat = threading.Event()

    def once_the_loop_went_on(answer: Answer) -> Callable[[Asked], Answer]:
        def give(asked: Asked) -> Answer:
            beat.clear()
            return answer if beat.wait(10) else v2_job("Failed", reason="the loop stood still")

        return give

    async def heart(tasks: Sequence[asyncio.Task[Any]]) -> None:
        while not tasks[0].done():
            beat.set()
            await asyncio.sleep(0.01)

    server.v1(once_the_loop_went_on(NOT_SERVED)).v2(*map(once_the_loop_went_on, (v2_job(), v2_job("Completed"))))
    (event,) = world.run(trigger("job-1"), then=heart)
    assert event["verdict"] == "open"


def test_many_share_few_connections(server: ScriptedServer, connect: Connect) -> None:
    server.v2(*[v2_job()] * 100, v2_job("Completed"))
    assert len(world.run(*[trigger("job-1") for _ in range(50)])) == 50
    assert len(server.asked) >= 150
    assert server.connections <= 40
