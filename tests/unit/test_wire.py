"""Both dialects, request by request and answer by answer."""

from __future__ import annotations

import json
import logging
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any

import pytest

from airflow_provider_importprog.api import (
    Address,
    ApiVersion,
    ImportState,
    NewImportJob,
    Request,
    Response,
)
from airflow_provider_importprog.api.client import Probe
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
    Unreachable,
    Unsupported,
)
from airflow_provider_importprog.api.protocol import read
from tests.unit.helpers import NOT_SERVED, Api, Server, good, raw, said

SEED_JOB = "job-xxxxxxxxxxxxxxxxxx"
SEED_CLUSTER = "inxx-xxxxxxxxxxxxxxx"
# The answer in the seed document, to the letter (its job id is longer than the request's).
SEED_ANSWER = (
    b'{ "code": 200, "data": { "collectionName": "medium_articles", "fileName": '
    b'"1af78216-xxxx-xxxx-xxxx-2b0a73c566ed/1.parquet", "fileSize": 19599887, "readyPercentage": 0, "completeTime": '
    b'"Unknown type", "errorMessage": "Unknown type", "jobId": "job-xxxxxxxxxxxxxxxxxxxxxx", "details": [ { '
    b'"fileName": "1af78216-xxxx-xxxx-xxxx-2b0a73c566ed/1.parquet", "fileSize": 19599887, "readyPercentage": 0, '
    b'"completeTime": "Unknown type", "errorMessage": "Unknown type" } ] }}'
)
V1_ANSWER = (
    b'{"code": 200, "data": {"collectionName": "medium_articles", "fileName": "1af7/1.parquet", "fileSize": 19599887,'
    b'"readyPercentage": 0, "completeTime": null, "errorMessage": null, "jobId": "job-xxxxxxxxxxxxxxxxxxxxxx",'
    b'"details": [{"fileName": "1af7/1.parquet", "fileSize": 19599887, "readyPercentage": 0,'
    b'"completeTime": null, "errorMessage": null}]}}'
)
V2_ANSWER = (
    b'{"code": 0, "data": {"jobId": "4487", "collectionName": "c", "completeTime": "2024-05-18T03:00:22Z",'
    b'"state": "Completed", "progress": 100, "importedRows": 100000, "totalRows": 100000, "fileSize": 3279917,'
    b'"details": [{"fileName": "[a.parquet]", "fileSize": 3279917, "progress": 100, "state": "Completed",'
    b'"completeTime": "2024-05-18T03:00:53Z", "importedRows": 100000, "totalRows": 100000}]}}'
)
DONE = {"jobId": "1", "state": "Completed", "progress": 100}
NO_JOB = "import job does not exist, jobID=1"
V1_GET = "/v1/vector/collections/import/get"
V2 = "/v2/vectordb/jobs/import"
DESCRIBE = f"{V2}/describe"


def api(version: ApiVersion = "auto", **address: str) -> Api:
    return Api(Address(**address), version)


class TestSamples:
    @pytest.mark.parametrize("version", ["auto", "v1"])
    def test_the_seeds_request_is_sent_to_the_letter(self, version: ApiVersion) -> None:
        server = Server(raw(SEED_ANSWER.replace(b"job-xxxxxxxxxxxxxxxxxxxxxx", SEED_JOB.encode())))
        server.serve(api(version).progress(SEED_JOB, SEED_CLUSTER))
        assert server.asked == [
            Request(
                "GET",
                f"/v1/vector/collections/import/get?jobId={SEED_JOB}&clusterId={SEED_CLUSTER}",
                b"",
                {},
                True,
                SEED_JOB,
            )
        ]

    @pytest.mark.parametrize("answer", [SEED_ANSWER, V1_ANSWER], ids=["seed", "with nulls"])
    def test_the_v1_sample_is_a_job_that_goes_on(self, answer: bytes) -> None:
        job = Server(raw(answer)).serve(api("v1").progress("job-xxxxxxxxxxxxxxxxxxxxxx"))
        (file,) = job.files
        assert file.file_name.endswith("/1.parquet")
        for one in (job, file):
            assert (one.state, one.progress, one.file_size) == (ImportState.IMPORTING, 0.0, 19599887)
            assert one.imported_rows is one.total_rows is one.complete_time is one.error_message is None

    def test_the_v2_sample_is_a_completed_job(self) -> None:
        server = Server(raw(V2_ANSWER))
        job = server.serve(api("v2").progress("4487"))
        assert job.to_dict() == {
            "job_id": "4487",
            "collection_name": "c",
            "state": "completed",
            "progress": 100.0,
            "file_size": 3279917,
            "imported_rows": 100000,
            "total_rows": 100000,
            "complete_time": "2024-05-18T03:00:22+00:00",
            "error_message": None,
            "files": [
                {
                    "file_name": "[a.parquet]",
                    "file_size": 3279917,
                    "state": "completed",
                    "progress": 100.0,
                    "imported_rows": 100000,
                    "total_rows": 100000,
                    "complete_time": "2024-05-18T03:00:53+00:00",
                    "error_message": None,
                }
            ],
        }
        assert server.asked == [
            Request("POST", "/v2/vectordb/jobs/import/describe", b'{"jobId": "4487"}', {}, True, "4487")
        ]

    @pytest.mark.parametrize("code", [0, 200])
    @pytest.mark.parametrize("version", ["v1", "v2"])
    def test_both_success_codes_mean_success(self, version: ApiVersion, code: int) -> None:
        data = {"jobId": "1", "state": "Completed", "completeTime": "2024-05-18T03:00:22Z"}
        job = Server(good(data, code)).serve(api(version).progress("1"))
        assert job.state is ImportState.COMPLETED


