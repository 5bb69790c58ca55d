"""Submit, commit and abort import jobs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_provider_importprog import _messages, _submission, _validation
from airflow_provider_importprog._gate_operator import ImportGateOperator, hook_of
from airflow_provider_importprog.api.protocol import NewImportJob
from airflow_provider_importprog.exceptions import ImportProgressException, ImportSettingInvalid
from airflow_provider_importprog.links import IMPORT_JOB_LINK

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context, XComArg

    from airflow_provider_importprog.api.model import ImportJob

XCOM_JOB_ID_KEY = "job_id"
_STORAGE_KEYS = ("access_key", "secret_key", "session_token")
#: The parameters of an import, which are the operator's too. The keys of a storage come from its connection.
_PARAMETERS = tuple(each.name for each in fields(NewImportJob) if each.name not in _STORAGE_KEYS)
# No template, whatever a DAG's own Jinja takes for the marks of one.
_PLAIN = re.compile(r"[\w/.][\w/.:=@%+&?~-]*")


class _SubmittingOperator(ImportGateOperator):
    """What sends a request that must not be sent twice, and then waits, or not."""

    #: Sleeps between two requests, where the server asks for that.
    _clock: ClassVar[_submission.Clock] = _submission.Clock()

    def __init__(self, *, wait: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.wait = _validation.flag(wait, "wait")
        self._refuse_reschedule()

    def _refuse_reschedule(self) -> None:
        """Refuse what would send the request at each poke.

        At parsing, and when it runs: a policy or an executor may have set the mode since.
        """
        if self.mode == "reschedule" and self.wait and not self.deferrable:
            raise ImportSettingInvalid(
                f'mode="reschedule" would run {type(self).__name__} anew at each poke. Set deferrable=True, which '
                "takes no worker either."
            )

    @property
    def _repeater(self) -> _submission.Repeater:
        return _submission.Repeater(self.outage_tolerance, self.log, self._clock)

    @property
    def _cluster(self) -> str | None:
        return _validation.optional_text(self.cluster_id, "cluster_id")


class CreateImportJobOperator(_SubmittingOperator):
    """Submits an import job, once for all tries of a task, and waits for it as ``ImportProgressSensor`` does.

    With ``wait`` it is that gate itself, with its parameters, verdicts and XComs; without, it returns the job's id.
    Either way the id is the XCom ``job_id`` as soon as the server has said it.

    Where the task runs again, retried or cleared, how its import job ended decides. One that goes on, awaits its
    commit or is completed (also without some of its files) is adopted: to import it a second time would double
    rows. One that failed or was aborted is submitted anew. To import the same again all the same, start a new DAG
    run, or set another `idempotency_key`, which Airflow before 3.3 may not tell from the first.

    :param collection_name: where the rows go. Templated, as all that follow but the storage connection and flags.
    :param partition_name: the partition; None for the default one.
    :param files: paths in Milvus's own bucket; each entry is a path, or a list of paths that make up one set.
    :param object_urls: URLs in an object storage, in entries likewise. v1 takes exactly one.
    :param volume_name: a volume of Zilliz Cloud, with `data_paths` in it, in entries likewise.
    :param auto_commit: False makes it a two-phase import, whose rows stay invisible until it is committed. Wait for
        it with ``wait_for="uncommitted"``. Milvus 3.0 and later.
    :param options: passed on as they are; values are strings.
    :param storage_conn_id: a connection that holds the keys of the object storage.
    :param idempotency_key: what tells one import of this DAG run from another. By default the task instance's own:
        the same at every try. 1 to 256 printable ASCII characters.
    :param wait: False to return the job's id at once.
    :param abort_on_kill: abort the job where a person ends the task while it waits, or its ``execution_timeout`` does.
        In the triggerer that needs Airflow 3.3 or later. Without it, the import goes on. It needs
        ``auto_commit=False``: Milvus refuses to abort any other import.
    :param outage_tolerance: seconds also for which a request is sent again that the server had no room for.

    :raises ImportJobAmbiguous: a job may be the one that an earlier try submitted, and is not proved to be. Not
        retried.

    All else is as in :class:`ImportProgressSensor`.
    """

    template_fields: Sequence[str] = (*_PARAMETERS, "cluster_id", "importprog_conn_id")
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
        abort_on_kill: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
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
        self.abort_on_kill = _validation.flag(abort_on_kill, "abort_on_kill")
        self._submitting = False
        self._check_what_is_known()

    def execute(self, context: Context) -> Any:
        """Submit the job, or adopt that of an earlier try, and wait for it unless told not to."""
        self._start()
        self._refuse_reschedule()
        self.job_id = None
        with self._soft_failing():
            submission = self._submission(context)
            self._submitting = True
            self.job_id = submission.run()
        context["ti"].xcom_push(key=XCOM_JOB_ID_KEY, value=self.job_id)
        self._show_link(context, str(self.collection_name))
        return self._wait(context) if self.wait else self.job_id

    def render_template(self, content: Any, *args: Any, **kwargs: Any) -> Any:
        """Render as Airflow does, but pass over a plain path: Jinja takes 0.1 ms for each, and there may be 10,000."""
        # With render_template_as_native_obj, Airflow changes the type of plain text too.
        native = getattr(self.get_dag(), "render_template_as_native_obj", False)
        if isinstance(content, str) and not native and _PLAIN.fullmatch(content):
            return content
        return super().render_template(content, *args, **kwargs)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Resume as the gate does. After a time-out no event says which job it was."""
        if next_method == "__fail__":
            self.job_id = _job_id_of(context)
        return super().resume_execution(next_method, next_kwargs, context)

    def on_kill(self) -> None:
        """Abort the job where that was asked for; else it goes on."""
        if self.job_id is None and self._submitting:
            self.log.warning("The task was ended while it submitted its import, which may go on.")
        else:
            super().on_kill()

    def _sources(self, job: ImportJob) -> tuple[str, ...]:
        entries = _validation.entries(self.object_urls, "object_urls") or []
        return tuple(url for entry in entries for url in entry)

    def _job_id_of_this_task(self) -> str | None:
        # Airflow 2.11 loads psutil and more with it, which would slow each DAG file.
        from airflow.providers.common.compat.sdk import get_current_context

        # Airflow 2.11 calls ``on_kill`` of a new object where a deferred task resumes after its execution_timeout.
        return self.job_id or _job_id_of(get_current_context())

    def _submission(self, context: Context) -> _submission.Submission:
        ti: Any = context["ti"]
        new = _new_import(self._parameters())
        self._check_abort_on_kill(new.options)
        key = new.idempotency_key or _submission.default_key(ti.dag_id, ti.run_id, ti.task_id, ti.map_index)
        if (keys := self._hook.storage_keys) is not None:
            new = replace(new, **asdict(keys))
        return _submission.Submission(
            self._hook,
            new,
            key,
            self._cluster,
            log=self.log,
            repeater=self._repeater,
            store=context.get("task_state_store"),  # Airflow 3.3 and later
            try_number=ti.try_number,
            began=_run_began(context),
        )

    def _parameters(self) -> dict[str, Any]:
        """Return what is to be imported, as it stands: rendered, or not yet."""
        parameters = {name: getattr(self, name) for name in _PARAMETERS}
        options = self.options
        if not self.auto_commit and (options is None or isinstance(options, Mapping)):
            parameters["options"] = options = {"auto_commit": "false", **(options or {})}
            if options["auto_commit"] != "false":
                raise ImportSettingInvalid(
                    f"auto_commit=False and options['auto_commit']={options['auto_commit']!r} do not go together: "
                    "leave one of them out."
                )
        return parameters

    def _check_what_is_known(self) -> None:
        """Refuse at DAG-parse time what no rendering can make good."""
        parameters = self._parameters()
        known = {name: value for name, value in parameters.items() if _is_literal(value)}
        if len(known) == len(parameters):
            _new_import(known)
        else:
            _validation.new_import_fields(known)
        if "options" in known:
            self._check_abort_on_kill(known["options"])

    def _check_abort_on_kill(self, options: Mapping[str, str] | None) -> None:
        if self.abort_on_kill and (options or {}).get("auto_commit") != "false":
            raise ImportSettingInvalid(
                "abort_on_kill=True needs auto_commit=False: Milvus refuses to abort an import that commits by itself "
                "(https://github.com/milvus-io/milvus/issues/53159)."
            )


