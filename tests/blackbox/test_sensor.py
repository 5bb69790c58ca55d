"""The gate in its three modes, row by row of the design's table."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from datetime import timedelta
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    TaskDeferred,
)

from airflow_provider_importprog.exceptions import (
    ImportApiUnauthorized,
    ImportApiUnreachable,
    ImportFilesFailed,
    ImportJobFailed,
    ImportJobUnknown,
    ImportSettingInvalid,
)
from airflow_provider_importprog.sensors.import_progress import ImportProgressSensor
from airflow_provider_importprog.triggers.import_progress import ImportProgressTrigger
from tests.blackbox.driver import TOKEN_PASSWORD, Connect, Gate, fire
from tests.blackbox.server import JOB, V1_GET, Answer, ScriptedServer, unknown_job, v1_file, v1_job, v2_file, v2_job

HTML = b"<html><body>Bad Gateway</body></html>"


@pytest.mark.parametrize(
    "script",
    [
        (v1_job(), v1_job(done=True)),
        (v1_job(readyPercentage=100), v1_job(done=True)),
        (v1_job(completeTime="Unknown type", errorMessage="Unknown type"), v1_job(done=True)),
        (v1_job(files=[v1_file(done=True)]), v1_job(done=True)),
    ],
)
def test_v1_waits_then_opens(server: ScriptedServer, gate: Gate, script: tuple[Answer, ...]) -> None:
    server.v1(script[0], script[0], script[1])
    files = gate.run()
    assert [file["file_name"] for file in files] == ["a.parquet"]
    assert gate.ti.pushed["import_job"]["state"] == "completed"
    assert gate.ti.pushed["import_job"]["job_id"] == JOB
    assert "files" not in gate.ti.pushed["import_job"]
    assert len(server.asked) >= 3


@pytest.mark.parametrize(
    "waiting", ["Pending", "PreImporting", "Importing", "Uncommitted", "Committing", "Sorting", "IndexBuilding"]
)
def test_v2_waits_then_opens(server: ScriptedServer, gate: Gate, waiting: str) -> None:
    server.v2(v2_job(waiting, files=[v2_file()]), v2_job(waiting, files=[v2_file()]), v2_job("Completed"))
    files = gate.run()
    assert files[0]["imported_rows"] == 5
    json.dumps([files, gate.ti.pushed])


@pytest.mark.parametrize("state", ["Uncommitted", "Committing", "Completed"])
def test_opens_at_uncommitted_or_later(server: ScriptedServer, gate: Gate, state: str) -> None:
    server.v2(v2_job("Importing"), v2_job(state))
    assert len(gate.run(wait_for="uncommitted")) == 1


@pytest.mark.parametrize("deferred_first", [False, True])
@pytest.mark.parametrize("soft_fail", [False, True])
def test_failed_job(server: ScriptedServer, gate: Gate, soft_fail: bool, deferred_first: bool) -> None:
    bad = v2_job("Failed", reason="disk full", files=[v2_file("[b.parquet]", "Failed", reason="bad row 7"), v2_file()])
    server.v2(*([v2_job()] * deferred_first), bad)
    if soft_fail:
        with pytest.raises(AirflowSkipException):
            gate.run(soft_fail=True)
    else:
        with pytest.raises(ImportJobFailed, match="disk full") as caught:
            gate.run()
        assert isinstance(caught.value, AirflowFailException)
        assert caught.value.job.error_message == "disk full"
        assert "b.parquet" in str(caught.value)
        assert "bad row 7" in str(caught.value)
    assert [file["state"] for file in gate.ti.pushed["return_value"]] == ["failed", "completed"]
    assert gate.ti.pushed["import_job"]["state"] == "failed"


@pytest.mark.parametrize("soft_fail", [False, True])
def test_completed_with_a_failed_file(server: ScriptedServer, gate: Gate, soft_fail: bool) -> None:
    server.v1(v1_job(), v1_job(done=True, files=[v1_file("bad.parquet", done=True, error="boom"), v1_file(done=True)]))
    if soft_fail:
        with pytest.raises(AirflowSkipException):
            gate.run(soft_fail=True)
    else:
        with pytest.raises(ImportFilesFailed, match=r"bad\.parquet") as caught:
            gate.run()
        assert isinstance(caught.value, AirflowFailException)
        assert len(caught.value.job.files) == 2
    assert len(gate.ti.pushed["return_value"]) == 2


def test_allow_failed_files(server: ScriptedServer, gate: Gate) -> None:
    server.v2(v2_job(), v2_job("Completed", files=[v2_file(reason="boom"), v2_file()]))
    assert [file["error_message"] for file in gate.run(allow_failed_files=True)] == ["boom", None]


@pytest.mark.parametrize("soft_fail", [False, True])
def test_unknown_job(server: ScriptedServer, gate: Gate, soft_fail: bool) -> None:
    server.v2(unknown_job())
    expected = AirflowSkipException if soft_fail else ImportJobUnknown
    with pytest.raises(expected, match=r"(?i)not known|expired|skip") as caught:
        gate.run(unknown_job_grace=0.3, soft_fail=soft_fail)
    assert soft_fail or isinstance(caught.value, AirflowFailException)
    assert len(server.to("/v2/vectordb/jobs/import/describe")) >= 2


def test_unknown_then_known(server: ScriptedServer, gate: Gate) -> None:
    server.v2(unknown_job(), unknown_job(status=404), v2_job(), v2_job("Completed"))
    assert gate.run(unknown_job_grace=10)


@pytest.mark.parametrize("soft_fail", [False, True])
@pytest.mark.parametrize(
    "answer",
    [
        Answer({"code": 1800, "message": "user hasn't authenticated"}),
        Answer({"code": 1400, "message": "bad token"}, 401),
        Answer({"code": 1401, "message": "permission deny"}),
        Answer(HTML, 401),
        Answer(HTML, 403),
    ],
)
def test_unauthorized_fails_at_once(server: ScriptedServer, gate: Gate, answer: Answer, soft_fail: bool) -> None:
    server.v2(v2_job(), answer)
    with pytest.raises(ImportApiUnauthorized) as caught:
        gate.run(outage_tolerance=900, unknown_job_grace=900, soft_fail=soft_fail)
    assert isinstance(caught.value, AirflowException)
    assert not isinstance(caught.value, AirflowFailException)


OUTAGES = {
    "500": Answer(HTML, 500),
    "html": Answer(HTML, 200),
    "redirect": Answer(b"", 302, {"Location": "http://127.0.0.1:9/"}),
    "no json": Answer(b"oops"),
    "empty": Answer(b""),
    "other job": v2_job("Completed", jobId="job-2"),
    "no data": Answer({"code": 0}),
    "refused": Answer({"code": 65535, "message": "internal"}),
    "rate code": Answer({"code": 1807, "message": "slow down"}),
    "rate code 8": Answer({"code": 8, "message": "slow down"}),
    "no state": v2_job(state=None),  # type: ignore[arg-type]
    "wrong state": v2_job(state=7),  # type: ignore[arg-type]
    "deep": Answer(b"[" * 100_000),
    "NaN code": Answer(b'{"code": NaN}'),
    "garbage": Answer(b"\0\1\2 no http", how="garbage"),
}


@pytest.mark.parametrize("outage", OUTAGES)
def test_outage_shorter_than_the_tolerance(server: ScriptedServer, gate: Gate, outage: str) -> None:
    server.v2(v2_job(), OUTAGES[outage], OUTAGES[outage], v2_job("Completed"))
    assert gate.run(outage_tolerance=60)


@pytest.mark.parametrize("soft_fail", [False, True])
@pytest.mark.parametrize("mode", ["poke", "deferrable"])
@pytest.mark.parametrize("outage", ["500", "html", "redirect", "refused"])
def test_outage_longer_than_the_tolerance(
    server: ScriptedServer, connect: Connect, mode: str, outage: str, soft_fail: bool
) -> None:
    gate = Gate(mode)
    server.v2(v2_job(), OUTAGES[outage])
    with pytest.raises(ImportApiUnreachable) as caught:
        gate.run(outage_tolerance=0.3, soft_fail=soft_fail)
    assert not isinstance(caught.value, AirflowFailException)
    assert len(server.asked) >= 4


def test_outage_under_reschedule_is_bounded_by_the_timeout(server: ScriptedServer, connect: Connect) -> None:
    server.v2(OUTAGES["500"])
    with pytest.raises(AirflowSensorTimeout):
        Gate("reschedule").run(outage_tolerance=0.1, timeout=1)


@pytest.mark.parametrize(
    "value",
    ["3600", "99999999999999", pytest.param("9" * 400, id="400 digits"), "junk", "-5", "Fri, 31 Dec 9999 23:59:59 GMT"],
)
def test_reschedule_survives_any_retry_after(server: ScriptedServer, connect: Connect, value: str) -> None:
    from airflow.exceptions import AirflowRescheduleException

    connect({"api_version": "v2"})
    server.v2(Answer({"code": 8}, 429, {"Retry-After": value}))
    gate = Gate("reschedule")
    with pytest.raises(AirflowRescheduleException):
        gate.sensor(timeout=86400).execute(gate.context)


@pytest.mark.parametrize("soft_fail", [False, True])
@pytest.mark.parametrize("mode", ["poke", "reschedule"])
def test_sensor_timeout(server: ScriptedServer, connect: Connect, mode: str, soft_fail: bool) -> None:
    server.v2(v2_job())
    with pytest.raises(AirflowSkipException if soft_fail else AirflowSensorTimeout):
        Gate(mode).run(timeout=0.4, soft_fail=soft_fail)


def test_a_long_retry_after_does_not_outlast_the_timeout(server: ScriptedServer, connect: Connect) -> None:
    connect({"api_version": "v2"})
    server.v2(Answer({"code": 8}, 429, {"Retry-After": "11"}))
    began = time.monotonic()
    with pytest.raises((AirflowSensorTimeout, ImportApiUnreachable)):
        Gate("poke").run(timeout=1, outage_tolerance=12)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("soft_fail", [False, True])
def test_deferred_timeout(server: ScriptedServer, connect: Connect, soft_fail: bool) -> None:
    server.v2(v2_job())
    gate = Gate("deferrable")
    sensor = gate.sensor(soft_fail=soft_fail, timeout=33)
    with pytest.raises(TaskDeferred) as deferred:
        sensor.execute(gate.context)
    assert timedelta(seconds=30) < deferred.value.timeout <= timedelta(seconds=33)
    with pytest.raises(AirflowSkipException if soft_fail else AirflowSensorTimeout):
        sensor.resume_execution("__fail__", {"error": "Trigger timeout"}, gate.context)


def test_ended_job_never_defers(server: ScriptedServer, connect: Connect) -> None:
    server.v2(v2_job("Completed"))
    gate = Gate("deferrable")
    assert gate.run()
    assert not gate.deferred


def test_server_down_at_resume_defers_again(server: ScriptedServer, connect: Connect) -> None:
    server.v2(v2_job(), v2_job("Completed"), OUTAGES["500"], v2_job("Completed"))
    gate = Gate("deferrable")
    assert gate.run(outage_tolerance=60)
    assert len(gate.deferred) == 2


def test_record_expired_before_resume(server: ScriptedServer, connect: Connect) -> None:
    server.v2(v2_job(), v2_job("Failed", reason="disk full"), unknown_job())
    with pytest.raises(ImportJobFailed, match="disk full"):
        Gate("deferrable").run(unknown_job_grace=0)
    server.v2(v2_job(), v2_job("Completed"), unknown_job())
    with pytest.raises(ImportJobUnknown):
        Gate("deferrable").run(unknown_job_grace=0)


@pytest.mark.parametrize("word", ["x", "é", "漢", "\U0001f600", '"', "\\"])
def test_event_is_small(server: ScriptedServer, connect: Connect, word: str) -> None:
    files = [v2_file(word * 300 + str(n), "Failed", reason=word * 300) for n in range(10_000)]
    server.v2(v2_job(), v2_job("Failed", reason=word * 5000, collectionName="c" * 255, files=files))
    gate = Gate("deferrable")
    with pytest.raises(ImportJobFailed) as caught:
        gate.run()
    (event,) = gate.events
    assert event.keys() == {"job_id", "verdict", "message"}
    assert all(isinstance(value, str) for value in event.values())
    assert len(json.dumps(event, ensure_ascii=False).encode()) < 4096
    assert len(caught.value.job.files) == 10_000
    assert len(gate.ti.pushed["return_value"]) == 10_000


def test_trigger_row(server: ScriptedServer, connect: Connect) -> None:
    server.v2(v2_job())
    gate = Gate("deferrable")
    with pytest.raises(TaskDeferred) as deferred:
        gate.sensor(job_id=" job-1 ", cluster_id="in01").execute(gate.context)
    trigger = deferred.value.trigger
    path, kwargs = trigger.serialize()
    assert path == "airflow_provider_importprog.triggers.import_progress.ImportProgressTrigger"
    from airflow.models.trigger import Trigger

    encrypt = getattr(Trigger, "encrypt_kwargs", None) or Trigger._encrypt_kwargs
    row = encrypt(kwargs)
    again = ImportProgressTrigger(**Trigger._decrypt_kwargs(row))
    assert again.serialize() == (path, kwargs)
    assert kwargs["job_id"] == JOB
    assert kwargs["cluster_id"] == "in01"
    assert kwargs["importprog_conn_id"] == "importprog_default"
    for text in (json.dumps(kwargs), repr(trigger), repr(deferred.value), str(vars(trigger))):
        assert TOKEN_PASSWORD not in text


def _trigger(**kwargs: Any) -> ImportProgressTrigger:
    defaults = {"job_id": JOB, "cluster_id": None, "importprog_conn_id": "importprog_default", "poke_interval": 0.05}
    return ImportProgressTrigger(**{**defaults, **kwargs})


def test_trigger_sleeps_one_interval_first(server: ScriptedServer, connect: Connect) -> None:
    server.v2(v2_job("Completed"))
    began = time.monotonic()
    event = fire(_trigger(poke_interval=0.4))
    assert time.monotonic() - began >= 0.4
    assert event["verdict"]
    assert event["job_id"] == JOB


def test_trigger_does_not_block_the_loop(server: ScriptedServer, connect: Connect) -> None:
    slow = Answer(v2_job().body, delay=0.3)
    server.v1(Answer(b"x", 404, delay=0.3)).v2(slow, Answer(v2_job("Completed").body, delay=0.3))

    async def scenario() -> float:
        gaps: list[float] = []

        async def heart() -> None:
            while True:
                began = time.monotonic()
                await asyncio.sleep(0.01)
                gaps.append(time.monotonic() - began)

        fire_once = _trigger().run().__anext__()
        await asyncio.sleep(0.2)
        beating = asyncio.create_task(heart())
        await fire_once
        beating.cancel()
        assert len(gaps) > 30
        return sorted(gaps)[-2]

    import aiohttp  # noqa: F401  (its import is not what is measured)

    assert asyncio.run(scenario()) < 0.25


def test_cancelled_trigger_stops(server: ScriptedServer, connect: Connect) -> None:
    server.v2(v2_job())

    async def scenario() -> int:
        task = asyncio.ensure_future(_trigger().run().__anext__())
        await asyncio.sleep(0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        asked = len(server.asked)
        assert asked
        await asyncio.sleep(0.3)
        return len(server.asked) - asked

    assert asyncio.run(scenario()) == 0


def test_many_triggers_share_few_connections(server: ScriptedServer, connect: Connect) -> None:
    server.v2(*[v2_job()] * 100, v2_job("Completed"))

    async def scenario() -> list[Any]:
        return await asyncio.gather(*(_trigger(poke_interval=0.2).run().__anext__() for _ in range(50)))

    assert len(asyncio.run(asyncio.wait_for(scenario(), 20))) == 50
    assert len(server.asked) >= 150
    assert server.connections <= 40


@pytest.mark.parametrize("mode", ["poke", "deferrable"])
def test_progress_lines(
    server: ScriptedServer, connect: Connect, mode: str, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    moves = [v2_job(progress=10)] * 4 + [v2_job(progress=55)] * 5 + [v2_job("Completed")]
    server.v2(*moves)
    gate = Gate(mode)
    with caplog.at_level(logging.INFO):
        gate.run()
    lines = _lines(caplog, capfd)
    assert sum("Waiting for" in line for line in lines) == 1
    assert sum("10 %" in line for line in lines) in ((1,) if mode == "poke" else (1, 2))
    assert sum("55 %" in line for line in lines) == 1


@pytest.mark.parametrize("mode", ["poke", "deferrable"])
def test_warns_once_of_uncommitted(
    server: ScriptedServer, connect: Connect, mode: str, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    server.v2(*[v2_job("Uncommitted")] * 5, v2_job("Completed"))
    with caplog.at_level(logging.INFO):
        Gate(mode).run()
    assert sum("commits" in line for line in _lines(caplog, capfd)) == 1


@pytest.mark.parametrize(
    ("files", "over", "map_index", "warns"),
    [(3, "gate", -1, True), (2, "gate", -1, False), (3, "lists", -1, False), (3, "gate", 0, False)],
)
def test_warns_of_more_files_than_airflow_maps_over(
    server: ScriptedServer,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: Any,
    files: int,
    over: str,
    map_index: int,
    warns: bool,
) -> None:
    from airflow.providers.common.compat.sdk import task

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
    with caplog.at_level(logging.INFO):
        assert len(sensor.execute(gate.context)) == files
    warned = [line for line in _lines(caplog, capfd) if "max_map_length" in line]
    assert len(warned) == warns
    assert all("A task maps over the 3 files" in line and "more than 2" in line for line in warned)


def _lines(caplog: pytest.LogCaptureFixture, capfd: Any) -> list[str]:
    """Return log lines wherever this Airflow puts them: the logging module, or structlog's standard output."""
    captured = capfd.readouterr()
    printed = [*captured.out.splitlines(), *captured.err.splitlines()]
    logged = [record.getMessage() for record in caplog.records]
    return logged if any("Waiting for" in line for line in logged) else printed


