"""Gates that wait for jobs which a test submits, and ends."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_importprog.sensors.import_progress import ImportProgressSensor
from tests.e2e.cases import ENDINGS, MODES

# More than are needed: on a slow machine Airflow loses one after the other (see `ended` in the harness).
RETRIES: dict[str, Any] = {"retries": 8, "retry_delay": timedelta(seconds=1)}
WAITS: dict[str, Any] = {"importprog_conn_id": "e2e", "poke_interval": 5, "timeout": 600, "unknown_job_grace": 3}


def gate(task_id: str, mode: str, **kwargs: Any) -> ImportProgressSensor:
    """Return a gate that waits in a mode for the job that the run's conf has for it."""
    return ImportProgressSensor(
        task_id=task_id,
        job_id=f"{{{{ dag_run.conf['{task_id}'] }}}}",
        mode="reschedule" if mode == "reschedule" else "poke",
        deferrable=mode == "deferrable",
        **{**WAITS, **RETRIES, **kwargs},
    )


@task
def conf(name: str, dag_run: Any = None) -> Any:
    """Return what the run's conf has under a name, as a task does that submits jobs."""
    return dag_run.conf[name]


@task
def take(file: dict[str, Any]) -> dict[str, Any]:
    """Hand back what came, with the types it came in."""
    return {"file": file, "types": {name: type(value).__name__ for name, value in file.items()}}


@task
def count(gates: Any) -> list[int]:
    """Count the files of each gate."""
    return [len(files) for files in gates]


@task
def in_lists(files: list[dict[str, Any]], size: int = 5000) -> list[list[dict[str, Any]]]:
    """Cut a list into lists."""
    return [files[first : first + size] for first in range(0, len(files), size)]


@task
def process(files: list[dict[str, Any]]) -> list[str]:
    """Say which files came."""
    return [file["file_name"] for file in files]


# The modes beside each other: for what accidents and people do to them, and for each way to end.
with DAG("waiting", schedule=None, catchup=False):
    for mode in MODES:
        gate(mode, mode)

with DAG("deferred", schedule=None, catchup=False):
    gate("gate", "deferrable")

with DAG("ending", schedule=None, catchup=False):
    for mode in MODES:
        for ending in ENDINGS:
            gate(f"{mode}_{ending}", mode)
    gate("too_late", "deferrable", timeout=12)
    gate("cut_short", "deferrable", execution_timeout=timedelta(seconds=14), retries=0)

with DAG("mapped", schedule=None, catchup=False):
    jobs, label = conf("jobs"), "{{ import_job.job_id }}: {{ import_job.state }}"
    gates = ImportProgressSensor.partial(task_id="gates", deferrable=True, map_index_template=label, **WAITS, **RETRIES)
    count(gates.expand(job_id=jobs).output)
    ImportProgressSensor.partial(task_id="rescheduled", mode="reschedule", **WAITS, **RETRIES).expand(job_id=jobs)
    take.expand(file=gate("gate", "deferrable", allow_failed_files=True).output)

# More files than Airflow maps over; the two gates share a list of jobs.
with DAG("many_files", schedule=None, catchup=False):
    process.expand(files=in_lists(gate("gate", "deferrable", importprog_conn_id="e2e_listed").output))

with DAG("too_many_files", schedule=None, catchup=False):
    process.expand(files=gate("gate", "deferrable", importprog_conn_id="e2e_listed", retries=0).output)

# Gates that end in the triggerer where they open, and gates that resume all the same.
ENDS: dict[str, Any] = {"deferrable": True, "end_from_trigger": True, **WAITS, **RETRIES}

with DAG("in_triggerer", schedule=None, catchup=False):
    gates = ImportProgressSensor.partial(task_id="gates", **ENDS)
    count(gates.expand(job_id=conf("jobs")).output)
    take.expand(file=gate("gate", "deferrable", end_from_trigger=True, allow_failed_files=True).output)
    gate("quiet", "deferrable", end_from_trigger=True, do_xcom_push=False)
    gate("called_back", "deferrable", end_from_trigger=True, on_success_callback=print)
    gate("fails", "deferrable", end_from_trigger=True)
    process.expand(files=gate("too_many", "deferrable", end_from_trigger=True, retries=0).output)

with DAG("killed_in_triggerer", schedule=None, catchup=False):
    ImportProgressSensor.partial(task_id="gates", **ENDS).expand(job_id=conf("jobs"))


with DAG("planting", schedule=None, catchup=False):

    @task
    def plant(dag_run: Any = None) -> str:
        """Leave a secret where secrets must not be, for the search to find: log it, and return it in disguise."""
        print(f"the secret is {dag_run.conf['secret']}")  # noqa: T201
        return f"root:{dag_run.conf['secret']}".encode().hex()

    plant()
