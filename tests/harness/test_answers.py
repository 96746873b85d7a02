"""Generated answers as labels, and scores of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from harness.answers import Answers
from harness.config import GenerationConfig
from harness.data import Encoded
from harness.evaluate import evaluate

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
