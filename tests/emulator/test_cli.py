from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from airflow_provider_importprog.emulator import PROFILES, Emulator, EmulatorError
from airflow_provider_importprog.emulator.__main__ import main
from tests.emulator.client import V1, get


def test_it_serves_until_it_is_told_to_end() -> None:
    command = [sys.executable, "-m", "airflow_provider_importprog.emulator", "--port", "0"]
    command += ["--backend", "simulated", "--fail-file", "*bad*=broken=yes", "--no-idempotency"]
    command += ["--profile", "zilliz-cloud", "--setting", "job_limit=7", "--setting", "file_names=sent"]
    command += ["--retention", "forever"]
    environment = {**os.environ, "IMPORTPROG_EMULATOR_TOKEN": "root:s3cret"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        url = line.split("at ")[1].split(",")[0]
        assert get(url, f"{V1}/list").status_code == 401
        assert get(url, f"{V1}/list", "root:s3cret").status_code == 200
        shown = get(url, "/emulator", "root:s3cret").json()["data"]
        assert shown["idempotency"] is False
        wanted = replace(PROFILES["zilliz-cloud"], job_limit=7, file_names="sent", retention=None)
        assert shown["profile"] == {**vars(wanted), "dialects": ["v1", "v2"]}
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


@pytest.mark.parametrize("backend", ["simulated", "lite"])
def test_the_port_cannot_be_had(capsys: pytest.CaptureFixture[str], emulator: Emulator, backend: str) -> None:
    port = emulator.url.rsplit(":", 1)[1]
    for wrong in (port, "65536", "-1"):
        assert f"port {wrong}" in run(capsys, "--backend", backend, "--port", wrong)


def test_the_data_directory_cannot_be_written(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = run(capsys, "--backend", "lite", "--data-dir", str(tmp_path / "file"))
    assert f"{tmp_path / 'file'} (" in said


def test_the_data_directory_is_in_use(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with Emulator("lite", data_dir=tmp_path):
        assert "in use" in run(capsys, "--backend", "lite", "--data-dir", str(tmp_path))


def test_the_extra_is_missing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'airflow-provider-importprog[emulator]'" in run(capsys, "--backend", "lite")


def test_the_old_backend_is_named_no_more() -> None:
    with pytest.raises(EmulatorError, match="use 'lite'"):
        Emulator("milvus")  # type: ignore[arg-type]


def test_nonsense_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["--duration", "soon"],
        ["--duration", "-1"],
        ["--backend", "oracle"],
        ["--setting", "colour=red"],
        ["--profile", "milvus-9"],
        ["--retention", "long"],
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
    assert "--duration" in capsys.readouterr().err
    assert "job_limit" in run(capsys, "--backend", "simulated", "--setting", "job_limit=-1")


def test_simulated_needs_no_extra() -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('milvus_lite', 'numpy', 'pyarrow')))\n"
        "from airflow_provider_importprog.emulator import Emulator\n"
        "assert 'aiohttp' not in sys.modules and 'airflow' not in sys.modules\n"
        "with Emulator(): pass\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
