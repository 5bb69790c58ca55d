"""The pytest plugin for users' tests, before any of them runs; that it works, tests/docs shows."""

from __future__ import annotations

import importlib
import sys

import pytest

from tests.unit.test_package import PYPROJECT, tomllib


def test_without_pytest_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "airflow_provider_importprog.testing", raising=False)
    monkeypatch.setitem(sys.modules, "pytest", None)
    with pytest.raises(ImportError, match="needs pytest: pip install pytest"):
        importlib.import_module("airflow_provider_importprog.testing")


def test_it_is_loaded_only_where_it_is_named() -> None:
    assert tomllib.loads(PYPROJECT.read_text())["project"]["entry-points"].keys() == {"apache_airflow_provider"}
