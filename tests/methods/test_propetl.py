"""PROPETL: masks, gradients and bytes against the authors' code, and whole trainings written out by hand."""

import json
import math
import struct

import peft
import pytest
import torch
import transformers as tf
from oracles import oracle, tensor
from safetensors.torch import load_file
from tiny import batch, build, logits, randomise, task_loss, train
from torch import nn
from torch.testing import assert_close

from methods import hooks
from methods.additive.pfeiffer import PfeifferConfig
from methods.forms import Bottleneck
from methods.hybrid.masks import LayerMasks, Scores, Tasks, pack, scores_of, top_mask, unpack
from methods.hybrid.propetl import MaskedBottleneck, PropetlConfig
from methods.hybrid.propetl_lora import Factors, PropetlLoraConfig
from methods.hybrid.propetl_prefix import MaskedPrefix, PropetlPrefixConfig

CONFIGS = {"adapter": PropetlConfig, "lora": PropetlLoraConfig, "prefix": PropetlPrefixConfig}
SIZES = {"adapter": {"bottleneck_size": 6}, "lora": {"r": 4, "lora_alpha": 6.0}, "prefix": {"prefix_length": 3}}
forms = pytest.mark.parametrize("form", CONFIGS)
T5_PARAMS = 222_903_552


def attach(form="adapter", family="t5", kind="generation", **fields):
    return peft.get_peft_model(build(family, kind), CONFIGS[form](**SIZES[form] | fields)).eval()


def scores(model):
    return {name: p for name, p in model.named_parameters() if name.endswith(".scores")}


# the mask and its bits -------------------------------------------------------------------------------------------


def test_masks_of_the_authors():
    for case in oracle("propetl_mask_topk.json")["cases"]:
        values = torch.tensor(case["scores"], dtype=torch.float32).reshape(case["shape"])
        mask = top_mask(values, case["k"])
        assert "".join(str(int(value)) for value in mask.flatten()) == case["mask"]
        assert int(mask.sum()) == case["ones"] == values.numel() - case["j_zeros"]


def test_zeros_of_the_authors():
    for keep, row in oracle("propetl_zero_counts.json")["j"].items():
        for count, zeros in row.items():
            mask = top_mask(torch.rand(int(count)) + 0.1, float(keep))
            assert int((mask == 0).sum()) == zeros


def test_bytes_of_the_authors():
    case = oracle("propetl_bitpack.json")
    mask = torch.tensor(case["mask"])
    assert pack(mask).tolist() == case["bytes"]
    assert unpack(pack(mask), (13,)).int().tolist() == case["mask"]


@pytest.mark.parametrize("mode", ["task_only", "task_OR_layer", "task_AND_layer", "task_ADD_layer"])
def test_adapter_of_the_authors(mode):
    case = next(case for case in oracle("propetl_t5_adapter_fwdbwd.json")["cases"] if case["mode"] == mode)
    given, d, size = {name: tensor(entry) for name, entry in case["params"].items()}, case["d"], case["bn"]
    prototype = Bottleneck(d, size, activation_name=case["act"]).double()
    shapes = {"down": (size, d), "up": (d, size)}
    made = {task: nn.ModuleDict({n: Scores(s, case["k"]).double() for n, s in shapes.items()})
            for task in ("rte", "cola", "layer")}  # fmt: skip
    with torch.no_grad():
        for name in shapes:
            for kind in ("weight", "bias"):
                key = f"adapters.common_adapter.{name}_sampler.{kind}"
                getattr(getattr(prototype, name), kind).copy_(given[key])
            for task in made:
                if f"mask_scores.{task}_{name}_mask.param" in given:
                    made[task][name].scores.copy_(given[f"mask_scores.{task}_{name}_mask.param"])
    tasks = Tasks({task: made[task] for task in ("rte", "cola")})
    tasks.active = "rte"
    masks = LayerMasks(made["rte"]) if mode == "task_only" else LayerMasks(made["layer"], tasks, mode[5:-6].lower())
    form = MaskedBottleneck(prototype, masks)
    f, h, cotangent = (tensor(case[key], (2, 3, d)) for key in ("ff_out", "hidden_before_ff", "cotangent"))
    y = f + form(f + h)
    assert_close(y, tensor(case["y"], (2, 3, d)), rtol=0, atol=1e-7)
    (y * cotangent).sum().backward()
    for name, expected in case["grads"].items():
        which = next(n for n in shapes if f"{n}_sampler" in name or f"_{n}_mask" in name)
        task = name.removeprefix("mask_scores.").partition("_")[0]
        layer = getattr(prototype, which)
        found = made[task][which].scores if "mask_scores" in name else getattr(layer, name.rpartition(".")[2])
        assert_close(found.grad.flatten(), tensor(expected).flatten(), rtol=0, atol=1e-7)
    assert all(scores.scores.grad is None for scores in made["cola"].values())


