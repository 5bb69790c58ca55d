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
    "completed": (ImportState.COMPLETED,),
    "uncommitted": (ImportState.UNCOMMITTED, ImportState.COMMITTING, ImportState.COMPLETED),
}


def judge(job: ImportJob, *, wait_for: str, allow_failed_files: bool, min_rows: int | None = None) -> Verdict:
    """Say what a gate makes of an import job. Every mode of every sensor and trigger asks here.

    :param wait_for: ``completed``, or ``uncommitted`` for a two-phase import that is checked before its commit.
    :param allow_failed_files: open although some file was not imported.
    :param min_rows: fewer imported rows than that fail the gate; None for any number.
    """
    if job.state is ImportState.FAILED:
        return Verdict.JOB_FAILED
    if job.state not in OPENS_AT[wait_for]:
        return Verdict.WAIT
    if job.failed_files and not allow_failed_files:
        return Verdict.FILES_FAILED
    if min_rows is None:
        return Verdict.OPEN
    if job.imported_rows is None:
        return Verdict.SETTING_INVALID  # v1 counts no rows, so nobody can say
    return Verdict.OPEN if job.imported_rows >= min_rows else Verdict.ROWS_MISSING
