"""Each call to a server: which request comes next, and what the answers add up to.

A call is a generator that yields requests, takes responses, and returns its result. A client only carries the one to
the server and the other back, so the blocking and the asynchronous client cannot differ::

    call = api.progress("job-1")
    request = advance(call)
    advance(call, send(request)).result  # the ImportJob, where no more requests are needed
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Literal, Protocol, TypeVar

from airflow_provider_importprog.api import v1, v2
from airflow_provider_importprog.api.errors import (
    DialectNotServed,
    ImportApiError,
    JobIdInvalid,
    JobUnknown,
    NotPermitted,
    Refused,
    Unsupported,
)
from airflow_provider_importprog.api.model import Brief, ImportJob, ImportState
from airflow_provider_importprog.api.protocol import Address, ListPage, NewImportJob, Request, Response, read

log = logging.getLogger(__name__)

ApiVersion = Literal["auto", "v1", "v2"]

T = TypeVar("T")
#: What a client runs: it sends each request and hands back the response.
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


class Redact(Protocol):
    """Takes secrets out of what a server says: of an error, and of a job."""

    def __call__(self, words: str, /) -> str: ...
    def job(self, job: ImportJob, /) -> ImportJob: ...


class _RedactNothing:
    def __call__(self, words: str, /) -> str:
        return words

    def job(self, job: ImportJob, /) -> ImportJob:
        return job


class Dialect(Protocol):
    """What a dialect's module offers: a request for each call, and a parser for its good answers."""

    NAME: str
    #: Whether it shows that an import awaits its commit.
    TWO_PHASE: bool
    #: Where a job's progress may be asked for: the first that the server serves is the right one.
    PROGRESS_PATHS: tuple[str, ...]

    def progress_request(self, address: Address, job_id: str, path: str) -> Request: ...
    def parse_progress(self, data: Any, job_id: str, brief: Brief | None = None) -> ImportJob: ...
    def list_request(self, address: Address, collection_name: str | None, page: int, page_size: int) -> Request: ...
    def parse_list(self, data: Any) -> ListPage: ...
    def create_request(self, address: Address, new: NewImportJob) -> Request: ...
    def parse_create(self, data: Any) -> str: ...
    def end_request(self, address: Address, job_id: str, verb: str) -> Request: ...
    def refresh_load_request(self, address: Address, collection_name: str) -> Request: ...


@dataclass(frozen=True)
class JobList:
    """The import jobs of a cluster, as the server listed them.

    :param jobs: without their files.
    :param shows_progress: whether a job's percentage means something.
    """

    jobs: list[ImportJob]
    shows_progress: bool


@dataclass(frozen=True)
class Probe:
    """What came of asking a dialect for what gates and operators ask for.

    :param progress: None where a job's progress can be asked for, else what went wrong.
    :param listing: likewise of the list of jobs; None too where it was not asked for.
    """

    progress: ImportApiError | None
    listing: ImportApiError | None = None


@dataclass(frozen=True)
class _Ending:
    """One of the two ways to end a two-phase import.

    :param done: the states in which it has been done already.
    :param advice: what a person can do where the server refuses, by the job's state.
    """

    verb: str
    done: frozenset[ImportState]
    advice: Mapping[ImportState, str]


