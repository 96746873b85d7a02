"""The five verdicts, what a cell of ours is unlike in, and that unlike runs are never averaged."""

from dataclasses import replace

import numpy as np
import pytest
from made import fresh, made
from twins import runs

from harness import published, verdict
from harness.compare import AVERAGE, compare, rows
from harness.match import Ours
from harness.record import Unreadable

GLUE = published.load("adalora_glue")
INCRE = published.load("increlora_glue")


def entry(records, row="lora_1.33M", column="rte", table=GLUE, **options):
    """One cell of the comparison of these records."""
    found = compare(table, records, stale=fresh, **options)
    return next(one for one in found.entries if (one.row.key, one.column) == (row, column))


def judged(scores, *, column="rte", row="lora_1.33M", resolution=0.0, table=GLUE, **setting):
    cell = table.rows[row].cells[column]
    cell = replace(cell, setting=replace(cell.setting, **setting))
    return verdict.judge(Ours(scores=dict(enumerate(scores)), resolution=resolution), cell)


def test_reproduced():
    found = judged([85.1, 85.2, 85.3, 85.2])
    assert found.word == verdict.REPRODUCED
    assert found.difference == pytest.approx(0)
    assert found.smallest_margin < 0.2
    assert found.inside


def test_differs():
    found = judged([81.1, 81.2, 81.3, 81.2])
    assert (found.word, found.inside) == (verdict.DIFFERS, False)
    assert found.smallest_margin > 4


def test_under_powered_says_what_would_settle_it():
    found = judged([84.2, 86.4, 85.2])
    assert found.word == verdict.UNDER_POWERED
    assert found.smallest_margin > 1
    assert 3 < found.more_seeds < 30
    beyond = judged([83.0, 85.0, 83.5])
    assert beyond.word == verdict.UNDER_POWERED
    assert beyond.more_seeds > 3
    assert judged([84.2, 85.2, 86.2], margin=1e-3).more_seeds is None


def test_one_seed_proves_nothing():
    found = judged([85.2])
    assert (found.word, found.more_seeds, found.inside) == (verdict.UNDER_POWERED, 1, None)


def test_seeds_that_tie_do_not_prove_equality():
    assert judged([85.2, 85.2], margin=0.1).word == verdict.REPRODUCED
    assert judged([85.2, 85.2], margin=0.1, resolution=100 / 277).word == verdict.UNDER_POWERED


def test_a_published_std_counts():
    ours = [90.9, 91.3, 91.0, 91.2, 91.1]
    exact = judged(ours, column="mrpc", row="increlora_1.33M", table=INCRE, seeds_inferred=0, seeds_claimed=0)
    known = judged(ours, column="mrpc", row="increlora_1.33M", table=INCRE)
    assert exact.smallest_margin < known.smallest_margin


def test_the_prediction_interval_is_of_the_papers_statistic():
    scores = [84.9, 85.2, 85.5]
    one, mean, median = (judged(scores, statistic=name).predicted for name in ("one run", "mean", "median"))
    assert mean.half_width < median.half_width < one.half_width
    assert judged(scores, statistic="unknown").predicted == one


def test_the_best_of_several_does_not_compare():
    best = replace(GLUE.rows["lora_1.33M"].cells["rte"].setting, statistic="best")
    row = GLUE.rows["lora_1.33M"]
    row = replace(row, cells={key: replace(cell, setting=best) for key, cell in row.cells.items()})
    found = entry(runs(GLUE, ["lora_1.33M"]), table=replace(GLUE, rows={row.key: row}))
    assert found.verdict.why == ("statistic: the paper prints the best of several runs",)
    mean = entry(runs(GLUE, ["lora_1.33M"])).verdict.predicted
    assert found.verdict.predicted.low > mean.low, "the best of five runs, not one of them"
    assert found.verdict.inside is not None


