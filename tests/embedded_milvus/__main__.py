"""``python -m tests.embedded_milvus``: the emulator over a real Milvus, until interrupted."""

from __future__ import annotations

import argparse
import os
import sys

from airflow_provider_importprog.emulator import Emulator, EmulatorError
from airflow_provider_importprog.emulator.__main__ import VARIABLE, serve
from tests.embedded_milvus.backend import MilvusBackend

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--port", type=int, default=0)
parser.add_argument("--data-dir")
options = parser.parse_args()
try:
    backend = MilvusBackend(options.data_dir)
    serve(Emulator(backend, port=options.port, token=os.environ.get(VARIABLE) or None))
except EmulatorError as problem:
    sys.exit(f"{problem}")
