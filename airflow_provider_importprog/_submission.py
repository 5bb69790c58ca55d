"""One import job for all tries of a task: what is to be imported, and whether it has been submitted already.

It knows nothing of operators. It asks the server through the blocking hook, and remembers over tries through a store,
where Airflow has one (3.3 and later).
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Protocol

from airflow_provider_importprog import _messages
from airflow_provider_importprog._file_matching import same_files
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

STORE_KEY = "importprog_submission"

# Without a snapshot of what was there before, a busy collection may have any number.
_JOBS_LOOKED_AT = 100
_GOING_ON = (ImportState.PENDING, ImportState.IMPORTING)
# Seconds to wait before a look for a job whose submission got no answer.
_MOMENT = 2.0
# Seconds from one look to the next, where the server knows a job and does not show its files yet; and from one request
# to the next under the same key.
_PAUSES = (1.0, 2.0, 4.0, 8.0)


def default_key(*names: Any) -> str:
    """Return the idempotency key of a task instance: the same at every try, printable, and of one length."""
    return f"airflow-{_digest(names)}"


def next_key(key: str, failed_job_id: str) -> str:
    """Return the key of the import that takes the place of a failed one.

    It follows from the two alone, so that a task finds it again that remembers nothing.
    """
    return f"airflow-{_digest([key, failed_job_id])}"


class Store(Protocol):
    """What is needed of Airflow's ``task_state_store``."""

    def get(self, key: str) -> Any: ...
    def set(self, key: str, value: Any) -> None: ...


@dataclass(frozen=True)
class SubmissionRecord:
    """What the tries of a task leave for the next one.

    :param key: the idempotency key that the first import of this chain was submitted under.
    :param request: a digest of what was to be imported.
    :param job_id: the import job, once the server has said it.
    :param submitting: a request was sent, and what came of it is not written down yet.
    :param known_before: the collection's jobs before that request; None where the server did not list them.
    """

    key: str
    request: str
    job_id: str | None = None
    submitting: bool = False
    known_before: list[str] | None = None


