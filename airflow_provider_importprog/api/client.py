"""The conversation with one server: which request comes next, and what the answers add up to.

Each call is a generator that yields requests, takes responses, and returns its result. A hook only carries
the one to the server and the other back, so the blocking and the asynchronous hook cannot differ::

    call = api.get_import_progress("job-1")
    request = advance(call)
    advance(call, send(request)).result  # the ImportJob, where no more requests are needed
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Literal, Protocol, TypeVar

from airflow_provider_importprog.api import v1, v2
from airflow_provider_importprog.api.errors import (
    DialectNotServed,
    ImportApiError,
    JobUnknown,
    Refused,
    ServerDown,
    Unsupported,
)
from airflow_provider_importprog.api.model import Brief, ImportJob, ImportState
from airflow_provider_importprog.api.protocol import Address, NewImportJob, Request, Response, read

log = logging.getLogger(__name__)

ApiVersion = Literal["auto", "v1", "v2"]
API_VERSIONS: tuple[ApiVersion, ...] = ("auto", "v1", "v2")

T = TypeVar("T")
#: What a hook drives: it sends each request and hands back the response.
Call = Generator[Request, Response, T]


@dataclass(frozen=True)
class Done(Generic[T]):
    """A call that needs no more requests."""

    result: T


def advance(call: Call[T], answer: Response | ImportApiError | None = None) -> Request | Done[T]:
    """Return a call's next request, or its result.

    :param answer: what came of its last request; None before the first.
    :raises ImportApiError: the answer was not a good one.
    """
    try:
        if answer is None:
            return next(call)
        return call.throw(answer) if isinstance(answer, ImportApiError) else call.send(answer)
    except StopIteration as end:
        return Done(end.value)


class Dialect(Protocol):
    """What a dialect's module offers: a request for each call, and a parser for its good answers."""

    NAME: str
    #: Whether it shows that an import awaits its commit.
    TWO_PHASE: bool

    def progress_request(self, address: Address, job_id: str) -> Request: ...
    def parse_progress(self, data: Any, job_id: str, brief: Brief | None = None) -> ImportJob: ...
    def list_request(self, address: Address, collection_name: str | None, page: int, page_size: int) -> Request: ...
    def parse_list(self, data: Any) -> tuple[list[ImportJob], int | None]: ...
    def create_request(self, address: Address, new: NewImportJob) -> Request: ...
    def parse_create(self, data: Any) -> str: ...
    def commit_request(self, address: Address, job_id: str) -> Request: ...
    def abort_request(self, address: Address, job_id: str) -> Request: ...


@dataclass(frozen=True)
class _Ending:
    """One of the two ways to end a two-phase import.

    :param request: the request of a dialect for it.
    :param done: the states in which it has been done already.
    :param advice: what a person can do where the server refuses, by the job's state.
    """

    request: Callable[[Dialect], Callable[[Address, str], Request]]
    done: frozenset[ImportState]
    advice: Mapping[ImportState, str]


_COMMIT = _Ending(
    lambda dialect: dialect.commit_request,
    frozenset({ImportState.COMMITTING, ImportState.COMPLETED}),
    {
        ImportState.PENDING: "Wait until it is uncommitted, and commit it then.",
        ImportState.IMPORTING: "Wait until it is uncommitted, and commit it then.",
        ImportState.UNCOMMITTED: "Try again.",
        ImportState.FAILED: "A failed or aborted import cannot be committed: import again.",
    },
)
_ABORT = _Ending(
    lambda dialect: dialect.abort_request,
    frozenset({ImportState.FAILED}),
    {
        ImportState.UNCOMMITTED: "Try again.",
        ImportState.COMMITTING: "Its rows are about to be visible: delete them in the collection.",
        ImportState.COMPLETED: "Its rows are visible: delete them in the collection.",
    },
)

# In the order in which "auto" asks: v1 is the seed's API.
_DIALECTS: tuple[Dialect, ...] = (v1, v2)
_PAGE_SIZE = 100


