"""The gate as users put it into a DAG."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from airflow_provider_importprog import _validation
from airflow_provider_importprog._gate_operator import DEFAULT_DEFERRABLE, ImportGateOperator

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import XComArg


class ImportProgressSensor(ImportGateOperator):
    """Waits for an import job of Milvus or Zilliz Cloud, and hands the details of its files on.

    It returns the list of file dicts, so ``process.expand(file=gate.output)`` maps over the files; the job's
    own dict is the XCom ``import_job``. Both are also pushed before it fails because of a job.

    :param job_id: the import job's id. Templated.
    :param cluster_id: asked instead of the connection's cluster. Templated.
    :param importprog_conn_id: a connection of type ``importprog``. Templated.
    :param wait_for: ``completed``, or ``uncommitted`` to open as soon as a two-phase import awaits its commit.
    :param allow_failed_files: open although some file was not imported, as long as the job completed.
    :param min_rows: fewer imported rows than that fail the gate; None for any number. API v1 counts no rows.
    :param refresh_load: when the gate opens on a completed job, ask the server once to make the new rows of a loaded
        collection readable. It never fails the gate.
    :param stall_warning: seconds (or a timedelta) without progress after which the log warns once; 0 for never.
    :param outage_tolerance: seconds (or a timedelta) without one good answer after which the gate fails. In
        reschedule mode before Airflow 3.3, no process knows of the one before, so there only ``timeout`` bounds an
        outage.
    :param unknown_job_grace: seconds (or a timedelta) for which the server may not know the job, from its first
        answer that says so, and for two answers at least: it may have been submitted just now.
    :param deferrable: wait in the triggerer, and take no worker meanwhile. Airflow's ``default_deferrable``
        unless set.
    :param end_from_trigger: end in the triggerer where the gate opens there, without a worker. Airflow 3.3 and later;
        where something would be lost by it, the gate resumes on a worker all the same, and says why in its log.
    :param poke_interval: seconds (or a timedelta) between two polls.
    :param timeout: seconds (or a timedelta) after which the sensor gives up.

    :raises ImportJobFailed: the job failed. Not retried.
    :raises ImportFilesFailed: the job completed without some of its files. Not retried.
    :raises ImportRowsMissing: the job completed with fewer rows than `min_rows`. Not retried.
    :raises ImportJobUnknown: the server has no record of the job. Not retried.
    :raises ImportApiUnauthorized: the token is not accepted, or not for this.
    :raises ImportApiUnreachable: no good answer came for `outage_tolerance` seconds.
    """

    template_fields: Sequence[str] = ("job_id", "cluster_id", "importprog_conn_id")

    # The base class's parameters once more, because a signature is what users read, and their editors check.
    def __init__(
        self,
        *,
        job_id: str | XComArg,
        cluster_id: str | None = None,
        importprog_conn_id: str = "importprog_default",
        wait_for: Literal["completed", "uncommitted"] = "completed",
        allow_failed_files: bool = False,
        min_rows: int | None = None,
        refresh_load: bool = False,
        stall_warning: float | timedelta = 1800,
        outage_tolerance: float | timedelta = 900,
        unknown_job_grace: float | timedelta = 60,
        deferrable: bool = DEFAULT_DEFERRABLE,
        end_from_trigger: bool = False,
        poke_interval: float | timedelta = 30,
        timeout: float | timedelta = 24 * 60 * 60,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            cluster_id=cluster_id,
            importprog_conn_id=importprog_conn_id,
            wait_for=wait_for,
            allow_failed_files=allow_failed_files,
            min_rows=min_rows,
            refresh_load=refresh_load,
            stall_warning=stall_warning,
            outage_tolerance=outage_tolerance,
            unknown_job_grace=unknown_job_grace,
            deferrable=deferrable,
            end_from_trigger=end_from_trigger,
            poke_interval=poke_interval,
            timeout=timeout,
            **kwargs,
        )
        self.job_id = job_id
        if job_id is None or isinstance(job_id, (str, bytes, bool, float, list, tuple, dict, set)):
            _validation.job_id(job_id)  # anything else is a number, or is known only when the task runs