def test_false_alarms_stay_at_the_level():
    rng, words = np.random.default_rng(0), []
    for _ in range(400):  # the truth lies exactly on the margin: each of both one-sided errors in at most 5 %
        words.append(judged(list(85.2 + 1 + rng.normal(0, 0.4, 5)), column="rte").word)
    assert words.count(verdict.REPRODUCED) / 400 < 0.08
    assert words.count(verdict.DIFFERS) / 400 < 0.05


def test_not_run_and_failed():
    assert entry([]).verdict == verdict.Verdict(verdict.NOT_RUN)
    failed = replace(runs(GLUE, ["lora_1.33M"], seeds=1)[0], state="FAILED", science={}, error="loss is NaN")
    assert entry([failed], column="mnli_m").verdict.why == ("FAILED 1",)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model": "minilm"}, "backbone: ours minilm, paper deberta_v3_base"),
        ({"remarks": ["subset: train has 2000 rows, the official split 104743"]}, "data: subset: train has 2000 rows"),
        ({"split": "test"}, "split: ours test and validation, paper mismatched"),
        ({"code": {"differs": ["torch"]}}, "stale: made by other torch"),
    ],
)
def test_unlike_runs_are_shown_and_not_judged(change, says):
    found = entry(runs(GLUE, ["lora_1.33M"], **change), column="mnli_mm" if "split" in change else "rte")
    assert found.verdict.word == verdict.NOT_COMPARABLE
    assert any(why.startswith(says) for why in found.verdict.why)
    assert bool(found.ours.scores) == ("split" not in change)


def test_stale_on_request():
    found = entry(runs(GLUE, ["lora_1.33M"], code={"differs": ["torch"]}), include_stale=True)
    assert found.verdict.word == verdict.REPRODUCED
    assert found.ours.cell.stale


def test_selection_and_scheme_and_metric():
    last = entry(runs(INCRE, ["increlora_1.33M"]), "increlora_1.33M", table=INCRE)
    assert last.verdict.why == ("selection: ours last checkpoint, paper best",)
    best = entry(runs(INCRE, ["increlora_1.33M"], select="best"), "increlora_1.33M", table=INCRE)
    assert best.verdict.word != verdict.NOT_COMPARABLE
    t5 = published.load("propetl_glue_single")
    ours = runs(t5, ["adapter_single"], select="best")
    assert entry(ours, "adapter_single", "cola", t5).verdict.word == verdict.REPRODUCED
    official = [
        replace(one, identity=one.identity | {"task": one.identity["task"] | {"splits": "official"}}) for one in ours
    ]
    assert entry(official, "adapter_single", "cola", t5).verdict.why == (
        "data: splits ours official, paper propetl_t5",
    )
    bare = made("lora", "glue/qqp", model="deberta_v3_base")
    bare = replace(bare, identity=bare.identity | {"budget": {"name": "1.2M"}})
    assert entry([bare], column="qqp_f1").verdict.why == ("metric: ours accuracy, paper f1",)


def test_random_weights_do_not_compare():
    ours = runs(GLUE, ["lora_1.33M"])
    ours = [replace(one, identity=one.identity | {"model": one.identity["model"] | {"init": "random"}}) for one in ours]
    assert entry(ours).verdict.why == ("backbone: ours has random weights",)


def test_unlike_runs_are_never_averaged():
    ours = [*runs(GLUE, ["lora_1.33M"]), *runs(GLUE, ["lora_1.33M"], learning_rate=5e-4)]
    found = entry(ours)
    assert found.verdict.word == verdict.NOT_COMPARABLE
    assert found.ours.scores == {}
    assert found.verdict.why[0] == (
        "2 unlike configurations (train.learning_rate=0.0005 | train.learning_rate=0.001); choose one with --where"
    )


def test_one_comparable_configuration_among_others_counts():
    ours = [*runs(GLUE, ["lora_1.33M"]), *runs(GLUE, ["lora_1.33M"], learning_rate=5e-4, remarks=["subset: of it"])]
    assert entry(ours).verdict.word == verdict.REPRODUCED


