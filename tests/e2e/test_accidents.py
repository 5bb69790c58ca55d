"""What breaks under a gate: the server, the triggerer, the worker, the scheduler; and a person who ends it. Airflow on
PostgreSQL."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from example_dags.run_example import end, free_ports
from tests.e2e.cases import ENDED
from tests.e2e.harness import HarnessError, Postgres, wait_until
from tests.e2e.rig import LOGIN, Rig, running

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("airflow")]

MODES = ("poke", "reschedule", "deferrable")


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    try:
        database = Postgres()
    except HarnessError as error:
        if "not installed" in str(error):
            if "CI" in os.environ:
                raise
            pytest.skip(str(error))
        raise
    with running(tmp_path_factory.mktemp("accidents") / "airflow", database) as rig:
        yield rig
        rig.airflow.stop()
        assert rig.airflow.processes() == []


def start_single(rig: Rig, connection: str = "e2e") -> tuple[str, dict[str, str]]:
    """Start a gate in each mode, and return the run's id and the jobs when all of them wait."""
    jobs = {mode: rig.submit(f"{mode}.json") for mode in MODES}
    run_id = rig.airflow.trigger("single", {"jobs": jobs, "connection": connection})
    wait_until("every gate waits", lambda: min(rig.asked(list(jobs.values()))) >= 2)
    return run_id, jobs


def start_waiting(rig: Rig, count: int) -> tuple[str, list[str]]:
    """Start many deferred gates, and return the run's id and the jobs when the triggerer asks for each."""
    jobs = [rig.submit(f"{number}.json") for number in range(count)]
    run_id = rig.airflow.trigger("waiting", {"jobs": jobs})
    wait_until("every gate is polled", lambda: min(rig.asked(jobs)) >= 3)
    return run_id, jobs


def assert_each_opened_once(rig: Rig, run_id: str, jobs: list[str]) -> None:
    assert rig.airflow.wait_for_run("waiting", run_id) == "success"
    for index, job in enumerate(jobs):
        instance = rig.airflow.instance("waiting", run_id, "gate", index)
        log = rig.airflow.task_log("waiting", run_id, "gate", index)
        assert (instance.state, instance.try_number) == ("success", 1), log
        assert log.count("The gate opens after") == 1
        xcoms = rig.airflow.xcoms("waiting", run_id, "gate", index)
        assert xcoms["import_job"]["job_id"] == job
        ends = rig.airflow.rows(
            "SELECT 1 AS one FROM log WHERE dag_id = 'waiting' AND run_id = :r AND map_index = :m "
            "AND task_id = 'gate' AND event IN ('success', 'failed')",
            r=run_id,
            m=index,
        )
        assert len(ends) == 1
    assert rig.airflow.rows("SELECT id FROM trigger") == []


# The server


@pytest.mark.parametrize("seconds", [10, pytest.param(30, marks=pytest.mark.e2e_slow)])
def test_gates_live_through_an_outage_of_the_server(rig: Rig, seconds: int) -> None:
    run_id, jobs = start_single(rig)

    rig.wire.down()
    time.sleep(seconds)  # the outage is what is tested
    for job in jobs.values():
        rig.commit(job)
    rig.wire.up()

    assert rig.airflow.wait_for_run("single", run_id) == "success"
    for mode in MODES:
        log = rig.airflow.task_log("single", run_id, mode)
        assert rig.airflow.instance("single", run_id, mode).try_number == 1, log
        assert "No good answer about import job" in log
        assert log.count("The gate opens after") == 1
        if mode != "reschedule":
            assert "The server answers again" in log


