"""When gates share a list, when they ask for themselves, and what they hold against the list."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from airflow_provider_importprog import _shared_list
from airflow_provider_importprog._shared_list import Poller, SharedList
from airflow_provider_importprog.api import ImportFile, ImportJob, ImportState
from airflow_provider_importprog.api.client import JobList, Progress
from airflow_provider_importprog.exceptions import ImportApiUnreachable, ImportJobUnknown
from tests.unit.helpers import Clock

INTERVAL = 10.0


def job(job_id: str, state: ImportState = ImportState.IMPORTING, progress: float = 50.0, **more: Any) -> ImportJob:
    return ImportJob(job_id, "books", state, progress, **more)


def goes_on(one: ImportJob) -> bool:
    return one.state not in (ImportState.COMPLETED, ImportState.FAILED)


def poll(gate: Poller) -> Coroutine[Any, Any, ImportJob]:
    return gate.poll(Progress(gate._job_id, goes_on))


class Cluster:
    """A cluster with its gates, and a server that shows what it is told to."""

    def __init__(self, gates: int, clock: Clock) -> None:
        self.clock = clock
        self.jobs = {f"{n}": job(f"{n}") for n in range(gates)}
        self.listed: dict[str, ImportJob] | None = None  # None for the same
        self.shows_progress = True
        self.trouble: Exception | None = None
        self.lists: list[int] = []
        self.asked: list[str] = []
        self.shared = SharedList(self._list)
        self.gates = [self.gate(job_id) for job_id in self.jobs]

    def gate(self, job_id: str) -> Poller:
        return Poller(self.shared, job_id, INTERVAL, self._ask).__enter__()

    async def poll(self, *gates: Poller) -> list[ImportJob]:
        """Let gates poll at once, all of them unless some are named, and let an interval pass."""
        seen = await asyncio.gather(*[poll(gate) for gate in gates or self.gates])
        self.clock.sleep(INTERVAL + 0.1)
        return seen

    def rounds(self, number: int) -> None:
        """Let all gates poll so many times."""

        async def story() -> None:
            for _ in range(number):
                await self.poll()

        asyncio.run(story())

    async def _list(self, max_pages: int) -> JobList:
        self.lists.append(max_pages)
        await asyncio.sleep(0)
        if self.trouble:
            raise self.trouble
        return JobList(list((self.jobs if self.listed is None else self.listed).values()), self.shows_progress)

    async def _ask(self, call: Progress) -> ImportJob:
        self.asked.append(call.job_id)
        if call.job_id not in self.jobs:
            raise ImportJobUnknown(f"no record of {call.job_id}")
        return self.jobs[call.job_id]


MakeCluster = Callable[[int], Cluster]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> MakeCluster:
    clock = Clock()
    monkeypatch.setattr(_shared_list, "monotonic", clock)
    return lambda gates: Cluster(gates, clock)


def test_one_gate_never_lists(cluster: MakeCluster) -> None:
    here = cluster(1)
    here.rounds(1)
    assert (here.lists, here.asked) == ([], ["0"])


def test_one_list_serves_all_and_one_after_the_other_checks_it(cluster: MakeCluster) -> None:
    here = cluster(3)
    here.rounds(6)
    assert len(here.lists) == 6
    assert here.asked == ["0", "1", "2", "0", "1", "2"]


def test_of_very_many_gates_one_in_two_hundred_checks(cluster: MakeCluster) -> None:
    here = cluster(250)
    here.rounds(2)
    assert here.asked == [f"{n}" for n in range(4)]


def test_a_list_is_good_for_an_interval(cluster: MakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    here = cluster(3)
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        here.clock.sleep(seconds)

    async def story() -> None:
        first, second, third = here.gates
        await poll(first)  # asks for the list, and checks it
        here.clock.sleep(4)
        await poll(second)
        await poll(third)
        assert len(here.lists) == 1
        monkeypatch.setattr(_shared_list.asyncio, "sleep", sleep)
        await second.pause(INTERVAL)  # since the list was asked for
        assert INTERVAL - 4 <= slept[-1] <= INTERVAL * 1.05 - 4
        monkeypatch.undo()
        monkeypatch.setattr(_shared_list, "monotonic", here.clock)
        await poll(second)
        assert len(here.lists) == 2
        monkeypatch.setattr(_shared_list.asyncio, "sleep", sleep)
        await second.pause(INTERVAL)  # it checked the list, so this is since it asked for the job itself
        assert slept[-1] == INTERVAL

    asyncio.run(story())


def test_a_job_that_the_list_shows_to_have_ended_is_asked_for(cluster: MakeCluster) -> None:
    here = cluster(3)
    files = (ImportFile("a.json", 1, ImportState.FAILED, 0.0, error_message="no such file"),)
    here.rounds(1)
    here.jobs["2"] = job("2", ImportState.COMPLETED, 100.0, files=files)
    here.listed = {**here.jobs, "2": job("2", ImportState.COMPLETED, 100.0)}
    *_, ended = asyncio.run(here.poll())
    assert ended.files == files
    assert here.asked == ["0", "1", "2"]


def test_a_list_that_fails_is_asked_for_ever_more_rarely(cluster: MakeCluster) -> None:
    here = cluster(2)
    here.trouble = ImportApiUnreachable("no list today")
    lists = []
    for _ in range(40):
        here.rounds(1)
        lists.append(len(here.lists))
    assert [lists.index(number) for number in range(1, 6)] == [0, 2, 6, 14, 30]
    assert len(here.asked) == 80


def test_a_list_that_recovers_is_shared_again(cluster: MakeCluster) -> None:
    here = cluster(2)
    here.trouble = ValueError("a defect")
    here.rounds(1)
    here.trouble = None
    here.rounds(6)
    assert len(here.lists) == 6  # but for one interval of rest
    assert here.asked == ["0", "1"] * 2 + ["0", "1", "0", "1", "0"]


@pytest.mark.parametrize(
    ("said", "listed", "shows_progress", "behind"),
    [
        (job("0", progress=60.0), job("0", progress=50.0), True, True),
        (job("0", progress=60.7), job("0", progress=60.0), True, False),
        (job("0", progress=60.0), job("0", progress=0.0), False, False),
        (job("0", ImportState.COMPLETED, 100.0), job("0", progress=99.0), False, True),
        (job("0", ImportState.FAILED, 0.0), job("0", progress=99.0), True, True),
        (job("0", progress=60.0), job("0", ImportState.FAILED, 0.0), True, False),
        (job("0", progress=60.0), job("9"), True, False),
    ],
)
def test_a_list_that_shows_less_than_a_job_itself_has_said_is_behind(
    cluster: MakeCluster, said: ImportJob, listed: ImportJob, shows_progress: bool, behind: bool
) -> None:
    here = cluster(4)
    here.shows_progress = shows_progress
    here.jobs["0"] = said
    here.listed = {**here.jobs, "0": job("0", progress=10.0)}
    here.rounds(1)  # the first gate checks, and its job says more than the list
    here.listed = {**here.jobs, "0": listed}
    if listed.job_id != "0":
        del here.listed["0"]
    here.asked.clear()
    here.rounds(1)
    assert (here.asked == ["0", "1", "2", "3"]) is behind


def test_a_list_that_is_behind_for_ever_is_asked_for_ever_more_rarely(cluster: MakeCluster) -> None:
    here = cluster(4)
    here.listed = dict(here.jobs)
    for percent in range(40):
        here.jobs = {job_id: job(job_id, progress=51.0 + percent) for job_id in here.jobs}
        here.rounds(1)
    assert len(here.lists) == 10  # in pairs: one is believed, and the next proves to be behind


def test_a_gate_whose_job_the_list_never_shows_asks_for_itself_from_then_on(cluster: MakeCluster) -> None:
    here = cluster(2)
    here.listed = {"0": here.jobs["0"]}
    for lists in (1, 2, 2, 2):  # the other is alone at last
        here.rounds(1)
        assert len(here.lists) == lists


def test_a_job_that_no_one_knows_does_not_make_its_gate_leave(cluster: MakeCluster) -> None:
    here = cluster(3)
    stranger = here.gate("new")

    async def story() -> None:
        for _ in range(4):
            with pytest.raises(ImportJobUnknown):
                await here.poll(stranger)
            await here.poll()
        here.jobs["new"] = job("new")
        await here.poll(stranger, *here.gates)
        here.asked.clear()
        await here.poll(stranger, *here.gates)
        assert len(here.asked) == 1

    asyncio.run(story())


def test_a_list_of_very_many_other_jobs_is_not_worth_it(cluster: MakeCluster) -> None:
    here = cluster(2)
    here.listed = {**here.jobs, **{f"other-{n}": job(f"other-{n}") for n in range(300)}}
    here.rounds(2)
    assert here.asked == ["0", "1"] * 2
    assert len(here.lists) == 1


@pytest.mark.parametrize(("gates", "pages"), [(2, 1), (19, 1), (20, 2), (1000, 100)])
def test_the_more_gates_the_more_pages(cluster: MakeCluster, gates: int, pages: int) -> None:
    here = cluster(gates)
    here.rounds(1)
    assert here.lists == [pages]


def test_the_last_gate_to_leave_ends_what_is_under_way_and_a_cancelled_one_does_not(cluster: MakeCluster) -> None:
    here = cluster(3)

    async def story() -> None:
        polls = [asyncio.create_task(poll(gate)) for gate in here.gates]
        await asyncio.sleep(0)
        polls[0].cancel()
        assert (await polls[1], await polls[2]) == (here.jobs["1"], here.jobs["2"])
        here.clock.sleep(INTERVAL + 0.1)
        asking = asyncio.create_task(poll(here.gates[1]))
        await asyncio.sleep(0)
        under_way = here.shared._under_way
        assert under_way is not None
        asking.cancel()
        for gate in here.gates:
            gate.__exit__()
        with pytest.raises(asyncio.CancelledError):
            await under_way

    asyncio.run(story())