class TestAddressing:
    def test_without_a_cluster_v1_leaves_the_parameter_out(self) -> None:
        server = Server(raw(SEED_ANSWER))
        server.serve(api("v1").progress("job-xxxxxxxxxxxxxxxxxxxxxx"))
        assert server.asked[0].target == "/v1/vector/collections/import/get?jobId=job-xxxxxxxxxxxxxxxxxxxxxx"

    @pytest.mark.parametrize(
        ("given", "asked"), [(None, "c-default"), ("", "c-default"), ("c-2", "c-2")], ids=["none", "blank", "another"]
    )
    def test_a_calls_cluster_wins_over_the_connections(self, given: str | None, asked: str) -> None:
        server = Server(good(DONE), good(DONE | {"completeTime": None}))
        server.serve(api("v2", cluster_id="c-default").progress("1", given))
        server.serve(api("v1", cluster_id="c-default").progress("1", given))
        assert server.bodies[0] == {"jobId": "1", "clusterId": asked}
        assert server.asked[1].target.endswith(f"?jobId=1&clusterId={asked}")

    def test_the_database_travels_in_a_header_on_v2_only(self) -> None:
        server = Server(NOT_SERVED, good(DONE))
        server.serve(api(db_name="sales").progress("1"))
        assert [request.headers for request in server.asked] == [{}, {"DB-Name": "sales"}]

    def test_an_id_is_percent_encoded_into_a_v1_query(self) -> None:
        server = Server(good({"completeTime": None}))
        server.serve(api("v1").progress("a&b=c/ü d"))
        assert server.asked[0].target == "/v1/vector/collections/import/get?jobId=a%26b%3Dc%2F%C3%BC+d"


