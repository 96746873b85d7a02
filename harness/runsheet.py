"""What a cell's own page says of the runs behind it: command, configuration, commit, curves, confusion, ranks."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from harness import costs, itemwise, page, selection, stats, traces
from harness.drawing import Drawn
from harness.examples import Examples
from harness.record import Record
from harness.sheet import Shown


def parts(cell: Shown, root: Path) -> Iterator[str]:
    """The pieces of HTML of a cell's page. root: the store, for predictions."""
    if not cell.records:
        return
    heads = ["seed", "score", "commit", "device", "train s", "made"]
    yield page.table("Runs", heads, [_run(cell, run) for run in cell.records])
    if spread := _spread(cell, Examples(root)):
        yield page.table("Over the seeds, in points", ["", ""], spread)
    if chosen := _selection(cell):
        yield page.table("Which evaluation is reported (split that selects, mean over the seeds)", ["", ""], chosen)
    yield from (drawn.element() for drawn in drawings(cell))
    yield from _confusion(cell, root)
    yield page.table("Cost", ["", ""], [[name, text] for name, text in costs.line(cell.records).items()])
    for run in cell.records:
        yield page.block(f"Command of seed {run.identity['seed']}: {run.id}", command(run))
    yield page.block(
        "Configuration (all runs of the cell; the seed apart)", _home(json.dumps(cell.records[0].config, indent=1))
    )
    versions = json.dumps(cell.records[0].code, indent=1, sort_keys=True)
    yield page.block("Versions, and digests of the code that made the numbers", versions)


def drawings(cell: Shown) -> Iterator[Drawn]:
    """Learning curves, and where a method allocates ranks: where they are at the end, and how they got there."""
    name, first = page.anchor(cell), cell.records[0]
    if points := curve(cell):
        yield traces.curves({"mean" if len(points) > 1 else cell.row: points}, cell.metric, f"curves-{name}")
    seed = first.identity["seed"]
    if held := traces.final(first):
        yield traces.heat(held, f"Ranks at the end, seed {seed}", f"ranks-{name}")
    past = {f"seed {run.identity['seed']}": traces.history(run) for run in cell.records}
    if len(moments := past[f"seed {seed}"]) > 1:
        yield traces.over_time(moments, f"Ranks, seed {seed}", f"time-{name}")
        matrix, layer = traces.telling(moments)
        yield traces.of_one(past, matrix, layer, f"matrix-{name}")


def curve(cell: Shown) -> list[traces.Series]:
    """A cell's learning curves, of runs that were evaluated more than once."""
    found = [traces.series(run, cell.metric) for run in cell.records]
    return [one for one in found if len(one) > 1]


def _spread(cell: Shown, examples: Examples) -> list[list[str]]:
    """How far the seeds lie apart, and how much of the doubt about the mean is of the examples."""
    values = list(cell.scores.values())
    if len(values) < 2:
        return []
    found = [["standard deviation", f"{stats.std(values):.2f}"],
             ["interquartile mean", f"{stats.interquartile_mean(values):.2f}"]]  # fmt: skip
    right = examples.right(cell.cell) if cell.cell is not None else None
    if right is not None and min(right.shape) > 1:
        parts, (seeds, items) = itemwise.variance_split(right), right.shape
        found += [[f"standard error of the mean: {seeds} seeds alone", f"{(parts.seed / seeds) ** 0.5:.2f}"],
                  [f"{items:,} examples alone", f"{(parts.item / items) ** 0.5:.2f}"],
                  ["both, and their interaction", f"{parts.of_mean(seeds, items) ** 0.5:.2f}"]]  # fmt: skip
    return found


def _selection(cell: Shown) -> list[list[str]]:
    """The score of the last evaluation, of the best one, and of the best one on rows that did not choose it."""
    gaps = [found for run in cell.records if (found := selection.gap(run)) is not None]
    if gaps:
        last, best, other = (stats.mean(values) for values in zip(*gaps, strict=True))
        return [["last", f"{last:.2f}"], ["best", f"{best:.2f}"],
                ["best, scored on rows that did not choose it", f"{other:.2f}"],
                ["what the choice adds by chance", f"{best - other:+.2f}"]]  # fmt: skip
    known = [run.science.get("best") or {} for run in cell.records]
    ends = [(one.get(f"last_{cell.metric}"), one.get(cell.metric)) for one in known]
    whole = [(last, best) for last, best in ends if isinstance(last, float) and isinstance(best, float)]
    if not whole or len(whole) < len(ends):
        return []
    last, best = (stats.mean(values) for values in zip(*whole, strict=True))
    return [["last", f"{last:.2f}"], ["best", f"{best:.2f}"]]


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


def _confusion(cell: Shown, root: Path) -> Iterator[str]:
    """Which class was taken for which, summed over the seeds; nothing where predictions are not classes."""
    import pandas as pd

    labels = (cell.records[0].identity.get("task") or {}).get("labels") or []
    counts: Counter[tuple[int, int]] = Counter()
    for run in cell.records:
        main = run.science["main"]["split"]
        path = root / run.id / f"predictions.{main}.parquet"
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
