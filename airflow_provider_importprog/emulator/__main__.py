"""``python -m airflow_provider_importprog.emulator``: serve the import API until interrupted."""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import sys
import textwrap
import threading
from collections.abc import Sequence

from airflow_provider_importprog.emulator import Emulator, EmulatorError
from airflow_provider_importprog.emulator.profile import PROFILES, SETTINGS, setting_of
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
            While it runs, POST a JSON object, as application/json, to
              /emulator/outage      {"seconds": 30, "kind": "unavailable" | "html" | "drop" | "silent"}
              /emulator/rate_limit  {"seconds": 30} or {"requests": 5}, "retryAfter": 1
              /emulator/time_out    {"call": "create", "requests": 1, "status": 408, "delay": 5}: answers that the
                                    time was up, and does it all the same
              /emulator/answer      {"call": "refresh_load", "code": 101, "message": "...", "requests": 1,
                                    "status": 200, "done": false, "delay": 5, "retryAfter": 1}
              /emulator/restore     {} ends all of these
              /emulator/profile     {"profile": "milvus-2.4", "string_code": true} becomes another server
              /emulator/forget      {"jobId": "..."} drops a job's record
              /emulator/fail_file   {"pattern": "*broken*", "reason": "..."} (simulated)
              /emulator/lose_rows   {"pattern": "*short*", "rows": 10} (simulated)
              /emulator/collections {"names": ["articles", "database.articles"]}, null has any (simulated)
            GET /emulator shows the backend, the profile, the requests and the jobs. With a token set, all of these
            need it too. With the lite backend there are also Milvus's own collections/create, collections/drop,
            entities/query and entities/search under /v2/vectordb.
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
        choices=("lite", "simulated"),
        help="Milvus Lite, which imports files, or simulated jobs (default: lite if it is installed)",
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
        default=None,
        help="ignore the header Idempotency-Key, as Milvus before 2.6.24 and 3.0.2",
    )
    parser.add_argument(
        "--profile", choices=tuple(PROFILES), default="all", help="what the server is like (default: %(default)s)"
    )
    parser.add_argument(
        "--setting",
        action="append",
        type=setting,
        default=[],
        metavar="NAME=VALUE",
        help="set one of the server's settings, such as string_code=true; may be repeated. There are "
        + ", ".join(SETTINGS),
    )
    parser.add_argument(
        "--retention",
        type=retention,
        default=argparse.SUPPRESS,
        help="forget a job so many seconds after its end, or keep it 'forever' (default: the profile's, 48 h for most)",
    )
    parser.add_argument(
        "--partial-success",
        action="store_true",
        default=None,
        help="a failing file leaves its job to complete, as on Zilliz Cloud (default: the profile's)",
    )
    lite = parser.add_argument_group("lite backend")
    lite.add_argument("--data-dir", help="keep collections and jobs here (default: a temporary directory)")
    lite.add_argument(
        "--rows-per-second",
        type=rate,
        help="import no faster than this (default: no limit)",
    )
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
        "--collection",
        action="append",
        metavar="NAME",
        help="a collection that exists, or DATABASE.NAME; may be repeated (default: any does)",
    )
    return parser


def seconds(text: str) -> float:
    """Read a duration; argparse makes a sentence of the ValueError."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise ValueError
    return value


def rate(text: str) -> float:
    """Read a number above 0."""
    value = seconds(text)
    if not value:
        raise ValueError
    return value


def retention(text: str) -> float | None:
    """Read how long records are kept; None is for ever."""
    return None if text == "forever" else seconds(text)


def setting(text: str) -> tuple[str, object]:
    """Read one setting of the server."""
    try:
        return setting_of(text)
    except ValueError as problem:
        raise argparse.ArgumentTypeError(str(problem)) from None


def leave(*_: object) -> None:
    """End in good order, also while the backend is still starting; a second signal does not disturb that."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    sys.exit(0)


def serve(emulator: Emulator) -> None:
    """Serve until a signal ends the process; say where, on one line, once it answers."""
    for number in SIGNALS:
        signal.signal(number, leave)
    with emulator:
        about = "".join(f", {name} {value}" for name, value in emulator.describe().items())
        sys.stdout.write(f"Import API emulator at {emulator.url}, backend {emulator.backend}{about}\n")
        sys.stdout.flush()
        threading.Event().wait()


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM. Returns the exit status: 0, or 2 if it could not start."""
    options = parser().parse_args(arguments)
    for number in SIGNALS:
        signal.signal(number, leave)
    backend = options.backend or ("lite" if importlib.util.find_spec("milvus_lite") else "simulated")
    fail_files = {}
    for given in options.fail_file:
        pattern, _, reason = given.partition("=")
        fail_files[pattern] = reason or DEFAULT_FAIL_REASON
    settings = dict(options.setting)
    settings |= {
        name: value for name in ("idempotency", "partial_success") if (value := vars(options)[name]) is not None
    }
    if options.dialect:
        settings["dialects"] = (options.dialect,)
    if "retention" in options:
        settings["retention"] = options.retention
    try:
        emulator = Emulator(
            backend,  # type: ignore[arg-type]  # one of its choices
            token=options.token,
            host=options.host,
            port=options.port,
            profile=options.profile,
            duration=options.duration,
            fail_files=fail_files,
            collections=options.collection,
            data_dir=options.data_dir,
            rows_per_second=options.rows_per_second,
            **settings,
        )
        serve(emulator)
    except (EmulatorError, ValueError) as problem:
        sys.stderr.write(f"{problem}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
