"""A local server of the import API, for demos and for tests of your own DAGs.

with Emulator(duration=2) as emulator:
    emulator.fail_file("*broken*", "the file is broken")
    emulator.url  # set it as the connection's host
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from airflow_provider_importprog.emulator.backend import ApiError, Backend, EmulatorError
from airflow_provider_importprog.emulator.faults import Faults, OutageKind
from airflow_provider_importprog.emulator.profile import PROFILES, ServerProfile, server_profile
from airflow_provider_importprog.emulator.simulated import SimulatedBackend, simulated
from airflow_provider_importprog.emulator.state import ServerState

if TYPE_CHECKING:
    from aiohttp import web

__all__ = ["PROFILES", "ApiError", "Emulator", "EmulatorError", "ServerProfile"]


class Emulator:
    """Serves the import API in a background thread while its ``with`` block runs.

    :param backend: ``simulated`` for jobs that import nothing, ``lite`` for Milvus Lite, which imports files into
        collections, or a backend of your own.
    :param token: what clients must send as a bearer token; None lets everyone in.
    :param port: 0 takes a free port; see `url`.
    :param profile: what the server is like: a name from `PROFILES`, or a `ServerProfile`.
    :param duration: simulated: seconds that a job takes.
    :param fail_files: simulated: file name pattern (as in `fnmatch`) to the reason such a file fails with.
    :param clock: simulated: seconds that only grow; give your own to pass time without waiting.
    :param collections: simulated: the collections that exist, as ``collection`` or ``database.collection``; None
        has any.
    :param data_dir: lite: where to keep its data; None uses a temporary directory.
    :param rows_per_second: lite: import no faster than this; None has no limit.
    :param settings: settings of `ServerProfile` that differ from the profile's, such as ``string_code=True``.
    """

    def __init__(
        self,
        backend: Literal["simulated", "lite"] | Backend = "simulated",
        *,
        token: str | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        profile: str | ServerProfile = "all",
        duration: float = 10.0,
        fail_files: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
        collections: Iterable[str] | None = None,
        data_dir: str | Path | None = None,
        rows_per_second: float | None = None,
        **settings: Any,
    ) -> None:
        self._host = host
        self._port = port
        self._state = ServerState(server_profile(profile, settings), Faults(clock), host, token)
        self._backend: Backend
        if backend == "simulated":
            self._backend = SimulatedBackend(duration, fail_files, clock, collections)
        elif backend == "lite":
            from airflow_provider_importprog.emulator.lite import LiteBackend

            self._backend = LiteBackend(data_dir, rows_per_second)
        elif isinstance(backend, str):
            raise EmulatorError(f"There is no backend {backend!r}: use 'lite', which imports for real, or 'simulated'.")
        else:
            self._backend = backend
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._runner: web.AppRunner | None = None

    def __repr__(self) -> str:
        return f"<Emulator {self._backend.name} at {self.url}>"

    def __enter__(self) -> Emulator:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The base URL, such as ``http://127.0.0.1:19530``."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    @property
    def backend(self) -> str:
        """The backend's name."""
        return self._backend.name

    @property
    def profile(self) -> ServerProfile:
        """What the server is like now."""
        return self._state.profile

    @property
    def requests(self) -> dict[str, int]:
        """How often each path of the API was requested, refused requests too."""
        return dict(self._state.requests)

    @property
    def refresh_loads(self) -> list[str]:
        """The collections of all `refresh_load` requests, as ``collection`` or ``database.collection``."""
        return list(self._state.refresh_loads)

    @property
    def aliases(self) -> dict[str, str]:
        """Collections by their alias, both as ``name`` or ``database.name``."""
        return dict(self._state.aliases)

    def engine(self) -> AbstractContextManager[Any]:
        """Hand out Milvus Lite's engine (a `milvus_lite.MilvusLite`); imports wait until it is given back. Lite only.

        with emulator.engine() as engine:
            engine.create_collection("articles", schema)
        """
        from airflow_provider_importprog.emulator.lite import LiteBackend

        if not isinstance(self._backend, LiteBackend):
            raise EmulatorError(f"The {self._backend.name} backend keeps no rows: use Emulator('lite').")
        return self._backend.engine()

    def describe(self) -> dict[str, str]:
        """Tell what a person should know about the backend: addresses, version, directories."""
        return self._backend.describe()

    def start(self) -> None:
        """Bind the port, make the backend ready, then answer; raises `EmulatorError`."""
        if self._loop is not None:
            raise RuntimeError("The emulator is already running.")
        with contextlib.ExitStack() as undo:
            listener = undo.enter_context(listener_on(self._host, self._port))
            undo.callback(self._backend.stop)
            self._backend.start()
            self._port = listener.getsockname()[1]
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, name="importprog-emulator", daemon=True)
            self._thread.start()
            undo.callback(self._end_loop)
            asyncio.run_coroutine_threadsafe(self._serve(listener), self._loop).result()
            undo.pop_all()

    def stop(self) -> None:
        """Close the port and end the backend; may be called twice."""
        try:
            self._end_loop()
        finally:
            self._backend.stop()

    def outage(self, seconds: float, kind: OutageKind = "unavailable") -> None:
        """Have an outage for so many seconds.

        :param kind: ``unavailable`` answers 503, ``html`` a proxy's page with 502, ``drop`` closes the connection;
            ``silent`` creates, commits and aborts, and answers only when the outage is over; other calls it answers
            at once.
        """
        self._state.faults.outage(seconds, kind)

    def rate_limit(self, seconds: float | None = None, requests: int | None = None, retry_after: int = 1) -> None:
        """Refuse requests with 429 for so many seconds, or so many requests, whichever ends first.

        :param retry_after: the answers' ``Retry-After``, seconds.
        """
        self._state.faults.rate_limit(seconds, requests, retry_after)

    def answer(
        self,
        call: str,
        code: int,
        message: str,
        *,
        status: int = 200,
        requests: int | None = 1,
        done: bool = False,
        delay: float = 0.0,
        retry_after: int | None = None,
    ) -> None:
        """Answer the next requests to one call with an error of your choice.

        :param call: ``create``, ``commit``, ``abort``, ``describe``, ``list``, ``refresh_load``, or v1's ``get``.
        :param status: the HTTP status.
        :param requests: how many requests; None is all, until `restore`.
        :param done: do what was requested all the same.
        :param delay: seconds, by the emulator's clock, between the answer and the doing.
        :param retry_after: the answers' ``Retry-After``, seconds; None sends none.
        """
        self._state.faults.answer(
            call,
            code,
            message,
            status=status,
            requests=requests,
            done=done,
            delay=delay,
            retry_after=retry_after,
        )

    def time_out(self, call: str = "create", *, status: int = 408, requests: int = 1, delay: float = 0.0) -> None:
        """Answer the next requests to one call that the time was up (code 10001), and do them all the same.

        :param delay: seconds, by the emulator's clock, between the answer and the doing.
        """
        self._state.faults.time_out(call, status=status, requests=requests, delay=delay)

    def restore(self) -> None:
        """End every outage, rate limit and answer that was asked for."""
        self._state.faults.restore()

    def use_profile(self, profile: str | ServerProfile | None = None, **settings: Any) -> None:
        """Become another server, or change some settings of this one (None)."""
        self._state.profile = server_profile(self._state.profile if profile is None else profile, settings)

    def set_duration(self, seconds: float) -> None:
        """Set how long later jobs take; simulated only."""
        simulated(self._backend).set_duration(seconds)

    def set_collections(self, names: Iterable[str] | None) -> None:
        """Set what collections exist, as ``collection`` or ``database.collection``, None for any; simulated only."""
        simulated(self._backend).set_collections(names)

    def fail_file(self, pattern: str, reason: str = "") -> None:
        """Make files of later jobs whose name matches the pattern (as in `fnmatch`) fail; simulated only."""
        simulated(self._backend).fail_file(pattern, reason)

    def lose_rows(self, pattern: str, rows: int) -> None:
        """Make files of later jobs whose name matches the pattern import so many rows too few; simulated only."""
        simulated(self._backend).lose_rows(pattern, rows)

    def forget(self, job_id: str) -> None:
        """Drop a job's record, as a server does when its retention is over."""
        self._backend.forget(job_id)

    def commit(self, job_id: str) -> None:
        """Commit a two-phase import as somebody else would, past the API."""
        self._backend.commit(job_id)

    def abort(self, job_id: str) -> None:
        """Abort an import as somebody else would, past the API, also one that commits by itself."""
        self._backend.abort(job_id)

    async def _serve(self, listener: socket.socket) -> None:
        # aiohttp costs a quarter of a second to import, and DAG files may import this module.
        from aiohttp import web

        from airflow_provider_importprog.emulator.server import Server

        app = Server(self._backend, self._state).app()
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        await web.SockSite(self._runner, listener).start()

    async def _end_serving(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        # Answers that are withheld from clients who have gone: the runner has lost sight of them.
        withheld = asyncio.all_tasks() - {asyncio.current_task()}
        for task in withheld:
            task.cancel()
        await asyncio.gather(*withheld, return_exceptions=True)
        await loop.shutdown_default_executor()

    def _end_loop(self) -> None:
        loop, self._loop = self._loop, None
        if loop is None:
            return
        asyncio.run_coroutine_threadsafe(self._end_serving(loop), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        if self._thread is not None:
            self._thread.join()
        loop.close()


def listener_on(host: str, port: int) -> socket.socket:
    """Bind a socket that does not listen yet: clients are refused until all is ready."""
    if not 0 <= port <= 65535:
        raise EmulatorError(f"There is no port {port}: give one from 0 to 65535.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as problem:
        raise EmulatorError(f"Cannot listen on {host}: {problem.strerror}.") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as problem:
        listener.close()
        raise EmulatorError(
            f"Cannot listen on {host} port {port} ({problem.strerror}): give another with --port."
        ) from None
    return listener
