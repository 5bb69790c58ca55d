"""Every block of Python in the README and in docs/ runs: as a DAG through ``dag.test()``, or in pytest."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_importprog.emulator import Emulator
from airflow_provider_importprog.hooks.import_progress import ImportProgressHook
from tests.blackbox.driver import AIRFLOW_2
from tests.docs.pages import PAGES, ROOT, blocks

IN_PYTEST = "docs/testing.md"
GOOD = {"job_id": "good"}
# What each DAG is given, and how its tasks end. "good" and "broken" stand for the ids of such jobs.
DAGS: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "after_the_import": (GOOD, {"gate": "success", "process": "success"}),
    "labelled_gates": (GOOD, {"gate": "success"}),
    "many_files": (GOOD, {"gate": "success", "in_lists": "success", "process": "success"}),
    "with_quarantine": ({"job_id": "broken"}, {"gate": "failed", "quarantine": "success"}),
    "import_files": ({}, {"write": "success"}),
    "two_phase": ({}, {"write": "success", "audit": "success", "publish": "success", "drop": "skipped"}),
    "own_submission": ({}, {"submit": "success", "gate": "success"}),
    "fill_articles": ({}, {"write": "success"}),
    "use_articles": ({}, {"report": "success"}),
    # Nothing has ended: tests/e2e/test_import_ended.py runs it with events.
    "event_driven": ({}, {"ended": "success", "job.gate": "skipped", "job.process": "skipped"}),
    "zilliz_cloud": ({}, {"load": "success", "report": "success"}),
}
_AFTERWARDS = """\
import os


def test_the_connection_is_as_before():
    assert "AIRFLOW_CONN_IMPORTPROG_DEFAULT" not in os.environ
"""
_DAG = re.compile(r"^@dag\(.*?^def (\w+)\(", re.MULTILINE | re.DOTALL)
_RUN = """\
import json, runpy, sys
for path, name, conf in json.load(sys.stdin):
    dag = runpy.run_path(path)[name]()
    for each in dag.tasks:
        if hasattr(each, "poke_interval"):
            each.poke_interval = 0.3  # there is no scheduler to overtake
    run = dag.test(run_conf=conf)
    print("ENDED", json.dumps([name, {each.task_id: str(each.state) for each in run.get_task_instances()}]))
"""


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of an Airflow with a database and nothing of this one's."""
    home = tmp_path_factory.mktemp("airflow")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    env = {
        **kept,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "example_dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "NO_PROXY": "*",
        "PYTHONPATH": str(ROOT),
    }
    done(subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], env=env, capture_output=True, text=True))
    return env


def done(process: subprocess.CompletedProcess[str]) -> str:
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def test_the_dags_end_as_they_say(airflow: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    to_run, ends = [], {}
    with Emulator(duration=1, fail_files={"*broken*": "not a Parquet file"}) as emulator:
        connection = {"conn_type": "importprog", "host": emulator.url, "extra": {"api_version": "v2"}}
        env = {
            **airflow,
            "AIRFLOW__CORE__DAGS_FOLDER": str(tmp_path),
            "AIRFLOW_CONN_IMPORTPROG_DEFAULT": json.dumps(connection),
            "AIRFLOW_CONN_ARTICLES_BUCKET": json.dumps({"conn_type": "aws", "login": "a-key", "password": "a-secret"}),
        }
        monkeypatch.setenv("AIRFLOW_CONN_IMPORTPROG_DEFAULT", json.dumps(connection))
        jobs = {
            name: ImportProgressHook().create_import_job("articles", files=[f"{name}.parquet"])
            for name in ("good", "broken")
        }
        for page in PAGES:
            for number, block in enumerate(blocks(page, "python")):
                for name in _DAG.findall(block):
                    path = tmp_path / f"{Path(page).stem}_{number}.py"
                    path.write_text(block)
                    conf = {key: jobs.get(value, value) for key, value in DAGS[name][0].items()}
                    to_run.append((str(path), name, conf))
        said = done(
            subprocess.run(
                [sys.executable, "-c", _RUN], input=json.dumps(to_run), env=env, capture_output=True, text=True
            )
        )
    for line in said.splitlines():
        if line.startswith("ENDED "):
            name, states = json.loads(line.removeprefix("ENDED "))
            ends[name] = states
    expected: dict[str, Any] = {name: states for name, (_, states) in DAGS.items()}
    assert ends == expected, said


def test_the_tests_pass(airflow: dict[str, str], tmp_path: Path) -> None:
    conftest, *tests = blocks(IN_PYTEST, "python")
    if AIRFLOW_2:  # whose oldest dependencies and Milvus Lite's do not go together
        tests = [test for test in tests if "milvus_lite" not in test]
    (tmp_path / "conftest.py").write_text(conftest)
    (tmp_path / "test_page.py").write_text("\n".join([*tests, _AFTERWARDS]))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
        str(tmp_path),
    ]
    said = done(subprocess.run(command, env=airflow, capture_output=True, text=True))
    assert f"{len(tests) + 1} passed" in said


@pytest.mark.parametrize("about", ["broken_file", "outage"])
def test_a_users_test_is_short(about: str) -> None:
    (block,) = [
        block for block in blocks(IN_PYTEST, "python") if f"def test_a_{about}" in block or f"an_{about}" in block
    ]
    assert len(block.splitlines()) < 15


@pytest.mark.parametrize("page", [page for page in PAGES if page != IN_PYTEST])
def test_no_block_is_left_out(page: str) -> None:
    for block in blocks(page, "python"):
        assert _DAG.search(block), "it is no DAG, so nothing runs it"
