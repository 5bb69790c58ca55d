"""A pytest fixture for the tests of your own DAGs.

Put this into the ``conftest.py`` at the root of your tests:

pytest_plugins = ["airflow_provider_importprog.testing"]
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from airflow_provider_importprog.emulator import Emulator

try:
    import pytest
except ImportError as error:
    raise ImportError("airflow_provider_importprog.testing needs pytest: pip install pytest") from error


@pytest.fixture
def import_api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """Run a simulated import API for one test, with the connection ``importprog_default`` that leads to it.

    Jobs end at once, so that a gate with any `poke_interval` opens or fails at its first poll; ``set_duration`` lets
    later ones go on for some seconds. The connection is set in the environment, and is as before after the test.
    """
    with Emulator(duration=0) as emulator:
        connection = {"conn_type": "importprog", "host": emulator.url, "extra": {"api_version": "v2"}}
        monkeypatch.setenv("AIRFLOW_CONN_IMPORTPROG_DEFAULT", json.dumps(connection))
        yield emulator
