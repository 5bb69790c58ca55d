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
from tests.blackbox.server import V1_GET, V2_DESCRIBE, V2_LIST, Answer, Asked, ScriptedServer, v1_job, v2_job

INTERVAL = 0.1

LISTINGS: dict[str, Callable[[], Any]] = {
    "good": lambda: world.good,
    "refused": lambda: world.refused,
    "not permitted": lambda: world.not_permitted,
    "hung up": lambda: world.hung_up,
    "nonsense": lambda: world.nonsense,
    "empty": lambda: world.empty,
    "half": lambda: world.half,
    "ahead": lambda: world.ahead,
    "behind": world.Behind,
    "without progress": lambda: world.without_progress,
    "crowded": lambda: world.crowded,
    "paged": lambda: world.paged,
}


def trigger(job_id: str, **kwargs: Any) -> ImportProgressTrigger:
    kwargs = {"poke_interval": INTERVAL, "unknown_job_grace": 0, "outage_tolerance": 0, **kwargs}
    return ImportProgressTrigger(job_id, **kwargs)


@pytest.mark.parametrize("name", LISTINGS)
def test_every_gate_ends_as_it_would_alone(name: str, server: ScriptedServer, connect: Connect) -> None:
    connect({"api_version": "v2"})
    jobs = world.World(server, LISTINGS[name]())
    events = world.run(*[trigger(job_id) for job_id in jobs.job_ids])
    assert {event["job_id"]: event["verdict"] for event in events} == jobs.verdicts


@pytest.mark.parametrize("listing", [world.good, world.without_progress])
def test_sharing_asks_far_less(server: ScriptedServer, connect: Connect, listing: Any) -> None:
    connect({"api_version": "v2"})
    jobs = world.World(server, listing)
    world.run(*[trigger(job_id) for job_id in jobs.job_ids])
    lists = len(server.to(V2_LIST))
    # One that checks each list, one for the end of each job, and one for those in which a job ended while it checked.
    assert world.describes(server) <= 2 * lists + world.GATES
    assert world.describes(server) + lists < world.GATES * world.LAST_END / INTERVAL / 3


def test_a_single_gate_asks_for_its_job_and_for_nothing_else(server: ScriptedServer, connect: Connect) -> None:
    connect({"api_version": "v2"})
    jobs = world.World(server, world.good)
    world.run(trigger("job-0"))
    assert jobs.verdicts["job-0"] == "open"
    assert server.to(V2_LIST) == []
    assert world.describes(server) > 2


def test_gates_of_different_clusters_share_nothing(server: ScriptedServer, connect: Connect) -> None:
    connect({"api_version": "v2"})
    world.World(server, world.good)
    world.run(trigger("job-0", cluster_id="in01-a"), trigger("job-4", cluster_id="in01-b"))
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

    def slow(asked: Asked, records: list[dict[str, Any]]) -> Answer:
        asked_for_the_list.set()
        return Answer(world.good(asked, records).body, delay=0.4)

    jobs = world.World(server, slow)

    async def cancel_half(tasks: Sequence[asyncio.Task[Any]]) -> None:
        await asyncio.to_thread(asked_for_the_list.wait, 10)
        for task in tasks[::2]:
            task.cancel()

    events = world.run(*[trigger(job_id) for job_id in jobs.job_ids], then=cancel_half)
    assert events[::2] == [None] * (world.GATES // 2)
    assert {event["job_id"]: event["verdict"] for event in events[1::2]} == {
        job_id: jobs.verdicts[job_id] for job_id in jobs.job_ids[1::2]
    }


def test_one_gate_that_is_not_permitted_does_not_disturb_the_others(server: ScriptedServer, connect: Connect) -> None:
    connect({"api_version": "v2"})
    jobs = world.World(server, world.good)
    describe = jobs._describe
    forbidden = Answer({"code": 1401, "message": "no privilege"}, 403)
    server.v2(lambda asked: forbidden if asked.json["jobId"] == "job-0" else describe(asked))
    events = world.run(*[trigger(job_id) for job_id in jobs.job_ids])
    assert {event["job_id"]: event["verdict"] for event in events} == {**jobs.verdicts, "job-0": "unauthorized"}


def test_gates_share_the_list_of_v1_too(server: ScriptedServer, connect: Connect) -> None:
    """Its list has names of its own for the states, and no percentage."""
    connect({"api_version": "v1"})
    asked_for: list[str] = []

    def get(asked: Asked) -> Answer:
        job_id = asked.query.partition("jobId=")[2].partition("&")[0]
        asked_for.append(job_id)
        return v1_job(done=len(lists) > 5, jobId=job_id)

    lists: list[Asked] = []

    def list_them(asked: Asked) -> Answer:
        lists.append(asked)
        state = "ImportCompleted" if len(lists) > 5 else "ImportRunning"
        tasks = [{"jobId": f"job-{n}", "collectionName": "books", "state": state} for n in range(10)]
        return Answer({"code": 200, "data": {"tasks": tasks, "count": len(tasks)}})

    server.v1(get).on("/v1/vector/collections/import/list", list_them)
    events = world.run(*[trigger(f"job-{n}") for n in range(10)])
    assert {event["verdict"] for event in events} == {"open"}
    assert len(server.to(V1_GET)) < 10 + 2 * len(lists)


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

    server.v2(describe)
    server.on(V2_LIST, list_them)
    waiting, patient = trigger("job-0", wait_for="uncommitted"), trigger("job-1")
    events = world.run(waiting, patient)
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
