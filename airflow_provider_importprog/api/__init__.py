"""The wire, without I/O and without Airflow: requests as data, answers parsed into one model."""

from __future__ import annotations

from airflow_provider_importprog.api.client import ApiVersion, ImportApi
from airflow_provider_importprog.api.model import ImportFile, ImportJob, ImportState
from airflow_provider_importprog.api.wire import Address, NewImportJob, Request, Response

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
