"""What a step does and holds, counted without data, against the real thing and against formulas."""

import peft
import pytest
import torch
import transformers as tf
from torch.utils.flop_counter import FlopCounterMode

from harness import execution
from harness.work import work
from methods import attention

SIZES = dict(hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=64, vocab_size=50)
KINDS = {
    "deberta": (tf.DebertaV2Config, tf.DebertaV2ForSequenceClassification, dict(
        relative_attention=True, position_buckets=8, norm_rel_ebd="layer_norm", share_att_key=True,
        pos_att_type=["p2c", "c2p"], position_biased_input=False, type_vocab_size=0), ["query_proj", "value_proj"]),
    "roberta": (tf.RobertaConfig, tf.RobertaForSequenceClassification, dict(pad_token_id=1), ["query", "value"]),
}  # fmt: skip


def build(kind, device, adapted=True):
    config, cls, more, targets = KINDS[kind]
    with torch.device(device):
        model = cls(config(**SIZES, **more))
        attention.lean(model)
        if adapted:
            model = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=targets, task_type="SEQ_CLS"))
    return model.train()


@pytest.mark.parametrize("kind", KINDS)
def test_operations_are_those_of_a_real_step(kind):
    ids = torch.randint(2, 50, (3, 10))
    model = build(kind, "cpu")
    with FlopCounterMode(display=False) as counter:
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        torch.nn.functional.cross_entropy(logits, torch.ones(3, dtype=torch.long)).backward()
    counted = work(build(kind, "meta"), "classification", 3, 10, 1)
    assert counted.flops == counter.get_total_flops() > 0
    assert all(p.grad is None for p in build(kind, "meta").parameters())


def test_activations_grow_with_the_batch_and_shrink_with_checkpointing():
    model = build("roberta", "meta")
    one, two = (work(model, "classification", rows, 32, 1) for rows in (4, 8))
    assert two.activation_bytes == pytest.approx(2 * one.activation_bytes, rel=0.02)
    assert two.flops == pytest.approx(2 * one.flops, rel=0.01)
    execution.checkpoint_activations(model)
    again = work(model, "classification", 8, 32, 1)
    assert again.activation_bytes < 0.6 * two.activation_bytes
    assert 1.2 * two.flops < again.flops < 1.6 * two.flops, "the layers' forward pass is made twice"


def test_gradients_are_counted_apart():
    model = build("roberta", "meta", adapted=False)
    trained = 4 * sum(p.numel() for p in model.parameters())
    found = work(model, "classification", 1, 4, 1)
    assert trained <= found.peak_bytes <= trained + found.activation_bytes


def test_half_precision_holds_less():
    model = build("roberta", "meta")
    whole, half = (work(model, "classification", 32, 48, 1, half=half) for half in (False, True))
    assert 0.5 * whole.activation_bytes < half.activation_bytes < whole.activation_bytes
    assert half.flops == whole.flops