@pytest.mark.parametrize(
    "wrong",
    [
        {"job_id": None},
        {"job_id": ""},
        {"job_id": "  "},
        {"job_id": True},
        {"job_id": 1.5},
        {"job_id": ["a"]},
        {"wait_for": "done"},
        {"wait_for": None},
        {"wait_for": []},
        *({name: value} for name in ("outage_tolerance", "unknown_job_grace", "poke_interval", "timeout")
          for value in (-1, "5")),
        *({name: value} for name in ("outage_tolerance", "unknown_job_grace") for value in (float("nan"), True)),
        pytest.param({"outage_tolerance": 10**400}, id="huge tolerance"),
        {"allow_failed_files": "false"},
        {"deferrable": "false"},
    ],
    ids=str,
)  # fmt: skip
def test_refused_at_parsing(wrong: dict[str, Any]) -> None:
    with pytest.raises((AirflowException, ValueError, TypeError)):
        ImportProgressSensor(**{"task_id": "gate", "job_id": JOB, **wrong})


@pytest.mark.parametrize("job_id", ["None", None, "", " "])
def test_refused_after_rendering(server: ScriptedServer, gate: Gate, job_id: Any) -> None:
    sensor = gate.sensor(job_id="{{ ti.xcom_pull('x') }}", outage_tolerance=900)
    sensor.job_id = job_id
    with pytest.raises((AirflowException, ValueError), match="job_id"):
        sensor.execute(gate.context)
    assert not server.asked


