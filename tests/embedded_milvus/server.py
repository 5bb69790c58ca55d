"""The Milvus of PyPI ``milvus==2.3.5`` as a child process that never outlives this one."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import importlib.metadata
import importlib.util
import json
import lzma
import os
import platform
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

from airflow_provider_importprog.emulator.backend import EmulatorError

TEMPORARY_PREFIX = "importprog-milvus-"
START_TIMEOUT = 120.0
"""Seconds that Milvus may take to answer its health check."""
START_ATTEMPTS = 3
MILVUS_PLACES = (Path("/run/milvus"), Path("/tmp/milvus"))

# Every port that Milvus 2.3.5 opens, in the order of their numbers in a block.
PORTS = (
    "proxy",
    "proxy_internal",
    "root_coord",
    "data_coord",
    "query_coord",
    "index_coord",
    "data_node",
    "query_node",
    "index_node",
    "metrics",
    "etcd",
    "etcd_peer",
)
BLOCK = 16
# Below the range from which Linux takes the ports of outgoing connections: no check could guard against those.
BLOCKS = range(20000, 32000, BLOCK)

# Only Milvus's defaults that do not fit one machine and one user are set. Its gRPC servers listen on every
# interface whatever `ip` says, which is only what they tell each other; etcd can be held to loopback.
MILVUS_YAML = """\
etcd:
  endpoints: 127.0.0.1:{etcd}
  use: {{embed: true}}
  config: {{path: "{directory}/configs/etcd.yaml"}}
  data: {{dir: "{directory}/etcd"}}
localStorage: {{path: "{directory}/files"}}
common: {{storageType: local}}
mq: {{type: rocksmq}}
rocksmq: {{path: "{directory}/rocksmq"}}
proxy: {{ip: 127.0.0.1, port: {proxy}, internalPort: {proxy_internal}, http: {{enabled: false}}}}
rootCoord: {{ip: 127.0.0.1, port: {root_coord}}}
dataCoord: {{ip: 127.0.0.1, port: {data_coord}}}
queryCoord: {{ip: 127.0.0.1, port: {query_coord}, updateNextTargetInterval: 1}}
indexCoord: {{ip: 127.0.0.1, port: {index_coord}}}
dataNode: {{ip: 127.0.0.1, port: {data_node}}}
queryNode: {{ip: 127.0.0.1, port: {query_node}}}
indexNode: {{ip: 127.0.0.1, port: {index_node}}}
log: {{level: warn, stdout: true}}
"""

ETCD_YAML = """\
name: default
data-dir: "{directory}/etcd"
listen-client-urls: http://127.0.0.1:{etcd}
advertise-client-urls: http://127.0.0.1:{etcd}
listen-peer-urls: http://127.0.0.1:{etcd_peer}
initial-advertise-peer-urls: http://127.0.0.1:{etcd_peer}
initial-cluster: default=http://127.0.0.1:{etcd_peer}
log-level: error
unsafe-no-fsync: true
"""

# Milvus's C++ part will not start without this file.
GLOG_CONF = "--logtostdout=false\n--logtostderr=true\n--minloglevel=2\n"

# Runs between us and Milvus and becomes it. PR_SET_PDEATHSIG (1) has the kernel kill Milvus when the thread
# that began it ends, however that comes about; it survives execv. LD_LIBRARY_PATH is set only here because
# this interpreter should not load Milvus's libraries.
LAUNCHER = """\
import ctypes, os, sys
parent, libraries, *command = sys.argv[1:]
ctypes.CDLL(None).prctl(1, 9)
os.environ["LD_LIBRARY_PATH"] = libraries
if os.getppid() == int(parent):  # else the parent was gone before prctl
    os.execv(command[0], command)
