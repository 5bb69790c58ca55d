"""Bad input is named at once, good input is made uniform."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from airflow_provider_importprog import _validation
from airflow_provider_importprog.exceptions import ImportSettingInvalid

NAN, INF = float("nan"), float("inf")
CHECKS: dict[str, Callable[[Any], Any]] = {
    "job_id": _validation.job_id,
    "cluster_id": lambda value: _validation.optional_text(value, "cluster_id"),
    "outage_tolerance": lambda value: _validation.seconds(value, "outage_tolerance"),
    "deferrable": lambda value: _validation.flag(value, "deferrable"),
    "min_rows": _validation.min_rows,
    "wait_for": _validation.wait_for,
    "files": lambda value: _validation.entries(value, "files"),
}
GOOD: dict[str, list[tuple[Any, Any]]] = {
    "job_id": [("job-1", "job-1"), (" 7\n", "7"), (448761234567890123, "448761234567890123"), (0, "0")],
    "cluster_id": [(None, None), ("", None), (" ", None), ("None", None), (" in01 ", "in01"), ("none", "none")],
    "outage_tolerance": [(0, 0.0), (0.5, 0.5), (timedelta(minutes=2), 120.0), (86_399_999_999_999, 86399999999999.0)],
    "deferrable": [(True, True), (False, False)],
    "min_rows": [(None, None), (0, 0), (1000, 1000)],
    "wait_for": [("completed", "completed"), ("uncommitted", "uncommitted")],
    "files": [(None, None), (["a", "b"], [["a"], ["b"]]), ([["a", "b"], "c"], [["a", "b"], ["c"]]),
              ((("a",), "b"), [["a"], ["b"]])],
}  # fmt: skip
BAD: dict[str, list[tuple[str, list[Any]]]] = {
    "job_id": [
        ("(the id of an import job|a string), ", [None, "", "  ", True, False, 1.5, b"7", ["7"], {}, object()]),
        ("rendered to 'None': the upstream task pushed no XCom", ["None", " None "]),
    ],
    "cluster_id": [("a string, (not|and is) ", [True, 1e5, ["x"], b"x"])],
    "outage_tolerance": [("0 or more seconds", [-1, -0.001, timedelta(seconds=-1), NAN, -INF, INF, 10**14, 10**400]),
                         ("0 or more seconds", [True, "30", None, [30]])],
    "deferrable": [("True or False, not ", ["false", "", 0, 1, None, []])],
    "min_rows": [("a whole number, 0 or more, or None, not ", [-1, True, 1.0, "5", [5]])],
    "wait_for": [("one of completed, uncommitted, not ", ["Completed", "", "committed", None, 5, True, [], {}])],
    "files": [("(a list of paths|a string)", ["a.json", [], (), {}, {"a"}, 5, [5.5], [["a", True]]]),
              ("holds .* neither a path nor a list of paths", [[[]], [""], [" "], [None]]), ("a string", [[b"a"]])],
}  # fmt: skip


@pytest.mark.parametrize(("name", "value", "found"), [(name, *row) for name, rows in GOOD.items() for row in rows])
def test_good_input_is_made_uniform(name: str, value: Any, found: Any) -> None:
    checked = CHECKS[name](value)
    assert (checked, type(checked)) == (found, type(found))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [(name, value, words) for name, rows in BAD.items() for words, values in rows for value in values],
    ids=lambda value: str(value)[:12],
)
def test_bad_input_is_named(name: str, value: Any, words: str) -> None:
    with pytest.raises(ImportSettingInvalid, match=rf"^{name} (must be )?{words}"):
        CHECKS[name](value)
