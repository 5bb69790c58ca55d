"""The one model that both dialects are parsed into."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime
from enum import Enum
from typing import Any


class ImportState(str, Enum):
    """Where an import job, or one of its files, stands."""

    PENDING = "pending"
    IMPORTING = "importing"
    #: Two-phase: every row is written and none is visible until somebody commits.
    UNCOMMITTED = "uncommitted"
    COMMITTING = "committing"
    COMPLETED = "completed"
    FAILED = "failed"

    def __str__(self) -> str:
        return self.value


#: The states in which a job stays.
ENDED = (ImportState.COMPLETED, ImportState.FAILED)


def _plain(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a dataclass's fields as plain JSON: times in ISO 8601, a state as its string."""
    return {name: _plain_value(value) for name, value in fields}


def _plain_value(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, ImportState):
        return value.value
    return value


@dataclass(frozen=True, slots=True)
class ImportFile:
    """One entry of an import job: a file, or the set of files that makes up its columns."""

    #: As the server names it; a set of files is one bracketed list, such as ``[id.npy vector.npy]``.
    file_name: str
    #: In bytes; None where the server does not say.
    file_size: int | None
    state: ImportState
    #: In percent, 0 to 100.
    progress: float
    #: None where the dialect does not count rows (v1).
    imported_rows: int | None = None
    total_rows: int | None = None
    #: When this file ended, with its time zone; None while it has not.
    complete_time: datetime | None = None
    #: None where nothing went wrong.
    error_message: str | None = None

    @property
    def failed(self) -> bool:
        """Whether this file was not imported, whatever the job as a whole says."""
        return self.state is ImportState.FAILED or self.error_message is not None

    @property
    def done(self) -> bool:
        """Whether this file was imported."""
        return self.state is ImportState.COMPLETED and not self.failed

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON."""
        return asdict(self, dict_factory=_plain)


@dataclass(frozen=True, slots=True)
class ImportJob:
    """An import job as the server described it in one answer."""

    job_id: str
    collection_name: str
    state: ImportState
    #: In percent, 0 to 100.
    progress: float
    #: In bytes, all files together; None where the server does not say.
    file_size: int | None = None
    #: None where the dialect does not count rows (v1).
    imported_rows: int | None = None
    total_rows: int | None = None
    #: When the job ended, with its time zone; None while it has not.
    complete_time: datetime | None = None
    #: Why the job failed; None where nothing went wrong.
    error_message: str | None = None
    #: Empty where the server gave none, as a list of jobs does.
    files: tuple[ImportFile, ...] = ()
    #: When the job was submitted, with its time zone; None where the server does not say, as most do not.
    create_time: datetime | None = field(default=None, repr=False)
    #: `files_done` of the files that were left out, or None where `files` holds them all.
    counts: tuple[int, int] | None = field(default=None, repr=False)

    @property
    def files_done(self) -> tuple[int, int]:
        """How many files were imported, and how many there are."""
        if self.counts is not None:
            return self.counts
        return sum([file.done for file in self.files]), len(self.files)

    @property
    def failed_files(self) -> tuple[ImportFile, ...]:
        """The files that were not imported."""
        return tuple(file for file in self.files if file.failed)

    def without_files(self) -> ImportJob:
        """Return the job with its files counted and left out."""
        return replace(self, files=(), counts=self.files_done) if self.files else self

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON, the files as a list of dicts under ``files``."""
        return {**self.summary(), "files": [file.to_dict() for file in self.files]}

    def summary(self) -> dict[str, Any]:
        """Return the fields as plain JSON, without the files."""
        return _plain([(name, getattr(self, name)) for name in _SUMMARY])

    @classmethod
    def from_summary(cls, summary: Mapping[str, Any]) -> ImportJob:
        """Return the job that :meth:`summary` was made of, without its files. Keys of a newer release are ignored.

        :raises KeyError, TypeError, ValueError: it was not made by :meth:`summary`.
        """
        known = {name: summary[name] for name in _SUMMARY if name in summary}
        complete_time = known.get("complete_time")
        known["state"] = ImportState(summary["state"])
        known["complete_time"] = datetime.fromisoformat(complete_time) if complete_time else None
        return cls(**known)


#: Says of a job whether its files are not needed. A gate that waits needs none, and a job may have 10,000.
Brief = Callable[[ImportJob], bool]

_SUMMARY = tuple(each.name for each in fields(ImportJob) if each.name not in ("files", "create_time", "counts"))