"""


class MilvusServer:
    """One Milvus and its data directory.

    :param data_dir: where to keep its data; None uses a temporary directory, removed at the end.
    :param port: its gRPC port; 0 takes a free one.
    """

    def __init__(self, data_dir: str | os.PathLike[str] | None = None, port: int = 0) -> None:
        self._wanted_dir = data_dir
        self._wanted_port = port
        self._undo = contextlib.ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner: threading.Thread | None = None
        self._launched = threading.Event()
        self._directory = Path()
        self._port = port
        self._health_port = 0

    @property
    def uri(self) -> str:
        """Where Milvus's own clients connect."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def directory(self) -> Path:
        return self._directory

    @property
    def exit_status(self) -> int | None:
        """How Milvus ended, if it did."""
        return None if self._process is None else self._process.poll()

    def start(self) -> None:
        """Start Milvus and wait until it is healthy; raises `EmulatorError`."""
        check_requirements()
        self._directory = self._open_directory()
        if not 0 <= self._wanted_port <= 65535 or (self._wanted_port and not is_free(self._wanted_port)):
            raise EmulatorError(f"Milvus cannot listen on port {self._wanted_port}: give it another.")
        binaries = unpacked_binaries(self._directory)
        for attempt in range(1, START_ATTEMPTS + 1):
            self._launch(binaries)
            if self._became_healthy():
                return
            self._kill()
            if attempt == START_ATTEMPTS:
                raise EmulatorError(f"Milvus did not start; it last said: {self._last_words()}")

    def stop(self) -> None:
        """End Milvus and remove what was temporary; may be called twice.

        Killed and not asked: it takes more than ten seconds to stop by itself, and its stores are made to
        survive a crash.
        """
        self._kill()
        self._undo.close()

    def _open_directory(self) -> Path:
        """Make the data directory ours: no other emulator may use it at the same time."""
        if self._wanted_dir is None:
            remove_abandoned_directories()
            directory = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX))
            self._undo.callback(shutil.rmtree, directory, ignore_errors=True)
        else:
            directory = Path(self._wanted_dir).absolute()
        try:
            (directory / "configs").mkdir(parents=True, exist_ok=True)
            lock = (directory / "emulator.lock").open("w")
        except OSError as problem:
            raise EmulatorError(
                f"Cannot write to the data directory {directory} ({problem.strerror}): give another with --data-dir."
            ) from None
        self._undo.enter_context(lock)
        if not locked(lock):
            raise EmulatorError(f"The data directory {directory} is in use by another emulator.")
        return directory

    def _launch(self, binaries: Path) -> None:
        configs = self._directory / "configs"
        block = self._undo.enter_context(PortBlock(configs / "ports"))
        ports = {name: block.base + offset for offset, name in enumerate(PORTS)}
        if self._wanted_port:
            ports["proxy"] = self._wanted_port
        self._port = ports["proxy"]
        # In quotes, as YAML and JSON both have them: any character may be in a path.
        values = {"directory": json.dumps(str(self._directory))[1:-1], **ports}
        (configs / "milvus.yaml").write_text(MILVUS_YAML.format_map(values))
        (configs / "etcd.yaml").write_text(ETCD_YAML.format_map(values))
        (configs / "glog.conf").write_text(GLOG_CONF)
        self._health_port = ports["metrics"]
        # Nothing of our own environment: Milvus reads many variables, and ours may hold secrets.
        environment = {
            "DEPLOY_MODE": "STANDALONE",
            "METRICS_PORT": str(ports["metrics"]),
            "HOME": str(self._directory),
        }
        command = [sys.executable, "-I", "-S", "-c", LAUNCHER, str(os.getpid()), str(binaries)]
        command += [str(binaries / "milvus"), "run", "standalone"]
        self._process = None
        self._launched = launched = threading.Event()

        def own() -> None:
            """Begin Milvus and wait for its end, for it dies with the thread that began it."""
            try:
                with (self._directory / "milvus.log").open("wb") as log:
                    process = self._process = subprocess.Popen(
                        command,
                        cwd=self._directory,
                        env=environment,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,  # Ctrl-C in the terminal is for the emulator
                    )
            finally:
                launched.set()
            process.wait()
            remove_traces(process.pid)

        self._owner = threading.Thread(target=own, name="importprog-milvus", daemon=True)
        self._owner.start()
        launched.wait()

    def _became_healthy(self) -> bool:
        deadline = time.monotonic() + START_TIMEOUT
        while self._process is not None and self.exit_status is None and time.monotonic() < deadline:
            connection = http.client.HTTPConnection("127.0.0.1", self._health_port, timeout=5)
            with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
                connection.request("GET", "/healthz")
                if b"OK" in connection.getresponse().read():
                    return True
            time.sleep(0.05)
        return False

    def _kill(self) -> None:
        if self._owner is not None and self._owner.is_alive():
            self._launched.wait()  # a signal may have come in between
            if self._process is not None:
                self._process.kill()
            self._owner.join()

    def _last_words(self) -> str:
        with contextlib.suppress(OSError):
            lines = (self._directory / "milvus.log").read_text(errors="replace").split("\n")
            return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "nothing")
        return "nothing"


