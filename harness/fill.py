"""The commands that would fill a published table's empty cells, and the options they name that conf does not have."""

from __future__ import annotations

from collections import defaultdict

from harness import paths
from harness.compare import AVERAGE, Comparison
from harness.verdict import NOT_RUN

SEEDS = 5  # runs a cell, where the paper says nothing


AXES = ("model", "method", "budget", "task", "where", "seed")
Sweep = dict[str, tuple[str, ...]]  # axis -> its values; their product is run


def commands(comparison: Comparison) -> list[str]:
    """As few sweeps as cover all cells that are not run, and no others."""
    if not comparison.table.can_run:
        return []
    lacking: dict[tuple[tuple[str, ...], ...], list[str]] = defaultdict(list)
    for entry in comparison.entries:
        if entry.column == AVERAGE or entry.verdict.word != NOT_RUN or entry.published.value is None:
            continue
        setting, row = entry.published.setting, entry.row
        more = [f"{key}={value}" for key, value in row.where.items()]
        more += [f"train.select={setting.selection}"] if setting.selection != "unknown" else []
        seeds = ",".join(map(str, range(setting.seeds or SEEDS)))
        task = comparison.table.columns[entry.column].task
        tasks = lacking[(setting.model,), (row.method,), (row.budget,), (" ".join(more),), (seeds,)]
        if task not in tasks:
            tasks.append(task)
    sweeps: list[Sweep] = [
        dict(zip(AXES, (*key[:3], tuple(tasks), *key[3:]), strict=True)) for key, tasks in lacking.items()
    ]
    for axis in ("method", "model", "budget"):
        sweeps = _joined(sweeps, axis)
    return [_command(sweep) for sweep in sweeps]


def _joined(sweeps: list[Sweep], axis: str) -> list[Sweep]:
    """Sweeps that differ in one axis alone, as one."""
    found: dict[tuple[tuple[str, ...], ...], Sweep] = {}
    for sweep in sweeps:
        rest = tuple(values for key, values in sweep.items() if key != axis)
        if rest in found:
            found[rest][axis] = tuple(dict.fromkeys((*found[rest][axis], *sweep[axis])))
        else:
            found[rest] = dict(sweep)
    return list(found.values())


def _command(sweep: Sweep) -> str:
    words = [f"{key}={','.join(sweep[key])}" for key in ("model", "method", "budget", "task")]
    return " ".join(["python -m harness -m", *words, *filter(None, sweep["where"]), f"seed={sweep['seed'][0]}"])


def absent(found: list[str]) -> list[str]:
    """Options of these commands that conf has no file for, as `method=increlora`."""
    groups = {path.name for path in paths.CONF.iterdir() if path.is_dir()}
    named: dict[str, None] = {}
    for word in (word for line in found for word in line.split()):
        group, _, options = word.partition("=")
        for option in options.split(",") if group in groups else ():
            if not (paths.CONF / group / f"{option}.yaml").is_file():
                named[f"{group}={option}"] = None
    return list(named)
