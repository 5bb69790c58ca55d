"""Each call to a server: which request comes next, and what the answers add up to.

A call is a value. It names no server, so it can be made before one is known, and carried out more than once. Carried
out, it yields requests, takes responses, and returns its result. A client only carries the one to the server and the
other back, so the blocking and the asynchronous client cannot differ::

    steps = Progress("job-1").steps(ImportApi(address))
    request = advance(steps)
    advance(steps, send(request)).result  # the ImportJob, where no more requests are needed
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar

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
#: A call that is being carried out: it yields requests, and takes the responses.
Steps = Generator[Request, Response, T]


@dataclass(frozen=True)
class Done(Generic[T]):
    """A call that needs no more requests."""

    result: T


def advance(steps: Steps[T], answer: Response | ImportApiError | None = None) -> Request | Done[T]:
    """Return a call's next request, or its result.

    :param answer: what came of its last request; None before the first.
    :raises ImportApiError: the answer was not a good one.
    """
    try:
        if answer is None:
            return next(steps)
        return steps.throw(answer) if isinstance(answer, ImportApiError) else steps.send(answer)
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


# In the order in which "auto" asks: v1 is the older one.
_DIALECTS: tuple[Dialect, ...] = (v1, v2)
_PAGE_SIZE = 100
# What no job is called: Milvus parses it, and gives its jobs large numbers.
_NO_JOB = "0"


class ImportApi:
    """What is known of the import API of one server.

    :param address: which part of the deployment to ask when a call names no cluster.
    :param version: the dialect to use. ``auto`` asks v1 first and stays with v2 once the server has shown that it
        serves v2 and not v1.
    :param redact: takes secrets out of what the server says.
    """

    def __init__(self, address: Address, version: ApiVersion = "auto", redact: Redact | None = None) -> None:
        self.address = address
        self.redact: Redact = redact or _RedactNothing()
        #: Those that the server may serve.
        self.dialects = tuple(dialect for dialect in _DIALECTS if version in ("auto", dialect.NAME))
        #: By a dialect's name, those that the server may serve.
        self.progress_paths = {dialect.NAME: dialect.PROGRESS_PATHS for dialect in _DIALECTS}

    def ask(self, request: Request) -> Steps[Any]:
        """Send one request and return the ``data`` of a good answer."""
        return read(request, (yield request), self.redact)

    def settle(self, dialect: Dialect, passed: Sequence[ImportApiError]) -> None:
        """Stay with a dialect that was answered, where every one before it proved not to be served."""
        if passed and not any(isinstance(error, (Unsupported, JobUnknown)) for error in passed):
            log.info("This server does not serve the %s import API; using %s.", v1.NAME, dialect.NAME)
            self.dialects = (dialect,)


@dataclass(frozen=True)
class Call(Generic[T]):
    """One call to a server.

    :param cluster_id: asked instead of the address's own.
    :param two_phase: ask only in a dialect that shows whether an import awaits its commit.
    """

    cluster_id: str | None = field(default=None, kw_only=True)
    two_phase: bool = field(default=False, kw_only=True)

    #: What it is about; a format of the call.
    SUBJECT: ClassVar[str]

    def ask(self, api: ImportApi, dialect: Dialect, address: Address) -> Steps[T]:
        """Carry it out in one dialect. A call that chooses among them otherwise has `steps` of its own instead."""
        raise NotImplementedError

    def steps(self, api: ImportApi) -> Steps[T]:
        """Carry it out in each dialect until one is served, and stay with that one."""
        address = replace(api.address, cluster_id=self.cluster_id) if self.cluster_id else api.address
        dialects = [one for one in api.dialects if one.TWO_PHASE or not self.two_phase]
        passed: list[ImportApiError] = []
        for dialect in dialects:
            try:
                answer = yield from self.ask(api, dialect, address)
            except (DialectNotServed, Unsupported) as error:
                passed.append(error)
            except ImportApiError as error:
                # A server of v2 alone may say 404 to the path of v1 in words, and in JSON, of its own.
                if error.http_status == 404 and dialect is not dialects[-1]:
                    passed.append(error)
                    continue
                if isinstance(error, (JobUnknown, JobIdInvalid)):
                    api.settle(dialect, passed)
                raise
            else:
                api.settle(dialect, passed)
                return answer
        own = [error for error in passed if not isinstance(error, (DialectNotServed, Unsupported))]
        if own:
            raise own[0]
        # A proxy in trouble may say "not found" to every path, so nothing is concluded from that.
        raise type(passed[-1])(" ".join(str(error) for error in passed)) from passed[-1]


@dataclass(frozen=True)
class Progress(Call[ImportJob]):
    """Ask how far an import job is.

    :param brief: says of the job whether its files may be left out; None for never.
    :raises JobUnknown: the server has no record of it.
    :raises JobIdInvalid: the server cannot read the id.
    :raises ImportApiError: any other answer that is not a good one.
    """

    job_id: str
    brief: Brief | None = None

    SUBJECT = "import job {0.job_id}"

    def ask(self, api: ImportApi, dialect: Dialect, address: Address) -> Steps[ImportJob]:
        """Ask on each path that the server may serve until one is, and stay with it."""
        paths, not_served = api.progress_paths, None
        for path in paths[dialect.NAME]:
            try:
                data = yield from api.ask(dialect.progress_request(address, self.job_id, path))
            except DialectNotServed as error:
                not_served = not_served or error
                continue
            except (JobUnknown, JobIdInvalid):
                paths[dialect.NAME] = (path,)
                raise
            job = dialect.parse_progress(data, self.job_id, self.brief)
            paths[dialect.NAME] = (path,)
            return api.redact.job(job)
        assert not_served is not None  # noqa: S101 (there is a path)
        raise not_served


@dataclass(frozen=True)
class ListJobs(Call[JobList]):
    """Ask for every import job of a cluster, page by page.

    :param collection_name: only this collection's jobs.
    :param max_pages: stop after so many pages of 100 jobs, though there are more; None asks for all.
    """

    collection_name: str | None = None
    max_pages: int | None = None

    SUBJECT = "its import jobs"

    def ask(self, api: ImportApi, dialect: Dialect, address: Address) -> Steps[JobList]:
        jobs: dict[str, ImportJob] = {}
        page, shows_progress = 1, False
        while True:
            request = dialect.list_request(address, self.collection_name, page, _PAGE_SIZE)
            found = dialect.parse_list((yield from api.ask(request)))
            shows_progress = shows_progress or found.shows_progress
            known = len(jobs)
            jobs.update((job.job_id, job) for job in found.jobs)
            # A server may answer shorter pages than asked for, the same ones again, or as its count that of the page.
            more = len(found.jobs) == _PAGE_SIZE or (found.total is not None and len(jobs) < found.total)
            if not more or len(jobs) == known or page == self.max_pages:
                break
            page += 1
        wanted = [job for job in jobs.values() if self.collection_name in (None, job.collection_name)]
        return JobList([api.redact.job(job) for job in wanted], shows_progress)


@dataclass(frozen=True)
class Create(Call[str]):
    """Submit an import job and return its id."""

    new: NewImportJob

    SUBJECT = "a new import job of {0.new.collection_name!r}"

    def ask(self, api: ImportApi, dialect: Dialect, address: Address) -> Steps[str]:
        return dialect.parse_create((yield from api.ask(dialect.create_request(address, self.new))))


@dataclass(frozen=True)
class _End(Call[None]):
    """End a two-phase import in one of its two ways. What has been done already counts as done."""

    job_id: str

    VERB: ClassVar[str]
    #: The states in which it has been done already.
    DONE: ClassVar[frozenset[ImportState]]
    #: What a person can do where the server refuses, by the job's state.
    ADVICE: ClassVar[Mapping[ImportState, str]]

    SUBJECT = "import job {0.job_id}"

    def ask(self, api: ImportApi, dialect: Dialect, address: Address) -> Steps[None]:
        try:
            yield from api.ask(dialect.end_request(address, self.job_id, self.VERB))
            return
        except ImportApiError as error:
            if not (error.in_doubt or isinstance(error, (Refused, DialectNotServed))):
                raise
            trouble = error
        # Older servers refuse what is done already, and one that gave up may have done it: the job says more.
        try:
            job = yield from Progress(self.job_id).ask(api, dialect, address)
        except ImportApiError as error:
            if isinstance(error, JobUnknown) and isinstance(trouble, DialectNotServed):
                raise _no_two_phase(trouble) from None
            raise trouble from None
        if isinstance(trouble, DialectNotServed):
            raise _no_two_phase(trouble)
        if job.state in self.DONE:
            return
        words = f"{str(trouble).rstrip('.')}. Import job {self.job_id} is {job.state}"
        if trouble.in_doubt:
            trouble.args = (f"{words}; whether the {self.VERB} is still to come is not known.",)
        else:
            trouble.args = (f"{words}. {self.ADVICE.get(job.state, '')}".rstrip(),)
        raise trouble


class Commit(_End):
    """Make the rows of an uncommitted import job visible. One that is committed already counts as done."""

    VERB = "commit"
    DONE = frozenset({ImportState.COMMITTING, ImportState.COMPLETED})
    ADVICE: ClassVar = {
        ImportState.PENDING: "Wait until it is uncommitted, and commit it then.",
        ImportState.IMPORTING: "Wait until it is uncommitted, and commit it then.",
        ImportState.UNCOMMITTED: "Try again.",
        ImportState.FAILED: "A failed or aborted import cannot be committed: import again.",
    }


class Abort(_End):
    """Drop the rows of an uncommitted import job. One that has failed already counts as done."""

    VERB = "abort"
    DONE = frozenset({ImportState.FAILED})
    ADVICE: ClassVar = {
        ImportState.UNCOMMITTED: "Try again.",
        ImportState.COMMITTING: "Its rows are about to be visible: delete them in the collection.",
        ImportState.COMPLETED: "Its rows are visible: delete them in the collection.",
    }


@dataclass(frozen=True)
class RefreshLoad(Call[None]):
    """Have a loaded collection show the rows that it has gained. On v2, whatever else the server serves.

    :raises Unsupported: there is no such call here.
    """

    collection_name: str

    SUBJECT = "collection {0.collection_name!r}"

    def steps(self, api: ImportApi) -> Steps[None]:
        dialect = api.dialects[-1]  # of "auto", v2
        try:
            yield from api.ask(dialect.refresh_load_request(api.address, self.collection_name))
        except DialectNotServed as error:
            raise Unsupported(
                f"{error} Older servers, and the control plane of Zilliz Cloud, cannot refresh what is loaded of a "
                "collection."
            ) from None


class ProbeDialects(Call[dict[str, Probe]]):
    """Ask each dialect for what gates and operators use: the progress of a job that cannot exist, and the list.

    It returns, by the dialect's name, what came of it.
    """

    SUBJECT = "this connection"

    def steps(self, api: ImportApi) -> Steps[dict[str, Probe]]:
        found: dict[str, Probe] = {}
        for dialect in api.dialects:
            progress = listing = None
            try:
                yield from Progress(_NO_JOB).ask(api, dialect, api.address)
            except (JobUnknown, JobIdInvalid, Refused):
                pass  # the API's own words
            except ImportApiError as error:
                progress = error
                error.args = (api.redact(str(error)),)
            if progress is None or isinstance(progress, NotPermitted):
                try:
                    dialect.parse_list((yield from api.ask(dialect.list_request(api.address, None, 1, 1))))
                except ImportApiError as error:
                    listing = error
                    error.args = (api.redact(str(error)),)
            found[dialect.NAME] = Probe(progress, listing)
        return found


def _no_two_phase(error: DialectNotServed) -> Unsupported:
    return Unsupported(f"{error} Two-phase imports need Milvus 3.0 or later.")
