"""bitsandbytes' layers with what they lack: rows of any length in 4 bits, computed with as the tables decode them."""

import copy

import pytest
import torch
from test_quantization import SMALL, four_bit, settings
from torch.nn.functional import linear
from torch.testing import assert_close
from transformers import RobertaConfig, RobertaForSequenceClassification

from harness import codes, packed, quantization

pytest.importorskip("bitsandbytes")


@pytest.mark.parametrize("columns", [16, 48, 96, 112, 800, 64, 128, 10, 7])
@pytest.mark.parametrize("name", ["nf4", "nf4_dq", "fp4"])
def test_rows_of_any_length(name, columns):
    """A kernel of bitsandbytes 0.50 takes other blocks' scales at 16, 48, 96, ...: values, forward and backward."""
    weight = torch.randn(12, columns, generator=torch.Generator().manual_seed(columns))
    layer, found = four_bit(weight, name), settings(name)
    expected = codes.rounded(weight, found.weights, found.double_quant)
    assert torch.equal(packed.values(layer), expected)
    for mode in (True, False):
        states = torch.randn(5, columns, generator=torch.Generator().manual_seed(1)).requires_grad_()
        plain = states.detach().clone().requires_grad_()
        outputs, right = layer.train(mode)(states), linear(plain, expected)
        assert_close(outputs, right)
        for one in (outputs, right):
            one.square().sum().backward()
        assert_close(states.grad, plain.grad)
        with torch.no_grad():
            assert_close(copy.deepcopy(layer)(plain), right)


def test_a_backbone_of_such_rows():
    """No layer is refused, and the quantised model computes what its dequantised self computes."""
    sizes = SMALL | {"hidden_size": 48, "intermediate_size": 80}
    made = RobertaForSequenceClassification(RobertaConfig(**sizes, initializer_range=0.2)).eval()
    quantization.quantize(made, settings("nf4_dq"), head=["classifier"], precision="float32")
    words = {"input_ids": torch.arange(4, 24).view(2, 10)}
    with torch.no_grad():
        logits = made(**words).logits
        assert_close(quantization.dequantize(made)(**words).logits, logits)


@pytest.mark.parametrize("name", ["nf4_dq", "int8"])
@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_a_frozen_bias_is_not_cast_in_place(name, mode):
    """A float32 bias that is added in bfloat16 keeps its bits; bitsandbytes' own layer computes the same and changes it."""
    torch.manual_seed(0)
    layer, found = torch.nn.Linear(64, 32), settings(name)
    layer.bias.requires_grad_(False)
    four, eight = quantization._four_bit, quantization._eight_bit
    made = eight(layer, found) if name == "int8" else four(layer, found, torch.bfloat16)
    theirs = copy.deepcopy(made).train(mode)
    theirs.__class__, theirs.support_avx512bf16_for_cpu = type(made).__base__, False  # or it would repack its weight
    bits, states = layer.bias.detach().clone(), torch.randn(3, 64).bfloat16().requires_grad_(mode)
    outputs = made.train(mode)(states)
    assert made.bias is layer.bias and made.bias.dtype is torch.float32 and torch.equal(made.bias, bits)
    assert torch.equal(outputs, theirs(states)) and theirs.bias.dtype is torch.bfloat16


@pytest.mark.parametrize("columns", [48, 64])
def test_a_layer_computes_in_the_dtype_that_was_asked_for(columns):
    """Whatever its input has, which is what its output has."""
    torch.manual_seed(0)
    layer, states = torch.nn.Linear(columns, 32), torch.randn(3, columns)
    for kind in (torch.bfloat16, torch.float32):
        outputs = quantization._four_bit(copy.deepcopy(layer), settings("nf4"), kind)(states)
        assert outputs.dtype is torch.float32
        assert torch.equal(outputs.bfloat16().float(), outputs) == (kind is torch.bfloat16)
