"""Fixtures of the acceptance tests of issue 9: those of the black box, and a few."""

from __future__ import annotations

import logging
import time

import pytest

from tests.acceptance.helpers import Imports, Told
from tests.blackbox.conftest import _no_environment, call, connect, gate, other_server, server
from tests.blackbox.driver import Connect
from tests.blackbox.server import ScriptedServer

__all__ = ["_no_environment", "call", "connect", "gate", "other_server", "server"]


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Told:
    caplog.set_level(logging.DEBUG)
    return Told(caplog, capfd)


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Every pause that was asked for; none is kept for longer than a moment."""
    asked_for: list[float] = []
    sleep = time.sleep

    def nap(seconds: float) -> None:
        asked_for.append(seconds)
        sleep(min(seconds, 0.01))

    monkeypatch.setattr("time.sleep", nap)
    return asked_for


@pytest.fixture
def imports(server: ScriptedServer, connect: Connect, naps: list[float]) -> Imports:
    """A Milvus before 2.6.24, whose new jobs go on."""
    connect({"api_version": "v2"})
    one = Imports(server, honours_key=False)
    one.state = "Importing"
    return one
