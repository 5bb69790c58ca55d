"""Submit, commit and abort import jobs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_provider_importprog import checks, describe, submission
from airflow_provider_importprog.exceptions import ImportProgressException, ImportSettingInvalid
from airflow_provider_importprog.sensors.import_progress import ImportGateOperator, hook_of

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context, XComArg

    from airflow_provider_importprog.api.wire import NewImportJob

XCOM_JOB_ID_KEY = "job_id"


class CreateImportJobOperator(ImportGateOperator):
    """Submits an import job, and waits for it as :class:`ImportProgressSensor` does."""

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
        self.auto_commit = checks.flag(auto_commit, "auto_commit")
        self.options = options
        self.storage_conn_id = storage_conn_id
        self.idempotency_key = idempotency_key
        self.wait = checks.flag(wait, "wait")
        self.abort_on_kill = checks.flag(abort_on_kill, "abort_on_kill")

    def execute(self, context: Context) -> Any:
        """Submit the job, and wait for it unless told not to."""
        self._start()
        with self._soft_failing():
            self.job_id = self._submit(context)
        context["ti"].xcom_push(key=XCOM_JOB_ID_KEY, value=self.job_id)
        return self._wait(context) if self.wait else self.job_id

    def _submit(self, context: Context) -> str:
        new = self._new_import_job()
        new = replace(new, idempotency_key=new.idempotency_key or default_key(context))
        return self._hook.create_import_job(**vars(new), cluster_id=checks.optional_id(self.cluster_id, "cluster_id"))

    def _new_import_job(self) -> NewImportJob:
        options = checks.options(self.options)
        if not self.auto_commit:
            options = {**(options or {}), "auto_commit": "false"}
        return submission.new_import_job(
            collection_name=self.collection_name,
            partition_name=self.partition_name,
            files=self.files,
            object_urls=self.object_urls,
            volume_name=self.volume_name,
            data_paths=self.data_paths,
            options=options,
            idempotency_key=self.idempotency_key,
        )


class CommitImportJobOperator(ImportGateOperator):
    """Commits a two-phase import, and waits until its rows are visible. Milvus 3.0 and later."""

    template_fields: Sequence[str] = ("job_id", "cluster_id", "importprog_conn_id")
    ui_color = "#c9f6d8"

    def __init__(self, *, job_id: str | XComArg, wait: bool = True, **kwargs: Any) -> None:
        super().__init__(wait_for="completed", **kwargs)
        _refuse_reschedule(self)
        self.job_id = job_id
        self.wait = checks.flag(wait, "wait")

    def execute(self, context: Context) -> Any:
        """Commit the job, and wait until it is completed unless told not to."""
        self._start()
        with self._soft_failing():
            job_id = checks.job_id(self.job_id)
            self._hook.commit_import_job(job_id, checks.optional_id(self.cluster_id, "cluster_id"))
        self.log.info("Import job %s is committed.", job_id)
        return self._wait(context) if self.wait else job_id


class AbortImportJobOperator(BaseOperator):
    """Aborts an import that is not committed, and so drops its rows. Milvus 3.0 and later."""

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
        job_id, cluster_id = checks.job_id(self.job_id), checks.optional_id(self.cluster_id, "cluster_id")
        hook.abort_import_job(job_id, cluster_id)
        try:
            job = hook.get_import_progress(job_id, cluster_id)
        except ImportProgressException:
            self.log.info("Import job %s is aborted.", job_id)
        else:
            self.log.info("Import job %s is aborted, its rows are dropped: %s.", job_id, describe.progress(job, None))
        return job_id


def default_key(context: Context) -> str:
    """Return an idempotency key that every try of a task instance shares with no other."""
    ti = context["ti"]
    names = json.dumps([ti.dag_id, ti.run_id, ti.task_id, ti.map_index])
    return f"airflow-{sha256(names.encode()).hexdigest()}"


def _refuse_reschedule(operator: ImportGateOperator) -> None:
    if operator.mode == "reschedule":
        raise ImportSettingInvalid(
            f'mode="reschedule" would run {type(operator).__name__} anew at each poke. Set deferrable=True, which '
            "takes no worker either."
        )
