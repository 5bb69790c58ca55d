"""One gate: what it has seen so far, and what it makes of the next answer.

It does no I/O and sleeps nowhere. The sensor and the trigger ask the server, each in its own way, and tell the
gate what came of it.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Protocol

from airflow_provider_importprog import _messages
from airflow_provider_importprog.api.model import ImportJob, ImportState
from airflow_provider_importprog.exceptions import (
    ImportApiUnauthorized,
    ImportJobUnknown,
    ImportProgressException,
    ImportSettingInvalid,
)
from airflow_provider_importprog.verdict import Verdict, judge

XCOM_RETURN_KEY = "return_value"
XCOM_JOB_KEY = "import_job"

_LONGEST_BACK_OFF = 300.0
_SHORTEST_BACK_OFF = 0.1
# Two answers "unknown" lie that far apart at the least, where the grace does not say more.
_UNKNOWN_PAUSE = 5.0
_EPOCH = time.time() - time.monotonic()


def seconds_now() -> float:
    """Return seconds since the epoch that never go back: a clock set anew must not end a gate."""
    return _EPOCH + time.monotonic()


class Logger(Protocol):
    """What a gate needs of a logger; Airflow 2 hands out another kind than Airflow 3."""

    def info(self, message: str, /, *args: Any) -> Any: ...
    def warning(self, message: str, /, *args: Any) -> Any: ...
    def error(self, message: str, /, *args: Any) -> Any: ...


@dataclass(frozen=True)
class GatePolicy:
    """What a gate waits for, and for how long. All times are in seconds.

    :param wait_for: ``completed`` or ``uncommitted``.
    :param allow_failed_files: open although some file was not imported.
    :param min_rows: fewer imported rows than that fail the gate; None for any number.
    :param poke_interval: between two polls.
    :param outage_tolerance: without one good answer, after which the gate fails.
    :param unknown_job_grace: for which the server may not know the job, from its first answer that says so.
    :param stall_warning: without progress, after which the gate warns; 0 for never.
    :param exponential_backoff: wait as long again as was waited so far, from one poll to the next.
    :param max_wait: no longer than that between two polls, unless the server asks for it; None for no limit.
    :param silent_fail: log what is not final, and wait on.
    """

    wait_for: str = "completed"
    allow_failed_files: bool = False
    min_rows: int | None = None
    poke_interval: float = 30.0
    outage_tolerance: float = 900.0
    unknown_job_grace: float = 60.0
    stall_warning: float = 1800.0
    exponential_backoff: bool = False
    max_wait: float | None = None
    silent_fail: bool = False

    @property
    def two_phase(self) -> bool:
        """Whether it matters that an import awaits its commit."""
        return self.wait_for == "uncommitted"

    def interval(self, waited: float) -> float:
        """Return the seconds to the next poll. What was waited says it all, so processes need not count polls."""
        if not self.exponential_backoff:
            return self.poke_interval
        return min(waited + self.poke_interval, math.inf if self.max_wait is None else self.max_wait)


@dataclass
class GateState:
    """What a gate has seen so far, for the process that goes on with it. All times in seconds since the epoch.

    :param started_at: when the gate began to wait.
    :param asked_at: when the last answer came; None for `started_at`, or for no answer yet.
    :param delay: how long it was to wait then; None for the policy's interval.
    :param unknown_since: when the first answer "unknown" in a row came; None where the last answer knew the job.
    :param unknown_answers: how many there were.
    :param outage_since: when the first failure in a row came; None where the last poll had an answer.
    :param failures: how many there were.
    :param last_shown: what the last line on the progress showed: state, percent, files done, rows.
    :param progress_at: when it changed last; None for `started_at`.
    :param stall_warned: whether the gate has warned since.
    """

    started_at: float
    asked_at: float | None = None
    delay: float | None = None
    unknown_since: float | None = None
    unknown_answers: int = 0
    outage_since: float | None = None
    failures: int = 0
    last_shown: tuple[Any, ...] = ()
    progress_at: float | None = None
    stall_warned: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON, without `started_at`, which travels by itself, and what is as it would be anyway."""
        plain = {name: value for name, value in asdict(self).items() if value != _DEFAULTS[name]}
        started_at = plain.pop("started_at")
        for name in ("asked_at", "progress_at"):
            # A triggerer of release 0.1.0 knows `started_at` and `last_shown` alone, and a second does not matter.
            if abs(plain.get(name, started_at) - started_at) < 1:
                plain.pop(name, None)
        return {**plain, "last_shown": list(self.last_shown)} if self.last_shown else plain

    @classmethod
    def from_dict(cls, plain: Any, started_at: Any, last_shown: Any = ()) -> GateState:
        """Return what :meth:`to_dict` was made of. What this release does not know, or cannot read, is left out.

        :param started_at: now where it is no time.
        :param last_shown: for where `plain` does not say.
        """
        known = {"last_shown": last_shown, **(plain if isinstance(plain, dict) else {})}
        readable = {name: known[name] for name, check in _READABLE.items() if name in known and check(known[name])}
        if "last_shown" in readable:
            readable["last_shown"] = tuple(readable["last_shown"])
        return cls(started_at if _is_time(started_at) else seconds_now(), **readable)

    def without_trouble(self) -> GateState:
        """Return the state of a gate whose last answer was a good one."""
        return replace(self, unknown_since=None, unknown_answers=0, outage_since=None, failures=0)

    def perhaps_known(self) -> GateState:
        """Return the state where good answers may have come since: two more "unknown" are needed to believe it."""
        return replace(self, unknown_answers=0)

    def not_after(self, time: float) -> GateState:
        """Return the state with no time in the future: the clock of another process may have been ahead."""
        return replace(self, **{name: min(at, time) for name in _TIMES if (at := getattr(self, name)) is not None})


