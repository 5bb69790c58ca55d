"""What a job means for a gate: the design's table, without a clock."""

from __future__ import annotations

import pytest

from airflow_provider_importprog.api import ImportFile, ImportJob, ImportState
from airflow_provider_importprog.verdict import Verdict, judge

GOOD = ImportFile("a.json", 1, ImportState.COMPLETED, 100.0)
FAILED = ImportFile("b.json", 1, ImportState.FAILED, 3.0)
BLAMED = ImportFile("c.json", 1, ImportState.COMPLETED, 100.0, error_message="row 7")
ONGOING = ImportFile("d.json", 1, ImportState.IMPORTING, 50.0)


def decide(state: ImportState, *files: ImportFile, wait_for: str = "completed", allow: bool = False) -> Verdict:
    return judge(ImportJob("1", "c", state, 50.0, files=files), wait_for=wait_for, allow_failed_files=allow)


@pytest.mark.parametrize("allow", [False, True], ids=["strict", "lenient"])
@pytest.mark.parametrize("files", [(), (GOOD,), (GOOD, FAILED)], ids=["no files", "good files", "failed files"])
@pytest.mark.parametrize(
    ("state", "wait_for", "verdict"),
    [
        (ImportState.PENDING, "completed", Verdict.WAIT),
        (ImportState.IMPORTING, "completed", Verdict.WAIT),
        (ImportState.UNCOMMITTED, "completed", Verdict.WAIT),
        (ImportState.COMMITTING, "completed", Verdict.WAIT),
        (ImportState.FAILED, "completed", Verdict.JOB_FAILED),
        (ImportState.PENDING, "uncommitted", Verdict.WAIT),
        (ImportState.IMPORTING, "uncommitted", Verdict.WAIT),
        (ImportState.FAILED, "uncommitted", Verdict.JOB_FAILED),
    ],
)
def test_until_the_awaited_state_files_change_nothing(
    state: ImportState, wait_for: str, verdict: Verdict, files: tuple[ImportFile, ...], allow: bool
) -> None:
    assert decide(state, *files, wait_for=wait_for, allow=allow) is verdict


@pytest.mark.parametrize(
    ("state", "wait_for"),
    [
        (ImportState.COMPLETED, "completed"),
        (ImportState.UNCOMMITTED, "uncommitted"),
        (ImportState.COMMITTING, "uncommitted"),
        (ImportState.COMPLETED, "uncommitted"),
    ],
)
@pytest.mark.parametrize(
    ("files", "allow", "verdict"),
    [
        pytest.param((), False, Verdict.OPEN, id="no files"),
        pytest.param((GOOD, GOOD), False, Verdict.OPEN, id="every file fine"),
        pytest.param((GOOD, ONGOING), False, Verdict.OPEN, id="a file that is not as far as its job"),
        pytest.param((GOOD, FAILED), False, Verdict.FILES_FAILED, id="a failed file"),
        pytest.param((BLAMED,), False, Verdict.FILES_FAILED, id="a file with an error and a good state"),
        pytest.param((GOOD, FAILED), True, Verdict.OPEN, id="a failed file allowed"),
        pytest.param((FAILED,), True, Verdict.OPEN, id="only failed files allowed"),
    ],
)
def test_once_there_the_files_decide(
    state: ImportState, wait_for: str, files: tuple[ImportFile, ...], allow: bool, verdict: Verdict
) -> None:
    assert decide(state, *files, wait_for=wait_for, allow=allow) is verdict


@pytest.mark.parametrize(
    ("rows", "least", "verdict"),
    [
        (5, None, Verdict.OPEN),
        (5, 5, Verdict.OPEN),
        (5, 6, Verdict.ROWS_MISSING),
        (0, 0, Verdict.OPEN),
        (0, 1, Verdict.ROWS_MISSING),
        (None, None, Verdict.OPEN),
        (None, 0, Verdict.SETTING_INVALID),
    ],
)
def test_too_few_rows_keep_a_gate_closed_that_would_open(rows: int | None, least: int | None, verdict: Verdict) -> None:
    def judged(state: ImportState, *files: ImportFile) -> Verdict:
        job = ImportJob("1", "c", state, 50.0, imported_rows=rows, files=files)
        return judge(job, wait_for="completed", allow_failed_files=False, min_rows=least)

    assert judged(ImportState.COMPLETED, GOOD) is verdict
    assert judged(ImportState.COMPLETED, FAILED) is Verdict.FILES_FAILED
    assert judged(ImportState.IMPORTING) is Verdict.WAIT
    assert judged(ImportState.FAILED) is Verdict.JOB_FAILED


def test_a_verdict_is_its_word() -> None:
    assert {str(verdict) for verdict in Verdict} == {
        "wait",
        "open",
        "job_failed",
        "files_failed",
        "rows_missing",
        "job_unknown",
        "unauthorized",
        "unreachable",
        "setting_invalid",
    }
    assert Verdict("open") is Verdict.OPEN
