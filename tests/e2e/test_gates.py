"""Gates on an Airflow as a newcomer runs it: SQLite, one of each component."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from tests.e2e.cases import CASES, MODES, Case
from tests.e2e.harness import TaskInstance, wait_until
from tests.e2e.rig import BROKEN, Rig

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("airflow")]

FILE_TYPES = {
    "file_name": "str",
    "file_size": "int",
    "state": "str",
    "progress": "float",
    "imported_rows": "int",
    "total_rows": "int",
    "complete_time": "str",
    "error_message": "NoneType",
}


# Each mode, each ending, soft_fail off and on


@dataclass
class Ended:
    """The matrix after its run."""

    rig: Rig
    runs: dict[str, str]
    instances: dict[str, TaskInstance]
    jobs: dict[str, str]

    def xcoms(self, case: Case) -> dict[str, Any]:
        return self.rig.airflow.xcoms(f"matrix_{case.mode}", self.runs[case.mode], case.task_id)

    def log(self, case: Case) -> str:
        return self.rig.airflow.task_log(f"matrix_{case.mode}", self.runs[case.mode], case.task_id)


def arrange(rig: Rig, case: Case) -> str:
    """Submit a case's job, and see to it that it ends as the case has it once its gate waits."""
    broken = case.ending.startswith("files_failed")
    job = rig.submit("1.json", "2-broken.json" if broken else "2.json")
    if case.ending in ("opens", "files_failed", "files_failed_allowed"):
        rig.wire.then(job, lambda: rig.commit(job))
    elif case.ending == "job_failed":
        rig.wire.then(job, lambda: rig.emulator.abort(job))
    elif case.ending == "unknown":
        rig.wire.then(job, lambda: rig.emulator.forget(job))
    elif case.ending == "unauthorized":
        rig.wire.answer(job, 401, '{"code": 1800, "message": "user hasn\'t authenticated"}')
    elif case.ending == "unreachable":
        rig.wire.answer(job, 503, '{"code": 65535, "message": "service unavailable"}')
    return job


@pytest.fixture(scope="module")
def matrix(rig: Rig) -> Ended:
    ended = Ended(rig, {}, {}, {})
    # Rescheduled gates apart: the fewer processes start at once, the less the scheduler lags behind.
    for modes in (("poke", "deferrable"), ("reschedule",)):
        for mode in modes:
            start(ended, mode)
        for mode in modes:
            finish(ended, mode)
    return ended


def start(ended: Ended, mode: str) -> None:
    ended.jobs.update({case.task_id: arrange(ended.rig, case) for case in CASES if case.mode == mode})
    ended.runs[mode] = ended.rig.airflow.trigger(f"matrix_{mode}", {"jobs": ended.jobs})


def finish(ended: Ended, mode: str) -> None:
    """Wait for a run; where Airflow itself took a live task for a dead one, and says so, start anew."""
    airflow = ended.rig.airflow
    for more in (2, 1, 0):
        airflow.wait_for_run(f"matrix_{mode}", ended.runs[mode], 600)
        raced = airflow.state_mismatches(ended.runs[mode])
        if not raced or not more:
            break
        warnings.warn(f"Airflow's race hit {raced}: running matrix_{mode} anew", stacklevel=1)
        start(ended, mode)
    ended.instances.update({each.task_id: each for each in airflow.instances(f"matrix_{mode}", ended.runs[mode])})


each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.task_id)


@each_case
def test_ends_in_its_state_after_its_tries(matrix: Ended, case: Case) -> None:
    instance = matrix.instances[case.task_id]

    assert (instance.state, instance.try_number) == (case.state, case.tries), matrix.log(case)
    assert instance.trigger_id is None


@each_case
def test_waited_and_then_asked_no_more(matrix: Ended, case: Case) -> None:
    asked = matrix.rig.asked([matrix.jobs[case.task_id]])[0]

    assert asked >= 3  # the job went on when the gate first looked
    if case.state == "success":
        assert asked <= 6
    assert ("Pausing task as DEFERRED" in matrix.log(case)) == (case.mode == "deferrable")
    assert ("marking task as UP_FOR_RESCHEDULE" in matrix.log(case)) == (case.mode == "reschedule")


