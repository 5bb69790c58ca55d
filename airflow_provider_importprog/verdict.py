"""What an import job means for a gate."""

from __future__ import annotations

from enum import Enum

from airflow_provider_importprog.api.model import ImportJob, ImportState


class Verdict(str, Enum):
    """What a gate does next."""

    WAIT = "wait"
    OPEN = "open"
    JOB_FAILED = "job_failed"
    FILES_FAILED = "files_failed"
    ROWS_MISSING = "rows_missing"
    JOB_UNKNOWN = "job_unknown"
    UNAUTHORIZED = "unauthorized"
    UNREACHABLE = "unreachable"
    SETTING_INVALID = "setting_invalid"

    def __str__(self) -> str:
        return self.value


#: The states at which a gate opens, by what it waits for.
OPENS_AT = {
    "completed": frozenset({ImportState.COMPLETED}),
    "uncommitted": frozenset({ImportState.UNCOMMITTED, ImportState.COMMITTING, ImportState.COMPLETED}),
}


def judge(job: ImportJob, *, wait_for: str, allow_failed_files: bool) -> Verdict:
    """Say what a gate makes of an import job. Every mode of every sensor and trigger asks here.

    :param wait_for: ``completed``, or ``uncommitted`` for a two-phase import that is to be looked at first.
    :param allow_failed_files: open although some file did not make it.
    """
    if job.state is ImportState.FAILED:
        return Verdict.JOB_FAILED
    if job.state not in OPENS_AT[wait_for]:
        return Verdict.WAIT
    if job.failed_files and not allow_failed_files:
        return Verdict.FILES_FAILED
    return Verdict.OPEN