class Submission:
    """Submits what a task wants imported, unless an earlier try of the same task did.

    :param new: what to import.
    :param key: its idempotency key; that of `new` itself plays no part.
    :param store: where traces are kept, or None where Airflow has no such place.
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
        store: Store | None = None,
        try_number: int = 1,
        began: datetime | None = None,
    ) -> None:
        self._server = server
        self._new = new
        self._cluster_id = cluster_id
        self._log = log
        self._store = store
        self._try_number = try_number
        self._began = began
        self._entries = new.files or new.object_urls or new.data_paths or []
        self._record = SubmissionRecord(key, _digest_of(new, cluster_id))

    @property
    def _keys_settle_it(self) -> bool:
        """Whether asking twice imports once, so that nothing needs to be looked for."""
        return self._server.idempotency_keys

    def run(self) -> str:
        """Return the id of the one import job, found or submitted.

        :raises ImportJobAmbiguous: several jobs may be the one of an earlier try.
        :raises ImportSettingInvalid: an earlier try submitted other files, and they may be in.
        :raises ImportApiUnreachable: whether a job was submitted is not known; the next try finds out.
        """
        earlier = self._recall()
        found: ImportJob | None = None
        if earlier is None:
            if self._try_number > 1 and not self._keys_settle_it:
                found = self._look(None)
        elif earlier.key != self._record.key:
            self._log.info("The idempotency key is a new one since an earlier try: importing anew.")
        elif earlier.submitting:
            self._record = replace(
                self._record, job_id=earlier.job_id, submitting=True, known_before=earlier.known_before
            )
            if not self._keys_settle_it:
                found = self._look(earlier.known_before)
        elif earlier.job_id is not None:
            self._record = replace(self._record, job_id=earlier.job_id)
            job = self._describe(earlier.job_id)
            if job is None or job.state is not ImportState.FAILED:
                if earlier.request != self._record.request:
                    raise self._other_files(earlier.job_id)
                return self._take_over(earlier.job_id, job)
        return self._take_over(found.job_id, found) if found else self._create()

    def _create(self) -> str:
        """Submit, under the first key of the chain whose job has not failed."""
        listed = self._snapshot()
        before = self._record
        # What an earlier try saw goes on to count: its request may still arrive.
        known_before = listed if before.known_before is None else before.known_before
        self._remember(replace(before, submitting=True, known_before=known_before))
        key, failed = self._record.key, set() if before.job_id is None else {before.job_id}
        seen: list[str] = []
        while True:
            job_id, found = self._post(key, before)
            if found is not None:
                return self._take_over(job_id, found)
            # Without a list, any job of a second try may be an earlier one's: as many as there were tries.
            old = job_id in failed or (job_id in listed if listed is not None else len(seen) < self._try_number - 1)
            if not old:
                self._log.info("Import job %s is submitted.", job_id)
                self._remember(SubmissionRecord(before.key, before.request, job_id))
                return job_id
            job = self._describe(job_id)
            if job is None or job.state is not ImportState.FAILED:
                if job is not None and job.files and not self._is_ours(job):
                    raise self._other_files(job_id)
                return self._take_over(job_id, job)
            if job_id in seen:
                raise ImportApiRefused(f"The server answers every idempotency key with failed import job {job_id}.")
            key = next_key(key, job_id)
            seen.append(job_id)
            self._log.info("Import job %s has failed: importing anew.", job_id)

    def _post(self, key: str, before: SubmissionRecord) -> tuple[str, ImportJob | None]:
        """Send a request; where no answer comes, look whether it arrived.

        :return: the job's id, and the job where it had to be looked for.
        """
        new = replace(self._new, idempotency_key=key)
        try:
            return self._server.create_import_job(**vars(new), cluster_id=self._cluster_id), None
        except ImportProgressException as error:
            if not getattr(error, "in_doubt", False):
                self._remember(before)  # a request before this one may still arrive
                raise
            lost = error
        if self._keys_settle_it:
            return self._post_again(new, lost), None
        self._log.warning("The import was submitted, and no good answer came: %s Looking for its job.", lost)
        time.sleep(_MOMENT)
        try:
            found = self._look(self._record.known_before)
        except ImportJobAmbiguous:
            raise
        except ImportProgressException as error:
            raise ImportApiUnreachable(
                f"{lost} The import job may have been submitted all the same: the next try of this task looks for it "
                f"before it submits one. Now it could not be looked for: {error}",
                in_doubt=True,
            ) from None
        if found is None:
            raise ImportApiUnreachable(
                f"{lost} No new import job with these files has been seen since, which is not to say that none "
                "comes: the next try of this task looks again before it submits one.",
                in_doubt=True,
            )
        return found.job_id, found

    def _post_again(self, new: NewImportJob, lost: ImportProgressException) -> str:
        """Send a request that got no answer again, under the same key."""
        for pause in _PAUSES:
            self._log.warning(
                "The import was submitted, and no good answer came: %s Submitting it again under the same key.", lost
            )
            time.sleep(pause)
            try:
                return self._server.create_import_job(**vars(new), cluster_id=self._cluster_id)
            except ImportApiUnreachable as error:
                lost = error
        raise ImportApiUnreachable(
            f"{lost} The import job may have been submitted all the same: the next try of this task submits it under "
            "the same idempotency key, which makes no second one.",
            in_doubt=True,
        )

    def _look(self, known_before: Collection[str] | None) -> ImportJob | None:
        """Look on the server for the job of an earlier request.

        :param known_before: the jobs that cannot be it; None where it is not known which were there before.
        """
        excluded = set(known_before or ())
        jobs = self._server.list_import_jobs(self._new.collection_name, self._cluster_id)
        left = [job.job_id for job in jobs if job.state is not ImportState.FAILED and job.job_id not in excluded]
        # Ids grow with time; those that are no numbers come in some order.
        left.sort(key=lambda job_id: (len(job_id), job_id), reverse=True)
        if len(left) > _JOBS_LOOKED_AT:
            self._log.warning(
                "Collection %s has %s import jobs that may be that of an earlier try. Looking at the newest %s.",
                self._new.collection_name,
                len(left),
                _JOBS_LOOKED_AT,
            )
        left = left[:_JOBS_LOOKED_AT]
        matches: list[ImportJob] = []
        for pause in (*_PAUSES, None):
            seen = [job for job in map(self._describe, left) if job is not None]
            alive = [job for job in seen if job.state is not ImportState.FAILED]
            if known_before is None:
                alive = [job for job in alive if self._may_be_of_this_run(job)]
            matches += [job for job in alive if self._is_ours(job)]
            # A job that was submitted a moment ago has no files yet.
            left = [job.job_id for job in alive if not job.files and job.state in _GOING_ON]
            if not left:
                break
            if pause is not None:
                time.sleep(pause)
        if len(matches) > 1:
            raise self._ambiguous(matches)
        if left and not matches:
            raise ImportApiUnreachable(
                f"Import job {left[0]} may be the one that an earlier try of this task submitted, but the server does "
                "not show its files yet. Nothing more was submitted; the next try of this task looks again."
            )
        return matches[0] if matches else None

    def _may_be_of_this_run(self, job: ImportJob) -> bool:
        if self._began is None or job.complete_time is None:
            return True
        return job.complete_time >= self._began.replace(microsecond=0)

    def _is_ours(self, job: ImportJob) -> bool:
        return bool(job.files) and same_files(self._entries, (file.file_name for file in job.files))

    def _snapshot(self) -> list[str] | None:
        """Return the collection's jobs before another is submitted, or None where the server does not say."""
        try:
            jobs = self._server.list_import_jobs(self._new.collection_name, self._cluster_id)
        except ImportSettingInvalid:
            raise
        except ImportProgressException as error:
            if self._keys_settle_it:
                return None
            self._log.warning(
                "The import jobs before this one are not known, so a lost answer is hard to mend: %s", error
            )
            return None
        return [job.job_id for job in jobs]

    def _describe(self, job_id: str) -> ImportJob | None:
        try:
            return self._server.get_import_progress(job_id, self._cluster_id)
        except ImportJobUnknown:
            return None

    def _take_over(self, job_id: str, job: ImportJob | None) -> str:
        state = _messages.progress(job, None) if job else "not known to the server any more"
        self._log.info("Import job %s was submitted before (%s): going on with it, and submitting none.", job_id, state)
        self._remember(SubmissionRecord(self._record.key, self._record.request, job_id))
        return job_id

    def _recall(self) -> SubmissionRecord | None:
        if self._store is None:
            return None
        try:
            kept = self._store.get(STORE_KEY)
            return SubmissionRecord(**kept) if kept else None
        except Exception as error:
            self._log.warning("What an earlier try left cannot be read: %s", error)
            return None

    def _remember(self, trace: SubmissionRecord) -> None:
        self._record = trace
        if self._store is None:
            return
        try:
            self._store.set(STORE_KEY, asdict(trace))
        except Exception as error:
            self._log.warning("Nothing can be left for a later try: %s", error)

    def _other_files(self, job_id: str) -> ImportSettingInvalid:
        return ImportSettingInvalid(
            f"Import job {job_id}, which an earlier try of this task submitted, imports other files than these. "
            "To import these as well, set idempotency_key to a new one, or start a new DAG run."
        )

    def _ambiguous(self, jobs: Sequence[ImportJob]) -> ImportJobAmbiguous:
        named = ", ".join(f"{job.job_id} ({job.state})" for job in jobs)
        collection = _messages.ending(self._new.collection_name)
        return ImportJobAmbiguous(
            f"{len(jobs)} import jobs of collection {collection!r} import these files, "
            f"and any may be the one that an earlier try of this task submitted: {named}. Wait for one of them with "
            "ImportProgressSensor, or start a new DAG run to import the files again.",
            job=jobs[0],
        )


def _digest_of(new: NewImportJob, cluster_id: str | None) -> str:
    what = (new.collection_name, new.partition_name, new.files, new.object_urls, new.volume_name, new.data_paths)
    return _digest([*what, cluster_id])


def _digest(values: Iterable[Any]) -> str:
    return sha256(json.dumps(list(values), default=str).encode()).hexdigest()
