"""The design's table over time: a gate, a clock that is set by hand, and what is logged."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_provider_importprog import _messages
from airflow_provider_importprog._gate import Decision, Gate, GatePolicy
from airflow_provider_importprog.api import ImportFile, ImportJob, ImportState
from airflow_provider_importprog.exceptions import (
    ImportApiRefused,
    ImportApiUnauthorized,
    ImportApiUnreachable,
    ImportJobUnknown,
    ImportProgressException,
)
from airflow_provider_importprog.verdict import Verdict
from tests.unit.helpers import Clock, Log

INF = float("inf")


class Watch:
    """A gate with what surrounds it."""

    def __init__(self, **policy: Any) -> None:
        self.clock, self.log = Clock(), Log()
        self.gate = Gate("7", GatePolicy(**policy), log=self.log, clock=self.clock)

    def down(self, message: str = "HTTP 503", retry_after: float | None = None) -> tuple[Verdict, float]:
        decision = self.gate.failed(ImportApiUnreachable(message, retry_after=retry_after))
        return decision.verdict, decision.delay

    def unknown(self) -> tuple[Verdict, float]:
        decision = self.gate.failed(ImportJobUnknown("The server has no record of import job 7."))
        return decision.verdict, decision.delay

    def goes_on(self, **fields: Any) -> tuple[Verdict, float]:
        decision = self.gate.answered(job(**fields))
        return decision.verdict, decision.delay


def job(
    state: ImportState = ImportState.IMPORTING, progress: float = 50.0, files: tuple[ImportFile, ...] = (), **more: Any
) -> ImportJob:
    return ImportJob("7", "articles", state, progress, files=files, **more)


def file(name: str = "a.json", state: ImportState = ImportState.COMPLETED, error: str | None = None) -> ImportFile:
    return ImportFile(name, 10, state, 100.0, error_message=error)


class TestAnswers:
    def test_a_job_that_goes_on_is_asked_again_after_the_interval(self) -> None:
        gate = Watch(poke_interval=12.0).gate
        decision = gate.answered(job())
        assert (decision.verdict, decision.delay, decision.message) == (Verdict.WAIT, 12.0, "")
        assert decision.job == job()

    def test_a_completed_job_opens_with_its_totals(self) -> None:
        done = job(ImportState.COMPLETED, 100, (file(), file("b.json")), imported_rows=12_000, file_size=18_700_000)
        decision = Watch().gate.answered(done)
        assert decision.verdict is Verdict.OPEN
        assert decision.job is done
        assert (
            decision.message == "Import job 7 into collection 'articles' is completed: 2 files, 12,000 rows, 18.7 MB."
        )

    def test_failed_files_are_named_with_their_reasons(self) -> None:
        files = (file(), file("b.json", ImportState.FAILED, "the dim 4 is not 8"), file("c.json", error="row 7."))
        decision = Watch().gate.answered(job(ImportState.COMPLETED, 100, files))
        assert decision.verdict is Verdict.FILES_FAILED
        assert decision.message == (
            "Import job 7 into collection 'articles' is completed, but 2 of 3 files failed. "
            "b.json: the dim 4 is not 8. c.json: row 7. Set allow_failed_files=True to go on without them."
        )

    def test_allowed_failed_files_are_counted_out(self) -> None:
        files = (file(), file("b.json", ImportState.FAILED, "bad"))
        decision = Watch(allow_failed_files=True).gate.answered(job(ImportState.COMPLETED, 100, files))
        assert decision.verdict is Verdict.OPEN
        assert decision.message.endswith("is completed: 1 of 2 files.")

    def test_a_failed_job_says_why_and_which_files_and_why(self) -> None:
        files = (file(), file("b.json", ImportState.FAILED, "bad row"))
        decision = Watch().gate.answered(job(ImportState.FAILED, 30, files, error_message="disk full"))
        assert decision.verdict is Verdict.JOB_FAILED
        assert decision.message == "Import job 7 into collection 'articles' failed: disk full. b.json: bad row."

    def test_a_file_that_failed_for_the_jobs_own_reason_is_named_with_it(self) -> None:
        files = (file("b.json", ImportState.FAILED, "row 7"),)
        decision = Watch().gate.answered(job(ImportState.COMPLETED, 100, files, error_message="row 7"))
        assert decision.verdict is Verdict.FILES_FAILED
        assert "row 7" in decision.message

    def test_a_reason_that_job_and_file_share_is_told_once(self) -> None:
        files = (file("b.json", ImportState.FAILED, "row 7"),)
        decision = Watch().gate.answered(job(ImportState.FAILED, 30, files, error_message="row 7"))
        assert decision.message.count("row 7") == 1
        assert "b.json" in decision.message

    def test_a_failed_job_without_a_reason_says_that(self) -> None:
        decision = Watch().gate.answered(job(ImportState.FAILED))
        assert decision.message.endswith("failed: the server gives no reason.")

    @pytest.mark.parametrize("state", [ImportState.UNCOMMITTED, ImportState.COMMITTING, ImportState.COMPLETED])
    def test_waiting_for_uncommitted_ends_there_or_later(self, state: ImportState) -> None:
        watch = Watch(wait_for="uncommitted")
        assert watch.goes_on()[0] is Verdict.WAIT
        decision = watch.gate.answered(job(state, 99))
        assert decision.verdict is Verdict.OPEN
        assert f"is {state}" in decision.message
        assert not watch.log.at("warning")

    @pytest.mark.parametrize("seen", [False, True], ids=["never seen", "seen before"])
    def test_an_unaccepted_token_ends_it_at_once_with_the_last_job(self, seen: bool) -> None:
        watch = Watch(outage_tolerance=INF, unknown_job_grace=INF)
        if seen:
            watch.goes_on()
        decision = watch.gate.failed(ImportApiUnauthorized("The server does not accept the token."))
        assert decision.verdict is Verdict.UNAUTHORIZED
        assert decision.job == (job() if seen else None)
        assert "Import job 7 cannot be watched. The server does not accept the token. Check" in decision.message

    def test_a_gate_hands_on_the_job_that_another_one_saw_last(self) -> None:
        gate = Gate("7", GatePolicy(outage_tolerance=0), log=Log(), job=ImportJob.from_summary(job().summary()))
        assert gate.failed(ImportApiUnreachable("HTTP 503")).job == job()

    def test_an_error_that_carries_no_wait_is_an_outage_too(self) -> None:
        watch = Watch()
        decision = watch.gate.failed(ImportApiRefused("code 1100"))
        assert decision.verdict is Verdict.WAIT
        watch.clock.sleep(900)
        decision = watch.gate.failed(ImportProgressException("code 1100"))
        assert decision.verdict is Verdict.UNREACHABLE


class TestUnknownJob:
    def test_within_the_grace_it_is_asked_again_and_never_later_than_the_grace_ends(self) -> None:
        watch = Watch(poke_interval=25.0, unknown_job_grace=60.0)
        seen = []
        for _ in range(4):
            verdict, delay = watch.unknown()
            seen.append((verdict, delay))
            watch.clock.sleep(delay)
        assert seen == [
            (Verdict.WAIT, 25.0),
            (Verdict.WAIT, 25.0),
            (Verdict.WAIT, 10.0),
            (Verdict.JOB_UNKNOWN, 0.0),
        ]

    def test_without_grace_it_fails_at_once(self) -> None:
        assert Watch(unknown_job_grace=0.0).unknown() == (Verdict.JOB_UNKNOWN, 0.0)

    def test_with_endless_grace_it_waits_on(self) -> None:
        watch = Watch(unknown_job_grace=INF, poke_interval=30.0)
        watch.clock.sleep(10**9)
        assert watch.unknown() == (Verdict.WAIT, 30.0)

    def test_the_message_says_that_the_end_of_the_import_is_not_known(self) -> None:
        gate = Watch(unknown_job_grace=0.0).gate
        decision = gate.failed(ImportJobUnknown("The server has no record of import job 7."))
        assert decision.message.startswith("The server has no record of import job 7. ")
        assert "expired" in decision.message
        assert "How the import ended is not known" in decision.message
        assert decision.job is None

    def test_a_job_that_was_known_gets_the_grace_anew_and_is_handed_on(self) -> None:
        watch = Watch(poke_interval=30.0, unknown_job_grace=60.0)
        watch.clock.sleep(1000)
        watch.goes_on()
        watch.clock.sleep(59)
        verdict, delay = watch.unknown()
        assert verdict is Verdict.WAIT
        assert delay == pytest.approx(1.0)
        watch.clock.sleep(1)
        decision = watch.gate.failed(ImportJobUnknown("no record"))
        assert decision.verdict is Verdict.JOB_UNKNOWN
        assert decision.job == job()

    def test_the_grace_counts_from_the_gates_start_in_an_earlier_process(self) -> None:
        clock = Clock()
        gate = Gate("7", GatePolicy(unknown_job_grace=60.0), log=Log(), clock=clock, started_at=clock() - 61)
        assert gate.waited == 61
        assert gate.failed(ImportJobUnknown("no record")).verdict is Verdict.JOB_UNKNOWN

    def test_it_is_logged_once_in_a_row_and_the_servers_words_are_no_format(self) -> None:
        watch = Watch()
        for _ in range(3):
            watch.gate.failed(ImportJobUnknown("100 %s of nothing."))
            watch.clock.sleep(10)
        watch.goes_on()
        watch.gate.failed(ImportJobUnknown("100 %s of nothing."))
        line = "100 %s of nothing. It may have been submitted a moment ago: waiting for it."
        assert watch.log.text == [line, "Import job 7: importing, 50 %", line]


class TestOutage:
    def test_without_tolerance_the_first_error_ends_it(self) -> None:
        watch = Watch(outage_tolerance=0.0)
        decision = watch.gate.failed(ImportApiUnreachable("HTTP 503"))
        assert decision.verdict is Verdict.UNREACHABLE
        assert decision.message == (
            "No good answer about import job 7 for 0 s (outage_tolerance is 0 s). The import itself may well go on. "
            "The last cause: HTTP 503"
        )
        assert not watch.log.lines

    @pytest.mark.parametrize(
        ("after", "verdict"), [(899.9, Verdict.WAIT), (900.0, Verdict.UNREACHABLE), (900.1, Verdict.UNREACHABLE)]
    )
    def test_it_ends_exactly_at_the_tolerance(self, after: float, verdict: Verdict) -> None:
        watch = Watch(outage_tolerance=900.0)
        watch.down()
        watch.clock.sleep(after)
        assert watch.down()[0] is verdict

    def test_endless_tolerance_waits_on_with_a_finite_delay(self) -> None:
        watch = Watch(outage_tolerance=INF)
        for _ in range(2000):
            verdict, delay = watch.down()
            assert verdict is Verdict.WAIT
            assert 30 <= delay <= 375
            watch.clock.sleep(delay)

    def test_the_back_off_doubles_up_to_five_minutes_with_a_quarter_of_jitter(self) -> None:
        watch = Watch(outage_tolerance=INF, poke_interval=30.0)
        for base in (30, 60, 120, 240, 300, 300, 300):
            _, delay = watch.down()
            assert base <= delay <= base * 1.25

    def test_gates_that_lost_the_server_together_come_back_apart(self) -> None:
        assert len({Watch().down()[1] for _ in range(20)}) > 10

    @pytest.mark.parametrize("interval", [301.0, 3600.0])
    def test_the_back_off_is_never_shorter_than_a_long_interval(self, interval: float) -> None:
        watch = Watch(outage_tolerance=INF, poke_interval=interval)
        for _ in range(3):
            assert interval <= watch.down()[1] <= interval * 1.25

    def test_an_interval_of_zero_backs_off_all_the_same(self) -> None:
        watch = Watch(outage_tolerance=INF, poke_interval=0.0)
        delays = [watch.down()[1] for _ in range(12)]
        assert delays[0] >= 0.1
        assert delays[11] >= 0.1 * 2**11

    def test_the_server_may_ask_for_a_longer_wait_and_not_for_a_shorter_one(self) -> None:
        watch = Watch(outage_tolerance=INF, poke_interval=30.0)
        assert watch.down(retry_after=200.0) == (Verdict.WAIT, 200.0)
        verdict, delay = watch.down(retry_after=1.0)
        assert (verdict, delay >= 60) == (Verdict.WAIT, True)

    def test_no_delay_reaches_past_the_tolerance(self) -> None:
        watch = Watch(outage_tolerance=100.0, poke_interval=30.0)
        assert watch.down(retry_after=5000.0) == (Verdict.WAIT, 100.0)
        watch.clock.sleep(90)
        assert watch.down()[1] == pytest.approx(10.0)
        watch.clock.sleep(10)
        assert watch.down()[0] is Verdict.UNREACHABLE

    def test_a_good_answer_ends_it_and_the_next_one_begins_anew(self) -> None:
        watch = Watch(outage_tolerance=100.0, poke_interval=10.0)
        for _ in range(3):
            watch.down()
        watch.clock.sleep(99)
        watch.goes_on()
        watch.clock.sleep(99)
        verdict, delay = watch.down()
        assert verdict is Verdict.WAIT
        assert 10 <= delay <= 12.5
        watch.clock.sleep(99)
        assert watch.down()[0] is Verdict.WAIT
        watch.clock.sleep(1)
        assert watch.down()[0] is Verdict.UNREACHABLE

    def test_an_unknown_job_is_an_answer_too_and_ends_it(self) -> None:
        watch = Watch(outage_tolerance=100.0, unknown_job_grace=INF)
        watch.down()
        watch.clock.sleep(99)
        watch.unknown()
        watch.clock.sleep(99)
        assert watch.down()[0] is Verdict.WAIT
        assert watch.log.at("info")[0] == "The server answers again, after 1 min 39 s."

    def test_it_fails_with_the_last_cause_and_the_job_as_last_seen(self) -> None:
        watch = Watch(outage_tolerance=60.0)
        watch.goes_on()
        watch.down("connection refused")
        watch.clock.sleep(60)
        decision = watch.gate.failed(ImportApiUnreachable("HTTP 502"))
        assert decision.job == job()
        assert "for 1 min (outage_tolerance is 1 min)" in decision.message
        assert decision.message.endswith("The last cause: HTTP 502")
        assert "refused" not in decision.message

    def test_each_failure_and_the_recovery_are_logged(self) -> None:
        watch = Watch(outage_tolerance=100.0, poke_interval=200.0)
        watch.down("HTTP 503 in 100 %s of cases.")
        watch.clock.sleep(60)
        watch.down("timed out.")
        watch.clock.sleep(30)
        watch.goes_on()
        watch.clock.sleep(30)
        watch.goes_on()
        assert watch.log.lines == [
            ("warning", "No good answer about import job 7: HTTP 503 in 100 %s of cases. Asking again in 1 min 40 s."),
            ("warning", "No good answer about import job 7: timed out. Asking again in 40 s."),
            ("info", "The server answers again, after 1 min 30 s."),
            ("info", "Import job 7: importing, 50 %"),
        ]


class TestLog:
    def test_it_announces_what_it_waits_for(self) -> None:
        watch = Watch(wait_for="uncommitted", poke_interval=90.0)
        watch.gate.announce()
        assert watch.log.lines == [("info", "Waiting for import job 7 to be uncommitted, asking every 1 min 30 s.")]

    def test_there_is_one_line_for_each_move_and_none_for_a_poll_without_one(self) -> None:
        watch = Watch()
        ongoing = file("b", ImportState.IMPORTING)
        polls: list[dict[str, Any]] = [
            {"state": ImportState.PENDING, "progress": 0.0},
            {"state": ImportState.PENDING, "progress": 0.0},
            {"progress": 0.0},
            {"progress": 10.0, "files": (file(), ongoing)},
            {"progress": 10.4, "files": (file(), ongoing)},
            {"progress": 10.4, "files": (file(), file("b"))},
            {"progress": 10.4, "files": (file(), file("b")), "imported_rows": 500, "total_rows": 20_000},
            {"progress": 10.4, "files": (file(), file("b")), "imported_rows": 500, "total_rows": 20_000},
        ]
        for poll in polls:
            watch.goes_on(**poll)
            watch.clock.sleep(60)
        assert watch.log.text == [
            "Import job 7: pending, 0 %",
            "Import job 7: importing, 0 %",
            "Import job 7: importing, 10 %, 1 of 2 files done, about 27 min left",
            "Import job 7: importing, 10 %, 2 of 2 files done, about 43 min 5 s left",
            "Import job 7: importing, 10 %, 2 of 2 files done, 500 of 20,000 rows, about 51 min 42 s left",
        ]

    def test_the_time_left_follows_from_the_rate_since_the_first_answer(self) -> None:
        watch = Watch()
        watch.goes_on(progress=20.0)
        watch.clock.sleep(100)
        watch.goes_on(progress=60.0)
        watch.clock.sleep(100)
        watch.goes_on(progress=10.0)
        assert watch.log.text == [
            "Import job 7: importing, 20 %",
            "Import job 7: importing, 60 %, about 1 min 40 s left",
            "Import job 7: importing, 10 %",
        ]

    def test_an_uncommitted_job_is_warned_of_once(self) -> None:
        watch = Watch()
        for progress in (99.0, 99.0, 99.0):
            assert watch.goes_on(state=ImportState.UNCOMMITTED, progress=progress) == (Verdict.WAIT, 30.0)
        watch.down()
        watch.goes_on(state=ImportState.UNCOMMITTED, progress=99.0, imported_rows=7)
        watch.goes_on(state=ImportState.COMMITTING, progress=99.0)
        warning, outage = watch.log.at("warning")
        assert warning.startswith("Import job 7 is uncommitted")
        assert "until somebody commits" in warning
        assert outage.startswith("No good answer")

    def test_an_uncommitted_job_that_was_not_known_for_a_while_is_not_warned_of_again(self) -> None:
        watch = Watch()
        watch.goes_on(state=ImportState.UNCOMMITTED, progress=99.0)
        watch.unknown()
        watch.goes_on(state=ImportState.UNCOMMITTED, progress=99.0)
        assert len(watch.log.at("warning")) == 1

    def test_another_process_goes_on_where_the_log_left_off(self) -> None:
        here, there = Watch(), Watch()
        here.goes_on(state=ImportState.UNCOMMITTED, progress=99.0, files=(file(),))
        there.gate = Gate("7", GatePolicy(), log=there.log, last_shown=json.loads(json.dumps(here.gate.last_shown)))
        there.goes_on(state=ImportState.UNCOMMITTED, progress=99.0, files=(file(),))
        assert not there.log.lines
        there.goes_on(state=ImportState.UNCOMMITTED, progress=99.0, files=(file(),), imported_rows=7)
        assert there.log.text == ["Import job 7: uncommitted, 99 %, 1 of 1 file done, 7 rows"]

    def test_the_end_is_left_to_be_logged_by_whoever_asked(self) -> None:
        watch = Watch()
        watch.gate.answered(job(ImportState.COMPLETED, 100))
        assert not watch.log.lines


HUGE = "the dim of field vector is 4 and should be 8; " * 3000
MANY = 10_000


def event_size(decision: Decision) -> int:
    """Return the bytes of the event that the trigger makes of a decision."""
    message = _messages.brief(decision.message, 2000)
    return len(json.dumps({"job_id": "7", "verdict": decision.verdict.value, "message": message}))


def broken(name: str, reason: str | None) -> tuple[ImportFile, ...]:
    return tuple(file(f"{name}{n}.json", ImportState.FAILED, reason) for n in range(MANY))


class TestSize:
    @pytest.mark.parametrize("state", [ImportState.COMPLETED, ImportState.FAILED])
    def test_of_very_many_failed_files_the_first_are_named_and_the_rest_counted(self, state: ImportState) -> None:
        decision = Watch().gate.answered(job(state, 100, broken("f", "row 7")))
        assert " f0.json: row 7." in decision.message
        assert " f9.json: row 7. And 9,990 more files." in decision.message
        assert "f10.json" not in decision.message
        assert event_size(decision) < 1000
        assert decision.job is not None
        assert len(decision.job.files) == MANY

    def test_a_huge_reason_is_cut(self) -> None:
        decision = Watch().gate.answered(job(ImportState.FAILED, error_message=HUGE))
        assert HUGE[:500] in decision.message
        assert "…" in decision.message
        assert event_size(decision) < 4096

    def test_a_long_file_name_keeps_its_end(self) -> None:
        files = (file("bucket/" * 1000 + "last.json", ImportState.FAILED, "row 7"),)
        decision = Watch().gate.answered(job(ImportState.FAILED, files=files))
        assert "bucket/last.json: row 7." in decision.message
        assert event_size(decision) < 4096

    @pytest.mark.parametrize(
        ("state", "prefix", "reason", "collection"),
        [
            pytest.param(ImportState.COMPLETED, "f", HUGE, "c", id="huge reasons of files"),
            pytest.param(ImportState.FAILED, "f", HUGE, "c", id="huge reasons of the job and its files"),
            pytest.param(ImportState.FAILED, "bucket/" * 100, HUGE, "c", id="long names too"),
            pytest.param(ImportState.FAILED, "桶/" * 100, "维度不匹配" * 100, "c", id="in Chinese"),
            pytest.param(ImportState.COMPLETED, "f", "x", "c" * 100_000, id="endless collection"),
        ],
    )
    def test_an_event_stays_small_whatever_the_job_says(
        self, state: ImportState, prefix: str, reason: str, collection: str
    ) -> None:
        huge = ImportJob("7", collection, state, 50.0, files=broken(prefix, reason), error_message=f"{reason}!")
        decision = Watch().gate.answered(huge)
        assert event_size(decision) < 2100
        # What the log and the exception hold.
        size = len(decision.message)
        assert size < 8000
