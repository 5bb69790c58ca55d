"""Real imports by Milvus Lite: what goes in, what is refused and why, and what a restart keeps."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_importprog.emulator import ApiError, Emulator, EmulatorError
from tests.emulator.client import V1, V2, count, create, describe, get, post, v1_progress, wait
from tests.emulator.fixtures import DIM

pytest.importorskip("milvus_lite")

COLLECTIONS, ENTITIES = "/v2/vectordb/collections", "/v2/vectordb/entities"
TWO_PHASE = {"auto_commit": "false"}
FIELDS: list[dict[str, Any]] = [
    {"fieldName": "id", "dataType": "Int64", "isPrimary": True},
    {"fieldName": "vector", "dataType": "FloatVector", "elementTypeParams": {"dim": str(DIM)}},
    {"fieldName": "title", "dataType": "VarChar", "elementTypeParams": {"max_length": "20"}, "nullable": True},
    {"fieldName": "score", "dataType": "Double"},
    {"fieldName": "good", "dataType": "Bool"},
    {"fieldName": "tags", "dataType": "Array", "elementDataType": "VarChar"},
    {"fieldName": "more", "dataType": "JSON", "nullable": True},
]
ROWS = [
    {"id": 1, "vector": [0.5] * DIM, "title": "a,b", "score": 0.25, "good": True, "tags": ["x"], "more": {"k": 1}},
    {"id": 2, "vector": [1.0] * DIM, "title": None, "score": -1.0, "good": False, "tags": [], "more": None},
]


@pytest.fixture(scope="module")
def lite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    with Emulator("lite", data_dir=tmp_path_factory.mktemp("lite") / "with 'odd' \"chars\", # %41 ü") as emulator:
        yield emulator


@pytest.fixture
def collection(lite: Emulator) -> Iterator[str]:
    """An empty collection with an int64 key `id`, a float vector `vector` of `DIM`, and dynamic fields."""
    with made(lite, "articles", dimension=DIM) as name:
        yield name


class made:
    """A collection that lives as long as its ``with`` block."""

    def __init__(self, emulator: Emulator, name: str, **body: Any) -> None:
        self._url, self._name = emulator.url, name
        assert post(self._url, f"{COLLECTIONS}/create", collectionName=name, **body).json()["code"] == 0

    def __enter__(self) -> str:
        return self._name

    def __exit__(self, *_: object) -> None:
        assert post(self._url, f"{COLLECTIONS}/drop", collectionName=self._name).json()["code"] == 0


def rows_in(url: str, name: str) -> list[dict[str, Any]]:
    answer = post(url, f"{ENTITIES}/query", collectionName=name, outputFields=["*"], limit=10).json()
    return sorted(answer["data"], key=lambda row: row["id"])


def write_json(path: Path) -> list[Path]:
    path.with_suffix(".json").write_text(json.dumps(ROWS))
    return [path.with_suffix(".json")]


def write_csv(path: Path) -> list[Path]:
    path = path.with_suffix(".csv")
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(ROWS[0])
        for row in ROWS:
            cells = [json.dumps(value) if isinstance(value, (list, dict)) else value for value in row.values()]
            writer.writerow("NULL" if cell is None else cell for cell in cells)
    return [path]


def write_parquet(path: Path) -> list[Path]:
    import pyarrow
    from pyarrow import parquet

    rows = [{**row, "more": row["more"] and json.dumps(row["more"])} for row in ROWS]
    parquet.write_table(pyarrow.Table.from_pylist(rows), path.with_suffix(".parquet"))
    return [path.with_suffix(".parquet")]


@pytest.mark.parametrize("write", [write_json, write_csv, write_parquet])
def test_every_kind_of_field_from_each_format(
    lite: Emulator, write: Callable[[Path], list[Path]], tmp_path: Path
) -> None:
    files = [[str(file) for file in write(tmp_path / "rows")]]
    with made(lite, "typed", schema={"fields": FIELDS}) as name:
        options = {"sep": ";", "nullkey": "NULL"}
        answer = post(lite.url, f"{V2}/create", collectionName=name, files=files, options=options).json()
        job = wait(lite.url, answer["data"]["jobId"])
        assert (job["state"], job["importedRows"]) == ("Completed", 2), job
        found = rows_in(lite.url, name)
    for row in found:
        row["more"] = json.loads(row["more"]) if isinstance(row["more"], str) else row["more"]
    assert found == ROWS


def test_a_numpy_set_is_one_entry(lite: Emulator, collection: str, tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    numpy.save(tmp_path / "id.npy", numpy.arange(2500))
    numpy.save(tmp_path / "vector.npy", numpy.random.rand(2500, DIM).astype("float32"))
    files = [[str(tmp_path / "id.npy"), str(tmp_path / "vector.npy")]]
    answer = post(lite.url, f"{V2}/create", collectionName=collection, files=files).json()
    job = wait(lite.url, answer["data"]["jobId"])
    assert (job["state"], job["importedRows"], len(job["details"])) == ("Completed", 2500, 1), job
    assert count(lite.url, collection) == 2500


def test_sparse_vectors_dynamic_fields_and_keys_of_its_own(lite: Emulator, tmp_path: Path) -> None:
    fields = [
        {"fieldName": "id", "dataType": "Int64", "isPrimary": True},
        {"fieldName": "words", "dataType": "SparseFloatVector"},
    ]
    file = tmp_path / "sparse.json"
    rows = [
        {"words": {"7": 0.5}, "year": 2024},
        {"words": {"indices": [7, 9], "values": [0.5, 1]}, "$meta": '{"year": 2025}'},
    ]
    file.write_text(json.dumps({"rows": rows}))
    schema = {"fields": fields, "autoID": True, "enableDynamicField": True}
    with made(lite, "sparse", schema=schema) as name:
        job = wait(lite.url, create(lite.url, str(file), collection=name))
        assert job["state"] == "Completed", job
        body: dict[str, Any] = {"collectionName": name, "filter": "year == 2025", "outputFields": ["year"]}
        assert [row["year"] for row in post(lite.url, f"{ENTITIES}/query", **body).json()["data"]] == [2025]
        file.write_text(json.dumps([{"id": 1, "words": {"7": 0.5}}]))
        job = wait(lite.url, create(lite.url, str(file), collection=name))
        assert "the primary key 'id' is auto-generated" in job["reason"]


def test_every_row_is_in_and_can_be_searched(lite: Emulator, collection: str, rows_file: Callable[..., str]) -> None:
    files = [rows_file("a.json", 3000), rows_file("b.json", 2000)]
    job = wait(lite.url, create(lite.url, *files, collection=collection))
    assert (job["state"], job["progress"]) == ("Completed", 100)
    assert [(file["fileName"], file["importedRows"]) for file in job["details"]] == [
        (f"[{files[0]}]", 3000),
        (f"[{files[1]}]", 2000),
    ]
    assert job["fileSize"] == sum(Path(file).stat().st_size for file in files)
    assert count(lite.url, collection) == job["importedRows"] == 5000
    body: dict[str, Any] = {"collectionName": collection, "data": [[0.5] * DIM], "limit": 3, "outputFields": ["id"]}
    assert len(post(lite.url, f"{ENTITIES}/search", **body).json()["data"]) == 3
    with lite.engine() as engine:
        assert len(engine.get_collection(collection).search([[0.5] * DIM], top_k=7)[0]) == 7
    assert post(lite.url, f"{COLLECTIONS}/refresh_load", collectionName=collection).json()["code"] == 0


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("dim.json", [{"id": 1, "vector": [0.5] * 4}], "row 0: vector field 'vector' expected dim 8, got 4"),
        ("type.json", [{"id": "x", "vector": [0.5] * DIM}], "row 0: field 'id' value 'x' does not match dtype"),
        ("field.json", [{"id": 1}], "row 0: vector field 'vector' missing"),
        ("row.json", [7], "row 0 is not an object"),
        ("root.json", {"row": []}, "the root must be a list of rows"),
        ("half.json", '[{"id": 1', "invalid JSON"),
        ("nan.json", '[{"id": 1, "vector": [NaN]}]', "NaN is not valid JSON"),
        ("sparse.csv", 'id,vector\n1,"[1]"\n2\n', "row 1 has 1 values, and the header 2"),
        ("type.csv", "id,vector\nx,1\n", "row 0: field 'id' value 'x' is no INT64"),
        ("header.csv", "id,id\n1,1\n", "must name each column once"),
        ("rows.parquet", "PAR0", "invalid Parquet"),
        ("vector.npy", "no", "invalid NumPy file"),
        ("rows.txt", "id", "unexpected file type"),
    ],
)
def test_files_fail_for_a_reason(
    lite: Emulator, collection: str, rows_file: Callable[..., str], tmp_path: Path, name: str, content: Any, reason: str
) -> None:
    good, bad, missing = rows_file("good.json", 1500), tmp_path / name, str(tmp_path / "missing.json")
    bad.write_text(content if isinstance(content, str) else json.dumps(content))
    job_id = create(lite.url, good, str(bad), missing, collection=collection)
    job = wait(lite.url, job_id)
    assert job["state"] == "Failed"
    assert reason in job["reason"]
    assert str(bad) in job["reason"]
    # As Milvus does: each file that is not completed gets the job's reason, and no row of the job is there.
    assert [file["state"] for file in job["details"]] == ["Completed", "Failed", "Failed"]
    assert [file.get("reason") for file in job["details"]] == [None, job["reason"], job["reason"]]
    assert v1_progress(lite.url, job_id)["errorMessage"] == job["reason"]
    assert count(lite.url, collection) == 0


def test_numpy_files_of_different_lengths_and_no_files(lite: Emulator, collection: str, tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    numpy.save(tmp_path / "id.npy", numpy.arange(3))
    numpy.save(tmp_path / "vector.npy", numpy.zeros((2, DIM)))
    paths = [str(tmp_path / "id.npy"), str(tmp_path / "vector.npy")]
    answer = post(lite.url, f"{V2}/create", collectionName=collection, files=[paths]).json()
    assert "different numbers of rows" in wait(lite.url, answer["data"]["jobId"])["reason"]
    job = wait(lite.url, create(lite.url, str(tmp_path / "missing.json"), collection=collection))
    assert "no such file" in job["reason"]


def test_a_row_far_into_a_file(lite: Emulator, collection: str, tmp_path: Path) -> None:
    rows = [{"id": number, "vector": [0.5] * (4 if number == 2345 else DIM)} for number in range(3000)]
    (tmp_path / "late.json").write_text(json.dumps(rows))
    job = wait(lite.url, create(lite.url, str(tmp_path / "late.json"), collection=collection))
    assert "row 2345: vector field 'vector' expected dim 8, got 4" in job["reason"]


def test_a_file_fails_and_the_others_are_imported(
    lite: Emulator, collection: str, rows_file: Callable[..., str]
) -> None:
    lite.use_profile(partial_success=True)
    files = [rows_file("good.json", 1500), rows_file("bad.json", 1200, dim=4), rows_file("also.json", 10)]
    job = wait(lite.url, create(lite.url, *files, collection=collection))
    lite.use_profile("all")
    assert job["state"] == "Completed"
    assert [file["state"] for file in job["details"]] == ["Completed", "Failed", "Completed"]
    assert count(lite.url, collection) == job["importedRows"] == 1510


def test_progress_goes_with_the_slices(lite: Emulator, collection: str, rows_file: Callable[..., str]) -> None:
    seen = set()
    job_id = create(lite.url, rows_file("a.json", 20_000), collection=collection)
    while (job := describe(lite.url, job_id))["state"] != "Completed":
        assert job["state"] in ("Pending", "Importing")
        assert count(lite.url, collection) in (0, 20_000)
        seen.add(job["importedRows"])
        assert job["totalRows"] in (0, 20_000)
    assert all(rows % 1000 == 0 for rows in seen)
    assert len(seen) > 2


def test_two_phases_for_real(lite: Emulator, collection: str, rows_file: Callable[..., str]) -> None:
    file = rows_file("a.json", 1500)
    job_ids = [create(lite.url, file, collection=collection, options=TWO_PHASE) for _ in range(2)]
    for job_id in job_ids:
        job = wait(lite.url, job_id, states=["Uncommitted"])
        assert (job["progress"], job["importedRows"], count(lite.url, collection)) == (99, 1500, 0)
    for _ in range(2):
        assert post(lite.url, f"{V2}/abort", jobId=job_ids[0]).json()["code"] == 0
    aborted = describe(lite.url, job_ids[0])
    assert (aborted["state"], aborted["reason"], count(lite.url, collection)) == ("Failed", "aborted by user", 0)
    assert post(lite.url, f"{V2}/commit", jobId=job_ids[0]).json()["code"] == 2100
    Path(file).unlink()  # its rows are with the server
    for _ in range(2):
        assert post(lite.url, f"{V2}/commit", jobId=job_ids[1]).json()["code"] == 0
    wait(lite.url, job_ids[1])
    assert count(lite.url, collection) == 1500
    assert post(lite.url, f"{V2}/commit", jobId=job_ids[1]).json()["code"] == 0
    assert post(lite.url, f"{V2}/abort", jobId=job_ids[1]).json()["code"] == 2100
    staging = Path(lite.describe()["dataDir"]) / "staging"
    assert not list(staging.iterdir())


def test_an_import_is_aborted_before_it_has_begun(
    lite: Emulator, collection: str, rows_file: Callable[..., str]
) -> None:
    job_id = ""
    with lite.engine():  # no import goes on
        job_id = start_import(lite, collection, rows_file("a.json", 3000))
        lite.abort(job_id)
    assert describe(lite.url, job_id)["reason"] == "aborted by user"
    assert count(lite.url, collection) == 0


def start_import(lite: Emulator, collection: str, file: str) -> str:
    """Create a job while this thread holds the engine, which only this thread may use then."""
    from airflow_provider_importprog.emulator.backend import ImportRequest

    return lite._backend.create(ImportRequest(collection, ((file,),), options=TWO_PHASE))


def test_what_is_wrong_with_a_request(lite: Emulator, collection: str, rows_file: Callable[..., str]) -> None:
    url, file = lite.url, rows_file("a.json", 1)

    def error(path: str, **body: Any) -> tuple[int, str]:
        answer = post(url, path, **body).json()
        return answer["code"], answer.get("message", "")

    wanted: dict[str, Any] = {"collectionName": collection, "files": [[file]]}
    assert error(f"{V2}/create", **{**wanted, "collectionName": "nowhere"})[0] == 100
    assert error(f"{V2}/create", **wanted, dbName="nowhere")[0] == 800
    assert error(f"{V2}/create", **wanted, dbName="../x")[0] == 800
    assert "p9" in error(f"{V2}/create", **wanted, partitionName="p9")[1]
    assert "already exists" in error(f"{COLLECTIONS}/create", collectionName=collection, dimension=8)[1]
    assert "dim > 0" in error(f"{COLLECTIONS}/create", collectionName="new")[1]
    assert (
        "BinaryVector"
        in error(
            f"{COLLECTIONS}/create",
            collectionName="new",
            schema={"fields": [{"fieldName": "v", "dataType": "BinaryVector"}]},
        )[1]
    )
    assert error(f"{COLLECTIONS}/create", collectionName="new", schema={})[0] == 1802
    assert error(f"{ENTITIES}/query", collectionName=collection, filter="id ==")[0] == 1100
    with pytest.raises(ApiError, match="use the simulated one"):
        lite.fail_file("*")
    with pytest.raises(EmulatorError, match="use Emulator\\('lite'\\)"):
        Emulator().engine()


def test_v1_imports_a_file_url_into_another_database(lite: Emulator, rows_file: Callable[..., str]) -> None:
    post(lite.url, f"{COLLECTIONS}/create", dbName="archive", collectionName="old", dimension=DIM)
    answer = post(
        lite.url, V1, dbName="archive", collectionName="old", objectUrl=Path(rows_file("a b.json", 100)).as_uri()
    ).json()
    wait(lite.url, answer["data"]["jobId"])
    assert v1_progress(lite.url, answer["data"]["jobId"])["completeTime"] is not None
    body: dict[str, Any] = {"collectionName": "old", "dbName": "archive", "outputFields": ["count(*)"]}
    assert post(lite.url, f"{ENTITIES}/query", **body).json()["data"] == [{"count(*)": 100}]


def test_it_shows_where_its_data_is(lite: Emulator) -> None:
    shown = get(lite.url, "/emulator").json()["data"]
    assert (shown["backend"], Path(shown["dataDir"]).is_dir()) == ("lite", True)
    assert shown["milvusLiteVersion"].startswith("3.")


def test_a_restart_keeps_rows_jobs_and_what_is_uncommitted(tmp_path: Path, rows_file: Callable[..., str]) -> None:
    file = rows_file("a.json", 1500)
    with Emulator("lite", data_dir=tmp_path / "data") as emulator:
        post(emulator.url, f"{COLLECTIONS}/create", collectionName="c", dimension=DIM)
        done = wait(emulator.url, create(emulator.url, file, collection="c"))
        staged = create(emulator.url, rows_file("b.json", 700), collection="c", options=TWO_PHASE)
        wait(emulator.url, staged, states=["Uncommitted"])
    with Emulator("lite", data_dir=tmp_path / "data") as emulator:
        assert describe(emulator.url, done["jobId"]) == done
        assert count(emulator.url, "c") == 1500
        assert post(emulator.url, f"{V2}/commit", jobId=staged).json()["code"] == 0
        wait(emulator.url, staged)
        assert count(emulator.url, "c") == 2200
    (tmp_path / "data" / "jobs.json").write_text("[{}]")
    with pytest.raises(EmulatorError, match=r"jobs\.json is not what an emulator wrote"):
        Emulator("lite", data_dir=tmp_path / "data").start()


def test_a_commit_that_was_cut_off_goes_on_and_doubles_nothing(tmp_path: Path) -> None:
    data_dir, file = tmp_path / "data", tmp_path / "rows.json"
    file.write_text(json.dumps([{"vector": [0.5] * DIM} for _ in range(1500)]))
    with Emulator("lite", data_dir=data_dir) as emulator:
        post(emulator.url, f"{COLLECTIONS}/create", collectionName="c", schema={"fields": FIELDS[:2], "autoID": True})
        job_id = create(emulator.url, str(file), collection="c", options=TWO_PHASE)
        wait(emulator.url, job_id, states=["Uncommitted"])
        shutil.copytree(data_dir / "staging", tmp_path / "staged")
        post(emulator.url, f"{V2}/commit", jobId=job_id)
        wait(emulator.url, job_id)
    # As if it had been killed after it published the rows, and before it noted that.
    shutil.rmtree(data_dir / "staging")
    shutil.copytree(tmp_path / "staged", data_dir / "staging")
    (job,) = json.loads((data_dir / "jobs.json").read_text())
    (data_dir / "jobs.json").write_text(json.dumps([{**job, "state": "Committing", "ended": None}]))
    with Emulator("lite", data_dir=data_dir) as emulator:
        assert wait(emulator.url, job_id)["importedRows"] == count(emulator.url, "c") == 1500


def test_a_killed_emulator_goes_on_where_it_was(tmp_path: Path, rows_file: Callable[..., str]) -> None:
    data_dir = tmp_path / "data"
    command = [sys.executable, "-m", "airflow_provider_importprog.emulator", "--port", "0", "--data-dir", str(data_dir)]
    command += ["--rows-per-second", "5000"]  # so that it is killed in the middle
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "backend lite" in line
        url = line.split("at ")[1].split(",")[0]
        schema = {"fields": FIELDS[:2], "autoID": True}
        post(url, f"{COLLECTIONS}/create", collectionName="c", schema=schema)
        rows = [{"vector": [0.5] * DIM} for _ in range(20_000)]
        (tmp_path / "rows.json").write_text(json.dumps(rows))
        job_id = create(url, str(tmp_path / "rows.json"), collection="c")
        while not describe(url, job_id)["importedRows"]:
            pass
        process.send_signal(signal.SIGKILL)
    with Emulator("lite", data_dir=data_dir) as emulator:
        job = wait(emulator.url, job_id)
        assert (job["state"], job["importedRows"], count(emulator.url, "c")) == ("Completed", 20_000, 20_000)


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_file: Callable[..., str]) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    before = threading.active_count()
    emulator = Emulator("lite")
    for _ in range(2):
        with emulator:
            assert len(list((tmp_path / "temporary").iterdir())) == 1
            post(emulator.url, f"{COLLECTIONS}/create", collectionName="c", dimension=DIM)
            create(emulator.url, rows_file("a.json", 5000), collection="c")  # and it stops in the middle
        assert os.listdir(tmp_path / "temporary") == []
    assert threading.active_count() == before
