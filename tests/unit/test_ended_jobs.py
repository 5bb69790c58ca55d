"""Which import jobs count as ended before."""

from __future__ import annotations

import pytest

from airflow_provider_importprog._ended_jobs import Ended, ended_by_now
from airflow_provider_importprog.api import ImportJob, ImportState

DAY = 24 * 3600.0
NOW = 1e9


@pytest.mark.parametrize(
    ("before", "listed", "after"),
    [
        ({}, {"a": "completed", "b": "failed", "c": "importing", "d": "uncommitted"}, {"a": None, "b": None}),
        ({"a": None}, {"a": "completed"}, {"a": None}),
        ({"a": None}, {}, {"a": NOW}),
        ({"a": NOW - 5}, {}, {"a": NOW - 5}),
        ({"a": NOW - DAY + 1}, {}, {"a": NOW - DAY + 1}),
        ({"a": NOW - DAY}, {}, {}),
        ({"a": NOW - 5}, {"a": "completed"}, {"a": None}),
        ({"a": None}, {"a": "importing"}, {"a": None}),
    ],
    ids=["first", "same", "missing", "still missing", "almost a day", "a day", "comes back", "seems to go on"],
)
def test_a_job_is_remembered_until_lists_have_lacked_it_for_a_day(
    before: Ended, listed: dict[str, str], after: Ended
) -> None:
    jobs = [ImportJob(job_id, "articles", ImportState(state), 0.0) for job_id, state in listed.items()]
    assert ended_by_now(before, jobs, NOW) == after