class PortBlock(contextlib.AbstractContextManager["PortBlock"]):
    """A run of free ports, reserved among all emulators of this machine while in use.

    :param note: file that keeps the number for the next start with the same data, where Milvus would wait
        half a minute for the servers at the old ports.
    """

    def __init__(self, note: Path) -> None:
        bases = random.sample(BLOCKS, len(BLOCKS))
        with contextlib.suppress(OSError, ValueError):
            bases.insert(0, int(note.read_text()))
        for base in bases:
            # The kernel frees a name in the abstract namespace when its holder ends, however it ends.
            self._reservation = socket.socket(socket.AF_UNIX)
            try:
                self._reservation.bind(f"\0importprog-milvus-{base}")
            except OSError:
                self._reservation.close()
                continue
            if all(map(is_free, range(base, base + len(PORTS)))):
                self.base = base
                note.write_text(str(base))
                return
            self._reservation.close()
        raise EmulatorError(f"No {len(PORTS)} free ports in a row from {BLOCKS.start} to {BLOCKS.stop}.")

    def __exit__(self, *_: object) -> None:
        self._reservation.close()


def check_requirements() -> None:
    """Raise `EmulatorError` where Milvus cannot run."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise EmulatorError(
            "The milvus backend needs Linux on x86_64, and this is "
            f"{platform.system()} on {platform.machine()}: use another backend."
        )
    for name in ("milvus", "pymilvus"):
        if importlib.util.find_spec(name) is None:
            raise EmulatorError(f"The milvus backend needs the package {name}: install the dependency group 'test'.")


def is_free(port: int) -> bool:
    """Say whether Milvus could listen on the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))  # every interface, as Milvus does
        except OSError:
            return False
        return True


def remove_traces(pid: int) -> None:
    """Remove what a Milvus that has ended wrote outside its data directory, where it has no setting."""
    for place in MILVUS_PLACES:
        with contextlib.suppress(OSError, ValueError):
            (place / f"server_id_{pid}").unlink(missing_ok=True)
            note = place / "standalone.pid"
            if note.exists() and int(note.read_text()) == pid:
                note.unlink()
            place.rmdir()  # unless another Milvus's are there


def locked(file: IO[str]) -> bool:
    """Lock the file for as long as it stays open; False where another holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def remove_abandoned_directories() -> None:
    """Remove the temporary directories of emulators that were killed before they could."""
    for directory in Path(tempfile.gettempdir()).glob(f"{TEMPORARY_PREFIX}*"):
        with contextlib.suppress(OSError):
            lock_file = directory / "emulator.lock"
            if time.time() - lock_file.stat().st_mtime < 60:
                continue  # may be between its creation and its locking
            with lock_file.open("r+") as lock:
                if locked(lock):
                    shutil.rmtree(directory, ignore_errors=True)


def unpacked_binaries(fallback: Path) -> Path:
    """Return the directory of Milvus's program and libraries, unpacked once per user: it takes seconds.

    :param fallback: where to unpack them if the user's cache directory cannot be written.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "airflow-provider-importprog"
    name = f"milvus-{importlib.metadata.version('milvus')}"
    try:
        return unpacked_into(cache, name)
    except OSError:
        try:
            return unpacked_into(fallback, name)
        except OSError as problem:
            raise EmulatorError(f"Cannot unpack Milvus into {fallback}: {problem.strerror}.") from None


def unpacked_into(parent: Path, name: str) -> Path:
    """Unpack into a new directory and rename it, so that nobody ever sees half of it."""
    target = parent / name
    if is_complete(target):
        return target
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent, ignore_cleanup_errors=True) as scratch:
        fresh = Path(scratch) / name
        fresh.mkdir()
        with ThreadPoolExecutor() as pool:
            sizes = dict(pool.map(lambda packed: unpack(packed, fresh), packed_files()))
        (fresh / "sizes.json").write_text(json.dumps(sizes))
        if target.exists() and not is_complete(target):
            shutil.rmtree(target)
        with contextlib.suppress(OSError):  # another emulator was faster
            fresh.rename(target)
    if not is_complete(target):
        raise OSError(0, f"{target} is not whole")
    return target


def packed_files() -> list[Path]:
    """Find the program and libraries as the milvus package ships them."""
    spec = importlib.util.find_spec("milvus")
    places = (spec.submodule_search_locations or []) if spec else []
    return [packed for place in places for packed in Path(place, "data", "bin").glob("*.lzma")]


def unpack(packed: Path, directory: Path) -> tuple[str, int]:
    """Unpack one file; returns its name and its size in bytes."""
    unpacked = directory / packed.stem
    with lzma.open(packed) as source, unpacked.open("wb") as sink:
        shutil.copyfileobj(source, sink, 1 << 20)
    unpacked.chmod(0o755)
    return unpacked.name, unpacked.stat().st_size


def is_complete(directory: Path) -> bool:
    """Say whether every file is there in its full size."""
    try:
        sizes = json.loads((directory / "sizes.json").read_text())
        return "milvus" in sizes and all((directory / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False
