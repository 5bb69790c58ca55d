"""Import jobs of many files: all of them reach the tasks behind the gate, or the gate says why they cannot."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import pytest

from tests.e2e.harness import wait_until
from tests.e2e.rig import AIRFLOW_2, Rig

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("airflow")]

FILES = {"many_files": 10_000, "too_many_files": 1025}
"""By DAG: more than Airflow's own `max_map_length`, which is 1,024."""


def names(dag_id: str) -> list[str]:
    return [f"{number:05}.parquet" for number in range(FILES[dag_id])]


@pytest.fixture(scope="module")
def runs(rig: Rig) -> Iterator[dict[str, str]]:
    """Run each DAG over a job that ends once its gate is deferred. The two gates share a list."""
    rig.wire.lists, began = True, time.monotonic()
    jobs = {dag_id: rig.submit(*names(dag_id)) for dag_id in FILES}
    runs = {dag_id: rig.airflow.trigger(dag_id, {"job": job}) for dag_id, job in jobs.items()}
    for dag_id in jobs:
        gate = partial(rig.airflow.instance, dag_id, runs[dag_id], "gate")
        wait_until("the gate is deferred", lambda gate=gate: gate().state == "deferred")
    wait_until(
        "the gates share a list",
        lambda: any(asked.path.endswith("/list") and asked.at > began for asked in rig.wire.asked()),
    )
    for job in jobs.values():
        rig.commit(job)
    yield runs
    rig.wire.lists = False


def test_tasks_map_over_lists_of_ten_thousand_files(rig: Rig, runs: dict[str, str]) -> None:
    run = ("many_files", runs["many_files"])
    state = rig.airflow.wait_for_run(*run)
    log = rig.airflow.task_log(*run, "gate")

    assert state == "success", log
    wanted = [f"[{name}]" for name in names("many_files")]
    assert [file["file_name"] for file in rig.airflow.xcoms(*run, "gate")["return_value"]] == wanted
    indexes = [each.map_index for each in rig.airflow.instances(*run) if each.task_id == "process"]
    processed = [name for index in indexes for name in rig.airflow.xcoms(*run, "process", index)["return_value"]]
    assert sorted(processed) == wanted
    events = [line for line in log.splitlines() if "TriggerEvent<" in line]
    assert events
    assert max(map(len, events)) < 4096
    assert "max_map_length" not in log


def test_a_gate_with_too_many_files_to_map_over_says_so(rig: Rig, runs: dict[str, str]) -> None:
    run = ("too_many_files", runs["too_many_files"])
    state = rig.airflow.wait_for_run(*run)
    log = rig.airflow.task_log(*run, "gate")

    assert state == "failed"
    assert {each.task_id: each.state for each in rig.airflow.instances(*run)} == {
        "gate": "failed",
        "process": "upstream_failed",
    }
    assert "A task maps over the 1,025 files that this one returns" in log
    # Airflow's own words, which the warning comes before.
    why = "unmappable return value length: 1025 > 1024" if AIRFLOW_2 else "unmappable_return_value_length"
    assert log.index("The gate opens after") < log.index("[core] max_map_length") < log.index(why)
