"""Import jobs that Milvus Lite does: its engine (PyPI `milvus-lite`), in this process, without its server."""

from __future__ import annotations

import contextlib
import copy
import importlib
import importlib.metadata
import importlib.util
import itertools
import json
import os
import pickle
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

from airflow_provider_importprog.emulator import backend as api
from airflow_provider_importprog.emulator.backend import (
    ABORT_REASON,
    ApiError,
    EmulatorError,
    FileStatus,
    ImportRequest,
    JobStatus,
    UnknownJobError,
    failed,
    file_reason,
    local_path,
)
from airflow_provider_importprog.emulator.lite_files import FileError, Row, RowForm, open_rows

EXTRA = "airflow-provider-importprog[emulator]"
TEMPORARY_PREFIX = "importprog-lite-"


class _Interrupted(Exception):
    """The job was aborted, or the emulator stops."""


@dataclass
class Job:
    """An import job. Its rows wait in the staging directory until they are published."""

    job_id: str
    request: ImportRequest
    files: list[FileStatus]
    created: float
    """Seconds since the epoch."""
    state: str = api.PENDING
    """`COMMITTING` also while the rows of a job that commits by itself are published."""
    ended: float | None = None
    """Seconds since the epoch."""
    reason: str = ""

    @property
    def is_uncommitted(self) -> bool:
        return self.state not in (api.COMMITTING, api.COMPLETED, api.FAILED)

    def status(self) -> JobStatus:
        state = api.IMPORTING if self.state == api.COMMITTING and self.request.auto_commit else self.state
        progress = {api.PENDING: 0, api.FAILED: 0, api.COMPLETED: 100}.get(state, min(99, self._progress()))
        return JobStatus(
            job_id=self.job_id,
            collection_name=self.request.collection_name,
            state=state,
            progress=progress,
            files=tuple(self.files),
            complete_time=utc(self.ended) if self.ended is not None and state == api.COMPLETED else None,
            reason=self.reason,
            create_time=utc(self.created),
            auto_commit=self.request.auto_commit,
            ended_for=None if self.ended is None else time.time() - self.ended,
        )

    def _progress(self) -> int:
        """Percent of the bytes: how many rows a file has is not known before it is opened."""
        whole = sum(file.size for file in self.files)
        return sum(file.size * file.progress for file in self.files) // whole if whole else 0

    def end(self, reason: str = "") -> None:
        """End the job: failed with a reason, or completed without one."""
        self.ended, self.reason = time.time(), reason
        self.state = api.FAILED if reason else api.COMPLETED
        if reason:  # as Milvus does, every file that is not completed gets the job's reason
            self.files = [file if file.state == api.COMPLETED else failed(file, reason) for file in self.files]

    def to_json(self) -> dict[str, Any]:
        files = [{**asdict(file), "complete_time": timestamp(file.complete_time)} for file in self.files]
        return {**vars(self), "request": asdict(self.request), "files": files}

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Job:
        request = {**found["request"], "entries": tuple(map(tuple, found["request"]["entries"]))}
        files = [
            FileStatus(
                **{
                    **file,
                    "paths": tuple(file["paths"]),
                    "complete_time": None if file["complete_time"] is None else utc(file["complete_time"]),
                }
            )
            for file in found["files"]
        ]
        return cls(**{**found, "request": ImportRequest(**request), "files": files})


