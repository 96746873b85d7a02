"""Every metric against an independent implementation and cases worked by hand; no files, no network, no NaN."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from rouge_score import rouge_scorer
from scipy import stats
from sklearn import metrics as sklearn

from harness.errors import ConfigError
from harness.metrics import CLASSES, compute
from harness.schema import METRICS

RANDOM = np.random.default_rng(0)
CASES = [(RANDOM.integers(0, 2, rows).tolist(), RANDOM.integers(0, 2, rows).tolist()) for rows in (7, 50, 277, 1043)]
SAMPLES = {
    "accuracy": ([0, 1], [0, 0]),
    "accuracy_f1": ([0, 1], [0, 0]),
    "matthews": ([0, 1], [0, 0]),
    "pearson_spearman": ([0.5, 1.5], [1.0, 2.0]),
    "rouge": (["a cat"], ["a dog"]),
    "accuracy_macro_f1": ([0, 1, 2], [0, 0, 2]),
    "choice": ([0.5, 1.5], [[1.0], [0.0]], ["q", "q"]),
    "multirc": ([0, 1], [0, 0], ["q", "q"]),
    "record": ([0.5, 1.5], [[1.0, 1.0], [0.5, 0.0]], ["q", "q"]),
    "record_text": (["a cat"], [["a dog", "the cat"]]),
    "superni": (["a cat"], [["a dog", "the cat"]]),
}


@pytest.mark.parametrize(("predictions", "references"), CASES)
def test_classification_agrees_with_scikit_learn(predictions, references):
    scores = compute("accuracy_f1", predictions, references)
    accuracy, f1 = sklearn.accuracy_score(references, predictions), sklearn.f1_score(references, predictions)
    assert scores["accuracy"] == pytest.approx(100 * accuracy, abs=1e-9)
    assert scores["f1"] == pytest.approx(100 * f1, abs=1e-9)
    assert scores["accuracy_f1"] == pytest.approx(50 * (accuracy + f1), abs=1e-9)
    assert compute("accuracy", predictions, references) == {"accuracy": scores["accuracy"]}
    matthews = sklearn.matthews_corrcoef(references, predictions)
    assert compute("matthews", predictions, references)["matthews"] == pytest.approx(100 * matthews, abs=1e-9)


@pytest.mark.parametrize("rows", [3, 40, 1500])
def test_correlations_agree_with_scipy_also_with_ties(rows):
    references = np.round(RANDOM.uniform(0, 5, rows), 1)
    predictions = np.round(references + RANDOM.normal(0, 1, rows), 1).astype(np.float32).tolist()
    scores = compute("pearson_spearman", predictions, references.tolist())
    pearson = stats.pearsonr(predictions, references).statistic
    spearman = stats.spearmanr(predictions, references).statistic
    assert scores["pearson"] == pytest.approx(100 * pearson, abs=1e-9)
    assert scores["spearman"] == pytest.approx(100 * spearman, abs=1e-9)
    assert scores["pearson_spearman"] == pytest.approx(50 * (pearson + spearman), abs=1e-9)


def test_cases_worked_by_hand():
    # Two true positives, one false positive, one false negative, no true negative.
    assert compute("accuracy_f1", [1, 1, 1, 0], [1, 1, 0, 1]) == pytest.approx(
        {"accuracy": 50.0, "f1": 100 * 4 / 6, "accuracy_f1": (50 + 100 * 4 / 6) / 2}
    )
    # (tp * tn - fp * fn) / sqrt(...) = (0 - 1) / sqrt(3 * 3 * 1 * 1)
    assert compute("matthews", [1, 1, 1, 0], [1, 1, 0, 1])["matthews"] == pytest.approx(-100 / 3)
    assert compute("pearson_spearman", [1.0, 2.0, 9.0], [1.0, 2.0, 3.0])["spearman"] == pytest.approx(100.0)
    assert compute("accuracy", [2, 1, 0], [2, 2, 0])["accuracy"] == pytest.approx(200 / 3)


@pytest.mark.parametrize(
    ("metric", "predictions", "references", "zero"),
    [
        ("matthews", [1, 1, 1], [1, 0, 1], "matthews"),
        ("matthews", [1, 0, 1], [1, 1, 1], "matthews"),
        ("accuracy_f1", [0, 0], [0, 0], "f1"),
        ("pearson_spearman", [0.1, 0.1, 0.1], [1.0, 2.0, 3.0], "pearson_spearman"),
        ("pearson_spearman", [float("nan"), 1.0], [1.0, 2.0], "pearson_spearman"),
        ("pearson_spearman", [float("inf"), 1.0], [1.0, 2.0], "spearman"),
        ("pearson_spearman", [2.0], [1.0], "pearson"),
        ("rouge", ["", ""], ["a cat", "a dog"], "rougeLsum_newline"),
        ("rouge", ["."], ["a cat"], "rouge1"),
        ("superni", ["", "."], [["a cat"], ["no", "yes"]], "rougeL"),
        ("record_text", ["", " ", "the"], [["Ann"], ["Bo", "Al"], ["Oz"]], "f1_em"),
        ("accuracy_macro_f1", [-1, -1], [0, 2], "macro_f1"),
    ],
)
def test_what_is_not_defined_is_zero(metric, predictions, references, zero):
    scores = compute(metric, predictions, references)
    assert scores[zero] == 0.0
    assert all(math.isfinite(score) for score in scores.values())


def test_rouge_agrees_with_rouge_score():
    words = ["the", "cat", "cats", "sat", "sitting", "on", "a", "mat", "near", "dogs", "and", "slept", "."]
    rng = random.Random(0)
    texts = [" ".join(rng.choices(words, k=rng.randint(1, 20))) for _ in range(60)]
    predictions, references = [text.replace(". ", ".\n") for text in texts[:30]], texts[30:]
    names = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    scorer = rouge_scorer.RougeScorer(names, use_stemmer=True)
    scores = compute("rouge", predictions, references)
    for name in names:
        rows = [scorer.score(r, p)[name].fmeasure for r, p in zip(references, predictions, strict=True)]
        assert scores[name.replace("Lsum", "Lsum_newline")] == pytest.approx(100 * sum(rows) / len(rows), abs=1e-9)


def test_rouge_worked_by_hand():
    scores = compute("rouge", ["the cats sat"], ["the cat sat down"])
    # Stemmed, 3 of 3 and of 4 words match, and 2 of 2 and of 3 pairs; F = 2 * matches / (3 + 4), (2 + 3).
    whole = dict.fromkeys(("rouge1", "rougeL", "rougeLsum_newline", "rougeLsum_punctuation"), 600 / 7)
    assert scores == pytest.approx(whole | {"rouge2": 80.0})
    # Line breaks alone separate sentences: their order matters for rougeL only.
    swapped = compute("rouge", ["dogs slept\nthe cat sat"], ["the cat sat\ndogs slept"])
    assert swapped["rougeLsum_newline"] == pytest.approx(100.0)
    assert swapped["rougeL"] == pytest.approx(60.0)
    # The other name splits after `.`, `!` and `?` too.
    stopped = compute("rouge", ["Dogs slept. The cat sat."], ["The cat sat. Dogs slept."])
    assert stopped["rougeLsum_punctuation"] == pytest.approx(100.0)
    assert stopped["rougeLsum_newline"] == stopped["rougeL"] == pytest.approx(60.0)


def test_names_and_scores_are_those_of_the_schema():
    single = METRICS.keys() - {"multi"}  # which is a mean of others: tests/harness/test_mixture.py
    assert CLASSES.keys() == SAMPLES.keys() == single
    for metric, sample in SAMPLES.items():
        assert tuple(compute(metric, *sample)) == METRICS[metric]


def test_one_class_alone():
    assert compute("accuracy_macro_f1", [1, 1], [1, 1]) == dict.fromkeys(METRICS["accuracy_macro_f1"], 100.0)
    # A class that is predicted and never true counts in the mean, as it does for scikit-learn.
    assert compute("accuracy_macro_f1", [1, 1, 0], [1, 1, 1])["macro_f1"] == pytest.approx(40.0)
    assert sklearn.f1_score([1, 1, 1], [1, 1, 0], average="macro") == pytest.approx(0.4)
    # No true positive anywhere, and none claimed: every question right, F1 not defined.
    assert compute("multirc", [0, 0], [0, 0], ["a", "b"]) == {"f1a": 0.0, "em": 100.0, "f1a_em": 50.0}


@pytest.mark.parametrize(("found", "true"), CASES)
def test_multirc_agrees_with_scikit_learn(found, true):
    groups = [str(at // 3) for at in range(len(true))]
    scores = compute("multirc", found, true, groups)
    assert scores["f1a"] == pytest.approx(100 * sklearn.f1_score(true, found), abs=1e-9)
    questions = [[*zip(found[at : at + 3], true[at : at + 3], strict=True)] for at in range(0, len(true), 3)]
    right = [all(ours == theirs for ours, theirs in answers) for answers in questions]
    assert scores["em"] == pytest.approx(100 * sum(right) / len(right), abs=1e-9)


@pytest.mark.parametrize("rows", [5, 56, 400])
def test_three_classes_agree_with_scikit_learn(rows):
    found, true = RANDOM.integers(0, 3, rows).tolist(), RANDOM.integers(0, 3, rows).tolist()
    scores = compute("accuracy_macro_f1", found, true)
    assert scores["macro_f1"] == pytest.approx(100 * sklearn.f1_score(true, found, average="macro"), abs=1e-9)
    assert scores["accuracy"] == pytest.approx(100 * sklearn.accuracy_score(true, found), abs=1e-9)
    mean = (scores["macro_f1"] + scores["accuracy"]) / 2
    assert scores["accuracy_macro_f1"] == pytest.approx(mean)
    found[0] = -1
    expected = sklearn.f1_score(true, found, average="macro", labels=sorted({*found, *true} - {-1}))
    assert compute("accuracy_macro_f1", found, true)["macro_f1"] == pytest.approx(100 * expected, abs=1e-9)
    assert compute("matthews", found, true)["matthews"] == pytest.approx(100 * sklearn.matthews_corrcoef(true, found))


def test_an_answer_that_says_no_class_is_wrong_in_every_score():
    # For F1 it is the other class: one more missed positive, one more false alarm.
    assert compute("accuracy_f1", [1, -1, -1], [1, 1, 0]) == compute("accuracy_f1", [1, 0, 1], [1, 1, 0])
    assert compute("multirc", [-1, 1], [0, 1], ["a", "b"]) == compute("multirc", [1, 1], [0, 1], ["a", "b"])
    assert compute("matthews", [-1, -1, -1, -1], [1, 0, 1, 0])["matthews"] == 0.0
    assert compute("accuracy", [-1, 2], [1, 2])["accuracy"] == 50.0


def test_multirc_worked_by_hand():
    # Answers of two questions: the first all right, the second with one false alarm and one miss.
    scores = compute("multirc", [1, 0, 1, 0, 0], [1, 0, 0, 1, 0], ["1", "1", "2", "2", "2"])
    assert scores == pytest.approx({"f1a": 100 * 2 / 4, "em": 50.0, "f1a_em": 50.0})
    shuffled = compute("multirc", [1, 1, 0, 0, 0], [0, 1, 1, 0, 0], ["2", "1", "2", "1", "2"])
    assert shuffled == pytest.approx(scores)
    with pytest.raises(ValueError, match="group"):
        compute("multirc", [1], [1])


def test_choices_worked_by_hand():
    # The largest of each group is taken, of equal ones the first; group b is wrong.
    groups, right = ["a", "b", "a", "b", "c", "c"], [[0.0], [1.0], [1.0], [0.0], [1.0], [0.0]]
    assert compute("choice", [-2.0, -1.0, -1.0, 3.0, 0.0, 0.0], right, groups) == pytest.approx({"accuracy": 200 / 3})
    earns = [[1.0, 1.0], [0.5, 0.0], [2 / 3, 0.0], [0.0, 0.0]]
    scores = compute("record", [0.1, 0.0, 4.0, 3.0], earns, ["a", "a", "b", "b"])
    assert scores == pytest.approx({"f1": 100 * (1 + 2 / 3) / 2, "em": 50.0, "f1_em": (500 / 6 + 50) / 2})


def test_generated_answers_worked_by_hand():
    scores = compute("record_text", ["The Rolling Stones!", "John Q. Smith"], [["rolling stones"], ["Smith", "John"]])
    # "john q smith" against "smith": 1 of 3 and 1 of 1 words, F1 = 2 / 4.
    assert scores == pytest.approx({"f1": 75.0, "em": 50.0, "f1_em": 62.5})
    best = compute("superni", ["the cats sat", "no"], [["a dog", "the cat sat down"], ["No."]])
    assert best == pytest.approx({"rougeL": (600 / 7 + 100) / 2, "exact_match": 50.0})


def test_bad_calls_are_refused():
    with pytest.raises(ConfigError, match=r"unknown metric 'matthew'\. Did you mean matthews"):
        compute("matthew", [1], [1])
    with pytest.raises(ValueError, match="2 predictions for 1 references"):
        compute("accuracy", [1, 0], [1])
    with pytest.raises(ValueError, match="0 predictions"):
        compute("accuracy", [], [])


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    home, temporary = tmp_path / "home", tmp_path / "tmp"
    home.mkdir()
    temporary.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", str(home / "metrics"))
    np.random.seed(3)
    torch.manual_seed(3)
    before = (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    for metric, sample in SAMPLES.items():
        compute(metric, *sample)
    assert sorted(tmp_path.rglob("*")) == [home, temporary]
    assert (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before
