"""The Milvus of PyPI ``milvus==2.3.5`` as a child process that never outlives this one (Linux x86_64)."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import lzma
import os
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

import requests

START_SECONDS = 120.0
START_ATTEMPTS = 3

# Every port that Milvus 2.3.5 opens. Its gRPC servers listen on every interface whatever it is told.
PORTS = ("proxy", "proxy_internal", "root_coord", "data_coord", "query_coord", "index_coord", "data_node")
PORTS += ("query_node", "index_node", "metrics", "etcd", "etcd_peer")
# Below the range from which Linux takes the ports of outgoing connections.
BASES = range(20000, 32000, 16)

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
# Milvus's C++ part does not start without this file.
GLOG_CONF = "--logtostdout=false\n--logtostderr=true\n--minloglevel=2\n"

# Becomes Milvus. PR_SET_PDEATHSIG (1) has the kernel kill it when the thread that began it ends, however that comes.
LAUNCHER = """\
import ctypes, os, sys
parent, libraries, *command = sys.argv[1:]
ctypes.CDLL(None).prctl(1, 9)
os.environ["LD_LIBRARY_PATH"] = libraries
if os.getppid() == int(parent):
    os.execv(command[0], command)
"""


class MilvusServer:
    """One Milvus, its ports and its temporary directory, which it keeps from one start to the next."""

    def __init__(self) -> None:
        self.directory = Path()
        self._base = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._owner: threading.Thread | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self._base}"

    @property
    def exit_status(self) -> int | None:
        return None if self._process is None else self._process.poll()

    def start(self) -> None:
        """Start Milvus, the first time in a new directory, and wait until it is healthy."""
        if not self._base:
            self.directory = Path(tempfile.mkdtemp(prefix="importprog-milvus-"))
            (self.directory / "configs").mkdir()
        for _ in range(START_ATTEMPTS):
            # After a restart it would wait half a minute for servers at its old ports.
            self._base = self._base or free_base()
            self._launch()
            if self._became_healthy():
                return
            self.kill()
            self._base = 0
        raise RuntimeError(f"Milvus did not start: {(self.directory / 'milvus.log').read_text()[-2000:]}")

    def kill(self) -> None:
        """End Milvus with SIGKILL."""
        if self._owner is not None and self._process is not None:
            self._process.kill()
            self._owner.join()

    def stop(self) -> None:
        """End Milvus and remove its directory."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _launch(self) -> None:
        ports = {name: self._base + offset for offset, name in enumerate(PORTS)}
        configs = self.directory / "configs"
        (configs / "milvus.yaml").write_text(MILVUS_YAML.format(directory=self.directory, **ports))
        (configs / "etcd.yaml").write_text(ETCD_YAML.format(directory=self.directory, **ports))
        (configs / "glog.conf").write_text(GLOG_CONF)
        environment = {"DEPLOY_MODE": "STANDALONE", "METRICS_PORT": str(ports["metrics"]), "HOME": str(self.directory)}
        binaries = unpacked_binaries()
        command = [sys.executable, "-I", "-S", "-c", LAUNCHER, str(os.getpid()), str(binaries)]
        command += [str(binaries / "milvus"), "run", "standalone"]
        launched = threading.Event()

        def own() -> None:
            """Begin Milvus and wait for its end, for it dies with the thread that began it."""
            with (self.directory / "milvus.log").open("wb") as log:
                process = self._process = subprocess.Popen(
                    command, cwd=self.directory, env=environment, stdout=log, stderr=log, start_new_session=True
                )
            launched.set()
            process.wait()

        self._owner = threading.Thread(target=own, daemon=True)
        self._owner.start()
        launched.wait()

    def _became_healthy(self) -> bool:
        deadline = time.monotonic() + START_SECONDS
        url = f"http://127.0.0.1:{self._base + PORTS.index('metrics')}/healthz"
        while self.exit_status is None and time.monotonic() < deadline:
            with contextlib.suppress(requests.RequestException):
                if "OK" in requests.get(url, timeout=5).text:
                    return True
            time.sleep(0.05)
        return False


def free_base() -> int:
    """Return the first of so many free ports; two that start at once may meet, and one of them starts again."""

    def is_free(port: int) -> bool:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("", port))
            return True
        return False

    bases = random.sample(BASES, len(BASES))
    return next(base for base in bases if all(map(is_free, range(base, base + len(PORTS)))))


def unpacked_binaries() -> Path:
    """Return the directory of Milvus's program and libraries, unpacked once for each user: it takes seconds."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "airflow-provider-importprog"
    target = cache / "milvus-2.3.5"
    if not (target / "sizes.json").exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, ignore_cleanup_errors=True) as scratch:
            fresh = Path(scratch) / "fresh"
            fresh.mkdir()
            (place,) = importlib.util.find_spec("milvus").submodule_search_locations  # type: ignore[union-attr,misc]
            with ThreadPoolExecutor() as pool:
                sizes = dict(pool.map(lambda packed: unpack(packed, fresh), Path(place, "data/bin").glob("*.lzma")))
            (fresh / "sizes.json").write_text(json.dumps(sizes))
            with contextlib.suppress(OSError):  # another process was faster
                fresh.rename(target)
    return target


def unpack(packed: Path, directory: Path) -> tuple[str, int]:
    unpacked = directory / packed.stem
    with lzma.open(packed) as source, unpacked.open("wb") as sink:
        shutil.copyfileobj(source, sink, 1 << 20)
    unpacked.chmod(0o755)
    return unpacked.name, unpacked.stat().st_size
