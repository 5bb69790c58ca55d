"""Good answers, parsed: what both dialects read alike, and what each says in its own way."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from airflow_provider_importprog.api import ImportJob, v1, v2
from airflow_provider_importprog.api.errors import UnexpectedAnswer

WHEN = "2024-05-18T03:00:22Z"
NAN, INF = float("nan"), float("inf")
both = pytest.mark.parametrize("dialect", [v1, v2], ids=["v1", "v2"])


def parse(dialect: Any, **data: Any) -> ImportJob:
    """Read an answer about job 1; of v1, which names no state, the one that is put in here says nothing."""
    job: ImportJob = dialect.parse_progress({"state": "Importing", **data}, "1")
    return job


@both
class TestBoth:
    @pytest.mark.parametrize(
        ("entry", "named"),
        [
            ({"jobId": "2"}, "'2'.*'1' was asked for"),
            ({"jobId": "9" * 100_000}, "jobId a str of 100,002 characters, but '1' was asked for"),
            ({"jobId": 1.0}, "'jobId' should be a string and is 1.0"),
            ({"jobId": True}, "'jobId' should be"),
            ({"jobId": ["1"]}, "'jobId' should be"),
            ({"completeTime": "yesterday"}, "'completeTime' should be a time"),
            ({"completeTime": 1716001222}, "'completeTime' should be a string"),
            ({"completeTime": False}, "'completeTime'"),
            ({"completeTime": "0001-01-01T00:00:00+23:59"}, "'completeTime'"),
            ({"errorMessage": 5, "reason": 5}, "'(errorMessage|reason)' should be a string and is 5"),
            ({"errorMessage": {"code": 1}, "reason": []}, "'(errorMessage|reason)'"),
            ({"collectionName": 5}, "'collectionName'"),
            ({"details": {}}, "'details' should be a list"),
            ({"details": [{}, 5]}, r"'details\[1\]' should be an object and is 5"),
            ({"details": [None]}, r"'details\[0\]' should be an object and is None"),
            ({"details": [{"completeTime": "x"}]}, "'completeTime'"),
            ({"details": [{"errorMessage": 5, "reason": 5}]}, "'(errorMessage|reason)'"),
        ],
    )
    def test_what_decides_a_verdict_is_read_strictly(self, dialect: Any, entry: dict[str, Any], named: str) -> None:
        with pytest.raises(UnexpectedAnswer, match=named):
            parse(dialect, **entry)

    @pytest.mark.parametrize("data", [None, [], "x", 5, True])
    def test_data_that_is_no_object_is_not_what_the_api_promises(self, dialect: Any, data: Any) -> None:
        for read in (lambda: dialect.parse_progress(data, "1"), lambda: dialect.parse_list(data)):
            with pytest.raises(UnexpectedAnswer, match="'data' should be an object"):
                read()

    @pytest.mark.parametrize("records", [5, [5], [{"state": "Importing"}], [{"jobId": "1", "state": 5}]])
    def test_a_list_is_read_strictly(self, dialect: Any, records: Any) -> None:
        with pytest.raises(UnexpectedAnswer):
            dialect.parse_list({"records": records})

    @pytest.mark.parametrize(("count", "total"), [(7, 7), ("7", 7), (None, None), (-1, None), ([], None), (True, None)])
    def test_a_list_may_be_empty_and_say_how_many_there_are_in_all(self, dialect: Any, count: Any, total: Any) -> None:
        for records in ({}, {"records": None}, {"records": []}):
            assert dialect.parse_list({"count": count, **records}) == ([], total, False)

    @pytest.mark.parametrize("entry", [{}, {"jobId": None}, {"jobId": ""}], ids=["absent", "null", "empty"])
    def test_an_answer_without_an_id_is_about_the_job_asked_for(self, dialect: Any, entry: dict[str, Any]) -> None:
        assert parse(dialect, **entry).job_id == "1"

    def test_a_time_is_kept_with_its_zone_in_utc(self, dialect: Any) -> None:
        details = [{"completeTime": "2024-05-18T03:00:22"}]
        job = parse(dialect, completeTime="2024-05-18T05:00:22+02:00", details=details)
        expected = datetime(2024, 5, 18, 3, 0, 22, tzinfo=timezone.utc)
        assert job.complete_time == job.files[0].complete_time == expected
        assert job.complete_time is not None
        assert job.complete_time.utcoffset() == timedelta(0)

    @pytest.mark.parametrize(
        ("rows", "kept"),
        [(0, 0), (7, 7), ("7", 7), (2**63 - 1, 2**63 - 1), (2**63, None), (-1, None), ("x", None), ([], None),
         (True, None)],
    )  # fmt: skip
    def test_rows_and_sizes_are_decoration(self, dialect: Any, rows: Any, kept: int | None) -> None:
        entry = {"importedRows": rows, "totalRows": rows, "fileSize": rows}
        job = parse(dialect, **entry, details=[entry])
        for found in (job, job.files[0]):
            counted = kept if dialect is v2 else None
            assert (found.imported_rows, found.total_rows, found.file_size) == (counted, counted, kept)

    @pytest.mark.parametrize("complete_time", [None, WHEN], ids=["going on", "completed"])
    def test_a_job_is_made_anew_from_its_summary(self, dialect: Any, complete_time: str | None) -> None:
        job = parse(dialect, completeTime=complete_time, fileSize=5, collectionName="c", readyPercentage=3, progress=3)
        assert ImportJob.from_summary(json.loads(json.dumps(job.summary()))) == job

    def test_of_a_job_that_may_be_brief_the_files_are_counted_and_left_out(self, dialect: Any) -> None:
        done, failed = {"state": "Completed", "completeTime": WHEN}, {"state": "Failed", "errorMessage": "x"}
        details = [done, failed, {**done, "reason": "x", "errorMessage": "x"}]
        data = {"state": "Importing", "details": details}
        brief, whole = (dialect.parse_progress(data, "1", lambda job, brief=brief: brief) for brief in (True, False))
        assert (brief.files, len(whole.files)) == ((), 3)
        assert brief.files_done == whole.files_done == (1, 3)

    def test_a_text_that_no_database_can_hold_is_made_to_fit(self, dialect: Any) -> None:
        words = "nul \0, half \ud800"
        job = parse(dialect, reason=words, errorMessage=words, collectionName="\0")
        assert (job.error_message, job.collection_name) == ("nul \ufffd, half ?", "\ufffd")


class TestV1:
    """It never says in what state a job is."""

    @pytest.mark.parametrize(
        ("entry", "state"),
        [
            ({"completeTime": None, "errorMessage": None}, "importing"),
            ({"completeTime": WHEN, "errorMessage": None}, "completed"),
            ({"completeTime": WHEN, "errorMessage": "bad row"}, "failed"),
            ({"completeTime": WHEN, "errorMessage": "Unknown type"}, "completed"),
            ({"completeTime": "unknown TYPE ", "readyPercentage": 100}, "importing"),
            ({"completeTime": "", "readyPercentage": 100}, "importing"),
            ({"readyPercentage": "100"}, "completed"),
            ({"readyPercentage": 99.9}, "importing"),
            ({"readyPercentage": 1}, "importing"),
            ({}, "importing"),
        ],
    )
    def test_the_state_is_inferred_and_that_of_a_file_leaves_the_job_alone(
        self, entry: dict[str, Any], state: str
    ) -> None:
        assert parse(v1, **entry).state.value == state
        job = parse(v1, completeTime=None, details=[entry])
        assert (job.state.value, job.files[0].state.value) == ("importing", state)
        assert job.files[0].failed is (state == "failed")

    @pytest.mark.parametrize(
        ("entries", "shown"),
        [
            pytest.param([(None, 42.5)], [42.5], id="a percentage as it is"),
            pytest.param([(None, 0.5)], [0.5], id="a half may be half a percent"),
            pytest.param([(None, 1)], [1.0], id="1 proves nothing while going on"),
            pytest.param([(WHEN, 1), (None, 0.5)], [100.0, 50.0], id="a completed 1 proves the scale"),
            pytest.param([(WHEN, 1), (None, 0.5), (None, 42)], [100.0, 0.5, 42.0], id="a larger number disproves it"),
            pytest.param([(WHEN, 0.99), (None, 0.5)], [100.0, 0.5], id="a completed 0.99 proves nothing"),
            pytest.param([(WHEN, 0)], [100.0], id="a completed file reports 100"),
            pytest.param([(None, -3), (None, 250)], [0.0, 100.0], id="clamped"),
            pytest.param([(None, "12.5"), (None, "x"), (None, None), (None, True)], [12.5, 0, 0, 0], id="odd"),
            pytest.param([(None, NAN), (None, INF), (None, 10**400)], [0.0, 0.0, 100.0], id="endless"),
        ],
    )
    def test_the_scale_of_the_percentage(self, entries: list[tuple[str | None, Any]], shown: list[float]) -> None:
        details = [{"completeTime": when, "readyPercentage": percent} for when, percent in entries]
        assert [file.progress for file in parse(v1, completeTime=None, details=details).files] == shown

    def test_the_jobs_own_number_counts_for_the_scale_of_its_files(self) -> None:
        job = parse(v1, completeTime=WHEN, readyPercentage=1, details=[{"readyPercentage": 0.25, "completeTime": None}])
        assert (job.progress, job.files[0].progress) == (100.0, 25.0)

    def test_a_failed_job_keeps_the_progress_it_made(self) -> None:
        assert parse(v1, errorMessage="bad", readyPercentage=40, completeTime=None).progress == 40.0

    @pytest.mark.parametrize("details", [None, []], ids=["null", "empty"])
    def test_an_answer_without_details_names_its_one_file_on_the_job(self, details: Any) -> None:
        (file,) = parse(v1, fileName="a", fileSize=5, errorMessage="bad", completeTime=WHEN, details=details).files
        assert (file.file_name, file.file_size, file.state.value, file.error_message) == ("a", 5, "failed", "bad")
        (file,) = parse(v1, fileName="a", details=[{"fileName": "b"}]).files  # details stand for themselves
        assert file.file_name == "b"

    @pytest.mark.parametrize(
        ("state", "meaning"),
        [("ImportPending", "pending"), ("ImportRunning", "importing"), ("ImportCompleted", "completed"),
         ("ImportFailed", "failed"), ("ImportFailedAndCleaned", "failed"), ("ImportNew", "importing"),
         (None, "importing")],
    )  # fmt: skip
    def test_a_record_of_the_list_names_its_state(self, state: str | None, meaning: str) -> None:
        for records in ("tasks", "records"):
            (job,), _, shows_progress = v1.parse_list({records: [{"jobId": "1", "state": state}]})
            assert (job.state.value, shows_progress) == (meaning, False)


class TestV2:
    """Its job says itself in what state it is."""

    STATES = (
        ("Pending", "pending"), ("PreImporting", "importing"), ("Importing", "importing"), ("Completed", "completed"),
        ("Uncommitted", "uncommitted"), ("Committing", "committing"), ("Failed", "failed"), ("InProgress", "importing"),
        ("completed", "importing"), ("Completed ", "importing"),
    )  # fmt: skip

    @pytest.mark.parametrize(("state", "meaning"), STATES)
    def test_a_state_that_is_not_known_means_going_on(self, state: str, meaning: str) -> None:
        job = parse(v2, state=state, details=[{"state": "Importing"}, {"state": None}])
        assert [one.state.value for one in (job, *job.files)] == [meaning, "importing", "importing"]
        job = parse(v2, details=[{"state": state}])
        assert [one.state.value for one in (job, *job.files)] == ["importing", meaning]
        (listed,), _, _ = v2.parse_list({"records": [{"jobId": "1", "state": state}]})
        assert listed.state.value == meaning

    @pytest.mark.parametrize("state", [None, "", 5, ["Completed"]])
    def test_the_jobs_state_is_read_strictly_and_a_files_where_there_is_one(self, state: Any) -> None:
        with pytest.raises(UnexpectedAnswer, match=r"'state' should be a string and is "):
            parse(v2, state=state)
        if state:
            with pytest.raises(UnexpectedAnswer, match=r"'state'"):
                parse(v2, details=[{"state": state}])

    @pytest.mark.parametrize("name", ["[a.parquet]", "[id.npy vector.npy]", "[]", "[x], [y]", "文件.json"])
    def test_a_file_is_named_as_the_server_names_it_and_fails_by_its_state_or_its_reason(self, name: str) -> None:
        details = [{"state": "Failed"}, {"state": "Completed", "reason": "x"}, {"state": "Completed", "reason": ""}]
        job = parse(v2, state="Completed", details=[{"fileName": name, **file} for file in details])
        assert [file.file_name for file in job.files] == [name] * 3
        assert [file.failed for file in job.files] == [True, True, False]
        assert job.failed_files == job.files[:2]

    @pytest.mark.parametrize(
        ("state", "progress", "shown"),
        [("Importing", 80, 80), ("Importing", "80", 80), ("Importing", 1, 1), ("Importing", None, 0),
         ("Importing", -1, 0), ("Importing", 101, 100), ("Importing", NAN, 0), ("Uncommitted", 99, 99),
         ("Completed", 0, 100), ("Completed", None, 100), ("Failed", 30, 30)],
    )  # fmt: skip
    def test_progress_is_a_percentage_and_100_once_completed(self, state: str, progress: Any, shown: float) -> None:
        entry = {"state": state, "progress": progress}
        job = parse(v2, **entry, details=[entry])
        assert job.progress == job.files[0].progress == shown

    @pytest.mark.parametrize(("progress", "shown"), [({}, False), ({"progress": None}, False), ({"progress": 0}, True)])
    def test_a_list_says_itself_whether_it_shows_progress(self, progress: dict[str, Any], shown: bool) -> None:
        records = [{"jobId": "1", "state": "InProgress"}, {"jobId": "2", "state": "InProgress", **progress}]
        assert v2.parse_list({"records": records}).shows_progress is shown
