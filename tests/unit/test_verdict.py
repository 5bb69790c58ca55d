"""What a job means for a gate: the design's table, without a clock."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_importprog.api import ImportFile, ImportJob, ImportState
from airflow_provider_importprog.verdict import Verdict, judge

GOOD = ImportFile("a.json", 1, ImportState.COMPLETED, 100.0)
FAILED = ImportFile("b.json", 1, ImportState.FAILED, 3.0)
BLAMED = ImportFile("c.json", 1, ImportState.COMPLETED, 100.0, error_message="row 7")
ONGOING = ImportFile("d.json", 1, ImportState.IMPORTING, 50.0)


COMPLETED, FAILED_JOB = ImportState.COMPLETED, ImportState.FAILED
UNDER_WAY = (ImportState.PENDING, ImportState.IMPORTING)
STAGED = (ImportState.UNCOMMITTED, ImportState.COMMITTING)
WAITS = [("completed", state) for state in (*UNDER_WAY, *STAGED)] + [("uncommitted", state) for state in UNDER_WAY]
ENDS = [("completed", COMPLETED)] + [("uncommitted", state) for state in (*STAGED, COMPLETED)]
CASES = [
    # Until the awaited state, files and rows change nothing.
    *[(wait_for, state, files, allow, rows, Verdict.JOB_FAILED if state is FAILED_JOB else Verdict.WAIT)
      for wait_for, state in [*WAITS, ("completed", FAILED_JOB), ("uncommitted", FAILED_JOB)]
      for files in ((), (GOOD, FAILED)) for allow in (False, True) for rows in ((None, None), (0, 1), (None, 0))],
    # Then first the files decide, and last the rows.
    *[(wait_for, state, files, allow, rows, verdict)
      for wait_for, state in ENDS
      for files, allow, rows, verdict in [
          ((), False, (None, None), Verdict.OPEN),
          ((GOOD, GOOD), False, (None, None), Verdict.OPEN),
          ((GOOD, ONGOING), False, (None, None), Verdict.OPEN),  # a file that is not as far as its job
          ((GOOD, FAILED), False, (None, None), Verdict.FILES_FAILED),
          ((BLAMED,), False, (None, None), Verdict.FILES_FAILED),
          ((GOOD, FAILED), True, (None, None), Verdict.OPEN),
          ((FAILED,), True, (None, None), Verdict.OPEN),
          ((GOOD, FAILED), False, (0, 1), Verdict.FILES_FAILED),
          ((GOOD, FAILED), True, (0, 1), Verdict.ROWS_MISSING),
          ((GOOD,), False, (5, None), Verdict.OPEN),
          ((GOOD,), False, (5, 5), Verdict.OPEN),
          ((GOOD,), False, (5, 6), Verdict.ROWS_MISSING),
          ((GOOD,), False, (0, 0), Verdict.OPEN),
          ((GOOD,), False, (0, 1), Verdict.ROWS_MISSING),
          ((GOOD,), False, (None, 0), Verdict.SETTING_INVALID)]],
]  # fmt: skip


@pytest.mark.parametrize(("wait_for", "state", "files", "allow", "rows", "verdict"), CASES)
def test_the_verdict(
    wait_for: str, state: ImportState, files: Any, allow: bool, rows: tuple[Any, Any], verdict: Verdict
) -> None:
    job = ImportJob("1", "c", state, 50.0, imported_rows=rows[0], files=files)
    assert judge(job, wait_for=wait_for, allow_failed_files=allow, min_rows=rows[1]) is verdict


def test_a_verdict_is_its_word() -> None:
    words = "wait open job_failed files_failed rows_missing job_unknown unauthorized unreachable setting_invalid"
    assert [str(verdict) for verdict in Verdict] == words.split()
    assert Verdict("open") is Verdict.OPEN