def _is_time(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_shown(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) == 4
        and isinstance(value[0], str)
        and all(map(_is_count, value[1:3]))
        and (value[3] is None or _is_count(value[3]))
    )


_TIMES = ("started_at", "asked_at", "unknown_since", "outage_since", "progress_at")
_DEFAULTS = {each.name: each.default for each in fields(GateState)}
_READABLE: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys((*_TIMES[1:], "delay"), _is_time),
    **dict.fromkeys(("unknown_answers", "failures"), _is_count),
    "last_shown": _is_shown,
    "stall_warned": lambda value: isinstance(value, bool),
}


@dataclass(frozen=True)
class Decision:
    """What a gate does next.

    :param message: why, in sentences; empty while it waits.
    :param job: the import job as last seen, or None.
    :param delay: while it waits, seconds to the next poll.
    :param error: what came instead of a good answer, where that decided.
    """

    verdict: Verdict
    message: str = ""
    job: ImportJob | None = None
    delay: float = 0.0
    error: ImportProgressException | None = None


class Gate:
    """Waits for one import job.

    :param state: what an earlier process saw: a gate outlives the worker that started it. None to begin to wait.
    :param log: where a person follows the gate.
    :param job: the import job as another gate saw it last.
    :param timeout: seconds after which whoever asks gives up: no delay is longer than what is left of them.
    """

    def __init__(
        self,
        job_id: str,
        policy: GatePolicy,
        *,
        log: Logger,
        state: GateState | None = None,
        job: ImportJob | None = None,
        timeout: float = math.inf,
        clock: Callable[[], float] = seconds_now,
    ) -> None:
        self.job_id = job_id
        self.policy = policy
        self.job = job
        self.state = GateState(clock()) if state is None else state.not_after(clock())
        self._timeout = timeout
        self._clock = clock
        self._log = log
        # Where a rate begins that tells the time left; in this process alone, which is good enough for an estimate.
        self._first_progress: tuple[float, float] | None = None

    @property
    def waited(self) -> float:
        """Seconds since the gate began to wait."""
        return self._clock() - self.state.started_at

    @property
    def time_left(self) -> float:
        """Seconds until whoever asks gives up; 0 or less when that time has come."""
        return self._timeout - self.waited

    @property
    def next_poll_in(self) -> float:
        """Seconds to the next poll, counted from the last answer, which an earlier process may have had."""
        asked_at = self.state.started_at if self.state.asked_at is None else self.state.asked_at
        delay = self.policy.interval(asked_at - self.state.started_at) if self.state.delay is None else self.state.delay
        return max(asked_at + delay - self._clock(), 0.0)

    @property
    def too_soon_unknown(self) -> bool:
        """Whether the grace is over, and the job is not unknown for good only because no second answer said so."""
        since = self.state.unknown_since
        return (
            since is not None
            and self.state.unknown_answers == 1
            and self._clock() - since >= self.policy.unknown_job_grace
        )

    def announce(self) -> None:
        """Log that the gate begins to wait."""
        self._log.info(
            "Waiting for import job %s to be %s, asking every %s%s.",
            self.job_id,
            self.policy.wait_for,
            _messages.span(self.policy.poke_interval),
            " at first, and then less and less often" if self.policy.exponential_backoff else "",
        )

    def opens(self, decision: Decision) -> None:
        """Log that the gate opens, and what its job lacks."""
        self._log.info("The gate opens after %s. %s", _messages.span(self.waited), decision.message)
        if decision.job is not None and (shortfalls := _messages.shortfalls(decision.job)):
            self._log.warning(
                "Import job %s is completed, but %s. Check the collection; min_rows=... makes a gate fail for "
                "missing rows.",
                decision.job.job_id,
                shortfalls,
            )

    def waits_for(self, job: ImportJob) -> bool:
        """Whether this gate would wait on for a job like this."""
        return self._judge(job) is Verdict.WAIT

    def needs_no_files(self, job: ImportJob) -> bool:
        """Whether the decision on a job like this is the same without its files: none failed, or it goes on anyway."""
        done, files = job.files_done
        return done == files or self.waits_for(job)

    def listed(self, job: ImportJob) -> float | None:
        """Take a job as a list shows it, without files, and on v1 without a percentage.

        It returns the seconds to the next poll, or None where the job itself is to be asked for: where the gate does
        not wait on, or where it would warn of a job that stands still, which a list cannot tell.
        """
        return self._goes_on(job).delay if self.waits_for(job) and not self._stands_still(job) else None

    def answered(self, job: ImportJob) -> Decision:
        """Take a good answer about the job itself."""
        verdict = self._judge(job)
        if verdict is Verdict.WAIT:
            return self._goes_on(job)
        self._known(job)
        message = _explain(verdict, job, self.policy)
        if verdict is Verdict.SETTING_INVALID and self.policy.silent_fail:
            return self._wait_silently(message)
        return Decision(verdict, message, job)

    def failed(self, error: ImportProgressException, *, passes: bool = False) -> Decision:
        """Take the error that came instead of a good answer.

        :param passes: it may be over at the next poll, although its class says that a setting is wrong.
        """
        self.state.asked_at = self._clock()
        if isinstance(error, ImportSettingInvalid) and not passes:
            decision = Decision(Verdict.SETTING_INVALID, str(error), self.job, error=error)
        elif isinstance(error, ImportApiUnauthorized):
            decision = Decision(
                Verdict.UNAUTHORIZED,
                f"The state of import job {self.job_id} cannot be read. {error} Check the login and the password of "
                "the connection, and the role of its user.",
                self.job,
                error=error,
            )
        elif isinstance(error, ImportJobUnknown):
            return self._unknown(error)
        else:
            decision = self._outage(error)
        if self.policy.silent_fail and decision.verdict is not Verdict.WAIT:
            return self._wait_silently(decision.message)
        return decision

    def _judge(self, job: ImportJob) -> Verdict:
        return judge(
            job,
            wait_for=self.policy.wait_for,
            allow_failed_files=self.policy.allow_failed_files,
            min_rows=self.policy.min_rows,
        )

    def _goes_on(self, job: ImportJob) -> Decision:
        self._log_progress(job, self._known(job))
        return self._wait()

    def _known(self, job: ImportJob) -> float:
        """Take in that the server knows the job, and return when it said so."""
        now = self._clock()
        self._end_outage(now)
        self.job = job
        self.state.asked_at, self.state.unknown_since, self.state.unknown_answers = now, None, 0
        return now

    def _wait(self, delay: float | None = None) -> Decision:
        """Wait on, for the policy's interval unless told otherwise."""
        self.state.delay = delay
        seconds = self.policy.interval(self.waited) if delay is None else delay
        return Decision(Verdict.WAIT, job=self.job, delay=min(seconds, max(self.time_left, 0.0)))

    def _wait_silently(self, message: str) -> Decision:
        self._log.error("%s The gate waits on, because silent_fail is set.", message)
        return self._wait()

    def _unknown(self, error: ImportJobUnknown) -> Decision:
        now = self._clock()
        self._end_outage(now)
        since = now if self.state.unknown_since is None else self.state.unknown_since
        answers = self.state.unknown_answers + 1
        self.state.unknown_since, self.state.unknown_answers = since, answers
        left = self.policy.unknown_job_grace - (now - since)
        # One answer alone is not believed: this verdict is final.
        if left > 0 or answers < 2:
            if answers == 1:
                self._log.info("%s It may have been submitted just now: waiting for it.", error)
            return self._wait(min(self.policy.poke_interval, left if left > 0 else _UNKNOWN_PAUSE))
        return Decision(
            Verdict.JOB_UNKNOWN,
            f"{error} Either the id or the cluster is wrong, or the record has expired: Milvus keeps it after the job "
            "ends for 48 hours from 2.6.24 and 3.0.2, and for 3 hours before, unless configured otherwise. How the "
            "import ended is not known: check the collection before you import again.",
            self.job,
            error=error,
        )

    def _outage(self, error: ImportProgressException) -> Decision:
        now = self._clock()
        since = now if self.state.outage_since is None else self.state.outage_since
        self.state.outage_since = since
        self.state.failures += 1
        left = self.policy.outage_tolerance - (now - since)
        if left <= 0:
            return Decision(
                Verdict.UNREACHABLE,
                f"No good answer about import job {self.job_id} for {_messages.span(now - since)} "
                f"(outage_tolerance is {_messages.span(self.policy.outage_tolerance)}). The import itself may "
                f"well go on. The last cause: {error}",
                self.job,
                error=error,
            )
        decision = self._wait(min(self._back_off(getattr(error, "retry_after", None)), left))
        self._log.warning(
            "No good answer about import job %s: %s Asking again in %s.",
            self.job_id,
            error,
            _messages.span(decision.delay),
        )
        return decision

    def _back_off(self, retry_after: float | None) -> float:
        interval = max(self.policy.interval(self.waited), _SHORTEST_BACK_OFF)
        # 2.0**1024 overflows; the delay is capped long before.
        grown = min(interval * 2.0 ** min(self.state.failures - 1, 32), max(interval, _LONGEST_BACK_OFF))
        # Gates that lost the server together must not come back together.
        jittered = grown * random.uniform(1.0, 1.25)  # noqa: S311 (spreads load, guards nothing)
        if self.policy.max_wait is not None:
            jittered = min(jittered, max(self.policy.max_wait, _SHORTEST_BACK_OFF))
        return max(jittered, retry_after or 0.0)

    def _end_outage(self, now: float) -> None:
        if self.state.outage_since is not None:
            self._log.info("The server answers again, after %s.", _messages.span(now - self.state.outage_since))
            self.state.outage_since, self.state.failures = None, 0

    def _log_progress(self, job: ImportJob, now: float) -> None:
        """Log how far the job is, where that has changed."""
        done, files = job.files_done
        rows, last_shown = job.imported_rows, self.state.last_shown
        if not files and last_shown:
            # A list of jobs leaves the files out, and on v1 the percentage: what it leaves out has not changed.
            _, percent, done, rows = last_shown
            if percent and not job.progress:
                job = replace(job, progress=float(percent))
        elif self._first_progress is None:
            self._first_progress = (now, job.progress)
        shown = (job.state.value, int(job.progress), done, rows)
        if shown == last_shown:
            self._warn_of_stall(job, now)
            return
        self._log.info("Import job %s: %s", self.job_id, _messages.progress(job, self._seconds_left(job, now)))
        if job.state is ImportState.UNCOMMITTED and last_shown[:1] != shown[:1]:
            self._log.warning(
                "Import job %s is uncommitted: its rows stay invisible, and this gate closed, until somebody "
                "commits the job.",
                self.job_id,
            )
        self.state.last_shown, self.state.progress_at, self.state.stall_warned = shown, now, False

    def _seconds_left(self, job: ImportJob, now: float) -> float | None:
        began, progress = self._first_progress or (now, job.progress)
        gained = job.progress - progress
        return (100 - job.progress) * (now - began) / gained if gained > 0 else None

    @property
    def _progress_at(self) -> float:
        return self.state.started_at if self.state.progress_at is None else self.state.progress_at

    def _stands_still(self, job: ImportJob) -> bool:
        """Say whether a warning is due where this job is as it was."""
        after = self.policy.stall_warning
        # An uncommitted job waits for a person, and was warned of.
        if not after or self.state.stall_warned or job.state is ImportState.UNCOMMITTED:
            return False
        return self._clock() - self._progress_at >= after

    def _warn_of_stall(self, job: ImportJob, now: float) -> None:
        if not self._stands_still(job):
            return
        since = self._progress_at
        self._log.warning(
            "Import job %s has made no progress since %s, for %s (%s). Check whether other import jobs are ahead of it "
            "(Milvus imports few at a time), and the log of the server's data nodes. The gate waits on.",
            self.job_id,
            _messages.utc(since),
            _messages.span(now - since),
            _messages.progress(job, None),
        )
        self.state.stall_warned = True


