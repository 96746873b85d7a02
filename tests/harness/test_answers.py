"""Generated answers as labels, and scores of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml
from specs import task
from torch import nn

from harness import columns
from harness.answers import Answers
from harness.config import GenerationConfig
from harness.data import Encoded
from harness.evaluate import evaluate
from harness.paths import CONF

GREEDY = GenerationConfig(
    num_beams=1, max_new_tokens=4, min_new_tokens=0, length_penalty=1.0, no_repeat_ngram_size=0, validation_rows=None
)
SAYS = ["entailment", " Not_entailment ", "", "entailment entailment", "4.2"]


def test_words_are_found_without_case_and_spacing():
    found = [Answers(("entailment", "not_entailment")).parse(text) for text in SAYS]
    assert found == [0, 1, None, None, None]
    assert [Answers(("0", "1")).parse(text) for text in ("1", "1.0", "2")] == [1, None, None]


@pytest.mark.parametrize(("text", "score"), [("4.2", 4.2), (" 3 ", 3.0), ("four", None), ("nan", None), ("inf", None)])
def test_without_words_an_answer_is_a_number(text, score):
    assert Answers(()).parse(text) == score


# T5's own (appendix D of its paper) and PROPETL's, without task name and with class numbers.
T5 = {
    "cola": ("cola sentence: A", ["unacceptable", "acceptable"]),
    "mnli": ("mnli hypothesis: B premise: A", ["entailment", "neutral", "contradiction"]),
    "mrpc": ("mrpc sentence1: A sentence2: B", ["not_equivalent", "equivalent"]),
    "qnli": ("qnli question: A sentence: B", ["entailment", "not_entailment"]),
    "qqp": ("qqp question1: A question2: B", ["not_duplicate", "duplicate"]),
    "rte": ("rte sentence1: A sentence2: B", ["entailment", "not_entailment"]),
    "sst2": ("sst2 sentence: A", ["negative", "positive"]),
    "stsb": ("stsb sentence1: A sentence2: B", []),
    "wnli": ("wnli sentence1: A sentence2: B", ["not_entailment", "entailment"]),
}
PROPETL = {
    "cola": "sentence: A",
    "mnli": "premise: A hypothesis B",
    "mrpc": "sentence1: A sentence2: B",
    "qnli": "question: A sentence: B",
    "qqp": "question1: A question2: B",
    "rte": "sentence1: A sentence2: B",
    "sst2": "sentence: A",
    "stsb": "sentence1: A sentence2: B",
}


def said(name):
    """What a task's own file says; composing all of them takes seconds."""
    return yaml.safe_load((CONF / "task" / f"{name}.yaml").read_text())


def test_prompts_and_words_are_the_papers():
    for name, (prompt, words) in T5.items():
        spec = said(f"glue_text/{name}")
        assert (spec["prompt"].format(text="A", text_pair="B"), spec.get("answers", [])) == (prompt, words)
        assert not words or said(f"glue/{name}")["labels"] == words, "T5's words are the hub's names"
    for name, prompt in PROPETL.items():
        spec, labels = said(f"propetl/{name}"), said(f"glue/{name}")["labels"]
        assert spec["prompt"].format(text="A", text_pair="B") == prompt
        assert spec.get("answers", []) == [str(at) for at in range(len(labels))]


def test_a_score_in_words_is_a_multiple_of_the_step():
    # T5 multiplies by five, rounds half to even and divides (in float32); PROPETL keeps one decimal.
    scores = [0.0, 0.3, 0.5, 0.7, 1.5, 1.9, 2.25, 2.5, 3.667, 4.3, 5.0]
    for name, step in (("glue_text/stsb", 0.2), ("propetl/stsb", 0.1)):
        spec = task(name)
        assert spec.answer_step == step
        found = [float(columns._answer(spec, score)) for score in scores]
        expected = np.round(np.float32(scores) * np.float32(1 / step)) / np.float32(1 / step)
        assert found == pytest.approx(expected.tolist(), abs=1e-6)


class Writer(nn.Module):
    """Writes the number that its row begins with."""

    def generate(self, input_ids, attention_mask, **settings):
        return input_ids[:, :1]


class Reader:
    def batch_decode(self, tokens, skip_special_tokens):
        return [SAYS[row[0]] for row in tokens.tolist()]


def scored(targets, metric, answers, says=(0, 1, 2, 3, 4)):
    names = [str(at) for at in range(len(says))]
    ids = [[token] * (1 + at % 3) for at, token in enumerate(says)]
    encoded = Encoded("generation", ids, None, [[1]] * len(says), names, 0, 0)
    return evaluate(
        Writer(), encoded, metric=metric, batch_size=2, device="cpu", tokenizer=Reader(), generation=GREEDY,
        references=targets, answers=answers,
    )  # fmt: skip


def test_an_answer_that_is_none_is_wrong_and_counted():
    found = scored([0, 1, 0, 0, 1], "accuracy", Answers(("entailment", "not_entailment")))
    assert found.scores == {"accuracy": pytest.approx(40.0), "unparsable": pytest.approx(60.0)}
    assert found.predictions["prediction"] == [0, 1, -1, -1, -1]
    assert found.predictions["target"] == [0, 1, 0, 0, 1]
    assert found.predictions["generated"] == [text.strip() for text in SAYS]
    scores = scored([5.0, 4.0], "pearson_spearman", Answers(()), says=(0, 4)).scores
    assert scores["unparsable"] == pytest.approx(50.0)
    assert scores["pearson"] == pytest.approx(-100.0), "what is no number is below every score"


def test_the_texts_of_a_set_are_not_stored():
    found = scored([["yes", "ja"]] * 5, "record_text", None)
    assert set(found.predictions) == {"id", "prediction"}


def test_a_choice_is_made_by_the_difference_of_the_logits():
    from types import SimpleNamespace

    class Sure(nn.Module):
        def forward(self, input_ids, attention_mask):
            value = input_ids[:, 0].float()
            return SimpleNamespace(logits=torch.stack([value, 2 * value], dim=-1))

    encoded = Encoded("classification", [[3], [1], [2], [5]], None, [1, 0, 1, 0], list("abcd"), 0, 0)
    found = evaluate(
        Sure(), encoded, metric="choice", batch_size=4, device="cpu", references=[[1.0], [0.0], [1.0], [0.0]],
        groups=["0", "0", "1", "1"],
    )  # fmt: skip
    assert found.scores == {"accuracy": 50.0}
    assert found.predictions["target"] == [1, 0, 1, 0]
