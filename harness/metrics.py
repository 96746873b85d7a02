"""The metrics of the tables, as `evaluate` modules that live here: nothing is fetched, nothing is left on disk.

Every score is a percentage (x 100). Where a score is not defined (a correlation with predictions that are constant or
not finite, F1 without a positive, Matthews with one class only) it is 0.0: such a model has learnt nothing, and a NaN
must not reach a record. A class below 0 is a generated answer that says none; it is wrong in every score.
`harness.schema.METRICS` has the names and the scores that each yields.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any, ClassVar

import evaluate
import numpy as np
from datasets import Features, Value

from harness.errors import ConfigError, unknown
from harness.schema import METRICS
from harness.scores import accuracy, f1, lines, matthews, opposed, pearson, spearman
from harness.spans import overlap, same


def compute(
    metric: str, predictions: Sequence[Any], references: Sequence[Any], groups: Sequence[str] | None = None
) -> dict[str, float]:
    """Scores of a split in percent.

    Args:
        metric: a name of `METRICS`.
        predictions: class indices, scores or texts, one a row; for `CHOICES` how right the candidate looks.
        references: the same, from the data; several texts a row, or what choosing the candidate earns, where the
            metric's class says so.
        groups: which rows belong together, for `GROUPED`.

    Raises:
        ConfigError: no metric of that name.
        ValueError: no rows, or not as many predictions as references.
    """
    if metric not in METRICS:
        raise ConfigError(unknown("metric", metric, METRICS))
    if len(predictions) != len(references) or not len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references")
    columns = {"predictions": predictions, "references": references}
    if metric in GROUPED:
        if groups is None:
            raise ValueError(f"metric {metric} needs the group of each row")
        columns["groups"] = groups
    # `evaluate` makes a folder for every metric, even when it keeps the rows in memory.
    with tempfile.TemporaryDirectory(prefix="harness-metric-") as folder:
        module = CLASSES[metric](cache_dir=folder, keep_in_memory=True)
        fractions = module.compute(**columns)
    return {name: 100.0 * float(fractions[name]) for name in METRICS[metric]}


class _Metric(evaluate.Metric):
    """What every metric tells `evaluate` of itself: the type of a prediction and of a reference, and groups if any."""

    value = "int64"
    reference: ClassVar[Any] = None  # as `value`
    grouped = False

    def _info(self) -> evaluate.MetricInfo:
        reference = Value(self.value) if self.reference is None else self.reference
        groups = {"groups": Value("string")} if self.grouped else {}
        features = Features({"predictions": Value(self.value), "references": reference, **groups})
        return evaluate.MetricInfo(description=type(self).__doc__, citation="", features=features)


class Accuracy(_Metric):
    """Share of predictions that equal their reference."""

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        return {"accuracy": accuracy(np.asarray(predictions), np.asarray(references))}


class AccuracyF1(_Metric):
    """Accuracy, F1 of class 1, and their mean: what GLUE reports of MRPC and QQP."""

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        found, true = np.asarray(predictions), np.asarray(references)
        scores = {"accuracy": accuracy(found, true), "f1": f1(opposed(found, true), true)}
        return scores | {"accuracy_f1": (scores["accuracy"] + scores["f1"]) / 2}


class AccuracyMacroF1(_Metric):
    """Accuracy, the mean of every class's F1, and the mean of both: what SuperGLUE reports of CB.

    Classes are those that occur, in the references or among the predictions; -1 (no class) is none.
    """

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        found, true = np.asarray(predictions), np.asarray(references)
        classes = [label for label in np.union1d(found, true) if label >= 0]
        scores = {"accuracy": accuracy(found, true)}
        scores["macro_f1"] = float(np.mean([f1(found, true, label) for label in classes]))
        return scores | {"accuracy_macro_f1": (scores["accuracy"] + scores["macro_f1"]) / 2}


class MultiRC(_Metric):
    """F1 of class 1 over all answers, and the share of questions with every answer right (Khashabi et al., 2018)."""

    grouped = True

    def _compute(self, predictions: list[int], references: list[int], groups: list[str]) -> dict[str, float]:
        found, true = np.asarray(predictions), np.asarray(references)
        wrong = {group for group, right in zip(groups, found == true, strict=True) if not right}
        scores = {"f1a": f1(opposed(found, true), true), "em": 1 - len(wrong) / len(set(groups))}
        return scores | {"f1a_em": (scores["f1a"] + scores["em"]) / 2}


class Choice(_Metric):
    """Of each group the candidate that looks rightest (the first of equal ones); the share of right ones: COPA.

    A prediction is how right a candidate looks, a reference has what choosing it earns.
    """

    value = "float64"
    reference: ClassVar[Any] = [Value("float64")]
    grouped = True
    names: tuple[str, ...] = ("accuracy",)

    def _compute(self, predictions: list[float], references: list[list[float]], groups: list[str]) -> dict[str, float]:
        best: dict[str, int] = {}
        for row, group in enumerate(groups):
            if group not in best or predictions[row] > predictions[best[group]]:
                best[group] = row
        means = np.mean([references[row] for row in best.values()], axis=0)
        return {name: float(mean) for name, mean in zip(self.names, means, strict=True)}


class Record(Choice):
    """The same for ReCoRD: F1 and exact match that the chosen candidates earn, and their mean."""

    names = ("f1", "em")

    def _compute(self, predictions: list[float], references: list[list[float]], groups: list[str]) -> dict[str, float]:
        scores = super()._compute(predictions, references, groups)
        return scores | {"f1_em": (scores["f1"] + scores["em"]) / 2}


class RecordText(_Metric):
    """F1 and exact match of generated answers, each against the best of its references: ReCoRD as text to text."""

    value = "string"
    reference: ClassVar[Any] = [Value("string")]

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        rows = list(zip(predictions, references, strict=True))
        scores = {
            "f1": float(np.mean([max(overlap(found, one) for one in true) for found, true in rows])),
            "em": float(np.mean([any(same(found, one) for one in true) for found, true in rows])),
        }
        return scores | {"f1_em": (scores["f1"] + scores["em"]) / 2}


class Matthews(_Metric):
    """Matthews' correlation (1975), for two classes phi; GLUE's score of CoLA. No class is a third one."""

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        return {"matthews": matthews(np.asarray(predictions), np.asarray(references))}


class PearsonSpearman(_Metric):
    """Pearson's and Spearman's correlation (ties share their mean rank) and their mean: GLUE's score of STS-B."""

    value = "float64"

    def _compute(self, predictions: list[float], references: list[float]) -> dict[str, float]:
        found, true = np.asarray(predictions), np.asarray(references)
        scores = {"pearson": pearson(found, true), "spearman": spearman(found, true)}
        return scores | {"pearson_spearman": (scores["pearson"] + scores["spearman"]) / 2}


