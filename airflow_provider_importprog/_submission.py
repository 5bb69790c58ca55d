"""One import job for all tries of a task.

What is known decides what is done, in :meth:`Submission.run`:

| known                                                | done                                                    |
|------------------------------------------------------|---------------------------------------------------------|
| the id of the job, which has not failed              | adopt it                                                |
| the id of the job, which has failed                  | submit                                                  |
| a request may have been sent, its job is not known:  |                                                         |
| - the server honours keys                            | send it again under the same key, and adopt what it has |
| - one job is proved to be it                         | adopt it                                                |
| - several are proved, or some may be it              | fail with ImportJobAmbiguous, and submit nothing        |
| - no job can be it                                   | submit                                                  |
| nothing was sent, by this DAG run to this server     | submit                                                  |

To submit is: list the jobs that are there, write down what will be sent, send it, write down the job's id. A server
that honours keys may answer with a job that was there already: the run was deleted and made again under its id, or two
runs share a key. The first row that is true decides, in :meth:`Submission._submit`:

| the job that the answer names                                  | done                                             |
|----------------------------------------------------------------|--------------------------------------------------|
| was not listed before this request, or nobody else has the key | it is new: go on with it                         |
| was listed before the first request, or is known to be failed  | try the next key                                 |
| is not known to the server any more                            | go on with it                                    |
| has failed                                                     | try the next key, without a list once for a try  |
| is of long before the run, and no list says what is            | try the next key, without a list no second time  |
| is past importing, though it is new if it is this task's       | fail with ImportJobAmbiguous                     |
| imports other files                                            | fail with ImportSettingInvalid                   |
| is any other                                                   | go on with it                                    |

What proves what:

- A record that an earlier try left (Airflow 3.3 and later keep one) proves what was sent, to which server, under which
  key, and which jobs were there before.
- Without a record, the first try proves that this run sent nothing, and a later try proves nothing.
- A key proves that a job is this task's where the connection says that the server honours keys. That it is this run's,
  and not that of a deleted run of the same id, takes the record or the list, or a job's end long before the run.
- Without a list (the role may not, or the server does not), no answer is known to be new. Then the key is one that was
  never used before. Where it could not be found again (no record, and a server that honours keys), it is the usual one.
- Without keys, a job's files prove that it is this task's (:mod:`airflow_provider_importprog._file_matching`), unless
  a partition or options were set, which no server shows.
- Two machines' clocks differ. A time proves something where it is ten minutes off at the least.

It knows nothing of operators, and asks the server through the blocking hook.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from uuid import uuid4

from airflow_provider_importprog import _messages
from airflow_provider_importprog._file_matching import Same, same_files
from airflow_provider_importprog._gate import Logger
from airflow_provider_importprog.api.model import ImportJob, ImportState
from airflow_provider_importprog.api.protocol import NewImportJob
from airflow_provider_importprog.exceptions import (
    ImportApiRefused,
    ImportApiUnreachable,
    ImportJobAmbiguous,
    ImportJobUnknown,
    ImportProgressException,
    ImportSettingInvalid,
)

if TYPE_CHECKING:
    from airflow_provider_importprog.hooks.import_progress import ImportProgressHook

T = TypeVar("T")

STORE_KEY = "importprog_submission"

# In a collection that is busy, any number may have come since.
_MOST_JOBS_ASKED = 100
_GOING_ON = (ImportState.PENDING, ImportState.IMPORTING)
# Seconds from one search to the next for a job that is expected, or does not show its files yet; and from one request
# to the next under the same key.
_PAUSES = (1.0, 2.0, 4.0, 8.0)
_LONGEST_BACK_OFF = 60.0
_CLOCKS_DIFFER = timedelta(minutes=10)


def default_key(*names: Any) -> str:
    """Return the idempotency key of a task instance: the same at every try, printable, and of one length."""
    return f"airflow-{_digest(names)}"


def next_key(key: str, job_id: str) -> str:
    """Return the key to try after one that the server answered with a job that is not to be adopted.

    It follows from the two alone, so that a task finds it again that has no record.
    """
    return f"airflow-{_digest([key, job_id])}"


class Store(Protocol):
    """What is needed of Airflow's ``task_state_store``."""

    def get(self, key: str) -> Any: ...
    def set(self, key: str, value: Any) -> None: ...


