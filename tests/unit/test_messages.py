"""The words of log lines and errors."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_provider_importprog import _messages
from airflow_provider_importprog.api import ImportFile, ImportJob, ImportState


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (0.04, "0 s"), (0.5, "0.5 s"), (2, "2 s"), (9.94, "9.9 s"), (9.99, "10 s"), (10.4, "10 s"),
     (59.4, "59 s"), (59.6, "1 min"), (60, "1 min"), (192, "3 min 12 s"), (3600, "1 h"), (3659, "1 h"),
     (3661, "1 h 1 min"), (86_400, "1 d"), (90_000, "1 d 1 h"), (10**12, "11574 d 1 h"), (float("inf"), "11574 d 1 h")],
)  # fmt: skip
def test_a_span_of_time_is_told_in_its_two_largest_units(seconds: float, words: str) -> None:
    assert _messages.span(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (18_700_000, "18.7 MB"), (2 * 10**9, "2.0 GB"), (10**12, "1.0 TB"),
     (2**63 - 1, "9,223,372.0 TB")],
)  # fmt: skip
def test_a_size_is_told_in_a_unit_that_suits_it(count: int, words: str) -> None:
    assert _messages.size(count) == words


def file(state: ImportState, error: str | None = None) -> ImportFile:
    return ImportFile("a.json", None, state, 0.0, error_message=error)


DONE, BAD, ONGOING = file(ImportState.COMPLETED), file(ImportState.FAILED, "row 7"), file(ImportState.IMPORTING)


@pytest.mark.parametrize(
    ("files", "rows", "total", "left", "words"),
    [
        ((), None, None, None, "importing, 42 %"),
        ((ONGOING,), None, None, None, "importing, 42 %, 0 of 1 file done"),
        ((DONE, BAD, ONGOING), None, None, None, "importing, 42 %, 1 of 3 files done"),
        ((), 1234, None, None, "importing, 42 %, 1,234 rows"),
        ((), 1234, 0, None, "importing, 42 %, 1,234 rows"),
        ((), 1234, 5000, None, "importing, 42 %, 1,234 of 5,000 rows"),
        ((), None, 5000, 0.0, "importing, 42 %, about 0 s left"),
        ((DONE,), 0, 5000, 61.0, "importing, 42 %, 1 of 1 file done, 0 of 5,000 rows, about 1 min 1 s left"),
    ],
)
def test_progress_tells_what_is_known(
    files: tuple[ImportFile, ...], rows: int | None, total: int | None, left: float | None, words: str
) -> None:
    job = ImportJob("1", "c", ImportState.IMPORTING, 42.0, imported_rows=rows, total_rows=total, files=files)
    assert _messages.progress(job, left) == words


@pytest.mark.parametrize(
    ("files", "rows", "size", "words"),
    [
        ((DONE,), None, None, "1 file"),
        ((DONE, DONE), 1000, 1000, "2 files, 1,000 rows, 1.0 kB"),
        ((DONE, BAD), 0, None, "1 of 2 files, 0 rows"),
        ((BAD,), None, 0, "0 of 1 file, 0 B"),
        ((DONE,) * 1234, None, None, "1,234 files"),
    ],
)
def test_totals_tell_what_is_known(
    files: tuple[ImportFile, ...], rows: int | None, size: int | None, words: str
) -> None:
    job = ImportJob("1", "c", ImportState.COMPLETED, 100.0, imported_rows=rows, file_size=size, files=files)
    assert _messages.totals(job) == words


@pytest.mark.parametrize(
    ("said", "words"),
    [(None, "the server gives no reason."), ("", "the server gives no reason."), ("row 7", "row 7."),
     ("row 7.  ", "row 7."), ("x" * 1000, "x" * 1000 + "."), ("x" * 1001, "x" * 1000 + "…")],
    ids=["none", "empty", "words", "with space", "just short enough", "too long"],
)  # fmt: skip
def test_a_reason_is_a_sentence(said: str | None, words: str) -> None:
    assert _messages.reason(said) == words


WHY = "the file b/1.json has a row of dimension 4"


@pytest.mark.parametrize(
    ("why", "files", "words"),
    [
        (WHY, [], ""),
        (WHY, [("a.json", "ok")], ""),
        (WHY, [("a.json", "row 7")], " a.json: row 7."),
        (WHY, [("[x/b/1.json]", WHY)], " The file: [x/b/1.json]."),
        (None, [("a.json", None)], " The file: a.json."),
        ("disk full", [("a.json", "disk full")], " The file: a.json."),
        (WHY, [("b/1.json", WHY), ("a/1.json", WHY)], " The file: b/1.json. The other file was not judged."),
        (WHY, [("b/11.json", WHY), ("1.json.gz", WHY), ("1.json", WHY)],
         " The file: 1.json. The other 2 files were not judged."),
        (WHY, [("bucket/b/1.json", WHY), ("b/2.json", WHY)],
         " The file: bucket/b/1.json. The other file was not judged."),
        ("bad v.npy", [("[a/id.npy a/v.npy]", "bad v.npy"), ("[b/id.npy b/v.npy]", "bad v.npy")],
         " The files: [a/id.npy a/v.npy], [b/id.npy b/v.npy]."),
        ("disk full", [("a.json", "disk full"), ("b.json", "disk full")],
         " The reason names none of its 2 files, and they were not judged one by one."),
        (WHY, [("a.json", "row 7"), ("b/1.json", WHY), ("c.json", "ok")], " a.json: row 7. The file: b/1.json."),
        ("all", [("a.json", "row 7")] * 12, " a.json: row 7." * 10 + " And 2 more files."),
        ("a.json", [("a.json", "a.json")] * 12, f" The files: {', '.join(['a.json'] * 10)}, and 2 more."),
        (WHY, [("x" * 300 + "last.json", "row 7")], f" …{'x' * 191}last.json: row 7."),
    ],
)  # fmt: skip
def test_of_a_failed_job_the_reason_is_told_once_and_the_file_that_it_names(
    why: str | None, files: list[tuple[str, str | None]], words: str
) -> None:
    every = [
        ImportFile(name, None, ImportState.COMPLETED, 100.0)
        if error == "ok"
        else ImportFile(name, None, ImportState.FAILED, 0.0, error_message=error)
        for name, error in files
    ]
    job = ImportJob("1", "c", ImportState.FAILED, 0.0, error_message=why, files=tuple(every))
    assert _messages.failed_files(job) == words


@pytest.mark.parametrize(
    ("job", "words"),
    [
        ({"imported_rows": 5, "total_rows": 5, "files": (DONE,)}, ""),
        ({"files": (DONE,)}, ""),
        ({"imported_rows": 6, "total_rows": 5, "files": (DONE,)}, ""),
        ({"imported_rows": 4, "total_rows": 5, "files": ()},
         "4 of the 5 rows that it announced were imported and the server shows no file of it"),
        ({"files": (DONE, ONGOING)}, "1 of its 2 files is completed"),
        ({"files": (DONE, BAD)}, "1 of its 2 files is completed"),
        ({"state": ImportState.UNCOMMITTED, "imported_rows": 4, "total_rows": 5}, ""),
    ],
)  # fmt: skip
def test_a_completed_job_may_differ_from_what_it_announced(job: dict[str, Any], words: str) -> None:
    fields = {"state": ImportState.COMPLETED, **job}
    assert _messages.shortfalls(ImportJob("1", "c", progress=100.0, **fields)) == words


@pytest.mark.parametrize(
    ("abort", "error", "words"),
    [
        (False, None, "The task was ended. Import job 7 goes on."),
        (True, None, "The task was ended, and import job 7 is aborted: its rows are dropped."),
        (True, "HTTP 503.", "The task was ended, but import job 7 was not aborted. HTTP 503."),
    ],
)
def test_the_end_of_a_task_says_what_becomes_of_the_job(abort: bool, error: str | None, words: str) -> None:
    assert _messages.task_ended("7", abort, error) == words


@pytest.mark.parametrize("words", ["", "short", "x" * 98, "ü" * 16])
def test_a_message_that_fits_is_left_alone(words: str) -> None:
    assert _messages.brief(words, 100) == words


@pytest.mark.parametrize("words", ["x" * 99, "ü" * 17, "ü" * 99, "🎉" * 1000, '"' * 50, "a" * 9_999 + "ü"])
def test_a_message_that_does_not_fit_is_cut(words: str) -> None:
    cut = _messages.brief(words, 100)
    assert cut.endswith("…")
    assert words.startswith(cut[:-1])
    assert 20 < len(json.dumps(cut)) <= 100
