"""Fixtures of the suite that knows the specification only."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.blackbox.driver import (
    AIRFLOW_2,
    MODES,
    PROXIES,
    TOKEN_LOGIN,
    TOKEN_PASSWORD,
    Call,
    Connect,
    FakeTaskInstance,
    Gate,
    Told,
)
from tests.blackbox.server import ScriptedServer


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    if AIRFLOW_2:
        monkeypatch.setattr("airflow.sensors.base._orig_start_date", lambda **_: FakeTaskInstance.latest.first)


def serve() -> Iterator[ScriptedServer]:
    one = ScriptedServer()
    yield one
    one.close()


server = pytest.fixture(serve, name="server")
other_server = pytest.fixture(serve, name="other_server")


@pytest.fixture
def connect(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> Connect:
    """Set the default connection; keywords replace its fields, `extra` is a dict."""

    def set_it(extra: dict[str, Any] | None = None, **fields: Any) -> None:
        connection = {
            "conn_type": "importprog",
            "host": server.url,
            "login": TOKEN_LOGIN,
            "password": TOKEN_PASSWORD,
            "extra": {"timeout": 5, "max_requests_per_second": 1000, **(extra or {})},
            **fields,
        }
        kept = {name: value for name, value in connection.items() if value is not None}
        monkeypatch.setenv("AIRFLOW_CONN_IMPORTPROG_DEFAULT", json.dumps(kept))

    set_it()
    return set_it


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Every pause that a thread asked for, in seconds; none of them takes long."""
    asked_for: list[float] = []
    sleep = time.sleep

    def nap(seconds: float) -> None:
        asked_for.append(seconds)
        sleep(min(seconds, 0.01))

    monkeypatch.setattr("time.sleep", nap)
    return asked_for


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest, connect: Connect) -> Call:
    return Call(request.param)


@pytest.fixture(params=MODES)
def gate(request: pytest.FixtureRequest, connect: Connect) -> Gate:
    return Gate(request.param)


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Told:
    return Told(caplog, capfd)
