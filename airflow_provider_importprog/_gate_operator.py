"""Waiting for an import job, on the worker and in the triggerer: the base of the sensor and of the operators."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NoReturn, cast

from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    BaseSensorOperator,
    PokeReturnValue,
    conf,
)

from airflow_provider_importprog import _validation
from airflow_provider_importprog._at_run_time import AtRunTime
from airflow_provider_importprog.exceptions import (
    ImportApiUnauthorized,
    ImportApiUnreachable,
    ImportFilesFailed,
    ImportJobFailed,
    ImportJobUnknown,
    ImportProgressException,
    ImportRowsMissing,
    ImportSettingInvalid,
)
from airflow_provider_importprog.links import IMPORT_JOB_LINK

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context
    from airflow.providers.openlineage.extractors import OperatorLineage

    from airflow_provider_importprog import _end_in_triggerer, _messages
    from airflow_provider_importprog._gate import Decision, Gate, GatePolicy, GateState, seconds_now
    from airflow_provider_importprog._gate_store import GateStore
    from airflow_provider_importprog._lineage import Import
    from airflow_provider_importprog.api.model import ImportJob, ImportState
    from airflow_provider_importprog.hooks.import_progress import ImportProgressHook
    from airflow_provider_importprog.verdict import Verdict
else:
    _end_in_triggerer, _messages = AtRunTime("_end_in_triggerer"), AtRunTime("_messages")
    GateStore = AtRunTime("_gate_store", "GateStore")
    Decision, Gate, GatePolicy = (AtRunTime("_gate", name) for name in ("Decision", "Gate", "GatePolicy"))
    GateState, seconds_now = AtRunTime("_gate", "GateState"), AtRunTime("_gate", "seconds_now")
    ImportJob, ImportState = AtRunTime("api.model", "ImportJob"), AtRunTime("api.model", "ImportState")
    Verdict = AtRunTime("verdict", "Verdict")

# Verdicts as the strings that they are, because a DAG file need not load them.
_EXCEPTIONS: dict[str, type[ImportProgressException]] = {
    "job_failed": ImportJobFailed,
    "files_failed": ImportFilesFailed,
    "rows_missing": ImportRowsMissing,
    "job_unknown": ImportJobUnknown,
    "unauthorized": ImportApiUnauthorized,
    "unreachable": ImportApiUnreachable,
    "setting_invalid": ImportSettingInvalid,
}
# What a good answer decided: the worker that resumes asks for the details.
_ANSWERED = ("open", "job_failed", "files_failed", "rows_missing")
_NOT_FINAL = ("unauthorized", "unreachable")
DEFAULT_DEFERRABLE = conf.getboolean("operators", "default_deferrable", fallback=False)


class ImportGateOperator(BaseSensorOperator):
    """What waits for an import job, on the worker or in the triggerer: the sensor, and the operators that wait.

    All of waiting is here and nothing of where the job comes from: who inherits sets `job_id`, at the latest in
    ``execute``, and then calls :meth:`_wait`. The parameters are those of :class:`ImportProgressSensor`.
    """

    ui_color = "#d7f0ef"
    # Of the class, because mapped tasks have none but these.
    operator_extra_links = (IMPORT_JOB_LINK,)
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
        super().__init__(poke_interval=poke_interval, timeout=timeout, **kwargs)
        self.job_id: Any = None
        self.cluster_id = cluster_id
        self.importprog_conn_id = importprog_conn_id
        self.wait_for = _validation.wait_for(wait_for)
        self.allow_failed_files = _validation.flag(allow_failed_files, "allow_failed_files")
        self.min_rows = _validation.min_rows(min_rows)
        self.refresh_load = _validation.flag(refresh_load, "refresh_load")
        self.stall_warning = _validation.seconds(stall_warning, "stall_warning")
        self.outage_tolerance = _validation.seconds(outage_tolerance, "outage_tolerance")
        self.unknown_job_grace = _validation.seconds(unknown_job_grace, "unknown_job_grace")
        self.deferrable = _validation.flag(deferrable, "deferrable")
        # Not under the parameter's name: Airflow refuses a DAG with that attribute where any listener is installed.
        self.ends_in_triggerer = _validation.flag(end_from_trigger, "end_from_trigger")
        self._start()

    def execute(self, context: Context) -> Any:
        """Wait on the worker, or ask once and then wait in the triggerer."""
        self._start()
        return self._wait(context)

    def _start(self) -> None:
        """Forget what an earlier call of ``execute`` left: nobody promises a new object for each."""
        self._gate: Gate | None = None
        self._store: GateStore | None = None
        self._delay = 0.0
        self._ended: Import | None = None
        self.job_page: str | None = None
        self.__dict__.pop("_hook", None)

    def _wait(self, context: Context) -> Any:
        with self._soft_failing():
            gate = self._begin(context)
            if self.deferrable:
                # A job that has ended never defers: the fewer quick deferrals, the fewer races in the scheduler.
                decision = self._ask(gate, context)
                if decision.verdict is Verdict.WAIT:
                    self._defer(gate, context)
                return self._conclude(decision, gate, context)
        return super().execute(context)

    def poke(self, context: Context) -> bool | PokeReturnValue:
        """Ask once."""
        with self._soft_failing():
            gate = self._gate or self._begin(context)
            decision = self._ask(gate, context)
            if self._forgets and gate.too_soon_unknown:
                # The next process would not know of this answer, and one alone decides nothing.
                time.sleep(decision.delay)
                decision = self._ask(gate, context)
            if decision.verdict is not Verdict.WAIT:
                return PokeReturnValue(True, self._conclude(decision, gate, context))
            self._delay = decision.delay
            if self._rescheduled and self._store is not None:
                self._store.save(gate.state)
            if gate.time_left <= 0:
                raise self._sensor_timeout()
            return False

    def execute_complete(
        self,
        context: Context,
        event: dict[str, Any] | None = None,
        started_at: float | None = None,
        job: dict[str, Any] | None = None,
        state: dict[str, Any] | None = None,
        try_started_at: float | None = None,
        **newer: Any,
    ) -> list[dict[str, Any]]:
        """Resume after the trigger's event: fetch the details, and open or fail.

        The event only wakes the gate. What it means is asked of the job as it is now, by the same verdict.

        :param started_at: when the gate began to wait, in seconds since the epoch.
        :param job: the import job's dict as this task saw it last before it deferred.
        :param state: what the gate had seen by then.
        :param try_started_at: when this try began, in seconds since the epoch.
        :param newer: what a newer release may say besides.
        """
        event = event or {}
        if _verdict_of(event) is Verdict.SETTING_INVALID and self.min_rows is None:
            # Only whether rows are counted is for the server to say.
            raise ImportSettingInvalid(str(event.get("message", "")), job=_job_of(job))
        self.job_id = event.get("job_id", self.job_id)
        gate = self._new_gate(GateState.from_dict(state, started_at), _job_of(job))
        told = Decision(_verdict_of(event), str(event.get("message", "")), gate.job)
        if self.silent_fail and told.verdict in _NOT_FINAL:
            told = replace(told, verdict=Verdict.WAIT)
        decision = self._ask_after(told, gate, context)
        if decision.verdict is Verdict.WAIT:
            self._defer(gate, context, try_started_at)
        return self._conclude(decision, gate, context)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Resume as any deferred task does, with ``soft_fail`` and the time-out as on the worker.

        The base class would skip over every error, an outage too, and on Airflow 2 retry after a time-out.
        """
        with self._soft_failing():
            if next_method == "__fail__" and "timeout" in str((next_kwargs or {}).get("error")).lower():
                return self._end_of_time(context)
            return super(BaseSensorOperator, self).resume_execution(next_method, next_kwargs, context)

    def _get_next_poke_interval(
        self, started_at: datetime | float, run_duration: Callable[[], float], poke_count: int
    ) -> float:
        """Return what the gate decided, and not the base class's own arithmetic, which a deferral cannot use."""
        return self._delay

    @cached_property
    def _hook(self) -> ImportProgressHook:
        return hook_of(self.importprog_conn_id, self.storage_conn_id)

    @property
    def _rescheduled(self) -> bool:
        """Whether each poke is a process of its own."""
        return bool(self.reschedule) and not self.deferrable

    @property
    def _forgets(self) -> bool:
        """Whether the next process will know nothing of what this one saw."""
        return self._rescheduled and (self._store is None or not self._store.lasts)

    @property
    def _policy(self) -> GatePolicy:
        return GatePolicy(
            wait_for=self.wait_for,
            allow_failed_files=self.allow_failed_files,
            min_rows=self.min_rows,
            poke_interval=self.poke_interval,
            # An outage that the next process does not know of cannot be counted.
            outage_tolerance=math.inf if self._forgets else self.outage_tolerance,
            unknown_job_grace=self.unknown_job_grace,
            stall_warning=self.stall_warning,
            exponential_backoff=bool(self.exponential_backoff),
            max_wait=self.max_wait.total_seconds() if self.max_wait else None,
            silent_fail=bool(self.silent_fail),
        )

    def _new_gate(self, state: GateState, job: ImportJob | None = None) -> Gate:
        # What templates rendered is checked here, once, before it goes anywhere.
        self.job_id = _validation.job_id(self.job_id)
        self.cluster_id = _validation.optional_text(self.cluster_id, "cluster_id")
        self.importprog_conn_id = _validation.conn_id(self.importprog_conn_id)
        return Gate(self.job_id, self._policy, log=self.log, state=state, job=job, timeout=self.timeout)

    def _begin(self, context: Context) -> Gate:
        """Begin to wait, or go on with what an earlier process or try began."""
        now = seconds_now()
        state = GateState(now)
        if self.deferrable or self._rescheduled:  # in a process that pokes on, each try counts its own time, as Airflow
            self._store = GateStore(context, self.retries or 0, self.log)
            state = self._store.load(now, self._rescheduled)
            self._store.save(state)
            if self._forgets and state.unknown_since is None:
                state = replace(state, unknown_since=state.started_at)
        gate = self._gate = self._new_gate(state)
        if not (self._rescheduled and self._begun(gate)):
            gate.announce()
        return gate

    def _begun(self, gate: Gate) -> bool:
        """Say whether this is not the first process of a rescheduled try. Before Airflow 3.3 only the time tells."""
        if self._store is not None and self._store.lasts:
            return self._store.begun
        return gate.waited > max(self.poke_interval, 1)

    def _ask(self, gate: Gate, context: Context, told: Decision | None = None) -> Decision:
        """Ask once.

        :param told: what the trigger decided before this task resumed, if it did.
        """
        try:
            job = self._progress(gate)
        except ImportProgressException as error:
            if told is not None and _still_holds(told, error):
                return told
            return gate.failed(error)
        self._show_link(context, job.collection_name)
        return gate.answered(job)

    def _progress(self, gate: Gate) -> ImportJob:
        return self._hook.get_import_progress(gate.job_id, self.cluster_id, two_phase=gate.policy.two_phase)

    def _show_link(self, context: Context, collection_name: str | None = None) -> None:
        if not self.job_page:
            self.job_page = IMPORT_JOB_LINK.show(context, self._hook, self.job_id, self.cluster_id, collection_name)

    def _ask_after(self, told: Decision, gate: Gate, context: Context) -> Decision:
        """Ask for the details, unless the trigger's event says all that can be known."""
        if told.verdict in (Verdict.JOB_UNKNOWN, Verdict.UNAUTHORIZED):
            return told
        # If the trigger's last answer was a good one, what was the matter before it is over.
        state = gate.state
        gate.state = state.without_trouble() if told.verdict in _ANSWERED else state.perhaps_known()
        decision = self._ask(gate, context, told)
        if told.verdict is Verdict.SETTING_INVALID and decision.verdict is Verdict.WAIT:
            return told  # what only the triggerer cannot do would defer and resume the task again and again
        if told.verdict is Verdict.OPEN and decision.verdict is Verdict.WAIT:
            self.log.warning("The gate was about to open (%s), but now it waits on.", told.message)
        return decision

    def _defer(self, gate: Gate, context: Context, try_started_at: float | None = None) -> NoReturn:
        from airflow_provider_importprog.triggers.import_progress import ImportProgressTrigger

        state, end = gate.state, self._plan_of_end(context, is_first_leg=try_started_at is None)
        try_started_at = min(try_started_at or state.asked_at or seconds_now(), _try_started_at(context) or math.inf)
        deadline, error = self._first_deadline(state.started_at, try_started_at)
        left = deadline - seconds_now()
        if left <= 0:
            raise error
        self.defer(
            trigger=ImportProgressTrigger.of(
                gate,
                cluster_id=self.cluster_id,
                importprog_conn_id=self.importprog_conn_id,
                abort_on_kill=self.abort_on_kill,
                storage_conn_id=self.storage_conn_id,
                end=end,
            ),
            method_name=self.execute_complete.__name__,
            kwargs={
                "started_at": state.started_at,
                "job": gate.job.summary() if gate.job else None,
                "state": state.to_dict(),
                "try_started_at": try_started_at,
            },
            timeout=timedelta(seconds=left),
        )

    def _plan_of_end(self, context: Context, *, is_first_leg: bool) -> dict[str, bool] | None:
        """Return how the triggerer ends the gate where it opens, or None where a worker does."""
        if not self.ends_in_triggerer:
            return None
        reason = _end_in_triggerer.why_resume(self, ImportGateOperator, context)
        if reason is None:
            return _end_in_triggerer.plan(self, context)
        if is_first_leg:
            self.log.info("end_from_trigger has no effect: %s. The gate resumes on a worker at its end.", reason)
        return None

    def _first_deadline(self, started_at: float, try_started_at: float) -> tuple[float, BaseException]:
        """Return when a deferred task ends at the latest, and the error that says why.

        Airflow 3 does not apply ``execution_timeout`` to a deferred task ("TODO: handle timeout in case of deferral"
        in its task_runner.py), so the deferral's own time-out does.

        :param started_at: when the gate began to wait; all times in seconds since the epoch.
        :param try_started_at: when this try began.
        """
        timeout = started_at + self.timeout
        if self.execution_timeout is None:
            return timeout, self._sensor_timeout()
        execution_timeout = try_started_at + self.execution_timeout.total_seconds()
        if timeout <= execution_timeout:
            return timeout, self._sensor_timeout()
        return execution_timeout, AirflowTaskTimeout(self._not_within("execution_timeout", self.execution_timeout))

    def _end_of_time(self, context: Context) -> list[dict[str, Any]]:
        """End a deferral that timed out: by the job's end if there is one by now, as a gate that pokes would see it.

        Airflow keeps nothing of a deferral that says which limit it was.

        :raises AirflowSensorTimeout: the job goes on, or nothing is known of it.
        :raises AirflowTaskTimeout: likewise, and the limit was ``execution_timeout``.
        """
        try_started_at = _try_started_at(context) or seconds_now()
        state = GateStore(context, self.retries or 0, self.log).load(try_started_at, self._rescheduled)
        error = self._first_deadline(state.started_at, try_started_at)[1]
        try:
            gate = self._new_gate(state)
            job = self._progress(gate)
        except ImportProgressException:
            raise error from None
        decision = gate.answered(job)
        if decision.verdict is Verdict.WAIT:
            raise error
        return self._conclude(decision, gate, context)

    def _sensor_timeout(self) -> AirflowSensorTimeout:
        return AirflowSensorTimeout(self._not_within("timeout", timedelta(seconds=self.timeout)))

    def _not_within(self, parameter: str, limit: timedelta) -> str:
        return (
            f"Import job {self.job_id} was not {self.wait_for} within {_messages.span(limit.total_seconds())} "
            f"({parameter}). It may still go on: clear this task to wait on, or raise its {parameter}."
        )

    def _conclude(self, decision: Decision, gate: Gate, context: Context) -> list[dict[str, Any]]:
        """Open the gate, or fail; either way push what is known of the job and say how it ended."""
        from airflow_provider_importprog._gate import XCOM_JOB_KEY, XCOM_RETURN_KEY

        job = decision.job
        files = [file.to_dict() for file in job.files] if job else []
        if job is not None and (ti := context.get("ti")):
            summary = job.summary()
            # For map_index_template, which Airflow renders again after execute.
            cast("Any", context)[XCOM_JOB_KEY] = summary
            ti.xcom_push(key=XCOM_JOB_KEY, value=summary)
            # What a deferral carried over holds no files, which is not to say that there were none.
            failed = decision.verdict in _ANSWERED and decision.verdict is not Verdict.OPEN
            if self.do_xcom_push and (failed or (files and decision.verdict is not Verdict.OPEN)):
                ti.xcom_push(key=XCOM_RETURN_KEY, value=files)
            if decision.verdict in _ANSWERED and job.collection_name:
                self._report(job, decision.verdict is Verdict.OPEN, context)
        if decision.verdict is Verdict.OPEN and job is not None:
            gate.opens(decision)
            self._refresh_load(job)
            self._warn_of_mapping(len(files), context)
            return files
        seen = f" ({_messages.progress(job, None)})" if job else ""
        self.log.error("The gate fails after %s%s. %s", _messages.span(gate.waited), seen, decision.message)
        if isinstance(decision.error, ImportSettingInvalid):
            decision.error.job = job
            raise decision.error  # it may be of a class of its own
        raise _EXCEPTIONS[decision.verdict](decision.message, job=job)

    def _report(self, job: ImportJob, opens: bool, context: Context) -> None:
        """Keep what OpenLineage will ask for, and tell the asset of the job's collection what came in."""
        from airflow_provider_importprog._lineage import Import

        collection = self._hook.collection(job.collection_name, self.cluster_id)
        if self.wait_for == "completed":  # else nobody sees the rows yet, and the commit reports
            self._ended = Import(job, collection)
        if opens:
            told = {
                "job_id": job.job_id,
                "imported_rows": job.imported_rows,
                "failed_files": len(job.failed_files),
            }
            for outlet in collection.among(self.outlets):
                context["outlet_events"][outlet].extra.update(told)

    def _sources(self, job: ImportJob) -> tuple[str, ...]:
        """Return what a job read, as far as it is known."""
        from airflow_provider_importprog import _lineage

        return tuple(source for file in job.files for source in _lineage.named_by(file.file_name))

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage[Any, Any]:
        """Return what OpenLineage is told of an import that this task has seen end.

        The OpenLineage provider finds it by its name, and calls it in a forked child: it asks nobody.
        """
        from airflow_provider_importprog import _lineage

        return _lineage.facets(self._ended, self._sources)

    def get_openlineage_facets_on_failure(self, task_instance: Any) -> OperatorLineage[Any, Any]:
        """Return the same of one whose end fails the task."""
        return self.get_openlineage_facets_on_complete(task_instance)

    def _refresh_load(self, job: ImportJob) -> None:
        """Ask the server, where that was asked for, to make the new rows of a loaded collection readable.

        Without it they may stay unreadable for a minute (milvus-io/milvus#37166). The import itself is done whatever
        comes of it, so no error of it fails the gate.
        """
        if not self.refresh_load:
            return
        collection = job.collection_name
        if job.state is not ImportState.COMPLETED:
            self.log.info(
                "refresh_load is of no use yet for collection %r: import job %s is %s, and its rows cannot be read "
                "before it is committed.",
                collection,
                job.job_id,
                job.state,
            )
            return
        try:
            self._hook.refresh_load(collection)
        except Exception as error:
            self.log.warning(
                "Collection %r was not refreshed: %s The gate opens all the same. If the collection is loaded, its new "
                "rows become readable by themselves, after a minute or so.",
                collection,
                error,
            )
        else:
            self.log.info(
                "Collection %r is asked to refresh, so that the new rows can be read soon. The server does not say "
                "when it is done.",
                collection,
            )

    def on_kill(self) -> None:
        """Say what becomes of the import job, and abort it where that was asked for."""
        if self.execution_timeout is not None and isinstance(sys.exc_info()[1], AirflowTaskTimeout):
            # Of a deferred task, Airflow 2.11 raises it without a log line, before it calls any other method.
            limit = _messages.span(self.execution_timeout.total_seconds())
            self.log.error("The task is over its execution_timeout (%s).", limit)
        job_id = None
        try:
            job_id = self._job_id_of_this_task()
            if job_id is not None and self.abort_on_kill:
                cluster_id = _validation.optional_text(self.cluster_id, "cluster_id")
                self._hook.abort_import_job(job_id, cluster_id)
        except Exception as error:
            self.log.warning("%s", _messages.task_ended(job_id, aborted=True, error=error))
        else:
            if job_id is not None:
                self.log.info("%s", _messages.task_ended(job_id, aborted=self.abort_on_kill))

    def _job_id_of_this_task(self) -> str | None:
        return None if self.job_id is None else str(self.job_id)

    def _warn_of_mapping(self, files: int, context: Context) -> None:
        """Say what Airflow is about to do and why, which its own error does not."""
        most = conf.getint("core", "max_map_length", fallback=1024)
        if files <= most or not self._is_mapped_over(context):
            return
        self.log.warning(
            "A task maps over the %s files that this one returns, and Airflow fails a task that returns more than %s "
            "to map over ([core] max_map_length): let a task cut the list into lists, or raise max_map_length.",
            f"{files:,}",
            f"{most:,}",
        )

    def _is_mapped_over(self, context: Context) -> bool:
        """Say whether a task maps over what this one returns, and Airflow checks how much that is."""
        ti = context.get("ti")
        # Of what a mapped task returns, Airflow checks nothing. One in a mapped group is none, which 2.11 does not say.
        mapped = getattr(ti, "is_mapped", getattr(ti, "map_index", -1) >= 0)
        return not mapped and self.get_dag() is not None and any(self.iter_mapped_dependants())

    @contextmanager
    def _soft_failing(self) -> Generator[None, None, None]:
        """Skip over what soft_fail and never_fail say, alike in every mode, and with the reason."""
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
    # Imported here, because the hook loads requests, which would slow each DAG file.
    from airflow_provider_importprog.hooks.import_progress import ImportProgressHook

    return ImportProgressHook(_validation.conn_id(importprog_conn_id), storage_conn_id)


def _try_started_at(context: Context) -> float | None:
    """Return when this try began, in seconds since the epoch: Airflow keeps it over a deferral."""
    date = getattr(context.get("ti"), "start_date", None)
    return date.timestamp() if isinstance(date, datetime) else None


def _still_holds(told: Decision, error: ImportProgressException) -> bool:
    """Say whether what a trigger decided holds although the worker has got an error and not the details."""
    if isinstance(error, ImportSettingInvalid):
        return False
    if isinstance(error, ImportJobUnknown):  # the server answers; of a job that failed, only the details are lost
        return told.verdict in _ANSWERED and told.verdict is not Verdict.OPEN
    return told.verdict in (Verdict.UNREACHABLE, Verdict.SETTING_INVALID)


def _verdict_of(event: dict[str, Any]) -> Verdict:
    """Return what an event says; of a newer release's word, that the gate is to ask for itself."""
    try:
        return Verdict(event.get("verdict"))
    except ValueError:
        return Verdict.WAIT


def _job_of(summary: Any) -> ImportJob | None:
    """Return the job that another process saw, or None where it cannot be read."""
    try:
        return ImportJob.from_summary(summary)
    except (KeyError, TypeError, ValueError):
        return None
