"""The gate in its three modes: one table of what a server answers and what comes of it, then its log and parameters."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import (
    DAG,
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    task,
)

from airflow_provider_importprog.exceptions import (
    ImportApiUnauthorized,
    ImportApiUnreachable,
    ImportConnectionNotFound,
    ImportFilesFailed,
    ImportJobFailed,
    ImportJobUnknown,
    ImportRowsMissing,
    ImportSettingInvalid,
)
from airflow_provider_importprog.sensors.import_progress import ImportProgressSensor
from tests.blackbox.driver import MODES, TOKEN_PASSWORD, Connect, Gate, Told
from tests.blackbox.imports import Store
from tests.blackbox.server import (
    JOB,
    NOT_SERVED,
    V1_GET,
    V2,
    V2_DESCRIBE,
    Answer,
    ScriptedServer,
    unknown_job,
    v1_file,
    v1_job,
    v2_file,
    v2_job,
)

HTML = b"<html><body>Bad Gateway</body></html>"
DOWN, DENIED = Answer(HTML, 500), Answer(HTML, 401)
NO_ID = f'parse job id failed, err=%w strconv.ParseInt: parsing "{JOB}": invalid syntax'
NO_DATABASE = "database not found[database=shop]"
V2_REFRESH = "/v2/vectordb/collections/refresh_load"


@dataclass
class Case:
    """What the server answers, the last for ever, and what comes of it.

    :param error: what the gate fails with, or None where it opens.
    :param words: what the error, or the log of a gate that opens, says once.
    :param files: the names in the return value, or None where that depends on the mode.
    :param refresh: what the server answers to a request to refresh, or None where it is not to be asked.
    :param asked: how many requests it takes at the most.
    """

    script: list[Answer]
    error: type[Exception] | None = None
    words: str = ""
    files: list[str] | None = field(default_factory=lambda: ["[a.parquet]"])
    settings: dict[str, Any] = field(default_factory=dict)
    path: str = V2_DESCRIBE
    connection: dict[str, Any] = field(default_factory=dict)
    refresh: Answer | None = None
    asked: int = 999


def waits(*answers: Answer, **settings: Any) -> Case:
    return Case([*answers, v2_job("Completed")], settings=settings)


def v1(*answers: Answer, **more: Any) -> Case:
    return Case([*answers, v1_job(done=True)], files=["a.parquet"], path=V1_GET, **more)


def refreshes(answer: Answer, words: str = "was not refreshed", **more: Any) -> Case:
    settings = {"refresh_load": True, "outage_tolerance": 60}
    return Case([v2_job(), v2_job("Completed")], None, words, settings=settings, refresh=answer, **more)


def failed(reason: str, *names: str) -> Answer:
    return v2_job("Failed", reason=reason, files=[v2_file(f"[{name}]", "Failed", reason=reason) for name in names])


LAX = {"outage_tolerance": 900, "unknown_job_grace": 900}
SILENT = {"silent_fail": True}
UNCOMMITTED = {"wait_for": "uncommitted"}
REFRESH = {"refresh_load": True}
CASES = {
    # A job that goes on, or in a state that is not known.
    **{state: waits(v2_job(state, files=[v2_file()]), v2_job(state)) for state in (
        "Pending", "PreImporting", "Importing", "Uncommitted", "Committing", "Sorting", "IndexBuilding")},
    "v1": v1(v1_job(), v1_job()),
    "v1 at 100 %": v1(v1_job(readyPercentage=100)),
    "v1 unknown type": v1(v1_job(completeTime="Unknown type", errorMessage="Unknown type")),
    "v1 file done": v1(v1_job(files=[v1_file(done=True)])),
    # It opens.
    "Uncommitted is enough": Case([v2_job(), v2_job("Uncommitted")], settings=UNCOMMITTED),
    "Committing is enough": Case([v2_job(), v2_job("Committing")], settings=UNCOMMITTED),
    "Completed is enough": waits(v2_job(), **UNCOMMITTED),
    "failed files allowed": Case([v2_job(), v2_job("Completed", files=[v2_file(reason="boom"), v2_file()])], None,
                                 "is completed, but 1 of its 2 files", ["[a.parquet]"] * 2,
                                 {"allow_failed_files": True}),
    "opens": waits(v2_job(), min_rows=5),
    "ended": waits(),
    "fewer rows than announced": Case([v2_job(), v2_job("Completed", importedRows=4)], None,
                                      "is completed, but 4 of the 5 rows that it announced were imported"),
    "fewer rows in one of two files": Case(
        [v2_job("Completed", importedRows=8, totalRows=10, files=[v2_file("[a]", importedRows=3), v2_file("[b]")])],
        None, "is completed, but 8 of the 10 rows that it announced", ["[a]", "[b]"]),
    "no row": Case([v2_job(), v2_job("Completed", importedRows=0)], None, "is completed, but 0 of the 5 rows"),
    "no file at all": Case([v2_job(), v2_job("Completed", files=[])], None, "but the server shows no file", []),
    "a file that is not": Case([v2_job(), v2_job("Completed", files=[v2_file(state="Importing")])], None,
                               "is completed, but 0 of its 1 file"),
    "get_progress alone": Case([*[v2_job()] * 3, v2_job("Completed")], path=f"{V2}/get_progress"),
    # It fails for good.
    "failed": Case([v2_job(), v2_job("Failed", reason="disk full", files=[v2_file("[b]", "Failed", reason="row 7")])],
                   ImportJobFailed, "disk full. [b]: row 7", ["[b]"], REFRESH),
    "failed at once": Case([failed("disk full")], ImportJobFailed, "disk full", [], asked=1),
    "every file blamed": Case([v2_job(), failed("row 7 of b/1.json is bad", "b/1.json", "b/2.json")], ImportJobFailed,
                              "is bad. The file: [b/1.json]. The other file was not judged.",
                              ["[b/1.json]", "[b/2.json]"]),
    "aborted": Case([v2_job(), failed("aborted by user", "a")], ImportJobFailed, "aborted by user", ["[a]"]),
    "aborted before": Case([failed("aborted by user", "a")], ImportJobFailed, "aborted by user", ["[a]"], asked=1),
    "failed file": Case(
        [v1_job(), v1_job(done=True, files=[v1_file("bad.parquet", done=True, error="boom"), v1_file(done=True)])],
        ImportFilesFailed, "bad.parquet: boom", ["bad.parquet", "a.parquet"], path=V1_GET),
    "rows missing": Case([v2_job(), v2_job("Completed")], ImportRowsMissing, "5 rows, and min_rows is 6",
                         settings={"min_rows": 6, **REFRESH}),
    "rows missing before": Case([v2_job("Completed")], ImportRowsMissing, "5 rows, and min_rows is 6",
                                settings={"min_rows": 6}, asked=1),
    "a failed file before missing rows": Case([v2_job("Completed", files=[v2_file(reason="boom")])], ImportFilesFailed,
                                              "boom", settings={"min_rows": 6}),
    "unknown": Case([unknown_job()], ImportJobUnknown, "48 h", settings={"unknown_job_grace": 0.2}),
    "timeout": Case([v2_job()], AirflowSensorTimeout, "not completed within 0.4 s (timeout)",
                    settings={"timeout": 0.4, "poke_interval": 1}),
    # It fails, and a retry may help.
    "v1 counts no rows": v1(v1_job(), error=ImportSettingInvalid, words="counts no rows", settings={"min_rows": 1}),
    **{f"unauthorized {number}": Case([v2_job(), answer], ImportApiUnauthorized, "Check the login", None, LAX, asked=5)
       for number, answer in enumerate([
           Answer({"code": 1800, "message": "user hasn't authenticated"}),
           Answer({"code": 1400, "message": "bad token"}, 401),
           Answer({"code": 1401, "message": "permission deny"}),
           DENIED,
           Answer(HTML, 403),
           *(Answer({"code": code, "message": "Token not found"}, 404) for code in (21119, 80001, 80002))])},
    "down": Case([v2_job(), DOWN], ImportApiUnreachable, "0.3 s). The import itself may well", None,
                 {"outage_tolerance": 0.3}),
    **{f"no database {code}": Case([Answer({"code": code, "message": NO_DATABASE})], ImportApiUnreachable, "db_name",
                                   connection={"api_version": "v2", "db_name": "shop"}) for code in (100, 800)},
    **{f"no id {code} {status}": Case([Answer({"code": code, "message": NO_ID}, status)], ImportSettingInvalid,
                                      "'job-1' is not the id", settings=LAX, connection={"api_version": "v2"}, asked=1)
       for code, status in ((2100, 200), (2100, 400), (1100, 200))},
    "no connection": Case([DOWN], ImportConnectionNotFound, "'missing' is not defined",
                          settings={"importprog_conn_id": "missing "}, asked=0),
    # The server is in trouble, and then not.
    "unknown at first": waits(unknown_job(), unknown_job(status=404), v2_job(), unknown_job_grace=10),
    "silent while down": Case([DOWN, v2_job("Completed")], None, "waits on, because silent_fail", settings=SILENT),
    "silent while unauthorized": Case([v2_job(), DENIED, v2_job("Completed")], None,
                                      "waits on, because silent_fail", settings=SILENT),
    **{f"outage: {name}": waits(v2_job(), answer, answer, outage_tolerance=60) for name, answer in {
        "500": DOWN,
        "html": Answer(HTML, 200),
        "redirect": Answer(b"", 302, {"Location": "http://127.0.0.1:9/"}),
        "other job": v2_job("Completed", jobId="job-2"),
        "refused": Answer({"code": 65535, "message": "internal"}),
        "rate code": Answer({"code": 1807, "message": "slow down"}),
        "rate code of Zilliz": Answer({"code": 4, "message": "slow down"}),
        "gave up": Answer({"code": 10001, "message": "request timeout"}, 408),
        "cancelled": Answer({"code": 10000, "message": "context canceled"}),
        "no database": Answer({"code": 800, "message": NO_DATABASE}),
        "no database on 404": Answer({"code": 800, "message": NO_DATABASE}, 404),
        "no collection": Answer({"code": 100, "message": "collection not found[collection=books]"}, 404),
        "no node": Answer({"code": 2100, "message": "importing data failed: node not found[node=7]"}),
        "no route": Answer({"code": 404, "message": "route not found"}, 404),
        "gateway": Answer({"code": 5, "message": "Not Found", "details": []}, 404),
        "no state": v2_job(state=None),  # type: ignore[arg-type]
        "garbage": Answer(b"\0\1\2 no http", how="garbage")}.items()},
    "a gateway at first": waits(*[Answer({"code": 5, "message": "Not Found"}, 404)] * 2, outage_tolerance=60),
    # It is told to refresh a loaded collection, and opens whatever comes of it.
    "refreshed": refreshes(Answer({"code": 0, "data": {}}), "is asked to refresh"),
    **{f"not refreshed: {name}": refreshes(answer) for name, answer in {
        "old server": NOT_SERVED,
        "not loaded": Answer({"code": 101, "message": "collection not loaded"}),
        "cut off": Answer(how="close"),
        "no privilege": Answer({"code": 1401, "message": "permission deny"}, 403),
        "token": Answer({"code": 1800, "message": "bad token"}, 401),
        "busy": Answer({"code": 8, "message": "slow down"}, 429, {"Retry-After": "600"}),
        "page": Answer(HTML)}.items()},
    "not refreshed: late": refreshes(Answer({"code": 0}, delay=3), connection={"timeout": 0.5}),
    **{f"not refreshed: v1, {version}": v1(words="was not refreshed", settings=REFRESH, refresh=answer,
                                           connection={"api_version": version})
       for version, answer in (("v1", None), ("auto", NOT_SERVED))},
    "not refreshed: uncommitted": Case([v2_job("Uncommitted")], None, "of no use yet",
                                       settings=UNCOMMITTED | REFRESH),
}  # fmt: skip
OPTIONS = ["soft_fail", "never_fail", "do_xcom_push"]
RUNS = [
    (name, option)
    for name, case in CASES.items()
    for option in ("", *(OPTIONS if case.error else OPTIONS[2:] if name == "opens" else []))
]


@pytest.mark.parametrize(("name", "option"), RUNS)
def test_every_mode_comes_to_the_same_verdict(
    server: ScriptedServer, connect: Connect, gate: Gate, told: Told, name: str, option: str
) -> None:
    case, pushed = CASES[name], gate.ti.pushed
    connect(case.connection)
    server.on(case.path, *case.script).on(V2_REFRESH, case.refresh or Answer({"code": 0, "data": {}}))
    gate.context["task_state_store"] = Store()
    gate.pause = 1 if case.error is AirflowSensorTimeout else 0  # at the very time, Airflow's own could come first
    settings = {**case.settings, **({option: option != "do_xcom_push"} if option else {})}
    # In reschedule mode, no process knows what the one before has seen of the job.
    seen = ["data" in (a.body if isinstance(a.body, dict) else {}) for a in case.script]
    known = seen[-1] if gate.mode == "reschedule" else any(seen)
    if case.error is None:
        files = [file["file_name"] for file in gate.run(**settings)]
        assert files == case.files
        assert told.count(case.words) == 1 or not case.words
        assert told.count("is completed, but") == ("but " in case.words)
        assert "return_value" not in pushed  # which Airflow pushes
    else:
        final = issubclass(case.error, (AirflowFailException, AirflowSensorTimeout))
        skips = option == "never_fail" or (option == "soft_fail" and final)
        with pytest.raises(AirflowSkipException if skips else case.error) as caught:
            gate.run(**settings)
        assert str(caught.value).count(case.words) == 1
        known = known and case.error is not AirflowSensorTimeout
        if option == "do_xcom_push" or not known:
            assert "return_value" not in pushed
        elif case.files is not None:
            assert [file["file_name"] for file in pushed["return_value"]] == case.files
            assert skips or caught.value.job.to_dict()["files"] == pushed["return_value"]
    assert ("import_job" in pushed) is known
    assert not known or (pushed["import_job"]["job_id"], "files" in pushed["import_job"]) == (JOB, False)
    json.dumps(pushed)
    if case.error is not AirflowSensorTimeout:
        assert told.count(f"The gate {'fails' if case.error else 'opens'} after") == 1
    assert len(server.to(case.path)) <= case.asked
    assert {asked.json["collectionName"] for asked in server.to(V2_REFRESH)} == ({"books"} if case.refresh else set())
    # The fewer quick deferrals, the fewer races in the scheduler.
    assert known is False or len(case.script) > 1 or not gate.deferred


def test_its_event_is_small(server: ScriptedServer, connect: Connect) -> None:
    """However long a job's reason is and whatever it is written in, and however many its files are."""
    reason = 'x漢\U0001f600"' * 999
    files = [v2_file(reason[:300] + str(n), "Failed", reason=reason[:300]) for n in range(10_000)]
    server.v2(v2_job(), v2_job("Failed", reason=reason, collectionName="c" * 255, files=files))
    gate = Gate("deferrable")
    with pytest.raises(ImportJobFailed) as caught:
        gate.run()
    (event,) = gate.events
    assert event.keys() == {"job_id", "verdict", "message"}
    assert all(isinstance(value, str) for value in event.values())
    assert len(json.dumps(event, ensure_ascii=False).encode()) < 4096
    assert len(caught.value.job.files) == len(gate.ti.pushed["return_value"]) == 10_000


