"""What was measured, as tables in Markdown."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

_FEWEST_FOR_MEMORY = 100  # below it, what all gates share weighs more than they


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
        parts.append(_table([[name, *(show(row) for row in gates)] for name, show in _GATES.items()]))
    limits = [[each, str(aim), _number(measured)] for each, aim, measured in _limits(found) if measured is not None]
    parts.append(_table(list(zip(("figure", "aim, at most", "measured"), *limits, strict=True))))
    return "\n\n".join(parts)


def _limits(found: dict[str, Any]) -> Iterator[tuple[str, str, float | None]]:
    """Yield what is aimed at: the figure, the most that it may be, and what was measured of it."""
    rows = {(row["gates"], row["subject"]): row for row in found.get("gates", ())}

    def of(gates: int, subject: str, name: str, scale: float = 1.0) -> float | None:
        value = rows.get((gates, subject), {}).get(name)
        return None if value is None else value * scale

    def ratio(one: float | None, other: float | None) -> float | None:
        return one / other if one is not None and other else None

    gate = "cpu_per_gate_interval"
    yield "CPU of a poll by itself at 1,000 gates, of the floor's", "1.3", of(1000, "separate", "cpu_per_poll_ratio")
    yield "CPU of a gate that shares at 1,000 gates, of the floor's", "0.5", of(1000, "sharing", f"{gate}_ratio")
    http = ratio(of(200, "separate", "cpu_per_poll"), of(200, "http", "cpu_per_poll"))
    yield "CPU of a poll by itself at 200 gates, of the http provider's", "0.333", http
    for subject, name in (("separate", "by itself"), ("sharing", "that shares")):
        flat = ratio(of(5000, subject, gate), of(10, subject, gate))
        yield f"CPU of a gate {name} at 5,000 gates, of that at 10", "1", flat
    mine = [row for (_, subject), row in rows.items() if subject in ("separate", "sharing")]
    yield "connections opened, any number of gates", "32", max((row["connections"] for row in mine), default=None)
    for lag, aim in (("lag_p99", "20 ms"), ("lag_max", "250 ms")):
        worst = max((row[lag] * 1e3 for row in mine if row["gates"] == 1000), default=None)
        yield f"event-loop {lag.replace('_', ', ')}, at 1,000 gates", aim, worst
    yield "memory that a gate adds, at 1,000 gates", "20 KB", of(1000, "separate", "memory_per_gate", 1e-3)
    if long := found.get("long"):
        rate, sharing, separate, delay = (long[name] for name in ("rate", "sharing", "separate", "delay"))
        yield "requests in the busiest second, at the default rate", "20", rate["busiest_second_unstalled"]
        yield "longest wait between two polls, of a gate's fair share", "2", rate["longest_wait"] * 20 / rate["gates"]
        yield "requests of gates that share, of those by themselves", "0.0167", sharing["asked"] / separate["asked"]
        mean = delay["delay_mean"] / delay["poke_interval"]
        yield "delay of a sharing gate's event, mean, of the interval", "0.6", mean
        yield (
            "delay of a sharing gate's event, max, of the interval",
            "1.4",
            delay["delay_max"] / delay["poke_interval"],
        )
    if files := found.get("files"):
        hold = max(run["lag_max"] for run in files.values()) * 1e3
        yield "a job of 10,000 files holds the event loop", "50 ms", hold
        yield "its event", "4,096 bytes", max(run["event_bytes"] for run in files.values())
    if imports := found.get("import"):
        yield "importing the sensor, over airflow.sdk and common-compat", "5 ms", imports["seconds"] * 1e3
        yield "aiohttp is loaded with it", "0", float(imports["aiohttp"])


_NAMES = {"floor": "the floor", "separate": "asks for itself", "sharing": "shares a list"}
_GATES: dict[str, Callable[[dict[str, Any]], str]] = {
    "gates": lambda row: f"{row['gates']:,.0f}",
    "trigger": lambda row: _NAMES.get(row["subject"], row["subject"]),
    "CPU per gate and interval": lambda row: f"{row['cpu_per_gate_interval'] * 1e6:,.0f} µs",
    "of the floor's": lambda row: f"{row.get('cpu_per_gate_interval_ratio', 0):.2f} ×",
    "requests": lambda row: f"{row['asked']:,.0f}",
    "connections": lambda row: f"{row['connections']:.0f}",
    "event-loop lag p99 / max": lambda row: f"{row['lag_p99'] * 1e3:.0f} / {row['lag_max'] * 1e3:.0f} ms",
    "memory per gate": lambda row: (
        f"{row['memory_per_gate'] / 1e3:.0f} KB" if row["gates"] >= _FEWEST_FOR_MEMORY else ""
    ),
    "job's end to event, mean / max": lambda row: f"{row['delay_mean']:.2f} / {row['delay_max']:.2f} s",
}


def _table(columns: Sequence[Sequence[str]]) -> str:
    head, *lines = zip(*columns, strict=True)
    rule = ["---"] * len(head)
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *lines))


def _number(value: float) -> str:
    """Return a number as short as it makes sense."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []
