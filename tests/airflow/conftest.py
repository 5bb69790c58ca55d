"""Fixtures over a real Airflow.

No ``__init__.py`` may be here: pytest puts tests/ on the path, and a package would stand before Airflow itself.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from tests.airflow.harness import Airflow, Ran, migrated
from tests.blackbox.conftest import connect, server  # noqa: F401
from tests.blackbox.driver import Connect


@pytest.fixture(scope="session")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    own = tmp_path_factory.mktemp("airflow")
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
    with (shared / "airflow.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        template = shared / "airflow-template"
        if not template.exists():
            migrated(shared / "airflow-new").rename(template)
    shutil.copy(template / "airflow.db", own / "airflow.db")
    one = Airflow(own)
    yield one
    one.close()


@pytest.fixture
def run(airflow: Airflow, connect: Connect) -> Callable[..., Ran]:  # noqa: F811
    """Run a DAG with the connection that `connect` has set."""

    def with_connection(*tasks: str, env: dict[str, str] | None = None, **kwargs: Any) -> Ran:
        name = "AIRFLOW_CONN_IMPORTPROG_DEFAULT"
        return airflow.run(*tasks, env={name: os.environ[name], **(env or {})}, **kwargs)

    return partial(with_connection)
