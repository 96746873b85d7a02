"""Every average and count of the published tables recomputed; exactly these do not follow from their own numbers."""

import itertools
import statistics

import pytest

from harness import doubts, published
from harness.paper import Count

TABLES = {name: published.load(name) for name in published.names()}
AVERAGES = {
    ("adalora_glue", "full"): 88.09625,
    ("adalora_glue", "houlsby_0.61M"): 87.935625,
    ("adalora_glue", "lora_0.33M"): 88.155,
    ("increlora_glue", "increlora_1.33M"): 89.60125,
    ("propetl_glue_multi", "propetl_bn6"): 85.32909,
}
COUNTS = {
    ("adalora_glue", "houlsby_1.22M", "params"): 1_198_848,
    ("adalora_glue", "pfeiffer_1.18M", "params"): 1_189_632,
    ("increlora_glue", "houlsby_1.22M", "params"): 1_198_848,
    ("increlora_glue", "pfeiffer_1.18M", "params"): 1_189_632,
    ("adalora_summarization", "lora_2.20pct", "params"): 2.1292,
    ("adalora_summarization", "adalora_2.20pct", "params"): 2.1292,
    ("adalora_summarization", "lora_1.10pct", "params"): 1.0646,
    ("adalora_summarization", "adalora_1.10pct", "params"): 1.0646,
    ("adalora_summarization", "lora_0.26pct", "params"): 0.2662,
    ("adalora_summarization", "adalora_0.26pct", "params"): 0.2662,
    ("propetl_glue_multi", "propetl_bn64", "params"): 0.1820,
    ("propetl_glue_multi", "propetl_bn6", "params"): 0.0171,
    ("lora_gpt3", "prelayer", "params"): 18_874_368,
}
COMPUTED = {
    "full": 184_423_682, "bitfit": 102_912, "lora_1.33M": 1_327_104, "lora_0.33M": 331_776, "houlsby_0.61M": 608_640,
    "houlsby_0.31M": 313_536, "pfeiffer_0.60M": 599_424, "pfeiffer_0.30M": 304_320, "pfeiffer_1.18M": 1_189_632,
    "houlsby_1.22M": 1_198_848,
}  # fmt: skip


def test_averages_follow_but_for_these():
    found = {(name, row): mean for name, table in TABLES.items() for row, mean in doubts.averages(table).items()}
    assert found == pytest.approx(AVERAGES)
    assert sum(1 for table in TABLES.values() for row in table.rows.values() if row.average) == 37


def test_a_wrong_convention_would_show():
    for row in TABLES["propetl_glue_multi"].rows.values():
        pairs = (("mrpc_acc", "mrpc_f1"), ("qqp_acc", "qqp_f1"), ("stsb_p", "stsb_s"))
        single = [cell.value for key, cell in row.cells.items() if key not in itertools.chain(*pairs)]
        over_tasks = statistics.mean(single + [statistics.mean(row.cells[key].value for key in pair) for pair in pairs])
        assert row.average.value - over_tasks > 1, "the mean over 8 tasks is a point or more lower"


def test_counts_follow_but_for_these():
    found = {(name, *key): computed for name, table in TABLES.items() for key, computed in doubts.counts(table).items()}
    assert found == pytest.approx(COUNTS, rel=1e-3)


def test_counts_without_a_formula_are_these():
    unknown = {(name, row.key) for name, table in TABLES.items() for row in table.rows.values()
               for count in row.counts.values() if doubts.follows(count) is None}  # fmt: skip
    assert unknown == {("lora_gpt3", "full"), ("lora_gpt3", "bitfit"), ("rehearsal_adalora", "adalora_authors")}


def test_the_integers_of_debertav3_base():
    rows = TABLES["adalora_glue"].rows
    assert {key: rows[key].counts["params"].computed for key in COMPUTED} == COMPUTED
    learned = rows["adalora_1.27M"].counts["params"], rows["adalora_0.32M"].counts["params"]
    reach = [(doubts.arithmetic(count.low), doubts.arithmetic(count.high)) for count in learned]
    assert reach == [(884_736, 1_548_288), (221_184, 442_368)]
    own = [row.counts["params"].computed for key, row in TABLES["increlora_glue"].rows.items() if "increlora" in key]
    assert own == [1_327_680, 331_920]


def test_propetl_stored_bits():
    rows = TABLES["propetl_glue_multi"].rows
    bits = [rows[key].counts["bits"].computed for key in ("propetl_bn64", "propetl_bn6")]
    assert bits == pytest.approx([0.01107, 0.00108], abs=5e-6)


def test_values_that_cannot_be_a_mean_of_the_claimed_runs():
    found = {(name, *key): runs for name, table in TABLES.items() for key, runs in doubts.means(table).items()}
    rows = {"adalora_glue": ("full", "pfeiffer_1.18M"), "increlora_glue": ("full", "pfeiffer_1.18M", "increlora_1.33M")}
    expected = {(name, row, "sst2"): 5 for name, keys in rows.items() for row in keys}
    expected |= {(name, "houlsby_0.31M", "mrpc"): 5 for name in rows}
    expected |= {("increlora_glue", "increlora_1.33M", key): 5 for key in ("mrpc", "rte")}
    assert found == expected


def test_the_adalora_table_looks_like_single_runs():
    table = TABLES["adalora_glue"]
    single = {
        key: {row.key for row in table.rows.values() if doubts.possible(row.cells[key].value, column.items, 1)}
        for key, column in table.columns.items() if column.items
    }  # fmt: skip
    assert len(single["rte"]) == 12
    assert set(table.rows) - single["mrpc"] == {"houlsby_0.31M"}
    assert set(table.rows) - single["sst2"] == {"full", "pfeiffer_1.18M", "adalora_0.32M"}


def test_the_counts_behind_increloras_stds():
    rows = TABLES["increlora_glue"].rows
    for row, column, items, counts in (
        ("increlora_1.33M", "rte", 277, [244, 244, 245]),
        ("increlora_1.33M", "mrpc", 408, [369, 371, 374]),
        ("increlora_0.34M", "rte", 277, [244, 245, 245, 246, 246]),
        ("increlora_0.34M", "sst2", 872, [838, 839, 839, 840, 841]),
    ):
        scores, cell = [100 * count / items for count in counts], rows[row].cells[column]
        assert (round(statistics.mean(scores), 2), round(statistics.stdev(scores), 2)) == (cell.value, cell.std)
        assert cell.setting.seeds == len(counts)


def test_copied_rows_are_copies():
    own, copied = TABLES["adalora_glue"], TABLES["increlora_glue"]
    for key in own.rows:
        for column in copied.columns:
            assert own.rows[key].cells[column].value == copied.rows[key].cells[column].value


def test_remarks_name_them_all():
    text = "\n".join(doubts.remarks(TABLES["adalora_glue"]))
    for words in ("lora_0.33M: the average of its cells is 88.1550, printed is 88.15", "computed 1,198,848",
                  "SST-2: no mean of 5 runs over 872 examples: full, pfeiffer_1.18M"):  # fmt: skip
        assert words in text


def test_rounding_is_half_up():
    assert str(doubts.rounded(88.155, 2)) == "88.16"
    assert str(doubts.rounded(0.125, 2)) == "0.13"
    with pytest.raises(ValueError, match="no count"):
        doubts.follows(Count("many", formula="1"))


def test_possible_means():
    assert doubts.possible(88.09, 277, 1)
    assert not doubts.possible(88.10, 277, 1)
    assert doubts.possible(88.16, 277, 5)
    assert not doubts.possible(88.13, 277, 5)
