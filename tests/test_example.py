"""The README's example, as a new user runs it: a real Airflow, and Milvus Lite."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]


def test_the_example_opens_on_good_files_and_fails_on_a_broken_one(tmp_path: Path) -> None:
    home = tmp_path / "demo"
    script = ROOT / "example_dags" / "run_example.py"
    done = subprocess.run([sys.executable, str(script), "--home", str(home)], capture_output=True, text=True)
    said = done.stdout + done.stderr

    assert done.returncode == 0, said
    assert "deferred: waiting in the triggerer" in said
    assert re.search(r"The gate opens after .* 5 files, 30,000 rows", said)
    assert re.search(r"The gate fails after .* expected dim 128", said)
    assert "Milvus Lite still counts 30,000 rows" in said
    assert processes_in(home) == []


def processes_in(home: Path) -> list[psutil.Process]:
    """Return what still runs of all that the example started, by where it works."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if home in (Path(process.cwd()), *Path(process.cwd()).parents):
                found.append(process)
    return found