@pytest.mark.milvus
# After a kill Milvus 2.3.5 takes a minute to begin its next import.
@pytest.mark.parametrize("again", [False, pytest.param(True, marks=pytest.mark.e2e_slow)])
def test_gates_end_right_though_milvus_is_killed_and_started_again(rig: Rig, tmp_path: Path, again: bool) -> None:
    from pymilvus import MilvusClient

    (port,) = free_ports(1)
    data = tmp_path / "data"
    rows = ", ".join(f'{{"id": {number}, "vector": [0.5, 0.5, 0.5, 0.5]}}' for number in range(2000))
    file = tmp_path / "rows.json"
    file.write_text(f'{{"rows": [{rows}]}}')
    connection = f"e2e_milvus_{port}"
    rig.airflow.add_connection(connection, f"http://127.0.0.1:{port}", LOGIN, rig.password, api_version="v2")

    with milvus(rig, port, data, tmp_path / "first.log") as (uri, process):
        client = MilvusClient(uri)
        client.create_collection("articles", dimension=4)
        client.close()
        (real,) = [child for child in psutil.Process(process.pid).children(recursive=True) if "milvus" in child.name()]
        jobs = {mode: submit_to_milvus(rig, port, file) for mode in MODES}
        with contextlib.suppress(psutil.NoSuchProcess):
            real.suspend()  # so that the jobs go on until the gates wait
        run_id = rig.airflow.trigger("single", {"jobs": jobs, "connection": connection})
        logs = dict.fromkeys(MODES, "")

        def waiting() -> bool:
            logs.update({mode: rig.airflow.task_log("single", run_id, mode) for mode in MODES})
            return all(re.search(r"Import job \d+: \w+, \d+ %", log) for log in logs.values())

        wait_until("every gate waits for Milvus", waiting)
        real.kill()

        def in_trouble() -> bool:
            logs.update({mode: rig.airflow.task_log("single", run_id, mode) for mode in MODES})
            return all("No good answer about import job" in log for log in logs.values())

        wait_until("every gate meets the outage", in_trouble)

    with milvus(rig, port, data, tmp_path / "second.log"):
        # The emulator keeps its jobs in memory: the server that came back has never heard of them.
        assert rig.airflow.wait_for_run("single", run_id) == "failed"
        for mode in MODES:
            instance = rig.airflow.instance("single", run_id, mode)
            log = rig.airflow.task_log("single", run_id, mode)
            assert (instance.state, instance.try_number) == ("failed", 1), log
            assert "How the import ended is not known" in log
        if not again:
            return
        # The collection was kept, and the next import opens its gates.
        jobs = dict.fromkeys(MODES, submit_to_milvus(rig, port, file))
        run_id = rig.airflow.trigger("single", {"jobs": jobs, "connection": connection})
        assert rig.airflow.wait_for_run("single", run_id) == "success"
        for mode in MODES:
            assert rig.airflow.xcoms("single", run_id, mode)["return_value"][0]["imported_rows"] == 2000


