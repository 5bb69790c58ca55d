from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from airflow_provider_importprog.emulator import Emulator, milvus_server
from airflow_provider_importprog.emulator.__main__ import main
from tests.emulator.client import V1, get


def test_it_serves_until_it_is_told_to_end() -> None:
    command = [sys.executable, "-m", "airflow_provider_importprog.emulator", "--port", "0"]
    command += ["--backend", "simulated", "--fail-file", "*bad*=broken=yes", "--no-idempotency"]
    environment = {**os.environ, "IMPORTPROG_EMULATOR_TOKEN": "root:s3cret"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        url = line.split("at ")[1].split(",")[0]
        assert get(url, f"{V1}/list").status_code == 401
        assert get(url, f"{V1}/list", "root:s3cret").status_code == 200
        assert get(url, "/emulator", "root:s3cret").json()["data"]["idempotency"] is False
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=10)
    assert process.returncode == 0
    assert errors == ""
    assert "s3cret" not in line + output


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command says on stderr as it ends with status 2."""
    assert main(["--port", "0", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


@pytest.fixture(autouse=True)
def keep_signals() -> object:
    """`main` sets signal handlers, which are the test runner's again afterwards."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def no_milvus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test if Milvus gets as far as being launched."""
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("Milvus was launched"))
    monkeypatch.setattr(milvus_server, "check_requirements", lambda: None)


@pytest.mark.usefixtures("no_milvus")
def test_the_port_is_taken(capsys: pytest.CaptureFixture[str], emulator: Emulator) -> None:
    port = emulator.url.rsplit(":", 1)[1]
    assert f"port {port}" in run(capsys, "--port", port)
    assert f"port {port}" in run(capsys, "--milvus-port", port)


@pytest.mark.usefixtures("no_milvus")
@pytest.mark.parametrize("port", ["65536", "-1"])
def test_no_such_port(capsys: pytest.CaptureFixture[str], port: str) -> None:
    assert port in run(capsys, "--backend", "simulated", "--port", port)
    assert port in run(capsys, "--milvus-port", port)


@pytest.mark.usefixtures("no_milvus")
def test_the_data_directory_cannot_be_written(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in run(capsys, "--data-dir", str(tmp_path / "file"))


@pytest.mark.usefixtures("no_milvus")
def test_the_data_directory_is_in_use(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with (tmp_path / "emulator.lock").open("w") as lock:
        assert milvus_server.locked(lock)
        assert "in use" in run(capsys, "--data-dir", str(tmp_path))


def test_another_platform(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert "aarch64: use --backend simulated" in run(capsys)


def test_the_extra_is_missing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'airflow-provider-importprog[emulator]'" in run(capsys)


def test_nonsense_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--duration", "soon"], ["--duration", "-1"], ["--backend", "oracle"]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
    assert "--duration" in capsys.readouterr().err


def test_simulated_needs_nothing_of_milvus() -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('milvus', 'pymilvus')))\n"
        "from airflow_provider_importprog.emulator import Emulator\n"
        "assert 'aiohttp' not in sys.modules and 'airflow' not in sys.modules\n"
        "with Emulator(): pass\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