class Rouge(_Metric):
    """ROUGE-1, -2, -L and the summary-level -L (Lin, 2004) by `rouge_score`, stemmed: mean F over the rows.

    The summary-level score depends on what a sentence is, hence two names (no splitter is fetched):
    `rougeLsum_newline`, line breaks and nothing else separate (of a text on one line it equals rougeL), and
    `rougeLsum_punctuation`, line breaks and the space after `.`, `!` or `?` do.
    """

    value = "string"

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        from rouge_score.rouge_scorer import RougeScorer

        plain = RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"], use_stemmer=True)
        split = RougeScorer(["rougeLsum"], use_stemmer=True)
        rows = []
        for found, true in zip(predictions, references, strict=True):
            row = {name: score.fmeasure for name, score in plain.score(true, found).items()}
            row["rougeLsum_newline"] = row["rougeLsum"]
            row["rougeLsum_punctuation"] = split.score(lines(true), lines(found))["rougeLsum"].fmeasure
            rows.append(row)
        return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


class SuperNI(_Metric):
    """ROUGE-L, stemmed, against the best reference of each instance, mean over instances: Super-NaturalInstructions.

    `exact_match` compares without case, punctuation and articles.
    """

    value = "string"
    reference: ClassVar[Any] = [Value("string")]

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        from rouge_score.rouge_scorer import RougeScorer

        scorer = RougeScorer(["rougeL"], use_stemmer=True)
        best = [
            max(scorer.score(one, found)["rougeL"].fmeasure for one in true)
            for found, true in zip(predictions, references, strict=True)
        ]
        exact = [any(same(found, one) for one in true) for found, true in zip(predictions, references, strict=True)]
        return {"rougeL": float(np.mean(best)), "exact_match": float(np.mean(exact))}


CLASSES: dict[str, type[_Metric]] = {
    "accuracy": Accuracy,
    "accuracy_f1": AccuracyF1,
    "accuracy_macro_f1": AccuracyMacroF1,
    "choice": Choice,
    "matthews": Matthews,
    "multirc": MultiRC,
    "pearson_spearman": PearsonSpearman,
    "record": Record,
    "record_text": RecordText,
    "rouge": Rouge,
    "superni": SuperNI,
}
GROUPED = tuple(name for name, kind in CLASSES.items() if kind.grouped)
CHOICES = ("choice", "record")  # predicted by how right each candidate looks, not by its class
