"""Waiting for an import job, on the worker and in the triggerer: the base of the sensor and of the operators."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    BaseSensorOperator,
    PokeReturnValue,
    conf,
)

from airflow_provider_importprog import _messages, _validation
from airflow_provider_importprog._gate import Decision, Gate, GatePolicy
from airflow_provider_importprog.api.model import ImportJob
from airflow_provider_importprog.exceptions import (
    ImportApiUnauthorized,
    ImportApiUnreachable,
    ImportFilesFailed,
    ImportJobFailed,
    ImportJobUnknown,
    ImportProgressException,
    ImportSettingInvalid,
)
from airflow_provider_importprog.verdict import Verdict

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_importprog.hooks.import_progress import ImportProgressHook

XCOM_RETURN_KEY = "return_value"
XCOM_JOB_KEY = "import_job"

_EXCEPTIONS: dict[Verdict, type[ImportProgressException]] = {
    Verdict.JOB_FAILED: ImportJobFailed,
    Verdict.FILES_FAILED: ImportFilesFailed,
    Verdict.JOB_UNKNOWN: ImportJobUnknown,
    Verdict.UNAUTHORIZED: ImportApiUnauthorized,
    Verdict.UNREACHABLE: ImportApiUnreachable,
    Verdict.SETTING_INVALID: ImportSettingInvalid,
}
# After these the worker asks for the details; after an outage, whether it is over.
_WORTH_ASKING = (Verdict.OPEN, Verdict.JOB_FAILED, Verdict.FILES_FAILED, Verdict.UNREACHABLE)
DEFAULT_DEFERRABLE = conf.getboolean("operators", "default_deferrable", fallback=False)


class ImportGateOperator(BaseSensorOperator):
    """What waits for an import job, on the worker or in the triggerer: the sensor, and the operators that wait.

    All of waiting is here and nothing of where the job comes from: who inherits sets `job_id`, at the latest in
    ``execute``, and then calls :meth:`_wait`. The parameters are those of :class:`ImportProgressSensor`.
    """

    ui_color = "#d7f0ef"
    #: Whether the job is aborted where a person ends the task.
    abort_on_kill = False
    #: The connection of an object storage whose keys the server was told, and may echo.
    storage_conn_id: str | None = None

    def __init__(
        self,
        *,
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
        super().__init__(poke_interval=poke_interval, timeout=timeout, **kwargs)
        self.job_id: Any = None
        self.cluster_id = cluster_id
        self.importprog_conn_id = importprog_conn_id
        self.wait_for = _validation.wait_for(wait_for)
        self.allow_failed_files = _validation.flag(allow_failed_files, "allow_failed_files")
        self.outage_tolerance = _validation.seconds(outage_tolerance, "outage_tolerance")
        self.unknown_job_grace = _validation.seconds(unknown_job_grace, "unknown_job_grace")
        self.deferrable = _validation.flag(deferrable, "deferrable")
        self._gate: Gate | None = None
        self._delay = 0.0

    def execute(self, context: Context) -> Any:
        """Wait on the worker, or look once and then wait in the triggerer."""
        self._start()
        return self._wait(context)

    def _start(self) -> None:
        """Forget what an earlier call of ``execute`` left: nobody promises a new object for each."""
        self._gate = None
        self.__dict__.pop("_hook", None)

    def _wait(self, context: Context) -> Any:
        if not self.deferrable:
            return super().execute(context)
        with self._soft_failing():
            gate = self._begin(context)
            # A job that has ended never defers: the fewer quick deferrals, the fewer races in the scheduler.
            decision = self._ask(gate)
            if decision.verdict is Verdict.WAIT:
                self._defer(gate)
            return self._conclude(decision, gate, context)

    def poke(self, context: Context) -> bool | PokeReturnValue:
        """Ask once."""
        with self._soft_failing():
            gate = self._gate or self._begin(context)
            decision = self._ask(gate)
            self._delay = decision.delay
            if decision.verdict is Verdict.WAIT:
                return False
            return PokeReturnValue(True, self._conclude(decision, gate, context))

    def execute_complete(
        self,
        context: Context,
        event: dict[str, Any],
        started_at: float | None = None,
        job: dict[str, Any] | None = None,
    ) -> list[dict[str, Any]]:
        """Resume after the trigger's event: fetch the details, and open or fail.

        The event only wakes the gate. What it means is asked of the job as it is now, by the same verdict.

        :param job: the import job's dict as this task saw it last before it deferred.
        """
        self.job_id = event.get("job_id", self.job_id)
        gate = self._new_gate(started_at, job=ImportJob.from_summary(job) if job else None)
        decision = Decision(Verdict(event["verdict"]), event["message"], gate.job)
        if decision.verdict in _WORTH_ASKING:
            decision = self._ask(gate, after=decision)
        if decision.verdict is Verdict.WAIT:
            self._defer(gate)
        return self._conclude(decision, gate, context)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Resume as any deferred task does, with ``soft_fail`` and the time-out as on the worker.

        The base class would skip over every error, an outage too, and on Airflow 2 retry after a time-out.
        """
        with self._soft_failing():
            if next_method == "__fail__" and "timeout" in str((next_kwargs or {}).get("error")).lower():
                raise AirflowSensorTimeout(
                    f"Import job {self.job_id} was not {self.wait_for} within {_messages.span(self.timeout)}. It may "
                    "still go on: clear this task to wait on, or raise its timeout."
                )
            return super(BaseSensorOperator, self).resume_execution(next_method, next_kwargs, context)

    def _get_next_poke_interval(
        self, started_at: datetime | float, run_duration: Callable[[], float], poke_count: int
    ) -> float:
        """Wait longer than the base class would while the server is in trouble, and not past the time-out."""
        interval: float = super()._get_next_poke_interval(started_at, run_duration, poke_count)
        return max(interval, min(self._delay, self.timeout - run_duration()))

    @cached_property
    def _hook(self) -> ImportProgressHook:
        return hook_of(self.importprog_conn_id, self.storage_conn_id)

    @property
    def _policy(self) -> GatePolicy:
        return GatePolicy(
            wait_for=self.wait_for,
            allow_failed_files=self.allow_failed_files,
            poke_interval=self.poke_interval,
            outage_tolerance=self.outage_tolerance,
            unknown_job_grace=self.unknown_job_grace,
        )

    def _new_gate(
        self, started_at: float | None = None, policy: GatePolicy | None = None, job: ImportJob | None = None
    ) -> Gate:
        job_id = _validation.job_id(self.job_id)
        return Gate(job_id, policy or self._policy, log=self.log, started_at=started_at, job=job)

    def _begin(self, context: Context) -> Gate:
        """Begin to wait, or in reschedule mode go on with what an earlier process began."""
        if self.reschedule and not self.deferrable:
            # An outage leaves no trace for the next process, so it cannot be counted.
            gate = self._new_gate(_first_poke(context), replace(self._policy, outage_tolerance=float("inf")))
        else:
            gate = self._new_gate()
        if gate.waited < 1:
            gate.announce()
        self._gate = gate
        return gate

    def _ask(self, gate: Gate, after: Decision | None = None) -> Decision:
        """Ask once.

        :param after: what the trigger decided a moment ago, if it did.
        """
        try:
            cluster_id = _validation.optional_text(self.cluster_id, "cluster_id")
            job = self._hook.get_import_progress(gate.job_id, cluster_id, two_phase=gate.policy.two_phase)
        except ImportSettingInvalid:
            raise
        except ImportProgressException as error:
            if after is not None and after.verdict is Verdict.UNREACHABLE:
                return after
            if after is not None and isinstance(error, ImportJobUnknown):
                return _expired_since(after)
            return gate.failed(error)
        return gate.answered(job)

    def _defer(self, gate: Gate) -> NoReturn:
        from airflow_provider_importprog.triggers.import_progress import ImportProgressTrigger

        left = self.timeout - gate.waited
        if left <= 0:
            raise AirflowSensorTimeout(
                f"Import job {gate.job_id} was not {self.wait_for} within {_messages.span(self.timeout)}."
            )
        self.defer(
            trigger=ImportProgressTrigger(
                job_id=gate.job_id,
                cluster_id=_validation.optional_text(self.cluster_id, "cluster_id"),
                importprog_conn_id=self.importprog_conn_id,
                started_at=gate.started_at,
                last_shown=gate.last_shown,
                abort_on_kill=self.abort_on_kill,
                storage_conn_id=self.storage_conn_id,
                **asdict(gate.policy),
            ),
            method_name=self.execute_complete.__name__,
            kwargs={"started_at": gate.started_at, "job": gate.job.summary() if gate.job else None},
            timeout=timedelta(seconds=left),
        )

    def _conclude(self, decision: Decision, gate: Gate, context: Context) -> list[dict[str, Any]]:
        """Open the gate, or fail; either way push what is known of the job and say how it ended."""
        job = decision.job
        files = [file.to_dict() for file in job.files] if job else []
        if job is not None and (ti := context.get("ti")):
            ti.xcom_push(key=XCOM_JOB_KEY, value=job.summary())
            # What a deferral carried over holds no files, which is not to say that there were none.
            ended = decision.verdict in (Verdict.JOB_FAILED, Verdict.FILES_FAILED)
            if ended or (files and decision.verdict is not Verdict.OPEN):
                ti.xcom_push(key=XCOM_RETURN_KEY, value=files)
        waited = _messages.span(gate.waited)
        if decision.verdict is Verdict.OPEN:
            self.log.info("The gate opens after %s. %s", waited, decision.message)
            self._warn_of_mapping(len(files), context)
            return files
        seen = f" ({_messages.progress(job, None)})" if job else ""
        self.log.error("The gate fails after %s%s. %s", waited, seen, decision.message)
        raise _EXCEPTIONS[decision.verdict](decision.message, job=job)

    def _warn_of_mapping(self, files: int, context: Context) -> None:
        """Say what Airflow is about to do and why, which its own error does not."""
        most = conf.getint("core", "max_map_length", fallback=1024)
        # Airflow does not look at what a mapped task returns.
        mapped = getattr(context.get("ti"), "map_index", -1) >= 0
        if files <= most or mapped or not self.get_dag() or not any(self.iter_mapped_dependants()):
            return
        self.log.warning(
            "A task maps over the %s files that this one returns, and Airflow fails a task that returns more than %s "
            "to map over ([core] max_map_length): let a task cut the list into lists, or raise max_map_length.",
            f"{files:,}",
            f"{most:,}",
        )

    @contextmanager
    def _soft_failing(self) -> Generator[None, None, None]:
        """Turn into a skip what soft_fail and never_fail say, alike in every mode, and with the reason."""
        try:
            yield
        except AirflowSkipException:
            raise
        except (AirflowFailException, AirflowSensorTimeout) as error:
            if self.soft_fail or self.never_fail:
                raise AirflowSkipException(str(error)) from error
            raise
        except Exception as error:
            if self.never_fail:
                raise AirflowSkipException(str(error)) from error
            raise


def hook_of(importprog_conn_id: str, storage_conn_id: str | None = None) -> ImportProgressHook:
    """Return the blocking hook of a connection."""
    # Imported here, because the hook loads requests, which no DAG file should pay for.
    from airflow_provider_importprog.hooks.import_progress import ImportProgressHook

    return ImportProgressHook(_validation.conn_id(importprog_conn_id), storage_conn_id)


def _first_poke(context: Context) -> float:
    """Return when the first process of a rescheduled sensor poked, in seconds since the epoch."""
    ti: Any = context.get("ti")
    if hasattr(ti, "get_first_reschedule_date"):
        first = ti.get_first_reschedule_date(context)
    else:  # Airflow 2 keeps the first poke's date as the task instance's own
        first = getattr(ti, "start_date", None)
    return first.timestamp() if isinstance(first, datetime) else time.time()


def _expired_since(decision: Decision) -> Decision:
    """Say what is left when the server forgot the job between the trigger's event and now."""
    if decision.verdict is Verdict.OPEN:
        return replace(
            decision,
            verdict=Verdict.JOB_UNKNOWN,
            message=f"{decision.message} But the server has forgotten the job since, and the details of its files "
            "are lost.",
        )
    return decision
