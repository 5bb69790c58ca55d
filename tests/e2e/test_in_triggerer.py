"""Gates whose triggerer is killed while it ends them."""

from __future__ import annotations

import pytest
import sqlalchemy

from tests.e2e.conftest import Rig
from tests.e2e.harness import wait_until
from tests.e2e.test_airflow import starts

pytestmark = pytest.mark.e2e


def test_gates_end_once_whose_triggerer_is_killed_between_the_push_and_the_event(rig: Rig) -> None:
    airflow, jobs = rig.airflow, [rig.submit(f"{number}.json") for number in range(4)]
    run = ("killed_in_triggerer", airflow.trigger("killed_in_triggerer", {"jobs": jobs}))
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
