"""Answers as SQuAD compares them (Rajpurkar et al., 2016): lower case, without punctuation and articles.

ReCoRD, SuperGLUE and the text-to-text papers use the same comparison.
"""

from __future__ import annotations

import re
import string
from collections import Counter

PUNCTUATION = str.maketrans("", "", string.punctuation)


def normal(text: str) -> str:
    """A text as it is compared."""
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(PUNCTUATION)).split())


def same(found: str, true: str) -> bool:
    """Exact match."""
    return normal(found) == normal(true)


def overlap(found: str, true: str) -> float:
    """F1 of the two texts' words, from 0 to 1."""
    ours, theirs = normal(found).split(), normal(true).split()
    shared = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * shared / (len(ours) + len(theirs)) if shared else 0.0
