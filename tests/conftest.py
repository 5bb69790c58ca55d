"""What every test shares."""

from __future__ import annotations

import os
import tempfile

pytest_plugins = ["tests.emulator.fixtures"]

# Airflow writes its configuration there when it is imported, which is after this.
_home = tempfile.TemporaryDirectory(prefix="importprog-tests-", ignore_cleanup_errors=True)
os.environ["AIRFLOW_HOME"] = _home.name
os.environ["AIRFLOW__CORE__UNIT_TEST_MODE"] = "True"


def pytest_unconfigure() -> None:
    """Leave nothing behind."""
    _home.cleanup()
