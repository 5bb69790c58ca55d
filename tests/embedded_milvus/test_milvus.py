from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_importprog.emulator import ApiError, Emulator
from tests.embedded_milvus import server as milvus_server
from tests.emulator.client import V1, V2, create, get, post, v1_progress, wait

pytestmark = pytest.mark.milvus


def rows_counted(client: Any, collection: str) -> int:
    return int(client.get_collection_stats(collection)["row_count"])


def test_every_row_is_in(
    milvus_emulator: Emulator, milvus_client: Any, milvus_collection: str, rows_file: Callable[..., str]
) -> None:
    files = [rows_file("a.json", 3000), rows_file("b.json", 2000)]
    job = wait(milvus_emulator.url, create(milvus_emulator.url, *files, collection=milvus_collection))
    assert (job["state"], job["progress"]) == ("Completed", 100)
    assert [(file["fileName"], file["importedRows"]) for file in job["details"]] == [
        (f"[{files[0]}]", 3000),
        (f"[{files[1]}]", 2000),
    ]
    assert job["fileSize"] == sum(Path(file).stat().st_size for file in files)
    assert job["completeTime"] == max(file["completeTime"] for file in job["details"])
    assert rows_counted(milvus_client, milvus_collection) == job["importedRows"] == 5000
    count: list[dict[str, int]] = []
    for _ in range(100):  # a collection that was loaded before takes a moment to see new rows
        count = milvus_client.query(milvus_collection, "", output_fields=["count(*)"])
        if count[0]["count(*)"] == 5000:
            break
        time.sleep(0.2)
    assert count[0]["count(*)"] == 5000


def test_files_fail_for_milvuss_own_reasons(
    milvus_emulator: Emulator, milvus_client: Any, milvus_collection: str, rows_file: Callable[..., str]
) -> None:
    good, wrong = rows_file("good.json", 1000), rows_file("wrong.json", 10, dim=4)
    missing = str(Path(good).with_name("missing.json"))
    job_id = create(milvus_emulator.url, good, wrong, missing, collection=milvus_collection)
    job = wait(milvus_emulator.url, job_id)
    assert job["state"] == "Failed"
    assert [file["state"] for file in job["details"]] == ["Completed", "Failed", "Failed"]
    assert "array size 4 doesn't equal to vector dimension 8" in job["details"][1]["reason"]
    assert "no such file or directory" in job["details"][2]["reason"]
    assert job["reason"] == job["details"][1]["reason"]
    assert rows_counted(milvus_client, milvus_collection) == 1000
    assert v1_progress(milvus_emulator.url, job_id)["errorMessage"] == job["reason"]


def test_v1_imports_a_file_url(
    milvus_emulator: Emulator, milvus_collection: str, rows_file: Callable[..., str]
) -> None:
    object_url = Path(rows_file("a.json", 100)).as_uri()
    answer = post(milvus_emulator.url, V1, collectionName=milvus_collection, objectUrl=object_url).json()
    assert answer["code"] == 200
    wait(milvus_emulator.url, answer["data"]["jobId"])
    job = v1_progress(milvus_emulator.url, answer["data"]["jobId"])
    assert job["completeTime"] is not None
    assert job["details"][0]["fileName"] == object_url


def test_a_numpy_set_is_one_entry(
    milvus_emulator: Emulator, milvus_client: Any, milvus_collection: str, tmp_path: Path
) -> None:
    numpy = pytest.importorskip("numpy")
    numpy.save(tmp_path / "id.npy", numpy.arange(500))
    numpy.save(tmp_path / "vector.npy", numpy.random.rand(500, 8).astype("float32"))
    files = [[str(tmp_path / "id.npy"), str(tmp_path / "vector.npy")]]
    answer = post(milvus_emulator.url, f"{V2}/create", collectionName=milvus_collection, files=files).json()
    job = wait(milvus_emulator.url, answer["data"]["jobId"])
    assert (job["state"], job["importedRows"], len(job["details"])) == ("Completed", 500, 1), job


