"""One list of import jobs for all gates that poll the same cluster of a server.

While two gates or more poll it, a list every interval tells most of them that their job goes on; a job that the list
shows to have ended, or does not show, is asked for by itself. So the list never decides anything but that a gate waits
on, and even that is checked: one gate after the other asks for its own job too, the next list is compared with its
answer, and where the list proves to be behind, or fails, all of them ask for themselves for a while.

Airflow 3.3 can share a stream of events between triggers (``BaseEventTrigger.shared_stream_key``). It was measured
beside this (``docs/benchmarks.md`` of release 1.0.0), and is not used: it cost as much, it is not there on other
versions, a poll that fails ends every gate that shares it, a late gate sees nothing of what came before, and such
triggers cannot be assigned to a triggerer's queue.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from itertools import islice
from time import monotonic
from typing import Any

from airflow_provider_importprog.api.client import JobList, Progress
from airflow_provider_importprog.api.model import ENDED, ImportJob

log = logging.getLogger(__name__)

#: Asks for the list, at most so many pages of it.
AskForList = Callable[[int], Awaitable[JobList]]

_FEWEST_GATES = 2
# A page of the list costs a request, and each job in it some time, which is worth it only where it saves more.
_GATES_A_PAGE = 10
_JOBS_A_GATE = 100
# One in so many gates asks for itself at each list.
_GATES_A_CHECK = 200
# A list that failed is asked for again after so many intervals, then after twice as many.
_FIRST_REST = 2
_LONGEST_REST = 16
# A list that does not show a job which the server knows will not be worth asking.
_MOST_MISSED = 2
_SPREAD = 1.05


@dataclass(frozen=True)
class Listing:
    """The import jobs of a cluster, as one list showed them.

    :param asked_at: when it was asked for, in seconds of the monotonic clock.
    :param shows_progress: whether a job's percentage means something.
    """

    asked_at: float
    jobs: Mapping[str, ImportJob]
    shows_progress: bool


class SharedList:
    """The list of one cluster, asked for when a gate needs a newer one, and by one gate for all."""

    def __init__(self, ask: AskForList) -> None:
        self._ask = ask
        self._gates: dict[Poller, None] = {}  # in the order in which they check the list
        self._latest: Listing | None = None
        self._under_way: asyncio.Task[Listing | None] | None = None
        self._checks: list[ImportJob] = []  # what the gates that check the latest list were told of their own jobs
        self._failures = 0
        self._rest_until = 0.0

    def join(self, gate: Poller) -> None:
        """Let a gate share the list."""
        self._gates[gate] = None

    def leave(self, gate: Poller) -> None:
        """Let a gate go; the others do not notice."""
        self._gates.pop(gate, None)
        if not self._gates and self._under_way is not None:
            self._under_way.cancel()

    @property
    def of_use(self) -> bool:
        """Whether gates share the list now: there are enough of them, and it does not rest after a failure."""
        return len(self._gates) >= _FEWEST_GATES and monotonic() >= self._rest_until

    async def newer(self, than: float, interval: float) -> Listing | None:
        """Return a list that was asked for later than that, or None where none is to be had.

        :param than: in seconds of the monotonic clock.
        :param interval: seconds; who asks does so about as often.
        """
        if self._latest is not None and self._latest.asked_at > than:
            return self._latest
        if self._under_way is None:
            # A task of its own: the gate that happens to begin it may be cancelled, and the others wait for it too.
            self._under_way = asyncio.create_task(self._list(interval))
            self._under_way.add_done_callback(self._arrived)
        return await asyncio.shield(self._under_way)

    def checked(self, job: ImportJob) -> None:
        """Compare the next list with what a gate was told of its own job after the latest one."""
        self._checks.append(job.without_files())

    async def _list(self, interval: float) -> Listing | None:
        asked_at = monotonic()
        checks, self._checks = self._checks, []
        try:
            listed = await self._ask(max(1, len(self._gates) // _GATES_A_PAGE))
        except Exception as error:
            self._rest(interval, f"The list of import jobs cannot be had: {error}")
            return None
        listing = Listing(asked_at, {job.job_id: job for job in listed.jobs}, listed.shows_progress)
        behind = next((job for job in checks if _is_behind(listing, job)), None)
        if behind is not None:
            self._rest(interval, f"The list of import jobs is behind: import job {behind.job_id} is {behind.state}.")
            return None
        jobs, gates = len(listed.jobs), len(self._gates)
        if jobs > _JOBS_A_GATE * gates:
            self._rest(interval, f"The list of import jobs holds {jobs:,}, too many for {gates} gates.")
            return None
        if checks:  # else it is not known to be any better than the last one
            self._failures = 0
        self._latest = listing
        for gate in list(islice(self._gates, -(-gates // _GATES_A_CHECK))):
            gate.check_at = asked_at
            self._gates[gate] = self._gates.pop(gate)
        return listing

    def _rest(self, interval: float, reason: str) -> None:
        rest = interval * min(_FIRST_REST * 2**self._failures, _LONGEST_REST)
        self._rest_until = monotonic() + rest
        self._failures = min(self._failures + 1, 32)
        self._latest = None
        log.info("%s The gates that shared it ask for themselves for %.0f s.", reason, rest)

    def _arrived(self, task: asyncio.Task[Listing | None]) -> None:
        self._under_way = None


class Poller:
    """Polls one gate's import job: in the shared list, or by itself.

    :param interval: seconds between two polls.
    :param ask: asks the server for the job itself.
    """

    def __init__(
        self, shared: SharedList, job_id: str, interval: float, ask: Callable[[Progress], Awaitable[ImportJob]]
    ) -> None:
        #: The list that was asked for then is to be checked by asking for the job itself. Seconds, monotonic.
        self.check_at = 0.0
        self._shared = shared
        self._job_id = job_id
        self._interval = interval
        self._ask = ask
        self._seen_at = 0.0
        self._missed = 0  # in a row, lists that did not show the job

    def __enter__(self) -> Poller:
        self._shared.join(self)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._shared.leave(self)

    async def poll(self, call: Progress) -> ImportJob:
        """Return the import job that a call asks for; from the list, without its files, where a gate would wait on.

        :raises ImportProgressException: the job itself was asked for, and no good answer came.
        """
        self._seen_at = 0.0
        if self._missed == _MOST_MISSED or not self._shared.of_use:
            return await self._ask(call)
        listing = await self._shared.newer(monotonic() - self._interval, self._interval)
        if listing is None:
            return await self._ask(call)
        listed, checks = listing.jobs.get(self._job_id), self.check_at == listing.asked_at
        if listed and not checks and call.brief and call.brief(listed):
            self._missed = 0
            self._seen_at = listing.asked_at
            return listed
        job = await self._ask(call)
        if checks:
            self._shared.checked(job)
        self._missed = 0 if listed else self._missed + 1
        if self._missed == _MOST_MISSED:
            self._shared.leave(self)
        return job

    def pause(self, delay: float) -> Coroutine[Any, Any, None]:
        """Sleep until the next poll.

        :param delay: seconds from when that was asked for which the last poll returned.
        """
        if self._seen_at:
            # A little more, or all who saw the same list would wake at once, and hold the event loop.
            delay = delay * random.uniform(1.0, _SPREAD) + self._seen_at - monotonic()  # noqa: S311 (guards nothing)
        return asyncio.sleep(delay)


def _is_behind(listing: Listing, said: ImportJob) -> bool:
    """Say whether a list shows less of a job than was known of it before the list was asked for."""
    listed = listing.jobs.get(said.job_id)
    if listed is None:
        return False
    if said.state in ENDED:
        return listed.state not in ENDED
    return listing.shows_progress and listed.state not in ENDED and listed.progress < int(said.progress)
