"""What is to be imported, checked before anything is sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from airflow_provider_importprog import checks
from airflow_provider_importprog.api.wire import NewImportJob
from airflow_provider_importprog.exceptions import ImportSettingInvalid

_CHECKS: dict[str, Callable[[Any], Any]] = {
    "collection_name": checks.collection_name,
    "files": lambda value: checks.entries(value, "files"),
    "object_urls": lambda value: checks.entries(value, "object_urls"),
    "data_paths": lambda value: checks.entries(value, "data_paths"),
    "options": checks.options,
    "idempotency_key": checks.idempotency_key,
}


def check(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return some fields of a new job, each checked by itself."""
    return {name: _CHECKS[name](value) if name in _CHECKS else value for name, value in fields.items()}


def new_import_job(**fields: Any) -> NewImportJob:
    """Check what a user wants imported, before anything is sent."""
    new = NewImportJob(**check(fields))
    sources = [name for name in ("files", "object_urls", "volume_name") if getattr(new, name) is not None]
    if len(sources) != 1:
        given = " and ".join(sources) or "none"
        raise ImportSettingInvalid(
            f"An import job takes one source: files, object_urls, or volume_name with data_paths. Given: {given}."
        )
    if (new.volume_name is None) != (new.data_paths is None):
        raise ImportSettingInvalid("volume_name and data_paths go together; one is missing.")
    return new
