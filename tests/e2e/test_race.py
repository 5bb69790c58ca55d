"""How often Airflow loses a gate that resumes quickly, and what our two measures against it are worth.

    pytest -m e2e_slow -s tests/e2e/test_race.py

Prints a table, and appends it to the file that E2E_FIGURES names. Fails only where gates are lost though both
measures are taken and the interval is the default.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from tests.e2e.harness import Postgres, Sqlite
from tests.e2e.rig import Rig, running
from tests.e2e.variants import VARIANTS

pytestmark = [pytest.mark.e2e_slow, pytest.mark.xdist_group("airflow")]

GATES = 50
# (variant, seconds between polls, when the jobs end)
MEASURED = [
    *((variant, 5, "before") for variant in VARIANTS),
    *((variant, 5, "after") for variant in ("both", "first_poll_only")),
    ("both", 1, "after"),
    ("both", 30, "after"),
]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    home = tmp_path_factory.mktemp("race") / "airflow"
    database = None if request.param == "sqlite" else Postgres()
    # As many workers as Airflow starts unless told otherwise.
    with running(home, database, AIRFLOW__CORE__PARALLELISM="32") as rig:
        yield rig


@pytest.mark.parametrize(("variant", "interval", "end"), MEASURED)
def test_gates_lost(rig: Rig, capfd: pytest.CaptureFixture[str], variant: str, interval: int, end: str) -> None:
    """The jobs end before their gates look for the first time, or right after."""
    jobs = [rig.submit(f"{number}.json") for number in range(GATES)]
    if end == "before":
        with ThreadPoolExecutor(10) as pool:
            list(pool.map(rig.commit, jobs))
    else:
        for job in jobs:
            rig.wire.then(job, partial(rig.commit, job), after=1)
    dag_id, began = f"race_{variant}_{interval}", time.monotonic()
    run_id = rig.airflow.trigger(dag_id, {"jobs": jobs})
    rig.airflow.wait_for_run(dag_id, run_id, 900)
    took = time.monotonic() - began

    states = Counter(each.state for each in rig.airflow.instances(dag_id, run_id) if each.task_id == "gate")
    mismatches = len(rig.airflow.state_mismatches(run_id))
    deferred = rig.airflow.rows("SELECT 1 AS one FROM log WHERE run_id = :r AND event = 'deferred'", r=run_id)
    database = "sqlite" if isinstance(rig.airflow.database, Sqlite) else "postgresql"
    line = (
        f"{database:10}  {variant:15}  poll every {interval:2} s  jobs end {end:6} the first look  "
        f"lost {GATES - states['success']:2} of {GATES}  mismatches {mismatches:2}  "
        f"deferred {len(deferred):2}  {took:4.0f} s"
    )
    with capfd.disabled():
        print(f"\n{line}", flush=True)  # noqa: T201 (the figures are what it is for)
    if figures := os.environ.get("E2E_FIGURES"):
        with open(figures, "a") as file:
            file.write(f"{line}\n")
    if variant == "both" and interval == 30:
        assert states == {"success": GATES}
