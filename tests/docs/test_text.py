"""Links lead somewhere, and tables say what the code says."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import shlex
import subprocess
from ast import literal_eval
from pathlib import Path

import pytest
import requests
import yaml

from airflow_provider_importprog import _lineage, exceptions, get_provider_info
from airflow_provider_importprog._gate_operator import ImportGateOperator
from airflow_provider_importprog.assets import create_asset
from airflow_provider_importprog.emulator import PROFILES, Emulator
from airflow_provider_importprog.emulator.__main__ import parser
from airflow_provider_importprog.hooks.import_progress import ImportProgressHook
from airflow_provider_importprog.operators.import_job import CreateImportJobOperator
from airflow_provider_importprog.sensors.import_progress import ImportProgressSensor
from airflow_provider_importprog.triggers.import_ended import ImportEndedTrigger
from tests.docs.pages import PAGES, REPOSITORY, ROOT, anchors, blocks, prose, table, text_of, unquoted

PACKAGE = ROOT / "airflow_provider_importprog"


class TestReadme:
    def test_it_is_short(self) -> None:
        assert len(text_of("README.md").splitlines()) < 150

    @pytest.mark.parametrize("heading", ["Run it", "Test it"])
    def test_ci_finds_the_command(self, heading: str) -> None:
        section = text_of("README.md").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
        assert section.count("```bash\n") == 1

    def test_links_are_absolute(self) -> None:
        assert re.findall(r"\]\((?!https://)[^)]*\)", prose("README.md")) == []


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_what_is_there(page: str) -> None:
    raw = REPOSITORY.replace("github.com", "raw.githubusercontent.com")
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        target, _, anchor = link.partition("#")
        for prefix in (f"{REPOSITORY}/blob/main/", f"{raw}/main/"):
            if target.startswith(prefix):
                target = f"/{target.removeprefix(prefix)}"
        if "://" in target:
            continue
        if not target:
            path = ROOT / page
        elif target.startswith("/"):
            path = ROOT / target[1:]
        else:
            path = ((ROOT / page).parent / target).resolve()
        assert path.exists(), f"{page} links to {link}"
        if anchor:
            assert anchor in anchors(path.relative_to(ROOT).as_posix()), f"{page} links to {link}"


class TestConnection:
    def test_every_field_has_its_row(self) -> None:
        (connection_type,) = get_provider_info()["connection-types"]
        own = {"host", "login", "password", "schema", "port"}
        rows = [unquoted(field).removeprefix("extra ") for field, *_ in table("docs/connection.md", "field")]
        assert sorted(rows) == sorted(own | connection_type["conn-fields"].keys())

    @pytest.mark.parametrize("page", ["README.md", "docs/connection.md", "docs/zilliz-cloud.md"])
    def test_what_is_exported_is_a_connection(self, page: str, monkeypatch: pytest.MonkeyPatch) -> None:
        from airflow_provider_importprog._connection import ImportConnection

        exports = [block for block in blocks(page, "bash") if "AIRFLOW_CONN_" in block]
        assert exports
        for block in exports:
            for line in block.splitlines():
                export, pair = shlex.split(line)
                name, _, value = pair.partition("=")
                assert export == "export"
                monkeypatch.setenv(name, value)
            settings = ImportConnection.read(ImportProgressHook.get_connection("importprog_default"))
            assert settings.base_url in ("http://localhost:19530", "https://api.cloud.zilliz.com")
            assert settings.token in ("root:Milvus", "your-api-key")


@pytest.mark.parametrize(
    ("page", "kind"),
    [("docs/sensor.md", ImportProgressSensor), ("docs/operators.md", CreateImportJobOperator)],
)
def test_every_parameter_has_its_row(page: str, kind: type) -> None:
    own = kind.__mro__[: kind.__mro__.index(ImportGateOperator)]
    parameters = [
        each
        for base in own
        for each in inspect.signature(base.__init__).parameters.values()
        if each.kind is each.KEYWORD_ONLY
    ]
    rows = {unquoted(row[0]): unquoted(row[1]) for row in table(page, "parameter")}
    assert sorted(rows) == sorted(each.name for each in parameters)
    for each in parameters:
        with_unit = re.fullmatch(r"(\S+)( \(.*\))?", rows[each.name])
        if each.name in ("cluster_id", "deferrable", "idempotency_key"):
            continue  # the default is told in words
        if each.default is each.empty:
            assert rows[each.name] == ""
        elif isinstance(each.default, str) and rows[each.name] == each.default:
            continue
        else:
            assert with_unit is not None
            assert literal_eval(with_unit[1]) == each.default, each.name


def test_create_asset_has_these_parameters() -> None:
    parameters = inspect.signature(create_asset).parameters.values()
    defaults = {each.name: "" if each.default is each.empty else str(each.default) for each in parameters}
    assert {unquoted(row[0]): unquoted(row[1]) for row in table("docs/assets.md", "parameter")} == defaults


@pytest.mark.parametrize("row", table("docs/lineage.md", "URL"), ids=lambda row: row[0])
def test_a_url_is_the_input_that_it_is_said_to_be(row: list[str]) -> None:
    url, *names = map(unquoted, row)
    assert _lineage.inputs([url]) == [tuple(names)]


def test_every_parameter_of_the_watcher_has_its_row() -> None:
    parameters = list(inspect.signature(ImportEndedTrigger).parameters.values())
    rows = [[unquoted(cell) for cell in row[:2]] for row in table("docs/events.md", "parameter")]
    assert rows == [[each.name, str(each.default).removesuffix(".0").replace("'", '"')] for each in parameters]


def test_every_exception_has_its_row() -> None:
    base = exceptions.ImportProgressException
    kinds = {
        name: kind
        for name, kind in vars(exceptions).items()
        if inspect.isclass(kind) and issubclass(kind, base) and kind is not base
    }
    rows = {unquoted(row[0]): row[1] for row in table("docs/errors.md", "exception")}
    final = {name: "yes" if issubclass(kind, exceptions.AirflowFailException) else "no" for name, kind in kinds.items()}
    assert rows == final


class TestEmulator:
    def test_every_profile_has_its_row(self) -> None:
        assert [unquoted(row[0]) for row in table("docs/testing.md", "profile")] == list(PROFILES)

    @pytest.mark.parametrize("row", table("docs/testing.md", "to see"), ids=lambda row: row[0])
    def test_what_is_to_be_seen_can_be_asked_for(self, row: list[str]) -> None:
        for call in re.findall(r"`(\w+\(.*?\))`", row[1]):
            with Emulator(duration=0) as emulator:
                eval(f"emulator.{call}", {"emulator": emulator, "job_id": self.uncommitted(emulator)})
        if row[2]:
            path, body = re.findall(r"`([^`]+)`", row[2])
            with Emulator(duration=0) as emulator:
                sent = body.replace('"jobId": "…"', f'"jobId": "{self.uncommitted(emulator)}"')
                answer = requests.post(f"{emulator.url}{path}", json=json.loads(sent), timeout=10)
                assert answer.json()["code"] == 0, answer.text

    @staticmethod
    def uncommitted(emulator: Emulator) -> str:
        body = {"collectionName": "articles", "files": [["a"]], "options": {"auto_commit": "false"}}
        answer = requests.post(f"{emulator.url}/v2/vectordb/jobs/import/create", json=body, timeout=10)
        return str(answer.json()["data"]["jobId"])

    def test_the_command_has_these_options(self) -> None:
        prefix = "python -m airflow_provider_importprog.emulator"
        commands = [line for block in blocks("docs/testing.md", "bash") for line in block.splitlines()]
        for line in commands:
            if line.startswith(prefix):
                parser().parse_args(shlex.split(line.removeprefix(prefix)))
        options = {option for action in parser()._actions for option in action.option_strings}
        named = set(re.findall(r"`(--[\w-]+)", prose("docs/testing.md") + prose("SECURITY.md")))
        assert named <= options | {"--group"}


def test_contributing_names_files_that_are_there() -> None:
    text = text_of("CONTRIBUTING.md")
    places = [PACKAGE, PACKAGE / "api", ROOT]
    for name in set(re.findall(r"[\w/]+\.py\b", text)):
        assert any((place / name).exists() for place in places), name


def test_troubleshooting_quotes_what_is_really_said() -> None:
    sources = "".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    said = re.sub(r'"\n *f?"', "", sources)
    of_airflow = {"Bad Request", "state mismatch"}
    rows = [line.split("|")[1] for line in prose("docs/troubleshooting.md").splitlines() if line.startswith("| ")]
    for quoted in {quoted for row in rows for quoted in re.findall(r'"([^"]+)"', row)} - of_airflow:
        for part in filter(None, map(str.strip, quoted.split("…"))):
            assert part in said, quoted


@pytest.mark.parametrize("page", PAGES)
def test_blocks_can_be_read(page: str) -> None:
    for block in blocks(page, "json"):
        json.loads(block)
    for block in blocks(page, "bash"):
        done = subprocess.run(["bash", "-n"], input=block, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr


def test_the_whole_dag_for_zilliz_cloud_is_the_example() -> None:
    (block,) = blocks("docs/zilliz-cloud.md", "python")
    assert block == Path(ROOT / "example_dags" / "zilliz_cloud.py").read_text()


def test_every_example_has_its_row() -> None:
    rows = re.findall(r"example_dags/(\w+)\.py", "".join(row[1] for row in table("docs/examples.md", "I want to …")))
    there = {path.stem for path in (ROOT / "example_dags").glob("*.py")} - {"run_example"}
    assert sorted(rows) == sorted(there)


def test_the_registry_is_told_of_what_is_there() -> None:
    registered = yaml.safe_load(text_of(".airflow-registry.yaml"))
    info = get_provider_info()
    assert registered["package-name"] == info["package-name"]
    assert registered["logo"] == info["integrations"][0]["logo"]
    named = [each["module"] for kind in ("sensors", "operators", "hooks", "triggers") for each in registered[kind]]
    for path in named:
        module, _, name = path.rpartition(".")
        assert inspect.isclass(getattr(importlib.import_module(module), name))
    modules = {
        module for kind in ("sensors", "operators", "hooks") for each in info[kind] for module in each["python-modules"]
    }
    assert modules <= {path.rpartition(".")[0] for path in named}
