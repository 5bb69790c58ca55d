"""Submit, commit and abort import jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_provider_importprog import _messages, _submission, _validation
from airflow_provider_importprog._gate_operator import ImportGateOperator, hook_of
from airflow_provider_importprog.exceptions import ImportProgressException, ImportSettingInvalid

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context, XComArg

XCOM_JOB_ID_KEY = "job_id"


class CreateImportJobOperator(ImportGateOperator):
    """Submits an import job, once for all tries of a task, and waits for it as ``ImportProgressSensor`` does.

    With ``wait`` it is that gate itself, with its parameters, verdicts and XComs; without, it returns the job's id.
    Either way the id is the XCom ``job_id`` as soon as the server has said it.

    Where the task runs again, retried or cleared, how its import job ended decides. One that goes on, awaits its
    commit or is completed (also without some of its files) is taken over: to import it a second time would double
    rows. One that failed or was aborted is submitted anew. To import the same again all the same, start a new DAG
    run, or set another `idempotency_key`, which Airflow before 3.3 may not tell from the first.

    :param collection_name: where the rows go. Templated, as all that follow but the storage connection and flags.
    :param files: paths in Milvus's own bucket; each entry is a path, or a list of paths that make up one set.
    :param object_urls: URLs in an object storage, in entries likewise. v1 takes exactly one.
    :param volume_name: a volume of Zilliz Cloud, with `data_paths` in it, in entries likewise.
    :param auto_commit: False makes it a two-phase import, whose rows stay invisible until it is committed. Wait for
        it with ``wait_for="uncommitted"``. Milvus 3.0 and later.
    :param options: passed on as they are; values are strings.
    :param storage_conn_id: a connection that holds the keys of the object storage.
    :param idempotency_key: what tells one import from another. By default the task instance's own: the same at every
        try, and another in every DAG run. 1 to 256 printable ASCII characters.
    :param wait: False to return the job's id at once.
    :param abort_on_kill: abort the job where a person ends the task while it waits, or its ``execution_timeout`` does.
        In the triggerer that takes Airflow 3.3 or later. Without it, the import goes on.

    :raises ImportJobAmbiguous: several jobs may be the one that an earlier try submitted. Not retried.

    All else is as in :class:`ImportProgressSensor`.
    """

    template_fields: Sequence[str] = (
        "collection_name",
        "files",
        "object_urls",
        "volume_name",
        "data_paths",
        "partition_name",
        "options",
        "idempotency_key",
        "cluster_id",
        "importprog_conn_id",
    )
    template_fields_renderers = dict.fromkeys(("files", "object_urls", "data_paths", "options"), "json")
    ui_color = "#c9e8f6"

    def __init__(
        self,
        *,
        collection_name: str | XComArg,
        files: Sequence[str | Sequence[str]] | str | XComArg | None = None,
        object_urls: Sequence[str | Sequence[str]] | str | XComArg | None = None,
        volume_name: str | XComArg | None = None,
        data_paths: Sequence[str | Sequence[str]] | str | XComArg | None = None,
        partition_name: str | XComArg | None = None,
        auto_commit: bool = True,
        options: Mapping[str, str] | str | XComArg | None = None,
        storage_conn_id: str | None = None,
        idempotency_key: str | XComArg | None = None,
        wait: bool = True,
        abort_on_kill: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        _refuse_reschedule(self)
        self.collection_name = collection_name
        self.files = files
        self.object_urls = object_urls
        self.volume_name = volume_name
        self.data_paths = data_paths
        self.partition_name = partition_name
        self.auto_commit = _validation.flag(auto_commit, "auto_commit")
        self.options = options
        self.storage_conn_id = storage_conn_id
        self.idempotency_key = idempotency_key
        self.wait = _validation.flag(wait, "wait")
        self.abort_on_kill = _validation.flag(abort_on_kill, "abort_on_kill")
        self._check_what_is_known()

    def execute(self, context: Context) -> Any:
        """Submit the job, or find that of an earlier try, and wait for it unless told not to."""
        self._start()
        self.job_id = None
        with self._soft_failing():
            self.job_id = self._submission(context).run()
        context["ti"].xcom_push(key=XCOM_JOB_ID_KEY, value=self.job_id)
        return self._wait(context) if self.wait else self.job_id

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Resume as the gate does. After a time-out no event says which job it was."""
        if next_method == "__fail__":
            ti = context["ti"]
            self.job_id = ti.xcom_pull(task_ids=ti.task_id, map_indexes=ti.map_index, key=XCOM_JOB_ID_KEY)
        return super().resume_execution(next_method, next_kwargs, context)

    def on_kill(self) -> None:
        """Abort the job where that was asked for; else it goes on."""
        if self.job_id is None:
            return
        if not self.abort_on_kill:
            self.log.info("The task was ended. Import job %s goes on.", self.job_id)
            return
        try:
            self._hook.abort_import_job(self.job_id, _validation.optional_text(self.cluster_id, "cluster_id"))
        except ImportProgressException as error:
            self.log.warning("The task was ended, but import job %s was not aborted. %s", self.job_id, error)
        else:
            self.log.info("The task was ended, and import job %s is aborted: its rows are dropped.", self.job_id)

    def _submission(self, context: Context) -> _submission.Submission:
        ti: Any = context["ti"]
        new = _validation.new_import(**self._fields())
        if (keys := self._hook.storage_keys) is not None:
            new = replace(new, **asdict(keys))
        return _submission.Submission(
            self._hook,
            new,
            new.idempotency_key or _submission.default_key(ti.dag_id, ti.run_id, ti.task_id, ti.map_index),
            _validation.optional_text(self.cluster_id, "cluster_id"),
            log=self.log,
            store=context.get("task_state_store"),  # Airflow 3.3 and later
            try_number=ti.try_number,
            began=_run_began(context),
        )

    def _fields(self) -> dict[str, Any]:
        """Return what is to be imported, as it stands: rendered, or not yet."""
        options = self.options
        if not self.auto_commit and (options is None or isinstance(options, Mapping)):
            options = {"auto_commit": "false", **(options or {})}
            if options["auto_commit"] != "false":
                raise ImportSettingInvalid(
                    f"auto_commit=False and options['auto_commit']={options['auto_commit']!r} do not go together: "
                    "leave one of them out."
                )
        return {
            "collection_name": self.collection_name,
            "partition_name": self.partition_name,
            "files": self.files,
            "object_urls": self.object_urls,
            "volume_name": self.volume_name,
            "data_paths": self.data_paths,
            "options": options,
            "idempotency_key": _blank_to_none(self.idempotency_key),
        }

    def _check_what_is_known(self) -> None:
        """Refuse at DAG-parse time what no rendering can make good."""
        fields = self._fields()
        known = {name: value for name, value in fields.items() if _is_literal(value)}
        if len(known) == len(fields):
            _validation.new_import(**known)
        else:
            _validation.new_import_fields(known)