def _dag(**kwargs: Any) -> Any:
    from datetime import datetime, timezone

    from airflow.providers.common.compat.sdk import DAG

    return DAG("d", schedule=None, start_date=datetime(2024, 1, 1, tzinfo=timezone.utc), **kwargs)


def test_in_a_dag() -> None:
    from airflow.providers.common.compat.sdk import task

    with _dag(default_args={"poke_interval": 7, "timeout": 70, "outage_tolerance": 5}):

        @task
        def submit() -> str:
            return JOB

        inherits = ImportProgressSensor(task_id="a", job_id=submit())
        own = ImportProgressSensor(task_id="b", job_id="{{ params.x }}", poke_interval=3, timeout=timedelta(hours=1))
        mapped = ImportProgressSensor.partial(task_id="c", allow_failed_files=True).expand(job_id=["a", "b"])
        mapped_over = ImportProgressSensor.partial(task_id="e").expand(job_id=submit())
    assert (inherits.poke_interval, inherits.timeout, inherits.outage_tolerance) == (7, 70, 5)
    assert (own.poke_interval, own.timeout) == (3, 3600)
    assert inherits.upstream_task_ids == {"submit"}
    assert mapped.task_id == "c"
    assert mapped_over.upstream_task_ids


def test_defaults() -> None:
    sensor = ImportProgressSensor(task_id="a", job_id=JOB)
    assert (sensor.poke_interval, sensor.timeout) == (30, 86400)
    assert (sensor.outage_tolerance, sensor.unknown_job_grace) == (900, 60)
    assert (sensor.wait_for, sensor.allow_failed_files, sensor.cluster_id) == ("completed", False, None)
    assert sensor.importprog_conn_id == "importprog_default"
    assert tuple(sensor.template_fields) == ("job_id", "cluster_id", "importprog_conn_id")


