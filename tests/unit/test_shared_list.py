"""When gates share a list, when they ask for themselves, and what they hold against the list."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from contextvars import ContextVar
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from airflow_provider_importprog._shared_list import Poller, SharedList
from airflow_provider_importprog.api import ImportFile, ImportJob, ImportState
from airflow_provider_importprog.api.client import JobList, Progress
from airflow_provider_importprog.api.model import ENDED
from airflow_provider_importprog.exceptions import ImportApiUnreachable, ImportJobUnknown
from tests.unit.helpers import FakeTime

INTERVAL = 10.0

gate_of_this_task = ContextVar[str]("gate_of_this_task")


def job(job_id: str, state: ImportState = ImportState.IMPORTING, progress: float = 50.0, **more: Any) -> ImportJob:
    return ImportJob(job_id, "books", state, progress, **more)


class Cluster:
    """A cluster with gates, and a server that shows what it is told to.

    :param gates: how many there are from the start; each polls its job every 10 s until that ends.
    """

    def __init__(self, gates: int) -> None:
        self.jobs = {f"{n}": job(f"{n}") for n in range(gates)}
        self.listed: Mapping[str, ImportJob] | None = None  # None for the same
        self.shows_progress = True
        self.trouble: Exception | None = None
        self.latency = 0.0
        self.lists: list[float] = []  # when each was asked for
        self.pages: list[int] = []
        self.asked: list[str] = []
        self.asked_at: list[tuple[str, float]] = []
        self.shown: list[tuple[str, float]] = []
        self.gates: dict[str, asyncio.Task[ImportJob]] = {}
        self.shared = SharedList(self._list)
        self._loop = FakeTime()

    def follow(self, story: Coroutine[Any, Any, None] | float) -> None:
        """Let the gates poll while a story is told, or for so many seconds."""

        async def play() -> None:
            for job_id in [] if self.gates else self.jobs:
                self.add(job_id)
            await (asyncio.sleep(story) if isinstance(story, (int, float)) else story)

        self._loop.run_until_complete(play())

    def add(self, job_id: str, interval: float = INTERVAL, first: float | None = None) -> None:
        """Begin one more gate.

        :param first: seconds from its first poll to its second; None for the interval.
        """
        self.gates[job_id] = asyncio.create_task(self._gate(job_id, interval, interval if first is None else first))

    def end(self) -> None:
        for gate in self.gates.values():
            gate.cancel()
        self._loop.run_until_complete(asyncio.gather(*self.gates.values(), return_exceptions=True))
        assert asyncio.all_tasks(self._loop) == set()
        self._loop.close()

    async def _gate(self, job_id: str, interval: float, delay: float) -> ImportJob:
        def listed(one: ImportJob) -> float | None:
            assert gate_of_this_task.get() == job_id
            if one.collection_name == "defect":
                raise ZeroDivisionError
            self.shown.append((one.job_id, self._loop.now))
            return None if one.state in ENDED else interval

        gate_of_this_task.set(job_id)
        with Poller(self.shared, job_id, interval, self._ask, listed) as poller:
            await poller.pause(0.0)
            while True:
                try:
                    seen = await poller.ask(Progress(job_id))
                    if seen.state in ENDED:
                        return seen
                except ImportJobUnknown:
                    pass
                await poller.pause(delay)
                delay = interval

    async def _list(self, max_pages: int) -> JobList:
        self.lists.append(self._loop.now)
        self.pages.append(max_pages)
        await asyncio.sleep(self.latency)
        if self.trouble:
            raise self.trouble
        return JobList(list((self.jobs if self.listed is None else self.listed).values()), self.shows_progress)

    async def _ask(self, call: Progress) -> ImportJob:
        self.asked.append(call.job_id)
        self.asked_at.append((call.job_id, self._loop.now))
        if call.job_id not in self.jobs:
            raise ImportJobUnknown(f"no record of {call.job_id}")
        return self.jobs[call.job_id]


@pytest.fixture
def cluster(request: pytest.FixtureRequest) -> Any:
    def make(gates: int) -> Cluster:
        made = Cluster(gates)
        request.addfinalizer(made.end)
        return made

    return make


def test_one_gate_never_lists(cluster: Any) -> None:
    here = cluster(1)
    here.follow(35)
    assert (here.lists, here.asked) == ([], ["0"] * 4)


def test_one_list_serves_all_and_one_after_the_other_checks_it(cluster: Any) -> None:
    here = cluster(3)
    here.follow(55)
    assert here.lists == [0, 10, 20, 30, 40, 50]
    assert here.asked == ["0", "1", "2", "0", "1", "2"]


def test_of_very_many_gates_one_in_two_hundred_checks(cluster: Any) -> None:
    here = cluster(450)
    here.follow(15)
    assert here.asked == [f"{n}" for n in range(4)]


def test_a_list_is_good_for_an_interval(cluster: Any) -> None:
    here = cluster(3)
    here.latency = 0.5

    async def story() -> None:
        await asyncio.sleep(4)
        here.jobs["late"] = here.listed["late"] = job("late")
        here.add("late")
        await asyncio.sleep(21)

    here.listed = {**here.jobs, "late": job("late")}
    here.follow(story())
    assert here.lists == [0, 10, 20]
    assert [at for gate, at in here.shown if gate == "late"] == [4, 10.5, 20.5]
    assert [at for gate, at in here.shown if gate == "0"] == [10.5, 20.5]  # it checked the first


def test_each_gate_keeps_its_own_interval(cluster: Any) -> None:
    here = cluster(2)
    here.jobs["slow"] = job("slow")

    async def story() -> None:
        here.add("0")
        here.add("slow", 30.0)
        await asyncio.sleep(65)

    here.gates["none"] = here._loop.create_future()
    here.follow(story())
    assert here.lists == [0, 10, 20, 30, 40, 50, 60]
    for job_id, interval in (("0", 10), ("slow", 30)):  # shown the list, or checks it and asks
        assert sorted({at for gate, at in here.shown + here.asked_at if gate == job_id}) == [*range(0, 61, interval)]


def test_no_list_is_believed_that_is_older_than_what_the_job_itself_has_said(cluster: Any) -> None:
    here = cluster(2)

    async def story() -> None:
        await asyncio.sleep(4)
        here.add("new", first=3.0)  # not listed, so asked for at 4
        await asyncio.sleep(1)
        here.jobs["new"] = job("new")
        await asyncio.sleep(8)

    here.listed = dict(here.jobs)
    here.follow(story())
    assert here.lists == [0, 7]


def test_a_job_that_the_list_shows_to_have_ended_is_asked_for(cluster: Any) -> None:
    here = cluster(3)
    here.follow(5)
    files = (ImportFile("a.json", 1, ImportState.FAILED, 0.0, error_message="no such file"),)
    here.jobs["2"] = job("2", ImportState.COMPLETED, 100.0, files=files)
    here.listed = {**here.jobs, "2": replace(here.jobs["2"], files=())}
    here.follow(10)
    assert here.gates["2"].result().files == files
    assert here.asked == ["0", "1", "2"]


def test_a_list_that_fails_is_asked_for_ever_more_rarely(cluster: Any) -> None:
    here = cluster(2)
    here.trouble = ImportApiUnreachable("no list today")
    here.follow(395)
    assert here.lists == [0, 20, 60, 140, 300]
    assert len(here.asked) == 80


def test_a_list_that_recovers_is_shared_again(cluster: Any) -> None:
    here = cluster(2)
    here.trouble = ValueError("a defect")
    here.follow(5)
    here.trouble = None
    here.follow(60)
    assert here.lists == [0, 20, 30, 40, 50, 60]
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
    cluster: Any, said: ImportJob, listed: ImportJob, shows_progress: bool, behind: bool
) -> None:
    here = cluster(4)
    here.shows_progress = shows_progress
    here.jobs["0"] = said
    here.listed = {**here.jobs, "0": job("0", progress=10.0)}
    here.follow(5)  # the first gate checks, and its job says more than the list
    here.listed = {**here.jobs, "0": listed}
    if listed.job_id != "0":
        del here.listed["0"]
    here.asked.clear()
    here.follow(10)
    waiting = [job_id for job_id, gate in here.gates.items() if not gate.done()]
    assert (sorted(here.asked) == waiting) is behind


def test_a_list_that_is_behind_for_ever_is_asked_for_ever_more_rarely(cluster: Any) -> None:
    here = cluster(4)
    here.listed = dict(here.jobs)
    for percent in range(40):
        here.jobs = {job_id: job(job_id, progress=51.0 + percent) for job_id in here.jobs}
        here.follow(10)
    assert len(here.lists) == 10  # in pairs: one is believed, and the next proves to be behind


def test_a_gate_whose_job_the_list_never_shows_asks_for_itself_from_then_on(cluster: Any) -> None:
    here = cluster(2)
    here.listed = {"0": here.jobs["0"]}
    here.follow(45)
    assert here.lists == [0, 10]  # then the other is alone
    assert here.asked.count("1") == 5


def test_a_job_that_no_one_knows_does_not_make_its_gate_leave(cluster: Any) -> None:
    here = cluster(3)

    async def story() -> None:
        here.add("new")
        await asyncio.sleep(35)
        assert here.asked.count("new") == 4
        here.jobs["new"] = job("new")
        await asyncio.sleep(30)

    here.follow(story())
    assert [at for gate, at in here.shown if gate == "new"]


def test_a_list_of_very_many_other_jobs_is_not_worth_it(cluster: Any) -> None:
    here = cluster(2)
    here.listed = {**here.jobs, **{f"other-{n}": job(f"other-{n}") for n in range(300)}}
    here.follow(15)
    assert here.asked == ["0", "1"] * 2
    assert here.lists == [0]


@pytest.mark.parametrize(("gates", "pages"), [(2, 1), (19, 1), (20, 2), (1000, 100)])
def test_the_more_gates_the_more_pages(cluster: Any, gates: int, pages: int) -> None:
    here = cluster(gates)
    here.follow(5)
    assert here.pages == [pages]


def test_gates_that_are_cancelled_do_not_disturb_the_others(cluster: Any) -> None:
    here = cluster(4)
    here.latency = 2.0

    async def story() -> None:
        await asyncio.sleep(1)
        here.gates["0"].cancel()  # while the list that it needs is on its way
        await asyncio.sleep(4)
        here.gates["1"].cancel()  # while it waits
        await asyncio.sleep(20)

    here.follow(story())
    assert here.lists == [0, 10, 20]
    assert [gate for gate, at in here.shown if at == 12] == ["3"]  # it is the turn of "2" to check


def test_no_list_is_asked_for_the_sake_of_gates_that_are_gone(cluster: Any) -> None:
    here = cluster(3)

    async def story() -> None:
        here.jobs["soon"] = job("soon")
        here.add("soon", interval=3.0)
        await asyncio.sleep(1)
        here.gates["soon"].cancel()
        await asyncio.sleep(INTERVAL)

    here.follow(story())
    assert here.lists == [0, 10]


def test_gates_do_not_wait_for_a_list_that_takes_for_ever(cluster: Any) -> None:
    here = cluster(3)
    here.follow(5)
    here.latency = 1000.0
    here.follow(40)  # it is due at 10 s
    assert {gate for gate, at in here.asked_at if at == 40} == {"0", "1", "2"}


def test_the_last_gate_to_leave_ends_what_is_under_way(cluster: Any) -> None:
    here = cluster(2)
    here.latency = 100.0
    here.follow(1)
    for gate in here.gates.values():
        gate.cancel()
    here.follow(0.1)
    assert asyncio.all_tasks(here._loop) == set()


def test_gates_may_all_leave_in_the_moment_in_which_a_list_is_due(cluster: Any) -> None:
    here = cluster(2)

    async def story() -> None:
        loop = asyncio.get_running_loop()
        loop.call_at(INTERVAL, lambda: [gate.cancel() for gate in here.gates.values()])  # before the list's own timer
        for _ in range(2):
            for job_id in here.jobs:
                here.add(job_id)
            await asyncio.sleep(INTERVAL + 5)

    here.gates["none"] = here._loop.create_future()
    here.follow(story())
    assert here.lists == [0, 15, 25]


def test_a_gate_that_meets_a_defect_ends_alone(cluster: Any) -> None:
    here = cluster(3)
    here.follow(5)
    here.listed = {**here.jobs, "2": replace(here.jobs["2"], collection_name="defect")}
    here.follow(20)
    assert isinstance(here.gates["2"].exception(), ZeroDivisionError)
    assert here.lists == [0, 10, 20]


def test_the_event_loop_goes_on_while_a_list_is_shown_to_many(cluster: Any) -> None:
    here = cluster(100)
    seen = []

    async def story() -> None:
        await asyncio.sleep(10)
        while len(here.shown) < 190:
            await asyncio.sleep(0)
            seen.append(len(here.shown))

    here.follow(story())
    assert max(later - sooner for sooner, later in pairwise(seen)) <= 25
