"""One list of import jobs for all gates that look at the same place.

A place is what one list call shows: the cluster and database of a connection, in the dialect that it speaks. While two
gates or more look at it, a list every interval tells most of them that their job goes on; a job that the list shows to
have ended, or does not show, is asked for by itself. So the list never decides anything but that a gate waits on, and
even that is checked: in turn, the gates ask for themselves too, and where the list proves to lie behind, or fails, all
of them do for a while.

Airflow 3.3 can share a stream of events between triggers (``BaseEventTrigger.shared_stream_key``). It was tried beside
this in ``tests/benchmark``, and is not used: it is not there on other versions, a poll that fails ends every gate that
shares it, a late gate sees nothing of what came before, and such triggers cannot be assigned to a triggerer's queue.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from time import monotonic

from airflow_provider_importprog.api.model import Brief, ImportJob, ImportState

log = logging.getLogger(__name__)

#: Asks for the list, at most so many pages of it, and says whether it shows how far each job is.
AskForList = Callable[[int], Awaitable[tuple[list[ImportJob], bool]]]

_FEWEST_GATES = 2
# A page of the list costs a request, and each job in it some time, which is worth it only where it saves more.
_GATES_A_PAGE = 10
_JOBS_A_GATE = 100
# One in so many gates asks for itself at each list.
_GATES_A_CHECK = 100
# A list that failed is asked for again after so many intervals, then after twice as many.
_FIRST_REST = 2
_LONGEST_REST = 16
# A list that does not show a job which the server knows will not be worth asking.
_MOST_MISSED = 2
_SPREAD = 1.1

_ENDED = frozenset({ImportState.COMPLETED, ImportState.FAILED})


@dataclass(frozen=True)
class Listing:
    """The import jobs of a place, as one list showed them.

    :param asked_at: when it was asked for, in seconds of the monotonic clock.
    :param shows_progress: whether a job's percentage means something.
    """

    asked_at: float
    jobs: Mapping[str, ImportJob]
    shows_progress: bool


class SharedList:
    """The list of one place, asked for when a gate needs a newer one, and by one gate for all."""

    def __init__(self, ask: AskForList) -> None:
        self._ask = ask
        self._gates: dict[Poller, None] = {}  # in the order in which they check the list
        self._latest: Listing | None = None
        self._under_way: asyncio.Task[Listing | None] | None = None
        self._answers: dict[str, ImportJob] = {}  # what jobs said of themselves since the latest list was asked for
        self._failures = 0
        self._rest_until = 0.0

    def join(self, gate: Poller) -> None:
        """Let a gate share the list."""
        self._gates[gate] = None

    def leave(self, gate: Poller) -> None:
        """Let a gate go; the others do not notice."""
        self._gates.pop(gate, None)
        if len(self._gates) < _FEWEST_GATES:
            self._answers.clear()
        if not self._gates and self._under_way is not None:
            self._under_way.cancel()

    async def newer(self, than: float, interval: float) -> Listing | None:
        """Return a list that was asked for after a moment, or None where a gate had better ask for itself.

        :param than: in seconds of the monotonic clock.
        :param interval: seconds; who asks does so about as often.
        """
        if self._latest is not None and self._latest.asked_at > than:
            return self._latest
        if self._under_way is None:
            if len(self._gates) < _FEWEST_GATES or monotonic() < self._rest_until:
                return None
            # A task of its own: the gate that happens to begin it may be cancelled, and the others wait for it too.
            self._under_way = asyncio.create_task(self._list(interval))
            self._under_way.add_done_callback(self._arrived)
        return await asyncio.shield(self._under_way)

    def answered(self, job: ImportJob) -> None:
        """Take note of what a job said of itself, to hold the next list against it."""
        if len(self._gates) >= _FEWEST_GATES:
            self._answers[job.job_id] = job.without_files()

    async def _list(self, interval: float) -> Listing | None:
        asked_at = monotonic()
        said, self._answers = self._answers, {}
        try:
            jobs, shows_progress = await self._ask(max(1, len(self._gates) // _GATES_A_PAGE))
        except Exception as error:
            self._rest(interval, f"The list of import jobs cannot be had: {error}")
            return None
        listing = Listing(asked_at, {job.job_id: job for job in jobs}, shows_progress)
        behind = next((job for job in said.values() if _lies_behind(listing, job)), None)
        if behind is not None:
            self._rest(interval, f"The list of import jobs lies behind: import job {behind.job_id} is {behind.state}.")
            return None
        if len(jobs) > _JOBS_A_GATE * len(self._gates):
            self._rest(interval, f"The list of import jobs holds {len(jobs):,}, too many for {len(self._gates)} gates.")
            return None
        self._failures = 0
        self._latest = listing
        for gate in list(self._gates)[: -(-len(self._gates) // _GATES_A_CHECK)]:
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
    """One gate's view of its import job: of the shared list, or of the job itself.

    :param interval: seconds between two looks.
    :param ask: asks for the job itself, without its files where its argument says so.
    """

    def __init__(
        self, shared: SharedList, job_id: str, interval: float, ask: Callable[[Brief], Awaitable[ImportJob]]
    ) -> None:
        #: The list of this moment is to be checked by asking for the job itself, in seconds of the monotonic clock.
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

    async def poll(self, waits: Brief) -> ImportJob:
        """Return the import job, without its files where a gate would wait on.

        :param waits: whether a gate would wait on for a job like this.
        :raises ImportProgressException: the job itself was asked for, and no good answer came.
        """
        listing = listed = None
        if self._missed < _MOST_MISSED:
            listing = await self._shared.newer(monotonic() - self._interval, self._interval)
            listed = listing and listing.jobs.get(self._job_id)
        self._seen_at = 0.0
        if listing and listed:
            self._missed = 0
            if waits(listed) and self.check_at != listing.asked_at:
                self._seen_at = listing.asked_at
                return listed
        job = await self._ask(waits)
        self._shared.answered(job)
        if listing and not listed:
            self._missed += 1
            if self._missed == _MOST_MISSED:
                self._shared.leave(self)
        return job

    async def pause(self, delay: float) -> None:
        """Sleep until the next look.

        :param delay: seconds since what the last look showed was asked for.
        """
        if self._seen_at:
            # A little more, or all who saw the same list would wake at once, and hold the event loop.
            delay = delay * random.uniform(1.0, _SPREAD) + self._seen_at - monotonic()  # noqa: S311 (guards nothing)
        await asyncio.sleep(delay)


def _lies_behind(listing: Listing, said: ImportJob) -> bool:
    """Say whether a list shows less of a job than the job itself had said before the list was asked for."""
    listed = listing.jobs.get(said.job_id)
    if listed is None:
        return False
    if said.state in _ENDED:
        return listed.state not in _ENDED
    return listing.shows_progress and listed.state not in _ENDED and listed.progress < int(said.progress)