@pytest.mark.parametrize("keep", [0.1, 0.3, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("shape", [(1, 10), (4, 6), (2, 3, 5)])
def test_straight_through(keep, shape):
    """By sorting: so many zeros, where |S| is smallest; and sign(S) times the mask's gradient, everywhere."""
    torch.manual_seed(0)
    layer, upstream = Scores(shape, keep).double(), torch.randn(shape, dtype=torch.float64)
    mask = layer()
    zeros = int((1 - keep) * math.prod(shape))
    order = layer.scores.detach().abs().flatten().sort().values
    border = order[zeros - 1] if zeros else -1.0
    assert torch.equal(mask, (layer.scores.abs() > border).double())
    (mask * upstream).sum().backward()
    assert_close(layer.scores.grad, layer.scores.detach().sign() * upstream, rtol=0, atol=0)
    bound = 1 / math.sqrt(math.prod(shape[1:]))
    assert layer.scores.abs().max() <= bound


def test_keep_is_truncated_as_in_double_precision():
    assert int(top_mask(torch.arange(1.0, 11), 0.9).sum()) == 10  # (1 - 0.9) 10 = 0.99...


@pytest.mark.parametrize("count", [1, 8, 13, 98_304])
def test_bits_there_and_back(count):
    mask = torch.rand(count, generator=torch.Generator().manual_seed(0)) < 0.3
    packed = pack(mask)
    assert (packed.dtype, packed.numel()) == (torch.uint8, math.ceil(count / 8))
    assert torch.equal(unpack(packed, (count,)), mask)
    assert packed[0] & 1 == mask[0]
    with pytest.raises(ValueError, match="bytes; the file has"):
        unpack(packed, (count + 8,))


def test_scores_of_a_mask_give_it_again_and_can_move():
    mask = top_mask(torch.randn(12, 7), 0.3)
    again = scores_of(mask)
    assert torch.equal(top_mask(again, 0.3), mask)
    assert again.abs().min() > 0
    fan_in = torch.tensor(
        [[True, False, False, True]]
    )  # 4 entries a row: of the size that new scores have, 1 / sqrt(4)
    assert torch.equal(scores_of(fan_in), torch.tensor([[0.5, 0.25, 0.25, 0.5]]))


@pytest.mark.parametrize(("method", "table"), [("or", "0111"), ("and", "0001"), ("add", "0112")])
def test_combinations(method, table):
    own, task = (Scores((1, 4), 0.5) for _ in range(2))
    own.scores.data, task.scores.data = torch.tensor([[1.0, 2, 3, 4]]), torch.tensor([[1.0, 3, 2, 4]])
    tasks = Tasks({"a": nn.ModuleDict({"m": task})})
    tasks.active = "a"
    mask = LayerMasks(nn.ModuleDict({"m": own}), tasks, method)("m")
    assert "".join(str(int(value)) for value in mask.flatten()) == table
    mask.sum().backward()
    other = torch.tensor([[0.0, 1, 0, 1]])  # the task's mask
    slope = {"or": 1 - other, "and": other, "add": torch.ones(1, 4)}[method]
    assert torch.equal(own.scores.grad, slope)


# one prototype, many layers --------------------------------------------------------------------------------------


@forms
def test_one_prototype(form):
    model = attach(form)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    prototypes = {name.split("prototype")[1].split(".")[0] for name in trained.keys() - scores(model).keys()}
    wanted = {"adapter": {""}, "lora": {"_query", "_value"}, "prefix": {"_encoder", "_decoder", "_cross"}}
    assert prototypes == wanted[form]


@pytest.mark.parametrize("form", ["adapter", "lora"])
def test_a_prototype_a_stack(form):
    names = attach(form, share_stacks=False).base_model.adapter().keys()
    assert {name.split("_")[1] for name in names if name.startswith("prototype")} == {"encoder", "decoder"}


@pytest.mark.parametrize("family", ["deberta", "roberta", "bart", "t5"])
def test_keeping_all_is_one_adapter_in_all_layers(family):
    model = randomise(attach("adapter", family, "classification", keep=1.0, activation="relu"), 0.3)
    plain = peft.get_peft_model(build(family), PfeifferConfig(bottleneck_size=6))
    prototype = model.base_model.adapter()["prototype"].state_dict()
    for part in plain.base_model.adapter().parts():
        part.form.load_state_dict(prototype)
    assert torch.equal(logits(model, batch(family)), logits(plain, batch(family)))


def test_masks_belong_to_layers():
    """Change one layer's scores, and that layer's adapter is another; swap two layers' scores, and they swap."""
    model = randomise(attach("adapter", "roberta", "classification"))
    first, second = (part.form for part in model.base_model.adapter().parts())
    x = torch.randn(2, 16)
    before = first(x), second(x)
    assert not torch.allclose(*before)
    state = {name: parameter.detach().clone() for name, parameter in first.named_parameters()}
    first.load_state_dict(second.state_dict())
    second.load_state_dict(state)
    assert torch.equal(first(x), before[1]) and torch.equal(second(x), before[0])


@pytest.mark.parametrize(("transposed", "bounds"), [(False, (1 / 4, 1 / 6**0.5)), (True, (1 / 6**0.5, 1 / 4))])
def test_starts(transposed, bounds):
    torch.manual_seed(0)
    model = attach("adapter", transposed_scores=transposed)
    for name, bound in zip(("down", "up"), bounds, strict=True):
        found = torch.cat([p.flatten() for key, p in scores(model).items() if f".{name}." in key]).abs().max()
        assert 0.95 * bound < found <= bound
    prefix = attach("prefix")
    assert max(p.abs().max() for p in scores(prefix).values()) <= 1 / (3 * 2 * 16) ** 0.5
    prototype = model.base_model.adapter()["prototype"]
    assert prototype.down.weight.std() < 0.015 and not prototype.up.bias.any()


def test_lora_by_hand_and_merged():
    model = randomise(attach("lora", "roberta", "classification", keep=0.4).double())
    inputs, plain = batch("roberta"), build("roberta").double()
    modules = model.base_model.adapter()
    with torch.no_grad():
        for path, part in ((p.replace("/", "."), m) for p, m in modules.items() if hasattr(m, "form")):
            role, linear = path.rpartition(".")[2], plain.get_submodule(path)
            a, b = modules[f"prototype_{role}"].a, modules[f"prototype_{role}"].b
            masks = [top_mask(part.form.masks.own[f"{role}_{name}"].scores, 0.4) for name in "ab"]
            linear.weight += 1.5 * (b * masks[1]) @ (a * masks[0])
    expected = logits(plain, inputs)
    assert_close(logits(model, inputs), expected, rtol=1e-9, atol=1e-9)
    merged = model.merge_and_unload()
    for name, weight in plain.named_parameters():
        assert_close(merged.get_parameter(name), weight, rtol=0, atol=1e-12)


def test_prefix_network_is_dropped_when_training_ends(tmp_path):
    model = randomise(attach("prefix", reparameterize=True, network_width=7))
    inputs = batch("t5", "generation")
    bits, expected = model.base_model.stored_bits(), logits(model, inputs)
    hooks.find(model).on_train_end()
    kept = {name: module for name, module in model.base_model.adapter().items() if name.startswith("prototype")}
    parts = [part.form for part in model.base_model.adapter().parts() if isinstance(part.form, MaskedPrefix)]
    assert {id(form.prototype) for form in parts} == {id(module) for module in kept.values()} and len(kept) == 3
    assert torch.equal(logits(model, inputs), expected)
    assert model.base_model.stored_bits() == bits == 32 * 3 * 3 * 32 + 6 * 3 * 32
    model.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(build("t5", "generation"), tmp_path)
    assert torch.equal(logits(again, inputs), expected)


# tasks -----------------------------------------------------------------------------------------------------------


@forms
def test_tasks(form, tmp_path):
    model, inputs = randomise(attach(form, tasks=["rte", "glue/mnli.m", "cola"])), batch("t5", "generation")
    with pytest.raises(ValueError, match=r"no task is set; call set_task with one of rte, glue/mnli.m, cola"):
        logits(model, inputs)
    with pytest.raises(ValueError, match="'sst2' is no task"):
        hooks.find(model).set_task("sst2")
    found = {}
    for task in ("rte", "glue/mnli.m", "cola"):
        hooks.find(model).set_task(task)
        found[task] = logits(model, inputs)
    assert not torch.allclose(found["rte"], found["cola"])
    hooks.find(model).set_task("rte")
    hooks.find(model).loss(model, inputs, task_loss).backward()
    masks = model.base_model.adapter()["tasks"].masks
    moved = [any(p.grad is not None and p.grad.any() for p in mask.parameters()) for mask in masks]
    assert moved == [True, False, False]
    model.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(build("t5", "generation"), tmp_path)
    hooks.find(again).set_task("cola")
    assert torch.equal(logits(again, inputs), found["cola"])


def test_set_task_without_tasks_is_nothing():
    model = attach()
    hooks.find(model).set_task("rte")
    logits(model, batch("t5", "generation"))


@forms
def test_borrowed_masks_are_the_last_tasks(form):
    own, borrowed = (attach(form, tasks=["rte", "cola"], borrow_last_task=flag) for flag in (False, True))
    fewer = len(scores(own)) - len(scores(borrowed))
    assert fewer == {"adapter": 2, "lora": 4, "prefix": 1}[form]
    randomise(borrowed)
    hooks.find(borrowed).set_task("rte")
    inputs = batch("t5", "generation")
    before = logits(borrowed, inputs)
    cola = borrowed.base_model.adapter()["tasks"].masks[1]
    with torch.no_grad():
        for layer in cola.values():
            layer.scores.copy_(torch.randn_like(layer.scores))
    assert not torch.equal(logits(borrowed, inputs), before), "the first layer looks at cola's scores"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"keep": 0.0}, "above 0 and at most 1"),
        ({"keep": 1.1}, "above 0 and at most 1"),
        ({"combine": "xor"}, "known are or, and, add"),
        ({"tasks": ["rte", "rte"]}, "names a task twice"),
        ({"borrow_last_task": True}, "needs tasks"),
    ],
)
@forms
def test_bad_options(form, fields, message):
    with pytest.raises(ValueError, match=message):
        attach(form, **fields)