def test_where_tells_data_types_apart():
    table = published.load("qlora_t5_superni")
    ours = runs(table, ["qlora_nf4_dq"], seeds=3, spread=0.05)
    found = compare(table, ours, stale=fresh)
    filled = {one.row.key for one in found.entries if one.ours.scores}
    assert filled == {"qlora_nf4_dq"}
    assert entry(runs(table, ["bf16"]), "bf16_again", "t5_11b", table).verdict.why == (
        "the paper prints no number here",
    )


def test_the_average_needs_every_column():
    ours = runs(GLUE, ["lora_1.33M"], spread=0.1)
    found = entry(ours, column=AVERAGE)
    assert found.verdict.word == verdict.REPRODUCED
    assert len(found.ours.scores) == 5
    without = [one for one in ours if one.identity["task"]["name"] != "glue/rte"]
    assert entry(without, column=AVERAGE).verdict.why == ("lacks RTE",)
    subset = [*without, *[replace(o, remarks=["subset: x"]) for o in ours if o.identity["task"]["name"] == "glue/rte"]]
    assert entry(subset, column=AVERAGE).verdict.why == ("data: subset: x",)


def test_bold_needs_separable_rows():
    ours = [*runs(GLUE, ["lora_1.33M", "adalora_1.27M"], shift={"rte": 0})]
    found = {(one.row.key, one.column) for one in compare(GLUE, ours, stale=fresh).entries if one.best}
    assert ("adalora_1.27M", "rte") in found
    assert ("adalora_1.27M", "mnli_m") not in found


def test_the_same_method_under_two_names_is_never_separable():
    ours = runs(GLUE, ["lora_1.33M"])
    method = {"method": ours[0].identity["method"] | {"name": "adalora"}}
    twin = [replace(one, id=f"{one.id}b", identity=one.identity | method) for one in ours]
    assert not any(one.best for one in compare(GLUE, [*ours, *twin], stale=fresh).entries)


def test_records_that_cannot_count_are_named(tmp_path):
    broken = replace(made(), science={"main": {"score": 1.0}})
    found = compare(GLUE, [Unreadable(tmp_path, "x/record.json is cut"), broken], stale=fresh)
    assert found.remarks[0] == "unreadable: x/record.json is cut"
    assert found.remarks[1].startswith("unusable: ")


@pytest.mark.parametrize(
    ("scores", "says"),
    [
        ({"validation": {"accuracy": float("nan")}}, "it has nan, no number in percent, as accuracy on validation"),
        ({"validation": {"accuracy": 140.0}}, "it has 140.0, no number"),
        ({"validation": {"accuracy": "x"}}, "it has 'x', no number"),
        ({"validation": {}}, "it lacks accuracy on validation"),
    ],
)
def test_one_bad_score_leaves_the_other_runs(scores, says):
    ours = [one for one in runs(GLUE, ["lora_1.33M"]) if one.identity["task"]["name"] == "glue/rte"]
    bad = replace(ours[0], science=ours[0].science | {"scores": scores})
    found = compare(GLUE, [bad, *ours[1:]], stale=fresh)
    cell = next(one for one in found.entries if (one.row.key, one.column) == ("lora_1.33M", "rte"))
    assert len(cell.ours.scores) == len(ours) - 1
    assert says in next(remark for remark in found.remarks if remark.startswith(f"unusable: {bad.id}"))


@pytest.mark.parametrize("score", [140.0, -140.0, float("inf")])
def test_impossible_main_scores_do_not_count(score):
    ours = [one for one in runs(GLUE, ["lora_1.33M"]) if one.identity["task"]["name"] == "glue/rte"]
    bad = replace(ours[0], science=ours[0].science | {"main": ours[0].science["main"] | {"score": score}})
    cell = entry([bad, *ours[1:]])
    assert len(cell.ours.scores) == len(ours) - 1


def test_rows_hold_everything():
    frame = rows(compare(GLUE, runs(GLUE, ["lora_1.33M"]), stale=fresh))
    assert len(frame) == 12 * 11
    assert frame.verdict.value_counts().to_dict()["not run"] == 11 * 11
    assert frame.set_index(["row", "column"]).loc[("lora_1.33M", "rte"), "params_computed"] == 1_327_104
