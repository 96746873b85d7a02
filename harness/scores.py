"""The arithmetic of the metrics, on arrays; 0.0 where a score is not defined."""

from __future__ import annotations

import re

import numpy as np
from scipy.stats import rankdata


def lines(text: str) -> str:
    """A text with a line for each sentence, as far as punctuation tells."""
    return re.sub(r"(?<=[.!?])\s+", "\n", text)


def accuracy(predictions: np.ndarray, references: np.ndarray) -> float:
    """Share of equal entries of two arrays [rows]."""
    return float(np.mean(predictions == references))


def f1(predictions: np.ndarray, references: np.ndarray, label: int = 1) -> float:
    """F1 of one class from arrays [rows] of class indices; 0.0 where neither has it."""
    claimed, true = predictions == label, references == label
    total = int(claimed.sum() + true.sum())
    return 2 * int((claimed & true).sum()) / total if total else 0.0


def opposed(predictions: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Class indices 0 and 1 with every -1 (no class) made the wrong one, so that F1 counts it either way."""
    return np.where(predictions < 0, 1 - references, predictions)


def matthews(predictions: np.ndarray, references: np.ndarray) -> float:
    """Matthews' correlation of arrays [rows] of class indices (Gorodkin's form for any number); 0.0 with one class."""
    classes = np.union1d(predictions, references)
    claimed = np.array([(predictions == label).sum() for label in classes], dtype=float)
    true = np.array([(references == label).sum() for label in classes], dtype=float)
    rows = float(len(references))
    spread = np.sqrt(rows**2 - claimed @ claimed) * np.sqrt(rows**2 - true @ true)
    return float((float((predictions == references).sum()) * rows - claimed @ true) / spread) if spread else 0.0


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
