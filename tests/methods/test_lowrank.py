"""A linear layer and its low-rank change in one function: equal to the steps that it stands for, and out of the way elsewhere."""

import copy
import pickle

import peft
import pytest
import tiny
import torch
from tiny import batch, build, randomise
from torch import nn
from torch.testing import assert_close

from methods import lowrank
from methods.lowrank import Beside, LeanLinear, LinearBeside, beside
from methods.reparameterized.adalora import AdaLoRAConfig


def logits(model):
    return tiny.logits(model, batch("roberta"))


def pickled(model):
    return pickle.loads(pickle.dumps(model))  # noqa: S301 (ours, a line ago)


SHAPE = (3, 4, 6)  # texts, tokens, width


def layer(bias=True, outputs=5, dtype=torch.float64):
    torch.manual_seed(0)
    made = nn.Linear(SHAPE[-1], outputs, bias=bias, dtype=dtype)
    return made.requires_grad_(False)


def inputs(outputs=5, rank=2, dtype=torch.float64, trained=True):
    """States, down, up; and what the change reads instead of the states."""
    torch.manual_seed(1)
    shapes = [SHAPE, (rank, SHAPE[-1]), (outputs, rank), SHAPE]
    return [torch.randn(shape, dtype=dtype, requires_grad=trained) for shape in shapes]


def gradients(value, tensors):
    weights = torch.linspace(-1, 2, value.numel(), dtype=value.dtype).view_as(value)
    return torch.autograd.grad((value * weights).sum(), tensors)


@pytest.mark.parametrize("scale", [1.0, 0.3])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("apart", [True, False])
def test_values_and_gradients_are_those_of_the_steps(scale, bias, apart):
    linear, (states, down, up, other) = layer(bias), inputs()
    read = other if apart else states
    expected = linear(states) + scale * (read @ down.mT @ up.mT)
    found = beside(linear, states, down, up, scale, dropped=other if apart else None)
    tensors = [states, down, up, *([other] if apart else [])]
    assert_close(found, expected)
    assert_close(gradients(found, tensors), gradients(expected, tensors))


def test_gradients_of_gradients():
    linear, (states, down, up, _) = layer(), inputs()
    assert torch.autograd.gradgradcheck(lambda *given: beside(linear, *given, 0.3), (states, down, up))


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_what_needs_no_gradient_gets_none(frozen):
    linear, tensors = layer(), inputs()[:3]
    tensors[frozen].requires_grad_(False)
    beside(linear, *tensors).sum().backward()
    assert [tensor.grad is None for tensor in tensors] == [place == frozen for place in range(3)]


def test_an_observer_sees_what_the_change_read_and_its_gradient():
    linear, (states, down, up, other), seen = layer(), inputs(), []
    for dropped in (None, other):
        out = beside(linear, states, down, up, dropped=dropped, observer=lambda *given: seen.append(given))
        out.backward(torch.ones_like(out))
        assert_close(seen[-1][0], (states if dropped is None else other).detach().flatten(0, 1))
        assert_close(seen[-1][1], torch.ones(12, 5, dtype=torch.float64))


