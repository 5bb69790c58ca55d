"""The wire, without I/O and without Airflow: requests as data, answers parsed into one model."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_importprog.api.client import ApiVersion, ImportApi
    from airflow_provider_importprog.api.model import ImportFile, ImportJob, ImportState
    from airflow_provider_importprog.api.protocol import Address, NewImportJob, Request, Response

__all__ = [
    "Address",
    "ApiVersion",
    "ImportApi",
    "ImportFile",
    "ImportJob",
    "ImportState",
    "NewImportJob",
    "Request",
    "Response",
]

_MODULES = {"ApiVersion": "client", "ImportApi": "client"}
_MODULES |= dict.fromkeys(("ImportFile", "ImportJob", "ImportState"), "model")
_MODULES |= dict.fromkeys(("Address", "NewImportJob", "Request", "Response"), "protocol")


def __getattr__(name: str) -> Any:
    """Import what is asked for: a DAG file that has a sensor needs the model alone, and pays for no more."""
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