@pytest.mark.parametrize("mode", ["poke", "deferrable"])
def test_unreachable_hands_on_what_is_known(server: ScriptedServer, connect: Connect, mode: str) -> None:
    server.v2(v2_job(), OUTAGES["500"])
    gate = Gate(mode)
    with pytest.raises(ImportApiUnreachable) as caught:
        gate.run(outage_tolerance=0.2)
    assert caught.value.job.job_id == JOB
    assert gate.ti.pushed["import_job"]["job_id"] == JOB
    assert mode == "deferrable" or gate.ti.pushed["return_value"]  # a deferral keeps no files


def test_secrets_stay_secret(server: ScriptedServer, gate: Gate, caplog: pytest.LogCaptureFixture, capfd: Any) -> None:
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


class TestBothDialects:
    """A server that serves v1 too, which cannot show that an import awaits its commit."""

    def test_a_gate_that_waits_for_uncommitted_asks_v2(self, gate: Gate, server: ScriptedServer) -> None:
        server.v1(v1_job()).v2(v2_job("Importing"), v2_job("Uncommitted", 99))
        assert gate.run(wait_for="uncommitted")[0]["file_name"] == "[a.parquet]"
        assert server.to(V1_GET) == []

    def test_a_connection_that_speaks_v1_alone_is_refused(
        self, gate: Gate, server: ScriptedServer, connect: Connect
    ) -> None:
        connect({"api_version": "v1"})
        server.v1(v1_job()).v2(v2_job("Uncommitted", 99))
        with pytest.raises(ImportSettingInvalid, match="uses v1, which does not show that an import job is uncommit"):
            gate.run(wait_for="uncommitted")
        assert server.asked == []
