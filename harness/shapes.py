"""Rows that are more than a few columns: SuperGLUE's nested objects, flattened to what a model reads.

Both forms of a set are read: the official JSONL (Wang et al., 2019), where passages hold their questions and answers,
and the hub's, which is flat already. Each shape yields rows with the fields a prompt can name, and with `text`,
`text_pair`, `target`; further `group`, `truth` (see `splits.Split`) and `id`, the official index.

- copa: one row a choice (is this one right?); as text one row a premise. The question is asked as COPA's authors did.
- multirc: one row an answer, grouped by question. Markup of the original release is taken out.
- record: one row a candidate, which fills the query's place; grouped by query; as text one row a query. Choosing a
  candidate earns F1 and exact match against the answers (SQuAD's, Rajpurkar et al., 2016). Highlights become sentences.
- wic: the word stands between asterisks in both sentences; the text form names it instead (Raffel et al., 2020).
- wsc: `* noun *` and `# pronoun #` (Raffel et al., 2020). Positions count words; where the words there are others
  (the release has such rows), the nearest occurrence is marked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from harness.errors import DataError
from harness.spans import overlap, same

Row = dict[str, Any]
COPA_QUESTIONS = {"cause": "What was the cause of this?", "effect": "What happened as a result?"}
COPA_LABELS = {"0": 0, "1": 1, "choice1": 0, "choice2": 1}
KINDS = {str: "a text", int: "a whole number", list: "a list", dict: "an object"}


class Found:
    """An object of a data file. What it lacks is said with the place: `DIR/WSC/train.jsonl:3`."""

    def __init__(self, where: str, content: dict[str, Any]) -> None:
        self.where, self.content = where, content

    def __contains__(self, name: str) -> bool:
        return name in self.content

    def get(self, path: str, kind: type) -> Any:
        """The value at a dotted path. Raises DataError where it is missing or of another kind."""
        value: Any = self.content
        for name in path.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            found = "missing" if value is None else repr(value)[:40]
            raise DataError(f"{self.where}: {path} is {found}; {KINDS[kind]} is expected")
        return value

    def text(self, path: str) -> str:
        """A text with something to read."""
        value: str = self.get(path, str)
        if not value.strip():
            raise DataError(f"{self.where}: {path} is empty; a text with something to read is expected")
        return value

    def parts(self, path: str) -> list[Found]:
        """The objects of a list."""
        items = self.get(path, list)
        if not all(isinstance(item, dict) for item in items):
            raise DataError(f"{self.where}: {path} holds something that is no object")
        return [Found(f"{self.where} ({path}, entry {at})", item) for at, item in enumerate(items)]

    def label(self) -> Any:
        """The label, or None where it is hidden (absent, or the hub's -1)."""
        value = self.content.get("label")
        return None if value == -1 else value

    def id(self, fallback: int) -> Any:
        """The official index."""
        return self.content.get("idx", fallback)


def copa(found: Found, at: int, as_text: bool) -> Iterator[Row]:
    """One row a choice, or one a premise."""
    question, label = found.text("question"), found.label()
    if question not in COPA_QUESTIONS:
        raise DataError(f"{found.where}: question is '{question[:40]}'; cause or effect is expected")
    if label is not None and str(label) not in COPA_LABELS:
        raise DataError(f"{found.where}: label is {repr(label)[:40]}; 0 or 1 is expected")
    answer = None if label is None else COPA_LABELS[str(label)]
    row: Row = {name: found.text(name) for name in ("premise", "choice1", "choice2")} | {"question": question}
    row |= {"id": found.id(at), "text": row["premise"], "target": answer}
    if as_text:
        yield row
        return
    for choice in (0, 1):
        right = None if answer is None else int(answer == choice)
        texts = {"text": f"{row['premise']} {COPA_QUESTIONS[question]}", "text_pair": row[f"choice{choice + 1}"]}
        earns = str(choice) if right is None else [float(right)]
        yield row | texts | {"target": right, "group": str(row["id"]), "truth": earns}


def _unmarked(text: str) -> str:
    return re.sub(r"</?b>", "", text.replace("<br>", " "))


def multirc(found: Found, at: int, as_text: bool) -> Iterator[Row]:
    """One row an answer."""
    if "passage" not in found:  # the hub's form
        ids = [found.get(f"idx.{name}", int) for name in ("paragraph", "question", "answer")]
        yield _answer(found.text("paragraph"), found.text("question"), found.get("answer", str), found.label(), ids)
        return
    paragraph = found.text("passage.text")
    for number, asked in enumerate(found.parts("passage.questions")):
        for which, answer in enumerate(asked.parts("answers")):
            ids = [found.id(at), asked.id(number), answer.id(which)]
            yield _answer(paragraph, asked.text("question"), answer.get("text", str), answer.label(), ids)


def _answer(paragraph: str, question: str, answer: str, label: Any, ids: list[int]) -> Row:
    # An answer may be empty: the official training set has one.
    row = {"paragraph": _unmarked(paragraph), "question": _unmarked(question), "answer": _unmarked(answer)}
    pair = f"{row['question']} {row['answer']}"
    group = f"{ids[0]}-{ids[1]}"
    return row | {"text": row["paragraph"], "text_pair": pair, "target": label, "group": group, "id": json.dumps(ids)}


def record(found: Found, at: int, as_text: bool) -> Iterator[Row]:
    """One row a candidate, or one a query."""
    if "qas" in found:
        passage = found.text("passage.text")
        # `end` is the last character's own place.
        spans = [(one.get("start", int), one.get("end", int)) for one in found.parts("passage.entities")]
        entities = [passage[start : end + 1] for start, end in spans]
        for number, asked in enumerate(found.parts("qas")):
            answers = [one.text("text") for one in asked.parts("answers")] if "answers" in asked else []
            yield from _query(asked, passage, entities, answers, str(asked.id(number)), as_text)
        return
    entities, answers = (found.get(name, list) for name in ("entities", "answers"))
    ids = found.content.get("idx", at)
    query = ids.get("query") if isinstance(ids, dict) else ids
    yield from _query(found, found.text("passage"), entities, answers, str(query), as_text)


def _query(
    asked: Found, passage: str, entities: list[str], answers: list[str], group: str, as_text: bool
) -> Iterator[Row]:
    query, known = asked.text("query"), [name for name in dict.fromkeys(entities) if name.strip()]
    if "@placeholder" not in query or not known:
        missing = "an entity" if not known else "@placeholder in the query"
        raise DataError(f"{asked.where}: {missing} is missing")
    clean = re.sub(r"\n@highlight\n", ". ", re.sub(r"([.?!\"'])\n@highlight\n", r"\1 ", passage))
    row = {"passage": clean, "query": query, "entities": ", ".join(known), "text": clean, "group": group, "id": group}
    if as_text:
        # Several answers are right; the first is the target, all of them count in the score.
        yield row | {"target": answers[0] if answers else None, "truth": answers, "group": None}
        return
    for name in known:
        right = int(any(same(name, answer) for answer in answers)) if answers else None
        earns: Any = [max(overlap(name, answer) for answer in answers), float(right or 0)] if answers else name
        yield row | {"text_pair": query.replace("@placeholder", name), "target": right, "truth": earns}


def wic(found: Found, at: int, as_text: bool) -> Iterator[Row]:
    """One row a pair of sentences."""
    row = {name: found.text(name) for name in ("word", "sentence1", "sentence2")}
    marked = []
    for side in "12":
        sentence, start, end = row[f"sentence{side}"], found.get(f"start{side}", int), found.get(f"end{side}", int)
        if not 0 <= start < end <= len(sentence):
            raise DataError(f"{found.where}: start{side}={start}, end{side}={end} is no part of sentence{side}")
        marked.append(f"{sentence[:start]}* {sentence[start:end]} *{sentence[end:]}")
    yield row | {"text": marked[0], "text_pair": marked[1], "target": found.label(), "id": found.id(at)}


def wsc(found: Found, at: int, as_text: bool) -> Iterator[Row]:
    """One row a noun and a pronoun."""
    where = "target." if "target" in found else ""
    text = found.text("text")
    marks = []
    for side, mark in (("1", "*"), ("2", "#")):
        index, span = found.get(f"{where}span{side}_index", int), found.text(f"{where}span{side}_text")
        marks.append((*_place(text, span, index), mark))
    for start, end, mark in sorted(marks, reverse=True):
        text = f"{text[:start]}{mark} {text[start:end]} {mark}{text[end:]}"
    yield {"text": text, "target": found.label(), "id": found.id(at)}


def _place(text: str, span: str, index: int) -> tuple[int, int]:
    """Where a span of words stands, looked for around word number `index`; that word where there is no such span."""
    words = [match.span() for match in re.finditer(r"\S+", text)]
    start, end = words[min(max(index, 0), len(words) - 1)]
    found = [match.start() for match in re.finditer(re.escape(span), text, re.IGNORECASE)]
    if not found:
        return start, end
    nearest = min(found, key=lambda place: abs(place - start))
    return nearest, nearest + len(span)


SHAPES: dict[str, Callable[[Found, int, bool], Iterator[Row]]] = {
    "copa": copa,
    "multirc": multirc,
    "record": record,
    "wic": wic,
    "wsc": wsc,
}
