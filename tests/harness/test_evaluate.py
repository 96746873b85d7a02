from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from harness.config import GenerationConfig
from harness.data import Encoded, collate
from harness.evaluate import evaluate

GREEDY = GenerationConfig(
    num_beams=1, max_new_tokens=6, min_new_tokens=0, length_penalty=1.0, no_repeat_ngram_size=0, validation_rows=None
)
BEAMS = GenerationConfig(
    num_beams=3, max_new_tokens=8, min_new_tokens=2, length_penalty=0.6, no_repeat_ngram_size=2, validation_rows=None
)


def rows(kind: str, targets: list, number: int = 11) -> Encoded:
    """Lengths rise and fall, so that sorting by length reorders the rows."""
    generator = torch.Generator().manual_seed(1)
    ids = [torch.randint(4, 30, (2 + (7 * row) % 9,), generator=generator).tolist() for row in range(number)]
    names = [f"row{row}" for row in range(number)]
    return Encoded(
        kind=kind, input_ids=ids, token_type_ids=None, targets=targets, ids=names, pad_token_id=0, truncated_rows=0
    )


def deberta(labels: int) -> nn.Module:
    torch.manual_seed(0)
    sizes = {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    positions = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 4}
    return DebertaV2ForSequenceClassification(
        DebertaV2Config(**sizes, **positions, intermediate_size=32, num_labels=labels, initializer_range=0.5)
    )


