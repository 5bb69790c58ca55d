"""The authenticated connection to an import API, blocking and asynchronous.

The two hooks share everything but the waiting: the requests, the answers and their meaning come from
:mod:`airflow_provider_importprog.api`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import cached_property
from textwrap import shorten
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

import requests
from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook

from airflow_provider_importprog import _validation, get_provider_info
from airflow_provider_importprog._async_client import AsyncClient
from airflow_provider_importprog._blocking_client import BlockingClient
from airflow_provider_importprog._connection import CONN_TYPE, ImportConnection
from airflow_provider_importprog._shared_list import Poller
from airflow_provider_importprog.api import ImportApi, ImportJob
from airflow_provider_importprog.api.client import Call
from airflow_provider_importprog.api.errors import (
    ImportApiError,
    NotAuthenticated,
    NotPermitted,
    UnexpectedAnswer,
)
from airflow_provider_importprog.api.protocol import NewImportJob
from airflow_provider_importprog.exceptions import ImportConnectionNotFound

if TYPE_CHECKING:
    from typing_extensions import Self

    from airflow_provider_importprog._storage import StorageKeys

T = TypeVar("T")

DEFAULT_CONN_ID = "importprog_default"


class ImportProgressHook(BaseHook):
    """Talks to the import API of a connection, and waits for each answer.

    Calls that are safe to repeat are repeated a few times where no answer came, or one that says to try later.

    :param importprog_conn_id: an Airflow connection of type ``importprog``.
    :param storage_conn_id: the connection of an object storage whose keys the server was told. Should it echo them in
        an error, they are blotted out, as the token is.
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

        :param cluster_id: asked instead of the connection's cluster.
        :param two_phase: ask in v2 alone, where the server serves v1 too: v1 shows an import that awaits its commit
            as one that goes on.
        :raises ImportJobUnknown: the server has no record of the job.
        :raises ImportApiUnauthorized: the token is not accepted, or not for this.
        :raises ImportApiUnreachable: no good answer came.
        :raises ImportApiRefused: the API refused in its own words.
        """
        if two_phase:
            self._settings.check_two_phase()
        return self._carry(
            lambda api: api.get_import_progress(_validation.job_id(job_id), cluster_id, two_phase=two_phase)
        )

    def list_import_jobs(self, collection_name: str | None = None, cluster_id: str | None = None) -> list[ImportJob]:
        """Ask for all import jobs that the server has a record of. They come without their files.

        :param collection_name: only this collection's jobs.
        """
        return self._carry(lambda api: api.list_import_jobs(collection_name, cluster_id))

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

        It is sent once: where no answer comes, the job may have been created or not.

        Exactly one source: `files` in Milvus's own bucket, `object_urls` in object storage, or `volume_name`
        with its `data_paths`. Each entry is a path, or a list of paths that make up the columns of one set.

        :param access_key: opens the object storage, with `secret_key` and perhaps `session_token`.
        :param options: passed on as they are, such as ``{"auto_commit": "false"}``; values are strings.
        :param idempotency_key: Milvus 2.6.24, 3.0.2 and later answer the same key, for about 24 hours, with the job
            that was made first; others ignore it. 1 to 256 printable ASCII characters. v1 has none.
        :raises ImportSettingInvalid: no source, or more than one.
        :raises ImportApiRefused: the API refused in its own words: no such collection, say.
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
        return self._carry(lambda api: api.create_import_job(new, cluster_id))

    def create(self, new: NewImportJob, cluster_id: str | None = None) -> str:
        """Submit an import job that is checked already, and return its id."""
        return self._carry(lambda api: api.create_import_job(new, cluster_id))

    @property
    def server(self) -> str:
        """The server's base URL and the database: where this connection imports."""
        return f"{self._settings.base_url} {self._settings.address.db_name or ''}"

    def commit_import_job(self, job_id: str | int, cluster_id: str | None = None) -> None:
        """Make the rows of an uncommitted import job visible. Milvus 3.0 and later.

        A job that is committed already, or about to be, counts as done.

        :raises ImportApiRefused: it cannot be committed as it is, or the server is too old.
        """
        self._carry(lambda api: api.commit_import_job(_validation.job_id(job_id), cluster_id))

    def abort_import_job(self, job_id: str | int, cluster_id: str | None = None) -> None:
        """End an import job that is not committed, and drop its rows. Milvus 3.0 and later.

        A job that has failed, or was aborted before, counts as done.

        :raises ImportApiRefused: it cannot be aborted as it is, or the server is too old.
        """
        self._carry(lambda api: api.abort_import_job(_validation.job_id(job_id), cluster_id))

    def test_connection(self) -> tuple[bool, str]:
        """Say whether the server can be reached, accepts the token, and which dialects it serves."""
        try:
            return _describe_probe(self._settings, self._carry(lambda api: api.probe()))
        except Exception as error:
            return False, _without_id(error, self.importprog_conn_id)

    def get_conn(self) -> requests.Session:
        """Return the session that every request of this hook goes through."""
        return self._client.session

    def _carry(self, start: Callable[[ImportApi], Call[T]]) -> T:
        return self._client.carry(start)

    @cached_property
    def _settings(self) -> ImportConnection:
        try:
            connection = self.get_connection(self.importprog_conn_id)
        except AirflowNotFoundException:
            raise _not_found(self.importprog_conn_id) from None
        settings = ImportConnection.read(connection)
        return replace(settings, storage=self.storage_keys) if self.storage_keys else settings

    @cached_property
    def storage_keys(self) -> StorageKeys | None:
        """The keys of the object storage, where this hook knows of one."""
        if self.storage_conn_id is None:
            return None
        # Imported here, because few imports need it.
        from airflow_provider_importprog._storage import storage_keys

        return storage_keys(self.storage_conn_id)

    @property
    def idempotency_keys(self) -> bool:
        """Whether the connection says that the server honours ``Idempotency-Key``."""
        return self._settings.idempotency_keys

    @cached_property
    def _client(self) -> BlockingClient:
        return BlockingClient(self._settings)


