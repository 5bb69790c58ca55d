"""What Airflow, pip and a DAG processor see of the package."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import airflow_provider_importprog
from airflow_provider_importprog import get_provider_info
from airflow_provider_importprog._validation import WAIT_FOR
from airflow_provider_importprog.verdict import OPENS_AT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PACKAGE = Path(airflow_provider_importprog.__file__).parent
PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
HEAVY = {"aiohttp", "requests", "urllib3", "yarl"}
AIRFLOW_2 = importlib.metadata.version("apache-airflow").startswith("2.")
WATCHER = f"{PACKAGE.name}.triggers.import_ended"
# Where a module's name is not its distribution's.
DISTRIBUTIONS = {"airflow": "apache-airflow", "dateutil": "python-dateutil"}
# Distributions that another one brings by contract: their types are in its API.
BROUGHT = {
    "urllib3": "requests",
    "yarl": "aiohttp",
    # Airflow before 3.2, for the form of a connection.
    "flask_appbuilder": "apache-airflow",
    "flask_babel": "apache-airflow",
    "wtforms": "apache-airflow",
}


@cache
def modules_after(statement: str) -> frozenset[str]:
    """Run a statement in a fresh interpreter and return the names of the modules that are then loaded."""
    program = f"{statement}\nimport json, sys\nprint('\\n' + json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return frozenset(json.loads(done.stdout.splitlines()[-1]))


def named_modules(info: dict[str, Any]) -> Iterator[str]:
    for section in ("hooks", "sensors", "triggers", "operators"):
        for entry in info.get(section, []):
            yield from entry["python-modules"]


class TestProviderInfo:
    def test_it_holds_to_airflows_own_schema(self) -> None:
        schema = json.loads((files("airflow") / "provider_info.schema.json").read_text())
        jsonschema.validate(get_provider_info(), schema)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**get_provider_info(), "connection-types": [{"connection-type": 5}]}, schema)

    def test_every_module_it_names_can_be_imported_and_every_module_of_the_kind_is_named(self) -> None:
        named = set(named_modules(get_provider_info()))
        for module in named - ({WATCHER} if AIRFLOW_2 else set()):
            importlib.import_module(module)
        there = {
            f"{PACKAGE.name}.{kind}.{path.stem}"
            for kind in ("hooks", "sensors", "triggers", "operators")
            for path in (PACKAGE / kind).glob("[!_]*.py")
        }
        assert named == there

    def test_its_links_and_its_logo_are_there(self) -> None:
        info = get_provider_info()
        for path in info["extra-links"]:
            module, _, name = path.rpartition(".")
            assert getattr(importlib.import_module(module), name)().name == "Import job"
        (integration,) = info["integrations"]
        assert (PYPROJECT.parent / integration["logo"].partition("/main/")[2]).is_file()
        for page in integration["how-to-guide"]:
            assert (PYPROJECT.parent / page.removeprefix("/")).is_file()

    @pytest.mark.skipif(not AIRFLOW_2, reason="later ones have watchers")
    def test_a_watcher_says_that_airflow_2_has_none(self) -> None:
        from airflow.exceptions import AirflowOptionalProviderFeatureException

        with pytest.raises(AirflowOptionalProviderFeatureException, match=r"needs Airflow 3\.0 or later, .* 2\.11\.\d"):
            importlib.import_module(WATCHER)

    def test_its_connection_type_is_the_hooks(self) -> None:
        (connection,) = get_provider_info()["connection-types"]
        module, _, name = connection["hook-class-name"].rpartition(".")
        hook = getattr(importlib.import_module(module), name)
        assert connection["connection-type"] == hook.conn_type == "importprog"
        assert connection["hook-name"] == hook.hook_name == "Milvus / Zilliz Cloud import"
        assert hook.default_conn_name == "importprog_default"
        assert hook.conn_name_attr == "importprog_conn_id"

    def test_its_form_has_every_extra_of_the_design(self) -> None:
        (connection,) = get_provider_info()["connection-types"]
        assert " ".join(sorted(connection["conn-fields"])) == (
            "api_version cert cluster_id console_url db_name idempotency_keys max_requests_per_second project_id "
            "region_id timeout verify"
        )
        assert connection["conn-fields"]["api_version"]["schema"]["enum"] == ["auto", "v1", "v2"]

    def test_it_is_plain_json_and_made_anew_each_time(self) -> None:
        info = get_provider_info()
        assert json.loads(json.dumps(info)) == info
        assert get_provider_info() is not info


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    loaded: dict[str, Any] = tomllib.loads(PYPROJECT.read_text())
    return loaded


@pytest.fixture(scope="module")
def of_airflow() -> frozenset[str]:
    """What any DAG file with a deferrable sensor in it has loaded already."""
    return modules_after(
        "from airflow.providers.common.compat.sdk import BaseSensorOperator, conf; import airflow.triggers.base"
    )


class TestMetadata:
    def test_the_version_is_told_once(self, project: dict[str, Any]) -> None:
        assert project["project"]["dynamic"] == ["version"]
        source = PYPROJECT.parent / project["tool"]["hatch"]["version"]["path"]
        assert f'\n__version__ = "{airflow_provider_importprog.__version__}"\n' in source.read_text()
        assert get_provider_info()["versions"][0] == airflow_provider_importprog.__version__

    def test_where_it_is_installed_the_version_is_the_distributions(self, project: dict[str, Any]) -> None:
        try:
            installed = importlib.metadata.version(project["project"]["name"])
        except importlib.metadata.PackageNotFoundError:
            pytest.skip("not installed, only on the path")
        assert installed == airflow_provider_importprog.__version__

    def test_the_entry_point_leads_to_the_provider_info(self, project: dict[str, Any]) -> None:
        (entry,) = project["project"]["entry-points"]["apache_airflow_provider"].values()
        found = importlib.metadata.EntryPoint("provider_info", entry, "apache_airflow_provider").load()
        assert found()["package-name"] == project["project"]["name"]

    def test_every_distribution_that_is_imported_is_required(self, project: dict[str, Any]) -> None:
        required = {re.split(r"[^\w.-]", line)[0] for line in project["project"]["dependencies"]}
        used = set()
        for path in PACKAGE.rglob("*.py"):
            if {"emulator", "testing.py"} & set(path.relative_to(PACKAGE).parts):
                continue  # what they need is in an extra, and pytest
            for name in imported_names(ast.parse(path.read_text())):
                top = name.partition(".")[0]
                if top not in sys.stdlib_module_names and top != PACKAGE.name:
                    used.add(name)
        compat = {name for name in used if name.startswith("airflow.providers.common.compat")}
        tops = {name.partition(".")[0] for name in used - compat}
        distributions = {BROUGHT.get(top, DISTRIBUTIONS.get(top, top)) for top in tops}
        assert compat
        assert {*distributions, "apache-airflow-providers-common-compat"} == required

    def test_it_says_that_it_is_typed(self) -> None:
        assert (PACKAGE / "py.typed").is_file()


def imported_names(tree: ast.AST) -> Iterator[str]:
    """Yield what a module imports when it runs, and not what only a type checker reads."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", None) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
        yield from imported_names(node)


