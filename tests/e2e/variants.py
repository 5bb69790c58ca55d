"""Gates without what keeps Airflow's race away, to measure what that is worth."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import TriggerEvent

from airflow_provider_importprog.sensors.import_progress import ImportProgressSensor
from airflow_provider_importprog.triggers.import_progress import ImportProgressTrigger

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

# Whether the sensor polls before it defers, and whether the trigger sleeps before it polls.
VARIANTS = {
    "both": (True, True),
    "first_poll_only": (True, False),
    "sleep_only": (False, True),
    "neither": (False, False),
}
# Seconds between two polls, the default among them.
INTERVALS = (1, 5, 30)


class EagerTrigger(ImportProgressTrigger):
    """Polls at once."""

    async def run(self) -> AsyncIterator[TriggerEvent]:
        gate = self._gate()
        decision = await self._wait(gate)
        event = {"job_id": gate.job_id, "verdict": decision.verdict.value, "message": decision.message}
        yield TriggerEvent(event)  # type: ignore[no-untyped-call]  # Airflow's own is untyped


class RacingSensor(ImportProgressSensor):
    """A gate with both, either or none of the two.

    :param variant: a key of `VARIANTS`.
    """

    def __init__(self, *, variant: str = "both", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.variant = variant

    def execute(self, context: Context) -> Any:
        if not VARIANTS[self.variant][0]:
            self._defer(self._begin(context), context)
        return super().execute(context)

    def defer(self, *, trigger: Any, **kwargs: Any) -> Any:
        if not VARIANTS[self.variant][1]:
            trigger = EagerTrigger(**trigger.serialize()[1])
        return super().defer(trigger=trigger, **kwargs)
