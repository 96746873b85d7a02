"""What the runs of a row cost: parameters, stored bytes and bits, peak memory, speed, time. Unknown is –, never 0."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from harness import identity
from harness.bundle import Held, problem, records
from harness.labels import labels
from harness.record import DONE, Record

if TYPE_CHECKING:
    import pandas as pd

NONE, UNTRIED = "–", "?"
SHARED = ("model", "budget", "settings", "device")
MEANING = (
    "Costs: adapter, head and active parameters; bytes and bits of the adapter's weight files on disk; largest memory "
    "held (GPU allocations, or the whole process on a CPU); training rows a second and seconds of training, evaluation "
    "apart; milliseconds of one forward pass of one row, with the adapter beside the backbone, and merged into it (– where "
    "that cannot be, ? where records are older than this measurement): medians of the runs; device hours of all runs "
    "together. a–b: smallest and largest of the row's runs. Seconds compare on one device only."
)


def line(runs: Sequence[Record]) -> dict[str, str]:
    """The cost columns of some runs, as text."""
    costs = [run.cost for run in runs if run.state == DONE]
    params = [run.science.get("params") or {} for run in runs if run.state == DONE]
    stored = _known(costs, "stored_bytes")
    seconds = [one["train_seconds"] for one in costs if one.get("train_seconds")]
    speeds = [
        one["examples"] / one["train_seconds"] for one in costs if one.get("train_seconds") and one.get("examples")
    ]
    devices = sorted({str(run.provenance["device"]) for run in runs if run.provenance.get("device")})
    return {
        **{name: _range(_known(params, name)) for name in ("adapter", "head", "active")},
        "stored bytes": _range(stored),
        "stored bits": _range([8 * size for size in stored]),
        "peak MiB": _range([round(size / 2**20) for size in _known(costs, "peak_bytes")]),
        "examples/s": f"{statistics.median(speeds):,.1f}" if speeds else NONE,
        "train s": f"{statistics.median(seconds):,.1f}" if seconds else NONE,
        "latency ms": _milliseconds(costs, "latency_seconds"),
        "merged ms": _milliseconds(costs, "latency_merged_seconds"),
        "device h": f"{sum(hours):.3g}"
        if (hours := [_hours(run) for run in runs if run.cost.get("seconds")])
        else NONE,
        "runs": str(len(costs)),
        "device": ", ".join(devices) or NONE,
    }


def _milliseconds(costs: list[dict[str, Any]], name: str) -> str:
    """The median; nothing where it cannot be measured; a question mark where nobody tried, when the records were made."""
    found = _known(costs, name)
    untried = UNTRIED if not any(name in one for one in costs) else NONE
    return f"{1000 * statistics.median(found):.3g}" if found else untried


def _hours(run: Record) -> float:
    """Of a run, failed ones too, on all its devices."""
    return float(run.cost["seconds"]) * int(run.cost.get("processes") or 1) / 3600


def measured(runs: Sequence[Record]) -> dict[str, float]:
    """What runs cost, for a figure: axis -> median. Axes that no run measured are left out."""
    done = [run for run in runs if run.state == DONE]
    params = [run.science.get("params") or {} for run in done]
    stored = [8 * size for size in _known([run.cost for run in done], "stored_bytes")]
    found = {
        "adapter parameters": _known(params, "adapter"), "bits stored": stored,
        "seconds of training": _known([run.cost for run in done], "train_seconds"),
    }  # fmt: skip
    return {name: float(statistics.median(values)) for name, values in found.items() if values}


def _known(parts: Iterable[dict[str, Any]], name: str) -> list[int]:
    return [one[name] for one in parts if isinstance(one.get(name), int | float)]


def _range(values: Sequence[float]) -> str:
    """`1,000`, or `1,000–2,000` where the runs differ."""
    return "–".join(f"{value:,}" for value in sorted({min(values), max(values)})) if values else NONE


def lean(frame: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The frame without the columns that say the same in every row, and a text that says it once."""
    same = [name for name in SHARED if name in frame and frame[name].nunique() == 1]
    told = ", ".join(f"{name} {frame[name].iloc[0]}" for name in same if frame[name].iloc[0])
    return frame.drop(columns=same), f"{MEANING} All rows: {told}." if told else MEANING


def of_store(held: Iterable[Held]) -> pd.DataFrame:
    """One line a configuration and task of the store."""
    import pandas as pd

    groups: dict[str, list[Record]] = defaultdict(list)
    for one in records(held):
        if isinstance(one, Record) and one.state == DONE and problem(one) is None:
            groups[identity.group(one.identity)].append(one)
    told = labels({key: runs[0].identity for key, runs in groups.items()})
    lines = []
    for key, runs in groups.items():
        names = {part: str(runs[0].identity[part]["name"]) for part in ("method", "model", "budget", "task")}
        lines.append(names | {"settings": told[key]} | line(runs))
    frame = pd.DataFrame(lines)
    return frame.sort_values(["model", "budget", "method", "settings", "task"]) if lines else frame


def of_rows(rows: dict[str, list[Record]]) -> pd.DataFrame:
    """One line a row of a published table that has runs: title -> its runs."""
    import pandas as pd

    once = {title: list({run.id: run for run in runs}.values()) for title, runs in rows.items()}
    return pd.DataFrame([{"method": title} | line(runs) for title, runs in once.items() if runs])