class TestWhatImportingCosts:
    @pytest.mark.parametrize(
        "module",
        [
            "operators.import_job",
            "sensors.import_progress",
            "triggers.import_progress",
            pytest.param("triggers.import_ended", marks=pytest.mark.skipif(AIRFLOW_2, reason="it has no watchers")),
        ],
    )
    def test_what_a_dag_file_imports_loads_no_http_client(self, module: str, of_airflow: frozenset[str]) -> None:
        loaded = modules_after(f"import airflow_provider_importprog.{module}")
        assert f"airflow_provider_importprog.{module}" in loaded
        added = {name.partition(".")[0] for name in loaded - of_airflow}
        assert not added & HEAVY
        assert added - set(sys.stdlib_module_names) <= {"airflow", "airflow_provider_importprog", "dateutil", "six"}
        assert not {name for name in loaded if name.startswith("airflow_provider_importprog.emulator")}
        assert "airflow_provider_importprog._storage" not in loaded  # it is needed where there are keys to read

    def test_what_only_a_running_task_needs_is_not_loaded_with_a_sensor(self) -> None:
        loaded = modules_after("import airflow_provider_importprog.sensors.import_progress")
        ours = {name for name in loaded if name.startswith("airflow_provider_importprog._")}
        needed = {f"airflow_provider_importprog.{name}" for name in ("_at_run_time", "_gate_operator", "_validation")}
        assert ours - {"airflow_provider_importprog._provider_info"} == needed
        assert not {name for name in loaded if name.startswith("airflow_provider_importprog.api")}
        assert tuple(OPENS_AT) == WAIT_FOR

    def test_the_wire_needs_neither_airflow_nor_an_http_client(self) -> None:
        loaded = modules_after(
            "from airflow_provider_importprog.api import *; import airflow_provider_importprog.api.client"
        )
        assert "airflow_provider_importprog.api.client" in loaded
        assert not loaded & ({"airflow"} | HEAVY)

    def test_a_trigger_loads_its_http_client_off_the_event_loop(self) -> None:
        """It takes half a second, in which every other gate of the triggerer would stand still."""
        loaded = modules_after(
            "import asyncio, os, sys, threading\n"
            "from airflow_provider_importprog.triggers.import_progress import ImportProgressTrigger\n"
            "class Spy:\n"
            "    def find_spec(self, name, *_):\n"
            "        if threading.current_thread() is threading.main_thread():\n"
            "            sys.modules['on the loop: ' + name] = sys\n"
            "async def run():\n"
            "    sys.meta_path.insert(0, Spy())\n"
            "    trigger = ImportProgressTrigger('1', poke_interval=0, outage_tolerance=0)\n"
            "    print([event async for event in trigger.run()])\n"
            'os.environ[\'AIRFLOW_CONN_IMPORTPROG_DEFAULT\'] = \'{"conn_type": "importprog", "host": "http://127.0.0.1:1"}\'\n'
            "asyncio.run(run())"
        )
        assert {"aiohttp", "requests"} <= loaded
        assert loaded & {f"on the loop: {name}" for name in HEAVY} == set()
