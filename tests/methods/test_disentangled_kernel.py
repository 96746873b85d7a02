"""The kernels of fused attention: run by Triton's interpreter on the CPU, and compiled for GPUs that are not at hand.

TRITON_INTERPRET=1 pytest tests/methods/test_disentangled_kernel.py
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import peft
import pytest
import torch
from lean import VARIANTS, batch, outcome, pair
from torch.testing import assert_close

from methods import attention, disentangled
from methods.prompt.prefix import PrefixConfig

if importlib.util.find_spec("triton") is None or os.environ.get("TRITON_INTERPRET") != "1":
    # Triton reads the variable when it is imported, which other tests may have done in this process.
    pytest.skip("needs triton, which torch's builds for CUDA bring, and TRITON_INTERPRET=1", allow_module_level=True)
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def kernel(monkeypatch):
    """The module of kernels, which here are asked for wherever fused attention is."""
    from methods import disentangled_kernel

    monkeypatch.setattr(disentangled, "by_kernel", lambda query: True)
    return disentangled_kernel


def tables(heads=2, texts=3, length=9, prefix=0, width=8, dtype=torch.float64):
    """Inputs of `attend` by chance, each requiring a gradient, and a mask under which one query sees nothing."""
    torch.manual_seed(0)
    mask = torch.rand(1, texts, length, length + prefix) > 0.3
    mask[0, 0, length // 2] = False
    shapes = [(texts, length), (texts, length + prefix), (texts, length + prefix), (2 * length - 1,), (2 * length - 1,)]
    inputs = [torch.randn(heads, *shape, width, dtype=dtype).requires_grad_() for shape in shapes]
    return [*inputs, mask]


def plainly(query, key, value, to_position, to_content, mask, kept=None):
    """The same by matrices of all pairs; `kept` multiplies the weights."""
    length, prefix = query.shape[2], key.shape[2] - query.shape[2]
    rows, columns = torch.arange(length)[:, None], torch.arange(length)[None, :]
    bias = torch.zeros(())
    if to_position is not None:
        bias = bias + (query @ to_position[:, None].mT)[:, :, rows, length - 1 - rows + columns]
    if to_content is not None:
        bias = bias + (key[:, :, prefix:] @ to_content[:, None].mT)[:, :, columns, length - 1 - columns + rows]
    bias = torch.nn.functional.pad(bias.expand(*query.shape[:2], length, length), (prefix, 0))
    scores = (query @ key.mT + bias).masked_fill(~mask, torch.finfo(query.dtype).min)
    weights = scores.softmax(-1)
    return (weights if kept is None else weights * kept) @ value


def slopes(function, inputs):
    """Contexts, and the gradients of an uneven sum of them."""
    contexts = function(*inputs)
    scale = torch.linspace(-1, 2, contexts.numel(), dtype=contexts.dtype).view_as(contexts)
    wanted = [one for one in inputs if one is not None and one.requires_grad]
    return contexts, torch.autograd.grad((contexts * scale).sum(), wanted)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("length", [1, 4, 40])  # of one block, and of two; with buckets that share and without
def test_outputs_and_gradients_are_those_of_transformers(variant, length):
    original, fused = pair(fused=True, **VARIANTS[variant])
    inputs = batch(length)
    if variant == "convolution" and length == 1:
        inputs["attention_mask"].fill_(1)
    (expected, gradients), (found, ours) = outcome(original, inputs), outcome(fused, inputs)
    assert_close(found.last_hidden_state, expected.last_hidden_state, rtol=0, atol=1e-6)
    assert ours.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert_close(ours[name], gradient, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("changes", [{}, {"length": 33, "prefix": 5}, {"length": 40, "width": 24, "prefix": 40}])
@pytest.mark.parametrize("absent", [(), (3,), (4,), (3, 4)])
def test_every_term_prefix_and_length_with_queries_that_see_nothing(kernel, changes, absent):
    inputs = tables(**changes)
    for place in absent:
        inputs[place] = None
    (expected, gradients), (found, ours) = slopes(plainly, inputs), slopes(kernel.attend, inputs)
    assert_close(found, expected)
    assert_close(ours, gradients)


def test_lora_and_prefixes_stand_where_they_did(kernel):
    torch.manual_seed(0)
    _, model = pair(lora=True)
    inputs = batch(40)
    expected, gradients = outcome(model, inputs)
    attention.lean(model, fused=True)
    found, ours = outcome(model, inputs)
    assert_close(found.last_hidden_state, expected.last_hidden_state)
    assert_close(ours, gradients)
    assert len(ours) == 12
    prefixed = peft.get_peft_model(pair()[1], PrefixConfig(prefix_length=3))
    plain = outcome(prefixed, inputs)
    attention.lean(prefixed, fused=True)
    fused = outcome(prefixed, inputs)
    assert_close(fused[0].last_hidden_state, plain[0].last_hidden_state)
    assert_close(fused[1], plain[1])


# Not bfloat16: the interpreter, whose numbers are NumPy's, multiplies its bits as if they were integers.
@pytest.mark.parametrize("dtype, close", [(torch.float32, 2e-5), (torch.float16, 5e-3)])
def test_lower_precisions(kernel, dtype, close):
    inputs = tables(length=33, prefix=2, width=16)
    exact = [one.detach().to(dtype).double().requires_grad_() for one in inputs[:5]]
    low = [one.detach().to(dtype).requires_grad_() for one in inputs[:5]]
    (expected, gradients), (found, ours) = (
        slopes(plainly, [*exact, inputs[5]]),
        slopes(kernel.attend, [*low, inputs[5]]),
    )
    assert found.dtype is dtype
    for one, other in zip([found, *ours], [expected, *gradients], strict=True):
        assert (one - other).abs().max() < close * other.abs().max()


def test_autocast_decides_what_is_multiplied_and_backwards_it_is_the_same(kernel):
    """As of queries that are float32 under autocast: those of a quantised layer."""
    given = tables(prefix=2, width=16, dtype=torch.float32)
    halves = [one.detach().half().requires_grad_() for one in given[:5]]
    expected, gradients = slopes(kernel.attend, [*halves, given[5]])

    def cast(*inputs):
        with torch.autocast("cpu", torch.float16):
            return kernel.attend(*inputs)

    found, ours = slopes(cast, given)
    assert found.dtype is torch.float16 and all(one.dtype is torch.float32 for one in ours)
    assert_close(found, expected, rtol=0, atol=0)
    assert_close(list(ours), [one.float() for one in gradients], rtol=0, atol=0)


def test_products_with_positions_are_made_once_a_pass_and_no_gradient_for_nobody(kernel, monkeypatch):
    made = []
    plain = kernel._product
    monkeypatch.setattr(kernel, "_product", lambda *given: made.append(1) or plain(*given))
    inputs = tables()
    expected = slopes(kernel.attend, inputs)
    assert len(made) == 2 + 2
    frozen = [one.detach() if place in (3, 4) else one for place, one in enumerate(inputs)]
    found = slopes(kernel.attend, frozen)
    assert_close(found, (expected[0], expected[1][:3]))


def test_without_dropout_nothing_is_drawn(kernel):
    inputs, before = tables(), torch.get_rng_state()
    kernel.attend(*inputs)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("setting, word", [("tf32", "tf32"), ("ieee", "ieee"), ("none", "ieee")])
def test_tf32_is_read_where_the_newer_setting_was_made(kernel, setting, word):
    before = torch.backends.cuda.matmul.fp32_precision
    try:
        torch.backends.cuda.matmul.fp32_precision = setting
        assert kernel._precision() == word
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


def test_dropout_is_the_same_backwards_and_another_every_time(kernel):
    """Values that are unit vectors give the weights back, from which follows what was dropped."""
    rate, length = 0.3, 24
    inputs = tables(heads=3, texts=4, length=length, width=length)
    inputs[5][:] = True

    def dropping(*given):
        torch.manual_seed(5)
        return kernel.attend(*given, rate)

    units = [*inputs[:2], torch.eye(length).double().expand(3, 4, -1, -1), *inputs[3:]]
    weights = dropping(*units)
    kept = (weights > 0).double() / (1 - rate)
    assert abs(float((kept > 0).double().mean()) - (1 - rate)) < 4 * (rate * (1 - rate) / kept.numel()) ** 0.5
    assert_close(weights, plainly(*units, kept=kept), rtol=1e-6, atol=1e-7)
    expected = slopes(lambda *given: plainly(*given, kept=kept), inputs)
    assert_close(slopes(dropping, inputs), expected, rtol=1e-6, atol=1e-6)
    patterns = [tuple(one.flatten().tolist()) for one in (kept > 0).flatten(0, 1)]
    assert len(set(patterns)) == 12  # every head of every text has its own
    columns = (kept > 0).double().flatten(0, 1)
    assert abs(float(torch.corrcoef(columns.flatten(1)).fill_diagonal_(0).abs().max())) < 0.2
    once, again = kernel.attend(*units, rate), kernel.attend(*units, rate)
    assert not torch.equal(once > 0, again > 0)


def test_without_training_nothing_is_dropped(kernel):
    _, model = pair(fused=True, attention_probs_dropout_prob=0.5)
    inputs = batch(9)
    first, again = (model.eval()(**inputs).last_hidden_state for _ in range(2))
    assert torch.equal(first, again)
    first, again = (model.train()(**inputs).last_hidden_state for _ in range(2))
    assert not torch.allclose(first, again)


def test_nothing_of_the_square_of_the_length_is_kept(kernel):
    inputs = tables(length=64, width=8)
    inputs[5] = torch.ones(1, 3, 1, 64, dtype=torch.bool)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one) or one, lambda one: one):
        kernel.attend(*inputs)
    assert kept and all(one.untyped_storage().nbytes() < 8 * 64 * 64 * 2 for one in kept)


def test_gradient_checkpointing_draws_the_same_dropout():
    _, model = pair(fused=True, attention_probs_dropout_prob=0.3)
    found = []
    for again in (False, True):
        if again:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        torch.manual_seed(3)
        found.append(outcome(model.train(), batch(9))[1])
    assert_close(found[1], found[0])


def test_heads_that_are_too_wide_are_refused(kernel):
    with pytest.raises(ValueError, match="at most 128; this one is 136 wide"):
        kernel.attend(*tables(length=2, width=136))


def test_they_compile_for_gpus_and_fit():
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    words = [sys.executable, "scripts/compile_kernels.py"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == 2 + 2 * 3 * 2
