"""Every gate of the matrix: DAG file and test read the same list."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

MODES = ("poke", "reschedule", "deferrable")
ENDINGS = (
    "opens",
    "job_failed",
    "files_failed",
    "files_failed_allowed",
    "unknown",
    "unauthorized",
    "unreachable",
    "timeout",
)
RETRIES = 2


@dataclass(frozen=True)
class Case:
    """One gate.

    :param mode: how it waits.
    :param ending: what becomes of its job, or of the way to it.
    """

    mode: str
    ending: str
    soft_fail: bool

    @property
    def task_id(self) -> str:
        return f"{self.mode}__{self.ending}__{'soft' if self.soft_fail else 'hard'}"

    @property
    def poke_interval(self) -> float:
        """Seconds: longer where each poke is a process, for the scheduler to keep up on a busy machine."""
        return 6 if self.mode == "reschedule" else 2

    @property
    def timeout(self) -> float:
        """Seconds: short where the gate can end in no other way."""
        return 18 if self.ends_by_timeout else 600

    @property
    def ends_by_timeout(self) -> bool:
        """In reschedule mode nothing else bounds an outage."""
        return self.ending == "timeout" or (self.mode, self.ending) == ("reschedule", "unreachable")

    @property
    def is_final(self) -> bool:
        """Whether no retry can change how it ends."""
        return self.ends_by_timeout or self.ending in ("job_failed", "files_failed", "unknown")

    @property
    def state(self) -> str:
        """The state that the task instance must end in."""
        if self.ending in ("opens", "files_failed_allowed"):
            return "success"
        return "skipped" if self.soft_fail and self.is_final else "failed"

    @property
    def tries(self) -> int:
        """How often it must have been tried."""
        return 1 if self.state != "failed" or self.is_final else 1 + RETRIES


CASES = [Case(*each) for each in product(MODES, ENDINGS, (False, True))]

# Who waits for a job that `creating` submits: the task on its worker, the task in the triggerer, or a gate after it.
CREATING = ("worker", "deferrable", "gate")

# Tasks that a person ends: whether they wait in the triggerer, and whether that aborts their job.
ENDED = {
    f"{'triggerer' if deferrable else 'worker'}_{'aborts' if aborts else 'lets_go_on'}": (deferrable, aborts)
    for deferrable in (False, True)
    for aborts in (False, True)
}