def test_autocast_computes_in_bfloat16_and_gives_gradients_in_the_parameters_type():
    linear, (states, down, up, _) = layer(dtype=torch.float32), inputs(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert lowrank.fits(linear, states, down)
        found = beside(linear, states, down, up, 0.5)
        expected = linear(states) + 0.5 * nn.functional.linear(nn.functional.linear(states, down), up)
    assert found.dtype is torch.bfloat16
    assert_close(found, expected, rtol=0.02, atol=0.02)
    ours, theirs = (gradients(one.float(), [states, down, up]) for one in (found, expected))
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype is torch.float32
        assert_close(one, other, rtol=0.05, atol=0.05)


def test_autocast_leaves_float64_alone():
    linear, (states, down, up, _) = layer(), inputs()
    with torch.autocast("cpu", torch.bfloat16):
        assert lowrank.fits(linear, states, down)
        assert_close(beside(linear, states, down, up), linear(states) + states @ down.mT @ up.mT)


@pytest.mark.parametrize("what", ["weight", "bias", "dtype", "codes", "vmap"])
def test_where_it_does_not_fit(what):
    linear, (states, down, *_) = layer(), inputs(trained=False)
    assert lowrank.fits(linear, states, down)
    if what == "vmap":
        answers = []
        torch.vmap(lambda one: answers.append(lowrank.fits(linear, states, one)) or one)(down[None])
        assert answers == [False]
        return
    if what in ("weight", "bias"):
        getattr(linear, what).requires_grad_(True)
    elif what == "dtype":
        linear.bfloat16()
    else:
        linear.weight = nn.Parameter(torch.zeros(5, 6, dtype=torch.uint8), requires_grad=False)
    assert not lowrank.fits(linear, states, down)


def lora(**fields):
    """A tiny model with peft's LoRA, twice: as it is, and lean."""
    config = peft.LoraConfig(
        **{"r": 3, "target_modules": ["query", "value", "dense"], "exclude_modules": ".*(pooler|classifier).*"} | fields
    )
    model = peft.get_peft_model(build("roberta", "classification"), config)
    randomise(model)
    other = copy.deepcopy(model.double())
    assert lowrank.lean(other) > 4
    return model, other


def counted(monkeypatch):
    """How often the one function computed."""
    calls, plain = [], lowrank.beside
    monkeypatch.setattr(lowrank, "beside", lambda *given, **named: calls.append(1) or plain(*given, **named))
    return calls


def losses(model):
    model.zero_grad()
    value = model(**batch("roberta")).logits.square().sum()
    value.backward()
    return value.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("fields", [{}, {"lora_alpha": 3}, {"use_rslora": True}, {"lora_dropout": 0.4}], ids=str)
def test_lora_is_pefts(fields, monkeypatch):
    calls = counted(monkeypatch)
    plain, ours = (model.train() for model in lora(**fields))
    found = []
    for model in (plain, ours):
        torch.manual_seed(7)
        found.append(losses(model))
    assert len(calls) == sum(isinstance(module, LeanLinear) for module in ours.modules())
    assert found[0][1]
    assert_close(found[1], found[0], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("fields", [{"use_dora": True}, {"bias": "all"}, {"lora_bias": True}], ids=str)
def test_what_is_no_plain_lora_is_left_to_peft(fields, monkeypatch):
    plain, ours = lora(**fields)
    calls = counted(monkeypatch)
    assert_close(logits(ours), logits(plain))
    assert not calls


def test_disabling_merging_and_a_second_adapter_are_pefts(tmp_path):
    plain, ours = lora()
    with plain.disable_adapter(), ours.disable_adapter():
        assert torch.equal(logits(ours), logits(plain))
    for model in (plain, ours):
        model.merge_adapter()
    assert_close(logits(ours), logits(plain))
    for model in (plain, ours):
        model.unmerge_adapter()
        torch.manual_seed(0)
        model.add_adapter("second", peft.LoraConfig(r=2, target_modules=["query"], init_lora_weights=False))
        model.base_model.set_adapter(["default", "second"])
    assert_close(logits(ours), logits(plain))
    ours.base_model.set_adapter("default")
    ours.save_pretrained(tmp_path)
    back = peft.PeftModel.from_pretrained(build("roberta", "classification"), tmp_path).double()
    assert_close(logits(back), logits(ours))
    assert_close(logits(pickled(ours)), logits(ours))


def test_a_hook_on_a_part_of_the_layer_is_called():
    _, ours = lora()
    one, seen = next(module for module in ours.modules() if isinstance(module, LeanLinear)), []
    one.lora_A["default"].register_forward_hook(lambda *given: seen.append(1))
    logits(ours)
    assert seen


def ada():
    config = AdaLoRAConfig(task_type="SEQ_CLS", modules_to_save=["classifier"], init_rank=3, target_rank=2)
    model = peft.get_peft_model(build("roberta", "classification"), config)
    randomise(model)
    return model.double()


def test_our_forms_stand_in_the_layer_and_leave_it_as_it_was():
    model = ada()
    stood = [module for module in model.modules() if isinstance(module, LinearBeside)]
    assert stood and not any(module._forward_hooks for module in stood)
    copies = copy.deepcopy(model), pickled(model)
    with model.disable_adapter():
        assert not any(isinstance(module, LinearBeside) for module in model.modules())
    for other in copies:
        randomise(other, seed=5)
        assert not torch.allclose(logits(other), logits(model))  # its own part, not the original's
    plain = model.unload()
    assert not any(type(module) is LinearBeside or lowrank.PART in module.__dict__ for module in plain.modules())


def test_our_forms_by_hooks_compute_the_same(monkeypatch):
    model = ada()
    found = losses(model)
    monkeypatch.setattr(lowrank, "fits", lambda *given: False)
    assert_close(losses(model)[1], found[1], rtol=1e-7, atol=1e-9)
    with monkeypatch.context() as patch:
        patch.setattr(Beside, "mount", lambda self, whole: super(Beside, self).mount(whole))
        hooked = ada()
    assert not any(isinstance(module, LinearBeside) for module in hooked.modules())
    assert_close(losses(hooked)[1], found[1], rtol=1e-7, atol=1e-9)


def test_nothing_more_is_kept_for_the_way_back():
    def kept(model):
        found = []
        with torch.autograd.graph.saved_tensors_hooks(lambda one: found.append(one.numel()) or one, lambda one: one):
            model.train()(**batch("roberta"))
        return sum(found)

    plain, ours = lora()
    weights = 3 * 16 * 3  # the first layer's, of rank 3, which peft's needs not
    assert kept(ours) <= kept(plain) + weights


@pytest.mark.parametrize("half", [False, True])
def test_tensors_without_values_are_asked_for_no_autocast(half):
    """The meta device knows none and says so by an error; memory is estimated and FLOPs are counted there."""
    layer, down, up = (
        torch.nn.Linear(6, 4, device="meta"),
        *(torch.empty(shape, device="meta") for shape in ((2, 6), (4, 2))),
    )
    states = torch.empty(3, 6, device="meta", dtype=torch.bfloat16 if half else torch.float32)
    layer.requires_grad_(False)
    assert not lowrank.casts(states)
    assert lowrank.fits(layer, states, down) is not half
    if not half:
        assert lowrank.beside(layer, states, down, up).shape == (3, 4)
