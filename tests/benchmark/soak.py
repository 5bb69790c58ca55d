"""A thousand gates, each followed by the next, for ten minutes of jobs that come and go, with an outage in between."""

from __future__ import annotations

import asyncio
import gc
import json
import random
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from itertools import cycle, islice
from statistics import median
from typing import Any

from tests.benchmark import server
from tests.benchmark.child import ROOT, airflow_home, log_as_triggerer, memory
from tests.benchmark.server import Job

GATES = 1000
RATE = 100  # requests a second; in the outage, when each asks for itself, they would send twice as many
# Seconds.
POKE_INTERVAL = 5.0
SHORTEST_JOB, LONGEST_JOB = 20.0, 90.0
APPEARS = 6.0  # after a job began, the server knows it
KEPT = 120.0  # after it ended, the server knows it still
UNKNOWN_JOB_GRACE = 10.0
OUTAGE = 30.0

# How a gate's jobs end, one after the other, and what its gate must make of it.
_ENDINGS = ("completed", "failed", "completed", "partly", "completed", "forgotten", "completed", "unknown")
_VERDICTS = {
    "completed": "open",
    "failed": "job_failed",
    "partly": "files_failed",
    "forgotten": "job_unknown",
    "unknown": "job_unknown",
}


def soak(seconds: float) -> dict[str, Any]:
    """Run it in a new process, and return what was found.

    :param seconds: after which no gate begins any more.
    """
    with server.serving() as url, airflow_home() as environment:
        command = [sys.executable, "-m", "tests.benchmark.soak", url, str(seconds)]
        found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if found.returncode:
        raise RuntimeError(f"{found.stdout}{found.stderr}")
    result: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
    return result


def _lives(began: float, seconds: float) -> list[list[tuple[Job, str]]]:
    """Return the jobs of each gate, one after the other, and how they end."""
    chance = random.Random(4)
    ids = iter(server.ids(GATES * 100))
    lives = []
    for gate in range(GATES):
        life, begins = [], began
        for ending in islice(cycle(_ENDINGS), gate % len(_ENDINGS), None):
            if begins > began + seconds:
                break
            job = Job(next(ids), begins, begins + chance.uniform(SHORTEST_JOB, LONGEST_JOB), 10, ending)
            job.known_from, job.known_until = begins + APPEARS, job.end + KEPT
            if ending == "forgotten":
                job.known_until = job.end
            elif ending == "unknown":  # the next one begins at once: who asks for this one does not wait for its end
                job.known_until = job.end = begins
            life.append((job, ending))
            begins = job.end
        lives.append(life)
    return lives


class _Soak:
    """What the gates found, in few objects: nothing here may grow either."""

    def __init__(self, until: float, outage: tuple[float, float]) -> None:
        self.until = until
        self.outage = outage
        self.endings: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.delays, self.longest_delay = 0.0, 0.0
        self.delayed = 0

    async def keep(self, life: Sequence[tuple[Job, str]], conn_id: str) -> None:
        """Follow one job after the other."""
        for job, ending in life:
            if time.time() > self.until:
                return
            event = await asyncio.create_task(_fired(job.job_id, conn_id))
            self._ended(job, ending, event, time.time())

    def _ended(self, job: Job, ending: str, event: dict[str, Any], now: float) -> None:
        self.endings[ending] += 1
        if (event["job_id"], event["verdict"]) != (job.job_id, _VERDICTS[ending]) or now < job.end:
            self.wrong.append(f"{ending} {job.end - now:+.1f} s: {event}")
        down, up = self.outage
        # The outage delays those that had not looked yet when it began, and for a while all ask for themselves.
        if _VERDICTS[ending] != "job_unknown" and not down - 10 < job.end < up + 60:
            delay = now - job.end
            self.delays, self.delayed = self.delays + delay, self.delayed + 1
            self.longest_delay = max(self.longest_delay, delay)


async def _fired(job_id: str, conn_id: str) -> Any:
    from airflow_provider_importprog.triggers.import_progress import ImportProgressTrigger
    from tests.benchmark.subjects import first

    trigger = ImportProgressTrigger(
        job_id,
        importprog_conn_id=conn_id,
        poke_interval=POKE_INTERVAL,
        unknown_job_grace=UNKNOWN_JOB_GRACE,
    )
    return await first(trigger.run())


async def _watch(samples: list[tuple[float, int, int, int]]) -> None:
    """Look at the process every few seconds: bytes in memory, tasks, objects since the start."""
    began = time.monotonic()
    while True:
        await asyncio.sleep(2)
        samples.append((time.monotonic() - began, memory(), len(asyncio.all_tasks()), len(gc.get_objects())))


async def _run(url: str, seconds: float) -> dict[str, Any]:
    from aiohttp import ClientSession

    from tests.benchmark.subjects import Target, connect

    conn_id = connect(Target(url, POKE_INTERVAL, RATE))
    began = time.time() + 1
    outage = (began + seconds / 2, began + seconds / 2 + min(OUTAGE, seconds / 4))
    lives = _lives(began, seconds)
    server.know(url, [job for life in lives for job, _ in life], outage)
    gc.collect()
    gc.freeze()  # what is there already is not counted
    found = _Soak(began + seconds, outage)
    samples: list[tuple[float, int, int, int]] = []
    watcher = asyncio.create_task(_watch(samples))
    cpu = time.process_time()
    await asyncio.gather(*[asyncio.create_task(found.keep(life, conn_id)) for life in lives])
    cpu = time.process_time() - cpu
    watcher.cancel()
    await asyncio.gather(watcher, return_exceptions=True)
    # Not the ends: at first more jobs come to be known than are forgotten, at last gates leave.
    spans = {"early": (0.25, 0.4), "late": (0.85, 1.0)}
    watched = {
        span: {
            name: median(sample[number] for sample in samples if first * seconds < sample[0] < last * seconds)
            for number, name in enumerate(("memory", "tasks", "objects"), 1)
        }
        for span, (first, last) in spans.items()
    }
    return {
        **server.statistics(url),
        **watched,
        "endings": found.endings,
        "wrong": len(found.wrong),
        "such_as": found.wrong[:5],
        "delay_mean": found.delays / max(found.delayed, 1),
        "delay_max": found.longest_delay,
        "sessions_left": sum(isinstance(each, ClientSession) and not each.closed for each in gc.get_objects()),
        "tasks_left": [repr(task) for task in asyncio.all_tasks() - {asyncio.current_task()}],
        "cpu": cpu,
        "seconds": time.time() - began,
    }


if __name__ == "__main__":
    log_as_triggerer()
    try:
        result = asyncio.run(_run(sys.argv[1], float(sys.argv[2])))
    except Exception:
        # Airflow's logging would send it to nowhere.
        sys.exit(traceback.format_exc())
    print(json.dumps(result))
