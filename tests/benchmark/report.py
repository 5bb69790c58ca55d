"""What was measured, as tables in Markdown."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

_FEWEST_FOR_MEMORY = 100  # below it, what all gates share weighs more than they
_TOGETHER = ("sharing", "stream")  # whose polls are not each a gate's


def machine() -> dict[str, Any]:
    """Describe what this runs on."""
    models = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "airflow": version("apache-airflow-core"),
        "aiohttp": version("aiohttp"),
        "load": [round(load, 2) for load in os.getloadavg()],
    }


def rows(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the medians of each subject's runs, and of their ratios to the floor's run of the same repeat."""
    floors = {(run["gates"], run["repeat"]): run for run in runs if run["subject"] == "floor"}
    groups: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for run in runs:
        ratios = {}
        if floor := floors.get((run["gates"], run["repeat"])):
            for name in ("cpu_per_poll", "cpu_per_gate_interval"):
                ratios[f"{name}_ratio"] = run[name] / floor[name] if floor[name] else None
        groups.setdefault((run["gates"], run["subject"]), []).append({**run, **ratios})
    return [_median(group) for group in groups.values()]


def _median(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {"subject": runs[0]["subject"], "runs": len(runs)}
    for name, value in runs[0].items():
        values = [run[name] for run in runs if run.get(name) is not None]
        if isinstance(value, (int, float)) and values:
            found[name] = median(values)
    found["requests"] = {name: median(run["requests"].get(name, 0) for run in runs) for name in runs[0]["requests"]}
    return found


def markdown(found: dict[str, Any]) -> str:
    """Return everything as Markdown."""
    host = found["machine"]
    parts = [
        f"{host['cpu']}, {host['cores']} cores, {host['system']}; Python {host['python']}, Airflow {host['airflow']}, "
        f"aiohttp {host['aiohttp']}; load average {', '.join(map(str, host['load']))} before."
    ]
    if gates := found.get("gates"):
        runs = max(row["runs"] for row in gates)
        parts.append(
            f"Medians of {runs} runs. A poll is a request; CPU is that of the process, without imports. "
            "Memory is the growth of the resident set from before the gates were made to its peak, over the gates."
        )
        parts.append(_table(_GATES, gates))
    if long := found.get("long"):
        parts.append(_long(long))
    if files := found.get("files"):
        parts.append(
            _table(
                {
                    "beside 10 small jobs": lambda row: row["name"],
                    "longest hold of the loop, ms": lambda row: _number(row["lag_max"] * 1e3),
                    "largest event, bytes": lambda row: _number(row["event_bytes"]),
                    "requests": lambda row: _number(row["asked"]),
                },
                [{"name": _FILES[name], **run} for name, run in files.items()],
            )
        )
    if imports := found.get("import"):
        parts.append(
            f"Importing the sensor adds {_number(imports['over_sdk'] * 1e3)} ms to `import airflow.sdk`, and "
            f"{_number(imports['over_another'] * 1e3)} ms to a DAG file with a sensor of Airflow's own; aiohttp "
            f"is {'loaded' if imports['aiohttp'] else 'not loaded'} with it."
        )
    return "\n\n".join(parts)


def _long(long: dict[str, Any]) -> str:
    def alone(row: dict[str, Any]) -> bool:
        return row["name"] in (_LONG["rate"], _LONG["separate"])

    shown = {
        "gates": lambda row: f"{row['gates']} {row['name']}",
        "interval, s": lambda row: _number(row["poke_interval"]),
        "seconds": lambda row: _number(row["seconds"]),
        "requests": lambda row: _number(row["asked"]),
        "in the busiest second": lambda row: _number(row["busiest_second"]),
        # Gates that share do not ask for themselves.
        "polls of a gate, min / max": lambda row: f"{row['fewest_polls']} / {row['most_polls']}" if alone(row) else "",
        "longest wait between two, s": lambda row: _number(row["longest_wait"]) if alone(row) else "",
        "server's longest stall, ms": lambda row: _number(row["server_stall"] * 1e3),
        "delay, mean / max, intervals": lambda row: _pair(
            row["delay_mean"], row["delay_max"], 1 / row["poke_interval"]
        ),
    }
    return _table(shown, [{"name": _LONG[name], **run} for name, run in long.items()])


_LONG = {
    "rate": "separate, at the default rate",
    "sharing": "sharing, a long import",
    "separate": "separate, a long import",
    "sharing, delay": "sharing, at 200 a second",
    "stream, delay": "stream, at 200 a second",
}
_FILES = {"none": "none", "completed": "10,000 files that complete", "failed": "10,000 files that fail"}
_GATES = {
    "gates": lambda row: f"{row['gates']:,.0f}",
    "subject": lambda row: row["subject"],
    "CPU per poll, µs": lambda row: _number(row["cpu_per_poll"] * 1e6) if row["subject"] not in _TOGETHER else "",
    "× floor": lambda row: _number(row.get("cpu_per_poll_ratio")) if row["subject"] not in _TOGETHER else "",
    "CPU per gate and interval, µs": lambda row: _number(row["cpu_per_gate_interval"] * 1e6),
    "× floor ": lambda row: _number(row.get("cpu_per_gate_interval_ratio")),
    "requests": lambda row: " + ".join(f"{_number(count)} {name}" for name, count in row["requests"].items()),
    "connections, at once / in all": lambda row: f"{row['most_connections']:.0f} / {row['connections']:.0f}",
    "lag p50 / p99 / max, ms": lambda row: " / ".join(
        _number(row[name] * 1e3) for name in ("lag_p50", "lag_p99", "lag_max")
    ),
    "memory per gate, KB": lambda row: (
        _number(row["memory_per_gate"] / 1e3) if row["gates"] >= _FEWEST_FOR_MEMORY else ""
    ),
    "delay mean / max, s": lambda row: _pair(row.get("delay_mean"), row.get("delay_max")),
}


def _table(columns: dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    cells = [list(columns), *([show(row) for show in columns.values()] for row in rows)]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in cells
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def _pair(mean: float | None, most: float | None, scale: float = 1.0) -> str:
    return "" if mean is None or most is None else f"{mean * scale:.2f} / {most * scale:.2f}"


def _number(value: float | None) -> str:
    """Return a number as short as it makes sense."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []
