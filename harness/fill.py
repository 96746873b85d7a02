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
    """As few sweeps as cover all cells that are not run and can be, and no others; then what conf lacks for the rest."""
    if not comparison.table.can_run:
        return []
    impossible: dict[str, None] = {}
    lacks: dict[str, None] = {}
    lacking: dict[tuple[tuple[str, ...], ...], list[str]] = defaultdict(list)
    for entry in comparison.entries:
        if entry.column == AVERAGE or entry.verdict.word != NOT_RUN or entry.published.value is None:
            continue
        setting, row = entry.published.setting, entry.row
        more = [*comparison.table.words, *(f"{key}={value}" for key, value in row.where.items())]
        more += [f"train.select={setting.selection}"] if setting.selection != "unknown" else []
        seeds = ",".join(map(str, range(setting.seeds or SEEDS)))
        task = comparison.table.columns[entry.column].task
        if absent(method=row.method):
            impossible[f"# not run: no method {row.method} here yet"] = None
            continue
        lacks |= dict.fromkeys(absent(model=setting.model, budget=row.budget, task=task))
        tasks = lacking[(setting.model,), (row.method,), (row.budget,), (" ".join(more),), (seeds,)]
        if task not in tasks:
            tasks.append(task)
    sweeps: list[Sweep] = [
        dict(zip(AXES, (*key[:3], tuple(tasks), *key[3:]), strict=True)) for key, tasks in lacking.items()
    ]
    for axis in ("method", "model", "budget"):
        sweeps = _joined(sweeps, axis)
    missing = [f"# not in conf yet: {', '.join(lacks)}"] if lacks else []
    return [*map(_command, sweeps), *missing, *impossible]


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


def absent(**options: str) -> list[str]:
    """Which of these options conf has no file for, as `method=hyperformer`."""
    return [f"{group}={name}" for group, name in options.items() if not (paths.CONF / group / f"{name}.yaml").is_file()]


if __name__ == "__main__":
    from harness import launch

    raise SystemExit(launch.main())