class CommitImportJobOperator(ImportGateOperator):
    """Commits a two-phase import, and waits until its rows are visible. Milvus 3.0 and later.

    A job that is committed already counts as done, so a retry does no harm. It waits as
    :class:`ImportProgressSensor` does, with its parameters and XComs.

    :param job_id: the import job's id. Templated, as are `cluster_id` and `importprog_conn_id`.
    :param wait: False to return the job's id at once, which is before its rows are visible.

    :raises ImportApiRefused: the job cannot be committed as it is, or the server is too old.
    """

    template_fields: Sequence[str] = ("job_id", "cluster_id", "importprog_conn_id")
    ui_color = "#c9f6d8"

    def __init__(self, *, job_id: str | XComArg, wait: bool = True, **kwargs: Any) -> None:
        super().__init__(wait_for="completed", **kwargs)
        _refuse_reschedule(self)
        self.job_id = job_id
        self.wait = _validation.flag(wait, "wait")

    def execute(self, context: Context) -> Any:
        """Commit the job, and wait until it is completed unless told not to."""
        self._start()
        with self._soft_failing():
            job_id = _validation.job_id(self.job_id)
            self._hook.commit_import_job(job_id, _validation.optional_text(self.cluster_id, "cluster_id"))
        self.log.info("Import job %s is committed.", job_id)
        return self._wait(context) if self.wait else job_id


class AbortImportJobOperator(BaseOperator):
    """Aborts an import that is not committed, drops its rows, and returns its id. Milvus 3.0 and later.

    A job that failed or was aborted already counts as done, so a retry does no harm.

    :param job_id: the import job's id. Templated, as are all parameters.
    :param cluster_id: asked instead of the connection's cluster.
    :param importprog_conn_id: a connection of type ``importprog``.

    :raises ImportApiRefused: the job cannot be aborted as it is, or the server is too old.
    """

    template_fields: Sequence[str] = ("job_id", "cluster_id", "importprog_conn_id")
    ui_color = "#f6d9c9"

    def __init__(
        self,
        *,
        job_id: str | XComArg,
        cluster_id: str | None = None,
        importprog_conn_id: str = "importprog_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job_id = job_id
        self.cluster_id = cluster_id
        self.importprog_conn_id = importprog_conn_id

    def execute(self, context: Context) -> str:
        """Abort the job, say what was dropped, and return the job's id."""
        hook = hook_of(self.importprog_conn_id)
        job_id, cluster_id = _validation.job_id(self.job_id), _validation.optional_text(self.cluster_id, "cluster_id")
        try:
            was = _messages.progress(hook.get_import_progress(job_id, cluster_id), None)
        except ImportProgressException:
            was = "in a state that is not known"
        hook.abort_import_job(job_id, cluster_id)
        self.log.info("Import job %s is aborted, and its rows are dropped. It was %s.", job_id, was)
        return job_id


def _refuse_reschedule(operator: ImportGateOperator) -> None:
    if operator.mode == "reschedule":
        raise ImportSettingInvalid(
            f'mode="reschedule" would run {type(operator).__name__} anew at each poke. Set deferrable=True, which '
            "takes no worker either."
        )


def _is_literal(value: Any) -> bool:
    """Say whether a value is what it will be when the task runs: no template, and no task's output."""
    if isinstance(value, str):
        return "{{" not in value and "{%" not in value
    if isinstance(value, Mapping):
        return all(map(_is_literal, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_is_literal, value))
    return value is None or isinstance(value, (bool, int, float, bytes, set))


def _blank_to_none(value: Any) -> Any:
    """Return None for a template that rendered to nothing."""
    return None if isinstance(value, str) and value.strip() in ("", "None") else value


def _run_began(context: Context) -> datetime | None:
    """Return when a DAG run began. One that was cleared has begun anew, but not before it was due."""
    run: Any = context.get("dag_run")
    if not getattr(run, "clear_number", 0):
        return getattr(run, "start_date", None)
    return getattr(run, "run_after", None) or getattr(run, "data_interval_end", None)
