"""The design's table over time: a gate, a clock that is set by hand, and what is logged."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_provider_importprog import _messages
from airflow_provider_importprog._gate import Decision, Gate, GatePolicy, GateState
from airflow_provider_importprog.api import ImportFile, ImportJob, ImportState
from airflow_provider_importprog.exceptions import (
    ImportApiRefused,
    ImportApiUnauthorized,
    ImportApiUnreachable,
    ImportJobUnknown,
    ImportProgressException,
    ImportSettingInvalid,
)
from airflow_provider_importprog.verdict import Verdict
from tests.unit.helpers import Clock, Log

INF = float("inf")
START = Clock().now
WAIT = Verdict.WAIT
UNKNOWN = ImportJobUnknown("The server has no record of import job 7.")


class Driven:
    """A gate with what surrounds it."""

    def __init__(self, state: GateState | None = None, timeout: float = INF, **policy: Any) -> None:
        self.clock, self.log = Clock(), Log()
        self.policy, self.timeout = GatePolicy(**policy), timeout
        self._new(state)

    def _new(self, state: GateState | None) -> None:
        self.gate = Gate("7", self.policy, log=self.log, state=state, clock=self.clock, timeout=self.timeout)

    def after(self, seconds: float) -> Driven:
        """Let time pass."""
        self.clock.sleep(seconds)
        return self

    def restart(self) -> None:
        """Go on in another process, which is told what this one had seen."""
        state = self.gate.state
        plain = json.loads(json.dumps({"started_at": state.started_at, "state": state.to_dict()}))
        self._new(GateState.from_dict(plain["state"], plain["started_at"]))

    def fails(self, error: ImportProgressException) -> tuple[Verdict, float]:
        decision = self.gate.failed(error)
        return decision.verdict, decision.delay

    def down(self, message: str = "HTTP 503", retry_after: float | None = None) -> tuple[Verdict, float]:
        return self.fails(ImportApiUnreachable(message, retry_after=retry_after))

    def unknown(self) -> tuple[Verdict, float]:
        return self.fails(UNKNOWN)

    def goes_on(self, **fields: Any) -> tuple[Verdict, float]:
        decision = self.gate.answered(job(**fields))
        return decision.verdict, decision.delay


def job(
    state: ImportState = ImportState.IMPORTING, progress: float = 50.0, files: tuple[ImportFile, ...] = (), **more: Any
) -> ImportJob:
    return ImportJob("7", "articles", state, progress, files=files, **more)


def file(name: str = "a.json", state: ImportState = ImportState.COMPLETED, error: str | None = None) -> ImportFile:
    return ImportFile(name, 10, state, 100.0, error_message=error)


def failed(name: str, error: str | None) -> ImportFile:
    return file(name, ImportState.FAILED, error)


DONE = ImportState.COMPLETED
INTO = "Import job 7 into collection 'articles'"


class TestAnswers:
    def test_a_job_that_goes_on_is_polled_again_after_the_interval(self) -> None:
        assert Driven(poke_interval=12.0).gate.answered(job()) == Decision(WAIT, "", job(), 12.0)

    @pytest.mark.parametrize(
        ("answer", "policy", "verdict", "message"),
        [
            (job(DONE, 100, (file(), file("b.json")), imported_rows=12_000, file_size=18_700_000), {"min_rows": 12_000},
             Verdict.OPEN, f"{INTO} is completed: 2 files, 12,000 rows, 18.7 MB."),
            (job(DONE, 100, (file(), failed("b.json", "the dim 4 is not 8"), file("c.json", error="row 7."))), {},
             Verdict.FILES_FAILED, f"{INTO} is completed, but 2 of 3 files failed. b.json: the dim 4 is not 8. c.json: "
             "row 7. Set allow_failed_files=True to go on without them."),
            (job(DONE, 100, (failed("b.json", "row 7"), file("ok")), error_message="row 7"), {},
             Verdict.FILES_FAILED, f"{INTO} is completed, but 1 of 2 files failed. b.json: row 7. Set "
             "allow_failed_files=True to go on without them."),  # its reason is its file's own
            (job(DONE, 100, (file(), failed("b.json", "bad"))), {"allow_failed_files": True},
             Verdict.OPEN, f"{INTO} is completed: 1 of 2 files."),
            (job(ImportState.FAILED, 30, (file(), failed("b.json", "bad row")), error_message="disk full"), {},
             Verdict.JOB_FAILED, f"{INTO} failed: disk full. b.json: bad row."),
            (job(ImportState.FAILED), {}, Verdict.JOB_FAILED, f"{INTO} failed: the server gives no reason."),
            (job(ImportState.FAILED, 0, (failed("b.json", "Aborted by user: x"),), error_message="Aborted by user: x."),
             {}, Verdict.JOB_FAILED, f"{INTO} did not fail by itself but was aborted: Aborted by user: x. Its rows are "
             "dropped. To import them after all, submit a new import job."),
            (job(DONE, 100, (file(),), imported_rows=1234), {"min_rows": 1235},
             Verdict.ROWS_MISSING, f"{INTO} is completed with 1,234 rows, and min_rows is 1,235. Check the files that "
             "were imported, or set a smaller min_rows."),
            (job(DONE, 100, (file(),)), {"min_rows": 1},
             Verdict.SETTING_INVALID, f"{INTO} is completed, but min_rows=1 cannot be checked: the server counts no "
             "rows (API v1 never does). Leave min_rows out, or set api_version v2 in the connection."),
            (job(ImportState.COMMITTING, 99), {"wait_for": "uncommitted"},
             Verdict.OPEN, f"{INTO} is committing: 0 files."),
        ],
        ids=["totals", "failed files", "its reason", "allowed", "failed", "no reason", "aborted", "rows", "no rows",
             "later than uncommitted"],
    )  # fmt: skip
    def test_an_end_is_told_with_what_to_do(
        self, answer: ImportJob, policy: dict[str, Any], verdict: Verdict, message: str
    ) -> None:
        driven = Driven(**policy)
        decision = driven.gate.answered(answer)
        assert (decision.verdict, decision.message) == (verdict, message)
        assert decision.job is answer
        assert not driven.log.lines  # whoever polled says how it ended

    @pytest.mark.parametrize("seen", [False, True], ids=["never seen", "seen before"])
    def test_an_unaccepted_token_ends_it_at_once_with_the_last_job(self, seen: bool) -> None:
        driven = Driven(outage_tolerance=INF, unknown_job_grace=INF)
        if seen:
            driven.goes_on()
        decision = driven.gate.failed(ImportApiUnauthorized("The server does not accept the token."))
        assert decision.verdict is Verdict.UNAUTHORIZED
        assert decision.job == (job() if seen else None)
        assert "import job 7 cannot be read. The server does not accept the token. Check" in decision.message

    def test_a_gate_hands_on_the_job_that_another_one_saw_last(self) -> None:
        gate = Gate("7", GatePolicy(outage_tolerance=0), log=Log(), job=ImportJob.from_summary(job().summary()))
        assert gate.failed(ImportApiUnreachable("HTTP 503")).job == job()

    @pytest.mark.parametrize(
        "error", [ImportSettingInvalid("No connection."), ImportApiUnauthorized("No."), ImportApiUnreachable("Down.")]
    )
    def test_what_is_not_final_is_only_logged_where_that_was_asked_for(self, error: ImportProgressException) -> None:
        assert Driven(outage_tolerance=0).gate.failed(error).verdict is not WAIT
        driven = Driven(outage_tolerance=0, silent_fail=True)
        decision = driven.gate.failed(error)
        assert (decision.verdict, decision.delay) == (WAIT, 30.0)
        (line,) = driven.log.at("error")
        assert str(error) in line
        assert driven.gate.answered(job(DONE)).verdict is Verdict.OPEN
        assert driven.gate.answered(job(ImportState.FAILED)).verdict is Verdict.JOB_FAILED


class TestUnknownJob:
    """The grace counts from the first answer "unknown" in a row, and takes two of them."""

    def test_within_the_grace_it_is_polled_again_and_never_later_than_the_grace_ends(self) -> None:
        driven = Driven(poke_interval=25.0, unknown_job_grace=60.0)
        seen = []
        for _ in range(4):
            seen.append(driven.unknown())
            driven.clock.sleep(seen[-1][1])
        assert seen == [(WAIT, 25.0), (WAIT, 25.0), (WAIT, 10.0), (Verdict.JOB_UNKNOWN, 0.0)]

    @pytest.mark.parametrize(("interval", "delay"), [(30.0, 5.0), (1.0, 1.0)])
    def test_without_grace_it_takes_two_answers_all_the_same(self, interval: float, delay: float) -> None:
        driven = Driven(unknown_job_grace=0.0, poke_interval=interval)
        assert driven.unknown() == (WAIT, delay)
        assert driven.unknown()[0] is Verdict.JOB_UNKNOWN

    @pytest.mark.parametrize("before", ["nothing", "a good answer", "an outage"])
    def test_it_counts_from_the_first_such_answer_however_late_that_comes(self, before: str) -> None:
        driven = Driven(poke_interval=300.0, unknown_job_grace=60.0)
        if before != "nothing":
            (driven.goes_on if before == "a good answer" else driven.down)()
        assert driven.after(3000).unknown() == (WAIT, 60.0)
        assert driven.after(59).unknown()[0] is WAIT
        assert driven.after(1).unknown()[0] is Verdict.JOB_UNKNOWN

    @pytest.mark.parametrize("between", ["restart", "down", "both"])
    def test_a_restart_and_an_outage_do_not_begin_the_row_anew(self, between: str) -> None:
        driven = Driven(unknown_job_grace=60.0)
        driven.unknown()
        driven.clock.sleep(30)
        if between != "restart":
            driven.down()
        if between != "down":
            driven.restart()
        assert driven.after(30).unknown()[0] is Verdict.JOB_UNKNOWN

    def test_a_good_answer_begins_it_anew_and_the_job_is_handed_on(self) -> None:
        driven = Driven(unknown_job_grace=60.0)
        driven.unknown()
        driven.after(59).goes_on()
        assert driven.after(59).unknown() == (WAIT, 30.0)
        decision = driven.after(60).gate.failed(UNKNOWN)
        assert (decision.verdict, decision.job) == (Verdict.JOB_UNKNOWN, job())
        assert decision.message.startswith("The server has no record of import job 7. ")
        assert "48 hours from 2.6.24 and 3.0.2, and for 3 hours before" in decision.message
        assert "How the import ended is not known: check the collection" in decision.message

    def test_with_endless_grace_it_waits_on_and_logs_it_once_in_a_row(self) -> None:
        driven = Driven(unknown_job_grace=INF)
        for _ in range(3):
            assert driven.fails(ImportJobUnknown("100 %s of nothing.")) == (WAIT, 30.0)
            driven.clock.sleep(10**9)
        driven.goes_on()
        driven.fails(ImportJobUnknown("100 %s of nothing."))
        line = "100 %s of nothing. It may have been submitted just now: waiting for it."
        assert driven.log.text == [line, "Import job 7: importing, 50 %", line]


class TestOutage:
    @pytest.mark.parametrize("kind", [ImportApiUnreachable, ImportApiRefused, ImportProgressException])
    def test_without_tolerance_the_first_error_ends_it(self, kind: type[ImportProgressException]) -> None:
        driven = Driven(outage_tolerance=0.0)
        decision = driven.gate.failed(kind("HTTP 503"))
        assert decision.verdict is Verdict.UNREACHABLE
        assert decision.message == (
            "No good answer about import job 7 for 0 s (outage_tolerance is 0 s). The import itself may well go on. "
            "The last cause: HTTP 503"
        )
        assert not driven.log.lines

    @pytest.mark.parametrize("restart", [False, True])
    @pytest.mark.parametrize(
        ("after", "verdict"), [(899.9, WAIT), (900.0, Verdict.UNREACHABLE), (900.1, Verdict.UNREACHABLE)]
    )
    def test_it_ends_exactly_at_the_tolerance(self, after: float, verdict: Verdict, restart: bool) -> None:
        driven = Driven(outage_tolerance=900.0)
        driven.after(5000).down()
        if restart:
            driven.restart()
        assert driven.after(after).down()[0] is verdict

    @pytest.mark.parametrize("interval", [0.0, 30.0, 301.0, 3600.0])
    def test_the_back_off_doubles_up_to_five_minutes_with_a_quarter_of_jitter(self, interval: float) -> None:
        driven = Driven(outage_tolerance=INF, poke_interval=interval)
        base = max(interval, 0.1)
        for count in range(2000):
            verdict, delay = driven.down()
            driven.clock.sleep(delay)
            expected = min(base * 2.0 ** min(count, 99), max(300.0, base))
            assert (verdict, expected <= delay <= expected * 1.25) == (WAIT, True)

    def test_gates_that_lost_the_server_together_come_back_apart(self) -> None:
        assert len({Driven().down()[1] for _ in range(20)}) > 10

    def test_the_server_may_ask_for_a_longer_wait_and_not_for_a_shorter_one(self) -> None:
        driven = Driven(outage_tolerance=INF, poke_interval=30.0)
        assert driven.down(retry_after=200.0) == (WAIT, 200.0)
        verdict, delay = driven.down(retry_after=1.0)
        assert (verdict, delay >= 60) == (WAIT, True)

    @pytest.mark.parametrize("limit", [{"outage_tolerance": 100.0}, {"timeout": 100.0, "outage_tolerance": INF}])
    def test_no_delay_reaches_past_the_tolerance_or_the_timeout(self, limit: dict[str, float]) -> None:
        driven = Driven(poke_interval=30.0, **limit)
        assert driven.down(retry_after=5000.0) == (WAIT, 100.0)
        assert driven.log.at("warning")[0].endswith("Asking again in 1 min 40 s.")
        assert driven.after(90).down()[1] == pytest.approx(10.0)

    @pytest.mark.parametrize("answer", ["a good one", "unknown"])
    def test_an_answer_ends_it_and_the_next_one_begins_anew(self, answer: str) -> None:
        driven = Driven(outage_tolerance=100.0, poke_interval=10.0, unknown_job_grace=INF)
        for _ in range(3):
            driven.down()
        driven.clock.sleep(99)
        (driven.unknown if answer == "unknown" else driven.goes_on)()
        assert driven.log.at("info")[0] == "The server answers again, after 1 min 39 s."
        verdict, delay = driven.after(99).down()
        assert verdict is WAIT
        assert 10 <= delay <= 12.5
        assert driven.after(99).down()[0] is WAIT
        assert driven.after(1).down()[0] is Verdict.UNREACHABLE

    def test_it_fails_with_the_last_cause_and_the_job_as_last_seen(self) -> None:
        driven = Driven(outage_tolerance=60.0)
        driven.goes_on()
        driven.down("connection refused")
        decision = driven.after(60).gate.failed(ImportApiRefused("code 1100"))  # such an error carries no wait
        assert (decision.verdict, decision.job) == (Verdict.UNREACHABLE, job())
        assert "for 1 min (outage_tolerance is 1 min)" in decision.message
        assert decision.message.endswith("The last cause: code 1100")
        assert "refused" not in decision.message

    def test_each_failure_and_the_recovery_are_logged(self) -> None:
        driven = Driven(outage_tolerance=100.0, poke_interval=200.0)
        driven.down("HTTP 503 in 100 %s of cases.")
        driven.after(60).down("timed out.")
        driven.after(30).goes_on()
        driven.goes_on()
        assert driven.log.lines == [
            ("warning", "No good answer about import job 7: HTTP 503 in 100 %s of cases. Asking again in 1 min 40 s."),
            ("warning", "No good answer about import job 7: timed out. Asking again in 40 s."),
            ("info", "The server answers again, after 1 min 30 s."),
            ("info", "Import job 7: importing, 50 %"),
        ]


class TestTime:
    def test_exponential_backoff_waits_as_long_again_as_was_waited(self) -> None:
        driven = Driven(exponential_backoff=True, max_wait=100.0, poke_interval=10.0)
        delays = []
        for _ in range(6):
            delays.append(driven.goes_on()[1])
            driven.restart()
            assert driven.gate.next_poll_in == delays[-1]
            driven.clock.sleep(delays[-1])
        assert delays == [10, 20, 40, 80, 100, 100]
        assert driven.down()[1] <= 100

    @pytest.mark.parametrize(
        ("asked", "since", "left"), [("good", 0, 30), ("good", 12, 18), ("good", 31, 0), ("busy", 12, 188)]
    )
    def test_the_next_process_sleeps_what_is_left(self, asked: str, since: float, left: float) -> None:
        """A triggerer that starts anew every few seconds would never poll otherwise."""
        driven = Driven(poke_interval=30.0)
        driven.clock.sleep(5)
        driven.down(retry_after=200.0) if asked == "busy" else driven.goes_on()
        driven.after(since).restart()
        assert driven.gate.next_poll_in == left

    def test_a_row_of_release_0_1_0_says_when_the_gate_started_and_no_more(self) -> None:
        driven = Driven(GateState(START - 12))
        assert driven.gate.next_poll_in == 18.0

    def test_a_clock_that_was_set_back_breaks_nothing(self) -> None:
        driven = Driven(timeout=1000.0, unknown_job_grace=60.0, stall_warning=60.0)
        driven.goes_on()
        driven.unknown()
        driven.after(-3600).restart()
        assert (driven.gate.waited, driven.gate.time_left, driven.gate.next_poll_in) == (0, 1000, 30)
        assert driven.after(60).unknown()[0] is Verdict.JOB_UNKNOWN


class TestState:
    def test_what_0_1_0_did_not_know_is_left_out_where_it_says_nothing_new(self) -> None:
        driven = Driven()
        driven.after(0.9).goes_on()
        assert driven.gate.state.to_dict() == {"last_shown": ["importing", 50, 0, None]}
        driven.after(1).goes_on()
        assert set(driven.gate.state.to_dict()) == {"last_shown", "asked_at"}

    def test_it_survives_json(self) -> None:
        driven = Driven(stall_warning=1.0)
        driven.after(100).goes_on(imported_rows=3)
        driven.after(100).goes_on(imported_rows=3)
        driven.unknown()
        driven.down()
        state = driven.gate.state
        assert {"started_at", *state.to_dict()} == set(vars(state))
        assert GateState.from_dict(json.loads(json.dumps(state.to_dict())), START) == state

    @pytest.mark.parametrize(
        "value", ["x", None, float("nan"), float("inf"), [], {}, [1], ["x", 1, 2], ["x", -1, 0, 0]]
    )
    def test_what_cannot_be_read_is_left_out(self, value: Any) -> None:
        plain = dict.fromkeys(vars(GateState(0)), value) | {"newer": 1}
        assert GateState.from_dict(plain, START, value) == GateState(START)
        assert GateState.from_dict(value, value).started_at > START


class TestLog:
    def test_it_announces_what_it_waits_for(self) -> None:
        even, backing_off = Driven(wait_for="uncommitted", poke_interval=90.0), Driven(exponential_backoff=True)
        even.gate.announce()
        backing_off.gate.announce()
        assert even.log.lines == [("info", "Waiting for import job 7 to be uncommitted, asking every 1 min 30 s.")]
        (words,) = backing_off.log.at("info")
        assert words.endswith("to be completed, asking every 30 s at first, and then less and less often.")

    def test_there_is_one_line_for_each_change_and_none_for_a_poll_without_one(self) -> None:
        driven = Driven()
        pending: dict[str, Any] = {"state": ImportState.PENDING, "progress": 0.0}
        one_done = {"files": (file(), file("b", ImportState.IMPORTING))}
        done: dict[str, Any] = {"progress": 10.4, "files": (file(), file("b"))}
        rows = {**done, "imported_rows": 500, "total_rows": 20_000}
        polls = [{"progress": 0.0}, {"progress": 10.0, **one_done}, {"progress": 10.4, **one_done}, done, rows, rows]
        for poll in [pending, pending, *polls]:
            driven.goes_on(**poll)
            driven.clock.sleep(60)
        assert driven.log.text == [
            "Import job 7: pending, 0 %",
            "Import job 7: importing, 0 %",
            "Import job 7: importing, 10 %, 1 of 2 files done, about 27 min left",
            "Import job 7: importing, 10 %, 2 of 2 files done, about 43 min 5 s left",
            "Import job 7: importing, 10 %, 2 of 2 files done, 500 of 20,000 rows, about 51 min 42 s left",
        ]

    def test_the_time_left_follows_from_the_rate_since_the_first_answer(self) -> None:
        driven = Driven()
        for progress in (20.0, 60.0, 10.0):
            driven.goes_on(progress=progress)
            driven.clock.sleep(100)
        assert driven.log.text == [
            "Import job 7: importing, 20 %",
            "Import job 7: importing, 60 %, about 1 min 40 s left",
            "Import job 7: importing, 10 %",
        ]

    def test_no_rate_follows_from_what_an_earlier_process_saw(self) -> None:
        driven = Driven()
        driven.goes_on(progress=10.0)
        driven.restart()
        driven.after(10).gate.listed(job(progress=0.0))
        driven.after(10).goes_on(progress=60.0)
        assert "left" not in driven.log.lines[-1][1]

    def test_an_uncommitted_job_is_warned_of_once(self) -> None:
        driven = Driven(stall_warning=60.0)
        for _ in range(3):
            assert driven.goes_on(state=ImportState.UNCOMMITTED, progress=99.0) == (WAIT, 30.0)
            driven.clock.sleep(100)
        driven.unknown()
        driven.restart()
        driven.goes_on(state=ImportState.UNCOMMITTED, progress=100.0)
        driven.goes_on(state=ImportState.COMMITTING, progress=99.0)
        (warning,) = driven.log.at("warning")
        assert warning.startswith("Import job 7 is uncommitted")
        assert "until somebody commits" in warning

    def test_another_process_goes_on_where_the_log_left_off(self) -> None:
        driven = Driven()
        driven.goes_on(files=(file(),))
        driven.restart()
        driven.goes_on(files=(file(),))
        driven.goes_on(progress=0.0)  # a list of jobs shows no files, and on v1 no percentage
        driven.goes_on(files=(file(),), imported_rows=7)
        assert driven.log.text == [
            "Import job 7: importing, 50 %, 1 of 1 file done",
            "Import job 7: importing, 50 %, 1 of 1 file done, 7 rows",
        ]


class TestStall:
    def stall(self, seconds: float, restart: bool = False, **policy: Any) -> Driven:
        driven = Driven(**policy)
        driven.goes_on(progress=10.0)
        driven.after(50).goes_on(progress=40.0)
        for _ in range(3):
            driven.clock.sleep(seconds / 3)
            if restart:
                driven.restart()
            driven.goes_on(progress=40.2)
        return driven

    @pytest.mark.parametrize("restart", [False, True])
    def test_it_is_warned_of_once_with_since_when_and_what_to_check(self, restart: bool) -> None:
        driven = self.stall(1800, restart)
        driven.after(9000).goes_on(progress=40.0)
        (warning,) = driven.log.at("warning")
        assert warning.startswith(
            "Import job 7 has made no progress since 2023-11-14 22:14:10 UTC, for 30 min (importing, 40 %). Check"
        )
        driven.goes_on(progress=41.0)
        driven.after(1800).goes_on(progress=41.0)
        assert len(driven.log.at("warning")) == 2

    def test_what_a_list_does_not_show_is_asked_for_before_it_is_warned_of(self) -> None:
        """The list of Zilliz Cloud has no progress, and none has rows."""
        driven = Driven()
        driven.goes_on(progress=10.0)
        assert driven.after(1790).gate.listed(job(progress=0.0)) == 30
        assert driven.after(10).gate.listed(job(progress=0.0)) is None
        driven.goes_on(progress=60.0)
        assert driven.after(1790).gate.listed(job(progress=0.0)) == 30
        assert not driven.log.at("warning")
        assert driven.after(10).gate.listed(job(progress=0.0)) is None
        driven.goes_on(progress=60.0)
        assert len(driven.log.at("warning")) == 1
        assert driven.after(9000).gate.listed(job(progress=0.0)) == 30
        driven.gate.answered(job(ImportState.UNCOMMITTED))
        assert driven.after(9000).gate.listed(job(ImportState.UNCOMMITTED)) == 30

    @pytest.mark.parametrize(("seconds", "after"), [(1790, 1800.0), (10**6, 0.0)])
    def test_not_before_its_time_and_never_where_it_is_0(self, seconds: float, after: float) -> None:
        assert not self.stall(seconds, stall_warning=after).log.at("warning")


HUGE = "the dim of field vector is 4 and should be 8; " * 3000


@pytest.mark.parametrize("state", [ImportState.COMPLETED, ImportState.FAILED])
@pytest.mark.parametrize(
    ("prefix", "reason", "collection"),
    [("f", "row 7", "c"), ("f", HUGE, "c"), ("桶/" * 100, "维度不匹配" * 100, "c"), ("f", "x", "c" * 100_000)],
    ids=["many files", "huge reasons", "in Chinese", "endless collection"],
)
@pytest.mark.parametrize("shared", [False, True])
def test_an_event_stays_small_whatever_the_job_says(
    state: ImportState, prefix: str, reason: str, collection: str, shared: bool
) -> None:
    files = tuple(failed(f"{prefix}{number}.json", reason) for number in range(10_000))
    huge = ImportJob("7", collection, state, 50.0, files=files, error_message=reason if shared else f"{reason}!")
    decision = Driven().gate.answered(huge)
    assert len(decision.message) < 8000  # what the log and the exception hold
    assert len(json.dumps(_messages.brief(decision.message, 2000))) < 2100
    assert decision.job is not None
    assert len(decision.job.files) == 10_000
