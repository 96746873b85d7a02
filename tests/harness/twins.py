"""Synthetic runs beside a published table: the paper's numbers with noise of our own, one record a task and seed."""

import random
from dataclasses import replace

from made import made

from harness.record import Record


def runs(table, rows, *, seeds=5, spread=0.3, shift=None, model=None, select="last", split=None, **more):
    """Records of `seeds` seeds for these rows: every column's published value + shift[column] + N(0, spread)."""
    noise, found = random.Random(1), {}
    for row in (table.rows[key] for key in rows):
        for key, column in table.columns.items():
            published = row.cells[key]
            for seed in range(seeds) if published.value is not None else ():
                name = (row.key, column.task, published.setting.model, seed)
                if name not in found:
                    found[name] = _one(row, column, published, seed, model, select, more)
                where = split or (published.setting.split.replace("unknown", "validation"))
                score = published.value + noise.gauss((shift or {}).get(key, 0), spread)
                found[name].science["scores"].setdefault(where, {})[column.metric] = min(score, 100.0)
    return list(found.values())


def _one(row, column, published, seed, model, select, more) -> Record:
    made_one = made(row.method, column.task, seed, model=model or published.setting.model, select=select, **more)
    identity = made_one.identity | {
        "budget": {"name": row.budget, "max_adapter_params": None},
        "task": made_one.identity["task"] | {"splits": published.setting.scheme},
    } | {key: {"name": value} for key, value in row.where.items()}  # fmt: skip
    science = made_one.science | {"scores": {"validation": {"accuracy": made_one.science["main"]["score"]}}}
    name = made_one.id.replace(".default.", f".{row.budget.replace('.', '-')}.")
    return replace(made_one, id=name, identity=identity, science=science)
