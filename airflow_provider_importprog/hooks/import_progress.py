"""The authenticated connection to an import API, blocking and asynchronous.

The two hooks share everything but the waiting: the requests, the answers and their meaning come from
:mod:`airflow_provider_importprog.api`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack, contextmanager
from dataclasses import replace
from functools import cached_property, wraps
from textwrap import shorten
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, cast
from weakref import WeakKeyDictionary

import requests
from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook

from airflow_provider_importprog import _validation, get_provider_info
from airflow_provider_importprog._async_client import AsyncClient
from airflow_provider_importprog._blocking_client import BlockingClient
from airflow_provider_importprog._connection import CONN_TYPE, ImportConnection
from airflow_provider_importprog._redaction import Secrets
from airflow_provider_importprog._shared_list import Listed, Poller
from airflow_provider_importprog.api import ImportJob, NewImportJob
from airflow_provider_importprog.api.client import (
    Abort,
    Call,
    Commit,
    Create,
    JobList,
    ListJobs,
    Probe,
    ProbeDialects,
    Progress,
    RefreshLoad,
)
from airflow_provider_importprog.api.errors import (
    ImportApiError,
    NotAuthenticated,
    NotPermitted,
    TargetMissing,
    UnexpectedAnswer,
)
from airflow_provider_importprog.api.model import Brief
from airflow_provider_importprog.exceptions import (
    ImportApiUnauthorized,
    ImportConnectionNotFound,
    ImportProgressException,
)

if TYPE_CHECKING:
    from typing_extensions import Self

    from airflow_provider_importprog._collection import Collection
    from airflow_provider_importprog._storage import StorageKeys

T = TypeVar("T")
P = ParamSpec("P")

DEFAULT_CONN_ID = "importprog_default"


class ImportProgressHook(BaseHook):
    """Asks the import API of a connection, and waits for each answer.

    Calls that are safe to repeat are repeated a few times where no answer came, or one that says to try later. Where
    the token is not accepted, the connection is read anew, once: it may have been rotated since.

    :param importprog_conn_id: an Airflow connection of type ``importprog``.
    :param storage_conn_id: the connection of an object storage whose keys the server was told. Where it repeats them,
        they are redacted, as the token is.
    """

    conn_name_attr = "importprog_conn_id"
    default_conn_name = DEFAULT_CONN_ID
    conn_type = CONN_TYPE
    hook_name = "Milvus / Zilliz Cloud import"

    def __init__(
        self, importprog_conn_id: str = DEFAULT_CONN_ID, storage_conn_id: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.importprog_conn_id = importprog_conn_id
        self.storage_conn_id = storage_conn_id

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Describe the connection form to Airflow before 3.2; later ones read the provider's info."""
        behaviour = _connection_type()["ui-field-behaviour"]
        return {name.replace("-", "_"): value for name, value in behaviour.items()}

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """Describe the extra fields of the connection form to Airflow before 3.2."""
        from flask_appbuilder.fieldwidgets import BS3TextFieldWidget
        from flask_babel import lazy_gettext
        from wtforms import StringField
        from wtforms.validators import Optional, any_of

        def widget(field: dict[str, Any]) -> StringField:
            choices = field["schema"].get("enum")
            return StringField(
                lazy_gettext(field["label"]),
                [Optional(), any_of(choices)] if choices else [],
                widget=BS3TextFieldWidget(),
                description=field["description"],
            )

        return {name: widget(field) for name, field in _connection_type()["conn-fields"].items()}

    def get_import_progress(
        self, job_id: str | int, cluster_id: str | None = None, *, two_phase: bool = False
    ) -> ImportJob:
        """Ask how far an import job is, with the details of each file.

        https://milvus.io/api-reference/restful/v2.6.x/v2/Import%20(v2)/Describe.md, and for v1
        https://docs.zilliz.com/reference/restful/get-import-progress

        :param cluster_id: asked instead of the connection's cluster.
        :param two_phase: ask in v2 alone, where the server serves v1 too: v1 shows an import that awaits its commit
            as one that goes on.
        :raises ImportJobUnknown: the server has no record of the job.
        :raises ImportSettingInvalid: `job_id` is not the id of a job.
        :raises ImportApiUnauthorized: the token is not accepted, or not for this.
        :raises ImportApiUnreachable: no good answer came.
        :raises ImportApiRefused: the API refused in its own words.
        """
        return self._run(Progress(_validation.job_id(job_id), cluster_id=cluster_id, two_phase=two_phase))

    def list_import_jobs(self, collection_name: str | None = None, cluster_id: str | None = None) -> list[ImportJob]:
        """Ask for all import jobs that the server has a record of. They come without their files.

        https://milvus.io/api-reference/restful/v2.6.x/v2/Import%20(v2)/List.md

        :param collection_name: only this collection's jobs.
        """
        return self._run(ListJobs(collection_name, cluster_id=cluster_id)).jobs

    def create_import_job(
        self,
        collection_name: str,
        *,
        files: Sequence[str | Sequence[str]] | None = None,
        object_urls: Sequence[str | Sequence[str]] | None = None,
        volume_name: str | None = None,
        data_paths: Sequence[str | Sequence[str]] | None = None,
        partition_name: str | None = None,
        access_key: str | None = None,
        secret_key: str | None = None,
        session_token: str | None = None,
        options: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
        cluster_id: str | None = None,
    ) -> str:
        """Submit an import job and return its id.

        It is sent once: where no answer comes, the job may have been created or not. See
        https://milvus.io/api-reference/restful/v2.6.x/v2/Import%20(v2)/Create.md

        Exactly one source: `files` in Milvus's own bucket, `object_urls` in object storage, or `volume_name`
        with its `data_paths`. Each entry is a path, or a list of paths that make up the columns of one set.

        :param access_key: opens the object storage, with `secret_key` and perhaps `session_token`.
        :param options: passed on as they are, such as ``{"auto_commit": "false"}``; values are strings.
        :param idempotency_key: Milvus 2.6.24, 3.0.2 and later answer the same key, for about 24 hours, with the job
            that was made first; others ignore it. 1 to 256 printable ASCII characters. v1 has none.
        :raises ImportSettingInvalid: no source, or more than one.
        :raises ImportApiRefused: the API refused in its own words: no such collection, say.
        :raises ImportApiUnreachable: no good answer came; ``in_doubt`` and ``nothing_done`` say what may have been
            done.
        """
        new = _validation.new_import(
            collection_name=collection_name,
            partition_name=partition_name,
            files=files,
            object_urls=object_urls,
            volume_name=volume_name,
            data_paths=data_paths,
            access_key=access_key,
            secret_key=secret_key,
            session_token=session_token,
            options=options,
            idempotency_key=idempotency_key,
        )
        return self.create(new, cluster_id)

    def create(self, new: NewImportJob, cluster_id: str | None = None) -> str:
        """Submit an import job that is checked already, and return its id. See :meth:`create_import_job`."""
        return self._run(Create(new, cluster_id=cluster_id))

    def commit_import_job(self, job_id: str | int, cluster_id: str | None = None) -> None:
        """Make the rows of an uncommitted import job visible. Milvus 3.0 and later.

        A job that is committed already, or about to be, counts as done. Where no good answer comes, the job is asked
        for before this fails.

        :raises ImportApiRefused: it cannot be committed as it is, or the server is too old.
        """
        return self._run(Commit(_validation.job_id(job_id), cluster_id=cluster_id))

    def abort_import_job(self, job_id: str | int, cluster_id: str | None = None) -> None:
        """End an import job that is not committed, and drop its rows. Milvus 3.0 and later.

        A job that has failed, or was aborted before, counts as done. Where no good answer comes, the job is asked for
        before this fails.

        :raises ImportApiRefused: it cannot be aborted as it is, or the server is too old.
        """
        return self._run(Abort(_validation.job_id(job_id), cluster_id=cluster_id))

    def refresh_load(self, collection_name: str) -> None:
        """Have a loaded collection show the rows that it has gained since it was loaded.

        https://milvus.io/api-reference/restful/v2.6.x/v2/Collection%20(v2)/Refresh%20Load.md. The server answers
        before it is done, and no call says when it is.

        :raises ImportApiRefused: the collection is not loaded, say, or the server has no such call: an old Milvus,
            and the control plane of Zilliz Cloud, have none.
        """
        return self._run(RefreshLoad(_validation.collection_name(collection_name)))

    def test_connection(self) -> tuple[bool, str]:
        """Say whether the server can be reached, accepts the token, and which dialects it serves."""
        try:
            found = self._run(ProbeDialects())
            return _describe_probe(self._client.settings, found)
        except Exception as error:
            return False, _without_id(error, self.importprog_conn_id)

    def get_conn(self) -> requests.Session:
        """Return the session that every request of this hook goes through."""
        return self._client.session

    @property
    def base_url(self) -> str:
        """Base URL of the server, without a slash at its end."""
        return self._client.settings.base_url

    def job_page(self, job_id: str, cluster_id: str | None = None, collection_name: str | None = None) -> str | None:
        """Return the URL of a job's page, made from the connection's ``console_url``.

        None where the connection names no such page, or where the URL names something that is not given.
        """
        return self._client.settings.job_page(job_id, cluster_id, collection_name)

    @property
    def server(self) -> str:
        """What tells the jobs of this server from those of another: its base URL and the database."""
        return self._client.settings.server

    def collection(self, name: str, cluster_id: str | None = None) -> Collection:
        """Return where a collection of this connection is, as its asset and OpenLineage name it."""
        return self._client.settings.collection(name, cluster_id)

    @property
    def idempotency_keys(self) -> bool:
        """Whether the connection says that the server honours ``Idempotency-Key``."""
        return self._client.settings.idempotency_keys

    @cached_property
    def storage_keys(self) -> StorageKeys | None:
        """The keys of the object storage, where this hook knows of one.

        :raises ImportSettingInvalid: the connection is not defined, or holds no keys.
        """
        if self.storage_conn_id is None:
            return None
        # Imported here, because few imports need it.
        from airflow_provider_importprog._storage import storage_keys

        return storage_keys(self.storage_conn_id)

    def _run(self, call: Call[T]) -> T:
        """Carry a call out, and once more where the token has been rotated since the connection was read."""
        try:
            return self._carry_out(call)
        except ImportApiUnauthorized as error:
            unauthorized = error
        try:
            _forget_cached(self.importprog_conn_id)
            settings = self._read()
        except Exception:
            raise unauthorized from None
        if settings == self._client.settings:
            raise unauthorized
        self._client = BlockingClient(settings)
        return self._carry_out(call)

    def _carry_out(self, call: Call[T]) -> T:
        client, keys, unread = self._client, None, None
        if call.two_phase:
            client.settings.check_two_phase()
        try:
            keys = self.storage_keys
        except Exception as error:
            unread = error
        with client.redactor.adding(_secrets_of(call, keys)), _withholding(call, self.storage_conn_id, unread) as words:
            return words(client.run(call))

    def _read(self) -> ImportConnection:
        try:
            connection = self.get_connection(self.importprog_conn_id)
        except AirflowNotFoundException:
            raise _not_found(self.importprog_conn_id) from None
        return ImportConnection.read(connection)

    @cached_property
    def _client(self) -> BlockingClient:
        return BlockingClient(self._read())


