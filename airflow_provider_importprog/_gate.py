"""One gate: what it has seen so far, and what it makes of the next answer.

It does no I/O and sleeps nowhere. The sensor and the trigger ask the server, each in its own way, and tell the
gate what came of it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from airflow_provider_importprog import _messages
from airflow_provider_importprog.api.model import ImportJob, ImportState
from airflow_provider_importprog.exceptions import (
    ImportApiUnauthorized,
    ImportJobUnknown,
    ImportProgressException,
)
from airflow_provider_importprog.verdict import Verdict, judge

_LONGEST_BACK_OFF = 300.0
_SHORTEST_BACK_OFF = 0.1
_EPOCH = time.time() - time.monotonic()


def _now() -> float:
    """Return seconds since the epoch that never jump: a clock set anew must not end a gate."""
    return _EPOCH + time.monotonic()


class Logger(Protocol):
    """What a gate needs of a logger; Airflow 2 hands out another kind than Airflow 3."""

    def info(self, message: str, /, *args: Any) -> Any: ...
    def warning(self, message: str, /, *args: Any) -> Any: ...


@dataclass(frozen=True)
class GatePolicy:
    """What a gate is told to wait for, and how patient it is.

    :param wait_for: ``completed`` or ``uncommitted``.
    :param poke_interval: seconds between two questions.
    :param outage_tolerance: seconds without one good answer after which the gate gives up.
    :param unknown_job_grace: seconds for which the server may not know the job.
    """

    wait_for: str = "completed"
    allow_failed_files: bool = False
    poke_interval: float = 30.0
    outage_tolerance: float = 900.0
    unknown_job_grace: float = 60.0

    @property
    def two_phase(self) -> bool:
        """Whether it matters that an import awaits its commit."""
        return self.wait_for == "uncommitted"


@dataclass(frozen=True)
class Decision:
    """What a gate does next.

    :param message: why, in sentences; empty while it waits.
    :param job: the import job as last seen, or None.
    :param delay: while it waits, seconds to the next question.
    """

    verdict: Verdict
    message: str = ""
    job: ImportJob | None = None
    delay: float = 0.0


class Gate:
    """Waits for one import job.

    :param started_at: when the gate began to wait, in seconds since the epoch. It may lie before this process
        began: a gate outlives the worker that started it.
    :param log: where a person follows the gate.
    :param last_shown: another gate's `last_shown`, to go on where its log left off.
    :param job: the import job as another gate saw it last.
    """

    def __init__(
        self,
        job_id: str,
        policy: GatePolicy,
        *,
        log: Logger,
        started_at: float | None = None,
        last_shown: Sequence[Any] = (),
        job: ImportJob | None = None,
        clock: Callable[[], float] = _now,
    ) -> None:
        self.job_id = job_id
        self.policy = policy
        self.started_at = clock() if started_at is None else started_at
        self._clock = clock
        self._log = log
        self.job = job
        self._known_at = self.started_at
        self._outage_began: float | None = None
        self._failures = 0
        self._first_progress: tuple[float, float] | None = None
        self._last_shown = tuple(last_shown)
        self._said_unknown = False

    @property
    def waited(self) -> float:
        """Seconds since the gate began to wait."""
        return max(self._clock() - self.started_at, 0.0)

    @property
    def last_shown(self) -> list[Any]:
        """What the last line on the progress showed, as plain JSON."""
        return list(self._last_shown)

    def announce(self) -> None:
        """Log that the gate begins to wait."""
        self._log.info(
            "Waiting for import job %s to be %s, asking every %s.",
            self.job_id,
            self.policy.wait_for,
            _messages.span(self.policy.poke_interval),
        )

    def waits_for(self, job: ImportJob) -> bool:
        """Whether this gate would wait on for a job like this."""
        return self._judge(job) is Verdict.WAIT

    def answered(self, job: ImportJob) -> Decision:
        """Take a good answer. One from a list of jobs has no files, and on v1 no percentage."""
        now = self._clock()
        self._end_outage(now)
        self.job, self._known_at, self._said_unknown = job, now, False
        verdict = self._judge(job)
        if verdict is Verdict.WAIT:
            self._log_progress(job, now)
            return Decision(verdict, job=job, delay=self.policy.poke_interval)
        return Decision(verdict, _explain(verdict, job), job)

    def failed(self, error: ImportProgressException) -> Decision:
        """Take the error that came instead of a good answer."""
        if isinstance(error, ImportApiUnauthorized):
            return Decision(
                Verdict.UNAUTHORIZED,
                f"Import job {self.job_id} cannot be watched. {error} Check the login and the password of the "
                "connection, and the role of its user.",
                self.job,
            )
        if isinstance(error, ImportJobUnknown):
            return self._unknown(error)
        return self._outage(error)

    def _judge(self, job: ImportJob) -> Verdict:
        return judge(job, wait_for=self.policy.wait_for, allow_failed_files=self.policy.allow_failed_files)

    def _unknown(self, error: ImportJobUnknown) -> Decision:
        now = self._clock()
        self._end_outage(now)
        left = self.policy.unknown_job_grace - (now - self._known_at)
        if left > 0:
            if not self._said_unknown:
                self._said_unknown = True
                self._log.info("%s It may have been submitted a moment ago: waiting for it.", error)
            return Decision(Verdict.WAIT, job=self.job, delay=min(self.policy.poke_interval, left))
        return Decision(
            Verdict.JOB_UNKNOWN,
            f"{error} Either the id or the cluster is wrong, or the record has expired (Milvus keeps it for 3 "
            "hours after the job ends, unless configured otherwise). How the import ended is not known: look "
            "into the collection before you import again.",
            self.job,
        )

    def _outage(self, error: ImportProgressException) -> Decision:
        now = self._clock()
        if self._outage_began is None:
            self._outage_began = now
        left = self.policy.outage_tolerance - (now - self._outage_began)
        if left <= 0:
            return Decision(
                Verdict.UNREACHABLE,
                f"No good answer about import job {self.job_id} for {_messages.span(now - self._outage_began)} "
                f"(outage_tolerance is {_messages.span(self.policy.outage_tolerance)}). The import itself may "
                f"well go on. The last cause: {error}",
                self.job,
            )
        delay = min(self._back_off(getattr(error, "retry_after", None)), left)
        self._failures += 1
        self._log.warning(
            "No good answer about import job %s: %s Asking again in %s.",
            self.job_id,
            error,
            _messages.span(delay),
        )
        return Decision(Verdict.WAIT, job=self.job, delay=delay)

    def _back_off(self, retry_after: float | None) -> float:
        interval = max(self.policy.poke_interval, _SHORTEST_BACK_OFF)
        # 2.0**1024 overflows; the delay is capped long before.
        grown = min(interval * 2.0 ** min(self._failures, 32), max(interval, _LONGEST_BACK_OFF))
        # Gates that lost the server together must not come back together.
        jittered = grown * random.uniform(1.0, 1.25)  # noqa: S311 (spreads load, guards nothing)
        return max(jittered, retry_after or 0.0)

    def _end_outage(self, now: float) -> None:
        if self._outage_began is not None:
            self._log.info("The server answers again, after %s.", _messages.span(now - self._outage_began))
        self._outage_began, self._failures = None, 0

    def _log_progress(self, job: ImportJob, now: float) -> None:
        done, files = job.files_done
        rows = job.imported_rows
        if not files and self._last_shown:
            # A list of jobs leaves the files out, and on v1 the percentage: what it leaves out has not moved.
            _, percent, done, rows = self._last_shown
            job = replace(job, progress=job.progress or float(percent))
        if self._first_progress is None:
            self._first_progress = (now, job.progress)
        began, progress = self._first_progress
        gained = job.progress - progress
        left = (100 - job.progress) * (now - began) / gained if gained > 0 else None
        moved = (job.state.value, int(job.progress), done, rows)
        if moved == self._last_shown:
            return
        self._log.info("Import job %s: %s", self.job_id, _messages.progress(job, left))
        if job.state is ImportState.UNCOMMITTED and self._last_shown[:1] != moved[:1]:
            self._log.warning(
                "Import job %s is uncommitted: its rows stay invisible, and this gate closed, until somebody "
                "commits the job.",
                self.job_id,
            )
        self._last_shown = moved


def _explain(verdict: Verdict, job: ImportJob) -> str:
    target = f"Import job {job.job_id} into collection {_messages.ending(job.collection_name)!r}"
    if verdict is Verdict.JOB_FAILED:
        return f"{target} failed: {_messages.reason(job.error_message)}{_messages.failed_files(job, job.error_message)}"
    if verdict is Verdict.FILES_FAILED:
        return (
            f"{target} is {job.state}, but {len(job.failed_files)} of {len(job.files)} files failed."
            f"{_messages.failed_files(job)} Set allow_failed_files=True to go on without them."
        )
    return f"{target} is {job.state}: {_messages.totals(job)}."
