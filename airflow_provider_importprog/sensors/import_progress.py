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
    own dict is the XCom ``import_job``. Both are also pushed before it fails over a job.

    :param job_id: the import job's id. Templated.
    :param cluster_id: asked instead of the connection's cluster. Templated.
    :param importprog_conn_id: a connection of type ``importprog``. Templated.
    :param wait_for: ``completed``, or ``uncommitted`` to open as soon as a two-phase import awaits its commit.
    :param allow_failed_files: open although some file did not make it, as long as the job completed.
    :param outage_tolerance: seconds (or a timedelta) without one good answer after which the gate fails. In
        reschedule mode each poke is a process of its own, so there only ``timeout`` bounds an outage.
    :param unknown_job_grace: seconds (or a timedelta) for which the server may not know the job: it may have
        been submitted a moment ago.
    :param deferrable: wait in the triggerer, and take no worker meanwhile. Airflow's ``default_deferrable``
        unless set.
    :param poke_interval: seconds (or a timedelta) between two questions.
    :param timeout: seconds (or a timedelta) after which the sensor gives up.

    :raises ImportJobFailed: the job failed. Not retried.
    :raises ImportFilesFailed: the job completed without some of its files. Not retried.
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
        outage_tolerance: float | timedelta = 900,
        unknown_job_grace: float | timedelta = 60,
        deferrable: bool = DEFAULT_DEFERRABLE,
        poke_interval: float | timedelta = 30,
        timeout: float | timedelta = 24 * 60 * 60,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            cluster_id=cluster_id,
            importprog_conn_id=importprog_conn_id,
            wait_for=wait_for,
            allow_failed_files=allow_failed_files,
            outage_tolerance=outage_tolerance,
            unknown_job_grace=unknown_job_grace,
            deferrable=deferrable,
            poke_interval=poke_interval,
            timeout=timeout,
            **kwargs,
        )
        self.job_id = job_id
        if job_id is None or isinstance(job_id, (str, bytes, bool, float, list, tuple, dict, set)):
            _validation.job_id(job_id)  # anything else is a number, or is known only when the task runs