_COMMIT = _Ending(
    "commit",
    frozenset({ImportState.COMMITTING, ImportState.COMPLETED}),
    {
        ImportState.PENDING: "Wait until it is uncommitted, and commit it then.",
        ImportState.IMPORTING: "Wait until it is uncommitted, and commit it then.",
        ImportState.UNCOMMITTED: "Try again.",
        ImportState.FAILED: "A failed or aborted import cannot be committed: import again.",
    },
)
_ABORT = _Ending(
    "abort",
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
# What no job is called: Milvus parses it, and gives its jobs large numbers.
_NO_JOB = "0"


@dataclass
class _Served:
    """What is known of a server, and shared by all views of its API.

    :param dialects: those that it may serve.
    :param progress_paths: by a dialect's name, those that it may serve.
    """

    dialects: tuple[Dialect, ...]
    progress_paths: dict[str, tuple[str, ...]] = field(
        default_factory=lambda: {dialect.NAME: dialect.PROGRESS_PATHS for dialect in _DIALECTS}
    )


class ImportApi:
    """The import API of one server. Its methods return calls, which a client runs.

    :param address: which part of the deployment to ask when a call names no cluster.
    :param version: the dialect to use. ``auto`` asks v1 first and stays with v2 once the server has shown that it
        serves v2 and not v1.
    :param redact: takes secrets out of what the server says.
    """

    def __init__(self, address: Address, version: ApiVersion = "auto", redact: Redact | None = None) -> None:
        self._address = address
        self._redact: Redact = redact or _RedactNothing()
        self._served = _Served(tuple(dialect for dialect in _DIALECTS if version in ("auto", dialect.NAME)))
        self._only_two_phase = False

    @property
    def two_phase(self) -> ImportApi:
        """The same API in those dialects that show whether an import awaits its commit; itself where all do."""
        if self._only_two_phase or all(dialect.TWO_PHASE for dialect in self._served.dialects):
            return self
        view = copy(self)  # what is learned of the server is learned by both
        view._only_two_phase = True
        return view

    def progress(self, job_id: str, cluster_id: str | None = None, brief: Brief | None = None) -> Call[ImportJob]:
        """Ask how far an import job is.

        :param brief: says of the job whether its files may be left out; None for never.
        :raises JobUnknown: the server has no record of it.
        :raises JobIdInvalid: the server cannot read the id.
        :raises ImportApiError: any other answer that is not a good one.
        """
        address = self._at(cluster_id)
        return (yield from self._in_a_dialect(lambda dialect: self._progress(dialect, address, job_id, brief)))

    def list_jobs(
        self, collection_name: str | None = None, cluster_id: str | None = None, max_pages: int | None = None
    ) -> Call[JobList]:
        """Ask for every import job of a cluster, page by page.

        :param collection_name: only this collection's jobs.
        :param max_pages: stop after so many pages of 100 jobs, though there are more; None asks for all.
        """
        address = self._at(cluster_id)

        def ask(dialect: Dialect) -> Call[JobList]:
            jobs: dict[str, ImportJob] = {}
            page, shows_progress = 1, False
            while True:
                request = dialect.list_request(address, collection_name, page, _PAGE_SIZE)
                found = dialect.parse_list((yield from self._ask(request)))
                shows_progress = shows_progress or found.shows_progress
                known = len(jobs)
                jobs.update((job.job_id, job) for job in found.jobs)
                # A server may answer shorter pages than asked for, the same ones again, or as its count that of
                # the page.
                more = len(found.jobs) == _PAGE_SIZE or (found.total is not None and len(jobs) < found.total)
                if not more or len(jobs) == known or page == max_pages:
                    break
                page += 1
            wanted = [self._redact.job(job) for job in jobs.values() if collection_name in (None, job.collection_name)]
            return JobList(wanted, shows_progress)

        return (yield from self._in_a_dialect(ask))

    def create(self, new: NewImportJob, cluster_id: str | None = None) -> Call[str]:
        """Submit an import job and return its id."""
        address = self._at(cluster_id)

        def ask(dialect: Dialect) -> Call[str]:
            return dialect.parse_create((yield from self._ask(dialect.create_request(address, new))))

        return (yield from self._in_a_dialect(ask))

    def commit(self, job_id: str, cluster_id: str | None = None) -> Call[None]:
        """Make the rows of an uncommitted import job visible. One that is committed already counts as done."""
        return (yield from self._end(_COMMIT, job_id, cluster_id))

    def abort(self, job_id: str, cluster_id: str | None = None) -> Call[None]:
        """Drop the rows of an uncommitted import job. One that has failed already counts as done."""
        return (yield from self._end(_ABORT, job_id, cluster_id))

    def refresh_load(self, collection_name: str) -> Call[None]:
        """Have a loaded collection show the rows that it has gained. On v2, whatever else the server serves.

        :raises Unsupported: there is no such call here.
        """
        dialect = self._served.dialects[-1]  # of "auto", v2
        try:
            yield from self._ask(dialect.refresh_load_request(self._address, collection_name))
        except DialectNotServed as error:
            raise Unsupported(
                f"{error} Older servers, and the control plane of Zilliz Cloud, cannot refresh what is loaded of a "
                "collection."
            ) from None

    def probe(self) -> Call[dict[str, Probe]]:
        """Ask each dialect for what gates and operators use: the progress of a job that cannot exist, and the list.

        :return: by the dialect's name, what came of it.
        """
        found: dict[str, Probe] = {}
        for dialect in self._served.dialects:
            progress = listing = None
            try:
                yield from self._progress(dialect, self._address, _NO_JOB)
            except (JobUnknown, JobIdInvalid, Refused):
                pass  # the API's own words
            except ImportApiError as error:
                progress = error
            if progress is None or isinstance(progress, NotPermitted):
                try:
                    dialect.parse_list((yield from self._ask(dialect.list_request(self._address, None, 1, 1))))
                except ImportApiError as error:
                    listing = error
            found[dialect.NAME] = Probe(progress, listing)
        return found

    def _progress(self, dialect: Dialect, address: Address, job_id: str, brief: Brief | None = None) -> Call[ImportJob]:
        """Ask on each path that the server may serve until one is, and stay with it."""
        paths, not_served = self._served.progress_paths, None
        for path in paths[dialect.NAME]:
            try:
                data = yield from self._ask(dialect.progress_request(address, job_id, path))
            except DialectNotServed as error:
                not_served = not_served or error
                continue
            except (JobUnknown, JobIdInvalid):
                paths[dialect.NAME] = (path,)
                raise
            job = dialect.parse_progress(data, job_id, brief)
            paths[dialect.NAME] = (path,)
            return self._redact.job(job)
        assert not_served is not None  # noqa: S101 (there is a path)
        raise not_served

    def _end(self, ending: _Ending, job_id: str, cluster_id: str | None) -> Call[None]:
        address = self._at(cluster_id)

        def ask(dialect: Dialect) -> Call[None]:
            try:
                yield from self._ask(dialect.end_request(address, job_id, ending.verb))
                return
            except ImportApiError as error:
                if not (error.in_doubt or isinstance(error, (Refused, DialectNotServed))):
                    raise
                trouble = error
            # Older servers refuse what is done already, and one that gave up may have done it: the job says more.
            try:
                job = yield from self._progress(dialect, address, job_id)
            except ImportApiError as error:
                if isinstance(error, JobUnknown) and isinstance(trouble, DialectNotServed):
                    raise _no_two_phase(trouble) from None
                raise trouble from None
            if isinstance(trouble, DialectNotServed):
                raise _no_two_phase(trouble)
            if job.state in ending.done:
                return
            words = f"{str(trouble).rstrip('.')}. Import job {job_id} is {job.state}"
            if trouble.in_doubt:
                trouble.args = (f"{words}; whether the {ending.verb} is still to come is not known.",)
            else:
                trouble.args = (f"{words}. {ending.advice.get(job.state, '')}".rstrip(),)
            raise trouble

        return (yield from self._in_a_dialect(ask))

    def _ask(self, request: Request) -> Call[Any]:
        """Send one request and return the ``data`` of a good answer."""
        return read(request, (yield request), self._redact)

    def _at(self, cluster_id: str | None) -> Address:
        return replace(self._address, cluster_id=cluster_id) if cluster_id else self._address

    def _in_a_dialect(self, ask: Callable[[Dialect], Call[T]]) -> Call[T]:
        """Ask in each dialect until one is served, and stay with that one."""
        dialects = [one for one in self._served.dialects if one.TWO_PHASE or not self._only_two_phase]
        passed: list[ImportApiError] = []
        for dialect in dialects:
            try:
                answer = yield from ask(dialect)
            except (DialectNotServed, Unsupported) as error:
                passed.append(error)
            except ImportApiError as error:
                # A server of v2 alone may say 404 to the path of v1 in words, and in JSON, of its own.
                if error.http_status == 404 and dialect is not dialects[-1]:
                    passed.append(error)
                    continue
                if isinstance(error, (JobUnknown, JobIdInvalid)):
                    self._settle(dialect, passed)
                raise
            else:
                self._settle(dialect, passed)
                return answer
        own = [error for error in passed if not isinstance(error, (DialectNotServed, Unsupported))]
        if own:
            raise own[0]
        # A proxy in trouble may say "not found" to every path, so nothing is concluded from that.
        raise type(passed[-1])(" ".join(str(error) for error in passed)) from passed[-1]

    def _settle(self, dialect: Dialect, passed: Sequence[ImportApiError]) -> None:
        """Stay with a dialect that was answered, where every one before it proved not to be served."""
        if passed and not any(isinstance(error, (Unsupported, JobUnknown)) for error in passed):
            log.info("This server does not serve the %s import API; using %s.", v1.NAME, dialect.NAME)
            self._served.dialects = (dialect,)


def _no_two_phase(error: DialectNotServed) -> Unsupported:
    return Unsupported(f"{error} Two-phase imports need Milvus 3.0 or later.")