def _awaited(
    method: Callable[Concatenate[ImportProgressHook, P], T],
) -> Callable[Concatenate[ImportProgressAsyncHook, P], Coroutine[Any, Any, T]]:
    """Return a method of the blocking hook as a coroutine: what runs its call is awaited, and nothing else differs."""

    @wraps(method)
    async def coroutine(self: ImportProgressAsyncHook, /, *args: P.args, **kwargs: P.kwargs) -> T:
        result: Awaitable[T] = cast("Any", method)(self, *args, **kwargs)
        return await result

    return coroutine


class ImportProgressAsyncHook(BaseHook):
    """Asks the import API of a connection from an event loop, and never blocks it.

    The methods are those of :class:`ImportProgressHook`, as coroutines; nothing is repeated, because who waits
    in an event loop asks again anyway. All hooks of a connection in an event loop share one HTTP session. Enter
    the hook (``async with``) to keep the session open between calls.

    :param importprog_conn_id: an Airflow connection of type ``importprog``.
    :param storage_conn_id: as for :class:`ImportProgressHook`. Where it cannot be read, what the server says of an
        error is not shown.
    """

    conn_name_attr = ImportProgressHook.conn_name_attr
    default_conn_name = ImportProgressHook.default_conn_name
    conn_type = ImportProgressHook.conn_type
    hook_name = ImportProgressHook.hook_name

    def __init__(
        self, importprog_conn_id: str = DEFAULT_CONN_ID, storage_conn_id: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.importprog_conn_id = importprog_conn_id
        self.storage_conn_id = storage_conn_id
        self._loaded: ImportConnection | None = None
        self._storage_keys: StorageKeys | None = None
        self._entered: AsyncExitStack | None = None

    async def __aenter__(self) -> Self:
        self._entered = AsyncExitStack()
        await self._entered.enter_async_context(AsyncClient.shared(await self._settings()))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._entered is not None:
            await self._entered.aclose()
            self._entered = None

    async def place(self, cluster_id: str | None = None) -> list[str | None]:
        """Return what tells the jobs of one list from those of another: the server, its database, and the cluster."""
        settings = await self._settings()
        address = settings.address
        return [settings.server, cluster_id or address.cluster_id, address.project_id, address.region_id]

    get_import_progress = _awaited(ImportProgressHook.get_import_progress)
    create_import_job = _awaited(ImportProgressHook.create_import_job)
    create = _awaited(ImportProgressHook.create)
    commit_import_job = _awaited(ImportProgressHook.commit_import_job)
    abort_import_job = _awaited(ImportProgressHook.abort_import_job)
    refresh_load = _awaited(ImportProgressHook.refresh_load)

    async def list_import_jobs(
        self, collection_name: str | None = None, cluster_id: str | None = None
    ) -> list[ImportJob]:
        """See :meth:`ImportProgressHook.list_import_jobs`."""
        return (await self._run(ListJobs(collection_name, cluster_id=cluster_id))).jobs

    async def test_connection(self) -> tuple[bool, str]:
        """See :meth:`ImportProgressHook.test_connection`."""
        try:
            found = await self._run(ProbeDialects())
            return _describe_probe(await self._settings(), found)
        except Exception as error:
            return False, _without_id(error, self.importprog_conn_id)

    def poller(
        self,
        job_id: str | int,
        cluster_id: str | None,
        interval: float,
        *,
        brief: Brief,
        listed: Listed,
        two_phase: bool = False,
    ) -> JobPoller:
        """Poll an import job, along with all others of the same cluster. Enter what this returns (``async with``).

        :param interval: seconds between two polls.
        :param brief: whether the files of a job like this may be left out.
        :param listed: takes the job as a list shows it while the poller pauses; returns the seconds to the next poll,
            or None where a gate would not wait on.
        :param two_phase: as for :meth:`get_import_progress`.
        """
        call = Progress(_validation.job_id(job_id), brief, cluster_id=cluster_id, two_phase=two_phase)
        return JobPoller(self, call, interval, listed)

    async def _run(self, call: Call[T]) -> T:
        async with _Session(self) as session:
            return await session.run(call)

    async def _settings(self) -> ImportConnection:
        if self._loaded is None:
            self._loaded = await _load(self.importprog_conn_id)
        return self._loaded

    async def _has_changed(self, settings: ImportConnection) -> bool:
        """Read the connection anew, and say whether it holds anything else by now."""
        try:
            _forget_cached(self.importprog_conn_id)
            self._loaded = await _load(self.importprog_conn_id)
        except Exception:
            return False
        if self._loaded == settings:
            return False
        if self._entered is not None:
            await self._entered.aclose()
            await self._entered.enter_async_context(AsyncClient.shared(self._loaded))
        return True

    async def _read_storage_keys(self) -> StorageKeys | None:
        if self._storage_keys is None and self.storage_conn_id is not None:
            from airflow_provider_importprog._storage import async_storage_keys

            # In a task of its own: what Airflow logs of a connection that it cannot read quotes the error at hand.
            self._storage_keys = await asyncio.create_task(async_storage_keys(self.storage_conn_id))
        return self._storage_keys


class _Session(AbstractAsyncContextManager["_Session"]):
    """A hook's hold on the client that all share in an event loop: for one call, or for as long as a gate polls."""

    def __init__(self, hook: ImportProgressAsyncHook) -> None:
        self._hook = hook
        self._client: AsyncClient | None = None
        self._held = AsyncExitStack()
        self._redacting = ExitStack()
        self._keys_read = False
        self._unread: Exception | None = None  # why the storage's keys could not be read

    async def __aexit__(self, *exc_info: object) -> None:
        self._client, self._keys_read = None, False
        self._redacting.close()
        await self._held.aclose()

    async def run(self, call: Call[T]) -> T:
        """Carry a call out, and once more where the token has been rotated since the connection was read.

        :raises ImportProgressException: no good answer came.
        """
        client = self._client or await self._join(call)
        try:
            return await self._carry_out(client, call)
        except ImportApiUnauthorized as error:
            unauthorized = error
        if not await self._hook._has_changed(client.settings):
            raise unauthorized
        await self.__aexit__()
        return await self._carry_out(await self._join(call), call)

    async def _join(self, call: Call[Any]) -> AsyncClient:
        settings = await self._hook._settings()
        if call.two_phase:
            settings.check_two_phase()
        self._client = await self._held.enter_async_context(AsyncClient.shared(settings))
        return self._client

    async def _carry_out(self, client: AsyncClient, call: Call[T]) -> T:
        if not self._keys_read:
            await self._read_storage_keys(client, call)
        if self._unread is None:
            return await self._ask(client, call)
        with _withholding(call, self._hook.storage_conn_id, self._unread) as words:
            return words(await self._ask(client, call))

    def _ask(self, client: AsyncClient, call: Call[T]) -> Awaitable[T]:
        return client.run(call)

    async def _read_storage_keys(self, client: AsyncClient, call: Call[Any]) -> None:
        """Have a client that many share redact what this session told the server, or know that it cannot."""
        keys = unread = None
        try:
            keys = await self._hook._read_storage_keys()
        except Exception as error:
            unread = error
        # Nothing is awaited from here on: what holds until now must hold while the keys are read.
        self._redacting.close()
        self._keys_read, self._unread = unread is None, unread
        if unread is not None:
            self._redacting.enter_context(client.cannot_redact())
        self._redacting.enter_context(client.redactor.adding(_secrets_of(call, keys)))


class JobPoller(_Session):
    """Polls an import job for one gate, through the connection as it is by now."""

    def __init__(self, hook: ImportProgressAsyncHook, call: Progress, interval: float, listed: Listed) -> None:
        super().__init__(hook)
        self._call = call
        self._interval = interval
        self._listed = listed
        self._poller: Poller | None = None
        self._begun = False

    async def __aenter__(self) -> JobPoller:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._poller = None
        await super().__aexit__()

    def poll(self) -> Awaitable[ImportJob]:
        """Ask for the import job.

        :raises ImportProgressException: no good answer came.
        """
        return self.run(self._call)

    def pause(self, delay: float) -> Awaitable[None]:
        """Wait until the job itself is to be asked for.

        :param delay: seconds until that, or until a list may tell that a gate waits on.
        """
        return asyncio.sleep(delay) if self._poller is None else self._poller.pause(delay)

    async def _ask(self, client: AsyncClient, call: Call[Any]) -> Any:
        if self._unread is not None:  # the keys are read anew at each poll, and a list would spare it
            return await client.run(self._call)
        if self._poller is None:
            shared = client.shared_list(self._call.cluster_id, self._call.two_phase)
            poller = Poller(shared, self._call.job_id, self._interval, client.run, self._listed)
            self._poller = self._held.enter_context(poller)
            # A thousand gates may begin at once, and a list is enough for most of them. Who comes back with a new
            # token asks at once: the pause may outlast that token too, and a call is carried out twice at the most.
            if not self._begun:
                self._begun = True
                await poller.pause(0.0)
        return await self._poller.ask(self._call)


_loading: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, asyncio.Task[ImportConnection]]] = WeakKeyDictionary()


