"""What an answer means, by its status, its code and its words, and what is said of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from itertools import product
from typing import Any

import pytest

from airflow_provider_importprog.api import Request, Response
from airflow_provider_importprog.api.errors import (
    DialectNotServed,
    GaveUp,
    ImportApiError,
    JobIdInvalid,
    JobUnknown,
    NotAuthenticated,
    NotPermitted,
    RateLimited,
    Redirected,
    Refused,
    ServerDown,
    TargetMissing,
    UnexpectedAnswer,
)
from airflow_provider_importprog.api.protocol import read
from tests.unit.helpers import NOT_SERVED, raw, said

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
    assert not isinstance(caught.value, Refused) or caught.value.code == code
    if kind is TargetMissing:
        assert ("'shop'" in str(caught.value) and "db_name" in str(caught.value)) or request_ is V1


@pytest.mark.parametrize("code", [2100, 1100])
@pytest.mark.parametrize("message", [GONE, NO_ID])
def test_an_answer_about_no_job_is_never_that_it_is_unknown(code: int, message: str) -> None:
    with pytest.raises(Refused):
        read(OF_NO_JOB, said(code, message))


GOOD, KUBERNETES = b'{"code": 0, "data": {}}', b'{"kind": "Status", "code": 404, "message": "job-1 not found"}'
BODIES: dict[type[ImportApiError], list[Response]] = {
    NotAuthenticated: [raw(b"", 401), raw(HTML, 401)],
    NotPermitted: [raw(b"", 403)],
    RateLimited: [raw(b"", 429)],
    GaveUp: [raw(HTML, 408)],
    ServerDown: [raw(b"", 500), raw(HTML, 502), raw(GOOD, 503)],
    Redirected: [raw(b"", 301, location="https://x/"), raw(b"", 307), raw(GOOD, 308)],
    DialectNotServed: [NOT_SERVED, raw(b'{"error": "Not Found"}', 404), raw(KUBERNETES, 404)]
    + [raw(b"", status) for status in (405, 410, 501)],
    Refused: [said(0, "odd", 400), said(200, "odd", 422), said(-1, "odd"), raw(b'{"code": "1100"}')],
    UnexpectedAnswer: [raw(HTML), raw(HTML, 400), raw(b""), raw(b"", 204), raw(b"\xff\xfe\0"), raw(b"[" * 100_000)]
    + [raw(body) for body in (b"[]", b"{}", b'{"code": null}', b'{"code": "zero"}', b'{"code": false}')]
    + [raw(b'{"code": %s}' % code) for code in (b"0.0", b'"\xc2\xb2"', b"9" * 10_000, b'"%s"' % (b"9" * 5000))],
}


@pytest.mark.parametrize(("kind", "answer"), [(kind, answer) for kind, answers in BODIES.items() for answer in answers])
def test_an_answer_without_words_of_the_api(kind: type[ImportApiError], answer: Response) -> None:
    with pytest.raises(ImportApiError) as caught:
        read(V1, answer)
    assert type(caught.value) is kind
    assert str(caught.value)


@pytest.mark.parametrize(
    ("body", "status", "data"),
    [
        (b'{"code": 0, "data": [1]}', 201, [1]),
        (b'{"code": 200, "data": 1, "message": "import job does not exist"}', 299, 1),
        (b'{"code": "0", "data": 1}', 200, 1),
        (b'{"code": 200}', 200, None),
    ],
)
def test_a_good_answer_is_any_2xx_with_a_good_code(body: bytes, status: int, data: Any) -> None:
    assert read(V1, raw(body, status)) == data


IN_DOUBT = [(raw(HTML, status), True, False) for status in (200, 408, 499, 500, 502, 504)]
IN_DOUBT += [(raw(HTML, status), False, status == 429) for status in (302, 404, 405, 410, 429, 501, 503)]
IN_DOUBT += [(raw(HTML, 503, retry_after="1"), False, True), (raw(HTML, 502, retry_after="1"), True, False)]
IN_DOUBT += [(said(10001, "x"), True, False), (said(10001, "x", 503), True, False), (said(1, "x"), True, False)]
IN_DOUBT += [(said(2100, "reached the limit"), False, True), (said(7, "x"), False, False)]


@pytest.mark.parametrize(("answer", "in_doubt", "nothing_done"), IN_DOUBT)
def test_whether_it_may_have_been_done(answer: Response, in_doubt: bool, nothing_done: bool) -> None:
    with pytest.raises(ImportApiError) as caught:
        read(OF_NO_JOB, answer)
    error = caught.value
    assert (error.in_doubt, error.nothing_done, error.http_status) == (in_doubt, nothing_done, answer.status)


NO_DATABASE = Request("POST", "/v2/vectordb/jobs/import/describe", job_id="7")
LONG = "w" * 100_000


@pytest.mark.parametrize(
    ("request_", "response", "words"),
    [
        (NO_DATABASE, said(800, "x"), "has no database 'default': x. Create it, or correct db_name"),
        (V2, said(800, "x"), "has no database 'shop': x. Create it"),
        (V2, said(100, "x"), "no such collection in database 'shop': x. Create it, or correct its name"),
        (V1, said(100, "x"), "no such collection: x. Create it, or correct the collection's name"),
        (NO_DATABASE, raw(b"", 403), "to do this. No db_name is set"),
        (NO_DATABASE, said(1401, "x"), "x. No db_name is set"),
        (NO_DATABASE, said(65535, "no privilege"), "set db_name in the connection's extra"),
        (NO_DATABASE, said(1100, "row 7 is bad"), "refused the request"),  # every number is an id
        (V2, said(1401, "x"), "to do this: x$"),
        (V1, said(1401, "x"), "to do this: x$"),
        (V1, said(2100, f"import job {JOB} does not exist"), f"no record of import job {JOB}: import job {JOB}"),
        (V1, said(9, "x"), "quota is used up: x"),
        (V1, said(2100, "reached the limit"), "as many import jobs as it takes"),
        (V1, said(10001, "x", 408), r"own time limit was over \(code 10001, HTTP 408\): x"),
        (V2, said(1100, f"invalid value [actual={JOB}]"), f"'{JOB}' is not the id of an import job"),
        (V1, raw(HTML), "it begins with «<html>Bad Gateway</html>»"),
        (V1, raw(b" \n"), r"its body is empty\.$"),
        (V1, raw(b'{"code": 7, "message": "half \\ud800 pair\\u0000"}'), r": half \? pair$"),
        (V1, said(1100, "bad\n  field\0 x", 400), r"refused the request with code 1100 \(HTTP 400\): bad field x$"),
        *[(V1, raw(b'{"code": 7, "message": %s}' % message), r"^The .* refused the request with code 7 \(HTTP 200\)\.$")
          for message in (b"7", b"null", b'["import job does not exist"]', b"{}")],
        *[(V1, response, r"w{200}…|w{500}…") for response in (
            said(1100, LONG), said(1807, LONG), said(1, LONG, 500), raw(LONG.encode(), 500), raw(LONG.encode()))],
        (V1, raw(b'{"code": %s}' % (b"9" * 4000)), "code 9"),
        (V1, raw(b"", 302, location=f"https://{'h' * 60_000}/"), "to https://h"),
    ],
)  # fmt: skip
def test_the_sentence_says_what_to_mend_and_is_cut(request_: Request, response: Response, words: str) -> None:
    with pytest.raises(ImportApiError, match=words) as caught:
        read(request_, response)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        *[(value, float(value)) for value in ("0", "7", " 120 ", "3600")],
        *[(value, None) for value in ("", "-5", "1.5", "soon", "²", "nan", "inf")],
        *[(value, 3600.0) for value in ("3601", "9" * 400, "Wed, 21 Oct 9999 07:28:00 GMT")],
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Wed, 21 Oct 2015 07:28:00 -0000", None),
        ("Wed, 99 Oct 2015 07:28:00 GMT", None),
        pytest.param(
            format_datetime(datetime.now(timezone.utc) + timedelta(seconds=1800), usegmt=True),
            pytest.approx(1000, abs=800),  # the suite takes minutes
            id="in half an hour",
        ),
    ],
)
@pytest.mark.parametrize("response", [raw(b"", 429), said(1807, "slow"), raw(HTML, 503)])
def test_how_long_a_server_asks_to_wait(response: Response, value: str, seconds: float | None) -> None:
    for headers, expected in (({"retry-after": value}, seconds), ({}, None)):
        with pytest.raises((RateLimited, ServerDown)) as caught:
            read(V1, Response(response.status, headers, response.body))
        assert caught.value.retry_after == expected


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("https://login.example.com/sso?ticket=hush", " to https://login.example.com (HTTP 302)"),
        ("https://u:hush@h.example.com:8443/x", " to https://h.example.com (HTTP 302)"),
        ("//h.example.com/hush", " to h.example.com (HTTP 302)"),
        ("/hush", "redirects (HTTP 302)"),
        ("", "redirects (HTTP 302)"),
        ("http://[::1/hush", "redirects (HTTP 302)"),
    ],
    ids=["elsewhere", "with a password", "without a scheme", "here", "nowhere", "broken"],
)
def test_of_a_redirect_is_said_where_to_and_not_more(location: str, shown: str) -> None:
    with pytest.raises(Redirected) as caught:
        read(V1, raw(b"", 302, location=location))
    sentence = str(caught.value)
    assert shown in sentence
    assert "hush" not in sentence
    assert sentence.endswith("put the final URL into the connection's host.")
