"""What the end of a deferred gate costs, on a worker and in the triggerer: ``python -m tests.benchmark.ending``.

One real Airflow on PostgreSQL measures both ways: the CPU of all its processes after the wait, the time from the end
of an import job to the success of its gate, and how many gates Airflow loses whose jobs end after the first poll.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import psutil

from airflow_provider_importprog.emulator import Emulator
from tests.e2e.cases import ENDS, WORKERS
from tests.e2e.conftest import LOGIN, Rig
from tests.e2e.harness import Airflow, wait_until
from tests.e2e.wire import Wire

PASSWORD = "Milvus"
# Seconds.
SETTLE = 20.0  # in which Airflow does what is left to do, and in which the CPU that it takes for nothing is measured
APART = 0.2  # one import job ends after the other
HOLD = 30.0  # the workers stay busy for that long after the last job has ended


def cpu(airflow: Airflow) -> float:
    """Return the seconds of CPU of all processes of an Airflow, and of those of their children that have ended."""
    spent = 0.0
    for process in airflow.processes():
        with contextlib.suppress(psutil.Error):
            spent += sum(process.cpu_times()[:4])
    return spent


def ended_at(airflow: Airflow, run: tuple[str, str]) -> dict[int, Any]:
    query = (
        "SELECT map_index, state, extract(epoch FROM end_date) AS at FROM task_instance "
        "WHERE dag_id = :d AND run_id = :r AND task_id = 'gate'"
    )
    return {row["map_index"]: row for row in airflow.rows(query, d=run[0], r=run[1])}


def states(airflow: Airflow, run: tuple[str, str]) -> Counter[str | None]:
    return Counter(row["state"] for row in ended_at(airflow, run).values())


def measure(rig: Rig, way: str, gates: int, busy: bool) -> str:
    """Return a line of the table: what gates cost whose import jobs end while they wait in the triggerer."""
    airflow = rig.airflow
    jobs = [rig.submit() for _ in range(gates)]
    run = (f"ending_{way}_1", airflow.trigger(f"ending_{way}_1", {"jobs": jobs}))
    wait_until("every gate is deferred", lambda: states(airflow, run)["deferred"] == gates, 900)
    if busy:
        free = airflow.home / f"{way}.free"
        occupied = airflow.trigger("busy", {"until": str(free)})
        running = "SELECT 1 AS one FROM task_instance WHERE run_id = :r AND state = 'running'"
        wait_until("every worker is busy", lambda: len(airflow.rows(running, r=occupied)) == WORKERS, 600)
    time.sleep(SETTLE)

    before, at = cpu(airflow), time.monotonic()
    ends = []
    for job in jobs:
        rig.emulator.commit(job)
        ends.append(time.time())
        time.sleep(APART)
    if busy:
        time.sleep(HOLD)
        free.touch()
    airflow.wait_for_run(*run, 900)
    if busy:
        airflow.wait_for_run("busy", occupied, 900)
    time.sleep(SETTLE)
    spent, seconds = cpu(airflow) - before, time.monotonic() - at
    before, at = cpu(airflow), time.monotonic()
    time.sleep(SETTLE)
    spent -= (cpu(airflow) - before) / (time.monotonic() - at) * seconds

    found = ended_at(airflow, run)
    took = [float(found[index]["at"]) - ends[index] for index in range(gates) if found[index]["state"] == "success"]
    per_gate, workers = ("", "busy") if busy else (f"{spent / gates:.3f}", "free")
    return f"| {way} | {workers} | {per_gate} | {mean(took):.1f} | {max(took):.1f} | {gates - len(took)} |"


def race(rig: Rig, way: str, gates: int, interval: int) -> str:
    """Return a line of the table: how many gates are lost whose import jobs end after the first poll."""
    jobs = [rig.submit() for _ in range(gates)]
    for job in jobs:
        rig.wire.then(job, partial(rig.commit, job), after=1)
    run = (f"ending_{way}_{interval}", rig.airflow.trigger(f"ending_{way}_{interval}", {"jobs": jobs}))
    rig.airflow.wait_for_run(*run, 1200)
    return f"| {way} | {interval} | {gates - states(rig.airflow, run)['success']} of {gates} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gates", type=int, default=50, help="gates in each line of the first table; 0 for no line")
    parser.add_argument("--race", type=int, default=50, help="gates in each line of the second table")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="importprog-ending-") as directory:
        airflow = Airflow(Path(directory) / "airflow")
        try:
            with (
                Emulator(token=f"{LOGIN}:{PASSWORD}", duration=1, partial_success=True) as emulator,
                Wire(emulator.url) as wire,
            ):
                airflow.start()
                airflow.add_connection("e2e", wire.url, LOGIN, PASSWORD, api_version="v2")
                rig = Rig(airflow, emulator, wire, PASSWORD)
                print(
                    "| ends on | workers | CPU, s a gate | job's end to success, mean, s | max, s | lost |", flush=True
                )
                print("|---|---|---|---|---|---|")
                for busy in (False, True) if options.gates else ():
                    for way in ENDS:
                        print(measure(rig, way, options.gates, busy), flush=True)
                print("\n| ends on | interval, s | lost to the race |\n|---|---|---|")
                for interval in (1, 5):
                    for way in ENDS:
                        print(race(rig, way, options.race, interval), flush=True)
        finally:
            airflow.stop()
            airflow.database.stop()


if __name__ == "__main__":
    main()