class CommitImportJobOperator(_SubmittingOperator):
    """Commits a two-phase import, and waits until it is completed. Milvus 3.0 and later.

    Completed says that every row is committed. A collection that is loaded may not show them yet: see
    ``refresh_load``. A job that is committed already counts as done, so a retry does no harm. It waits as
    :class:`ImportProgressSensor` does, with its parameters and XComs.

    :param job_id: the import job's id. Templated, as are `cluster_id` and `importprog_conn_id`.
    :param wait: False to return the job's id at once, which is before the job is completed.

    :raises ImportApiRefused: the job cannot be committed as it is, or the server is too old.
    """

    template_fields: Sequence[str] = ("job_id", "cluster_id", "importprog_conn_id")
    ui_color = "#c9f6d8"

    def __init__(self, *, job_id: str | XComArg, **kwargs: Any) -> None:
        super().__init__(wait_for="completed", **kwargs)
        self.job_id = job_id

    def execute(self, context: Context) -> Any:
        """Commit the job, and wait until it is completed unless told not to."""
        self._start()
        self._refuse_reschedule()
        with self._soft_failing():
            job_id, cluster_id = _validation.job_id(self.job_id), self._cluster
            self._repeater(lambda: self._hook.commit_import_job(job_id, cluster_id))
        self.log.info("Import job %s is committed.", job_id)
        self._show_link(context)
        return self._wait(context) if self.wait else job_id


