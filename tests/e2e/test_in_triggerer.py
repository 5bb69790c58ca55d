"""Gates that end in the triggerer, where only a scheduler, a triggerer and processes of their own can prove it."""

from __future__ import annotations

from functools import partial

import pytest
import sqlalchemy

from tests.e2e.conftest import BROKEN, Rig
from tests.e2e.harness import wait_until
from tests.e2e.test_airflow import FILE

pytestmark = pytest.mark.e2e

RUNNING = (
    "SELECT coalesce(map_index, -1) AS map_index, count(*) AS starts FROM log "
    "WHERE event = 'running' AND dag_id = :d AND run_id = :r AND task_id = :t GROUP BY 1 ORDER BY 1"
)


def starts(rig: Rig, dag_id: str, run_id: str, task_id: str) -> list[int]:
    """Return how many workers began each instance of a task."""
    return [row["starts"] for row in rig.airflow.rows(RUNNING, d=dag_id, r=run_id, t=task_id)]


@pytest.fixture(scope="module")
def waiting(rig: Rig) -> tuple[tuple[str, str], list[str]]:
    """Start a run with gates that wait, and return it and their jobs. They do so while the first test runs."""
    jobs = [rig.submit(f"{number}.json") for number in range(4)]
    return ("killed_in_triggerer", rig.airflow.trigger("killed_in_triggerer", {"jobs": jobs})), jobs


@pytest.mark.usefixtures("waiting")
def test_gates_end_in_the_triggerer_with_all_that_they_hand_on(rig: Rig) -> None:
    airflow = rig.airflow
    jobs = [rig.submit(*(f"{number}-{file}.json" for file in range(number))) for number in (1, 2)]
    conf = {name: rig.submit("a.json", "broken.json") for name in ("gate", "fails")}
    conf |= {name: rig.submit() for name in ("quiet", "called_back")}
    conf["too_many"] = rig.submit(*(f"{number:05}.parquet" for number in range(1025)))
    for job in (*jobs, *conf.values()):
        rig.wire.then(job, partial(rig.commit, job))
    run = ("in_triggerer", airflow.trigger("in_triggerer", {"jobs": jobs, **conf}))

    assert airflow.wait_for_run(*run) == "failed"
    states = {(each.task_id, each.map_index): (each.state, each.trigger_id) for each in airflow.instances(*run)}
    assert {task for task, (state, _) in states.items() if state != "success"} == {
        ("fails", -1),
        ("too_many", -1),
        ("process", -1),
    }
    for task, workers in {"gates": [1, 1], "gate": [1], "quiet": [1], "called_back": [2], "fails": [2]}.items():
        assert starts(rig, *run, task) == workers, airflow.task_log(*run, task)
    for index, job in enumerate(jobs):
        xcoms = airflow.xcoms(*run, "gates", index)
        assert (xcoms["import_job"]["job_id"], len(xcoms["return_value"])) == (job, index + 1)
    assert airflow.xcoms(*run, "count")["return_value"] == [1, 2]
    good, broken = (airflow.xcoms(*run, "take", index)["return_value"] for index in (0, 1))
    assert good["types"] == FILE
    assert broken["file"]["error_message"] == BROKEN
    assert [good["file"], broken["file"]] == airflow.xcoms(*run, "gate")["return_value"]
    assert set(airflow.xcoms(*run, "quiet")) == {"import_job"}
    assert "it has an on_success_callback" in airflow.task_log(*run, "called_back")
    assert "max_map_length" in airflow.task_log(*run, "too_many")
    assert airflow.task_log(*run, "gate").count("The gate opens after") == 1
    (dates,) = airflow.rows(
        "SELECT end_date - start_date AS ran, duration FROM task_instance WHERE run_id = :r AND task_id = 'gate'",
        r=run[1],
    )
    assert dates["ran"].total_seconds() == pytest.approx(dates["duration"], abs=0.01)
    assert dates["duration"] > 5


def test_gates_end_once_whose_triggerer_is_killed_between_the_push_and_the_event(
    rig: Rig, waiting: tuple[tuple[str, str], list[str]]
) -> None:
    airflow, (run, jobs) = rig.airflow, waiting
    wait_until("every gate polls in the triggerer", lambda: min(rig.asked(jobs)) >= 2)

    holders = {row["triggerer_id"] for row in airflow.rows("SELECT triggerer_id FROM trigger")}
    assert len(holders) == 1
    airflow.start_component("triggerer", "second triggerer")
    with airflow.database.engine.connect() as connection:
        # It holds back the end of the tasks, and not their XComs.
        query = "SELECT 1 FROM task_instance WHERE run_id = :r AND task_id = 'gates' FOR NO KEY UPDATE"
        connection.execute(sqlalchemy.text(query), {"r": run[1]})
        for job in jobs:
            rig.commit(job)

        query = "SELECT 1 AS one FROM xcom WHERE run_id = :r AND task_id = 'gates' AND key = 'return_value'"
        wait_until("the XComs of one are pushed", lambda: bool(airflow.rows(query, r=run[1])))
        airflow.kill_component("triggerer")
    assert {each.state for each in airflow.instances(*run) if each.task_id == "gates"} == {"deferred"}

    assert airflow.wait_for_run(*run) == "success"
    assert starts(rig, *run, "gates") == [1] * len(jobs)
    for index, job in enumerate(jobs):
        assert airflow.ended(*run, "gates", index) == ("success", 1)
        xcoms = airflow.xcoms(*run, "gates", index)
        assert (xcoms["import_job"]["job_id"], len(xcoms["return_value"])) == (job, 1)
    wait_until("every trigger is gone", lambda: airflow.rows("SELECT id FROM trigger") == [])