class LiteBackend:
    """Keeps collections and import jobs in a data directory; both are there again at the next start.

    A job's rows are checked slice by slice in an empty collection of the same schema, and kept in a staging
    directory. Only when all are right are they published into the collection: an import is all or nothing, and
    an uncommitted one is invisible.

    :param data_dir: where to keep the data; None uses a temporary directory, removed at the end.
    :param rows_per_second: import no faster than this; None has no limit.
    """

    name = "lite"

    def __init__(self, data_dir: str | os.PathLike[str] | None = None, rows_per_second: float | None = None) -> None:
        self._wanted_dir = data_dir
        self._rows_per_second = rows_per_second
        self._directory = Path()
        self._undo = contextlib.ExitStack()
        self._engine: Any = None
        # Milvus Lite's engine does not guard its reads against writes from another thread.
        self._engine_lock = threading.RLock()
        self._jobs: dict[str, Job] = {}
        self._jobs_lock = threading.RLock()
        self._ids = api.job_ids()
        self._stopping = threading.Event()
        self._worker: ThreadPoolExecutor | None = None

    def start(self) -> None:
        if importlib.util.find_spec("milvus_lite") is None:
            raise EmulatorError(
                f"The lite backend needs the package milvus-lite: pip install '{EXTRA}', or use --backend simulated."
            )
        lite = importlib.import_module("milvus_lite")
        self._directory = self._open_directory()
        try:
            self._engine = lite.MilvusLite(str(self._directory / "collections"))
        except lite.DataDirLockedError:
            raise EmulatorError(f"The data directory {self._directory} is in use by another emulator.") from None
        except OSError as problem:
            raise self._no_directory(problem) from None
        self._undo.callback(self._engine.close)
        self._stopping.clear()
        self._jobs = self._saved_jobs()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="importprog-lite")
        for job in list(self._jobs.values()):
            if job.state in (api.PENDING, api.IMPORTING, api.COMMITTING):
                self._worker.submit(self._run, job)

    def stop(self) -> None:
        self._stopping.set()
        if self._worker is not None:
            self._worker.shutdown(cancel_futures=True)
            self._worker = None
        self._undo.close()
        self._engine = None

    @contextlib.contextmanager
    def engine(self) -> Iterator[Any]:
        """Hand out the engine (a `milvus_lite.MilvusLite`); imports wait until it is given back."""
        if self._engine is None:
            raise EmulatorError("The emulator is not running.")
        with self._engine_lock:
            yield self._engine

    def describe(self) -> dict[str, str]:
        return {
            "milvusLiteVersion": importlib.metadata.version("milvus-lite"),
            "dataDir": str(self._directory),
        }

    # Import jobs

    def create(self, request: ImportRequest) -> str:
        with self._collection(request.db_name, request.collection_name) as collection:
            if request.partition_name and not collection.has_partition(request.partition_name):
                # Milvus's own code would be 200, which v1 takes for success.
                raise ApiError(api.PARAMETER_INVALID, f"partition not found[partition={request.partition_name}]")
        files = [FileStatus(entry, sum(map(size_of, entry))) for entry in request.entries]
        with self._jobs_lock:
            job = Job(next(self._ids), request, files, time.time())
            self._jobs[job.job_id] = job
            self._save_jobs()
        self._submit(job)
        return job.job_id

    def get(self, job_id: str) -> JobStatus:
        with self._jobs_lock:
            return self._job(job_id).status()

    def list(self, collection_name: str = "") -> list[JobStatus]:
        with self._jobs_lock:
            jobs = [job.status() for job in self._jobs.values()]
        return [job for job in jobs if collection_name in ("", job.collection_name)]

    def commit(self, job_id: str) -> None:
        with self._jobs_lock:
            job = self._job(job_id)
            if job.state in (api.COMMITTING, api.COMPLETED):
                return
            if job.state != api.UNCOMMITTED:
                raise wrong_state("commit", job)
            job.state = api.COMMITTING
            self._save_jobs()
        self._submit(job)

    def abort(self, job_id: str) -> None:
        with self._jobs_lock:
            job = self._job(job_id)
            if job.state == api.FAILED:
                return
            if not job.is_uncommitted:
                raise wrong_state("abort", job)
            was_importing = job.state == api.IMPORTING
            job.end(ABORT_REASON)
            self._save_jobs()
        if not was_importing:  # else the worker removes what it wrote
            self._remove_staged(job)

    def forget(self, job_id: str) -> None:
        with self._jobs_lock:
            del self._jobs[self._job(job_id).job_id]
            self._save_jobs()

    def _job(self, job_id: str) -> Job:
        try:
            return self._jobs[job_id]
        except KeyError:
            raise UnknownJobError(job_id) from None

    def _submit(self, job: Job) -> None:
        if self._worker is None:
            raise ApiError(api.UNEXPECTED, "the emulator stops")
        self._worker.submit(self._run, job)

    def _run(self, job: Job) -> None:
        """Do the next step of a job; in the worker's thread."""
        try:
            if job.state != api.COMMITTING:
                self._stage(job)
            if job.state == api.COMMITTING:
                self._publish(job)
        except _Interrupted:
            if self._stopping.is_set():  # the next start begins the job anew
                return
        except Exception as problem:  # whatever the engine raises is why the job failed
            with self._jobs_lock:
                job.end(str(problem) or repr(problem))
        with self._jobs_lock:
            self._save_jobs()
        if job.state != api.UNCOMMITTED:
            self._remove_staged(job)

    def _stage(self, job: Job) -> None:
        """Read the files, let the engine check the rows, and keep them in the staging directory."""
        with self._jobs_lock:
            self._check_wanted(job)
            job.state = api.IMPORTING
            job.files = [FileStatus(file.paths, file.size) for file in job.files]
            self._save_jobs()
        self._remove_staged(job)
        with self._collection(job.request.db_name, job.request.collection_name) as collection:
            schema = copy.deepcopy(collection.schema)
        directory = self._staging(job)
        check_directory = directory / "check"
        check_directory.mkdir(parents=True)
        check = importlib.import_module("milvus_lite").Collection("check", str(check_directory), schema)
        try:
            # Milvus too reads all files once before it imports the first, and knows their rows from then on.
            for number, file in enumerate(job.files):
                with contextlib.suppress(Exception):  # what is wrong with a file is reported when it is imported
                    total = open_rows(file.paths, schema, job.request.options).total
                    self._update(job, number, replaced(total_rows=total))
            for number in range(len(job.files)):
                try:
                    self._stage_file(job, number, check, directory)
                except _Interrupted:
                    raise
                except Exception as problem:
                    name = " ".join(job.files[number].paths)
                    reason = file_reason(name, str(problem) or repr(problem))
                    if not job.request.partial_success:
                        raise FileError(reason) from None
                    for staged in directory.glob(f"{number:06}-*"):
                        staged.unlink()
                    self._update(job, number, partial(failed, reason=reason))
        finally:
            with contextlib.suppress(Exception):
                check.close()
            shutil.rmtree(check_directory, ignore_errors=True)
        with self._jobs_lock:
            self._check_wanted(job)
            job.state = api.COMMITTING if job.request.auto_commit else api.UNCOMMITTED
            self._save_jobs()

    def _stage_file(self, job: Job, number: int, check: Any, directory: Path) -> None:
        rows = open_rows(job.files[number].paths, check.schema, job.request.options)
        form = RowForm(check.schema, lambda: int(next(self._ids)))
        self._update(job, number, lambda file: replace(file, state=api.IN_PROGRESS, total_rows=rows.total))
        done = 0
        for part_number, found in enumerate(rows.slices):
            part = checked(check, found, form, done)
            with (directory / f"{number:06}-{part_number:06}").open("wb") as file:
                pickle.dump(part, file)
            if self._rows_per_second is not None:
                self._stopping.wait(len(part) / self._rows_per_second)
            done += len(part)
            percent = 100 * done // max(rows.total, 1)
            self._update(job, number, replaced(imported_rows=done, progress=percent))
        now = datetime.now(timezone.utc)
        self._update(job, number, replaced(state=api.COMPLETED, progress=100, complete_time=now))

    def _publish(self, job: Job) -> None:
        """Insert the staged rows into the collection; a reader that holds the engine's lock sees all or none."""
        request = job.request
        partition = {"partition_name": request.partition_name} if request.partition_name else {}
        published: list[Any] = []
        with self._collection(request.db_name, request.collection_name) as collection:
            try:
                for staged in sorted(self._staging(job).glob("*-*")):
                    with staged.open("rb") as file:
                        rows = pickle.load(file)  # noqa: S301 - written by `_stage_file`, in our own directory
                    published += collection.insert(rows, **partition)
            except Exception:
                if published:
                    collection.delete(published)
                raise
        with self._jobs_lock:
            job.end()

    def _update(self, job: Job, number: int, change: Callable[[FileStatus], FileStatus]) -> None:
        with self._jobs_lock:
            self._check_wanted(job)
            job.files[number] = change(job.files[number])

    def _check_wanted(self, job: Job) -> None:
        if self._stopping.is_set() or job.state == api.FAILED:
            raise _Interrupted

    # The data directory

    def _open_directory(self) -> Path:
        try:
            if self._wanted_dir is None:
                directory = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX))
                self._undo.callback(shutil.rmtree, directory, ignore_errors=True)
            else:
                directory = self._directory = Path(self._wanted_dir).absolute()
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            (directory / "staging").mkdir(exist_ok=True)
        except OSError as problem:
            raise self._no_directory(problem) from None
        return directory

    def _no_directory(self, problem: OSError) -> EmulatorError:
        return EmulatorError(
            f"Cannot write to the data directory {self._directory} ({problem.strerror}): give another with --data-dir."
        )

    def _staging(self, job: Job) -> Path:
        return self._directory / "staging" / job.job_id

    def _remove_staged(self, job: Job) -> None:
        shutil.rmtree(self._staging(job), ignore_errors=True)

    def _save_jobs(self) -> None:
        path = self._directory / "jobs.json"
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps([job.to_json() for job in self._jobs.values()]), encoding="utf-8")
        fresh.replace(path)

    def _saved_jobs(self) -> dict[str, Job]:
        path = self._directory / "jobs.json"
        if not path.exists():
            return {}
        try:
            jobs = [Job.from_json(found) for found in json.loads(path.read_text(encoding="utf-8"))]
        except (ValueError, TypeError, KeyError):
            raise EmulatorError(
                f"{path} is not what an emulator wrote: remove it, or give another --data-dir."
            ) from None
        return {job.job_id: job for job in jobs}

    # Collections, as Milvus's REST API has them

    def check(self, database: str, collection: str = "") -> None:
        with self.engine() as engine:
            if database and not self._has_database(engine, database):
                raise api.no_database(database)
            if collection:
                with self._collection(database, collection):
                    pass

    def refresh_load(self, database: str, collection: str) -> None:
        with self._collection(database, collection) as found:
            if found.load_state != "loaded":
                raise ApiError(api.NOT_LOADED, f"collection not loaded[collection={collection}]")

    def create_collection(self, database: str, collection: str, body: dict[str, Any]) -> None:
        with self._answering() as engine:
            if database and not self._has_database(engine, database):
                engine.create_database(database)
            engine.create_collection(collection, schema_of(body), **in_database(database))

    def drop_collection(self, database: str, collection: str, body: dict[str, Any]) -> None:
        with self._answering() as engine:
            engine.drop_collection(collection, **in_database(database))

    def query(self, database: str, collection: str, body: dict[str, Any]) -> Sequence[Row]:
        wanted, condition = body.get("outputFields"), body.get("filter") or None
        with self._collection(database, collection) as found:
            if wanted == ["count(*)"]:
                count = found.num_entities if condition is None else len(found.query(condition))
                return [{"count(*)": count}]
            rows = found.query(condition, wanted, limit=body.get("limit", 100), offset=body.get("offset", 0))
            return [jsonable(row) for row in rows]

    def search(self, database: str, collection: str, body: dict[str, Any]) -> Sequence[Row]:
        with self._collection(database, collection) as found:
            hits = found.search(
                body.get("data"),
                top_k=body.get("limit", 10),
                metric_type=(body.get("searchParams") or {}).get("metricType"),
                expr=body.get("filter") or None,
                output_fields=body.get("outputFields"),
                anns_field=body.get("annsField"),
            )
            return [
                jsonable({found.pk_field: hit["id"], "distance": hit["distance"], **hit["entity"]})
                for hit in itertools.chain.from_iterable(hits)
            ]

    @contextlib.contextmanager
    def _answering(self) -> Iterator[Any]:
        """Hand out the engine, and pass its errors on as the API's own."""
        lite = importlib.import_module("milvus_lite")
        with self.engine() as engine:
            try:
                yield engine
            except (lite.MilvusLiteError, lite.FilterError, ValueError, TypeError) as problem:
                raise ApiError(api.PARAMETER_INVALID, str(problem)) from None

    @contextlib.contextmanager
    def _collection(self, database: str, name: str) -> Iterator[Any]:
        with self._answering() as engine:
            if database and not self._has_database(engine, database):
                raise api.no_database(database)
            if not engine.has_collection(name, **in_database(database)):
                raise api.no_collection(database, name)
            yield engine.get_collection(name, **in_database(database))

    def _has_database(self, engine: Any, database: str) -> bool:
        try:
            return bool(engine.has_database(database))
        except ValueError:  # a name that none can have
            return False