def _explain(verdict: Verdict, job: ImportJob, policy: GatePolicy) -> str:
    target = f"Import job {job.job_id} into collection {_messages.ending(job.collection_name)!r}"
    if verdict is Verdict.JOB_FAILED and _messages.aborted(job.error_message):
        return (
            f"{target} did not fail by itself but was aborted: {_messages.reason(job.error_message)} Its rows are "
            "dropped. To import them after all, submit a new import job."
        )
    if verdict is Verdict.JOB_FAILED:
        return f"{target} failed: {_messages.reason(job.error_message)}{_messages.failed_files(job)}"
    if verdict is Verdict.FILES_FAILED:
        return (
            f"{target} is {job.state}, but {len(job.failed_files)} of {len(job.files)} files failed."
            f"{_messages.failed_files(job)} Set allow_failed_files=True to go on without them."
        )
    if verdict is Verdict.ROWS_MISSING:
        return (
            f"{target} is {job.state} with {job.imported_rows:,} rows, and min_rows is {policy.min_rows:,}. Check the "
            "files that were imported, or set a smaller min_rows."
        )
    if verdict is Verdict.SETTING_INVALID:
        return (
            f"{target} is {job.state}, but min_rows={policy.min_rows} cannot be checked: the server counts no rows "
            "(API v1 never does). Leave min_rows out, or set api_version v2 in the connection."
        )
    return f"{target} is {job.state}: {_messages.totals(job)}."