class TestLog:
    @pytest.mark.parametrize("mode", MODES)
    def test_it_repeats_nothing(self, server: ScriptedServer, connect: Connect, mode: str, told: Told) -> None:
        server.v2(*[v2_job("Uncommitted")] * 3, *[v2_job()] * 9, v2_job("Completed"))
        store = Store()
        assert Gate(mode, store).run(stall_warning=0.2)
        assert list(store.kept) == (["importprog_gate"] if mode != "poke" else [])
        assert len(store.written) < 5  # only where there was something new
        for words in ("Waiting for", "until somebody commits", "job-1: importing, 40 %", "has made no progress"):
            assert told.count(words) == 1, words

    @pytest.mark.parametrize(
        "case", [(3, "gate", -1, True), (2, "gate", -1, False), (3, "lists", -1, False), (3, "gate", 0, False)]
    )
    def test_more_files_than_airflow_maps_over(
        self, server: ScriptedServer, connect: Connect, monkeypatch: pytest.MonkeyPatch, told: Told, case: Any
    ) -> None:
        files, over, map_index, warns = case
        monkeypatch.setenv("AIRFLOW__CORE__MAX_MAP_LENGTH", "2")
        server.v2(v2_job("Completed", files=[v2_file(f"[{number}]", "Completed") for number in range(files)]))
        gate = Gate("poke")
        gate.ti.map_index = map_index

        @task
        def lists(files: Any) -> Any:
            return [files]

        @task
        def process(file: Any) -> None: ...

        with _dag():
            sensor = gate.sensor()
            process.expand(file=sensor.output if over == "gate" else lists(sensor.output))
        assert len(sensor.execute(gate.context)) == files
        assert told.count("A task maps over the") == warns

    def test_secrets_stay_secret(
        self, server: ScriptedServer, gate: Gate, caplog: pytest.LogCaptureFixture, capfd: Any
    ) -> None:
        def echo(asked: Any) -> Answer:
            said = asked.header("Authorization")
            return v2_job("Failed", reason=f"no: {said}", files=[v2_file(f"[{said}]", "Failed", reason=said)])

        server.v2(v2_job(), Answer(b"oops " + TOKEN_PASSWORD.encode()), echo)
        with caplog.at_level(logging.DEBUG), pytest.raises(ImportJobFailed) as caught:
            gate.run(outage_tolerance=60)
        captured = capfd.readouterr()
        seen = [str(caught.value), repr(caught.value), repr(caught.value.job), repr(gate.ti.pushed), caplog.text]
        seen += [captured.out, captured.err, repr(gate.events), repr([d.trigger.serialize() for d in gate.deferred])]
        assert not any(TOKEN_PASSWORD in text for text in seen)


