"""Words for log lines and errors."""

from __future__ import annotations

import json

from airflow_provider_importprog.api.model import ImportFile, ImportJob, ImportState

# An event, a log line and an exception stay readable, and small, however many files failed.
_FILES_NAMED = 10
_LONGEST_REASON = 1000
_LONGEST_FILE_REASON = 200
_LONGEST_NAME = 200


def span(seconds: float) -> str:
    """Return a span of time in its two largest units, such as ``3 min 12 s``."""
    if seconds < 10:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    whole = round(min(seconds, 10**9))
    for size, unit, smaller_size, smaller in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            rest = whole % size // smaller_size
            return f"{whole // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"


def size(count: int) -> str:
    """Return a number of bytes in a unit that suits it, such as ``18.7 MB``."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:,.1f} TB"


def progress(job: ImportJob, seconds_left: float | None) -> str:
    """Return how far a job is: percent, files done of all, rows where known, time left where known."""
    # A failed job's percentage is 0 on Milvus, which says nothing.
    parts = [str(job.state)] if job.state is ImportState.FAILED else [f"{job.state}, {job.progress:.0f} %"]
    done, files = job.files_done
    if files:
        parts.append(f"{done} of {_files(files)} done")
    if job.imported_rows is not None:
        of_all = f" of {job.total_rows:,}" if job.total_rows else ""
        parts.append(f"{job.imported_rows:,}{of_all} rows")
    if seconds_left is not None:
        parts.append(f"about {span(seconds_left)} left")
    return ", ".join(parts)


def totals(job: ImportJob) -> str:
    """Return what a job amounted to: files, rows and bytes, where known."""
    done = sum(not file.failed for file in job.files)
    parts = [_files(done) if done == len(job.files) else f"{done} of {_files(len(job.files))}"]
    if job.imported_rows is not None:
        parts.append(f"{job.imported_rows:,} rows")
    if job.file_size is not None:
        parts.append(size(job.file_size))
    return ", ".join(parts)


def failed_files(job: ImportJob, told: str | None = None) -> str:
    """Return the failed files with their reasons as sentences, each after a space; the first of very many.

    :param told: a reason that was told before, and is not told again.
    """
    failed = job.failed_files
    sentences = [f" {_file(file, told)}" for file in failed[:_FILES_NAMED]]
    if len(failed) > _FILES_NAMED:
        sentences.append(f" And {len(failed) - _FILES_NAMED:,} more files.")
    return "".join(sentences)


def reason(error_message: str | None, limit: int = _LONGEST_REASON) -> str:
    """Return the server's reason as a sentence."""
    if not error_message:
        return "the server gives no reason."
    if len(error_message) > limit:
        return f"{error_message[:limit]}…"
    return f"{error_message.rstrip().rstrip('.')}."


def ending(name: str) -> str:
    """Return a name, or the end of a very long one."""
    return name if len(name) <= _LONGEST_NAME else f"…{name[-_LONGEST_NAME:]}"


def brief(words: str, limit: int) -> str:
    """Return the beginning of a message, as much as takes `limit` bytes at the most in plain JSON."""
    if len(json.dumps(words)) <= limit:
        return words
    kept = words[:limit]
    while kept and len(json.dumps(f"{kept}…")) > limit:
        kept = kept[: len(kept) * 3 // 4]
    return f"{kept}…"


def _file(file: ImportFile, told: str | None) -> str:
    name = ending(file.file_name)
    if told is not None and file.error_message == told:
        return f"The file: {name}."
    return f"{name}: {reason(file.error_message, _LONGEST_FILE_REASON)}"


def _files(number: int) -> str:
    return f"{number:,} file" if number == 1 else f"{number:,} files"