def checked(check: Any, found: list[Row], form: RowForm, first: int) -> list[Row]:
    """Return the rows in the engine's form, once the engine has taken them; the error names the row.

    :param check: a collection (`milvus_lite.Collection`) to try them in.
    :param first: the number of the first row in its file.
    """
    rows: list[Row] = []
    for number, row in enumerate(found, first):
        try:
            rows.append(form.of(row))
        except FileError as problem:
            raise FileError(f"row {number}: {problem}") from None
    try:
        check.insert([dict(row) for row in rows])
    except Exception:
        for number, row in enumerate(rows, first):
            try:
                check.insert([dict(row)])
            except Exception as problem:
                raise FileError(f"row {number}: {problem}") from None
        raise
    return rows


def replaced(**values: Any) -> Callable[[FileStatus], FileStatus]:
    """Return a change to a file's status."""
    return lambda file: replace(file, **values)


def wrong_state(verb: str, job: Job) -> ApiError:
    """Say that a job can no longer, or not yet, be committed or aborted."""
    return ApiError(
        api.IMPORT_FAILED, f"cannot {verb} import job {job.job_id} in state {job.state}: importing data failed"
    )


def in_database(database: str) -> dict[str, str]:
    """Return the engine's argument for a database; empty for the default one."""
    return {"database_name": database} if database else {}