SECONDS = ("outage_tolerance", "unknown_job_grace", "stall_warning")


class TestParameters:
    @pytest.mark.parametrize(
        "wrong",
        [
            *({"job_id": value} for value in (None, "", "  ", True, 1.5, ["a"])),
            *({"wait_for": value} for value in ("done", None, [])),
            *({name: value} for name in (*SECONDS, "poke_interval", "timeout") for value in (-1, "5")),
            *({name: value} for name in SECONDS for value in (float("nan"), True)),
            pytest.param({"outage_tolerance": 10**400}, id="huge tolerance"),
            *({name: "false"} for name in ("allow_failed_files", "deferrable", "refresh_load")),
            *({"min_rows": value} for value in (-1, True, "5", 1.5)),
        ],
        ids=str,
    )
    def test_wrong_ones_are_refused_at_parsing(self, wrong: dict[str, Any]) -> None:
        with pytest.raises((AirflowException, ValueError, TypeError)):
            ImportProgressSensor(**{"task_id": "gate", "job_id": JOB, **wrong})

    @pytest.mark.parametrize("job_id", ["None", None, "", " "])
    def test_a_job_id_that_rendered_to_nothing(self, server: ScriptedServer, gate: Gate, job_id: Any) -> None:
        for more in ({}, SILENT):
            sensor = gate.sensor(job_id="{{ ti.xcom_pull('x') }}", outage_tolerance=900, **more)
            sensor.job_id = job_id
            with pytest.raises((AirflowException, ValueError), match="job_id"):
                sensor.execute(gate.context)
        assert not server.asked

    def test_what_templates_rendered_is_cleaned_once(self, server: ScriptedServer, gate: Gate) -> None:
        server.v2(v2_job(), v2_job("Completed"))
        assert gate.run(job_id=f" {JOB}\n", cluster_id=" ", importprog_conn_id="importprog_default ")
        assert {asked.json["jobId"] for asked in server.to(V2_DESCRIBE)} == {JOB}

    def test_a_gate_that_waits_for_uncommitted_asks_v2(
        self, gate: Gate, server: ScriptedServer, connect: Connect
    ) -> None:
        """Of a server that serves v1 too, which shows an import that awaits its commit as one that goes on."""
        server.v1(v1_job()).v2(v2_job("Importing"), v2_job("Uncommitted", 99))
        assert gate.run(wait_for="uncommitted")[0]["file_name"] == "[a.parquet]"
        assert server.to(V1_GET) == []
        connect({"api_version": "v1"})
        asked = len(server.asked)
        with pytest.raises(ImportSettingInvalid, match="v1, which does not show that an import job is uncommit"):
            gate.run(wait_for="uncommitted")
        assert len(server.asked) == asked

    def test_in_a_dag(self) -> None:
        with _dag(default_args={"poke_interval": 7, "timeout": 70, "outage_tolerance": 5}):

            @task
            def submit() -> str:
                return JOB

            inherits = ImportProgressSensor(task_id="a", job_id=submit())
            own = ImportProgressSensor(
                task_id="b", job_id="{{ params.x }}", poke_interval=3, timeout=timedelta(hours=1)
            )
            mapped = ImportProgressSensor.partial(task_id="c", allow_failed_files=True).expand(job_id=["a", "b"])
            mapped_over = ImportProgressSensor.partial(task_id="e").expand(job_id=submit())
        assert (inherits.poke_interval, inherits.timeout, inherits.outage_tolerance) == (7, 70, 5)
        assert (own.poke_interval, own.timeout) == (3, 3600)
        assert inherits.upstream_task_ids == {"submit"}
        assert mapped.task_id == "c"
        assert mapped_over.upstream_task_ids

    def test_defaults(self) -> None:
        sensor = ImportProgressSensor(task_id="a", job_id=JOB)
        assert (sensor.poke_interval, sensor.timeout) == (30, 86400)
        assert (sensor.outage_tolerance, sensor.unknown_job_grace, sensor.stall_warning) == (900, 60, 1800)
        assert (sensor.wait_for, sensor.allow_failed_files, sensor.cluster_id) == ("completed", False, None)
        assert (sensor.min_rows, sensor.refresh_load) == (None, False)
        assert sensor.importprog_conn_id == "importprog_default"
        assert tuple(sensor.template_fields) == ("job_id", "cluster_id", "importprog_conn_id")


def _dag(**kwargs: Any) -> Any:
    return DAG("d", schedule=None, start_date=datetime(2024, 1, 1, tzinfo=timezone.utc), **kwargs)
