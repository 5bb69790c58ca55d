"""Fixtures of the emulator, for any test: load with ``pytest_plugins = ["tests.emulator.fixtures"]``."""

from __future__ import annotations

import importlib
import importlib.util
import json
import platform
import random
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_importprog.emulator import Emulator

DIM = 8
"""Dimension of the vectors in the collections and files made here."""


class Clock:
    """Time that passes only when told to. Seconds."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def emulator(clock: Clock) -> Iterator[Emulator]:
    """A simulated emulator whose jobs take 100 s of `clock`, which a test lets pass by itself."""
    with Emulator(duration=100, clock=clock) as emulator:
        yield emulator


@pytest.fixture(scope="session")
def milvus_emulator() -> Iterator[Emulator]:
    """A real Milvus behind the emulator, one for the whole session."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        pytest.skip("Milvus runs here on Linux x86_64 only")
    if not all(map(importlib.util.find_spec, ("milvus", "pymilvus"))):
        pytest.skip("embedded Milvus is not installed")
    from tests.embedded_milvus.backend import MilvusBackend

    with Emulator(MilvusBackend()) as emulator:
        yield emulator


@pytest.fixture(scope="session")
def milvus_client(milvus_emulator: Emulator) -> Iterator[Any]:
    """A `pymilvus.MilvusClient` of the Milvus behind `milvus_emulator`."""
    pymilvus = importlib.import_module("pymilvus")
    client = pymilvus.MilvusClient(milvus_emulator.describe()["milvusUri"])
    yield client
    client.close()


@pytest.fixture
def milvus_collection(milvus_client: Any) -> str:
    """An empty collection with an int64 key `id` and a float vector `vector` of `DIM`."""
    name = f"c_{uuid.uuid4().hex}"
    milvus_client.create_collection(name, dimension=DIM)
    return name


@pytest.fixture
def rows_file(tmp_path: Path) -> Callable[..., str]:
    """Makes a JSON file that Milvus can import and returns its path: ``rows_file("a.json", 2000)``."""
    made = 0

    def make(name: str, rows: int, dim: int = DIM) -> str:
        nonlocal made
        content = [{"id": made + number, "vector": [random.random() for _ in range(dim)]} for number in range(rows)]
        made += rows
        path = tmp_path / name
        path.write_text(json.dumps({"rows": content}))
        return str(path)

    return make
