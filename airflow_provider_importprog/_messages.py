"""Words for log lines and errors."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime, timezone

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
    """Return what a job imported: files, rows and bytes, where known."""
    done, files = job.files_done
    parts = [_files(done) if done == files else f"{done:,} of {_files(files)}"]
    if job.imported_rows is not None:
        parts.append(f"{job.imported_rows:,} rows")
    if job.file_size is not None:
        parts.append(size(job.file_size))
    return ", ".join(parts)


def shortfalls(job: ImportJob) -> str:
    """Return in what a completed job differs from what it announced; empty where it does not."""
    if job.state is not ImportState.COMPLETED:
        return ""
    found = []
    if job.imported_rows is not None and job.total_rows is not None and job.imported_rows < job.total_rows:
        found.append(f"{job.imported_rows:,} of the {job.total_rows:,} rows that it announced were imported")
    done, files = job.files_done
    if not files:
        found.append("the server shows no file of it")
    elif done < files:
        found.append(f"{done:,} of its {_files(files)} {'is' if done == 1 else 'are'} completed")
    return " and ".join(found)


def failed_files(job: ImportJob) -> str:
    """Return the failed files with their reasons as sentences, each after a space; the first of very many.

    Where a job fails, Milvus gives its reason to every file that is not completed, which says nothing of the file.
    """
    failed = job.failed_files
    blamed = [file for file in failed if _blamed(file, job)]
    own = [file for file in failed if not _blamed(file, job)]
    sentences = [
        f" {ending(file.file_name)}: {reason(file.error_message, _LONGEST_FILE_REASON)}" for file in own[:_FILES_NAMED]
    ]
    if len(own) > _FILES_NAMED:
        sentences.append(f" And {len(own) - _FILES_NAMED:,} more files.")
    return "".join(sentences) + (_files_blamed(job, blamed) if blamed else "")


def _blamed(file: ImportFile, job: ImportJob) -> bool:
    """Say whether a file has nothing but its job's own reason."""
    return job.state is ImportState.FAILED and file.error_message in (None, job.error_message)


def _files_blamed(job: ImportJob, blamed: Sequence[ImportFile]) -> str:
    if len(job.files) == 1:
        return f" The file: {ending(blamed[0].file_name)}."
    matches = [(file, _named_parts(job.error_message or "", file.file_name)) for file in blamed]
    most = max(parts for _, parts in matches)
    if not most:
        return f" The reason names none of its {_files(len(job.files))}, and they were not judged one by one."
    named = [file for file, parts in matches if parts == most]
    others = len(blamed) - len(named)
    shown = ", ".join(ending(file.file_name) for file in named[:_FILES_NAMED])
    more = f", and {len(named) - _FILES_NAMED:,} more" if len(named) > _FILES_NAMED else ""
    rest = {0: "", 1: " The other file was not judged."}.get(others, f" The other {_files(others)} were not judged.")
    return f" The {'file' if len(named) == 1 else 'files'}: {shown}{more}.{rest}"


def _named_parts(words: str, file_name: str) -> int:
    """Return how many parts of a file's path, from its end, a reason names; 0 where it does not name the file."""
    most = 0
    for path in file_name.removeprefix("[").removesuffix("]").split():
        parts = [part for part in path.split("/") if part]
        for count in range(1, len(parts) + 1):
            ending_of_path = "/".join(parts[-count:])
            # Not within a longer name: 1.json is neither 11.json nor 1.json.gz.
            if ending_of_path not in words or not re.search(
                rf"(?<![\w.-]){re.escape(ending_of_path)}(?![\w-]|\.\w)", words
            ):
                break
            most = max(most, count)
    return most


def aborted(error_message: str | None) -> bool:
    """Say whether a failed job was ended by a person: Milvus tells it by these words of the reason alone."""
    return error_message is not None and "aborted by user" in error_message.lower()


def task_ended(job_id: str | None, aborted: bool, error: object = None) -> str:
    """Return what became of an import job whose task a person, or its ``execution_timeout``, ended.

    :param job_id: None where it is not known.
    :param aborted: whether the job was to be aborted with the task.
    :param error: why it was not aborted all the same.
    """
    if not aborted:
        return f"The task was ended. Import job {job_id} goes on."
    if error is not None:
        job = "its import job" if job_id is None else f"import job {job_id}"
        return f"The task was ended, but {job} was not aborted. {error}"
    return f"The task was ended, and import job {job_id} is aborted: its rows are dropped."


def utc(seconds: float) -> str:
    """Return a time in seconds since the epoch as a date and a time of day."""
    return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%d %H:%M:%S} UTC"


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


def _files(number: int) -> str:
    return f"{number:,} file" if number == 1 else f"{number:,} files"
