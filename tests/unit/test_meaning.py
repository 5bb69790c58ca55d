"""What an answer means, by its status, its code and its words: these decide no final verdict but one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
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


def each(statuses: Sequence[int], codes: Sequence[Any], *messages: str) -> list[tuple[int, Any, str]]:
    return list(product(statuses, codes, messages))


MEANINGS: dict[type[ImportApiError], list[tuple[int, Any, str]]] = {
    JobUnknown: each(STATUSES, [2100, 2101, "2100", 1100, 65535], GONE)
    + each([404], [5, 404], f"import job {JOB} does not exist", f"'{JOB}'?")
    + each([200], [5], "no such import job", "Cannot find import task", f"import-job [{JOB}] not exist")
    + each([200], [5], "import task with id: 7 was not found"),
    JobIdInvalid: each([200, 400, 500], [2100, 2101, 1100], NO_ID)
    + each([200], [1100], "bad job id", f"bad value {JOB}."),
    TargetMissing: each(STATUSES, [800, 100], "database not found[database=shop]", f"collection not found, {GONE}"),
    NotAuthenticated: each(STATUSES, [1400, 1800, 21119, 80001, 80002, "21119"], GONE),
    NotPermitted: each(STATUSES, [1401], GONE)
    + each([200, 500], [65535], "rpc error: code = PermissionDenied desc = x", "no privilege", "permission deny"),
    RateLimited: each([200, 429, 500], [4, 8, 9, 1807], GONE) + each([200, 400], [2100, 2101], "has reached the limit"),
    GaveUp: each([200, 408, 499, 500], [2, 10000, 10001], GONE)
    + each([200, 500], [65535], "rpc error: code = DeadlineExceeded desc = context deadline exceeded")
    + each([408, 499], [5], "x"),
    ServerDown: each([200, 400, 500], [1], GONE) + each([503, 599], [0, 5], "service not found"),
    DialectNotServed: each([404], [5, 404, 999], "route not found", f"no {JOB}-2, no x/{JOB}, no {JOB}.json"),
    Refused: each([200, 400], [901, 2100, 2101], "node not found[node=7]", "import task failed: collection not found")
    + each([404], [1000, 2100, 4040], "collection not found[collection=books]", "Token not found")
    + each([200], [404, 1801, 4040], "route not found", "Token not found")
    + each([200, 405], [5], "no such import job's node", NO_ID)
    + each([200], [2100], f"bad value {JOB}"),
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
