"""Which import jobs have ended before, so that a watcher tells of each new one; kept in Airflow's asset state store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from hashlib import sha256
from time import time
from typing import Any

from airflow_provider_importprog._gate import Logger
from airflow_provider_importprog.api.model import ENDED, ImportJob

# Seconds. A list may lack jobs for a while: page by page, one is missed when another expires in between, and Milvus
# leaves out silently what a role may not see. What comes back within this time is not new.
_REMEMBERED = 24 * 3600.0
# Seconds, of two: the triggerer takes events over once a second (TriggerRunner.arun), and stores what it has been given
# after each answer (TriggerRunnerSupervisor.run_once).
_HANDED_ON = 2.0

#: By the id of each ended job, since when lists lack it, in seconds since the epoch; None where the last one had it.
Ended = dict[str, float | None]


def ended_by_now(before: Mapping[str, float | None], jobs: Iterable[ImportJob], now: float) -> Ended:
    """Return what has ended, after a list of all jobs has come."""
    listed = {job.job_id: job.state in ENDED for job in jobs}
    missing = {job_id: since or now for job_id, since in before.items() if job_id not in listed}
    return {
        **{job_id: None for job_id, ended in listed.items() if ended or job_id in before},
        **{job_id: since for job_id, since in missing.items() if now - since < _REMEMBERED},
    }


class EndedJobs:
    """The ended import jobs of one place, as they were when a list was last taken in.

    :param place: what tells these jobs from others, as JSON; the store's key holds a digest of it.
    :param store: Airflow's asset state store, or None where only this process remembers.
    """

    def __init__(self, place: Any, store: Any, log: Logger) -> None:
        self.place = place
        self._key = f"importprog_ended_{sha256(json.dumps(place).encode()).hexdigest()[:32]}"
        self._store = store
        self._log = log
        self._stored: Ended | None = None
        #: None before the first list of all.
        self.known: Ended | None = None

    async def recall(self) -> None:
        """Read what is stored."""
        try:
            stored = await self._read()
        except ValueError:
            # AssetStateStoreAccessors has one store for each asset, and does not say which is ours.
            self._log.warning(
                "More than one asset is watched with the same arguments, and Airflow gives them one trigger with no "
                "store of its own (%r): this process alone remembers which import jobs have ended, and those that end "
                "while it does not run bring no event. Let each watcher have another poke_interval.",
                self._store,
            )
            self._store = None
        else:
            if isinstance(stored, dict):
                self.known = self._stored = stored

    def new(self, jobs: Iterable[ImportJob]) -> list[ImportJob]:
        """Return those that have ended since the last list; none before the first: what had ended then is old."""
        return [] if self.known is None else [j for j in jobs if j.state in ENDED and j.job_id not in self.known]

    async def take_in(self, jobs: Iterable[ImportJob]) -> None:
        """Remember a list, once the events of its new jobs are stored: who is killed before tells of them again."""
        self.known = ended_by_now(self.known or {}, jobs, time())
        if self._store is None or self.known == self._stored:
            return
        for _ in range(2):
            # Requests are answered in their order: what was asked after an answer came is read after that was stored.
            await self._read()
            await asyncio.sleep(_HANDED_ON)
        await asyncio.to_thread(self._store.set, self._key, self.known)
        self._stored = self.known

    async def _read(self) -> Any:
        # In a thread: 3.3.0 and 3.3.1 have no `aget`, and a backend for the values may block.
        return await asyncio.to_thread(self._store.get, self._key)
