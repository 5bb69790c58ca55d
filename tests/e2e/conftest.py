"""What the tests on a real Airflow share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.harness import Postgres
from tests.e2e.rig import Rig, running

SLOW = "e2e_slow"


def pytest_configure(config: pytest.Config) -> None:
    """Know our slow marker, wherever the configuration comes from."""
    config.addinivalue_line("markers", f"{SLOW}: measurements on a real Airflow, and long waits")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the slow ones out unless they are asked for, also where ``-m e2e`` would take them."""
    if SLOW in config.option.markexpr:
        return
    slow = [item for item in items if item.get_closest_marker(SLOW)]
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if not item.get_closest_marker(SLOW)]


@pytest.fixture(scope="session")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """An Airflow for every module that brings none of its own; on SQLite, calls to a busy one end in HTTP 500."""
    with running(tmp_path_factory.mktemp("airflow") / "airflow", Postgres()) as rig:
        yield rig
        rig.airflow.stop()
        assert rig.airflow.processes() == []