async def _load(conn_id: str) -> ImportConnection:
    """Read a connection, once for all who ask for it at the same time: a thousand gates may start together."""
    loading = _loading.setdefault(asyncio.get_running_loop(), {})
    if conn_id not in loading:
        loading[conn_id] = asyncio.create_task(_read(conn_id))
        loading[conn_id].add_done_callback(lambda _: loading.pop(conn_id))
    # One of them may be cancelled.
    return await asyncio.shield(loading[conn_id])


async def _read(conn_id: str) -> ImportConnection:
    from airflow.providers.common.compat.connection import get_async_connection

    try:
        connection = await get_async_connection(conn_id)
    except AirflowNotFoundException:
        raise _not_found(conn_id) from None
    # It may read certificates.
    return await asyncio.to_thread(ImportConnection.read, connection)


def _not_found(conn_id: str) -> ImportConnectionNotFound:
    return ImportConnectionNotFound(
        f"Connection {conn_id!r} is not defined: add it with the type {ImportProgressHook.hook_name!r}, or correct "
        "importprog_conn_id."
    )


def _connection_type() -> dict[str, Any]:
    (connection_type,) = get_provider_info()["connection-types"]
    return dict(connection_type)


def _forget_cached(conn_id: str) -> None:
    """Have Airflow read a connection anew where it keeps it: its cache of secrets, if it has one in this process."""
    try:
        from airflow.sdk.execution_time.cache import SecretCache
    except ImportError:  # Airflow 2
        from airflow.secrets.cache import SecretCache  # type: ignore[import-not-found,no-redef]
    cache = getattr(SecretCache, "_cache", None)
    if cache is not None:
        # There is a call for variables alone.
        cache.pop(f"{SecretCache._CONNECTION_PREFIX}{conn_id}", None)


