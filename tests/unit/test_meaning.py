"""What an answer means, by its status, its code and its words: these decide no final verdict but one."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_importprog.api import Request
from airflow_provider_importprog.api.errors import (
    DialectNotServed,
    GaveUp,
    ImportApiError,
    JobIdInvalid,
    JobUnknown,
    NotAuthenticated,
    NotPermitted,
    RateLimited,
    Refused,
    ServerDown,
    TargetMissing,
)
from airflow_provider_importprog.api.protocol import read
from tests.unit.helpers import raw, said

JOB = "job-1"
V1 = Request("GET", f"/v1/vector/collections/import/get?jobId={JOB}", job_id=JOB)
V2 = Request("POST", "/v2/vectordb/jobs/import/describe", headers={"DB-Name": "shop"}, job_id=JOB)
OF_NO_JOB = Request("POST", "/v2/vectordb/jobs/import/create", headers={"DB-Name": "shop"})
HTML = b"<html>Bad Gateway</html>"
GONE = f"import job does not exist, jobID={JOB}: importing data failed"
NO_ID = f'parse job id failed, err=%w strconv.ParseInt: parsing "{JOB}": invalid syntax'
STATUSES = (200, 400, 404, 500)

# Status, code, message.
MEANINGS: dict[type[ImportApiError], list[tuple[int, Any, str]]] = {
    JobUnknown: [
        *[(status, code, GONE) for status in STATUSES for code in (2100, 2101, "2100", 1100, 65535)],
        (404, 404, f"import job {JOB} does not exist"),
        (200, 5, "no such import job"),
        (200, 5, "Cannot find import task"),
        (200, 5, f"import-job [{JOB}] not exist"),
        (200, 5, "import task with id: 7 was not found"),
        (404, 5, f"'{JOB}'?"),
    ],
    JobIdInvalid: [
        *[(status, code, NO_ID) for status in (200, 400, 500) for code in (2100, 2101, 1100)],
        (200, 1100, "bad job id"),
        (200, 1100, f"bad value {JOB}."),
    ],
    TargetMissing: [
        *[(status, 800, "database not found[database=shop]") for status in STATUSES],
        *[(status, 100, f"collection not found, {GONE}") for status in STATUSES],
    ],
    NotAuthenticated: [
        (status, code, GONE) for status in STATUSES for code in (1400, 1800, 21119, 80001, 80002, "21119")
    ],
    NotPermitted: [
        *[(status, 1401, GONE) for status in STATUSES],
        (200, 65535, "rpc error: code = PermissionDenied desc = no privilege DescribeImport"),
        (200, 65535, "no privilege"),
        (500, 65535, "permission deny"),
    ],
    RateLimited: [
        *[(status, code, GONE) for status in (200, 429, 500) for code in (4, 8, 9, 1807)],
        (400, 2100, "has reached the limit"),
    ],
    GaveUp: [
        *[(status, code, GONE) for status in (200, 408, 499, 500) for code in (2, 10000, 10001)],
        (200, 65535, "rpc error: code = DeadlineExceeded desc = context deadline exceeded"),
        (408, 5, "x"),
        (499, 5, "x"),
    ],
    ServerDown: [*[(status, 1, GONE) for status in (200, 400, 500)], (503, 5, "service not found"), (599, 0, "x")],
    DialectNotServed: [
        (404, 404, "route not found"),
        (404, 5, "Not Found"),
        (404, 999, "x"),
        (404, 5, f"no {JOB}-2, no x/{JOB}, no {JOB}.json"),
    ],
    Refused: [
        (200, 901, "node not found[node=7]"),
        (200, 2100, "importing data failed: node not found[node=7]"),
        (400, 2101, "node not found[node=7]"),
        (404, 2100, "collection not found[collection=books]"),
        (404, 1000, "x"),
        (405, 5, "x"),
        (200, 404, "route not found"),
        (200, 4040, "Token not found"),
        (404, 4040, "Token not found"),
        (200, 5, "no such import job's node"),
        (200, 2100, f"bad value {JOB}"),
        (200, 5, NO_ID),
        (200, 1801, "bad JSON"),
    ],
}


@pytest.mark.parametrize("request_", [V1, V2], ids=["v1", "v2"])
@pytest.mark.parametrize(
    ("kind", "status", "code", "message"),
    [(kind, *answer) for kind, answers in MEANINGS.items() for answer in answers],
    ids=lambda value: value.__name__ if isinstance(value, type) else None,
)
def test_an_answer_about_a_job(
    kind: type[ImportApiError], status: int, code: Any, message: str, request_: Request
) -> None:
    with pytest.raises(ImportApiError) as caught:
        read(request_, said(code, message, status))
    assert type(caught.value) is kind
    assert caught.value.http_status == status
    if kind is TargetMissing:
        assert ("'shop'" in str(caught.value) and "db_name" in str(caught.value)) or request_ is V1


@pytest.mark.parametrize("code", [2100, 1100])
@pytest.mark.parametrize("message", [GONE, NO_ID])
def test_an_answer_about_no_job_is_never_that_it_is_unknown(code: int, message: str) -> None:
    with pytest.raises(Refused):
        read(OF_NO_JOB, said(code, message))


IN_DOUBT = [(raw(HTML, status), True) for status in (200, 408, 499, 500, 502, 504)]
IN_DOUBT += [(raw(HTML, status), False) for status in (302, 404, 405, 410, 429, 501, 503)]
IN_DOUBT += [(said(10001, "x"), True), (said(2100, "reached the limit"), False), (said(7, "x"), False)]


@pytest.mark.parametrize(("answer", "in_doubt"), IN_DOUBT)
def test_whether_it_may_have_been_done(answer: Any, in_doubt: bool) -> None:
    with pytest.raises(ImportApiError) as caught:
        read(OF_NO_JOB, answer)
    assert caught.value.in_doubt is in_doubt
