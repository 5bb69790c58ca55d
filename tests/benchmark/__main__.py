"""``python -m tests.benchmark``: run what is to be measured, print tables in Markdown, and write JSON.

It needs the dependency group ``benchmark``, a machine with nothing else to do, and about 20 minutes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmark import report
from tests.benchmark.child import ROOT, Run, airflow_home
from tests.benchmark.subjects import SUBJECTS

TABLES = ("gates", "rate", "sharing", "files", "import")
# In one interpreter, because what Airflow's own import takes differs by more than the sensor adds to it.
_IMPORTS = """
import json, sys, time
import airflow.sdk
bare = time.perf_counter()
from airflow.sdk import DAG, BaseSensorOperator
usual = time.perf_counter()
from airflow_provider_importprog.sensors.import_progress import ImportProgressSensor
now = time.perf_counter()
print("\\n" + json.dumps([now - bare, now - usual, "aiohttp" in sys.modules]))
"""


@dataclass(frozen=True)
class Size:
    """How much is measured. Times are in seconds.

    :param intervals: that a row of gates runs; its jobs end evenly over the second half of them.
    :param poke_interval: of the rows; longer where there are more than 1,000 gates.
    :param many: gates in the tables on the rate and on sharing.
    :param rate_seconds: how long the rate is looked at.
    :param long: intervals that a job lasts on average in the table on sharing, and the interval.
    :param delay: the same for the delay.
    :param imports: how many fresh interpreters of each kind.
    :param at_once: how many runs may disturb each other.
    """

    gates: tuple[int, ...] = (10, 100, 200, 1000, 2000)
    repeats: int = 3
    intervals: int = 8
    poke_interval: float = 1.0
    many: int = 1000
    rate_seconds: float = 120.0
    long: tuple[int, float] = (120, 1.0)
    delay: tuple[int, float] = (12, 5.0)
    imports: int = 10
    at_once: int = 1


FULL = Size()
QUICK = Size(
    gates=(10,),
    repeats=1,
    intervals=6,
    poke_interval=0.3,
    many=50,
    rate_seconds=4.0,
    long=(24, 0.15),
    delay=(6, 0.5),
    imports=2,
    at_once=3,
)


@dataclass
class Bench:
    """Measures what a command line asks for."""

    size: Size
    subjects: Sequence[str]
    runs: list[dict[str, Any]] = field(default_factory=list)

    def gates(self) -> list[dict[str, Any]]:
        """Measure every subject at every number of gates. The subjects take turns, so that noise hits all alike."""
        for repeat in range(self.size.repeats):
            for gates in self.size.gates:
                chosen = [name for name in self.subjects if gates <= SUBJECTS[name].most_gates]
                todo = [(name, self._row(name, gates)) for name in chosen]
                with ThreadPoolExecutor(self.size.at_once) as pool:
                    found = pool.map(lambda one: one[1].measure(), todo)
                    for (name, run), measured in zip(todo, found, strict=True):
                        _say(f"{gates} gates, {name}, {repeat + 1} of {self.size.repeats}")
                        labels = {"subject": name, "gates": gates, "repeat": repeat}
                        self.runs.append({**labels, "poke_interval": run.poke_interval, **measured})
        return report.rows(self.runs)

    def rate_and_sharing(self, tables: Sequence[str]) -> dict[str, Any]:
        """Measure what takes long and little CPU, two at a time."""
        size = self.size
        rate = replace(self._lasting("separate", (60, size.poke_interval)), rate=0, stop=size.rate_seconds)
        todo: dict[str, Run] = {}
        if "rate" in tables:
            todo["rate"] = replace(rate, first_end=10 * size.rate_seconds, last_end=11 * size.rate_seconds)
        if "sharing" in tables:
            todo["sharing"] = self._lasting("sharing", size.long)
            todo["separate"] = self._lasting("separate", size.long)
            for name in ("sharing", "stream"):
                todo[f"{name}, delay"] = replace(self._lasting(name, size.delay), rate=200.0)
        with ThreadPoolExecutor(max(size.at_once, 2)) as pool:
            found = dict(zip(todo, pool.map(lambda run: run.measure(), todo.values()), strict=True))
        for name, measured in found.items():
            measured.update(gates=todo[name].gates, poke_interval=todo[name].poke_interval)
        _say("the rate, and sharing")
        return found

    def files(self) -> dict[str, Any]:
        """Measure a job of 10,000 files among small ones, as it completes and as it fails."""
        kinds = {"none": (0, False), "completed": (10_000, False), "failed": (10_000, True)}
        runs = [
            Run("sharing", 11, 1.0, 2.0, 4.0, big_files=files, big_fails=fails, tick=0.002)
            for files, fails in kinds.values()
        ]
        with ThreadPoolExecutor(self.size.at_once) as pool:
            found = dict(zip(kinds, pool.map(lambda run: run.measure(), runs), strict=True))
        _say("10,000 files")
        return found

    def imports(self) -> dict[str, Any]:
        """Measure what importing the sensor adds, in seconds, each time in a fresh interpreter."""
        found = [_import_sensor() for _ in range(self.size.imports)]
        _say("imports")
        over_sdk, over_another, aiohttp = zip(*found, strict=True)
        return {"over_sdk": median(over_sdk), "over_another": median(over_another), "aiohttp": any(aiohttp)}

    def _row(self, subject: str, gates: int) -> Run:
        interval = self.size.poke_interval * max(gates / 1000, 1)
        seconds = interval * self.size.intervals
        return Run(subject, gates, interval, seconds / 2, seconds)

    def _lasting(self, subject: str, lasting: tuple[int, float]) -> Run:
        intervals, interval = lasting
        return Run(subject, self.size.many, interval, 0.75 * intervals * interval, 1.25 * intervals * interval)


def _import_sensor() -> tuple[float, float, bool]:
    """Return the seconds that it adds to Airflow's SDK, and to another sensor, and whether aiohttp is loaded."""
    with airflow_home() as environment:
        command = [sys.executable, "-c", _IMPORTS]
        said = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    over_sdk, over_another, aiohttp = json.loads(said.splitlines()[-1])
    return over_sdk, over_another, aiohttp