class Echo(nn.Module):
    """The logits are known: the first token of each row."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.columns = columns

    def forward(self, input_ids, attention_mask):
        assert not torch.is_grad_enabled() and not self.training
        first = input_ids[:, :1].float()
        return SimpleNamespace(logits=first * (-1.0) ** torch.arange(self.columns), loss=torch.tensor(1e9))


def test_predictions_stand_in_the_rows_own_order():
    encoded = rows("classification", [0] * 6 + [1] * 5)
    found = evaluate(Echo(3), encoded, metric="accuracy", batch_size=4, device="cpu")
    first = [float(ids[0]) for ids in encoded.input_ids]
    assert found.predictions["id"] == encoded.ids and found.predictions["target"] == encoded.targets
    assert found.predictions["logit_0"] == first and found.predictions["logit_1"] == [-value for value in first]
    assert found.predictions["prediction"] == [0] * 11, "of equal logits the first"
    assert list(found.predictions) == ["id", "target", "prediction", "logit_0", "logit_1", "logit_2"]
    assert found.scores == {"accuracy": pytest.approx(100 * 6 / 11)}


def test_regression_predicts_its_logit():
    encoded = rows("regression", [float(row) for row in range(11)])
    found = evaluate(Echo(1), encoded, metric="pearson_spearman", batch_size=3, device="cpu")
    assert found.predictions["prediction"] == [float(ids[0]) for ids in encoded.input_ids]
    assert list(found.predictions) == ["id", "target", "prediction"] and "pearson_spearman" in found.scores


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_batch_size_changes_nothing_but_rounding(batch_size):
    encoded, model = rows("classification", [row % 3 for row in range(11)]), deberta(3)
    found = evaluate(model, encoded, metric="accuracy", batch_size=batch_size, device="cpu")
    for row in range(11):
        batch = collate(encoded, [row])
        batch.pop("labels")
        with torch.no_grad():
            alone = model.eval()(**batch).logits[0].tolist()
        assert [found.predictions[f"logit_{column}"][row] for column in range(3)] == pytest.approx(alone, abs=1e-5)


def test_every_modules_mode_is_put_back_also_after_an_error():
    model, encoded = deberta(2).train(), rows("classification", [0, 1] * 5 + [0])
    model.dropout.eval()
    modes = {name: module.training for name, module in model.named_modules()}
    evaluate(model, encoded, metric="accuracy", batch_size=8, device="cpu")
    assert {name: module.training for name, module in model.named_modules()} == modes

    class Broken(Echo):
        def forward(self, **batch):
            raise RuntimeError("broken")

    broken = Broken(2).train()
    with pytest.raises(RuntimeError, match="broken"):
        evaluate(broken, encoded, metric="accuracy", batch_size=8, device="cpu")
    assert broken.training and torch.is_grad_enabled()


def test_evaluation_draws_no_random_number():
    model, encoded = deberta(2).train(), rows("classification", [0, 1] * 5 + [0])
    before = torch.get_rng_state()
    first = evaluate(model, encoded, metric="accuracy", batch_size=8, device="cpu")
    assert torch.equal(before, torch.get_rng_state())
    assert evaluate(model, encoded, metric="accuracy", batch_size=8, device="cpu") == first


def test_bfloat16_is_autocast_and_logits_are_stored_as_float32():
    model, encoded = deberta(2), rows("classification", [0, 1] * 5 + [0])
    exact = evaluate(model, encoded, metric="accuracy", batch_size=8, device="cpu").predictions["logit_0"]
    half = evaluate(model, encoded, metric="accuracy", batch_size=8, device="cpu", precision="bfloat16")
    assert half.predictions["logit_0"] != exact and half.predictions["logit_0"] == pytest.approx(exact, abs=0.3)


# Text to text


def tokenizer() -> PreTrainedTokenizerFast:
    words = ["<pad>", "<s>", "</s>", "<unk>", *(f"w{number}" for number in range(4, 30))]
    inner = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, **special)


def seq2seq(family: str) -> nn.Module:
    torch.manual_seed(0)
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    if family == "t5":
        sizes = {"vocab_size": 30, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
        return T5ForConditionalGeneration(T5Config(**sizes, **special, initializer_factor=3.0))
    sizes = {"vocab_size": 30, "d_model": 16, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "init_std": 0.5}
    layers = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    return BartForConditionalGeneration(BartConfig(**sizes, **layers, **special, max_position_embeddings=40))


@pytest.mark.parametrize("family", ["t5", "bart"])
@pytest.mark.parametrize("generation", [GREEDY, BEAMS], ids=["greedy", "beams"])
def test_text_is_generated_decoded_and_put_back_in_order(family, generation):
    encoded, model, words = rows("generation", [[5, 6, 2]] * 11), seq2seq(family), tokenizer()
    references = [f"w{row + 4} w5" for row in range(11)]
    text = {"tokenizer": words, "generation": generation, "references": references}
    found = [evaluate(model, encoded, metric="rouge", batch_size=size, device="cpu", **text) for size in (1, 4, 11)]
    assert found[0] == found[1] == found[2]
    predictions = found[0].predictions
    assert list(predictions) == ["id", "prediction"], "no text of the data set"
    assert len(set(predictions["prediction"])) > 1
    assert all(len(text.split()) <= generation.max_new_tokens for text in predictions["prediction"])
    assert not any("<" in text for text in predictions["prediction"])
    text["references"] = [prediction or "nothing" for prediction in predictions["prediction"]]
    own = evaluate(model, encoded, metric="rouge", batch_size=4, device="cpu", **text)
    written = sum(map(bool, predictions["prediction"]))
    assert own.scores["rouge1"] == pytest.approx(100 * written / 11) and found[0].scores["rouge1"] < 50


def test_a_beam_is_a_sequence_of_the_batch(monkeypatch):
    encoded, model, sizes = rows("generation", [[5, 6, 2]] * 11), seq2seq("bart"), []
    told = []

    def generate(self, input_ids, **how):
        sizes.append(len(input_ids))
        told.append(how)
        return torch.full((len(input_ids), 2), 5)

    monkeypatch.setattr(type(model), "generate", generate)
    text = {"tokenizer": tokenizer(), "references": ["w5 w5"] * 11}
    for beams, size in ((1, 8), (3, 8), (8, 4)):
        how = replace(BEAMS, num_beams=beams)
        evaluate(model, encoded, metric="rouge", batch_size=size, device="cpu", generation=how, **text)
    assert sizes == [8, 3, *[2] * 5, 1, *[1] * 11]
    assert told[0]["no_repeat_ngram_size"] == 2 and told[0]["length_penalty"] == 0.6


def test_what_is_not_said_is_the_backbones_own():
    encoded, words = rows("generation", [[5, 6, 2]] * 11), tokenizer()
    model, silent = seq2seq("bart"), replace(GREEDY, max_new_tokens=12, no_repeat_ngram_size=None)
    text = {"tokenizer": words, "references": ["w5"] * 11, "metric": "rouge", "batch_size": 4, "device": "cpu"}

    def written(how):
        return evaluate(model, encoded, generation=how, **text).predictions["prediction"]

    plain = written(silent)
    assert plain == written(replace(silent, no_repeat_ngram_size=0))
    model.generation_config.no_repeat_ngram_size = 1
    assert written(silent) == written(replace(silent, no_repeat_ngram_size=1)) != plain
    assert written(replace(silent, no_repeat_ngram_size=0)) == plain, "what is said wins"


def test_text_needs_a_tokenizer_and_references():
    with pytest.raises(ValueError, match="references"):
        evaluate(seq2seq("t5"), rows("generation", [[2]] * 11), metric="rouge", batch_size=4, device="cpu")
