"""What in a published table does not follow from its own numbers: averages, counts, values no mean could have.

Nothing is typed twice: the table's cells and formulas give what its averages and counts should be.
"""

from __future__ import annotations

import math
import re
from decimal import ROUND_HALF_UP, Decimal

from harness.paper import Count, Line, Table, arithmetic

PRINTED = re.compile(r"([\d,]+(?:\.(\d+))?)\s*([kMB%]?)")
SCALE = {"": 1.0, "%": 1.0, "k": 1e3, "M": 1e6, "B": 1e9}


def rounded(value: float, digits: int) -> Decimal:
    """`value` with that many decimals, a half rounded up (floating-point noise in the tenth decimal apart)."""
    return Decimal(repr(round(value, 10))).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)


def averages(table: Table) -> dict[str, float]:
    """Rows whose printed average is not that of their cells: row -> the average recomputed."""
    found = {}
    for key, row in table.rows.items():
        mean = recomputed(table, row)
        printed = row.average.value if row.average else None
        digits = table.average.digits if table.average else 0
        if printed is not None and mean is not None and rounded(mean, digits) != rounded(printed, digits):
            found[key] = mean
    return found


def recomputed(table: Table, row: Line) -> float | None:
    """A row's average from its cells, unrounded; None where a cell is empty or nothing is averaged."""
    values = {key: cell.value for key, cell in row.cells.items() if cell.value is not None}
    if table.average is None or len(values) < len(row.cells):
        return None
    return table.average.mean(values)


def counts(table: Table) -> dict[tuple[str, str], float]:
    """Printed counts that do not follow from their formula: (row, count) -> the number computed."""
    return {
        (key, name): float(count.computed or 0)
        for key, row in table.rows.items()
        for name, count in row.counts.items()
        if follows(count) is False
    }


def follows(count: Count) -> bool | None:
    """Whether a printed count is its formula's value (or in reach of it); None where no formula is known."""
    if count.computed is None:
        return None
    number, decimals, unit = _parts(count.printed)
    digits = decimals if count.digits is None else count.digits
    low, high = (arithmetic(text) if text else count.computed for text in (count.low, count.high))
    return rounded(low / SCALE[unit], digits) <= rounded(number, digits) <= rounded(high / SCALE[unit], digits)


def _parts(printed: str) -> tuple[float, int, str]:
    """ "1.33M" -> (1.33, 2, "M")."""
    match = PRINTED.fullmatch(printed)
    if match is None:
        raise ValueError(f"{printed!r} is no count such as 1.33M, 12,345 or 0.29%")
    return float(match[1].replace(",", "")), len(match[2] or ""), match[3]


def possible(value: float, items: int, runs: int, digits: int = 2) -> bool:
    """Whether `value` percent can be, printed with `digits`, a mean of `runs` accuracies over `items` examples."""
    total, half = items * runs, 0.5 * 10**-digits + 1e-9
    return math.floor((value + half) * total / 100) >= math.ceil((value - half) * total / 100)


def means(table: Table) -> dict[tuple[str, str], int]:
    """Cells that cannot be a mean of the runs the paper claims: (row, column) -> that number of runs."""
    return {
        (key, name): cell.setting.seeds_claimed
        for key, row in table.rows.items()
        for name, cell in row.cells.items()
        if cell.value is not None and cell.setting.seeds_claimed and (items := table.columns[name].items)
        and not possible(cell.value, items, cell.setting.seeds_claimed)
    }  # fmt: skip


def remarks(table: Table) -> list[str]:
    """All of it, one text a line."""
    lines = []
    for key, mean in averages(table).items():
        row = table.rows[key]
        printed = f"{row.average.value:.{table.average.digits}f}" if row.average and table.average else ""
        lines.append(f"{key}: the average of its cells is {mean:.4f}, printed is {printed}")
    for (key, name), computed in counts(table).items():
        count = table.rows[key].counts[name]
        why = f" ({count.remark.rstrip('.')})" if count.remark else ""
        number = f"{computed:,.{0 if computed >= 1000 else 4}f}"
        lines.append(f"{key}: {table.counts[name]} printed {count.printed}, computed {number}{why}")
    by_column: dict[tuple[str, int], list[str]] = {}
    for (key, name), runs in means(table).items():
        by_column.setdefault((name, runs), []).append(key)
    for (name, runs), keys in by_column.items():
        column = table.columns[name]
        lines.append(f"{column.title}: no mean of {runs} runs over {column.items} examples: {', '.join(keys)}")
    return lines
