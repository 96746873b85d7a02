"""Predictions as the GLUE and SuperGLUE servers take them, from rows that carry the official indices as ids.

GLUE: a table `index`, `prediction` (STS-B: a score from 0 to 5). SuperGLUE: an object a line with `idx` and `label`;
MultiRC's are nested as its data is, ReCoRD's label is the text of the entity, or the answer as generated. The file
names are the task's (`task.submission`), the words for the labels too (`task.submitted`).
"""

from __future__ import annotations

import json
from pathlib import PurePath
from typing import Any

from harness.errors import ConfigError
from harness.metrics import CHOICES
from harness.schema import TaskConfig
from harness.splits import Split


def written(spec: TaskConfig, name: str, split: Split, columns: dict[str, list[Any]]) -> tuple[str, str]:
    """The name and content of the file for one hidden split.

    Args:
        spec: the task's configuration.
        name: the hidden split.
        split: its rows; ids are the official indices.
        columns: what `evaluate.predict` said of them; labels as indices, scores, or generated text.

    Raises:
        ConfigError: the task says nothing of a file for this split.
    """
    if name not in spec.submission:
        raise ConfigError(f"task {spec.name} has no submission file for its split '{name}' (task.submission)")
    file = spec.submission[name]
    if spec.metric in CHOICES:
        answers = _chosen(split, columns, spec.metric == "choice")
    else:
        answers = [(_index(one), _word(spec, said)) for one, said in zip(split.ids, columns["prediction"], strict=True)]
    if PurePath(file).suffix == ".tsv":
        lines = ["index\tprediction", *(f"{index}\t{word}" for index, word in answers)]
    elif spec.shape == "multirc":
        lines = [json.dumps(one) for one in _nested(answers)]
    else:
        lines = [json.dumps({"idx": index, "label": word}) for index, word in answers]
    return file, "\n".join(lines) + "\n"


def _index(name: str) -> Any:
    return json.loads(name) if name.startswith("[") or name.isdigit() else name


def _word(spec: TaskConfig, said: Any) -> Any:
    """A label in the server's words; a digit is a number in JSON. A score stays within the task's range."""
    if spec.nature == "score":
        low, high = spec.target_range or [float("-inf"), float("inf")]
        return f"{min(max(said, low), high):.3f}"
    if spec.nature == "text":
        return said
    # An answer that is no label (-1) has to be sent as some label: the first.
    word = (spec.submitted or spec.labels)[max(said, 0)]
    return int(word) if word.isdigit() else word


def _chosen(split: Split, columns: dict[str, list[Any]], numbered: bool) -> list[tuple[Any, Any]]:
    """Of each group the candidate that looks rightest; hidden rows carry what it is called in `truth`."""
    best: dict[str, tuple[float, str]] = {}
    certain = (right - wrong for right, wrong in zip(columns["logit_1"], columns["logit_0"], strict=True))
    for group, candidate, value in zip(split.groups or [], split.truth or [], certain, strict=True):
        if group not in best or value > best[group][0]:
            best[group] = (value, candidate)
    return [(_index(group), int(one) if numbered else one) for group, (_, one) in best.items()]


def _nested(answers: list[tuple[Any, Any]]) -> list[dict[str, Any]]:
    """MultiRC: paragraphs with their questions with their answers, in order."""
    paragraphs: dict[int, dict[int, list[dict[str, Any]]]] = {}
    for (paragraph, question, answer), label in answers:
        paragraphs.setdefault(paragraph, {}).setdefault(question, []).append({"idx": answer, "label": label})
    return [
        {"idx": at, "passage": {"questions": [{"idx": one, "answers": said} for one, said in questions.items()]}}
        for at, questions in paragraphs.items()
    ]