def schema_of(body: dict[str, Any]) -> Any:
    """Read the schema from the body of `collections/create`: the quick form, or one with fields."""
    lite = importlib.import_module("milvus_lite")
    kinds = {kind.name.replace("_", "").lower(): kind for kind in lite.DataType}
    given = body.get("schema")
    if given is None:
        given = {
            "autoID": body.get("autoID", False),
            "enableDynamicField": True,
            "fields": [
                {"fieldName": body.get("primaryFieldName", "id"), "dataType": "Int64", "isPrimary": True},
                {
                    "fieldName": body.get("vectorFieldName", "vector"),
                    "dataType": "FloatVector",
                    "elementTypeParams": {"dim": body.get("dimension")},
                },
            ],
        }

    def kind_of(name: Any) -> Any:
        if str(name).lower() not in kinds:
            raise ApiError(api.PARAMETER_INVALID, f"Milvus Lite has no data type {name}: it has {', '.join(kinds)}")
        return kinds[str(name).lower()]

    fields = []
    try:
        for field in given["fields"]:
            params = field.get("elementTypeParams") or {}
            fields.append(
                lite.FieldSchema(
                    field["fieldName"],
                    kind_of(field["dataType"]),
                    is_primary=bool(field.get("isPrimary")),
                    auto_id=bool(field.get("isPrimary") and (given.get("autoID") or field.get("autoID"))),
                    nullable=bool(field.get("nullable")),
                    default_value=field.get("defaultValue"),
                    dim=int(params["dim"]) if params.get("dim") else None,
                    max_length=int(params["max_length"]) if "max_length" in params else None,
                    element_type=kind_of(field["elementDataType"]) if "elementDataType" in field else None,
                    max_capacity=int(params["max_capacity"]) if "max_capacity" in params else None,
                )
            )
    except (KeyError, TypeError, AttributeError) as problem:
        raise ApiError(
            api.PARAMETER_MISSING, f"missing required parameters, error: the schema lacks {problem}"
        ) from None
    return lite.CollectionSchema(fields, enable_dynamic_field=bool(given.get("enableDynamicField")))


def jsonable(row: Row) -> Row:
    """Return a row of the engine with values that JSON has."""
    found: Row = json.loads(json.dumps(row, default=str))
    return found


def size_of(name: str) -> int:
    """Bytes; 0 where there is no such file, which is reported when it is read."""
    try:
        return os.stat(local_path(name)).st_size
    except (OSError, ValueError):
        return 0


def utc(seconds: float) -> datetime:
    """Return a time given in seconds since the epoch."""
    return datetime.fromtimestamp(seconds, timezone.utc)


def timestamp(time: datetime | None) -> float | None:
    """Return seconds since the epoch."""
    return None if time is None else time.timestamp()
