"""Trained parameters of every method on the papers' backbones, counted on the meta device."""

import peft
import pytest
import torch
import transformers as tf
from tiny import METHODS, Case

DEBERTA_V3_BASE = dict(
    hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072, vocab_size=128100,
    relative_attention=True, position_buckets=256, norm_rel_ebd="layer_norm", share_att_key=True,
    pos_att_type=["p2c", "c2p"], position_biased_input=False, type_vocab_size=0, max_relative_positions=-1,
)  # fmt: skip
BACKBONES = {
    "deberta": (tf.DebertaV2ForSequenceClassification, tf.DebertaV2Config(**DEBERTA_V3_BASE)),
    "roberta": (
        tf.RobertaForSequenceClassification,
        tf.RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1),
    ),
    "bart": (tf.BartForConditionalGeneration, tf.BartConfig()),  # large
    "t5": (tf.T5ForConditionalGeneration, tf.T5Config(d_model=768, d_ff=3072, num_layers=12, num_heads=12)),  # base
}
SHAPES = {"deberta": (768, 3072, 12, 12), "roberta": (768, 3072, 12, 12), "bart": (1024, 4096, 36, 24),
          "t5": (768, 3072, 36, 24)}  # width, feed-forward width, attentions, feed-forwards  # fmt: skip


def lora(d, f, attentions, feeds, r=8):
    return r * (attentions * 4 * 2 * d + feeds * 2 * (d + f))


def svd(d, f, attentions, feeds, r):
    return lora(d, f, attentions, feeds, r) + r * (attentions * 4 + feeds * 2)  # and a singular value a rank


def ia3(d, f, attentions, feeds):
    return attentions * 2 * d + feeds * f


def adapters(d, places, size):
    return places * (2 * d * size + size + d)


def propetl(d, layers, size=64):
    return adapters(d, 1, size) + layers * 2 * d * size


def propetl_prefix(d, attentions, length=64):
    return (attentions + (3 if attentions == 36 else 1)) * 2 * length * d


EXPECTED = {
    "full": {"deberta": 183_831_552, "roberta": 124_055_040, "bart": 406_291_456, "t5": 222_903_552},
    "head": dict.fromkeys(BACKBONES, 0),
    "bitfit": {"deberta": 102_912, "roberta": 102_144, "bart": 333_824, "t5": 202_752},  # T5: biases that were added
    "lora": {family: lora(*shape) for family, shape in SHAPES.items()},
    "adalora": {family: svd(*shape, 12) for family, shape in SHAPES.items()},  # what is allocated at the start
    "adalora_peft": {family: svd(*shape, 12) for family, shape in SHAPES.items()},
    "increlora": {family: svd(*shape, 1) for family, shape in SHAPES.items()},  # before the first growth
    "ia3": {family: ia3(*shape) for family, shape in SHAPES.items()},
    "houlsby": {family: adapters(d, attentions + feeds, 8) for family, (d, _, attentions, feeds) in SHAPES.items()},
    "pfeiffer": {family: adapters(d, feeds, 16) for family, (d, _, _, feeds) in SHAPES.items()},
    "prefix": {family: 2 * 30 * d * attentions for family, (d, _, attentions, _) in SHAPES.items()},
    "propetl": {family: propetl(d, feeds) for family, (d, _, _, feeds) in SHAPES.items()},
    "propetl_lora": {f: 2 * (attentions + 1) * 2 * d * 4 for f, (d, _, attentions, _) in SHAPES.items()},  # rank 4
    "propetl_prefix": {family: propetl_prefix(d, attentions) for family, (d, _, attentions, _) in SHAPES.items()},
}


@pytest.mark.parametrize("family", BACKBONES)
@pytest.mark.parametrize("method", METHODS)
def test_count(method, family):
    if method not in EXPECTED:
        pytest.fail(f"say how many parameters {method} trains: a formula or published numbers, in EXPECTED")
    kind = "generation" if family in ("bart", "t5") else "classification"
    if (method, kind) == ("head", "generation"):
        pytest.skip("a language model has no task head")
    case = Case(method, family, kind)
    with torch.device("meta"):
        model = BACKBONES[family][0](BACKBONES[family][1])
        model = peft.get_peft_model(model, case.config())
    counted = [p.numel() for name, p in model.named_parameters() if p.requires_grad and ".modules_to_save." not in name]
    assert sum(counted) == EXPECTED[method][family]


def test_formulas_give_the_published_numbers():
    assert lora(*SHAPES["deberta"]) == 1_327_104
    assert lora(*SHAPES["bart"]) == 4_325_376
    assert lora(*SHAPES["t5"]) == 3_244_032
