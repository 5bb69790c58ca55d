"""``python -m airflow_provider_importprog.emulator``: serve the import API until interrupted."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import textwrap
from collections.abc import Sequence

from airflow_provider_importprog.emulator import Emulator, EmulatorError
from airflow_provider_importprog.emulator.simulated import DEFAULT_FAIL_REASON

SIGNALS = (signal.SIGINT, signal.SIGTERM)
VARIABLE = "IMPORTPROG_EMULATOR_TOKEN"


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m airflow_provider_importprog.emulator",
        description="Serve the Milvus and Zilliz Cloud import API on this machine, v1 and v2 on one port.",
        epilog=textwrap.dedent(
            """\
            While it runs, POST a JSON object to
              /emulator/outage      {"seconds": 30, "kind": "unavailable" | "html" | "drop" | "silent"}
              /emulator/rate_limit  {"seconds": 30} or {"requests": 5}, "retryAfter": 1
              /emulator/restore     {} ends outage and rate limit
              /emulator/forget      {"jobId": "..."} drops a job's record
              /emulator/fail_file   {"pattern": "*broken*", "reason": "..."} (simulated)
            GET /emulator shows the backend and its jobs. With a token set, all of these need it too.
            """
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--port", type=int, default=19530, help="port to listen on, 0 for a free one (default: %(default)s)"
    )
    parser.add_argument(
        "--backend",
        choices=("milvus", "simulated"),
        default="milvus",
        help="a real Milvus 2.3.5 started along with it, or jobs that pretend (default: %(default)s)",
    )
    parser.add_argument(
        "--token",
        default=os.environ.get(VARIABLE) or None,
        help=f"what clients must send as bearer token; ps does not show it if set as {VARIABLE} instead",
    )
    parser.add_argument(
        "--dialect",
        choices=("v1", "v2"),
        help="serve only this dialect and answer 404 to the other (default: both)",
    )
    parser.add_argument(
        "--no-idempotency",
        dest="idempotency",
        action="store_false",
        help="ignore the header Idempotency-Key, as Milvus before 2.6.24 and 3.0.2",
    )
    milvus = parser.add_argument_group("milvus backend")
    milvus.add_argument("--data-dir", help="keep Milvus's data here (default: a temporary directory)")
    milvus.add_argument("--milvus-port", type=int, default=0, help="Milvus's gRPC port (default: a free one)")
    simulated = parser.add_argument_group("simulated backend")
    simulated.add_argument(
        "--duration", type=seconds, default=10.0, help="seconds that a job takes (default: %(default)g)"
    )
    simulated.add_argument(
        "--fail-file",
        action="append",
        default=[],
        metavar="PATTERN[=REASON]",
        help="files whose name matches fail, such as '*broken*=not a Parquet file'; may be repeated",
    )
    simulated.add_argument(
        "--partial-success",
        action="store_true",
        help="a failing file leaves its job to complete, as on Zilliz Cloud (default: it fails the job)",
    )
    simulated.add_argument(
        "--retention", type=seconds, help="forget a job so many seconds after its end (default: never)"
    )
    return parser


def seconds(text: str) -> float:
    """Read a duration; argparse makes a sentence of the ValueError."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise ValueError
    return value


def leave(*_: object) -> None:
    """End in good order, also while Milvus is still starting; a second signal does not disturb that."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    sys.exit(0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM. Returns the exit status: 0, or 2 if it could not start."""
    options = parser().parse_args(arguments)
    for number in SIGNALS:
        signal.signal(number, leave)
    fail_files = {}
    for given in options.fail_file:
        pattern, _, reason = given.partition("=")
        fail_files[pattern] = reason or DEFAULT_FAIL_REASON
    try:
        emulator = Emulator(
            options.backend,
            token=options.token,
            host=options.host,
            port=options.port,
            dialects=(options.dialect,) if options.dialect else ("v1", "v2"),
            idempotency=options.idempotency,
            duration=options.duration,
            fail_files=fail_files,
            partial_success=options.partial_success,
            retention=options.retention,
            data_dir=options.data_dir,
            milvus_port=options.milvus_port,
        )
        with emulator:
            about = "".join(f", {name} {value}" for name, value in emulator.describe().items())
            sys.stdout.write(f"Import API emulator at {emulator.url}, backend {options.backend}{about}\n")
            sys.stdout.flush()
            signal.pause()
    except EmulatorError as problem:
        sys.stderr.write(f"{problem}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