class AbortImportJobOperator(BaseOperator):
    """Aborts an import that is not committed, drops its rows, and returns its id. Milvus 3.0 and later.

    A job that failed or was aborted already counts as done, so a retry does no harm.

    :param job_id: the import job's id. Templated, as are `cluster_id` and `importprog_conn_id`.
    :param cluster_id: asked instead of the connection's cluster.
    :param importprog_conn_id: a connection of type ``importprog``.
    :param outage_tolerance: seconds (or a timedelta) for which the request is sent again, where the server says that
        it did nothing.

    :raises ImportApiRefused: the job cannot be aborted as it is, or the server is too old.
    """

    template_fields: Sequence[str] = ("job_id", "cluster_id", "importprog_conn_id")
    ui_color = "#f6d9c9"
    operator_extra_links = (IMPORT_JOB_LINK,)
    job_page: str | None = None
    _clock: ClassVar[_submission.Clock] = _submission.Clock()

    def __init__(
        self,
        *,
        job_id: str | XComArg,
        cluster_id: str | None = None,
        importprog_conn_id: str = "importprog_default",
        outage_tolerance: float | timedelta = 900,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job_id = job_id
        self.cluster_id = cluster_id
        self.importprog_conn_id = importprog_conn_id
        self.outage_tolerance = _validation.seconds(outage_tolerance, "outage_tolerance")

    def execute(self, context: Context) -> str:
        """Abort the job, say what was dropped, and return the job's id."""
        hook = hook_of(self.importprog_conn_id)
        job_id, cluster_id = _validation.job_id(self.job_id), _validation.optional_text(self.cluster_id, "cluster_id")
        try:
            job = hook.get_import_progress(job_id, cluster_id)
            was, collection = _messages.progress(job, None), job.collection_name
        except ImportProgressException:
            was, collection = "in a state that is not known", None
        _submission.Repeater(self.outage_tolerance, self.log, self._clock)(
            lambda: hook.abort_import_job(job_id, cluster_id)
        )
        self.job_page = IMPORT_JOB_LINK.show(context, hook, job_id, cluster_id, collection)
        self.log.info("Import job %s is aborted, and its rows are dropped. It was %s.", job_id, was)
        return job_id


def _new_import(parameters: Mapping[str, Any]) -> NewImportJob:
    """Check what is to be imported; a key that rendered to nothing is not there."""
    key = _validation.optional_text(parameters["idempotency_key"], "idempotency_key")
    return _validation.new_import(**{**parameters, "idempotency_key": key})


def _is_literal(value: Any) -> bool:
    """Say whether a value is what it will be when the task runs: no template, and no task's output."""
    if isinstance(value, str):
        return "{{" not in value and "{%" not in value
    if isinstance(value, Mapping):
        return all(map(_is_literal, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_is_literal, value))
    return value is None or isinstance(value, (bool, int, float, bytes, set))


def _job_id_of(context: Context) -> str | None:
    """Return the id that this task pushed before it was deferred, or None."""
    ti: Any = context["ti"]
    job_id: str | None = ti.xcom_pull(task_ids=ti.task_id, map_indexes=ti.map_index, key=XCOM_JOB_ID_KEY)
    return job_id


def _run_began(context: Context) -> datetime | None:
    """Return when a DAG run began. One that was cleared has begun anew, but not before it was due."""
    run: Any = context.get("dag_run")
    if not getattr(run, "clear_number", 0):
        return getattr(run, "start_date", None)
    return getattr(run, "run_after", None) or getattr(run, "data_interval_end", None)
