"""The rate of requests and the pauses of a server, on a clock that stands still, and what else both clients share."""

from __future__ import annotations

import json
from collections import Counter
from heapq import heappop, heappush

import pytest
from airflow.providers.common.compat.sdk import Connection

from airflow_provider_importprog._connection import ImportConnection
from airflow_provider_importprog._http import RateReservation, common_headers
from tests.unit.helpers import Clock

RATE = 40


@pytest.mark.parametrize("pause", [0, 3])
def test_no_second_sees_more_than_the_rate_no_gate_starves_and_all_keep_a_pause(pause: float) -> None:
    clock = Clock(0)
    rate = RateReservation(RATE, clock)
    gates = [(0.0, number, rate.reserve()) for number in range(120)]  # when each wakes
    sent: list[tuple[float, int]] = []
    while clock.now < 30:
        clock.now, number, mine = heappop(gates)
        seconds = next(mine, None)
        if seconds is None:
            sent.append((clock.now, number))
            if len(sent) == 50 and pause:
                rate.pause(pause)  # what the server asked of this one
            seconds, mine = 0.2, rate.reserve()
        heappush(gates, (clock.now + seconds, number, mine))
    times = [at for at, _ in sent]
    assert RATE - 2 <= max(sum(start <= one < start + 1 for one in times) for start in times) <= RATE
    assert times[50] - times[49] == pytest.approx(pause or 1.05 / RATE)
    asked = Counter(number for _, number in sent)
    assert len(asked) == 120
    assert max(asked.values()) - min(asked.values()) <= 1


def test_those_that_were_held_up_together_do_not_go_together() -> None:
    clock = Clock(0)
    rate = RateReservation(10, clock)
    first, second, third = (rate.reserve() for _ in range(3))
    assert next(first, None) is None  # at once
    assert next(second) == pytest.approx(0.105)
    assert next(third) == pytest.approx(0.21)
    clock.sleep(5)
    assert next(third) == pytest.approx(0.105)  # not before the second, which is held up still
    assert next(second, None) is None
    assert next(third) == pytest.approx(0.105)


def test_one_that_gives_up_holds_up_nobody() -> None:
    rate = RateReservation(10, Clock(0))
    first, second, third = (rate.reserve() for _ in range(3))
    next(first, None)
    next(second)
    next(third)
    second.close()
    assert next(third) == pytest.approx(0.105)
    assert rate.pause_left == 0
    rate.pause(9)
    rate.pause(5)  # the longer one counts
    assert rate.pause_left == next(third) == 9


@pytest.mark.parametrize(("timeout", "told"), [(30, "30"), (0.3, "1"), (7.01, "8")])
def test_the_server_is_told_how_long_an_answer_is_waited_for(timeout: float, told: str) -> None:
    connection = Connection(conn_id="c", conn_type="importprog", host="h", extra=json.dumps({"timeout": timeout}))
    assert common_headers(ImportConnection.read(connection))["Request-Timeout"] == told
