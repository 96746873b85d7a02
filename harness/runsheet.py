"""What a cell's own page says of the runs behind it: command, configuration, commit, curves, confusion, ranks."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness import figures, page
from harness.record import Record
from harness.sheet import Shown

LAYER = re.compile(r"^(?P<before>.*?)\.(?P<layer>\d+)\.(?P<after>.*)$")


def parts(cell: Shown, root: Path) -> Iterator[str]:
    """The pieces of HTML of a cell's page. root: the store, for predictions."""
    if not cell.records:
        return
    yield page.table(
        "Runs", ["seed", "score", "commit", "device", "train s", "made"], [_run(cell, run) for run in cell.records]
    )
    if points := _curves(cell):
        yield figures.curves(points, cell.metric, page.anchor(cell))
    if held := ranks(cell.records[0]):
        seed = cell.records[0].identity["seed"]
        yield figures.heat(held, f"Ranks at the end, seed {seed}", f"ranks-{page.anchor(cell)}")
    yield from _confusion(cell, root)
    for run in cell.records:
        yield page.block(f"Command of seed {run.identity['seed']}: {run.id}", command(run))
    yield page.block(
        "Configuration (all runs of the cell; the seed apart)", _home(json.dumps(cell.records[0].config, indent=1))
    )
    versions = json.dumps(cell.records[0].code, indent=1, sort_keys=True)
    yield page.block("Versions, and digests of the code that made the numbers", versions)


def _run(cell: Shown, run: Record) -> list[str]:
    """A line of the table of runs."""
    made, seed = run.provenance, run.identity["seed"]
    commit = str(made.get("commit") or "unknown")[:12] + (" + changes" if made.get("dirty") else "")
    seconds = run.cost.get("train_seconds")
    score = cell.scores.get(seed)
    return [str(seed), "–" if score is None else f"{score:.2f}", commit, str(made.get("device") or "–"),
            f"{seconds:,.1f}" if seconds else "–", str(made.get("ended") or "–")]  # fmt: skip


def command(run: Record) -> str:
    """The command that made a run, as one would type it."""
    import shlex

    return _home(shlex.join(map(str, run.provenance.get("command") or ["unknown"])))


def _home(text: str) -> str:
    """Without the home directory of whoever ran it."""
    home = os.path.expanduser("~")
    return text.replace(home, "~") if len(home) > 1 else text


def _curves(cell: Shown) -> dict[str, list[tuple[float, float]]]:
    """Seed -> (step, score) of each evaluation that has this metric."""
    found = {}
    for run in cell.records:
        rows = [row for row in run.science.get("curve") or [] if isinstance(row.get(cell.metric), int | float)]
        if len(rows) > 1:
            found[f"seed {run.identity['seed']}"] = [(float(row["step"]), float(row[cell.metric])) for row in rows]
    return found


def _confusion(cell: Shown, root: Path) -> Iterator[str]:
    """Which class was taken for which, summed over the seeds; nothing where predictions are not classes."""
    import pandas as pd

    labels = (cell.records[0].identity.get("task") or {}).get("labels") or []
    counts: Counter[tuple[int, int]] = Counter()
    for run in cell.records:
        main = run.science["main"]["split"]
        stored = (run.science.get("predictions") or {}).get(main) or {}
        path = root / run.id / str(stored.get("file"))
        if not labels or not path.is_file():
            return
        table = pd.read_parquet(path, columns=["target", "prediction"])
        counts.update(zip(table["target"].tolist(), table["prediction"].tolist(), strict=True))
    if not counts or any(not isinstance(one, int) or one >= len(labels) for pair in counts for one in pair):
        return
    rows = [
        [f"true {name}", *(f"{counts[true, said]:,}" for said in range(len(labels)))]
        for true, name in enumerate(labels)
    ]
    title = f"Confusion, {len(cell.records)} runs together" if len(cell.records) > 1 else "Confusion"
    yield page.table(title, ["", *(f"said {name}" for name in labels)], rows)


def ranks(run: Record) -> dict[str, dict[str, float]]:
    """Matrix -> layer -> rank at the end of a run; {} for methods that allocate none."""
    found: dict[str, dict[str, float]] = {}
    held: Any = (run.science.get("trace") or {}).get("ranks")
    names = [match for name in held if (match := LAYER.match(str(name)))] if isinstance(held, dict) else []
    stacks = {match["before"] for match in names}
    for match in names:
        stack = f"{match['before'].split('.')[-2]} " if len(stacks) > 1 and "." in match["before"] else ""
        value = held[match[0]]
        if isinstance(value, int | float):
            found.setdefault(f"{stack}{match['after']}", {})[match["layer"]] = float(value)
    return dict(sorted(found.items()))
