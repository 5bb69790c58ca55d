"""What a gate remembers over processes and tries, in what each Airflow has for that."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from airflow_provider_importprog._gate import GateState, Logger

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

STORE_KEY = "importprog_gate"


class GateStore:
    """Keeps a gate's state in Airflow's ``task_state_store``, which 3.3 and later have.

    It outlives a process, a try and also the clearing of a task: so what is kept says to which try it belongs. The
    start is kept over tries, for ``timeout`` counts from the first of them; an outage ends with its try.

    :param retries: of the task.
    """

    def __init__(self, context: Context, retries: int, log: Logger) -> None:
        ti: Any = context.get("ti")
        self._ti = ti
        self._context = context
        self._log = log
        self._store: Any = context.get("task_state_store")
        self._try = getattr(ti, "try_number", 1)
        # As Airflow's own sensors count in reschedule mode: clearing a task raises its max_tries.
        self._first_try = (getattr(ti, "max_tries", 0) or 0) - retries + 1
        self._kept: dict[str, Any] = {}
        #: Whether an earlier process of this try had begun to wait, as far as is known.
        self.begun = False

    @property
    def lasts(self) -> bool:
        """Whether what is saved here will be there for the next process."""
        return self._store is not None

    def load(self, started_at: float, rescheduled: bool) -> GateState:
        """Return what was saved, or the state of a gate that begins to wait.

        :param started_at: now, for a gate that does.
        :param rescheduled: whether each poke of this task is a process of its own.
        """
        kept = self._load()
        if kept.get("first_try") == self._first_try:
            state = GateState.from_dict(kept.get("state"), kept.get("started_at"))
            self.begun = kept.get("try") == self._try
            return state if self.begun else GateState(state.started_at)
        first = self._first_start_of_airflow(rescheduled)
        return GateState(started_at if first is None else first)

    def save(self, state: GateState) -> None:
        """Save what a gate has seen, where there is something new."""
        if self._store is None:
            return
        # When it asked last is of no use to a process that Airflow starts when the next poll is due.
        new = {
            "first_try": self._first_try,
            "try": self._try,
            "started_at": state.started_at,
            "state": replace(state, asked_at=None, delay=None).to_dict(),
        }
        if new == self._kept:
            return
        try:
            self._store.set(STORE_KEY, new)
        except Exception as error:
            self._give_up(error)
        else:
            self._kept = new

    def _load(self) -> dict[str, Any]:
        if self._store is None:
            return {}
        try:
            kept = self._store.get(STORE_KEY)
        except Exception as error:
            self._give_up(error)
            return {}
        self._kept = kept if isinstance(kept, dict) else {}
        return self._kept

    def _give_up(self, error: Exception) -> None:
        self._store = None
        self._log.warning(
            "Airflow's task state store cannot be used (%s): this process of the gate remembers nothing of the "
            "earlier ones, and the next ones nothing of this.",
            type(error).__name__,
        )

    def _first_start_of_airflow(self, rescheduled: bool) -> float | None:
        """Return when Airflow itself knows that the gate began to wait, or None."""
        if not hasattr(self._ti, "get_first_reschedule_date"):  # Airflow 2
            return self._first_start_of_airflow_2(rescheduled)
        # What BaseSensorOperator.execute counts its own timeout from, which must not be over before ours. Airflow 3
        # forgets a try's reschedules at the next one: this is of this try alone.
        return (
            _seconds(self._ti.get_first_reschedule_date(self._context) or self._ti.start_date) if rescheduled else None
        )

    def _first_start_of_airflow_2(self, rescheduled: bool) -> float | None:
        if self._try > self._first_try and (first := _first_start_in_history(self._ti, self._first_try)) is not None:
            return first
        # Airflow 2 keeps the first poke's date as the task instance's own.
        return _seconds(self._ti.start_date) if rescheduled else None


def _first_start_in_history(ti: Any, first_try: int) -> float | None:
    """Return when the first of a task's tries began. On Airflow 2 alone, whose workers reach the database."""
    try:
        from airflow.models.taskinstancehistory import TaskInstanceHistory as History
        from airflow.utils.session import create_session

        with create_session() as session:
            first = (
                session.query(History.start_date)
                .filter(
                    History.dag_id == ti.dag_id,
                    History.task_id == ti.task_id,
                    History.run_id == ti.run_id,
                    History.map_index == ti.map_index,
                    History.try_number >= first_try,
                )
                .order_by(History.try_number)
                .first()
            )
    except Exception:
        return None  # this try's own start will do
    return _seconds(first[0]) if first else None


def _seconds(date: Any) -> float | None:
    return date.timestamp() if isinstance(date, datetime) else None