@contextlib.contextmanager
def milvus(rig: Rig, port: int, data: Path, log: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run the emulator before a real Milvus, in a process of its own."""
    command = [sys.executable, "-m", "tests.embedded_milvus", "--port", str(port)]
    env = {**os.environ, "IMPORTPROG_EMULATOR_TOKEN": rig.token}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--data-dir", str(data)], env=env, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        ready = re.compile(r"emulator at \S+, backend milvus, milvusUri (\S+),")

        def started() -> re.Match[str] | None:
            if process.poll() is not None:
                raise HarnessError(f"the emulator ended:\n{log.read_text()}")
            return ready.search(log.read_text())

        yield wait_until("Milvus", started)[1], process
    finally:
        end(process)


def submit_to_milvus(rig: Rig, port: int, file: Path) -> str:
    import requests

    answer = requests.post(
        f"http://127.0.0.1:{port}/v2/vectordb/jobs/import/create",
        json={"collectionName": "articles", "files": [[str(file)]]},
        headers={"Authorization": f"Bearer {rig.token}"},
        timeout=30,
    ).json()
    return str(answer["data"]["jobId"])


# The triggerer


def test_gates_outlive_their_triggerer(rig: Rig) -> None:
    run_id, jobs = start_waiting(rig, 5)

    left_behind = rig.airflow.kill_component("triggerer")
    wait_until("what the triggerer started ends", lambda: not any(each.is_running() for each in left_behind), 60)
    before = rig.asked(jobs)
    rig.airflow.start_component("triggerer")
    wait_until(
        "every gate is polled again",
        lambda: all(now > then for now, then in zip(rig.asked(jobs), before, strict=True)),
    )
    for job in jobs:
        rig.commit(job)

    assert_each_opened_once(rig, run_id, jobs)


def test_another_triggerer_takes_the_gates_of_a_dead_one(rig: Rig) -> None:
    airflow = rig.airflow
    names = {triggerers(rig)[0]: "triggerer"}
    airflow.start_component("triggerer", "triggerer-b")
    newcomer = wait_until("two triggerers", lambda: next((t for t in triggerers(rig) if t > max(names)), None))
    names[newcomer] = "triggerer-b"
    try:
        run_id, jobs = start_waiting(rig, 8)
        # Either may have taken all of them: the one with the most dies.
        held = airflow.rows("SELECT triggerer_id FROM trigger GROUP BY 1 ORDER BY count(*) DESC")
        victim = held[0]["triggerer_id"]
        (survivor,) = names.keys() - {victim}
        airflow.kill_component(names.pop(victim))

        def taken() -> bool:
            holders = {row["triggerer_id"] for row in airflow.rows("SELECT triggerer_id FROM trigger")}
            return holders == {survivor}

        wait_until("the other triggerer takes the gates", taken)
        for job in jobs:
            rig.commit(job)
        assert_each_opened_once(rig, run_id, jobs)
    finally:
        if "triggerer" not in airflow.components:
            airflow.start_component("triggerer")
            wait_until("a triggerer", lambda: any(t > newcomer for t in triggerers(rig)))
        if "triggerer-b" in airflow.components:
            airflow.stop_component("triggerer-b")


def triggerers(rig: Rig) -> list[int]:
    """Return the ids of the triggerers, the one heard of last first. They grow; dead ones may be among them."""
    query = "SELECT id FROM job WHERE job_type = 'TriggererJob' AND state = 'running' ORDER BY latest_heartbeat DESC"
    return [row["id"] for row in rig.airflow.rows(query)]


# The worker and the scheduler


@pytest.mark.parametrize("victim", ["task", "supervisor"])
def test_a_gate_whose_worker_is_killed_while_it_resumes_is_tried_again(rig: Rig, victim: str) -> None:
    jobs = {mode: rig.submit(f"{mode}.json") for mode in MODES}
    for mode in ("poke", "reschedule"):
        rig.commit(jobs[mode])
    job = jobs["deferrable"]

    def commit_and_hold_what_comes_next() -> None:
        rig.commit(job)
        rig.wire.hold(job, after=3)

    # 1 is the worker's, 2 the trigger's; 3 sees the job completed and fires the event; 4 is the worker that resumes.
    rig.wire.then(job, commit_and_hold_what_comes_next, after=2)
    run_id = rig.airflow.trigger("single", {"jobs": jobs})
    wait_until("the worker resumes", lambda: rig.asked([job])[0] >= 4)
    instance = rig.airflow.instance("single", run_id, "deferrable")
    assert instance.state == "running"
    assert instance.pid is not None
    process = psutil.Process(instance.pid)
    for each in [process] if victim == "task" else [process.parent(), process]:
        assert each is not None
        each.send_signal(signal.SIGKILL)
    rig.wire.release(job)

    assert rig.airflow.wait_for_run("single", run_id) == "success"
    instance = rig.airflow.instance("single", run_id, "deferrable")
    log = rig.airflow.task_log("single", run_id, "deferrable")
    assert (instance.state, instance.try_number) == ("success", 2), log
    assert log.count("The gate opens after") == 1
    assert rig.airflow.xcoms("single", run_id, "deferrable")["import_job"]["job_id"] == job


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_gates_outlive_their_scheduler(rig: Rig, how: str) -> None:
    run_id, jobs = start_single(rig)
    wait_until("a deferral", lambda: rig.airflow.instance("single", run_id, "deferrable").state == "deferred")

    if how == "stopped":
        rig.airflow.stop_component("scheduler")
    else:
        rig.airflow.kill_component("scheduler")
    rig.airflow.start_component("scheduler")
    rig.airflow.wait_until_ready()
    for job in jobs.values():
        rig.commit(job)

    assert rig.airflow.wait_for_run("single", run_id) == "success"
    for mode in MODES:
        instance = rig.airflow.instance("single", run_id, mode)
        # A gate that occupied a worker loses it with the scheduler's LocalExecutor, and is tried again.
        assert instance.state == "success"
        assert instance.try_number <= (1 if mode == "deferrable" else 2)
        assert rig.airflow.xcoms("single", run_id, mode)["import_job"]["job_id"] == jobs[mode]


# A person


def test_a_task_that_is_marked_failed_aborts_its_job_only_where_told_to(rig: Rig) -> None:
    airflow = rig.airflow
    run_id = airflow.trigger("ending")

    def job_of(task_id: str) -> str | None:
        found = airflow.xcoms("ending", run_id, task_id)
        return str(found["job_id"]) if found else None

    jobs = {task_id: wait_until(f"the job of {task_id}", lambda t=task_id: job_of(t)) for task_id in ENDED}

    def waits(task_id: str) -> bool:
        return "is uncommitted" in airflow.task_log("ending", run_id, task_id)

    wait_until("every task waits for a commit", lambda: all(map(waits, ENDED)))
    for task_id, (deferrable, _) in ENDED.items():
        assert airflow.instance("ending", run_id, task_id).state == ("deferred" if deferrable else "running")

    for task_id in ENDED:
        airflow.mark_failed("ending", run_id, task_id)

    for task_id, (_, aborts) in ENDED.items():
        said = f"import job {jobs[task_id]} is aborted" if aborts else f"Import job {jobs[task_id]} goes on"
        wait_until(said, lambda t=task_id, s=said: s in airflow.task_log("ending", run_id, t), 60)
        assert state_of(rig, jobs[task_id]) == ("Failed" if aborts else "Uncommitted")
        instance = airflow.instance("ending", run_id, task_id)
        assert (instance.state, instance.try_number) == ("failed", 1)


def state_of(rig: Rig, job_id: str) -> str:
    return str(rig.call("describe", {"jobId": job_id})["data"]["state"])


# After all of the above


def test_no_secret_is_left_anywhere(rig: Rig) -> None:
    found = rig.airflow.leftovers()

    assert {place.split()[0] for place, _ in found.texts} == {"table", "file", "output"}
    assert all(asked.authorized == f"Bearer {rig.token}" for asked in rig.wire.asked())
    assert found.places_of(rig.password, rig.token) == []
