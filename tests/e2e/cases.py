"""What DAG files and tests both read."""

from __future__ import annotations

MODES = ("poke", "reschedule", "deferrable")
ENDINGS = ("opens", "job_failed", "files_failed")

# Who waits for a job that `submitting` submits: the task on its worker, the task in the triggerer, or a gate after it.
SUBMITTERS = ("worker", "deferrable", "gate")

# Tasks that a person ends: whether they wait in the triggerer, and whether that aborts their job.
KILLED = {
    f"{'triggerer' if deferrable else 'worker'}_{'aborts' if aborts else 'lets_go_on'}": (deferrable, aborts)
    for deferrable in (False, True)
    for aborts in (False, True)
}

# Where a deferred gate ends, in the measurement of that, and how many workers there are.
ENDS = ("worker", "triggerer")
WORKERS = 24
