"""Pfeiffer's adapters: three positions, written out by hand on a post-norm and a pre-norm backbone, and counts."""

import peft
import pytest
import reference
import torch
from test_counts import BACKBONES
from tiny import batch, build, logits, randomise
from torch.testing import assert_close

from methods.additive.pfeiffer import PfeifferConfig

COUNTS = {  # size -> DeBERTaV3-base, RoBERTa-base, BART-large, T5-base
    16: (304_320, 304_320, 811_392, 608_640),
    32: (599_424, 599_424, 1_598_208, 1_198_848),
    48: (894_528, 894_528, 2_385_024, 1_789_056),
    64: (1_189_632, 1_189_632, 3_171_840, 2_379_264),
}
POSITIONS = ["around_norm", "before_norm", "after_norm"]


def attach(family="roberta", kind="classification", **fields):
    return peft.get_peft_model(build(family, kind), PfeifferConfig(**fields)).eval()  # no task type: the head stays


def formula(form, states):
    return (states @ form.down.weight.T + form.down.bias).clamp(min=0) @ form.up.weight.T + form.up.bias


@pytest.mark.parametrize("index", range(4), ids=list(BACKBONES))
def test_counts(index):
    model_cls, config = list(BACKBONES.values())[index]
    with torch.device("meta"):
        model = model_cls(config)
    for size, row in COUNTS.items():
        tuned = peft.get_peft_model(model, PfeifferConfig(bottleneck_size=size))
        assert sum(p.numel() for p in tuned.parameters() if p.requires_grad) == row[index], size
        model = tuned.unload()


@pytest.mark.parametrize("position", POSITIONS)
def test_roberta_by_hand(position):
    model = randomise(attach(position=position).double(), 0.3)
    plain, inputs = build("roberta").double(), batch("roberta")
    forms = [part.form for part in model.base_model.adapter().parts()]

    def after(site, h, x):
        return h + formula(forms[site[1]], h) if (site[0], position) == ("ffn", "before_norm") else h

    def finish(site, u, norm):
        if site[0] != "ffn" or position == "before_norm":
            return norm(u)
        change = formula(forms[site[1]], norm(u))
        return norm(u + change) if position == "around_norm" else norm(u) + change

    with torch.no_grad():
        assert_close(logits(model, inputs), reference.roberta(plain, inputs, after, finish), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("position", POSITIONS)
def test_t5_by_hand(position):
    model = randomise(attach("t5", "generation", position=position), 0.3)
    plain, inputs = build("t5", "generation"), batch("t5", "generation", lengths=(7, 7))
    forms = iter([part.form for part in model.base_model.adapter().parts()])

    def after(site, h, x):
        if site[1] != "ffn":
            return h
        return h + formula(next(forms), h if position == "before_norm" else h + x)

    with torch.no_grad():
        assert_close(logits(model, inputs), reference.t5(plain, inputs, after), rtol=1e-4, atol=1e-4)


def test_positions_are_different_functions():
    """Houlsby's adapter left out after attention is not Pfeiffer's, nor is an adapter behind the norm."""
    found = [logits(randomise(attach(position=position), 0.3), batch("roberta")) for position in POSITIONS]
    assert not torch.allclose(found[0], found[1], atol=1e-3)
    assert not torch.allclose(found[0], found[2], atol=1e-3)
    assert not torch.allclose(found[1], found[2], atol=1e-3)


def test_unknown_position():
    with pytest.raises(ValueError, match="known are around_norm, before_norm, after_norm"):
        attach(position="behind")


def test_norms_under_the_adapter():
    """The norm that is applied twice may be a trained copy."""
    model = randomise(attach(train_layernorm=True).double(), 0.3)
    plain, inputs = build("roberta").double(), batch("roberta")
    parts = model.base_model.adapter()
    with torch.no_grad():
        for name, part in parts.items():
            if "LayerNorm" in name and hasattr(part.form, "value"):
                plain.get_parameter(name.replace("/", ".")).copy_(part.form.value)
    forms = [part.form for part in parts.values() if hasattr(part.form, "down")]

    def finish(site, u, norm):
        return norm(u + formula(forms[site[1]], norm(u))) if site[0] == "ffn" else norm(u)

    with torch.no_grad():
        expected = reference.roberta(plain, inputs, finish=finish)
        assert_close(logits(model, inputs), expected, rtol=1e-9, atol=1e-9)