@each_case
def test_leaves_what_is_known_in_xcom(matrix: Ended, case: Case) -> None:
    xcoms = matrix.xcoms(case)
    if case.ending in ("opens", "job_failed", "files_failed", "files_failed_allowed"):
        job, files = xcoms["import_job"], xcoms["return_value"]
        assert job["job_id"] == matrix.jobs[case.task_id]
        assert job["collection_name"] == "articles"
        assert job["state"] == ("failed" if case.ending == "job_failed" else "completed")
        assert "files" not in job
        assert [file["file_name"] for file in files] == ["[1.json]", files[1]["file_name"]]
        assert [set(file) for file in files] == [set(FILE_TYPES)] * 2
        assert files[1]["error_message"] == (
            BROKEN if "broken" in files[1]["file_name"] else job["error_message"] and files[0]["error_message"]
        )
        assert type(files[0]["progress"]) is float
        assert type(files[0]["total_rows"]) is int
    elif (case.mode, case.ending) == ("poke", "unknown"):
        # One process saw the job before the server forgot it, and hands on what it saw last.
        assert xcoms["import_job"]["state"] == "uncommitted"
    else:
        assert "return_value" not in xcoms


@each_case
def test_tells_why_in_its_log(matrix: Ended, case: Case) -> None:
    log, job = matrix.log(case), matrix.jobs[case.task_id]
    if case.ends_by_timeout:
        why = "18 s" if case.mode == "deferrable" else "timed out"
    else:
        why = {
            "opens": "The gate opens after",
            "files_failed_allowed": "The gate opens after",
            "job_failed": "import job was aborted by the user",
            "files_failed": "1 of 2 files failed",
            "unknown": "the record has expired",
            "unauthorized": "Check the login and the password",
            "unreachable": "No good answer about import job",
        }[case.ending]

    assert job in log
    assert why in log
    assert log.count("The gate opens after") == (case.state == "success")
    assert log.count("The gate fails after") <= case.tries


def test_every_mode_ends_alike(matrix: Ended) -> None:
    ends: dict[tuple[str, bool], set[tuple[str | None, int]]] = {}
    for case in CASES:
        if case.ending != "unreachable":
            instance = matrix.instances[case.task_id]
            ends.setdefault((case.ending, case.soft_fail), set()).add((instance.state, instance.try_number))

    assert {len(seen) for seen in ends.values()} == {1}


# Mapped gates, mapped files


@pytest.fixture(scope="module")
def mapped(rig: Rig) -> tuple[str, list[str], str]:
    jobs = [rig.submit(*(f"{number}-{file}.json" for file in range(number))) for number in (1, 2, 3)]
    single = rig.submit("a.json", "b-broken.json")
    for job in (*jobs, single):
        # Two gates ask for each, and both wait.
        rig.wire.then(job, partial(rig.commit, job), after=5)
    run_id = rig.airflow.trigger("mapped", {"jobs": jobs, "single": single})
    assert rig.airflow.wait_for_run("mapped", run_id) == "success"
    return run_id, jobs, single


@pytest.mark.parametrize("mode", ["deferrable", "reschedule"])
def test_gates_map_over_job_ids(rig: Rig, mapped: tuple[str, list[str], str], mode: str) -> None:
    run_id, jobs, _ = mapped

    for index, job in enumerate(jobs):
        xcoms = rig.airflow.xcoms("mapped", run_id, f"gates_{mode}", index)
        assert xcoms["import_job"]["job_id"] == job
        assert len(xcoms["return_value"]) == index + 1
        assert job in rig.airflow.task_log("mapped", run_id, f"gates_{mode}", index)
    assert rig.airflow.xcoms("mapped", run_id, f"count_{mode}")["return_value"] == [1, 2, 3]


@pytest.mark.parametrize("mode", ["deferrable", "reschedule"])
def test_files_reach_mapped_tasks_in_their_types(rig: Rig, mapped: tuple[str, list[str], str], mode: str) -> None:
    run_id, _, _ = mapped
    pushed = rig.airflow.xcoms("mapped", run_id, f"gate_{mode}")["return_value"]
    good, broken = (rig.airflow.xcoms("mapped", run_id, f"take_{mode}", n)["return_value"] for n in (0, 1))

    assert good["types"] == FILE_TYPES
    assert broken["types"] == {**FILE_TYPES, "complete_time": "NoneType", "error_message": "str"}
    assert [good["file"], broken["file"]] == pushed
    assert broken["file"]["error_message"] == BROKEN


