"""Our rows against each other: what is equal stays a tie, what differs is found, over seeds and over examples."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made import fresh, made, seeds, store

from harness import index, record, table, versus
from harness.cells import Cell, Row, gather
from harness.examples import Examples
from harness.grid import grid, lead

REFERENCE = Path(__file__).parents[2] / "results/reference"


def renamed(one, name):
    """The same run under another name of its method."""
    method = one.identity["method"] | {"name": name}
    return replace(one, id=f"{one.id}.{name}", identity=one.identity | {"method": method})


def with_answers(folder, records, answers):
    """The store of these records; answers: for each, whether its examples were right."""
    store(folder, records)
    for one, right in zip(records, answers, strict=True):
        frame = pd.DataFrame(
            {"id": [f"{n:04}" for n in range(len(right))], "target": 1, "prediction": right.astype(int)}
        )
        frame.to_parquet(folder / one.id / "predictions.validation.parquet")
    return Examples(folder)


def test_real_runs_under_two_names_are_ties():
    held = [one for one in record.read_all(REFERENCE) if one.state == "DONE"]
    assert len(held) >= 15
    for one_name in sorted({one.identity["method"]["name"] for one in held}):
        mine = [one for one in held if one.identity["method"]["name"] == one_name]
        found = grid(gather([*mine, *(renamed(one, "alias") for one in mine)], stale=lambda _: [])[0])
        for task in found.tasks:
            pairs = versus.pairs(found.column(task), None)
            same = [pair for pair in pairs if pair.first.scores == pair.second.scores]
            assert same
            assert all(pair.p == 1 and not pair.separable for pair in same)
        assert not any(row.method == "alias" for row, _ in found.best)


def test_equal_methods_are_seldom_told_apart():
    """Columns of four rows that differ in their seeds alone: a best one in at most 5 % of them (+ 3 standard errors)."""
    rng, columns = np.random.default_rng(3), 300
    wrong = 0
    for _ in range(columns):
        right = rng.binomial(408, 0.85, (4, 5)) / 4.08
        column = [
            Cell(Row("m", "b", f"x{row}", ""), "t", scores=dict(enumerate(right[row])), resolution=100 / 408)
            for row in range(4)
        ]
        wrong += lead(column).best is not None
    assert wrong / columns <= 0.05 + 3 * (0.05 * 0.95 / columns) ** 0.5


def test_examples_are_paired_over(tmp_path):
    """Ten points better on the same examples with every seed; but twelve examples say little of new ones."""
    rng = np.random.default_rng(0)
    for items, separable in ((400, True), (12, False)):
        base = rng.random((3, items)) < 0.6
        better = base | (rng.random((3, items)) < 0.3)
        if items == 12:
            base, better = np.tile(np.arange(12) < 8, (3, 1)), np.tile(np.arange(12) < 9, (3, 1))
        records = [
            made(name, seed=seed, score=100 * float(rows[seed].mean()), kind="regression")
            for name, rows in (("a", better), ("b", base)) for seed in range(3)
        ]  # fmt: skip
        examples = with_answers(tmp_path / str(items), records, [*better, *base])
        [pair] = versus.pairs(gather(records, stale=fresh)[0], examples)
        assert (pair.seeds, pair.items, pair.separable) == (3, items, separable)
        assert pair.found.difference == pytest.approx(100 * (better.mean() - base.mean()))


def test_other_examples_or_none_leave_the_seeds(tmp_path):
    records = [*seeds("a", [90.0, 90.3, 89.7]), *seeds("b", [80.0, 80.5, 79.5])]
    right = [np.ones(408, dtype=bool)] * 5 + [np.ones(7, dtype=bool)]
    [pair] = versus.pairs(gather(records, stale=fresh)[0], with_answers(tmp_path, records, right))
    assert (pair.items, pair.separable) == (0, True)
    [pair] = versus.pairs(gather(records, stale=fresh)[0], Examples(tmp_path / "nowhere"))
    assert (pair.items, pair.seeds) == (0, 3)


def test_scores_that_are_no_mean_over_examples(tmp_path):
    rng = np.random.default_rng(1)
    records = [made(name, seed=seed, score=50.0 + 30 * (name == "a") + seed / 10) for name in "ab" for seed in range(3)]
    for one in records:
        one.science["main"]["metric"] = one.identity["task"]["score"] = "matthews"
    store(tmp_path, records)
    target = rng.integers(0, 2, 200)
    for one in records:
        flips = rng.random(200) < (0.1 if one.identity["method"]["name"] == "a" else 0.4)
        said = np.where(flips, 1 - target, target)
        frame = pd.DataFrame({"id": [f"{n:03}" for n in range(200)], "target": target, "prediction": said})
        frame.to_parquet(tmp_path / one.id / "predictions.validation.parquet")
    [pair] = versus.pairs(gather(records, stale=fresh)[0], Examples(tmp_path))
    assert pair.items == 200
    assert pair.separable


def test_rows_of_one_code_compare_even_if_it_is_stale_and_others_do_not():
    old = {"modules": {"harness.train": "1"}, "differs": ["harness.train"]}
    ahead, behind = [90.0, 90.3, 89.7], [80.0, 80.5, 79.5]
    both = [*seeds("a", ahead, code=old), *seeds("b", behind, code=old)]
    assert len(versus.pairs(gather(both, stale=fresh)[0], None)) == 1
    mixed = [*seeds("a", ahead, code=old), *seeds("b", behind, code={"modules": {"harness.train": "2"}})]
    assert versus.pairs(gather(mixed, stale=fresh)[0], None) == []


def test_a_long_column_is_compared_with_its_best_row_alone():
    column = gather([one for n in range(14) for one in seeds(f"m{n:02}", [80.0 + n, 80.3 + n])], stale=fresh)[0]
    assert len(versus.pairs(column, None)) == 13


def test_a_long_column_gives_the_same_numbers(monkeypatch):
    rng = np.random.default_rng(5)
    rows = [one for n in range(9) for one in seeds(f"m{n}", list(80 + n / 2 + rng.normal(0, 1, 4)))]
    column = gather([*rows, *seeds("tie", [90.0] * 4), *seeds("other", [70.0, 71.0])], stale=fresh)[0]
    few = versus.against_best(column, None)
    monkeypatch.setattr(versus, "MOST_ROWS", 3)
    many = versus.against_best(column, None)
    assert [pair.second.row for pair in many] == [pair.second.row for pair in few]
    assert [pair.p for pair in many] == pytest.approx([pair.p for pair in few])
    assert [pair.found.difference for pair in many] == pytest.approx([pair.found.difference for pair in few])


def test_shown_on_request(tmp_path, capsys):
    held = [*seeds("a", [90.0, 90.3, 89.7]), *seeds("b", [89.9, 90.4, 89.5]), *seeds("c", [70.0, 70.5, 71.0])]
    root = store(tmp_path, held)
    assert table.main(["--root", str(root), "--as-made", "--pairs"]) == 0
    out = capsys.readouterr().out
    assert out.count("≈ |") == 2
    assert "≈: tied for the lead" in out
    assert out.count("| separable |") == 2 and out.count("| tie ") == 1
    assert table.main(["--root", str(store(tmp_path / "one", [made()])), "--pairs"]) == 0
    assert "None: no column has two rows" in capsys.readouterr().out
    assert isinstance(index.bundles(root)[0].one, record.Record)


def test_a_page_with_pairs_and_costs_ends_where_it_ended(capsys):
    assert table.main(["--root", str(REFERENCE), "--as-made", "--pairs", "--costs", "--format", "html"]) == 0
    text = capsys.readouterr().out.strip()
    assert text.count("</html>") == 1 and text.endswith("</html>")
    assert text.count("<table") == 3


def test_csv_is_one_table_a_file(tmp_path, capsys):
    words = ["--root", str(REFERENCE), "--as-made", "--pairs", "--costs"]
    assert table.main([*words, "-o", str(tmp_path / "all.csv")]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.costs.csv", "all.csv", "all.pairs.csv"]
    costs = pd.read_csv(tmp_path / "all.costs.csv").set_index("method")
    assert costs.adapter["bitfit"] == 3712
    assert set(pd.read_csv(tmp_path / "all.pairs.csv").columns) >= {"task", "first", "second", "verdict"}
    assert len(pd.read_csv(tmp_path / "all.csv")) == len(costs)
    assert table.main([*words, "--format", "csv"]) == 2
    assert "give -o FILE.csv: it goes to FILE.pairs.csv" in capsys.readouterr().err
