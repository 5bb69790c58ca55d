import pytest
from tests.airflow.harness import task
from tests.blackbox.server import JOB, v2_job, unknown_job

@pytest.mark.parametrize("how", [{}, {"mode": "reschedule"}, {"deferrable": True}])
def test_x(run, server, how):
    server.v2(v2_job(), v2_job(), v2_job("Completed"))
    ran = run(task("ImportProgressSensor", job_id=JOB, poke_interval=0.1, **how))
    print(ran.log)
    print(ran.states, ran.tries, ran.xcoms, ran.noted, ran.seconds, ran.exit_code)
    assert 0