# Ids from XComs and templates


def test_ids_come_from_xcoms_and_templates(rig: Rig) -> None:
    job = rig.submit()
    tasks = [f"{source}_{mode}" for source in ("xcom", "template") for mode in MODES]
    rig.wire.then(job, lambda: rig.commit(job), after=2 * len(tasks))
    conf = {"job": job, "cluster": "in01-templated", "connection": "e2e_v1"}
    run_id = rig.airflow.trigger("templated", conf)

    assert rig.airflow.wait_for_run("templated", run_id) == "success"
    for task in tasks:
        assert rig.airflow.xcoms("templated", run_id, task)["import_job"]["job_id"] == job
    seen = {(asked.path.split("/")[1], asked.cluster_id) for asked in rig.wire.asked(job)}
    # From an XCom: v2 with the connection's own cluster. From templates: v1 with the task's.
    assert seen == {("v2", "in01-default"), ("v1", "in01-templated")}


# What a person does to a waiting gate


@pytest.mark.parametrize("what", ["mark_failed", "clear"])
def test_nothing_polls_for_a_gate_that_a_person_ended(rig: Rig, what: str) -> None:
    airflow = rig.airflow
    jobs = {mode: rig.submit(f"{mode}.json") for mode in MODES}
    run_id = airflow.trigger("single", {"jobs": jobs})
    wait_until("every gate waits", lambda: min(rig.asked(list(jobs.values()))) >= 2)
    wait_until("the gate is deferred", lambda: airflow.instance("single", run_id, "deferrable").state == "deferred")

    if what == "mark_failed":
        for mode in MODES:
            airflow.mark_failed("single", run_id, mode)
        assert airflow.wait_for_run("single", run_id) == "failed"
        assert {each.state for each in airflow.instances("single", run_id)} == {"failed"}
        wait_until_unasked(rig, list(jobs.values()))
    else:
        # A cleared gate starts anew: one that polls, not two.
        airflow.clear("single", run_id, *MODES)
        wait_until(
            "every gate waits again", lambda: all(each.try_number >= 2 for each in airflow.instances("single", run_id))
        )
        for job in jobs.values():
            rig.wire.then(job, partial(rig.commit, job), after=len(rig.wire.asked(job)) + 2)
        assert airflow.wait_for_run("single", run_id) == "success"
        wait_until_unasked(rig, list(jobs.values()))
        for mode in MODES:
            assert airflow.task_log("single", run_id, mode).count("The gate opens after") == 1
    assert airflow.rows("SELECT id FROM trigger") == []


def wait_until_unasked(rig: Rig, jobs: list[str]) -> None:
    """Wait until no question comes for 13 s, more than two of the longest intervals."""

    def silent() -> bool:
        last = max(asked.at for job in jobs for asked in rig.wire.asked(job))
        return time.monotonic() - last > 13

    wait_until("nobody asks any more", silent, 60)


# After all of the above


def test_no_secret_is_left_anywhere(rig: Rig) -> None:
    found = rig.airflow.leftovers()

    assert {place.split()[0] for place, _ in found.texts} == {"table", "file", "output"}
    assert rig.airflow.rows("SELECT conn_id FROM connection WHERE is_encrypted AND is_extra_encrypted")
    assert all(asked.authorized == f"Bearer {rig.token}" for asked in rig.wire.asked())
    assert found.places_of(rig.password, rig.token) == []


def test_the_search_for_secrets_finds_them(rig: Rig) -> None:
    planted = "planted-d41d8cd98f00b204"
    run_id = rig.airflow.trigger("planting", {"secret": planted})
    assert rig.airflow.wait_for_run("planting", run_id) == "success"
    with rig.airflow.components["scheduler"].log.open("a") as output:
        output.write(f"a line with {planted} in it\n")

    places = rig.airflow.leftovers().places_of(planted)

    assert {"table xcom", "table dag_run", "output scheduler.out"} <= set(places)
    assert any(place.startswith("file logs/dag_id=planting/") for place in places)
