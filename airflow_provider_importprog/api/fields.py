"""Reads single fields out of an answer, and says which one is not what the API promises.

What decides a verdict (states, times, errors, ids) is read strictly. What only informs (sizes, rows,
percentages) is None where it makes no sense: a gate must not fail because of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any

from dateutil.parser import isoparse

from airflow_provider_importprog.api.errors import UnexpectedAnswer

# The reference page of v1 shows "Unknown type" where older pages show null.
_STANDS_FOR_NULL = {"", "null", "unknown type"}
_LONGEST_NULL = max(map(len, _STANDS_FOR_NULL))
# Airflow sends XComs between its processes as msgpack, whose integers end here.
_LARGEST_INTEGER = 2**63 - 1


def mapping(value: Any, name: str) -> Mapping[str, Any]:
    """Return a JSON object."""
    if not isinstance(value, dict):
        raise _unexpected(name, value, "an object")
    return value


def items(value: Any, name: str) -> list[Mapping[str, Any]]:
    """Return a JSON list of objects; a missing one is empty."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise _unexpected(name, value, "a list")
    for index, item in enumerate(value):
        if not isinstance(item, dict):
            raise _unexpected(f"{name}[{index}]", item, "an object")
    return value


def text(data: Mapping[str, Any], name: str) -> str | None:
    """Return a string that every database and log can hold, or None where it stands for null."""
    value = data.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise _unexpected(name, value, "a string")
    if not value:
        return None
    # Most are plain names, and this runs for every file at every poll.
    if len(value) > _LONGEST_NULL and value.isascii() and "\0" not in value and value[0] > " " and value[-1] > " ":
        return value
    if value.strip().lower() in _STANDS_FOR_NULL:
        return None
    # PostgreSQL takes no NUL in JSON, and UTF-8 no half of a surrogate pair.
    return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def required_text(data: Mapping[str, Any], name: str) -> str:
    """Return a string that must be there."""
    value = text(data, name)
    if value is None:
        raise _unexpected(name, data.get(name), "a string")
    return value


def identifier(data: Mapping[str, Any], name: str, expected: str | None = None) -> str:
    """Return an id, a string or a whole number, and refuse another one than `expected`."""
    value = data.get(name)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    elif value is not None:
        value = text(data, name)
    if value is None:
        if expected is None:
            raise _unexpected(name, data.get(name), "an id")
        return expected
    if expected is not None and value != expected:
        raise UnexpectedAnswer(f"The answer is about {name} {_shown(value)}, but {_shown(expected)} was asked for.")
    return value


def timestamp(data: Mapping[str, Any], name: str) -> datetime | None:
    """Return a time in UTC, or None where it stands for null. A time without a zone is taken for UTC."""
    value = text(data, name)
    if value is None:
        return None
    try:
        return _utc(value)
    except (ValueError, OverflowError):
        raise _unexpected(name, value, "a time in ISO 8601") from None


def informative_timestamp(data: Mapping[str, Any], name: str) -> datetime | None:
    """Return a time in UTC, or None where there is none to make sense of."""
    try:
        return timestamp(data, name)
    except UnexpectedAnswer:
        return None


# A file's time comes again with every poll until the job ends.
@lru_cache(maxsize=4096)
def _utc(value: str) -> datetime:
    parsed = isoparse(value)
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=timezone.utc)).astimezone(timezone.utc)


def count(data: Mapping[str, Any], name: str) -> int | None:
    """Return a whole number from 0 on, or None where there is none to make sense of."""
    value = data.get(name)
    if type(value) is not int:
        value = _finite(value)
    return None if value is None or not 0 <= value <= _LARGEST_INTEGER else int(value)


def percent(value: Any) -> float:
    """Return a percentage within 0 to 100; 0 where there is none to make sense of."""
    number = value if type(value) is int else _finite(value)
    if number is None or number <= 0:
        return 0.0
    return float(number) if number < 100 else 100.0


def _finite(value: Any) -> float | int | None:
    if isinstance(value, str):
        try:
            value = int(value) if value.strip().isdecimal() else float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _unexpected(name: str, value: Any, promised: str) -> UnexpectedAnswer:
    return UnexpectedAnswer(f"{name!r} should be {promised} and is {_shown(value)}.")


def _shown(value: Any) -> str:
    shown = repr(value)
    # Not the beginning of it: it might be that of a secret, which nobody would find to redact.
    return shown if len(shown) <= 80 else f"a {type(value).__name__} of {len(shown):,} characters"
