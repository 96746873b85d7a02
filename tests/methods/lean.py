"""A small DeBERTaV2 as transformers has it and with lean attention, in every variant where the two could part."""

import copy

import peft
import torch
import transformers as tf

from methods import attention

BASE = dict(
    vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
    max_position_embeddings=64, relative_attention=True, position_buckets=8, norm_rel_ebd="layer_norm",
    share_att_key=True, type_vocab_size=0, pos_att_type=["p2c", "c2p"], position_biased_input=False,
    hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=0.3,
)  # fmt: skip
VARIANTS = {
    "deberta-v3": {},
    "no buckets": {"position_buckets": -1, "max_relative_positions": 12},
    "own projections of positions": {"share_att_key": False},
    "content to position": {"pos_att_type": ["c2p"]},
    "position to content": {"pos_att_type": ["p2c"], "share_att_key": False},
    "no positions": {"pos_att_type": []},
    "not relative": {"relative_attention": False, "position_biased_input": True},
    "convolution": {"conv_kernel_size": 3, "conv_act": "gelu"},
}


def pair(lora=False, fused=False, dtype=torch.float64, **changes):
    """The same model twice: as transformers has it, and lean."""
    torch.manual_seed(0)
    model = tf.DebertaV2Model(tf.DebertaV2Config(**(BASE | changes))).to(dtype)
    if lora:
        config = peft.LoraConfig(r=3, target_modules=["query_proj", "key_proj", "value_proj"])
        model = peft.get_peft_model(model, config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    parameter.normal_()
    lean = copy.deepcopy(model)
    assert attention.lean(lean, fused=fused) == 2
    return model, lean


def batch(length, rows=3):
    torch.manual_seed(1)
    mask = torch.ones(rows, length, dtype=torch.long)
    mask[0, max(1, length // 2) :] = 0
    return {"input_ids": torch.randint(1, 50, (rows, length)), "attention_mask": mask}


def outcome(model, inputs, **options):
    """Outputs, and the gradient of an uneven function of those of tokens, of every parameter by name."""
    model.zero_grad()
    output = model(**inputs, **options)
    states = output.last_hidden_state[inputs["attention_mask"].bool()]
    (states * torch.linspace(-1, 2, states.numel(), dtype=states.dtype).view_as(states)).sum().backward()
    return output, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
