"""The metrics of the tables, as `evaluate` modules that live here: nothing is fetched, nothing is left on disk.

Every score is a percentage (x 100). Where a score is not defined (a correlation with predictions that are constant or
not finite, F1 without a positive, Matthews with one class only) it is 0.0: such a model has learnt nothing, and a NaN
must not reach a record.
`harness.config.METRICS` has the names and the scores that each yields.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

import evaluate
import numpy as np
from datasets import Features, Value
from scipy.stats import rankdata

from harness.config import METRICS
from harness.errors import ConfigError, unknown


def compute(metric: str, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
    """Scores of a split in percent.

    Args:
        metric: a name of `METRICS`.
        predictions: class indices, scores or texts, one a row.
        references: the same, from the data.

    Raises:
        ConfigError: no metric of that name.
        ValueError: no rows, or not as many predictions as references.
    """
    if metric not in METRICS:
        raise ConfigError(unknown("metric", metric, METRICS))
    if len(predictions) != len(references) or not len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references")
    # `evaluate` makes a folder for every metric, even when it keeps the rows in memory.
    with tempfile.TemporaryDirectory(prefix="harness-metric-") as folder:
        module = CLASSES[metric](cache_dir=folder, keep_in_memory=True)
        fractions = module.compute(predictions=predictions, references=references)
    return {name: 100.0 * float(fractions[name]) for name in METRICS[metric]}


class _Metric(evaluate.Metric):
    """What every metric tells `evaluate` of itself; `value` is the type of a prediction."""

    value = "int64"

    def _info(self) -> evaluate.MetricInfo:
        features = Features({"predictions": Value(self.value), "references": Value(self.value)})
        return evaluate.MetricInfo(description=type(self).__doc__, citation="", features=features)


class Accuracy(_Metric):
    """Share of predictions that equal their reference."""

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        return {"accuracy": accuracy(np.asarray(predictions), np.asarray(references))}


class AccuracyF1(_Metric):
    """Accuracy, F1 of class 1, and their mean: what GLUE reports of MRPC and QQP."""

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        found, true = np.asarray(predictions), np.asarray(references)
        scores = {"accuracy": accuracy(found, true), "f1": f1(found, true)}
        return scores | {"accuracy_f1": (scores["accuracy"] + scores["f1"]) / 2}


class Matthews(_Metric):
    """Matthews' correlation of two classes (1975), phi; GLUE's score of CoLA."""

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        # Of two binary variables, phi is Pearson's correlation.
        return {"matthews": pearson(np.asarray(predictions, dtype=float), np.asarray(references, dtype=float))}


class PearsonSpearman(_Metric):
    """Pearson's and Spearman's correlation (ties share their mean rank) and their mean: GLUE's score of STS-B."""

    value = "float64"

    def _compute(self, predictions: list[float], references: list[float]) -> dict[str, float]:
        found, true = np.asarray(predictions), np.asarray(references)
        scores = {"pearson": pearson(found, true), "spearman": spearman(found, true)}
        return scores | {"pearson_spearman": (scores["pearson"] + scores["spearman"]) / 2}


class Rouge(_Metric):
    """ROUGE-1, -2, -L and the summary-level -L (Lin, 2004) by `rouge_score`, stemmed: mean F over the rows.

    Sentences are what line breaks separate and nothing else (no sentence splitter is fetched), hence the last name,
    `rougeLsum_newline`: of a text on one line it equals rougeL.
    """

    value = "string"

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        from rouge_score.rouge_scorer import RougeScorer

        scorer = RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"], use_stemmer=True)
        rows = [scorer.score(true, found) for found, true in zip(predictions, references, strict=True)]
        means = {name: float(np.mean([row[name].fmeasure for row in rows])) for name in rows[0]}
        return means | {"rougeLsum_newline": means["rougeLsum"]}


def accuracy(predictions: np.ndarray, references: np.ndarray) -> float:
    """Share of equal entries of two arrays [rows]."""
    return float(np.mean(predictions == references))


def f1(predictions: np.ndarray, references: np.ndarray) -> float:
    """F1 of class 1 from arrays [rows] of class indices; 0.0 where neither has a 1."""
    claimed, true = predictions == 1, references == 1
    total = int(claimed.sum() + true.sum())
    return 2 * int((claimed & true).sum()) / total if total else 0.0


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's correlation of two arrays [rows]; 0.0 where one is constant or not finite throughout."""
    if not (np.isfinite(x).all() and np.isfinite(y).all()) or x.min() == x.max() or y.min() == y.max():
        return 0.0
    x, y = x - x.mean(), y - y.mean()
    return float(np.clip((x / np.linalg.norm(x)) @ (y / np.linalg.norm(y)), -1.0, 1.0))


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's correlation of two arrays [rows]: Pearson's of the ranks; 0.0 where `pearson` says so."""
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return 0.0
    return pearson(rankdata(x), rankdata(y))


CLASSES: dict[str, type[_Metric]] = {
    "accuracy": Accuracy,
    "accuracy_f1": AccuracyF1,
    "matthews": Matthews,
    "pearson_spearman": PearsonSpearman,
    "rouge": Rouge,
}