def _secrets_of(call: Call[Any], keys: StorageKeys | None) -> Secrets:
    """Return what a server is told, with this call and for its storage, and nobody else may read."""
    told = [each for each in (keys, call.new if isinstance(call, Create) else None) if each is not None]
    return Secrets.of(
        [secret for each in told for secret in (each.secret_key, each.session_token)],
        [each.access_key for each in told],
    )


@contextmanager
def _withholding(call: Call[Any], storage_conn_id: str | None, unread: Exception | None) -> Iterator[Callable[[T], T]]:
    """Show a sentence in place of a server's words, which may hold keys that cannot be read.

    It lends a function that does so with a result.

    :param unread: why the keys could not be read; None where nothing is withheld.
    """
    if unread is None:
        yield lambda result: result
        return
    sentence = (
        f"What the server said of {call.SUBJECT.format(call)} is not shown: it may hold keys of connection "
        f"{storage_conn_id!r}, which cannot be read now ({type(unread).__name__})."
    )
    try:
        yield lambda result: _without_words(result, sentence)
    except ImportProgressException as error:
        error.args = (sentence,)
        raise


def _without_words(result: T, sentence: str) -> T:
    """Return what came of a call, with a sentence in place of what the server says of errors."""
    if isinstance(result, ImportJob):
        return cast("T", _job_without_words(result, sentence))
    if isinstance(result, JobList):
        return cast("T", replace(result, jobs=[_job_without_words(job, sentence) for job in result.jobs]))
    return result


