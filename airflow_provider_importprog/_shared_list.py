"""One list of import jobs for all gates that poll the same cluster of a server.

While two gates or more poll it, a list every interval tells most of them that their job goes on; a job that the list
shows to have ended, or does not show, is asked for by itself. So the list never decides anything but that a gate waits
on, and even that is checked: one gate after the other asks for its own job too, the next list is compared with its
answer, and where the list proves to be behind, or fails, all of them ask for themselves for a while.

A gate that waits on is not woken: the list is shown to it where it waits, so that it costs neither a timer nor a switch
of tasks.

Airflow 3.3 can share a stream of events between triggers (``BaseEventTrigger.shared_stream_key``). It was measured
beside this (``docs/benchmarks.md`` of release 1.0.0), and is not used: it cost as much, it is not there on other
versions, a poll that fails ends every gate that shares it, a late gate sees nothing of what came before, and such
triggers cannot be assigned to a triggerer's queue.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from contextvars import copy_context
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count, islice

from airflow_provider_importprog.api.client import JobList, Progress
from airflow_provider_importprog.api.model import ENDED, ImportJob

log = logging.getLogger(__name__)

#: Asks for the list, at most so many pages of it.
AskForList = Callable[[int], Awaitable[JobList]]
#: Shows a gate its job as a list has it: returns the seconds to the next poll, or None where the gate does not wait on.
Listed = Callable[[ImportJob], "float | None"]

_FEWEST_GATES = 2
# A page of the list costs a request, and each job in it some time, which is worth it only where it saves more.
_GATES_A_PAGE = 10
_JOBS_A_GATE = 100
# One in so many gates asks for itself at each list.
_GATES_A_CHECK = 200
# Seconds. A list may take one interval, or this where it is shorter: no gate that is due asks meanwhile.
_SHORTEST_LIMIT = 30.0
# A list that failed is asked for again after so many intervals, then after twice as many.
_FIRST_REST = 2
_LONGEST_REST = 16
# A list that does not show a job which the server knows will not be worth asking.
_MOST_MISSED = 2
# A list is shown to so many gates before the event loop goes on: each of them may log a line.
_SHOWN_AT_ONCE = 25


@dataclass(frozen=True)
class Listing:
    """The import jobs of a cluster, as one list showed them.

    :param asked_at: when it was asked for, in seconds of the event loop's clock.
    :param shows_progress: whether a job's percentage means something.
    """

    asked_at: float
    jobs: Mapping[str, ImportJob]
    shows_progress: bool


class SharedList:
    """The list of one cluster, asked for where a gate is due that has seen the latest one."""

    def __init__(self, ask: AskForList) -> None:
        self._ask = ask
        self._gates: dict[Poller, None] = {}  # in the order in which they check the list
        self._waiting: list[_Waiting] = []  # a heap
        self._numbers = count()
        self._timer: asyncio.TimerHandle | None = None
        self._showing: asyncio.Task[None] | None = None
        self._latest: Listing | None = None
        self._checks: list[ImportJob] = []  # what the gates that check the latest list were told of their own jobs
        self._failures = 0
        self._rest_until = -math.inf

    def join(self, gate: Poller) -> None:
        """Let a gate share the list."""
        self._gates[gate] = None

    def leave(self, gate: Poller) -> None:
        """Let a gate go; the others do not notice."""
        self._gates.pop(gate, None)
        if not self._gates:
            self._waiting.clear()
            self._set_timer()
            if self._showing is not None:
                self._showing.cancel()

    def __contains__(self, gate: Poller) -> bool:
        return gate in self._gates

    def wait(self, gate: Poller, due_at: float) -> asyncio.Future[None]:
        """Return what is done when a gate has to ask for its own job: when it is due, and no list is enough for it.

        :param due_at: in seconds of the event loop's clock.
        """
        woken = asyncio.get_running_loop().create_future()
        heappush(self._waiting, (due_at, next(self._numbers), gate, woken))
        self._set_timer()
        return woken

    def checked(self, job: ImportJob) -> None:
        """Compare the next list with what a gate was told of its own job after the latest one."""
        self._checks.append(job.without_files())

    @property
    def _of_use(self) -> bool:
        """Whether gates share the list now: there are enough of them, and it does not rest after a failure."""
        return len(self._gates) >= _FEWEST_GATES and _now() >= self._rest_until

    def _set_timer(self) -> None:
        """Look again when the first gate is due. Who shows the list does so by itself."""
        due_at = self._waiting[0][0] if self._waiting and self._showing is None else math.inf
        if self._timer is not None:
            if self._timer.when() == due_at:
                return
            self._timer.cancel()
            self._timer = None
        if due_at < math.inf:
            self._timer = asyncio.get_running_loop().call_at(due_at, self._look)

    def _look(self) -> None:
        """Wake the gates that are due, or show them the list."""
        self._timer = None
        if self._of_use:
            # A task of its own: a gate may be cancelled, and the others wait for the list too.
            self._showing = asyncio.create_task(self._show())
            self._showing.add_done_callback(self._shown)  # also of one that is cancelled before it begins
            return
        for waiting in self._due():
            self._tell(waiting, None)
        self._set_timer()

    def _due(self) -> list[_Waiting]:
        due, now = [], _now()
        while self._waiting and self._waiting[0][0] <= now:
            waiting = heappop(self._waiting)
            if not waiting[-1].done():  # else the gate was cancelled: no list is worth asking for it
                due.append(waiting)
        return due

    async def _show(self) -> None:
        """Show the list to the gates that are due, until none is."""
        while due := self._due():
            if self._of_use and not all(gate.takes(self._latest, due_at) for due_at, _, gate, _ in due):
                await self._renew(due[0][2].interval)
            listing = self._latest if self._of_use else None
            for number, waiting in enumerate(due, 1):
                self._tell(waiting, listing)
                if number % _SHOWN_AT_ONCE == 0:
                    await asyncio.sleep(0)

    def _shown(self, task: asyncio.Task[None]) -> None:
        self._showing = None
        self._set_timer()

    def _tell(self, waiting: _Waiting, listing: Listing | None) -> None:
        _, number, gate, woken = waiting
        if woken.done():  # the gate was cancelled meanwhile
            return
        try:
            due_at = gate.see(listing)
        except Exception as error:
            woken.set_exception(error)
            return
        if due_at is None:
            woken.set_result(None)
        else:
            heappush(self._waiting, (due_at, number, gate, woken))

    async def _renew(self, interval: float) -> None:
        asked_at = _now()
        checks, self._checks = self._checks, []
        try:
            listed = await asyncio.wait_for(
                self._ask(max(1, len(self._gates) // _GATES_A_PAGE)), max(interval, _SHORTEST_LIMIT)
            )
        except asyncio.TimeoutError:
            return self._rest(interval, "The list of import jobs takes too long.")
        except Exception as error:
            return self._rest(interval, f"The list of import jobs cannot be had: {error}")
        listing = Listing(asked_at, {job.job_id: job for job in listed.jobs}, listed.shows_progress)
        behind = next((job for job in checks if _is_behind(listing, job)), None)
        if behind is not None:
            return self._rest(
                interval, f"The list of import jobs is behind: import job {behind.job_id} is {behind.state}."
            )
        jobs, gates = len(listed.jobs), len(self._gates)
        if jobs > _JOBS_A_GATE * gates:
            return self._rest(interval, f"The list of import jobs holds {jobs:,}, too many for {gates} gates.")
        if checks:  # else it is not known to be any better than the last one
            self._failures = 0
        self._latest = listing
        for gate in list(islice(self._gates, max(gates // _GATES_A_CHECK, 1))):
            gate.checks = True
            self._gates[gate] = self._gates.pop(gate)
        return None

    def _rest(self, interval: float, reason: str) -> None:
        rest = interval * min(_FIRST_REST * 2**self._failures, _LONGEST_REST)
        self._rest_until = _now() + rest
        self._failures = min(self._failures + 1, 32)
        self._latest = None
        log.info("%s The gates that shared it ask for themselves for %.0f s.", reason, rest)


class Poller:
    """Polls one gate's import job: in the shared list, or by itself.

    :param interval: seconds between two polls.
    :param ask: asks the server for the job itself.
    :param listed: shows the gate its job as the list has it.
    """

    def __init__(
        self,
        shared: SharedList,
        job_id: str,
        interval: float,
        ask: Callable[[Progress], Awaitable[ImportJob]],
        listed: Listed,
    ) -> None:
        self.interval = interval
        #: The latest list is to be checked by asking for the job itself.
        self.checks = False
        self._shared = shared
        self._job_id = job_id
        self._ask = ask
        self._listed = listed
        self._context = copy_context()
        self._seen_at = -math.inf
        self._missing = False  # in the list that was seen last
        self._missed = 0  # lists in a row that did not show the job, which the server knew

    def __enter__(self) -> Poller:
        self._shared.join(self)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._shared.leave(self)

    def pause(self, delay: float) -> Awaitable[None]:
        """Wait until the job itself is to be asked for.

        :param delay: seconds until that, or until the list may tell that the gate waits on.
        """
        return self._shared.wait(self, _now() + delay) if self in self._shared else asyncio.sleep(delay)

    async def ask(self, call: Progress) -> ImportJob:
        """Ask for the job itself.

        :raises ImportProgressException: no good answer came.
        """
        self._seen_at = _now()
        job = await self._ask(call)
        if self.checks:
            self.checks = False
            self._shared.checked(job)
        if self._missing:
            self._missed += 1
            if self._missed == _MOST_MISSED:
                self._shared.leave(self)
        return job

    def takes(self, listing: Listing | None, due_at: float) -> bool:
        """Whether a list is news for this gate, and not older than it may be."""
        return listing is not None and listing.asked_at > max(self._seen_at, due_at - self.interval)

    def see(self, listing: Listing | None) -> float | None:
        """Take a list, or None where none is to be had: return when the gate is due next, or None to wake it."""
        job = None if listing is None else listing.jobs.get(self._job_id)
        self._missing = listing is not None and job is None
        if listing is None or job is None:
            return None
        self._missed = 0
        if self.checks:
            return None
        self._seen_at = listing.asked_at
        # What it logs goes to the log of the gate's own task.
        delay = self._context.run(self._listed, job)
        return None if delay is None else listing.asked_at + delay


# When a gate is due, what puts those in order that are due at once, the gate, and what wakes it.
_Waiting = tuple[float, int, Poller, "asyncio.Future[None]"]


def _now() -> float:
    return asyncio.get_running_loop().time()


def _is_behind(listing: Listing, said: ImportJob) -> bool:
    """Say whether a list shows less of a job than was known of it before the list was asked for."""
    listed = listing.jobs.get(said.job_id)
    if listed is None:
        return False
    if said.state in ENDED:
        return listed.state not in ENDED
    return listing.shows_progress and listed.state not in ENDED and listed.progress < int(said.progress)
