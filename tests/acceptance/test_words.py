"""Issue 9, section 1: words decide no final verdict."""

from __future__ import annotations

import pytest

from airflow_provider_importprog.exceptions import (
    ImportApiUnauthorized,
    ImportApiUnreachable,
    ImportProgressException,
)
from tests.acceptance.helpers import GAVE_UP, says
from tests.blackbox.driver import Connect, Gate
from tests.blackbox.server import (
    JOB,
    V2_DESCRIBE,
    Answer,
    ScriptedServer,
    v2_job,
)

GONE = f"import job does not exist, jobID={JOB}: importing data failed"
KUBERNETES = {
    "kind": "Status",
    "apiVersion": "v1",
    "status": "Failure",
    "message": 'services "milvus" not found',
    "reason": "NotFound",
    "code": 404,
}
NO_ID = f'parse job id failed, err=%w strconv.ParseInt: parsing "{JOB}": invalid syntax'

NOT_UNKNOWN = {
    "database": says(800, "database not found[database=shop]"),
    "database on 400": says(800, "database not found[database=shop]", 400),
    "database on 404": says(800, "database not found[database=shop]", 404),
    "collection": says(100, "collection not found[database=shop][collection=books]"),
    "collection on 404": says(100, "collection not found[database=shop][collection=books]", 404),
    "node": says(901, "node not found[node=7]"),
    "node under 2100": says(2100, "importing data failed: node not found[node=7]"),
    "node under 2101": says(2101, "node not found[node=7]", 400),
    "collection under 2100 on 404": says(2100, "collection not found[collection=books]", 404),
    "route": says(404, "route not found", 404),
    "route on 200": says(404, "route not found"),
    "gateway": says(5, "Not Found", 404),
    "gateway with details": Answer({"code": 5, "message": "Not Found", "details": []}, 404),
    "Kubernetes": Answer(KUBERNETES, 404),
    "token": says(4040, "Token not found"),
    "token on 404": says(4040, "Token not found", 404),
}


@pytest.fixture(autouse=True)
def _v2(connect: Connect) -> None:
    connect({"api_version": "v2", "db_name": "shop"})


@pytest.mark.parametrize("answer", NOT_UNKNOWN.values(), ids=NOT_UNKNOWN)
def test_a_gate_sits_it_out(server: ScriptedServer, gate: Gate, answer: Answer) -> None:
    server.v2(answer, answer, v2_job("Completed"))
    assert gate.run(outage_tolerance=60)


@pytest.mark.parametrize("code", [100, 800])
@pytest.mark.parametrize("mode", ["poke", "deferrable"])
def test_a_missing_database_is_named_when_the_outage_was_too_long(server: ScriptedServer, mode: str, code: int) -> None:
    server.v2(says(code, "database not found[database=shop]"))
    with pytest.raises(ImportApiUnreachable, match="db_name"):
        Gate(mode).run(outage_tolerance=0.2)


@pytest.mark.parametrize("code", [21119, 80001, 80002])
def test_a_gate_fails_at_once_over_them(server: ScriptedServer, gate: Gate, code: int) -> None:
    server.v2(v2_job(), says(code, "Token not found", 404))
    with pytest.raises(ImportApiUnauthorized):
        gate.run(outage_tolerance=2, unknown_job_grace=2, timeout=2)


@pytest.mark.parametrize("answer", [says(2100, NO_ID), says(2100, NO_ID, 400), says(1100, NO_ID)])
def test_an_id_that_no_server_can_parse(server: ScriptedServer, gate: Gate, answer: Answer) -> None:
    server.v2(answer)
    with pytest.raises(ImportProgressException, match=JOB) as caught:
        gate.run(outage_tolerance=2, unknown_job_grace=2, timeout=2)
    assert not isinstance(caught.value, ImportApiUnreachable)
    assert len(server.to(V2_DESCRIBE)) == 1


RATE = {f"{code} on {status}": says(code, "slow down", status) for code in (4, 8, 9, 1807) for status in (200, 429)}


@pytest.mark.parametrize("answer", [GAVE_UP["408"], GAVE_UP["10000"], RATE["4 on 200"]])
def test_for_a_gate_that_is_an_outage(server: ScriptedServer, gate: Gate, answer: Answer) -> None:
    server.v2(v2_job(), answer, answer, v2_job("Completed"))
    assert gate.run(outage_tolerance=60)
