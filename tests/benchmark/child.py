"""One run: a subject's gates in one event loop of a process that does nothing else."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, quantiles
from typing import Any

from tests.benchmark import server

_SHORTEST_TICK, _LONGEST_TICK = 0.005, 0.05  # seconds
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Run:
    """What to run. Times are in seconds from the gates' start.

    :param first_end: when the first job ends; the others follow evenly until `last_end`.
    :param rate: the connection's ``max_requests_per_second``; 0 for the default.
    :param stop: when to leave, whatever is still going on; 0 for never.
    :param big_files: files of the last job, if it differs.
    :param tick: between two looks at how late the event loop is; 0 for one that suits so many gates.
    """

    subject: str
    gates: int
    poke_interval: float
    first_end: float
    last_end: float
    rate: float = 1e9
    stop: float = 0.0
    big_files: int = 0
    big_fails: bool = False
    tick: float = 0.0

    def measure(self) -> dict[str, Any]:
        """Run it in a new process and return what was measured."""
        with server.serving() as url, airflow_home() as environment:
            command = [sys.executable, "-m", "tests.benchmark.child", url, json.dumps(asdict(self))]
            found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
            if found.returncode:
                raise RuntimeError(f"{self} failed:\n{found.stdout}{found.stderr}")
            measured: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
            return measured


@contextmanager
def airflow_home() -> Iterator[dict[str, str]]:
    """Lend an environment for a process with an Airflow of its own, which leaves nothing behind."""
    with tempfile.TemporaryDirectory(prefix="importprog-benchmark-") as home:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")}
        yield {**inherited, "AIRFLOW_HOME": home}


class _Watch:
    """How late the event loop is, and how much memory the process has, all along.

    :param lags: seconds by which the loop was late, one for each tick.
    :param most_memory: bytes.
    """

    def __init__(self, tick: float) -> None:
        self._tick = tick
        self.lags: list[float] = []
        self.most_memory = 0

    async def look(self) -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(self._tick)
            self.lags.append(time.perf_counter() - began - self._tick)
            if len(self.lags) % max(round(0.1 / self._tick), 1) == 0:
                self.most_memory = max(self.most_memory, memory())


def memory() -> int:
    """Return the bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def _measure(run: Run, url: str) -> dict[str, Any]:
    from tests.benchmark.subjects import SUBJECTS, Target

    subject = SUBJECTS[run.subject]
    # What is imported late, and what is kept for all gates, is there before anything is counted.
    await _follow_one(subject, Target(url, 0.01, 1e9), url)
    # The watch must not cost more than what it watches.
    tick = run.tick or min(max(5 / run.gates, _SHORTEST_TICK), _LONGEST_TICK)
    idle = await _idle(tick)
    async with subject.start(Target(url, run.poke_interval, run.rate)) as gate:
        gc.collect()
        before = memory()
        coroutines = [gate(job_id) for job_id in server.ids(run.gates)]
        watch = _Watch(tick)
        began = time.time()
        ends = server.follow(
            url,
            server.Plan(
                jobs=run.gates,
                began=began,
                first_end=began + run.first_end,
                last_end=began + run.last_end,
                listed=subject.listed,
                big_files=run.big_files,
                big_fails=run.big_fails,
            ),
        )
        watcher = asyncio.create_task(watch.look())
        began, cpu = time.time(), time.process_time()
        gates = []
        for coroutine in coroutines:
            gates.append(asyncio.create_task(_timed(coroutine)))
            await asyncio.sleep(0)  # as the triggerer does
        await asyncio.wait(gates, timeout=run.stop or None)
        ended, cpu = time.time(), time.process_time() - cpu
        found = server.statistics(url)
        watcher.cancel()
        for task in gates:
            task.cancel()
        outcomes = await asyncio.gather(*gates, return_exceptions=True)
    done = []
    for outcome, end in zip(outcomes, ends, strict=True):
        if isinstance(outcome, Exception):
            raise outcome
        if not isinstance(outcome, BaseException):  # nor cancelled
            done.append((*outcome, end))
    if wrong := [event for _, event, _ in done if not _right(event, run)]:
        raise RuntimeError(f"{len(wrong)} wrong events, such as {wrong[0]!r}")
    delays = [at - end for at, _, end in done]
    asked = sum(found["requests"].values())
    lifetimes = sum(at - began for at, _, _ in done) + (ended - began) * (run.gates - len(done))
    cpu = max(cpu - idle * (ended - began), 0.0)
    cuts = quantiles(watch.lags, n=100, method="inclusive")
    return {
        **found,
        "asked": asked,
        "cpu": cpu,
        "cpu_per_poll": cpu / asked,
        "cpu_per_gate_interval": cpu / (lifetimes / run.poke_interval),
        "lag_p99": cuts[98],
        "lag_max": max(watch.lags),
        "memory_per_gate": (watch.most_memory - before) / run.gates,
        "delay_mean": fmean(delays) if delays else None,
        "delay_max": max(delays) if delays else None,
        "event_bytes": max((len(json.dumps(event)) for _, event, _ in done), default=None),
        "seconds": ended - began,
    }


async def _follow_one(subject: Any, target: Any, url: str) -> None:
    """Run one gate to its end."""
    now = time.time()
    server.follow(url, server.Plan(1, now - 1, now, now, listed=subject.listed))
    async with subject.start(target) as gate:
        await gate(server.ids(1)[0])


async def _idle(tick: float) -> float:
    """Return the CPU seconds that a second of watching takes by itself."""
    watcher, began = asyncio.create_task(_Watch(tick).look()), time.process_time()
    await asyncio.sleep(1)
    watcher.cancel()
    return time.process_time() - began


async def _timed(coroutine: Any) -> tuple[float, Any]:
    event = await coroutine
    return time.time(), event


def _right(event: Any, run: Run) -> bool:
    """Say whether an event is what its subject fires for a job that completed."""
    if isinstance(event, dict):
        failed = run.big_fails and event.get("verdict") == "job_failed"
        return failed or event.get("verdict") == "open" or event.get("status") == "success"
    return event is True or event == "Completed"


def log_as_triggerer() -> None:
    """Log as the triggerer does, each line as JSON towards its supervisor, but to nowhere."""
    from airflow.sdk.log import configure_logging

    configure_logging(json_output=True, output=open(os.devnull, "wb", buffering=0), sending_to_supervisor=True)  # noqa: SIM115


if __name__ == "__main__":
    log_as_triggerer()
    try:
        measured = asyncio.run(_measure(Run(**json.loads(sys.argv[2])), sys.argv[1]))
    except Exception:
        # Airflow's logging would send it to nowhere, too.
        sys.exit(traceback.format_exc())
    print(json.dumps(measured))