class ImportApi:
    """The import API of one server.

    :param address: which part of the deployment to ask when a call names no cluster.
    :param version: the dialect to speak. ``auto`` asks v1 first and stays with v2 once the server has shown
        that it serves v2 and not v1.
    :param redact: takes secrets out of what the server says of an error.
    :param redact_job: takes secrets out of an import job, should the server have echoed them.
    """

    def __init__(
        self,
        address: Address,
        version: ApiVersion = "auto",
        redact: Callable[[str], str] = str,
        redact_job: Callable[[ImportJob], ImportJob] = lambda job: job,
    ) -> None:
        self._address = address
        self._redact = redact
        self._redact_job = redact_job
        self._dialects = tuple(d for d in _DIALECTS if version in ("auto", d.NAME))

    def get_import_progress(
        self, job_id: str, cluster_id: str | None = None, brief: Brief | None = None, two_phase: bool = False
    ) -> Call[ImportJob]:
        """Ask how far an import job is.

        :param brief: says of the job whether its files may be left out; None for never.
        :param two_phase: ask only in a dialect that shows whether the job awaits its commit.
        :raises JobUnknown: the server has no record of it.
        :raises ImportApiError: any other answer that is not a good one.
        """
        address = self._at(cluster_id)

        def ask(dialect: Dialect) -> Call[ImportJob]:
            request = dialect.progress_request(address, job_id)
            return self._redact_job(dialect.parse_progress(read(request, (yield request), self._redact), job_id, brief))

        return (yield from self._speak(ask, two_phase))

    def list_import_jobs(
        self,
        collection_name: str | None = None,
        cluster_id: str | None = None,
        max_pages: int | None = None,
        two_phase: bool = False,
    ) -> Call[list[ImportJob]]:
        """Ask for every import job of a cluster, page by page; the jobs come without their files.

        :param collection_name: only this collection's jobs.
        :param max_pages: stop after so many pages of 100 jobs, though there are more; None asks for all.
        :param two_phase: ask only in a dialect that shows which jobs await their commit.
        """
        address = self._at(cluster_id)

        def ask(dialect: Dialect) -> Call[list[ImportJob]]:
            jobs: dict[str, ImportJob] = {}
            page = 1
            while True:
                request = dialect.list_request(address, collection_name, page, _PAGE_SIZE)
                found, count = dialect.parse_list(read(request, (yield request), self._redact))
                known = len(jobs)
                jobs.update((job.job_id, job) for job in found)
                # A server may answer shorter pages than asked for, the same ones again, or as its count that of
                # the page.
                more = len(found) == _PAGE_SIZE or (count is not None and len(jobs) < count)
                if not more or len(jobs) == known or page == max_pages:
                    break
                page += 1
            return [self._redact_job(job) for job in jobs.values() if collection_name in (None, job.collection_name)]

        return (yield from self._speak(ask, two_phase))

    def create_import_job(self, new: NewImportJob, cluster_id: str | None = None) -> Call[str]:
        """Submit an import job and return its id."""
        address = self._at(cluster_id)

        def ask(dialect: Dialect) -> Call[str]:
            request = dialect.create_request(address, new)
            return dialect.parse_create(read(request, (yield request), self._redact))

        return (yield from self._speak(ask))

    def commit_import_job(self, job_id: str, cluster_id: str | None = None) -> Call[None]:
        """Make the rows of an uncommitted import job visible. One that is committed already counts as done."""
        return (yield from self._end(_COMMIT, job_id, cluster_id))

    def abort_import_job(self, job_id: str, cluster_id: str | None = None) -> Call[None]:
        """Drop the rows of an uncommitted import job. One that has failed already counts as done."""
        return (yield from self._end(_ABORT, job_id, cluster_id))

    @property
    def settled(self) -> bool:
        """Whether there is one dialect left to speak."""
        return len(self._dialects) == 1

    def list_shows_progress(self, two_phase: bool) -> bool:
        """Whether a job's percentage in a list means something, in the dialect that is spoken now."""
        return self._dialects[0] is not v1 or (two_phase and not self.settled)

    def probe(self) -> Call[dict[str, ImportApiError | None]]:
        """Ask each dialect for its list, one job long.

        :return: by the dialect's name, None where it answered well, else what went wrong.
        """
        found: dict[str, ImportApiError | None] = {}
        for dialect in self._dialects:
            request = dialect.list_request(self._address, None, 1, 1)
            try:
                dialect.parse_list(read(request, (yield request), self._redact))
                found[dialect.NAME] = None
            except ImportApiError as error:
                found[dialect.NAME] = error
        return found

    def _end(self, ending: _Ending, job_id: str, cluster_id: str | None) -> Call[None]:
        address = self._at(cluster_id)

        def ask(dialect: Dialect) -> Call[None]:
            request = ending.request(dialect)(address, job_id)
            try:
                read(request, (yield request), self._redact)
            except (Refused, DialectNotServed, ServerDown) as error:
                if isinstance(error, ServerDown) and not error.in_doubt:
                    raise
                # Older servers refuse what is done already, and the words say little: the job says more.
                job = yield from self._look(dialect, address, job_id, error)
                if isinstance(error, DialectNotServed):
                    raise Unsupported(f"{error} Two-phase imports need Milvus 3.0 or later.") from None
                if job is not None and job.state in ending.done:
                    return
                if job is not None and isinstance(error, Refused):
                    refusal, advice = str(error).rstrip("."), ending.advice.get(job.state, "")
                    raise Refused(
                        f"{refusal}. Import job {job_id} is {job.state}. {advice}".rstrip(), error.code
                    ) from None
                raise

        return (yield from self._speak(ask))

    def _look(self, dialect: Dialect, address: Address, job_id: str, after: ImportApiError) -> Call[ImportJob | None]:
        """Return the job that another call was refused for, or None where the server does not know it.

        :raises ImportApiError: that call's error, where this one gets no good answer either.
        """
        request = dialect.progress_request(address, job_id)
        try:
            return dialect.parse_progress(read(request, (yield request), self._redact), job_id)
        except JobUnknown:
            return None
        except ImportApiError:
            raise after from None

    def _at(self, cluster_id: str | None) -> Address:
        return replace(self._address, cluster_id=cluster_id) if cluster_id else self._address

    def _speak(self, ask: Callable[[Dialect], Call[T]], two_phase: bool = False) -> Call[T]:
        """Ask in each dialect until one is served, and stay with that one."""
        passed: list[ImportApiError] = []
        for dialect in self._dialects:
            if two_phase and not dialect.TWO_PHASE:
                continue
            try:
                answer = yield from ask(dialect)
            except (DialectNotServed, Unsupported) as error:
                passed.append(error)
                continue
            except JobUnknown:
                self._settle(dialect, passed)
                raise
            self._settle(dialect, passed)
            return answer
        # A proxy in trouble may say "not found" to every path, so nothing is concluded from that.
        raise type(passed[-1])(" ".join(str(error) for error in passed)) from passed[-1]

    def _settle(self, dialect: Dialect, passed: Sequence[ImportApiError]) -> None:
        """Stay with a dialect that was answered, where every one before it proved not to be served."""
        if passed and all(isinstance(error, DialectNotServed) for error in passed):
            log.info("This server does not serve the %s import API; using %s.", v1.NAME, dialect.NAME)
            self._dialects = (dialect,)
