"""What users pass in, checked once: by hooks, operators, sensor and trigger alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow_provider_importprog.exceptions import ImportSettingInvalid

if TYPE_CHECKING:
    from airflow_provider_importprog.api.protocol import NewImportJob

# Seconds; a timedelta, and so a deferral, can hold no more.
_LONGEST = timedelta.max.total_seconds()
#: The keys of `verdict.OPENS_AT`, which a DAG file need not load.
WAIT_FOR = ("completed", "uncommitted")
# In bytes; what Milvus takes.
_LONGEST_KEY = 256


def text(value: Any, name: str) -> str:
    """Return a string as it was written in the DAG file.

    ``render_template_as_native_obj`` makes Python values of strings, literals too. Of "2024" it makes the number 2024,
    whose text is still known; of "1e5" and "True" it makes values whose text is not.

    :raises ImportSettingInvalid: it is no string, and its text is lost.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, (bool, float)):
        raise ImportSettingInvalid(
            f"{name} must be a string, and is {value!r}. If it is a string in the DAG file, the DAG's setting "
            "render_template_as_native_obj=True has changed its type: unset it, or put a second pair of quotes around "
            "the text."
        )
    raise ImportSettingInvalid(f"{name} must be a string, not {value!r}.")


def optional_text(value: Any, name: str) -> str | None:
    """Return a string as `text` does, or None where it is missing, blank, or a template that rendered to nothing."""
    written = "" if value is None else text(value, name).strip()
    return None if written in ("", "None") else written


def job_id(value: Any) -> str:
    """Return an import job's id as a string, without white space around it.

    :raises ImportSettingInvalid: there is none. A template that found no XCom renders to "None".
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        raise ImportSettingInvalid(f"job_id must be the id of an import job, not {value!r}.")
    written = text(value, "job_id").strip()
    if written == "None":
        raise ImportSettingInvalid(
            "job_id rendered to 'None': the upstream task pushed no XCom. Check the task id in the template, and that "
            "the task returns the job id."
        )
    return written


def conn_id(value: Any) -> str:
    """Return a connection's id, without white space around it."""
    written = optional_text(value, "importprog_conn_id")
    if written is None:
        raise ImportSettingInvalid("importprog_conn_id is blank: name a connection of type importprog.")
    return written


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


def interval(value: Any, name: str) -> float:
    """Return the span of time between two polls, more than 0, in seconds."""
    span = seconds(value, name)
    if not span:
        raise ImportSettingInvalid(f"{name} must be more than 0 seconds.")
    return span


def ended_states(value: Any) -> list[str]:
    """Return states in which an import job has ended, in one order."""
    from airflow_provider_importprog.api.model import ENDED  # a DAG file that has a sensor needs none of them

    ended = [str(state) for state in ENDED]
    if not isinstance(value, (list, tuple, set, frozenset)) or not value or not all(one in ended for one in value):
        raise ImportSettingInvalid(f"states must be a list of {' and '.join(ended)}, or of one of them, not {value!r}.")
    return [state for state in ended if state in value]


def min_rows(value: Any) -> int | None:
    """Return a number of rows, or None where any number will do."""
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise ImportSettingInvalid(f"min_rows must be a whole number, 0 or more, or None, not {value!r}.")


def wait_for(value: Any) -> str:
    """Return the state that a gate waits for."""
    if value not in WAIT_FOR:
        raise ImportSettingInvalid(f"wait_for must be one of {', '.join(WAIT_FOR)}, not {value!r}.")
    return str(value)


def idempotency_key(value: Any) -> str | None:
    """Return a key as it may travel in a header, or None where there is none."""
    if value is None:
        return None
    key = text(value, "idempotency_key")
    if not 1 <= len(key) <= _LONGEST_KEY or not key.isascii():
        shown = f"one of {len(key)} characters" if len(key) > 80 else repr(key)
        raise ImportSettingInvalid(
            f"idempotency_key must be 1 to {_LONGEST_KEY} printable ASCII characters, not {shown}."
        )
    if not key.isprintable() or key != key.strip():
        raise ImportSettingInvalid(f"idempotency_key must be printable, with no space at either end, and is {key!r}.")
    return key


def options(value: Any) -> dict[str, str] | None:
    """Return the options of an import; a bool is refused, as the servers do."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise ImportSettingInvalid(f"options must be a dict of strings, not {value!r}.")
    return {name: text(setting, f"options[{name!r}]") for name, setting in value.items()}


def collection_name(value: Any) -> str:
    """Return a collection's name."""
    if value is None or not text(value, "collection_name").strip():
        raise ImportSettingInvalid(f"collection_name must be a collection's name, not {value!r}.")
    return text(value, "collection_name")


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
    return [
        [_path(path, name) for path in entry] if isinstance(entry, (list, tuple)) and entry else [_path(entry, name)]
        for entry in value
    ]


def _path(value: Any, name: str) -> str:
    if isinstance(value, (list, tuple, dict, set)) or value is None or not text(value, name).strip():
        raise ImportSettingInvalid(f"{name} holds {value!r}, which is neither a path nor a list of paths.")
    return text(value, name)


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "collection_name": collection_name,
    "partition_name": lambda value: optional_text(value, "partition_name"),
    "files": lambda value: entries(value, "files"),
    "object_urls": lambda value: entries(value, "object_urls"),
    "volume_name": lambda value: optional_text(value, "volume_name"),
    "data_paths": lambda value: entries(value, "data_paths"),
    "options": options,
    "idempotency_key": idempotency_key,
}


def new_import_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return some fields of a new import, each checked by itself."""
    return {name: _CHECKS[name](value) if name in _CHECKS else value for name, value in fields.items()}


def new_import(**fields: Any) -> NewImportJob:
    """Check what a user wants imported, before anything is sent."""
    from airflow_provider_importprog.api.protocol import NewImportJob  # a DAG file that has a sensor needs none of it

    new = NewImportJob(**new_import_fields(fields))
    sources = [name for name in ("files", "object_urls", "volume_name") if getattr(new, name) is not None]
    if len(sources) != 1:
        given = " and ".join(sources) or "none"
        raise ImportSettingInvalid(
            f"An import job takes one source: files, object_urls, or volume_name with data_paths. Given: {given}."
        )
    if (new.volume_name is None) != (new.data_paths is None):
        raise ImportSettingInvalid("volume_name and data_paths go together; one is missing.")
    return new