def _say(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


def _list_of(kind: Callable[[str], Any], known: Sequence[str] = ()) -> Callable[[str], list[Any]]:
    def read(value: str) -> list[Any]:
        found = [kind(part.strip()) for part in value.split(",")]
        for part in found:
            if known and part not in known:
                raise argparse.ArgumentTypeError(f"{part!r} is none of {', '.join(known)}")
        return found

    return read


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the command line, and return what it writes as JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmark", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="see that all of it runs, in a minute and with no meaning")
    parser.add_argument("--repeats", type=int, help="runs of each row, of which the median is shown")
    parser.add_argument("--gates", type=_list_of(int), help="such as 10,100")
    parser.add_argument("--only", type=_list_of(str, list(SUBJECTS)), help=f"of {','.join(SUBJECTS)}")
    parser.add_argument("--tables", type=_list_of(str, TABLES), default=TABLES, help=f"of {','.join(TABLES)}")
    parser.add_argument("--poke-interval", type=float, help="seconds, in the rows of gates")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write all that was measured there")
    options = parser.parse_args(arguments)
    given = {name: getattr(options, name) for name in ("repeats", "gates", "poke_interval")}
    size = replace(QUICK if options.quick else FULL, **{name: value for name, value in given.items() if value})
    found: dict[str, Any] = {"machine": report.machine()}
    bench = Bench(size, options.only or list(SUBJECTS))
    if "gates" in options.tables:
        found["gates"] = bench.gates()
    if {"rate", "sharing"} & set(options.tables):
        found["long"] = bench.rate_and_sharing(options.tables)
    if "files" in options.tables:
        found["files"] = bench.files()
    if "import" in options.tables:
        found["import"] = bench.imports()
    print(report.markdown(found))
    if options.json:
        options.json.write_text(json.dumps({**found, "runs": bench.runs}, indent=1) + "\n")
    return found


if __name__ == "__main__":
    main()