class ImportProgressAsyncHook(BaseHook):
    """Talks to the import API of a connection from an event loop, and never blocks it.

    The methods are those of :class:`ImportProgressHook`, as coroutines; nothing is repeated, because who waits
    in an event loop asks again anyway. All hooks of a connection in an event loop share one HTTP session. Enter
    the hook (``async with``) to keep the session open between calls.

    :param importprog_conn_id: an Airflow connection of type ``importprog``.
    """

    conn_name_attr = ImportProgressHook.conn_name_attr
    default_conn_name = ImportProgressHook.default_conn_name
    conn_type = ImportProgressHook.conn_type
    hook_name = ImportProgressHook.hook_name

    def __init__(self, importprog_conn_id: str = DEFAULT_CONN_ID, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.importprog_conn_id = importprog_conn_id
        self._loaded: ImportConnection | None = None
        self._entered = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._entered.enter_async_context(AsyncClient.shared(await self._settings()))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._entered.aclose()

    @asynccontextmanager
    async def poller(
        self, job_id: str, cluster_id: str | None, interval: float, *, two_phase: bool = False
    ) -> AsyncIterator[Poller]:
        """Look at an import job every so often, along with all others that look at the same place.

        :param interval: seconds between two looks.
        :param two_phase: as for :meth:`get_import_progress`.
        """
        settings = await self._settings()
        if two_phase:
            settings.check_two_phase()
        async with AsyncClient.shared(settings) as client:
            with client.poller(job_id, cluster_id, interval, two_phase) as poller:
                yield poller

    async def get_import_progress(
        self, job_id: str | int, cluster_id: str | None = None, *, two_phase: bool = False
    ) -> ImportJob:
        """See :meth:`ImportProgressHook.get_import_progress`."""
        if two_phase:
            (await self._settings()).check_two_phase()
        return await self._carry(
            lambda api: api.get_import_progress(_validation.job_id(job_id), cluster_id, two_phase=two_phase)
        )

    async def list_import_jobs(
        self, collection_name: str | None = None, cluster_id: str | None = None
    ) -> list[ImportJob]:
        """See :meth:`ImportProgressHook.list_import_jobs`."""
        return await self._carry(lambda api: api.list_import_jobs(collection_name, cluster_id))

    async def create_import_job(
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
        """See :meth:`ImportProgressHook.create_import_job`."""
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
        return await self._carry(lambda api: api.create_import_job(new, cluster_id))

    async def commit_import_job(self, job_id: str | int, cluster_id: str | None = None) -> None:
        """See :meth:`ImportProgressHook.commit_import_job`."""
        await self._carry(lambda api: api.commit_import_job(_validation.job_id(job_id), cluster_id))

    async def abort_import_job(self, job_id: str | int, cluster_id: str | None = None) -> None:
        """See :meth:`ImportProgressHook.abort_import_job`."""
        await self._carry(lambda api: api.abort_import_job(_validation.job_id(job_id), cluster_id))

    async def test_connection(self) -> tuple[bool, str]:
        """See :meth:`ImportProgressHook.test_connection`."""
        try:
            found = await self._carry(lambda api: api.probe())
            return _describe_probe(await self._settings(), found)
        except Exception as error:
            return False, _without_id(error, self.importprog_conn_id)

    async def _carry(self, start: Callable[[ImportApi], Call[T]]) -> T:
        async with AsyncClient.shared(await self._settings()) as client:
            return await client.carry(start)

    async def _settings(self) -> ImportConnection:
        if self._loaded is None:
            self._loaded = await _load(self.importprog_conn_id)
        return self._loaded


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


def _describe_probe(settings: ImportConnection, found: Mapping[str, ImportApiError | None]) -> tuple[bool, str]:
    served = [name for name, error in found.items() if error is None]
    # Of a web page in place of an answer, the beginning will do.
    said = {name: shorten(settings.redact(str(error)), 300, placeholder=" …") for name, error in found.items() if error}
    if served:
        signed_in = "accepts the token" if settings.token else "asks for no token"
        words = [f"{settings.base_url} answers, {signed_in}, and serves {' and '.join(served)}."]
        words += [f"{name}: {trouble}" for name, trouble in said.items()]
        return True, " ".join(words)
    for name, error in found.items():
        if isinstance(error, (NotAuthenticated, NotPermitted)):
            advice = _check_the_token(settings) if isinstance(error, NotAuthenticated) else ""
            return False, f"{settings.base_url} answers. {said[name].rstrip('.')}.{advice}"
    words = list(dict.fromkeys(said.values()))
    if all(isinstance(error, UnexpectedAnswer) for error in found.values()):
        words.insert(0, f"{settings.base_url} answers, but not as the import API does. Check the base URL.")
    elif any("WRONG_VERSION_NUMBER" in trouble or "RECORD_LAYER_FAILURE" in trouble for trouble in words):
        words.append("If it speaks http and not https, write http:// before the host.")
    elif any("CERTIFICATE_VERIFY_FAILED" in trouble for trouble in words):
        words.append("If its certificate is your own, put the path of your CA bundle into 'verify'.")
    return False, " ".join(words)


def _without_id(error: Exception, conn_id: str) -> str:
    """Return an error's words without the connection's id: Airflow tests a connection under a made-up one."""
    return str(error).replace(f"Connection {conn_id!r}", "This connection", 1)


def _check_the_token(settings: ImportConnection) -> str:
    if not settings.token:
        return " Fill in the user name and the password, or an API key as the password alone."
    return " Check the user name and the password." if ":" in settings.token else " Check the API key."