def test_rank_above_the_matrix():
    with pytest.raises(ValueError, match="rank r=17 does not fit a matrix of rank 16"):
        attach("lora", r=17)
    for shape in ((8, 4), (4, 8)):
        with pytest.raises(ValueError, match="rank r=5 does not fit a matrix of rank 4"):
            Factors(*shape, 5)


@pytest.mark.parametrize("family", ["roberta", "t5"])
def test_lora_starts_as_the_backbone(family):
    inputs = batch(family)
    assert torch.equal(logits(attach("lora", family, "classification"), inputs), logits(build(family), inputs))


# storage ---------------------------------------------------------------------------------------------------------


def t5_base_shapes():
    """Hidden size and layers of T5-base, which decide the adapters' sizes; everything else as small as it gets."""
    config = tf.T5Config(vocab_size=8, d_model=768, d_kv=8, d_ff=8, num_layers=12, num_heads=1)
    return tf.T5ForConditionalGeneration(config)


TASKS = ["rte", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "cola"]


@pytest.mark.parametrize(("size", "published"), [(64, 0.011), (6, 0.001)])
@pytest.mark.parametrize("borrow", [False, True])
def test_bytes_on_disk(size, published, borrow, tmp_path):
    """The formula 32 N + (L + T) w bits, and the file: nothing beside it but a header."""
    config = PropetlConfig(bottleneck_size=size, tasks=TASKS, borrow_last_task=borrow)
    model = peft.get_peft_model(t5_base_shapes(), config)
    masked = 2 * 768 * size
    prototype, masks = masked + 768 + size, 24 + 8 - borrow
    bits = 32 * prototype + masks * masked
    assert model.base_model.stored_bits() == bits
    trace = json.loads(json.dumps(hooks.find(model).trace()))
    assert trace == {"stored_bits": bits, "stored_params": prototype + masks * masked}
    if not borrow:  # %BLS per task of the paper's table, to its digits
        assert round(100 * bits / (32 * T5_PARAMS) / 8, 3) == published
    model.save_pretrained(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    header = 8 + struct.unpack("<Q", path.read_bytes()[:8])[0]
    measured = path.stat().st_size - header
    assert measured == bits / 8
    if (size, borrow) == (64, False):
        assert measured == 789_760
    stored = load_file(path)
    assert sum(t.numel() for t in stored.values() if t.dtype is torch.uint8) == masks * masked // 8


@forms
def test_nothing_but_bits_of_the_scores_is_needed(form, tmp_path):
    """Saved, loaded and saved again: the same file; and training goes on from it."""
    model, inputs = randomise(attach(form)), batch("t5", "generation")
    model.save_pretrained(tmp_path / "a")
    again = peft.PeftModel.from_pretrained(build("t5", "generation"), tmp_path / "a", is_trainable=True)
    assert torch.equal(logits(again, inputs), logits(model, inputs))
    again.save_pretrained(tmp_path / "b")
    assert (tmp_path / "a/adapter_model.safetensors").read_bytes() == (
        tmp_path / "b/adapter_model.safetensors"
    ).read_bytes()
    before = {name: p.detach().clone() for name, p in again.named_parameters() if p.requires_grad}
    train(again, [inputs], steps=2)
    assert all(not torch.equal(p, before[name]) for name, p in again.named_parameters() if name in before)


def test_a_mask_of_a_layer_that_is_not_there_is_said(tmp_path):
    model = attach()
    saved = peft.get_peft_model_state_dict(model)
    mask = next(name for name in saved if name.endswith(".bits"))
    with pytest.raises(ValueError, match=r"do not describe the same parts: missing \[\], not expected \['.*/99/"):
        peft.set_peft_model_state_dict(model, saved | {mask.replace("/0/", "/99/"): saved[mask]})


def test_another_size_does_not_load(tmp_path):
    attach(bottleneck_size=6).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"bottleneck_size": 16}))
    with pytest.raises(ValueError, match="a mask of shape"):
        peft.PeftModel.from_pretrained(build("t5", "generation"), tmp_path)


# training: whole ones are in test_propetl_training.py ---------------------------------------------------------------


def test_scores_have_a_rate_of_their_own():
    for form, ratio in (("adapter", 10.0), ("lora", 300.0), ("prefix", 1.0)):
        model = attach(form)
        groups = hooks.optimizer_groups(model, 1e-4, 0.0)
        named = {id(p): name for name, p in model.named_parameters()}
        rates = {name: g["lr"] for g in groups for name in (named[id(p)] for p in g["params"])}
        assert all(
            math.isclose(found, 1e-4 * (ratio if name.endswith(".scores") else 1)) for name, found in rates.items()
        )
        assert len(rates) == len([p for p in model.parameters() if p.requires_grad])
