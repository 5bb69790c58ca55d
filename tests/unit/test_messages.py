"""The words of log lines and errors."""

from __future__ import annotations

import json

import pytest

from airflow_provider_importprog import _messages
from airflow_provider_importprog.api import ImportFile, ImportJob, ImportState


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (0.04, "0 s"),
        (0.5, "0.5 s"),
        (2, "2 s"),
        (9.94, "9.9 s"),
        (9.99, "10 s"),
        (10.4, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (60, "1 min"),
        (192, "3 min 12 s"),
        (3600, "1 h"),
        (3659, "1 h"),
        (3661, "1 h 1 min"),
        (86_400, "1 d"),
        (90_000, "1 d 1 h"),
        (10**12, "11574 d 1 h"),
        (float("inf"), "11574 d 1 h"),
    ],
)
def test_a_span_of_time_is_told_in_its_two_largest_units(seconds: float, words: str) -> None:
    assert _messages.span(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (18_700_000, "18.7 MB"),
        (2 * 10**9, "2.0 GB"),
        (10**12, "1.0 TB"),
        (2**63 - 1, "9,223,372.0 TB"),
    ],
)
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
    [
        (None, "the server gives no reason."),
        ("", "the server gives no reason."),
        ("row 7", "row 7."),
        ("row 7.", "row 7."),
        ("row 7.  ", "row 7."),
        ("x" * 1000, "x" * 1000 + "."),
        ("x" * 1001, "x" * 1000 + "…"),
    ],
    ids=["none", "empty", "words", "a sentence", "with space", "just short enough", "too long"],
)
def test_a_reason_is_a_sentence(said: str | None, words: str) -> None:
    assert _messages.reason(said) == words


@pytest.mark.parametrize(("failed", "named", "rest"), [(1, 1, ""), (10, 10, ""), (11, 10, " And 1 more file")])
def test_only_the_first_failed_files_are_named(failed: int, named: int, rest: str) -> None:
    words = _messages.failed_files(ImportJob("1", "c", ImportState.FAILED, 0.0, files=(DONE, *[BAD] * failed)))
    assert words.count(" a.json: row 7.") == named
    assert ("And" in words) is bool(rest)
    assert rest in words


def test_without_failed_files_there_is_nothing_to_say() -> None:
    assert _messages.failed_files(ImportJob("1", "c", ImportState.FAILED, 0.0, files=(DONE, ONGOING))) == ""


@pytest.mark.parametrize("told", [None, "another", "row 7"])
def test_a_reason_that_was_told_before_is_not_told_again(told: str | None) -> None:
    words = _messages.failed_files(ImportJob("1", "c", ImportState.FAILED, 0.0, files=(BAD,)), told)
    assert words == (" The file: a.json." if told == "row 7" else " a.json: row 7.")


@pytest.mark.parametrize("words", ["", "short", "x" * 98, "ü" * 16], ids=["empty", "short", "just fits", "ü"])
def test_a_message_that_fits_is_left_alone(words: str) -> None:
    assert _messages.brief(words, 100) == words


@pytest.mark.parametrize(
    "words", ["x" * 99, "ü" * 17, "🎉" * 1000, '"' * 50, "a" * 9_999 + "ü"], ids=["x", "ü", "🎉", '"', "long"]
)
def test_a_message_that_does_not_fit_is_cut(words: str) -> None:
    cut = _messages.brief(words, 100)
    assert cut.endswith("…")
    assert words.startswith(cut[:-1])
    assert 20 < len(json.dumps(cut)) <= 100


def test_the_dots_of_a_cut_message_count_too() -> None:
    assert len(json.dumps(_messages.brief("ü" * 99, 100))) <= 100
