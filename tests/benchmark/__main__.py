"""``python -m tests.benchmark``: run what is to be measured, print tables in Markdown, and write JSON.

It needs the dependency group ``benchmark``, a machine with nothing else to do, and about 12 minutes.
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

TABLES = ("gates", "long", "files", "import")
# In one interpreter, because what Airflow's own import takes differs by more than the sensor adds to it.
_IMPORTS = """
import json, sys, time
from airflow.sdk import DAG, BaseSensorOperator
from airflow.providers.common.compat.sdk import (
    AirflowException, AirflowFailException, AirflowNotFoundException, AirflowSensorTimeout, AirflowSkipException,
    AirflowTaskTimeout, BaseSensorOperator, PokeReturnValue, conf
)
began = time.process_time()
from airflow_provider_importprog.sensors.import_progress import ImportProgressSensor
print("\\n" + json.dumps([time.process_time() - began, "aiohttp" in sys.modules]))
"""


@dataclass(frozen=True)
class Size:
    """How much is measured. Times are in seconds.

    :param intervals: that a row of gates runs; its jobs end evenly over the second half of them.
    :param poke_interval: of the rows; longer where there are more than 1,000 gates.
    :param many: gates of the runs that take long.
    :param rate: how long the rate is looked at.
    :param long: intervals that a job lasts on average where requests are counted, and the interval.
    :param delay: the same for the delay.
    :param imports: how many fresh interpreters.
    """

    gates: tuple[int, ...] = (10, 200, 1000, 5000)
    repeats: int = 3
    intervals: int = 6
    poke_interval: float = 1.0
    many: int = 1000
    rate: float = 120.0
    long: tuple[int, float] = (100, 1.0)
    delay: tuple[int, float] = (12, 5.0)
    imports: int = 7


FULL = Size()
QUICK = Size((10,), 1, 6, 0.3, 50, 4.0, (24, 0.15), (6, 0.5), 2)


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
                for name in self.subjects:
                    if gates > SUBJECTS[name].most_gates:
                        continue
                    interval = self.size.poke_interval * max(0.6 * gates / 1000, 1)
                    seconds = interval * self.size.intervals
                    measured = Run(name, gates, interval, seconds / 2, seconds).measure()
                    self.runs.append({"subject": name, "gates": gates, "repeat": repeat, **measured})
                    _say(f"{gates} gates, {name}, {repeat + 1} of {self.size.repeats}")
        return report.rows(self.runs)

    def long(self) -> dict[str, Any]:
        """Measure what takes long and little CPU, all at once."""
        rate = replace(self._lasting("separate", (600, self.size.poke_interval)), rate=0, stop=self.size.rate)
        return _at_once(
            {
                "rate": rate,
                "sharing": self._lasting("sharing", self.size.long),
                "separate": self._lasting("separate", self.size.long),
                "delay": replace(self._lasting("sharing", self.size.delay), rate=200.0),
            }
        )

    def files(self) -> dict[str, Any]:
        """Measure a job of 10,000 files among small ones, as it completes and as it fails."""
        run = Run("sharing", 11, 1.0, 2.0, 4.0, big_files=10_000, tick=0.002)
        return {"completed": run.measure(), "failed": replace(run, big_fails=True).measure()}

    def imports(self) -> dict[str, Any]:
        """Measure what importing the sensor adds to a DAG file, in CPU seconds, each time in a fresh interpreter."""
        with airflow_home() as environment:
            # The first one writes the bytecode that all others find.
            environment.pop("PYTHONDONTWRITEBYTECODE", None)
            environment["PYTHONPYCACHEPREFIX"] = environment["AIRFLOW_HOME"]
            found = [_import_sensor(environment) for _ in range(self.size.imports + 1)][1:]
        seconds, aiohttp = zip(*found, strict=True)
        return {"seconds": median(seconds), "aiohttp": any(aiohttp)}

    def _lasting(self, subject: str, lasting: tuple[int, float]) -> Run:
        intervals, interval = lasting
        return Run(subject, self.size.many, interval, 0.75 * intervals * interval, 1.25 * intervals * interval)


def _at_once(runs: dict[str, Run]) -> dict[str, Any]:
    with ThreadPoolExecutor(len(runs)) as pool:
        found = dict(zip(runs, pool.map(Run.measure, runs.values()), strict=True))
    for name, measured in found.items():
        measured.update(gates=runs[name].gates, poke_interval=runs[name].poke_interval)
    return found


def _import_sensor(environment: dict[str, str]) -> tuple[float, bool]:
    command = [sys.executable, "-c", _IMPORTS]
    said = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    seconds, aiohttp = json.loads(said.splitlines()[-1])
    return seconds, aiohttp


def _say(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


def _list_of(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    return lambda value: [kind(part.strip()) for part in value.split(",")]


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the command line, and return what it writes as JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmark", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="see that all of it runs, in a minute and with no meaning")
    parser.add_argument("--repeats", type=int, help="runs of each row, of which the median is shown")
    parser.add_argument("--gates", type=_list_of(int), help="such as 10,100")
    parser.add_argument("--intervals", type=int, help="that a row of gates runs; its jobs end in the second half")
    parser.add_argument("--only", type=_list_of(str), default=list(SUBJECTS), help=f"of {','.join(SUBJECTS)}")
    parser.add_argument("--tables", type=_list_of(str), default=TABLES, help=f"of {','.join(TABLES)}")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write all that was measured there")
    options = parser.parse_args(arguments)
    given = {name: getattr(options, name) for name in ("repeats", "gates", "intervals")}
    size = replace(QUICK if options.quick else FULL, **{name: value for name, value in given.items() if value})
    bench = Bench(size, options.only)
    measures = {"gates": bench.gates, "long": bench.long, "files": bench.files, "import": bench.imports}
    found: dict[str, Any] = {"machine": report.machine()}
    for table in options.tables:
        found[table] = measures[table]()
        _say(table)
    print(report.markdown(found))
    if options.json:
        options.json.write_text(json.dumps({**found, "runs": bench.runs}, indent=1) + "\n")
    return found


if __name__ == "__main__":
    main()
