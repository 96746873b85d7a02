"""Rows made in the form of SuperGLUE's sets: the official JSONL (`FILES`), and the same as the hub has them (`HUB`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow

FOLDERS = {
    "boolq": "BoolQ",
    "cb": "CB",
    "copa": "COPA",
    "multirc": "MultiRC",
    "record": "ReCoRD",
    "rte": "RTE",
    "wic": "WiC",
    "wsc": "WSC",
}
PASSAGE = "Ann Lee met the Bay Club in Oslo.\n@highlight\nThe Bay Club won\n@highlight\nOslo is glad"
FILES: dict[str, list[dict[str, Any]]] = {
    "boolq": [
        {"question": "is it wet", "passage": "Rain -- It rains.", "idx": 0, "label": True},
        {"question": "is it dry", "passage": "Rain -- It pours.", "idx": 1, "label": False},
    ],
    "cb": [
        {"premise": "He left.", "hypothesis": "he left", "label": "entailment", "idx": 0},
        {"premise": "Who left?", "hypothesis": "he left", "label": "neutral", "idx": 1},
    ],
    "rte": [{"premise": "A cat sat.", "hypothesis": "A cat ran.", "label": "not_entailment", "idx": 0}],
    "copa": [
        {
            "premise": "It broke.",
            "choice1": "It fell.",
            "choice2": "It rose.",
            "question": "cause",
            "label": 0,
            "idx": 0,
        },
        {
            "premise": "It fell.",
            "choice1": "It rose.",
            "choice2": "It broke.",
            "question": "effect",
            "label": 1,
            "idx": 1,
        },
    ],
    "multirc": [
        {
            "idx": 7,
            "version": 1.1,
            "passage": {
                "text": "<b>Sent 1: </b>A cat sat.<br><b>Sent 2: </b>It ran.<br>",
                "questions": [
                    {
                        "question": "Who sat?",
                        "idx": 3,
                        "answers": [{"text": "A cat", "idx": 0, "label": 1}, {"text": "A dog", "idx": 1, "label": 0}],
                    },
                    {"question": "Who ran?", "idx": 4, "answers": [{"text": "", "idx": 2, "label": 0}]},
                ],
            },
        }
    ],
    "record": [
        {
            "idx": 5,
            "source": "made",
            "passage": {
                "text": PASSAGE,
                "entities": [
                    {"start": 0, "end": 6},
                    {"start": 12, "end": 23},
                    {"start": 28, "end": 31},
                    {"start": 49, "end": 56},
                ],
            },
            "qas": [
                {
                    "query": "@placeholder won.",
                    "idx": 9,
                    "answers": [
                        {"start": 12, "end": 23, "text": "the Bay Club"},
                        {"start": 49, "end": 56, "text": "Bay Club"},
                    ],
                },
                {
                    "query": "They met in @placeholder.",
                    "idx": 10,
                    "answers": [{"start": 28, "end": 31, "text": "Oslo"}],
                },
            ],
        }
    ],
    "wic": [
        {
            "word": "place",
            "sentence1": "My place.",
            "sentence2": "Place it.",
            "idx": 0,
            "label": False,
            "start1": 3,
            "end1": 8,
            "start2": 0,
            "end2": 5,
            "version": 1.1,
        }
    ],
    "wsc": [
        {
            "text": "The cat saw the dog , so it ran .",
            "target": {"span1_index": 3, "span1_text": "The dog", "span2_index": 7, "span2_text": "it"},
            "idx": 0,
            "label": True,
        }
    ],
}
ENTITIES = ["Ann Lee", "the Bay Club", "Oslo", "Bay Club"]
TRUTH = ["False", "True"]
_MULTIRC = {"paragraph": FILES["multirc"][0]["passage"]["text"]}
HUB: dict[str, list[dict[str, Any]]] = {
    "boolq": [{**row, "label": int(row["label"])} for row in FILES["boolq"]],
    "cb": [{**row, "label": ["entailment", "contradiction", "neutral"].index(row["label"])} for row in FILES["cb"]],
    "copa": FILES["copa"],
    "multirc": [
        {
            **_MULTIRC,
            "question": "Who sat?",
            "answer": "A cat",
            "label": 1,
            "idx": {"paragraph": 7, "question": 3, "answer": 0},
        },
        {
            **_MULTIRC,
            "question": "Who sat?",
            "answer": "A dog",
            "label": 0,
            "idx": {"paragraph": 7, "question": 3, "answer": 1},
        },
        {
            **_MULTIRC,
            "question": "Who ran?",
            "answer": "",
            "label": 0,
            "idx": {"paragraph": 7, "question": 4, "answer": 2},
        },
    ],
    "record": [
        {
            "passage": PASSAGE,
            "query": "@placeholder won.",
            "entities": ENTITIES,
            "answers": ["the Bay Club", "Bay Club"],
            "idx": {"passage": 5, "query": 9},
        },
        {
            "passage": PASSAGE,
            "query": "They met in @placeholder.",
            "entities": ENTITIES,
            "answers": ["Oslo"],
            "idx": {"passage": 5, "query": 10},
        },
    ],
    "wic": [{**{k: v for k, v in row.items() if k != "version"}, "label": int(row["label"])} for row in FILES["wic"]],
    "wsc": [{"text": row["text"], **row["target"], "idx": 0, "label": 1} for row in FILES["wsc"]],
}


def _numbers(*names: str) -> tuple[Any, dict[str, Any]]:
    arrow = pyarrow.struct([(name, pyarrow.int32()) for name in names])
    return arrow, {"struct": [{"name": name, "dtype": "int32"} for name in names]}


TEXTS = (pyarrow.list_(pyarrow.string()), {"sequence": "string"})
HUB_FEATURES: dict[str, dict[str, Any]] = {
    "boolq": {"question": "string", "passage": "string", "idx": "int32", "label": TRUTH},
    "cb": {
        "premise": "string",
        "hypothesis": "string",
        "idx": "int32",
        "label": ["entailment", "contradiction", "neutral"],
    },
    "copa": {
        "premise": "string",
        "choice1": "string",
        "choice2": "string",
        "question": "string",
        "idx": "int32",
        "label": ["choice1", "choice2"],
    },
    "multirc": {
        "paragraph": "string",
        "question": "string",
        "answer": "string",
        "idx": _numbers("paragraph", "question", "answer"),
        "label": TRUTH,
    },
    "record": {
        "passage": "string",
        "query": "string",
        "entities": TEXTS,
        "answers": TEXTS,
        "idx": _numbers("passage", "query"),
    },
    "wic": {
        "word": "string",
        "sentence1": "string",
        "sentence2": "string",
        "start1": "int32",
        "start2": "int32",
        "end1": "int32",
        "end2": "int32",
        "idx": "int32",
        "label": TRUTH,
    },
    "wsc": {
        "text": "string",
        "span1_index": "int32",
        "span2_index": "int32",
        "span1_text": "string",
        "span2_text": "string",
        "idx": "int32",
        "label": TRUTH,
    },
}


def directory(root: Path, name: str, rows: list[Any] | None = None, **splits: list[Any]) -> str:
    """A directory with a task's files, made rows in both splits or the ones given; returns the root."""
    folder = root / FOLDERS[name]
    folder.mkdir(parents=True, exist_ok=True)
    rows = FILES[name] if rows is None else rows
    for split, content in ({"train": rows, "val": rows} | splits).items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    return str(root)
