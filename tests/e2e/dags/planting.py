"""Leaves a secret where secrets must not be, for the search to find."""

from __future__ import annotations

import base64
from typing import Any

from airflow.providers.common.compat.sdk import dag, task


@dag(schedule=None, catchup=False)
def planting() -> None:
    """Plant it."""

    @task
    def plant(dag_run: Any = None) -> str:
        """Log it, and return it in disguise."""
        planted = dag_run.conf["secret"]
        print(f"the secret is {planted}")  # noqa: T201
        return base64.b64encode(f"root:{planted}".encode()).decode()

    plant()


planting()
