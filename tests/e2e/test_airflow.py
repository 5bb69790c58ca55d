"""What only a scheduler, a triggerer and processes of their own can prove: one Airflow, and all that happens on it.

The scenarios run beside each other, each in a thread, because they wait more than they work. Then comes what would
disturb them: the server goes away, the triggerer and the scheduler are killed. At last, everything written is searched.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from threading import Event

import psutil
import pytest
import requests

from airflow_provider_importprog.emulator import Emulator
from airflow_provider_importprog.emulator.simulated import rows_of
from tests.e2e.cases import ENDINGS, KILLED, MODES, SUBMITTERS
from tests.e2e.conftest import BROKEN, CONSOLE, LOGIN, Rig
from tests.e2e.harness import places_of, wait_until

pytestmark = pytest.mark.e2e

SCENARIOS: dict[str, Callable[[Rig], None]] = {}
FILE = {
    "file_name": "str",
    "file_size": "int",
    "state": "str",
    "progress": "float",
    "imported_rows": "int",
    "total_rows": "int",
    "complete_time": "str",
    "error_message": "NoneType",
}
# Scenarios. Each starts workers, and on two cores many that start together take a minute for it.
_AT_ONCE = 6
PLANTED = "planted-d41d8cd98f00b204"


RUNNING = (
    "SELECT coalesce(map_index, -1) AS map_index, count(*) AS starts FROM log "
    "WHERE event = 'running' AND dag_id = :d AND run_id = :r AND task_id = :t GROUP BY 1 ORDER BY 1"
)


def starts(rig: Rig, dag_id: str, run_id: str, task_id: str) -> list[int]:
    """Return how many workers began each instance of a task."""
    return [row["starts"] for row in rig.airflow.rows(RUNNING, d=dag_id, r=run_id, t=task_id)]


def scenario(run: Callable[[Rig], None]) -> Callable[[Rig], None]:
    SCENARIOS[run.__name__] = run
    return run


@pytest.fixture(scope="module")
def running(rig: Rig, request: pytest.FixtureRequest) -> Iterator[dict[str, Future[None]]]:
    """Start every scenario that is to run."""
    items = [item for item in request.session.items if isinstance(item, pytest.Function)]
    chosen = [item.callspec.params["name"] for item in items if item.originalname == "test_scenario"]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        yield {name: pool.submit(SCENARIOS[name], rig) for name in chosen}


# Gates


@scenario
def gates_end_right_in_every_mode(rig: Rig) -> None:
    jobs = {f"{mode}_{ending}": ending for mode in MODES for ending in ENDINGS}
    conf = {name: rig.submit("1.json", "broken.json" if jobs[name] == "files_failed" else "2.json") for name in jobs}
    for name, ending in jobs.items():  # once the gate waits
        end = rig.emulator.abort if ending == "job_failed" else rig.commit
        rig.wire.then(conf[name], partial(end, conf[name]))
    limits = {"too_late": "12 s", "cut_short": "14 s"}
    conf |= {name: rig.submit() for name in limits}
    run = ("ending", rig.airflow.trigger("ending", conf))

    assert rig.airflow.wait_for_run(*run) == "failed"
    for name, ending in jobs.items():
        log = rig.airflow.task_log(*run, name)
        xcoms = rig.airflow.xcoms(*run, name)
        assert rig.airflow.ended(*run, name) == ("success" if ending == "opens" else "failed", 1), log
        assert rig.airflow.instance(*run, name).trigger_id is None
        # Twice where Airflow lost a try that had opened: see `ended`.
        assert ("The gate opens after" in log) == (ending == "opens")
        # A shared list is shown to many gates at once, and each logs for itself.
        assert set(re.findall(r"Import job (\w+): ", log)) == {conf[name]}
        assert ("DEFERRED" in log) == name.startswith("deferrable")
        assert ("UP_FOR_RESCHEDULE" in log) == name.startswith("reschedule")
        assert xcoms["import_job"]["job_id"] == conf[name]
        assert xcoms["import_job"]["state"] == ("failed" if ending == "job_failed" else "completed")
        assert [set(file) for file in xcoms["return_value"]] == [set(FILE)] * 2
        assert (xcoms["return_value"][1]["error_message"] == BROKEN) == (ending == "files_failed")
    for name, limit in limits.items():
        log = rig.airflow.task_log(*run, name)
        assert rig.airflow.ended(*run, name) == ("failed", 1), log
        assert limit in log


@scenario
def gates_and_files_are_mapped(rig: Rig) -> None:
    jobs = [rig.submit(*(f"{number}-{file}.json" for file in range(number))) for number in (1, 2)]
    single = rig.submit("a.json", "broken.json")
    for job in (*jobs, single):
        rig.wire.then(job, partial(rig.commit, job))
    run = ("mapped", rig.airflow.trigger("mapped", {"jobs": jobs, "gate": single}))

    assert rig.airflow.wait_for_run(*run) == "success"
    for index, job in enumerate(jobs):
        for gates in ("gates", "rescheduled"):
            xcoms = rig.airflow.xcoms(*run, gates, index)
            assert (xcoms["import_job"]["job_id"], len(xcoms["return_value"])) == (job, index + 1)
        shown = f"/api/v2/dags/mapped/dagRuns/{run[1]}/taskInstances/gates/"
        assert rig.airflow.api("GET", f"{shown}{index}")["rendered_map_index"] == f"{job}: completed"
        page = CONSOLE.format(collection_name="articles", job_id=job)
        assert rig.airflow.api("GET", f"{shown}links?map_index={index}")["extra_links"] == {"Import job": page}
    assert rig.airflow.xcoms(*run, "count")["return_value"] == [1, 2]
    good, broken = (rig.airflow.xcoms(*run, "take", index)["return_value"] for index in (0, 1))
    assert good["types"] == FILE
    assert broken["types"] == {**FILE, "complete_time": "NoneType", "error_message": "str"}
    assert [good["file"], broken["file"]] == rig.airflow.xcoms(*run, "gate")["return_value"]


@scenario
def gates_end_in_the_triggerer_with_all_that_they_hand_on(rig: Rig) -> None:
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
    assert "The gate opens after" in airflow.task_log(*run, "gate")
    (dates,) = airflow.rows(
        "SELECT end_date - start_date AS ran, duration FROM task_instance WHERE run_id = :r AND task_id = 'gate'",
        r=run[1],
    )
    assert dates["ran"].total_seconds() == pytest.approx(dates["duration"], abs=0.01)
    assert dates["duration"] > 5


@scenario
def gates_of_many_files_share_a_list(rig: Rig) -> None:
    names = {"many_files": 10_000, "too_many_files": 1025}
    jobs = {dag: rig.submit(*(f"{number:05}.parquet" for number in range(count))) for dag, count in names.items()}
    runs = {dag: (dag, rig.airflow.trigger(dag, {"gate": job})) for dag, job in jobs.items()}
    for run in runs.values():
        wait_until("the gate is deferred", lambda run=run: rig.airflow.instance(*run, "gate").state == "deferred")
    wait_until("a shared list", lambda: any(asked.path.endswith("/list") for asked in rig.wire.asked("")))
    for job in jobs.values():
        rig.commit(job)

    run = runs["many_files"]
    state, log = rig.airflow.wait_for_run(*run), rig.airflow.task_log(*run, "gate")
    assert state == "success", log
    wanted = [f"[{number:05}.parquet]" for number in range(10_000)]
    assert [file["file_name"] for file in rig.airflow.xcoms(*run, "gate")["return_value"]] == wanted
    processed = [rig.airflow.xcoms(*run, "process", index)["return_value"] for index in (0, 1)]
    assert [name for part in processed for name in part] == wanted
    assert "max_map_length" not in log
    assert max(len(line) for line in log.splitlines() if "TriggerEvent<" in line) < 4096

    run = runs["too_many_files"]
    state, log = rig.airflow.wait_for_run(*run), rig.airflow.task_log(*run, "gate")
    assert state == "failed"
    assert {each.task_id: each.state for each in rig.airflow.instances(*run)} == {
        "gate": "failed",
        "process": "upstream_failed",
    }
    # The warning comes before Airflow's own words.
    why = "unmappable_return_value_length"
    assert log.index("The gate opens after") < log.index("[core] max_map_length") < log.index(why)


@scenario
def a_gate_whose_worker_is_killed_while_it_resumes_is_tried_again(rig: Rig) -> None:
    job, killed = rig.submit(), Event()

    def commit_and_hold_what_comes_next() -> None:
        rig.commit(job)
        rig.wire.then(job, partial(killed.wait, 120), after=3)

    # 1 is the worker's, 2 the trigger's; 3 sees the job completed and fires the event; 4 is the worker that resumes.
    rig.wire.then(job, commit_and_hold_what_comes_next, after=2)
    run = ("deferred", rig.airflow.trigger("deferred", {"gate": job}))
    wait_until("the worker resumes", lambda: rig.asked([job])[0] >= 4)
    instance = rig.airflow.instance(*run, "gate")
    assert (instance.state, instance.trigger_id) == ("running", None)
    assert instance.pid is not None
    psutil.Process(instance.pid).kill()
    killed.set()

    assert rig.airflow.wait_for_run(*run) == "success"
    log = rig.airflow.task_log(*run, "gate")
    assert rig.airflow.instance(*run, "gate").try_number >= 2, log
    assert "The gate opens after" in log
    assert rig.airflow.xcoms(*run, "gate")["import_job"]["job_id"] == job


# A person


@scenario
def a_cleared_gate_starts_anew_and_once(rig: Rig) -> None:
    job = rig.submit()
    run = ("deferred", rig.airflow.trigger("deferred", {"gate": job}))
    wait_until("the gate is deferred", lambda: rig.airflow.instance(*run, "gate").state == "deferred")
    before = rig.airflow.instance(*run, "gate")

    rig.airflow.clear(*run, "gate")

    def deferred_anew() -> bool:
        now = rig.airflow.instance(*run, "gate")
        return now.state == "deferred" and now.try_number > before.try_number and now.trigger_id != before.trigger_id

    wait_until("the gate is deferred anew", deferred_anew)
    old = partial(rig.airflow.rows, "SELECT 1 AS one FROM trigger WHERE id = :id", id=before.trigger_id)
    wait_until("the old trigger is gone", lambda: not old())
    rig.commit(job)
    assert rig.airflow.wait_for_run(*run) == "success"
    assert "The gate opens after" in rig.airflow.task_log(*run, "gate")


@scenario
def a_task_that_is_marked_failed_aborts_its_job_only_where_told_to(rig: Rig) -> None:
    airflow = rig.airflow
    run = ("stopped", airflow.trigger("stopped"))
    for name, (deferrable, _) in KILLED.items():
        airflow.wait_for_log("is uncommitted", *run, name)
        state = "deferred" if deferrable else "running"
        wait_until(f"{name} is {state}", lambda n=name, s=state: airflow.instance(*run, n).state == s)
    jobs = {name: str(airflow.xcoms(*run, name)["job_id"]) for name in KILLED}
    waited_for = {mode: rig.submit() for mode in MODES}
    gates = ("waiting", airflow.trigger("waiting", waited_for))
    rig.wait_until_asked([*jobs.values(), *waited_for.values()], 2)  # so the triggerer has begun, too

    for name in KILLED:
        airflow.mark_failed(*run, name)
    for mode in MODES:
        airflow.mark_failed(*gates, mode)

    for name, (_, aborts) in KILLED.items():
        said = f"import job {jobs[name]} is aborted" if aborts else f"Import job {jobs[name]} goes on"
        airflow.wait_for_log(said, *run, name)
        assert rig.state_of(jobs[name]) == ("Failed" if aborts else "Uncommitted")
        assert airflow.ended(*run, name) == ("failed", 1)
    for mode in MODES:
        assert (airflow.instance(*gates, mode).state, rig.state_of(waited_for[mode])) == ("failed", "Uncommitted")
    every = [*jobs.values(), *waited_for.values()]

    def silent() -> bool:
        before = rig.asked(every)
        time.sleep(11)  # two intervals
        return rig.asked(every) == before

    wait_until("nobody asks any more", silent)


# Tasks that submit


def jobs_of(emulator: Emulator, collection: str) -> list[str]:
    shown = requests.get(f"{emulator.url}/emulator", timeout=30).json()["data"]["jobs"]
    return [job["jobId"] for job in shown if job["collectionName"] == collection]


def connect(rig: Rig, connection: str, emulator: Emulator) -> str:
    # Withheld answers are waited for until the task is killed, however long its siblings take to start.
    rig.airflow.add_connection(connection, emulator.url, LOGIN, "Milvus", api_version="v2", timeout=600)
    return connection


def killed_before_they_know_their_job(rig: Rig, idempotency: bool) -> None:
    """Kill tasks once the server took their request and no answer came. Each run must end with one job."""
    airflow = rig.airflow
    with Emulator(duration=3, idempotency=idempotency) as emulator:
        conf = {"connection": connect(rig, f"kill_{idempotency}", emulator)}
        emulator.outage(600, "silent")
        runs = {}
        for how in SUBMITTERS:
            confs = {**conf, "collection": how, "files": [f"{how}-a.json", f"{how}-b.json"]}
            runs[how] = (f"submit_{how}", airflow.trigger(f"submit_{how}", confs))
        for how, run in runs.items():
            wait_until(f"the job of {how}", lambda how=how: bool(jobs_of(emulator, how)))
            instance = airflow.instance(*run, "create")
            assert (instance.state, airflow.xcoms(*run, "create")) == ("running", {})
            assert instance.pid is not None
            psutil.Process(instance.pid).kill()
        emulator.restore()
        for how, run in runs.items():
            state, log = airflow.wait_for_run(*run), airflow.task_log(*run, "create")
            assert (state, airflow.instance(*run, "create").try_number >= 2) == ("success", True), log
            files = airflow.xcoms(*run, "gate" if how == "gate" else "create")["return_value"]
            assert [(file["file_name"], file["state"]) for file in files] == [
                (f"[{how}-{name}.json]", "completed") for name in "ab"
            ]
            assert jobs_of(emulator, how) == [str(airflow.xcoms(*run, "create")["job_id"])]


@scenario
def killed_where_keys_are_honoured(rig: Rig) -> None:
    killed_before_they_know_their_job(rig, True)


@scenario
def killed_where_keys_are_ignored(rig: Rig) -> None:
    killed_before_they_know_their_job(rig, False)


@scenario
def a_clear_imports_anew_after_a_failure_and_not_after_a_success(rig: Rig) -> None:
    airflow = rig.airflow
    with Emulator(duration=3600) as new, Emulator(duration=3600, idempotency=False) as old:
        runs = []
        for how, emulator in (("deferrable", new), ("worker", old)):
            conf = {"connection": connect(rig, f"clear_{how}", emulator), "collection": how, "files": ["1.json"]}
            runs.append((emulator, how, (f"submit_{how}", airflow.trigger(f"submit_{how}", conf))))
        for emulator, how, _ in runs:
            (job,) = wait_until("the job", lambda emulator=emulator, how=how: jobs_of(emulator, how) or None)
            emulator.abort(job)
            emulator.set_duration(1)
        for _, _, run in runs:
            assert airflow.wait_for_run(*run) == "failed", airflow.task_log(*run, "create")
            airflow.clear(*run, "create")
        for _ in ("anew", "not again"):
            for emulator, how, run in runs:
                assert airflow.wait_for_run(*run) == "success", airflow.task_log(*run, "create")
                assert [str(airflow.xcoms(*run, "create")["job_id"])] == jobs_of(emulator, how)[1:]
                airflow.clear(*run, "create")
        for *_, run in runs:
            assert airflow.wait_for_run(*run) == "success", airflow.task_log(*run, "create")


@scenario
def what_the_audit_passes_is_published(rig: Rig) -> None:
    files = ("a.json", "b.json")
    conf = {"collection": "audited", "manifest": {file: rows_of((file,)) for file in files}}
    run = ("write_audit_publish", rig.airflow.trigger("write_audit_publish", conf))

    assert rig.airflow.wait_for_run(*run) == "success"
    job = rig.call("describe", {"jobId": str(rig.airflow.xcoms(*run, "write")["job_id"])})
    assert rig.airflow.xcoms(*run, "write")["import_job"]["state"] == "uncommitted"
    assert (job["state"], job["importedRows"]) == ("Completed", sum(conf["manifest"].values()))  # type: ignore[attr-defined]
    states = {each.task_id: each.state for each in rig.airflow.instances(*run)}
    assert (states["publish"], states["drop"], states["reject"]) == ("success", "skipped", "skipped")


@scenario
def a_planted_secret_is_returned(rig: Rig) -> None:
    run = ("planting", rig.airflow.trigger("planting", {"secret": PLANTED}))
    assert rig.airflow.wait_for_run(*run) == "success"


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario(running: dict[str, Future[None]], name: str) -> None:
    running[name].result()


# Accidents


def test_gates_outlive_the_server_the_triggerer_and_the_scheduler(rig: Rig) -> None:
    airflow = rig.airflow
    jobs = {mode: rig.submit(f"{mode}.json") for mode in MODES}
    mapped, single = [rig.submit() for _ in range(3)], rig.submit()
    every = [*jobs.values(), *mapped, single]
    waiting = ("waiting", airflow.trigger("waiting", jobs))
    others = ("mapped", airflow.trigger("mapped", {"jobs": mapped, "gate": single}))
    wait_until("every gate waits", lambda: min(rig.asked(every)) >= 2)

    rig.emulator.outage(600, "drop")
    for mode in MODES:
        airflow.wait_for_log("No good answer", *waiting, mode)
    rig.emulator.restore()
    rig.wait_until_asked(every)

    left_behind = airflow.kill_component("triggerer")
    # LocalExecutor's workers hold the scheduler's connection to the database, too: while one of them lives, PostgreSQL
    # keeps the transaction in which the scheduler was killed, and no run that it had locked is scheduled again.
    for worker in airflow.kill_component("scheduler"):
        with suppress(psutil.NoSuchProcess):
            worker.kill()
    wait_until("what the triggerer started ends", lambda: not any(each.is_running() for each in left_behind), 60)
    airflow.start_component("triggerer")
    airflow.start_component("scheduler")
    airflow.wait_until_ready()
    rig.wait_until_asked([jobs["deferrable"], *mapped, single])
    for job in every:
        rig.commit(job)

    airflow.wait_for_run(*waiting)
    for mode, job in jobs.items():
        state, tries = airflow.ended(*waiting, mode)
        log = airflow.task_log(*waiting, mode)
        # A gate that occupied a worker may lose it with the scheduler's LocalExecutor, and is tried again.
        assert (state, tries <= (1 if mode == "deferrable" else 2)) == ("success", True), log
        assert airflow.xcoms(*waiting, mode)["import_job"]["job_id"] == job
        assert mode == "reschedule" or "The server answers again" in log
    assert airflow.wait_for_run(*others) == "success"
    gates = [("waiting", waiting[1], "deferrable", -1), *(("mapped", others[1], "gates", index) for index in range(3))]
    for gate in gates:
        assert airflow.ended(*gate) == ("success", 1)
        assert "The gate opens after" in airflow.task_log(*gate)
    query = "SELECT event FROM log WHERE run_id = :r AND task_id = 'gates' AND event IN ('success', 'failed')"
    assert [row["event"] for row in airflow.rows(query, r=others[1])] == ["success"] * 3
    assert airflow.rows("SELECT id FROM trigger") == []


# After all of the above


def test_no_secret_is_left_anywhere(rig: Rig) -> None:
    written = rig.airflow.written()

    assert {place.split()[0] for place in written} == {"table", "file", "output"}
    assert rig.airflow.rows("SELECT conn_id FROM connection WHERE is_encrypted AND is_extra_encrypted")
    assert {asked.authorized for asked in rig.wire.asked()} == {f"Bearer {rig.token}"}
    assert places_of(rig.password, written) == []
    # The search finds what is there.
    if "CI" in os.environ or any("plant" in place for place in written):
        places = places_of(PLANTED, written)
        assert {"table xcom", "table dag_run"} <= set(places)
        assert any(place.startswith("file logs/dag_id=planting/") for place in places)