class TestWhichDialect:
    def test_auto_uses_v2_where_v1_is_not_served_and_stays_with_it(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        server = Server(NOT_SERVED, good(DONE), good(DONE), good(DONE))
        either = api()
        for _ in range(3):
            assert server.serve(either.progress("1")).state is ImportState.COMPLETED
        assert server.paths == ["/v1/vector/collections/import/get", *["/v2/vectordb/jobs/import/describe"] * 3]
        assert [record.message for record in caplog.records] == [
            "This server does not serve the v1 import API; using v2."
        ]

    def test_an_unknown_job_on_v2_settles_the_dialect_too(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        server = Server(NOT_SERVED, said(1100, NO_JOB), good(DONE))
        either = api()
        with pytest.raises(JobUnknown):
            server.serve(either.progress("1"))
        server.serve(either.progress("1"))
        assert server.paths[2:] == ["/v2/vectordb/jobs/import/describe"]
        assert len(caplog.records) == 1

    @pytest.mark.parametrize(
        ("second", "error"),
        [
            (raw(b"<html>bad gateway</html>", 502), ServerDown),
            (raw(b"", 302), Redirected),
            (raw(b"<html>welcome</html>"), UnexpectedAnswer),
            (said(1800, "who are you"), NotAuthenticated),
            (said(1807, "slow down"), RateLimited),
            (said(1100, "odd"), Refused),
            (Unreachable("cut off"), Unreachable),
            (good({"state": 5}), UnexpectedAnswer),
        ],
        ids=lambda value: value.__name__ if isinstance(value, type) else "",
    )
    def test_without_a_real_answer_of_v2_nothing_is_concluded(
        self, second: Response | Exception, error: type[ImportApiError], caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        server = Server(NOT_SERVED, second, good({"jobId": "1", "completeTime": "2024-05-18T03:00:22Z"}))
        either = api()
        with pytest.raises(error) as raised:
            server.serve(either.progress("1"))
        assert type(raised.value) is error
        assert server.serve(either.progress("1")).state is ImportState.COMPLETED
        assert server.paths[2] == "/v1/vector/collections/import/get"
        assert not caplog.records

    def test_where_neither_is_served_the_error_names_both_paths(self) -> None:
        with pytest.raises(DialectNotServed) as raised:
            Server(NOT_SERVED, NOT_SERVED, NOT_SERVED).serve(api().progress("1"))
        assert str(raised.value) == (
            "The server does not serve /v1/vector/collections/import/get (HTTP 404). "
            "The server does not serve /v2/vectordb/jobs/import/describe (HTTP 404)."
        )

    @pytest.mark.parametrize(
        ("answer", "error"),
        [
            (said(2100, NO_JOB), JobUnknown),
            (raw(b"", 500), ServerDown),
            (raw(b"", 401), NotAuthenticated),
            (said(1100, "odd"), Refused),
            (Unreachable("cut off"), Unreachable),
        ],
        ids=["unknown job", "server down", "unauthenticated", "refused", "unreachable"],
    )
    def test_any_other_trouble_with_v1_does_not_lead_to_v2(
        self, answer: Response | Exception, error: type[ImportApiError]
    ) -> None:
        server = Server(answer)
        with pytest.raises(error):
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

    def test_where_v2_is_not_served_either_the_answer_of_v1_stands(self) -> None:
        with pytest.raises(JobUnknown):
            Server(said(2100, NO_JOB, 404), NOT_SERVED, NOT_SERVED).serve(api().progress("1"))

    def test_a_job_that_v1_does_not_know_settles_no_dialect(self) -> None:
        server = Server(said(2100, NO_JOB, 404), said(2100, NO_JOB), good(DONE | {"completeTime": None}))
        either = api()
        with pytest.raises(JobUnknown):
            server.serve(either.progress("1"))
        server.serve(either.progress("1"))
        assert server.paths[2] == V1_GET


class TestList:
    @staticmethod
    def records(*numbers: int) -> Response:
        return good({"records": [{"jobId": str(n), "state": "Importing", "collectionName": "c"} for n in numbers]})

    def test_pages_are_asked_until_one_is_not_full(self) -> None:
        server = Server(self.records(*range(100)), self.records(*range(100, 200)), self.records(200))
        jobs = server.serve(api("v2", db_name="sales").list_jobs("c", "cluster")).jobs
        assert [job.job_id for job in jobs] == [str(n) for n in range(201)]
        assert server.bodies == [
            {"collectionName": "c", "dbName": "sales", "clusterId": "cluster", "pageSize": 100, "currentPage": page}
            for page in (1, 2, 3)
        ]

    @pytest.mark.parametrize(("held", "asked"), [(250, 1), (100, 2), (3, 1), (0, 1)])
    def test_milvus_ignoring_the_paging_gives_every_job_once(self, held: int, asked: int) -> None:
        server = Server(*[self.records(*range(held))] * asked)
        assert len(server.serve(api("v2").list_jobs()).jobs) == held
        assert not server.script

    def test_short_pages_are_asked_until_there_are_as_many_as_the_server_counts(self) -> None:
        def page(first: int) -> Response:
            return good({"count": 5, "records": [{"jobId": n, "state": "Importing"} for n in (first, first + 1)]})

        server = Server(page(0), page(2), page(4))
        jobs = server.serve(api("v2").list_jobs()).jobs
        assert [job.job_id for job in jobs] == ["0", "1", "2", "3", "4", "5"]

    def test_a_count_of_the_records_in_this_answer_ends_nothing(self) -> None:
        # "Total number of records listed in this response": docs.zilliz.com/reference/restful/list-import-jobs-v2
        full = [{"jobId": n, "state": "Importing"} for n in range(150)]
        server = Server(good({"count": 100, "records": full[:100]}), good({"count": 50, "records": full[100:]}))
        assert len(server.serve(api("v2").list_jobs()).jobs) == 150

    def test_a_server_that_counts_more_than_it_has_is_not_asked_for_ever(self) -> None:
        one = good({"count": 1000, "tasks": [{"jobId": "1", "state": "ImportRunning"}]})
        server = Server(one, one)
        assert len(server.serve(api("v1").list_jobs()).jobs) == 1
        assert not server.script

    def test_v1_is_asked_by_query_and_its_list_names_the_states(self) -> None:
        server = Server(
            good(
                {
                    "count": 5,
                    "tasks": [
                        {"jobId": "a", "collectionName": "c", "state": "ImportRunning"},
                        {"jobId": "b", "collectionName": "c", "state": "ImportCompleted"},
                        {"jobId": "c", "collectionName": "c", "state": "ImportFailed"},
                        {"jobId": "d", "collectionName": "c", "state": "ImportPending"},
                        {"jobId": "e", "collectionName": "other", "state": "ImportCompleted"},
                    ],
                },
                200,
            )
        )
        jobs = server.serve(api("v1", cluster_id="x").list_jobs("c")).jobs
        assert [(job.job_id, job.state.value, job.progress, job.files) for job in jobs] == [
            ("a", "importing", 0.0, ()),
            ("b", "completed", 100.0, ()),
            ("c", "failed", 0.0, ()),
            ("d", "pending", 0.0, ()),
        ]
        assert server.asked[0] == Request(
            "GET", "/v1/vector/collections/import/list?clusterId=x&pageSize=100&currentPage=1"
        )


class TestProbe:
    EMPTY = good({"records": []})

    @pytest.mark.parametrize(
        "answer",
        [said(2100, NO_JOB), said(1100, "odd"), said(2100, "parse job id failed"), good(DONE | {"jobId": "0"})],
    )
    def test_it_asks_for_what_gates_and_operators_use(self, answer: Response) -> None:
        server = Server(NOT_SERVED, answer, self.EMPTY)
        found = server.serve(api().probe())
        assert isinstance(found["v1"].progress, DialectNotServed)
        assert found["v2"] == Probe(None, None)
        assert server.paths == [V1_GET, DESCRIBE, f"{V2}/list"]
        assert server.bodies[1:] == [{"jobId": "0"}, {"pageSize": 1, "currentPage": 1}]

    def test_an_older_path_counts_as_served(self) -> None:
        server = Server(NOT_SERVED, said(2100, NO_JOB), self.EMPTY)
        assert server.serve(api("v2").probe())["v2"] == Probe(None, None)

    def test_what_is_not_permitted_is_told_apart(self) -> None:
        found = Server(said(1401, "no"), self.EMPTY).serve(api("v2").probe())["v2"]
        assert isinstance(found.progress, NotPermitted)
        assert found.listing is None
        found = Server(said(2100, NO_JOB), said(1401, "no")).serve(api("v2").probe())["v2"]
        assert found.progress is None
        assert isinstance(found.listing, NotPermitted)

    def test_a_server_in_trouble_is_asked_no_more(self) -> None:
        server = Server(raw(b"", 502))
        assert isinstance(server.serve(api("v2").probe())["v2"].progress, ServerDown)


class TestProgressPath:
    def test_an_older_milvus_is_asked_on_its_own_path_and_from_then_on(self) -> None:
        server = Server(NOT_SERVED, NOT_SERVED, said(2100, NO_JOB), good(DONE), good(DONE))
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


class TestTwoPhase:
    def test_it_is_asked_only_in_a_dialect_that_shows_it_and_all_calls_share_what_is_learned(self) -> None:
        server = Server(good(DONE), NOT_SERVED, good(DONE), good(DONE))
        either = api()
        server.serve(either.progress("1", two_phase=True))
        server.serve(either.progress("1"))
        server.serve(either.progress("1", two_phase=True))
        assert server.paths == [DESCRIBE, V1_GET, DESCRIBE, DESCRIBE]


class TestRefreshLoad:
    @pytest.mark.parametrize("version", ["auto", "v2"])
    def test_it_is_asked_on_v2(self, version: ApiVersion) -> None:
        server = Server(good({}))
        server.serve(api(version, db_name="d", cluster_id="x").refresh_load("c"))
        assert server.asked == [
            Request(
                "POST",
                "/v2/vectordb/collections/refresh_load",
                b'{"collectionName": "c", "dbName": "d"}',
                {"DB-Name": "d"},
                False,
            )
        ]

    def test_v1_has_no_such_call(self) -> None:
        with pytest.raises(Unsupported, match="v1 API cannot refresh"):
            Server().serve(api("v1").refresh_load("c"))

    def test_a_server_without_it_is_named(self) -> None:
        with pytest.raises(Unsupported, match=r"refresh_load \(HTTP 404\).*control plane of Zilliz Cloud"):
            Server(NOT_SERVED).serve(api().refresh_load("c"))

    def test_the_servers_refusal_is_passed_on(self) -> None:
        with pytest.raises(Refused, match="not fully loaded"):
            Server(said(101, "collection not fully loaded")).serve(api().refresh_load("c"))


class TestCreate:
    ONE_OBJECT = NewImportJob("c", object_urls=[["s3://b/1.json"]], access_key="ak", secret_key="sk")

    def test_v1_takes_one_object(self) -> None:
        server = Server(good({"jobId": "job-9"}, 200))
        new = NewImportJob("c", "p", object_urls=[["s3://b/1.json"]], access_key="ak", secret_key="sk")
        assert server.serve(api("v1", cluster_id="x").create(new)) == "job-9"
        assert server.bodies == [
            {
                "clusterId": "x",
                "collectionName": "c",
                "partitionName": "p",
                "objectUrl": "s3://b/1.json",
                "accessKey": "ak",
                "secretKey": "sk",
            }
        ]
        assert (server.asked[0].method, server.asked[0].target) == ("POST", "/v1/vector/collections/import")

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

        server = Server(good({"jobId": "1"}), good({"completeTime": None}))
        either = api()
        assert server.serve(either.create(new)) == "1"
        server.serve(either.progress("1"))
        assert server.paths == ["/v2/vectordb/jobs/import/create", "/v1/vector/collections/import/get"]
        assert not caplog.records

    def test_no_secret_shows_in_what_stands_for_a_new_job(self) -> None:
        server = Server(good({"jobId": "1"}))
        new = NewImportJob("c", object_urls=[["u"]], access_key="AKIA", secret_key="hush", session_token="sesame")
        server.serve(api("v2").create(new))
        for shown in (repr(new), repr(server.asked[0])):
            assert not any(secret in shown for secret in ("AKIA", "hush", "sesame"))

    @pytest.mark.parametrize("data", [None, {}, {"jobId": None}, {"jobId": True}, {"jobId": ""}, [], "1"])
    def test_an_answer_without_an_id_is_not_what_the_api_promises(self, data: Any) -> None:
        for version in ("v1", "v2"):
            with pytest.raises(UnexpectedAnswer):
                Server(good(data)).serve(api(version).create(self.ONE_OBJECT))


IN_DOUBT_NAMES = ["408", "10000", "65535", "502", "cut off"]
IN_DOUBT = [said(10001, "t", 408), said(10000, "c"), said(65535, "raw"), raw(b"", 502), Unreachable("cut off")]


@pytest.mark.parametrize("verb", ["commit", "abort"])
class TestCommitAndAbort:
    def test_v1_cannot_and_nothing_is_sent(self, verb: str) -> None:
        server = Server()
        with pytest.raises(Unsupported, match=r"Milvus 3\.0"):
            server.serve(getattr(api("v1"), verb)("1"))
        assert server.asked == []

    def test_auto_goes_straight_to_v2(self, verb: str) -> None:
        server = Server(good(None))
        server.serve(getattr(api(), verb)("1"))
        assert server.paths == [f"/v2/vectordb/jobs/import/{verb}"]

    def test_where_v2_is_not_served_the_error_says_both(self, verb: str) -> None:
        with pytest.raises(DialectNotServed, match=f"Milvus 3.0 .* does not serve .*/{verb}"):
            Server(NOT_SERVED, NOT_SERVED, NOT_SERVED).serve(getattr(api(), verb)("1"))

    @pytest.mark.parametrize("progress", [good(DONE), said(2100, NO_JOB)], ids=["job", "unknown job"])
    def test_a_milvus_before_3_has_no_such_call(self, verb: str, progress: Response) -> None:
        with pytest.raises(Unsupported, match=r"Two-phase imports need Milvus 3\.0"):
            Server(NOT_SERVED, progress).serve(getattr(api("v2"), verb)("1"))

    @pytest.mark.parametrize("trouble", IN_DOUBT, ids=IN_DOUBT_NAMES)
    @pytest.mark.parametrize("state", ["Uncommitted", "Committing", "Completed", "Failed"])
    def test_where_it_is_in_doubt_the_job_says_whether_it_was_done(
        self, verb: str, trouble: Response | Exception, state: str
    ) -> None:
        server = Server(trouble, good({"jobId": "1", "state": state}))
        done = {"commit": ("Committing", "Completed"), "abort": ("Failed",)}[verb]
        if state in done:
            server.serve(getattr(api("v2"), verb)("1"))
        else:
            with pytest.raises(ImportApiError, match=rf"Import job 1 is {state.lower()}; whether the {verb}") as raised:
                server.serve(getattr(api("v2"), verb)("1"))
            assert raised.value.in_doubt
        assert server.paths == [f"{V2}/{verb}", DESCRIBE]

    @pytest.mark.parametrize("progress", [raw(b"", 502), said(2100, NO_JOB), Unreachable("again")])
    def test_where_the_job_cannot_be_asked_for_it_stays_in_doubt(
        self, verb: str, progress: Response | Exception
    ) -> None:
        with pytest.raises(GaveUp, match="code 10001"):
            Server(said(10001, "timeout", 408), progress).serve(getattr(api("v2"), verb)("1"))

    @pytest.mark.parametrize(
        "answer",
        [raw(b"", 503), raw(b"", 429), said(2100, "reached the limit"), said(1401, "no"), Unreachable("x", False)],
    )
    def test_what_was_not_done_for_sure_is_not_asked_for(self, verb: str, answer: Response | Exception) -> None:
        with pytest.raises(ImportApiError) as raised:
            Server(answer).serve(getattr(api("v2"), verb)("1"))
        assert not raised.value.in_doubt

    def test_an_error_of_the_api_is_raised(self, verb: str) -> None:
        with pytest.raises(JobUnknown):
            Server(said(1100, NO_JOB)).serve(getattr(api(), verb)("1"))


PROGRESS = Request("GET", "/v1/x?jobId=7", job_id="7")
V2_PROGRESS = Request("POST", DESCRIBE, job_id="7")
NAMED = Request("GET", "/v1/x?jobId=abc", job_id="abc")
IN_A_DATABASE = Request("POST", DESCRIBE, headers={"DB-Name": "sales"}, job_id="abc-7")
SLOW_DOWN = said(8, "slow")
HTML = b"<html><body>502 Bad Gateway</body></html>"


class TestRead:
    @pytest.mark.parametrize(
        ("response", "error"),
        [
            pytest.param(said(1100, "bad field"), Refused, id="HTTP 200 with a code of its own"),
            pytest.param(said(1100, "bad field", 400), Refused, id="HTTP 400 with a code of its own"),
            pytest.param(said(0, "odd", 400), Refused, id="HTTP 400 with code 0"),
            pytest.param(said(200, "odd", 422), Refused, id="HTTP 422 with code 200"),
            pytest.param(said(-1, "odd"), Refused, id="negative code"),
            pytest.param(raw(b"", 401), NotAuthenticated, id="HTTP 401"),
            pytest.param(raw(HTML, 401), NotAuthenticated, id="HTTP 401 in HTML"),
            pytest.param(said(1800, "no"), NotAuthenticated, id="code 1800"),
            pytest.param(said(1400, "no"), NotAuthenticated, id="code 1400"),
            pytest.param(said(1400, "no", 500), NotAuthenticated, id="code 1400 beats HTTP 500"),
            pytest.param(raw(b"", 403), NotPermitted, id="HTTP 403"),
            pytest.param(said(1401, "no"), NotPermitted, id="code 1401"),
            pytest.param(said(1401, "no", 503), NotPermitted, id="code 1401 beats HTTP 503"),
            pytest.param(raw(b"", 429), RateLimited, id="HTTP 429"),
            pytest.param(said(1807, "slow"), RateLimited, id="code 1807"),
            pytest.param(said(8, "slow"), RateLimited, id="code 8"),
            pytest.param(said(8, "slow", 500), RateLimited, id="code 8 beats HTTP 500"),
            pytest.param(said(8, "import job does not exist"), RateLimited, id="code 8 beats its message"),
            pytest.param(said(4, "busy"), RateLimited, id="code 4"),
            pytest.param(said(9, "quota exceeded", 500), RateLimited, id="code 9"),
            pytest.param(said(2100, "The number of jobs has reached the limit"), RateLimited, id="job limit, to 2.6"),
            pytest.param(said(2101, "... has reached the limit", 400), RateLimited, id="job limit, newest"),
            pytest.param(said(21119, "no"), NotAuthenticated, id="code 21119"),
            pytest.param(said(80001, "no", 500), NotAuthenticated, id="code 80001"),
            pytest.param(said(80002, "Token not found", 404), NotAuthenticated, id="code 80002"),
            pytest.param(said(65535, "code = PermissionDenied desc = x"), NotPermitted, id="code 65535 not permitted"),
            pytest.param(said(65535, "rpc error"), GaveUp, id="code 65535"),
            pytest.param(said(65535, "import job does not exist"), JobUnknown, id="code 65535 of an older server"),
            pytest.param(said(10000, "x"), GaveUp, id="code 10000"),
            pytest.param(said(10001, "x", 500), GaveUp, id="code 10001 at 500"),
            pytest.param(said(10000, "x", 499), GaveUp, id="code 10000 at 499"),
            pytest.param(said(2, "x", 503), GaveUp, id="code 2 at 503"),
            pytest.param(raw(HTML, 408), GaveUp, id="HTTP 408"),
            pytest.param(said(1, "not ready"), ServerDown, id="code 1"),
            pytest.param(said(100, "collection not found"), TargetMissing, id="no collection"),
            pytest.param(said(800, "database not found", 404), TargetMissing, id="no database"),
            pytest.param(said(2100, "parse job id failed, err=strconv.ParseInt"), JobIdInvalid, id="id no number"),
            pytest.param(said(1100, "invalid jobID", 400), JobIdInvalid, id="id refused"),
            pytest.param(
                raw(b'{"code": "2100", "message": "import job does not exist"}'), JobUnknown, id="code digits"
            ),
            pytest.param(raw(b'{"code": "1100"}'), Refused, id="code digits, refused"),
            pytest.param(raw(b'{"code": "\xc2\xb2"}'), UnexpectedAnswer, id="code odd digits"),
            pytest.param(raw(b'{"code": "' + b"9" * 5000 + b'"}'), UnexpectedAnswer, id="code digits without end"),
            pytest.param(raw(b"", 500), ServerDown, id="HTTP 500"),
            pytest.param(raw(HTML, 502), ServerDown, id="HTTP 502 in HTML"),
            pytest.param(raw(b'{"code":0,"data":{}}', 503), ServerDown, id="HTTP 503 in the API's JSON"),
            pytest.param(said(502, "upstream not found", 502), ServerDown, id="HTTP 502 upstream not found"),
            pytest.param(said(5, "service not found", 599), ServerDown, id="HTTP 599 not found"),
            pytest.param(raw(HTML), UnexpectedAnswer, id="HTML page of a proxy with HTTP 200"),
            pytest.param(raw(b""), UnexpectedAnswer, id="nothing"),
            pytest.param(raw(b"", 204), UnexpectedAnswer, id="HTTP 204"),
            pytest.param(raw(b"[]"), UnexpectedAnswer, id="a list"),
            pytest.param(raw(b"{}"), UnexpectedAnswer, id="no code"),
            pytest.param(raw(b'{"code": null}'), UnexpectedAnswer, id="code null"),
            pytest.param(raw(b'{"code": "zero"}'), UnexpectedAnswer, id="code a word"),
            pytest.param(raw(b'{"code": false}'), UnexpectedAnswer, id="code false is not 0"),
            pytest.param(raw(b'{"code": 0.0}'), UnexpectedAnswer, id="code a fraction"),
            pytest.param(raw(b"\xff\xfe\x00"), UnexpectedAnswer, id="no encoding"),
            pytest.param(raw(b"[" * 100_000), UnexpectedAnswer, id="bottomless"),
            pytest.param(raw(b'{"code": ' + b"9" * 10_000 + b"}"), UnexpectedAnswer, id="code without end"),
            pytest.param(raw(HTML, 400), UnexpectedAnswer, id="HTTP 400 in HTML"),
            pytest.param(said(1100, NO_JOB), JobUnknown, id="import job does not exist"),
            pytest.param(said(1100, "Import Job Does Not Exist"), JobUnknown, id="in capitals"),
            pytest.param(said(2101, "import job does not exist on server side"), JobUnknown, id="newest"),
            pytest.param(said(2100, NO_JOB, 400), JobUnknown, id="HTTP 400 import job does not exist"),
            pytest.param(said(2100, "import task 7 not found"), JobUnknown, id="import task"),
            pytest.param(said(404, "job 7 not found", 404), JobUnknown, id="HTTP 404 names the job"),
            pytest.param(said(404, "job not found", 404), DialectNotServed, id="HTTP 404 names no job"),
            pytest.param(said(404, "no route /v1/x?jobId=7", 404), DialectNotServed, id="HTTP 404 repeats the path"),
            pytest.param(said(404, "HTTP/1.7 not found, 7.1", 404), DialectNotServed, id="HTTP 404 names another 7"),
            pytest.param(said(5, "Not Found", 404), DialectNotServed, id="HTTP 404 of a gateway"),
            pytest.param(said(1100, "row 7 is bad"), Refused, id="another 7"),
            pytest.param(said(1100, "job not found"), Refused, id="some job not found"),
            pytest.param(said(2100, "import task node not found"), Refused, id="node not found"),
            pytest.param(said(2100, "import task failed: collection not found"), Refused, id="another not found"),
            pytest.param(said(1100, "route not found"), Refused, id="route not found"),
            pytest.param(
                raw(b'{"kind": "Status", "code": 404, "message": "7 not found"}', 404),
                DialectNotServed,
                id="Kubernetes",
            ),
            pytest.param(said(1100, NO_JOB, 500), JobUnknown, id="HTTP 500 import job does not exist"),
            pytest.param(said(1100, "nothing here", 404), Refused, id="HTTP 404 in the API's JSON"),
            pytest.param(raw(b"404 page not found", 404), DialectNotServed, id="HTTP 404 in text"),
            pytest.param(raw(b'{"error": "Not Found"}', 404), DialectNotServed, id="HTTP 404 in other JSON"),
            pytest.param(raw(b"", 405), DialectNotServed, id="HTTP 405"),
            pytest.param(raw(b"", 410), DialectNotServed, id="HTTP 410"),
            pytest.param(raw(b"", 501), DialectNotServed, id="HTTP 501"),
            pytest.param(raw(b"", 301, location="https://x/"), Redirected, id="HTTP 301"),
            pytest.param(raw(b"", 307), Redirected, id="HTTP 307 to nowhere"),
            pytest.param(raw(b'{"code":0,"data":{}}', 308), Redirected, id="HTTP 308 in the API's JSON"),
        ],
    )
    def test_every_error_is_told_apart(self, response: Response, error: type[ImportApiError]) -> None:
        with pytest.raises(ImportApiError) as raised:
            read(PROGRESS, response)
        assert type(raised.value) is error
        assert str(raised.value)

    @pytest.mark.parametrize("status", [200, 201, 299])
    def test_any_2xx_with_a_good_code_is_a_good_answer(self, status: int) -> None:
        assert read(PROGRESS, raw(b'{"code": 0, "data": [1]}', status)) == [1]

    def test_a_code_of_digits_is_a_good_one(self) -> None:
        assert read(PROGRESS, raw(b'{"code": "0", "data": 1}')) == 1

    @pytest.mark.parametrize(
        ("request_", "response", "words"),
        [
            (V2_PROGRESS, said(800, "x"), "has no database 'default': x. Create it, or correct db_name"),
            (IN_A_DATABASE, said(800, "x"), "has no database 'sales': x. Create it"),
            (
                IN_A_DATABASE,
                said(100, "x"),
                "no such collection in database 'sales': x. Create it, or correct its name",
            ),
            (PROGRESS, said(100, "x"), "no such collection: x. Create it, or correct the collection's name"),
            (V2_PROGRESS, raw(b"", 403), "to do this. No db_name is set"),
            (V2_PROGRESS, said(1401, "x"), "x. No db_name is set"),
            (V2_PROGRESS, said(65535, "no privilege"), "set db_name in the connection's extra"),
            (IN_A_DATABASE, said(1401, "x"), "to do this: x$"),
            (PROGRESS, said(1401, "x"), "to do this: x$"),
            (NAMED, said(2100, "import job abc does not exist"), "no record of import job abc: import job abc"),
            (PROGRESS, said(9, "x"), "quota is used up: x"),
            (PROGRESS, said(2100, "reached the limit"), "as many import jobs as it takes"),
            (PROGRESS, said(10001, "x", 408), r"stopped waiting for itself \(code 10001, HTTP 408\): x"),
            (IN_A_DATABASE, said(1100, "invalid value [actual=abc-7]"), "'abc-7' is not the id of an import job"),
        ],
    )
    def test_the_sentence_says_what_to_mend(self, request_: Request, response: Response, words: str) -> None:
        with pytest.raises(ImportApiError, match=words):
            read(request_, response)

    @pytest.mark.parametrize(
        ("response", "in_doubt", "nothing_done"),
        [
            (raw(b"", 503), False, False),
            (raw(b"", 503, retry_after="1"), False, True),
            (raw(b"", 502, retry_after="1"), True, False),
            (said(1, "x"), True, False),
            (said(2100, "reached the limit"), False, True),
            (said(10001, "x", 503), True, False),
        ],
    )
    def test_whether_it_was_done(self, response: Response, in_doubt: bool, nothing_done: bool) -> None:
        with pytest.raises(ImportApiError) as raised:
            read(PROGRESS, response)
        error = raised.value
        assert (error.in_doubt, error.nothing_done, error.http_status) == (in_doubt, nothing_done, response.status)

    def test_a_good_answer_is_one_whatever_its_message(self) -> None:
        assert read(PROGRESS, raw(b'{"code": 0, "message": "import job does not exist", "data": 1}')) == 1

    def test_a_good_answer_without_data_is_none(self) -> None:
        assert read(PROGRESS, raw(b'{"code": 200}')) is None

    @pytest.mark.parametrize("message", [7, None, ["import job does not exist"], {}])
    def test_a_message_that_is_no_text_says_nothing(self, message: Any) -> None:
        with pytest.raises(Refused) as raised:
            read(PROGRESS, raw(json.dumps({"code": 7, "message": message}).encode()))
        assert str(raised.value) == "The import API refused the request with code 7 (HTTP 200)."

    def test_a_refusal_carries_its_code_and_the_apis_words(self) -> None:
        with pytest.raises(Refused) as raised:
            read(PROGRESS, said(1100, "bad\n  field\0 x", 400))
        assert raised.value.code == 1100
        assert str(raised.value) == "The import API refused the request with code 1100 (HTTP 400): bad field x"

    @pytest.mark.parametrize(
        "response",
        [
            said(1100, "w" * 100_000),
            said(1807, "w" * 100_000),
            said(1, "w" * 100_000, 500),
            raw(b"w" * 100_000, 500),
            raw(b"w" * 100_000),
        ],
        ids=["refused", "limited", "down", "down in HTML", "not the API"],
    )
    def test_long_words_of_a_server_are_cut(self, response: Response) -> None:
        with pytest.raises(ImportApiError, match=r"w{200}…|w{500}…") as raised:
            read(PROGRESS, response)
        assert len(str(raised.value)) < 700

    def test_a_message_that_no_encoding_can_hold_is_made_to_fit(self) -> None:
        with pytest.raises(Refused) as raised:
            read(PROGRESS, raw(b'{"code": 7, "message": "half \\ud800 pair\\u0000"}'))
        assert str(raised.value).endswith(": half ? pair")

    @pytest.mark.parametrize(
        "response",
        [
            raw(b'{"code": ' + b"9" * 4000 + b"}"),
            raw(b"", 302, location=f"https://{'h' * 60_000}/"),
            good({"jobId": "9" * 100_000, "state": "Completed"}),
        ],
        ids=["code", "redirect", "job id"],
    )
    def test_long_words_in_odd_places_are_cut_too(self, response: Response) -> None:
        with pytest.raises(ImportApiError) as raised:
            Server(response).serve(api("v2").progress("1"))
        assert len(str(raised.value)) < 1000

    def test_what_is_not_the_api_is_shown_where_it_begins(self) -> None:
        with pytest.raises(UnexpectedAnswer, match="it begins with «<html><body>502 Bad Gateway</body></html>»"):
            read(PROGRESS, raw(HTML))
        with pytest.raises(UnexpectedAnswer, match=r"its body is empty\.$"):
            read(PROGRESS, raw(b" \n"))


class TestRetryAfter:
    @staticmethod
    def asked_to_wait(value: str, response: Response = SLOW_DOWN) -> float | None:
        with pytest.raises((RateLimited, ServerDown)) as raised:
            read(PROGRESS, Response(response.status, {"retry-after": value}, response.body))
        assert isinstance(raised.value, (RateLimited, ServerDown))
        return raised.value.retry_after

    @pytest.mark.parametrize(
        ("value", "seconds"),
        [
            ("0", 0.0),
            ("7", 7.0),
            (" 120 ", 120.0),
            ("", None),
            ("-5", None),
            ("1.5", None),
            ("soon", None),
            ("²", None),
            ("nan", None),
            ("inf", None),
            ("3600", 3600.0),
            ("3601", 3600.0),
            ("9" * 400, 3600.0),
            ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
            ("Wed, 21 Oct 9999 07:28:00 GMT", 3600.0),
            ("Wed, 21 Oct 2015 07:28:00 -0000", None),
            ("Wed, 99 Oct 2015 07:28:00 GMT", None),
        ],
    )
    def test_seconds_and_dates_are_understood_and_nonsense_is_not(self, value: str, seconds: float | None) -> None:
        assert self.asked_to_wait(value) == seconds

    def test_a_date_to_come_is_counted_from_now(self) -> None:
        date = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=90), usegmt=True)
        assert self.asked_to_wait(date) == pytest.approx(89, abs=2)

    @pytest.mark.parametrize("response", [raw(b"", 429), said(1807, "slow"), raw(HTML, 503)])
    def test_a_limit_of_the_rate_and_a_server_that_is_down_carry_it(self, response: Response) -> None:
        assert self.asked_to_wait("3", response) == 3.0
        with pytest.raises((RateLimited, ServerDown)) as raised:
            read(PROGRESS, response)
        assert isinstance(raised.value, (RateLimited, ServerDown))
        assert raised.value.retry_after is None


class TestRedirect:
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
    def test_the_sentence_says_where_to_and_not_more(self, location: str, shown: str) -> None:
        with pytest.raises(Redirected) as raised:
            read(PROGRESS, raw(b"", 302, location=location))
        sentence = str(raised.value)
        assert shown in sentence
        assert "hush" not in sentence
        assert sentence.endswith("put the final URL into the connection's host.")
