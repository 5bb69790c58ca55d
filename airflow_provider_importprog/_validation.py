"""Checks of what users pass in, shared by hooks, operators, sensor and trigger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from airflow_provider_importprog.exceptions import ImportSettingInvalid
from airflow_provider_importprog.verdict import OPENS_AT

# Seconds; a timedelta, and so a deferral, can hold no more.
_LONGEST = timedelta.max.total_seconds()
WAIT_FOR = tuple(OPENS_AT)
# In bytes; what Milvus takes.
_LONGEST_KEY = 256


def job_id(value: Any) -> str:
    """Return an import job's id as a string, without white space around it.

    :raises ImportSettingInvalid: there is none. A template that found no XCom renders to "None".
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str) and (stripped := value.strip()):
        if stripped == "None":
            raise ImportSettingInvalid(
                "job_id rendered to 'None': the upstream task pushed no XCom. Check the task id in the "
                "template, and that the task returns the job id."
            )
        return stripped
    raise ImportSettingInvalid(f"job_id must be the id of an import job, not {value!r}.")


def optional_id(value: Any, name: str) -> str | None:
    """Return an id as a string, or None where it is missing, blank, or a template that rendered to nothing."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise ImportSettingInvalid(f"{name} must be a string, not {value!r}.")
    stripped = value.strip()
    return None if stripped in ("", "None") else stripped


def flag(value: Any, name: str) -> bool:
    """Return a bool; a string is refused, because "false" would count as true."""
    if not isinstance(value, bool):
        raise ImportSettingInvalid(f"{name} must be True or False, not {value!r}.")
    return value


def seconds(value: Any, name: str) -> float:
    """Return a span of time, 0 or more, in seconds."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < _LONGEST:
        raise ImportSettingInvalid(f"{name} must be 0 or more seconds, as a number or a timedelta, not {value!r}.")
    return float(value)


def wait_for(value: Any) -> str:
    """Return the state that a gate waits for."""
    if value not in WAIT_FOR:
        raise ImportSettingInvalid(f"wait_for must be one of {', '.join(WAIT_FOR)}, not {value!r}.")
    return str(value)


def idempotency_key(value: Any) -> str | None:
    """Return a key as it may travel in a header, or None where there is none."""
    if value is None:
        return None
    if not isinstance(value, str) or not 1 <= len(value) <= _LONGEST_KEY or not value.isascii():
        shown = f"one of {len(value)} characters" if isinstance(value, str) and len(value) > 80 else repr(value)
        raise ImportSettingInvalid(
            f"idempotency_key must be 1 to {_LONGEST_KEY} printable ASCII characters, not {shown}."
        )
    if not value.isprintable() or value != value.strip():
        raise ImportSettingInvalid(f"idempotency_key must be printable, with no space at either end, and is {value!r}.")
    return value


def options(value: Any) -> dict[str, str] | None:
    """Return the options of an import; a JSON bool or number is refused, as the servers do."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise ImportSettingInvalid(f"options must be a dict of strings, not {value!r}.")
    for name, setting in value.items():
        if not isinstance(setting, str):
            raise ImportSettingInvalid(f'options[{name!r}] must be a string, such as "false", not {setting!r}.')
    return dict(value)


def collection_name(value: Any) -> str:
    """Return a collection's name."""
    if not isinstance(value, str) or not value.strip():
        raise ImportSettingInvalid(f"collection_name must be a collection's name, not {value!r}.")
    return value


def entries(value: Any, name: str) -> list[list[str]] | None:
    """Return files, URLs or paths as the API takes them, each entry a list; a plain path is an entry of one."""
    if value is None:
        return None
    if isinstance(value, str):
        raise ImportSettingInvalid(
            f"{name} must be a list of paths, not the string {value!r}. A template renders to a string, unless the DAG "
            "sets render_template_as_native_obj=True."
        )
    if not isinstance(value, Sequence) or not value:
        raise ImportSettingInvalid(f"{name} must be a list of paths that is not empty, not {value!r}.")
    result = [[entry] if isinstance(entry, str) else entry for entry in value]
    for entry in result:
        if not isinstance(entry, (list, tuple)) or not entry:
            raise ImportSettingInvalid(f"{name} holds {entry!r}, which is neither a path nor a list of paths.")
        for path in entry:
            if not isinstance(path, str) or not path.strip():
                raise ImportSettingInvalid(f"{name} holds {path!r}, which is no path.")
    return [list(entry) for entry in result]