def _job_without_words(job: ImportJob, sentence: str) -> ImportJob:
    files = tuple([replace(file, error_message=sentence) if file.error_message else file for file in job.files])
    return replace(job, error_message=sentence if job.error_message else None, files=files)


def _describe_probe(settings: ImportConnection, found: Mapping[str, Probe]) -> tuple[bool, str]:
    """Say what a test of the connection found, and whether gates and operators can do their work."""

    def words(error: ImportApiError) -> str:
        # Of a web page in place of an answer, the beginning will do.
        return shorten(str(error), 300, placeholder=" …")

    served = [name for name, probe in found.items() if probe.progress is None]
    if served:
        signed_in = "accepts the token" if settings.token else "asks for no token"
        said = [f"{settings.base_url} answers, {signed_in}, and serves {' and '.join(served)}."]
        said += [f"{name}: {words(probe.progress)}" for name, probe in found.items() if probe.progress is not None]
        lists = {name: found[name].listing for name in served}
        said += [f"{name} shows no list of jobs: {words(error)}" for name, error in lists.items() if error is not None]
        return not any(isinstance(error, TargetMissing) for error in lists.values()), " ".join(said)
    troubles = {name: probe.progress for name, probe in found.items() if probe.progress is not None}
    for error in troubles.values():
        if isinstance(error, NotPermitted):
            return False, f"{settings.base_url} answers, but a gate cannot ask for a job. {words(error)}"
        if isinstance(error, NotAuthenticated):
            return False, f"{settings.base_url} answers. {words(error).rstrip('.')}.{_check_the_token(settings)}"
    said = list(dict.fromkeys(map(words, troubles.values())))
    if all(isinstance(error, UnexpectedAnswer) for error in troubles.values()):
        said.insert(0, f"{settings.base_url} answers, but not as the import API does. Check the base URL.")
    elif any("WRONG_VERSION_NUMBER" in trouble or "RECORD_LAYER_FAILURE" in trouble for trouble in said):
        said.append("If it serves http and not https, write http:// before the host.")
    elif any("CERTIFICATE_VERIFY_FAILED" in trouble for trouble in said):
        said.append("If its certificate is your own, put the path of your CA bundle into 'verify'.")
    return False, " ".join(said)


def _without_id(error: Exception, conn_id: str) -> str:
    """Return an error's words without the connection's id: Airflow tests a connection under a made-up one."""
    return str(error).replace(f"Connection {conn_id!r}", "This connection", 1)


def _check_the_token(settings: ImportConnection) -> str:
    if not settings.token:
        return " Fill in the user name and the password, or an API key as the password alone."
    return " Check the user name and the password." if ":" in settings.token else " Check the API key."
