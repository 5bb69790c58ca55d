"""Bad input is named at once, good input is made uniform."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from airflow_provider_importprog import _validation
from airflow_provider_importprog.exceptions import ImportSettingInvalid


@pytest.mark.parametrize(
    ("value", "job_id"), [("job-1", "job-1"), (" 7\n", "7"), (448761234567890123, "448761234567890123"), (0, "0")]
)
def test_a_job_id_is_a_string_or_a_whole_number(value: Any, job_id: str) -> None:
    assert _validation.job_id(value) == job_id


@pytest.mark.parametrize("value", [None, "", "  ", "\n", True, False, 1.5, b"7", ["7"], {}, object()])
def test_anything_else_is_no_job_id(value: Any) -> None:
    with pytest.raises(ImportSettingInvalid, match=r"^job_id must be (the id of an import job|a string), "):
        _validation.job_id(value)


@pytest.mark.parametrize("value", ["None", " None "])
def test_a_template_that_found_nothing_is_told_from_a_job_id(value: str) -> None:
    with pytest.raises(ImportSettingInvalid, match="rendered to 'None': the upstream task pushed no XCom"):
        _validation.job_id(value)


@pytest.mark.parametrize(
    ("value", "found"), [(None, None), ("", None), (" ", None), ("None", None), (" in01 ", "in01"), ("none", "none")]
)
def test_an_optional_id_may_be_missing(value: Any, found: str | None) -> None:
    assert _validation.optional_text(value, "cluster_id") == found


@pytest.mark.parametrize("value", [True, 1e5, ["x"], b"x"])
def test_an_optional_id_of_another_type_is_refused(value: Any) -> None:
    with pytest.raises(ImportSettingInvalid, match=r"^cluster_id must be a string, (not|and is) "):
        _validation.optional_text(value, "cluster_id")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(0, 0.0), (30, 30.0), (0.5, 0.5), (timedelta(minutes=2), 120.0), (86_399_999_999_999, 86_399_999_999_999.0)],
)
def test_seconds_are_a_number_or_a_timedelta(value: Any, seconds: float) -> None:
    found = _validation.seconds(value, "outage_tolerance")
    assert found == seconds
    assert type(found) is float


@pytest.mark.parametrize(
    "value",
    [
        -1,
        -0.001,
        timedelta(seconds=-1),
        float("nan"),
        float("-inf"),
        True,
        "30",
        None,
        [30],
        float("inf"),
        10**14,
        pytest.param(10**400, id="endless"),
    ],
)
def test_anything_else_is_no_span_of_time(value: Any) -> None:
    with pytest.raises(ImportSettingInvalid, match=r"^outage_tolerance must be 0 or more seconds"):
        _validation.seconds(value, "outage_tolerance")


@pytest.mark.parametrize("value", [True, False])
def test_a_flag_is_a_bool(value: bool) -> None:
    assert _validation.flag(value, "deferrable") is value


@pytest.mark.parametrize("value", ["false", "", 0, 1, None, []])
def test_and_nothing_that_only_counts_as_one(value: Any) -> None:
    with pytest.raises(ImportSettingInvalid, match=r"^deferrable must be True or False, not "):
        _validation.flag(value, "deferrable")


@pytest.mark.parametrize("value", [None, 0, 1000])
def test_a_number_of_rows_is_whole_or_none(value: Any) -> None:
    assert _validation.min_rows(value) == value


@pytest.mark.parametrize("value", [-1, True, 1.0, "5", [5]])
def test_anything_else_is_no_number_of_rows(value: Any) -> None:
    with pytest.raises(ImportSettingInvalid, match=r"^min_rows must be a whole number, 0 or more, or None, not "):
        _validation.min_rows(value)


@pytest.mark.parametrize("value", ["completed", "uncommitted"])
def test_a_gate_waits_for_one_of_two_states(value: str) -> None:
    assert _validation.wait_for(value) == value


@pytest.mark.parametrize("value", ["Completed", "", "committed", None, 5, True, [], {}])
def test_and_for_nothing_else(value: Any) -> None:
    with pytest.raises(ImportSettingInvalid, match=r"^wait_for must be one of completed, uncommitted, not "):
        _validation.wait_for(value)


@pytest.mark.parametrize(
    ("value", "entries"),
    [
        (None, None),
        (["a", "b"], [["a"], ["b"]]),
        ([["a", "b"], "c"], [["a", "b"], ["c"]]),
        ((("a",), "b"), [["a"], ["b"]]),
    ],
)
def test_entries_are_lists_of_paths(value: Any, entries: list[list[str]] | None) -> None:
    assert _validation.entries(value, "files") == entries


@pytest.mark.parametrize(
    "value", ["a.json", [], (), {}, {"a"}, 5, [[]], [5.5], [["a", True]], [""], [[" "]], [None], [b"a"]]
)
def test_anything_else_is_no_list_of_paths(value: Any) -> None:
    with pytest.raises(ImportSettingInvalid, match=r"^files "):
        _validation.entries(value, "files")
