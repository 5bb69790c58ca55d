"""Ten minutes of a thousand gates: nothing grows, and every verdict is right."""

from __future__ import annotations

import json
import os

import pytest

from tests.benchmark.soak import GATES, RATE, soak

SECONDS = float(os.environ.get("SOAK_SECONDS", "600"))


@pytest.mark.soak
def test_nothing_grows_and_every_verdict_is_right(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("airflow.sdk", reason="it logs as the triggerer of Airflow 3 does")
    found = soak(SECONDS)
    with capsys.disabled():
        print("\n" + json.dumps(found, indent=1))
    assert (found["wrong"], found["such_as"]) == (0, [])
    assert sum(found["endings"].values()) >= GATES * max(SECONDS / 80, 1)
    assert set(found["endings"]) == {"completed", "failed", "partly", "forgotten", "unknown"}
    assert found["most_connections"] <= 32
    assert found["busiest_second_unstalled"] <= RATE
    assert (found["sessions_left"], found["tasks_left"]) == (0, [])
    early, late = found["early"], found["late"]
    assert late["tasks"] <= 1.05 * early["tasks"]
    if SECONDS < 600:
        pytest.skip("for some minutes the server forgets fewer jobs than come, and its list grows")
    assert late["memory"] <= 1.03 * early["memory"]
    assert late["objects"] <= 1.05 * early["objects"]