def test_what_milvus_2_3_cannot_do(milvus_emulator: Emulator, milvus_collection: str) -> None:
    url = milvus_emulator.url
    body: dict[str, Any] = {"files": [["a.json"]]}
    nowhere = post(url, f"{V2}/create", collectionName="nowhere", **body).json()
    assert nowhere["code"] == 100
    assert "nowhere" in nowhere["message"]
    partition = post(url, f"{V2}/create", collectionName=milvus_collection, partitionName="p9", **body).json()
    assert "p9" in partition["message"]
    two_phase: dict[str, Any] = {"options": {"auto_commit": "false"}, "collectionName": milvus_collection}
    assert "no two-phase import" in post(url, f"{V2}/create", **body, **two_phase).json()["message"]
    with pytest.raises(ApiError, match="simulated"):
        milvus_emulator.fail_file("*")


def test_it_shows_where_milvus_is(milvus_emulator: Emulator) -> None:
    shown = get(milvus_emulator.url, "/emulator").json()["data"]
    assert shown["backend"] == "milvus"
    assert shown["milvusUri"].startswith("http://127.0.0.1:")
    assert shown["milvusVersion"].startswith("v2.3.5")


@contextmanager
def running(*options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The emulator as a command, and the line it printed when ready."""
    command = [sys.executable, "-m", "tests.embedded_milvus", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline()
        finally:
            process.kill()


def milvus_processes(data_dir: Path) -> list[str]:
    """Processes whose working directory is the data directory: only Milvus's."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cwd").resolve() == data_dir:
                found.append(entry.name)
        except OSError:
            continue
    return found


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_it_leaves_no_process_behind(number: signal.Signals, tmp_path: Path) -> None:
    data_dir = tmp_path / "a dir with 'odd': chars # %41 ü"
    with running("--data-dir", str(data_dir)) as (process, line):
        assert "milvusUri" in line
        assert str(data_dir) in line
        assert len(milvus_processes(data_dir)) == 1
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
        assert process.returncode == (0 if number != signal.SIGKILL else -9)
        assert errors == ""
    for _ in range(50):
        if not milvus_processes(data_dir):
            break
        time.sleep(0.1)
    assert not milvus_processes(data_dir)


def test_a_signal_while_it_starts(tmp_path: Path) -> None:
    data_dir = tmp_path / "a dir with 'odd': \"chars\" # %41 ü"
    command = [sys.executable, "-m", "tests.embedded_milvus", "--data-dir", str(data_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not (data_dir / "milvus.log").exists() and process.poll() is None:
            time.sleep(0.02)
        process.terminate()
        output, errors = process.communicate(timeout=30)
    assert (process.returncode, output, errors) == (0, "", "")
    assert not milvus_processes(data_dir)


def test_binaries_are_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("milvus")
    small = [packed for packed in milvus_server.packed_files() if packed.stat().st_size < 100_000]
    (tmp_path / "milvus.lzma").write_bytes(small[0].read_bytes())
    monkeypatch.setattr(milvus_server, "packed_files", lambda: [*small, tmp_path / "milvus.lzma"])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    binaries = milvus_server.unpacked_binaries(tmp_path / "fallback")
    assert binaries.is_relative_to(tmp_path / "cache")
    made = (binaries / "milvus").stat()
    assert milvus_server.unpacked_binaries(tmp_path / "fallback") == binaries
    assert (binaries / "milvus").stat().st_ino == made.st_ino
    (binaries / "milvus").write_bytes(b"half")
    assert milvus_server.unpacked_binaries(tmp_path / "fallback") == binaries
    assert (binaries / "milvus").stat().st_size == made.st_size
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert milvus_server.unpacked_binaries(tmp_path / "fallback").is_relative_to(tmp_path / "fallback")


def test_directories_of_killed_emulators_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name, age in (("abandoned", 3600), ("in_use", 3600), ("new", 0)):
        lock = tmp_path / f"importprog-milvus-{name}" / "emulator.lock"
        lock.parent.mkdir()
        lock.write_text("")
        os.utime(lock, (time.time() - age, time.time() - age))
    with (tmp_path / "importprog-milvus-in_use" / "emulator.lock").open("r+") as held:
        assert milvus_server.locked(held)
        milvus_server.remove_abandoned_directories()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["importprog-milvus-in_use", "importprog-milvus-new"]
