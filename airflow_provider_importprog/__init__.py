"""Airflow provider that gates DAGs on Milvus and Zilliz Cloud import jobs."""

from __future__ import annotations

from typing import Any

__version__ = "1.0.0"


def get_provider_info() -> dict[str, Any]:
    """Describe the provider to Airflow: the ``apache_airflow_provider`` entry point."""
    from airflow_provider_importprog._provider_info import provider_info

    return provider_info(__version__)