@dataclass(frozen=True)
class Clock:
    """Time as this module needs it; a test brings its own."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = lambda seconds: time.sleep(seconds)


@dataclass
class Repeater:
    """Sends a request again where the server said that it did nothing.

    :param tolerance: seconds from the first such answer to the last, over all requests.
    """

    tolerance: float
    log: Logger
    clock: Clock = field(default_factory=Clock)
    _began: float | None = None
    _failures: int = 0

    def __call__(self, send: Callable[[], T]) -> T:
        """Send, and wait as the server asks, or longer each time, until it does what it is asked to do.

        :raises ImportApiUnreachable: the last cause, where it did not in time; or an answer that is in doubt.
        """
        while True:
            try:
                return send()
            except ImportApiUnreachable as error:
                now = self.clock.now()
                self._began = now if self._began is None else self._began
                left = self.tolerance - (now - self._began)
                if not error.nothing_done or left <= 0:
                    raise
                back_off = min(2.0**self._failures, _LONGEST_BACK_OFF)
                # Tasks that were turned away together must not come back together.
                back_off *= random.uniform(1.0, 1.25)  # noqa: S311 (spreads load, guards nothing)
                delay = min(max(back_off, error.retry_after or 0.0), left)
                self.log.warning("%s Nothing was done. Sending it again in %s.", error, _messages.span(delay))
            self._failures += 1
            self.clock.sleep(delay)


@dataclass(frozen=True)
class SubmissionRecord:
    """What the tries of a task leave for the next one. Release 0.1.0 wrote the first five.

    :param key: the idempotency key that was asked for.
    :param request: a digest of what was to be imported.
    :param job_id: the import job, once the server has said it.
    :param submitting: a request was sent, and what came of it is not written down yet.
    :param known_before: the collection's jobs before that request; None where the server did not list them.
    :param sent_key: the key of that request, which is another than `key` where `key` led to another job.
    :param server: a digest of where it was sent.
    """

    key: str
    request: str
    job_id: str | None = None
    submitting: bool = False
    known_before: list[str] | None = None
    sent_key: str | None = None
    server: str | None = None


class Submission:
    """Submits what a task wants imported, unless an earlier try of the same task did.

    :param new: what to import.
    :param key: its idempotency key; that of `new` itself plays no part.
    :param repeater: sends again what the server did not do.
    :param store: where the record is kept, or None where Airflow has no such place.
    :param try_number: of the task instance, from 1.
    :param began: when the DAG run began, the first time if it was cleared since; None where that is not known.
    """

    def __init__(
        self,
        server: ImportProgressHook,
        new: NewImportJob,
        key: str,
        cluster_id: str | None,
        *,
        log: Logger,
        repeater: Repeater,
        store: Store | None = None,
        try_number: int = 1,
        began: datetime | None = None,
    ) -> None:
        self._server = server
        self._new = new
        self._cluster_id = cluster_id
        self._log = log
        self._repeat = repeater
        self._store = store
        self._try_number = try_number
        self._began = began
        self._keeps_records = False
        self._entries = new.files or new.object_urls or new.data_paths or []
        #: Nothing was sent.
        self._blank = SubmissionRecord(key, _digest_of(new), server=_digest([server.server, cluster_id]))

    def run(self) -> str:
        """Return the id of the one import job, adopted or submitted.

        :raises ImportJobAmbiguous: a job may be that of an earlier try, or several, and none is proved to be it.
        :raises ImportSettingInvalid: an earlier try submitted other files, and they may be in.
        :raises ImportApiUnreachable: whether a job was submitted is not known; the next try finds out.
        """
        record = self._read_record()
        if record is None:
            return self._submit() if self._try_number <= 1 else self._resolve(self._blank)
        if record.key != self._blank.key:
            self._log.info("The idempotency key is a new one since an earlier try: importing anew.")
            return self._submit()
        if record.server not in (None, self._blank.server):
            self._log.info("The connection names another server or database than at an earlier try: importing there.")
            return self._submit()
        if record.submitting:
            return self._resolve(record)
        if record.job_id is None:
            return self._submit()
        job = self._describe(record.job_id)
        if job is not None and job.state is ImportState.FAILED:
            self._log.info("Import job %s of an earlier try has failed: importing anew.", record.job_id)
            return self._submit(failed=record.job_id)
        if record.request.startswith(_DIGEST) and record.request != self._blank.request:
            raise self._other_files(record.job_id)
        return self._adopt(record.job_id, job)

    def _resolve(self, record: SubmissionRecord) -> str:
        """Adopt the job of a request that may have been sent, or submit where there is none."""
        if not self._server.idempotency_keys:
            found = self._search(record.known_before, expected=record.submitting)
            if found is not None:
                return self._adopt(found.job_id, found)
        return self._submit(record, failed=record.job_id)

    def _submit(self, earlier: SubmissionRecord | None = None, failed: str | None = None) -> str:
        """Send the request, under one key after the other, until the answer is a job to go on with.

        :param earlier: the record of a request that may have been sent, and may still arrive; None where none was.
        :param failed: the job of an earlier try that is known to have failed.
        """
        listed = self._list()
        before = listed if earlier is None else earlier.known_before
        key = (earlier and earlier.sent_key) or self._blank.key
        if earlier is None and listed is None and (self._keeps_records or not self._server.idempotency_keys):
            key, listed = next_key(key, uuid4().hex), []  # no job can have it yet
        passed: list[str] = []
        while True:
            record = replace(self._blank, job_id=failed, submitting=True, known_before=before, sent_key=key)
            self._write_record(record)
            job_id = self._send(key, before, refused=earlier or self._blank)
            if listed is not None and job_id not in (*listed, failed):
                return self._submitted(job_id)
            if job_id not in (*(before or ()), failed):
                job = self._describe(job_id)
                if job is None or not self._is_older(job, earlier, before, listed, passed):
                    return self._submitted(job_id) if earlier is None else self._adopt(job_id, job)
            if job_id in passed:
                raise ImportApiRefused(f"The server answers every idempotency key with import job {job_id}.")
            self._log.info("Import job %s has failed, or was there before this DAG run: importing anew.", job_id)
            passed.append(job_id)
            key = next_key(key, job_id)

    def _is_older(
        self,
        job: ImportJob,
        earlier: SubmissionRecord | None,
        before: Collection[str] | None,
        listed: Collection[str] | None,
        passed: Collection[str],
    ) -> bool:
        """Say whether a job that a key led to is none to go on with, as the second table has it.

        :raises ImportJobAmbiguous: that is not known.
        :raises ImportSettingInvalid: it is this run's, and imports other files.
        """
        if job.state is ImportState.FAILED:
            return listed is not None or len(passed) < self._try_number - 1
        if before is None and self._is_of_long_before(job):
            # A server whose clock is wrong would get one job after the other.
            if listed is None and passed:
                raise self._ambiguous([job])
            return True
        if earlier is None and job.state not in _GOING_ON:
            raise self._ambiguous([job])
        if job.files and self._compare(job) is Same.NO:
            raise self._other_files(job.job_id)
        return False

    def _send(self, key: str, before: Collection[str] | None, refused: SubmissionRecord) -> str:
        """Send a request; where it ends in doubt, find its job.

        :param refused: the record where the server did not take the request.
        """
        new = replace(self._new, idempotency_key=key)

        def create() -> str:
            return self._server.create(new, self._cluster_id)

        try:
            return self._repeat(create)
        except ImportProgressException as error:
            if not (isinstance(error, ImportApiUnreachable) and error.in_doubt):
                self._write_record(refused)
                raise
            cause = error
        if self._server.idempotency_keys:
            return self._send_under_the_same_key(create, cause)
        self._log.warning("The import was submitted, and no good answer came: %s Searching for its job.", cause)
        then = "the next try of this task searches for it before it submits one."
        try:
            found = self._search(before, expected=True)
        except ImportJobAmbiguous:
            raise
        except ImportProgressException as error:
            raise _in_doubt(cause, f"{then} Now it was not found: {error}") from None
        if found is None:
            raise _in_doubt(cause, f"{then} Now there is none.")
        return found.job_id

    def _send_under_the_same_key(self, create: Callable[[], str], cause: ImportApiUnreachable) -> str:
        for pause in _PAUSES:
            self._log.warning("No good answer came: %s Submitting the import again under the same key.", cause)
            self._repeat.clock.sleep(pause)
            try:
                return self._repeat(create)
            except ImportApiUnreachable as error:
                cause = error
        raise _in_doubt(
            cause, "the next try of this task submits it under the same idempotency key, which makes no second one."
        )

    def _search(self, before: Collection[str] | None, expected: bool) -> ImportJob | None:
        """Return the one job that is proved to be that of an earlier request, or None where none can be.

        :param before: the jobs that cannot be it; None where it is not known which were there before.
        :param expected: a job may come yet.
        :raises ImportJobAmbiguous: there are several, or one that is not proved.
        :raises ImportApiUnreachable: a job that may be it does not show its files yet.
        """
        others = set(before or ())
        for pause in (*_PAUSES, None):
            found: dict[Same, list[ImportJob]] = {same: [] for same in Same}
            hidden: list[ImportJob] = []
            for job in self._candidates(others, any_time=before is not None):
                if not job.files and job.state in _GOING_ON:
                    hidden.append(job)
                else:
                    found[self._compare(job)].append(job)
            others.update(job.job_id for job in found[Same.NO])
            if len(found[Same.PROVED]) == 1:
                return found[Same.PROVED][0]
            if found[Same.PROVED] or found[Same.MAYBE]:
                raise self._ambiguous([*found[Same.PROVED], *found[Same.MAYBE], *hidden])
            if pause is None or not (hidden or expected):
                break
            self._repeat.clock.sleep(pause)
        if hidden:
            raise ImportApiUnreachable(
                f"Import job {hidden[0].job_id} may be the one that an earlier try of this task submitted, but the "
                "server does not show its files yet. Nothing more was submitted; the next try searches again."
            )
        return None

    def _candidates(self, others: set[str], any_time: bool) -> list[ImportJob]:
        """Return the collection's jobs that may be that of an earlier request.

        :param others: those that cannot be; what proves to be one is added.
        :param any_time: it is known which jobs were there before, whatever their times say.
        """
        listed = self._server.list_import_jobs(self._new.collection_name, self._cluster_id)
        ids = [job.job_id for job in listed if job.state is not ImportState.FAILED and job.job_id not in others]
        # Ids grow with time; those that are no numbers come in some order.
        ids.sort(key=lambda job_id: (len(job_id), job_id), reverse=True)
        if len(ids) > _MOST_JOBS_ASKED:
            self._log.warning(
                "Collection %s has %s import jobs that may be that of an earlier try. Asking for the newest %s.",
                self._new.collection_name,
                len(ids),
                _MOST_JOBS_ASKED,
            )
        candidates = []
        for job_id in ids[:_MOST_JOBS_ASKED]:
            job = self._describe(job_id)
            if job is None or job.state is ImportState.FAILED or (not any_time and self._is_of_long_before(job)):
                others.add(job_id)
            else:
                candidates.append(job)
        return candidates

    def _compare(self, job: ImportJob) -> Same:
        same = same_files(self._entries, [file.file_name for file in job.files]) if job.files else Same.MAYBE
        # auto_commit is left out: an uncommitted job shows it, and what a gate waits for settles the rest. Every retry
        # of a two-phase import would be ambiguous otherwise.
        options = (self._new.options or {}).keys() - {"auto_commit"}
        return Same.MAYBE if same is Same.PROVED and (self._new.partition_name or options) else same

    def _is_of_long_before(self, job: ImportJob) -> bool:
        """Say whether a job is proved to have been there before this DAG run began."""
        at = job.create_time or job.complete_time
        return self._began is not None and at is not None and at < self._began - _CLOCKS_DIFFER

    def _list(self) -> list[str] | None:
        """Return the collection's jobs, or None where the server does not say."""
        try:
            jobs = self._server.list_import_jobs(self._new.collection_name, self._cluster_id)
        except ImportSettingInvalid:
            raise
        except ImportProgressException as error:
            if not self._server.idempotency_keys:
                self._log.warning("The server does not list the import jobs before this one: %s", error)
            return None
        return [job.job_id for job in jobs]

    def _describe(self, job_id: str) -> ImportJob | None:
        try:
            return self._server.get_import_progress(job_id, self._cluster_id)
        except ImportJobUnknown:
            return None

    def _submitted(self, job_id: str) -> str:
        self._log.info("Import job %s is submitted.", job_id)
        self._write_record(replace(self._blank, job_id=job_id))
        return job_id

    def _adopt(self, job_id: str, job: ImportJob | None) -> str:
        if job is not None and job.state is ImportState.COMPLETED:
            self._log.warning(
                "Import job %s was submitted before and is completed: going on with it, and importing nothing. To "
                "import the same again, start a new DAG run, or set another idempotency_key.",
                job_id,
            )
        else:
            state = _messages.progress(job, None) if job else "not known to the server any more"
            self._log.info("Import job %s was submitted before (%s): going on with it.", job_id, state)
        self._write_record(replace(self._blank, job_id=job_id))
        return job_id

    def _read_record(self) -> SubmissionRecord | None:
        if self._store is None:
            return None
        try:
            kept = self._store.get(STORE_KEY)
            self._keeps_records = True
            # A later release may have written more.
            return SubmissionRecord(**{name: kept[name] for name in _RECORDED if name in kept}) if kept else None
        except Exception as error:
            self._log.warning("The record of an earlier try cannot be read: %s", error)
            return None

    def _write_record(self, record: SubmissionRecord) -> None:
        if self._store is None:
            return
        try:
            self._store.set(STORE_KEY, asdict(record))
        except Exception as error:
            self._log.warning("No record can be kept for a later try: %s", error)

    def _other_files(self, job_id: str) -> ImportSettingInvalid:
        return ImportSettingInvalid(
            f"Import job {job_id}, which an earlier try of this task submitted, imports other files than these. "
            "To import these as well, set idempotency_key to a new one, or start a new DAG run."
        )

    def _ambiguous(self, jobs: Sequence[ImportJob]) -> ImportJobAmbiguous:
        shown = ", ".join(f"{job.job_id} ({', '.join(_state_and_times(job))})" for job in jobs)
        return ImportJobAmbiguous(
            f"Which import job of collection {_messages.ending(self._new.collection_name)!r} this task has submitted "
            f"is not known: {shown} may be it. Nothing more was submitted. Either wait for one of them with "
            "ImportProgressSensor, or import the files again: start a new DAG run, or set another idempotency_key.",
            job=jobs[0],
        )


_RECORDED = tuple(each.name for each in fields(SubmissionRecord))
# Release 0.1.0 digested the files in their order, and wrote no mark before it.
_DIGEST = "sorted:"


def _state_and_times(job: ImportJob) -> Iterator[str]:
    yield str(job.state)
    for what, at in (("created", job.create_time), ("ended", job.complete_time)):
        if at is not None:
            yield f"{what} at {at.isoformat(timespec='seconds')}"


def _digest_of(new: NewImportJob) -> str:
    """Return a digest of what is imported, and where in the database; the order of files does not count."""
    sources = (new.files, new.object_urls, new.data_paths)
    entries = [source and sorted(sorted(entry) for entry in source) for source in sources]
    return _DIGEST + _digest([new.collection_name, new.partition_name, new.volume_name, *entries])


def _digest(values: Iterable[Any]) -> str:
    return sha256(json.dumps(list(values), default=str).encode()).hexdigest()


def _in_doubt(cause: ImportApiUnreachable, then: str) -> ImportApiUnreachable:
    return ImportApiUnreachable(f"{cause} The import job may have been submitted all the same: {then}", in_doubt=True)
