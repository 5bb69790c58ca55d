"""What one server of the import API does differently from another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

DIALECTS = ("v1", "v2")
HOUR = 3600.0

FileNames = Literal["sent", "bare", "bucket", "decoded"]
FILE_NAMES: tuple[str, ...] = get_args(FileNames)


@dataclass(frozen=True)
class ServerProfile:
    """How a server behaves. Each setting is one that real servers differ in.

    :param dialects: ``("v2",)`` or ``("v1",)``: the other answers 404 as plain text.
    :param idempotency: honours the header ``Idempotency-Key`` (Milvus from 2.6.24 and 3.0.2).
    :param two_phase: serves commit and abort, and honours ``auto_commit`` (Milvus from 3.0). False ignores the
        option, as older servers do.
    :param describe: serves ``/describe``; False has ``/get_progress`` alone (Milvus before about 2.4.13).
    :param refresh_load: serves ``collections/refresh_load``.
    :param list_progress: the list of v2 shows progress; False answers as Zilliz Cloud, in pages, without it.
    :param create_time: a v2 job has a ``createTime`` (the newest Milvus).
    :param string_code: ``code`` is a string, such as ``"0"``.
    :param standard_statuses: an error of the API has HTTP status 400 instead of 200.
    :param system_code: no such job, and the job limit, are code 2101 "… on server side" instead of 2100.
    :param numeric_job_ids: a job id must be an integer, as Milvus's are.
    :param file_names: ``sent`` shows names as they were sent, ``bare`` without folders, ``bucket`` with a bucket in
        front, ``decoded`` without percent-encoding.
    :param partial_success: a file that fails leaves its job to complete (Zilliz Cloud); otherwise it fails the job.
    :param second_abort: aborting an aborted job succeeds (Milvus since 2026-06); False refuses it.
    :param job_limit: a create request is refused while so many jobs have not ended.
    :param retention: seconds after its end when a job's record is dropped; None keeps it for ever.
    """

    dialects: tuple[str, ...] = DIALECTS
    idempotency: bool = True
    two_phase: bool = True
    describe: bool = True
    refresh_load: bool = True
    list_progress: bool = True
    create_time: bool = False
    string_code: bool = False
    standard_statuses: bool = False
    system_code: bool = False
    numeric_job_ids: bool = True
    file_names: FileNames = "sent"
    partial_success: bool = False
    second_abort: bool = True
    job_limit: int = 1024
    retention: float | None = 48 * HOUR

    def __post_init__(self) -> None:
        """Refuse a value that the setting cannot have; it may come from a command line or a request."""
        dialects = self.dialects if isinstance(self.dialects, (tuple, list, set, frozenset)) else ()
        if not dialects or any(each not in DIALECTS for each in dialects):
            raise ValueError(f"dialects are some of {', '.join(DIALECTS)}, not {self.dialects!r}.")
        object.__setattr__(self, "dialects", tuple(sorted(set(dialects))))
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(each.default, bool) and not isinstance(value, bool):
                raise ValueError(f"{each.name} is true or false, not {value!r}.")
        if self.file_names not in FILE_NAMES:
            raise ValueError(f"file_names is one of {', '.join(FILE_NAMES)}, not {self.file_names!r}.")
        if isinstance(self.job_limit, bool) or not isinstance(self.job_limit, int) or self.job_limit < 0:
            raise ValueError(f"job_limit is a whole number from 0, not {self.job_limit!r}.")
        if self.retention is not None and (
            isinstance(self.retention, bool) or not isinstance(self.retention, (int, float)) or not self.retention >= 0
        ):
            raise ValueError(f"retention is a number of seconds from 0, or null, not {self.retention!r}.")


PROFILES: dict[str, ServerProfile] = {
    # Both dialects on one port, and all that can be asked for.
    "all": ServerProfile(),
    # 2.4.0 to about 2.4.12
    "milvus-2.4": ServerProfile(
        dialects=("v2",), idempotency=False, two_phase=False, describe=False, retention=3 * HOUR
    ),
    # 2.6.24 and later
    "milvus-2.6": ServerProfile(dialects=("v2",), two_phase=False),
    # 3.0.2 and later
    "milvus-3.0": ServerProfile(dialects=("v2",), create_time=True, system_code=True),
    # Its control plane; v1 and v2 have different hosts there, and one port here.
    "zilliz-cloud": ServerProfile(
        idempotency=False,
        two_phase=False,
        refresh_load=False,
        list_progress=False,
        numeric_job_ids=False,
        file_names="bare",
        partial_success=True,
    ),
}

SETTINGS = tuple(each.name for each in fields(ServerProfile))


def server_profile(profile: str | ServerProfile, settings: Mapping[str, Any]) -> ServerProfile:
    """Return a profile with some of its settings replaced; raises ValueError for what does not exist."""
    if isinstance(profile, str):
        if profile not in PROFILES:
            raise ValueError(f"A profile is one of {', '.join(PROFILES)}, not {profile!r}.")
        profile = PROFILES[profile]
    if not isinstance(profile, ServerProfile):
        raise ValueError(f"A profile is one of {', '.join(PROFILES)}, not {profile!r}.")
    for name in settings:
        if name not in SETTINGS:
            raise ValueError(f"A server has no setting {name!r}: there are {', '.join(SETTINGS)}.")
    return replace(profile, **settings)


def setting_of(text: str) -> tuple[str, Any]:
    """Read ``name=value`` from a command line; raises ValueError."""
    name, _, value = text.partition("=")
    if name not in SETTINGS:
        raise ValueError(f"A server has no setting {name!r}: there are {', '.join(SETTINGS)}.")
    if name == "dialects":
        return name, tuple(value.split(","))
    if name == "file_names":
        return name, value
    if value in ("true", "false"):
        return name, value == "true"
    if value == "none":
        return name, None
    return name, int(value) if value.isdigit() else float(value)
