"""Each call in both dialects, request by request."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from airflow_provider_importprog.api import Address, ApiVersion, ImportState, NewImportJob, Request, Response
from airflow_provider_importprog.api.client import Probe
from airflow_provider_importprog.api.errors import (
    DialectNotServed,
    GaveUp,
    ImportApiError,
    JobUnknown,
    NotAuthenticated,
    NotPermitted,
    RateLimited,
    Redirected,
    Refused,
    ServerDown,
    UnexpectedAnswer,
    Unreachable,
    Unsupported,
)
from tests.unit.helpers import NOT_SERVED, Api, Server, good, raw, said

CLUSTER = "inxx-xxxxxxxxxxxxxxx"
LONG_ID = "job-xxxxxxxxxxxxxxxxxxxxxx"
# The answer in the seed document, to the letter (its job id is longer than the request's).
SEED_ANSWER = (
    b'{ "code": 200, "data": { "collectionName": "medium_articles", "fileName": '
    b'"1af78216-xxxx-xxxx-xxxx-2b0a73c566ed/1.parquet", "fileSize": 19599887, "readyPercentage": 0, "completeTime": '
    b'"Unknown type", "errorMessage": "Unknown type", "jobId": "job-xxxxxxxxxxxxxxxxxxxxxx", "details": [ { '
    b'"fileName": "1af78216-xxxx-xxxx-xxxx-2b0a73c566ed/1.parquet", "fileSize": 19599887, "readyPercentage": 0, '
    b'"completeTime": "Unknown type", "errorMessage": "Unknown type" } ] }}'
)
V2_ANSWER = (
    b'{"code": 0, "data": {"jobId": "4487", "collectionName": "c", "completeTime": "2024-05-18T03:00:22Z",'
    b'"state": "Completed", "progress": 100, "importedRows": 100000, "totalRows": 100000, "fileSize": 3279917,'
    b'"details": [{"fileName": "[a.parquet]", "fileSize": 3279917, "progress": 100, "state": "Completed",'
    b'"completeTime": "2024-05-18T03:00:53Z", "importedRows": 100000, "totalRows": 100000}]}}'
)
DONE = {"jobId": "1", "state": "Completed", "progress": 100, "completeTime": "2024-05-18T03:00:22Z"}
UNKNOWN = said(2100, "import job does not exist, jobID=1")
CUT_OFF = Unreachable("cut off")
V1 = "/v1/vector/collections/import"
V2 = "/v2/vectordb/jobs/import"
V1_GET, DESCRIBE = f"{V1}/get", f"{V2}/describe"


def api(version: ApiVersion = "auto", **address: str) -> Api:
    return Api(Address(**address), version)


class TestProgress:
    @pytest.mark.parametrize("version", ["auto", "v1"])
    @pytest.mark.parametrize(("cluster", "query"), [(CLUSTER, f"&clusterId={CLUSTER}"), (None, "")])
    def test_the_seeds_request_is_sent_to_the_letter(
        self, version: ApiVersion, cluster: str | None, query: str
    ) -> None:
        server = Server(raw(SEED_ANSWER))
        server.serve(api(version).progress(LONG_ID, cluster))
        assert server.asked == [Request("GET", f"{V1_GET}?jobId={LONG_ID}{query}", b"", {}, True, LONG_ID)]

    @pytest.mark.parametrize("nothing", [b'"Unknown type"', b"null"])
    def test_the_v1_sample_is_a_job_that_goes_on(self, nothing: bytes) -> None:
        answer = SEED_ANSWER.replace(b'"Unknown type"', nothing)
        job = Server(raw(answer)).serve(api("v1").progress(LONG_ID))
        (file,) = job.files
        assert file.file_name.endswith("/1.parquet")
        for one in (job, file):
            assert (one.state, one.progress, one.file_size) == (ImportState.IMPORTING, 0.0, 19599887)
            assert one.imported_rows is one.total_rows is one.complete_time is one.error_message is None

    def test_the_v2_sample_is_a_completed_job(self) -> None:
        server = Server(raw(V2_ANSWER))
        both = {
            "state": "completed", "progress": 100.0, "file_size": 3279917, "imported_rows": 100000,
            "total_rows": 100000, "error_message": None,
        }  # fmt: skip
        file = {**both, "file_name": "[a.parquet]", "complete_time": "2024-05-18T03:00:53+00:00"}
        assert server.serve(api("v2").progress("4487")).to_dict() == {
            **both, "job_id": "4487", "collection_name": "c", "complete_time": "2024-05-18T03:00:22+00:00",
            "files": [file],
        }  # fmt: skip
        assert server.asked == [Request("POST", DESCRIBE, b'{"jobId": "4487"}', {}, True, "4487")]

    @pytest.mark.parametrize("code", [0, 200])
    @pytest.mark.parametrize("version", ["v1", "v2"])
    def test_both_success_codes_mean_success(self, version: ApiVersion, code: int) -> None:
        assert Server(good(DONE, code)).serve(api(version).progress("1")).state is ImportState.COMPLETED

    @pytest.mark.parametrize(("given", "asked"), [(None, "c-default"), ("", "c-default"), ("c-2", "c-2")])
    def test_a_calls_cluster_wins_over_the_connections(self, given: str | None, asked: str) -> None:
        server = Server(good(DONE), good(DONE))
        for version in ("v2", "v1"):
            server.serve(api(version, cluster_id="c-default").progress("1", given))
        assert server.bodies[0] == {"jobId": "1", "clusterId": asked}
        assert server.asked[1].target.endswith(f"?jobId=1&clusterId={asked}")

    def test_the_database_travels_in_a_header_on_v2_only(self) -> None:
        server = Server(NOT_SERVED, good(DONE))
        server.serve(api(db_name="sales").progress("1"))
        assert [request.headers for request in server.asked] == [{}, {"DB-Name": "sales"}]

    def test_an_id_is_percent_encoded_into_a_v1_query(self) -> None:
        server = Server(good({}))
        server.serve(api("v1").progress("a&b=c/ü d"))
        assert server.asked[0].target == f"{V1_GET}?jobId=a%26b%3Dc%2F%C3%BC+d"

    def test_an_older_milvus_is_asked_on_its_own_path_and_from_then_on(self) -> None:
        server = Server(NOT_SERVED, NOT_SERVED, UNKNOWN, good(DONE), good(DONE))
        either = api()
        with pytest.raises(JobUnknown):
            server.serve(either.progress("1"))
        server.serve(either.progress("1", two_phase=True))
        server.serve(either.progress("1"))
        assert server.paths == [V1_GET, DESCRIBE, *[f"{V2}/get_progress"] * 3]
        assert server.bodies[3] == {"jobId": "1"}

    def test_a_server_in_trouble_settles_no_path(self) -> None:
        server = Server(NOT_SERVED, raw(b"", 502), good(DONE))
        milvus = api("v2")
        with pytest.raises(ServerDown):
            server.serve(milvus.progress("1"))
        server.serve(milvus.progress("1"))
        assert server.paths[2:] == [DESCRIBE]

    def test_two_phase_is_asked_only_in_a_dialect_that_shows_it_and_all_calls_share_what_is_learned(self) -> None:
        server = Server(good(DONE), NOT_SERVED, good(DONE), good(DONE))
        either = api()
        for two_phase in (True, False, True):
            server.serve(either.progress("1", two_phase=two_phase))
        assert server.paths == [DESCRIBE, V1_GET, DESCRIBE, DESCRIBE]


class TestWhichDialect:
    @pytest.mark.parametrize("answer", [good(DONE), UNKNOWN], ids=["a job", "an unknown job"])
    def test_auto_uses_v2_where_v1_is_not_served_and_stays_with_it(
        self, answer: Response, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        server = Server(NOT_SERVED, answer, good(DONE), good(DONE))
        either = api()
        if answer is UNKNOWN:
            with pytest.raises(JobUnknown):
                server.serve(either.progress("1"))
        while server.script:
            assert server.serve(either.progress("1")).state is ImportState.COMPLETED
        assert server.paths == [V1_GET, *[DESCRIBE] * 3]
        assert [record.message for record in caplog.records] == [
            "This server does not serve the v1 import API; using v2."
        ]

    @pytest.mark.parametrize(
        ("second", "error"),
        [
            (raw(b"<html>bad gateway</html>", 502), ServerDown),
            (raw(b"", 302), Redirected),
            (raw(b"<html>welcome</html>"), UnexpectedAnswer),
            (said(1800, "who are you"), NotAuthenticated),
            (said(1807, "slow down"), RateLimited),
            (said(1100, "odd"), Refused),
            (CUT_OFF, Unreachable),
            (good({"state": 5}), UnexpectedAnswer),
        ],
        ids=lambda value: value.__name__ if isinstance(value, type) else "",
    )
    def test_without_a_real_answer_of_v2_nothing_is_concluded(
        self, second: Response | Exception, error: type[ImportApiError], caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        server = Server(NOT_SERVED, second, good(DONE))
        either = api()
        with pytest.raises(error) as raised:
            server.serve(either.progress("1"))
        assert type(raised.value) is error
        assert server.serve(either.progress("1")).state is ImportState.COMPLETED
        assert server.paths[2] == V1_GET
        assert not caplog.records

    def test_where_neither_is_served_the_error_names_both_paths(self) -> None:
        with pytest.raises(DialectNotServed) as raised:
            Server(NOT_SERVED, NOT_SERVED, NOT_SERVED).serve(api().progress("1"))
        assert str(raised.value) == (
            f"The server does not serve {V1_GET} (HTTP 404). The server does not serve {DESCRIBE} (HTTP 404)."
        )

    @pytest.mark.parametrize("answer", [UNKNOWN, raw(b"", 500), raw(b"", 401), said(1100, "odd"), CUT_OFF])
    def test_any_other_trouble_with_v1_does_not_lead_to_v2(self, answer: Response | Exception) -> None:
        server = Server(answer)
        with pytest.raises(ImportApiError):
            server.serve(api().progress("1"))
        assert len(server.asked) == 1

    @pytest.mark.parametrize("version", ["v1", "v2"])
    def test_a_chosen_dialect_is_the_only_one_asked(self, version: ApiVersion) -> None:
        server = Server(NOT_SERVED, NOT_SERVED)
        with pytest.raises(DialectNotServed):
            server.serve(api(version).progress("1"))
        assert all(path.startswith(f"/{version}/") for path in server.paths)

    @pytest.mark.parametrize(
        "answer",
        [
            said(5, "Not Found", 404),
            raw(b'{"kind": "Status", "code": 404, "message": "not found"}', 404),
            said(1100, "nothing here", 404),
            said(404, "import job does not exist", 404),
        ],
        ids=["gateway", "Kubernetes", "the API's", "unknown job"],
    )
    def test_a_404_of_any_kind_on_v1_leads_to_v2(self, answer: Response) -> None:
        server = Server(answer, good(DONE))
        assert server.serve(api().progress("1")).state is ImportState.COMPLETED

    def test_a_job_that_v1_does_not_know_settles_no_dialect(self) -> None:
        unknown = Response(404, {}, UNKNOWN.body)
        server = Server(unknown, UNKNOWN, good(DONE), unknown, NOT_SERVED)
        either = api()
        with pytest.raises(JobUnknown):
            server.serve(either.progress("1"))
        server.serve(either.progress("1"))
        with pytest.raises(JobUnknown):  # where v2 is not served either
            server.serve(either.progress("1"))
        assert server.paths == [V1_GET, DESCRIBE, V1_GET, V1_GET, DESCRIBE]


class TestList:
    @staticmethod
    def page(*numbers: int, **more: Any) -> Response:
        return good({"records": [{"jobId": n, "state": "Importing", "collectionName": "c"} for n in numbers], **more})

    @pytest.mark.parametrize(
        "pages",
        [
            [page(*range(100)), page(*range(100, 200)), page(200)],
            # Short ones, as many as it takes to reach what the server counts.
            [page(*range(80), count=201), page(*range(80, 160), count=201), page(*range(160, 201), count=201)],
            # "Total number of records listed in this response": docs.zilliz.com/reference/restful/list-import-jobs-v2
            [page(*range(100), count=100), page(*range(100, 200), count=100), page(200, count=1)],
        ],
        ids=["full", "short", "counted one by one"],
    )
    def test_pages_are_asked_until_there_is_no_more(self, pages: list[Response]) -> None:
        server = Server(*pages)
        jobs = server.serve(api("v2", db_name="sales").list_jobs("c", "cluster")).jobs
        assert [job.job_id for job in jobs] == [str(n) for n in range(201)]
        assert server.bodies == [
            {"collectionName": "c", "dbName": "sales", "clusterId": "cluster", "pageSize": 100, "currentPage": page}
            for page in (1, 2, 3)
        ]

    @pytest.mark.parametrize(("held", "asked"), [(250, 1), (100, 2), (3, 1), (0, 1)])
    def test_milvus_ignoring_the_paging_gives_every_job_once(self, held: int, asked: int) -> None:
        server = Server(*[self.page(*range(held))] * asked)
        assert len(server.serve(api("v2").list_jobs()).jobs) == held
        assert not server.script

    def test_a_server_that_counts_more_than_it_has_is_not_asked_for_ever(self) -> None:
        server = Server(*[good({"count": 1000, "tasks": [{"jobId": "1", "state": "ImportRunning"}]})] * 2)
        assert len(server.serve(api("v1").list_jobs()).jobs) == 1
        assert not server.script

    def test_v1_is_asked_by_query_and_shows_no_progress_until_the_end(self) -> None:
        tasks = [{"jobId": name, "collectionName": name[0], "state": name[1:]} for name in (
            "cImportRunning", "cImportCompleted", "cImportFailed", "dImportCompleted")]  # fmt: skip
        server = Server(good({"count": 4, "tasks": tasks}))
        jobs = server.serve(api("v1", cluster_id="x").list_jobs("c")).jobs
        assert [job.job_id for job in jobs] == ["cImportRunning", "cImportCompleted", "cImportFailed"]
        assert [(job.progress, job.files) for job in jobs] == [(0.0, ()), (100.0, ()), (0.0, ())]
        assert server.asked == [Request("GET", f"{V1}/list?clusterId=x&pageSize=100&currentPage=1")]


class TestProbe:
    EMPTY, NOT_PERMITTED = good({"records": []}), said(1401, "no")

    @pytest.mark.parametrize(
        "answer", [UNKNOWN, said(1100, "odd"), said(2100, "parse job id failed"), good(DONE | {"jobId": "0"})]
    )
    def test_it_asks_for_what_gates_and_operators_use(self, answer: Response) -> None:
        server = Server(NOT_SERVED, answer, self.EMPTY)
        found = server.serve(api().probe())
        assert isinstance(found["v1"].progress, DialectNotServed)
        assert found["v2"] == Probe(None, None)
        assert server.paths == [V1_GET, DESCRIBE, f"{V2}/list"]
        assert server.bodies[1:] == [{"jobId": "0"}, {"pageSize": 1, "currentPage": 1}]

    @pytest.mark.parametrize(
        ("answers", "progress", "listing"),
        [
            ([NOT_SERVED, UNKNOWN, EMPTY], None, None),  # the older path
            ([NOT_PERMITTED, EMPTY], NotPermitted, None),
            ([UNKNOWN, NOT_PERMITTED], None, NotPermitted),
            ([raw(b"", 502)], ServerDown, None),  # it is asked no more
        ],
        ids=["older", "no progress", "no list", "down"],
    )
    def test_what_is_not_served_or_permitted_is_told_apart(
        self, answers: list[Response], progress: Any, listing: Any
    ) -> None:
        found = Server(*answers).serve(api("v2").probe())["v2"]
        for came, error in ((found.progress, progress), (found.listing, listing)):
            assert came is None if error is None else isinstance(came, error)


class TestRefreshLoad:
    @pytest.mark.parametrize("version", ["auto", "v2"])
    def test_it_is_asked_on_v2(self, version: ApiVersion) -> None:
        server = Server(good({}))
        server.serve(api(version, db_name="d", cluster_id="x").refresh_load("c"))
        path, body = "/v2/vectordb/collections/refresh_load", b'{"collectionName": "c", "dbName": "d"}'
        assert server.asked == [Request("POST", path, body, {"DB-Name": "d"}, False)]

    @pytest.mark.parametrize(
        ("version", "answers", "error", "words"),
        [
            ("v1", [], Unsupported, "v1 API cannot refresh"),
            ("auto", [NOT_SERVED], Unsupported, r"refresh_load \(HTTP 404\).*control plane of Zilliz Cloud"),
            ("auto", [said(101, "collection not fully loaded")], Refused, "not fully loaded"),
        ],
    )
    def test_where_it_cannot(self, version: ApiVersion, answers: list[Response], error: Any, words: str) -> None:
        with pytest.raises(error, match=words):
            Server(*answers).serve(api(version).refresh_load("c"))


class TestCreate:
    def test_v1_takes_one_object(self) -> None:
        server = Server(good({"jobId": "job-9"}, 200))
        new = NewImportJob("c", "p", object_urls=[["s3://b/1.json"]], access_key="ak", secret_key="sk")
        assert server.serve(api("v1", cluster_id="x").create(new)) == "job-9"
        assert server.bodies == [
            {"clusterId": "x", "collectionName": "c", "partitionName": "p", "objectUrl": "s3://b/1.json",
             "accessKey": "ak", "secretKey": "sk"},
        ]  # fmt: skip
        assert (server.asked[0].method, server.asked[0].target) == ("POST", V1)

    @pytest.mark.parametrize(
        ("new", "named"),
        [
            (NewImportJob("c", files=[["a"]]), "files"),
            (NewImportJob("c", object_urls=[["a"], ["b"]]), "2 objects"),
            (NewImportJob("c", object_urls=[["a", "b"]]), "2 objects"),
            (NewImportJob("c", volume_name="v", data_paths=[["d"]]), "volume_name, data_paths"),
            (NewImportJob("c", object_urls=[["a"]], options={"timeout": "300s"}), "options"),
            (NewImportJob("c", object_urls=[["a"]], session_token="t"), "session_token"),
        ],
        ids=["files", "two objects", "two in one", "volume", "options", "session token"],
    )
    def test_what_only_v2_takes_is_unsupported_on_v1_and_goes_to_v2_by_itself(
        self, new: NewImportJob, named: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        nothing_sent = Server()
        with pytest.raises(Unsupported, match=named):
            nothing_sent.serve(api("v1").create(new))
        assert nothing_sent.asked == []

        server = Server(good({"jobId": "1"}), good(DONE))
        either = api()
        assert server.serve(either.create(new)) == "1"
        server.serve(either.progress("1"))
        assert server.paths == [f"{V2}/create", V1_GET]
        assert not caplog.records

    def test_no_secret_shows_in_what_stands_for_a_new_job(self) -> None:
        server = Server(good({"jobId": "1"}))
        new = NewImportJob("c", object_urls=[["u"]], access_key="AKIA", secret_key="hush", session_token="sesame")
        server.serve(api("v2").create(new))
        for shown in (repr(new), repr(server.asked[0])):
            assert not any(secret in shown for secret in ("AKIA", "hush", "sesame"))

    @pytest.mark.parametrize("version", ["v1", "v2"])
    @pytest.mark.parametrize("data", [None, {}, {"jobId": None}, {"jobId": True}, {"jobId": ""}, [], "1"])
    def test_an_answer_without_an_id_is_not_what_the_api_promises(self, data: Any, version: ApiVersion) -> None:
        with pytest.raises(UnexpectedAnswer):
            Server(good(data)).serve(api(version).create(NewImportJob("c", object_urls=[["u"]])))


@pytest.mark.parametrize("verb", ["commit", "abort"])
class TestCommitAndAbort:
    @staticmethod
    def end(verb: str, *answers: Response | Exception, version: ApiVersion = "v2") -> list[str]:
        server = Server(*answers)
        server.serve(getattr(api(version), verb)("1"))
        return server.paths

    def test_auto_goes_straight_to_v2(self, verb: str) -> None:
        assert self.end(verb, good(None), version="auto") == [f"{V2}/{verb}"]

    @pytest.mark.parametrize(
        ("version", "answers", "error", "words"),
        [
            ("v1", [], Unsupported, r"Milvus 3\.0"),  # nothing is sent
            ("auto", [NOT_SERVED] * 3, DialectNotServed, "Milvus 3.0 .* does not serve .*/{verb}"),
            ("v2", [NOT_SERVED, good(DONE)], Unsupported, r"Two-phase imports need Milvus 3\.0"),
            ("v2", [NOT_SERVED, UNKNOWN], Unsupported, r"Two-phase imports need Milvus 3\.0"),
            ("auto", [UNKNOWN], JobUnknown, "no record"),
            # Where the job cannot be asked for, it stays in doubt.
            *[("v2", [said(10001, "timeout", 408), progress], GaveUp, "code 10001")
              for progress in (raw(b"", 502), UNKNOWN, CUT_OFF)],
        ],
    )  # fmt: skip
    def test_where_it_cannot(
        self, verb: str, version: ApiVersion, answers: list[Response | Exception], error: Any, words: str
    ) -> None:
        with pytest.raises(error, match=words.replace("{verb}", verb)):
            self.end(verb, *answers, version=version)

    @pytest.mark.parametrize(
        "trouble", [said(10001, "t", 408), said(10000, "c"), said(65535, "raw"), raw(b"", 502), CUT_OFF]
    )
    @pytest.mark.parametrize("state", ["Uncommitted", "Committing", "Completed", "Failed"])
    def test_where_it_is_in_doubt_the_job_says_whether_it_was_done(
        self, verb: str, trouble: Response | Exception, state: str
    ) -> None:
        job = good({"jobId": "1", "state": state})
        if state in {"commit": ("Committing", "Completed"), "abort": ("Failed",)}[verb]:
            assert self.end(verb, trouble, job) == [f"{V2}/{verb}", DESCRIBE]
        else:
            with pytest.raises(ImportApiError, match=rf"Import job 1 is {state.lower()}; whether the {verb}") as raised:
                self.end(verb, trouble, job)
            assert raised.value.in_doubt

    @pytest.mark.parametrize(
        "answer",
        [raw(b"", 503), raw(b"", 429), said(2100, "reached the limit"), said(1401, "no"), Unreachable("x", False)],
    )
    def test_what_was_not_done_for_sure_is_not_asked_for(self, verb: str, answer: Response | Exception) -> None:
        with pytest.raises(ImportApiError) as raised:
            self.end(verb, answer)
        assert not raised.value.in_doubt
