"""Houlsby's adapters: their places, their starts, their counts, and a model written out by hand."""

import peft
import pytest
import reference
import torch
from test_counts import BACKBONES
from tiny import batch, build, logits, randomise
from torch.testing import assert_close

from methods import backbone
from methods.additive.houlsby import HoulsbyConfig
from methods.forms import Bottleneck
from methods.parts import hidden

COUNTS = {  # size -> DeBERTaV3-base, RoBERTa-base, BART-large, T5-base
    8: (313_536, 313_536, 1_044_960, 783_840),
    16: (608_640, 608_640, 2_028_480, 1_521_600),
    32: (1_198_848, 1_198_848, 3_995_520, 2_997_120),
    64: (2_379_264, 2_379_264, 7_929_600, 5_948_160),
}
NORMS = (39_936, 38_400, 126_976, 47_616)
WITHOUT_CROSS = (2_379_264, 2_379_264, 6_343_680, 4_758_528)  # at 64


def attach(family="roberta", kind="classification", **fields):
    return peft.get_peft_model(build(family, kind), HoulsbyConfig(**fields)).eval()  # no task type: the head stays


def formula(form, states):
    """W_up swish(W_down h + b_down) + b_up, without the module's own forward."""
    inner = states @ form.down.weight.T + form.down.bias
    return inner * torch.sigmoid(inner) @ form.up.weight.T + form.up.bias


@pytest.mark.parametrize("index", range(4), ids=list(BACKBONES))
def test_counts(index):
    model_cls, config = list(BACKBONES.values())[index]
    with torch.device("meta"):
        model = model_cls(config)
    wanted = [({"bottleneck_size": size}, row[index]) for size, row in COUNTS.items()]
    wanted.append(({"bottleneck_size": 64, "cross_attention": False}, WITHOUT_CROSS[index]))
    wanted.append(({"bottleneck_size": 8, "train_layernorm": True}, COUNTS[8][index] + NORMS[index]))
    for fields, expected in wanted:
        tuned = peft.get_peft_model(model, HoulsbyConfig(**fields))
        assert sum(p.numel() for p in tuned.parameters() if p.requires_grad) == expected, fields
        model = tuned.unload()


def test_roberta_by_hand():
    model = randomise(attach().double(), 0.3)
    plain, inputs = build("roberta").double(), batch("roberta")
    parts = model.base_model.adapter()

    def after(site, h, x):
        path = f"roberta/encoder/layer/{site[1]}/{'attention/' if site[0] == 'attention' else ''}output/dropout"
        return h + formula(parts[path].form, h)

    with torch.no_grad():
        assert_close(logits(model, inputs), reference.roberta(plain, inputs, after), rtol=1e-9, atol=1e-9)
        assert_close(logits(plain, inputs), reference.roberta(plain, inputs), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("cross", [True, False])
def test_t5_by_hand(cross):
    model = randomise(attach("t5", "generation", cross_attention=cross), 0.3)
    plain, inputs = build("t5", "generation"), batch("t5", "generation", lengths=(7, 7))
    parts = model.base_model.adapter()

    def after(site, h, x):
        stack, kind, index = site
        place = {"attention": 0, "cross": 1, "ffn": 2 if stack == "decoder" else 1}[kind]
        path = f"{stack}/block/{index}/layer/{place}/dropout"
        assert (path in parts) == (cross or kind != "cross")
        return h + formula(parts[path].form, h) if path in parts else h

    with torch.no_grad():
        assert_close(logits(plain, inputs), reference.t5(plain, inputs), rtol=1e-4, atol=1e-4)
        assert_close(logits(model, inputs), reference.t5(plain, inputs, after), rtol=1e-4, atol=1e-4)


def test_starts():
    torch.manual_seed(0)
    weights = {init: Bottleneck(400, 100, init=init).down.weight for init in ("normal", "houlsby", "identity")}
    assert_close(weights["normal"].std(), torch.tensor(0.02), rtol=0.05, atol=0)
    assert weights["houlsby"].abs().max() <= 2e-3 < weights["normal"].abs().max()
    assert_close(weights["houlsby"].std(), torch.tensor(0.88e-3), rtol=0.05, atol=0)
    assert weights["identity"].abs().max() <= 1 / 20  # 1 / sqrt(fan-in)
    assert_close(Bottleneck(400, 100, std=0.3).up.weight.std(), torch.tensor(0.3), rtol=0.05, atol=0)
    assert not torch.cat([p for p in Bottleneck(8, 2).parameters() if p.dim() == 1]).any()


def test_identity_starts_at_the_backbone():
    for family in ("deberta", "roberta", "bart", "t5"):
        model = attach(family, init="identity")
        assert torch.equal(logits(model, batch(family)), logits(build(family), batch(family)))


def test_scaling_and_dropout():
    form, states = Bottleneck(16, 4, scaling=3.0, dropout=0.5), torch.randn(200, 16)
    plain = Bottleneck(16, 4)
    plain.load_state_dict(form.state_dict())
    assert_close(form.eval()(states), 3 * plain(states))
    assert not torch.equal(form.train()(states), form(states))


def test_norms_are_trained_where_asked():
    model = attach("deberta", train_layernorm=True)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    norms = {path for path, module in build("deberta").named_modules() if isinstance(module, torch.nn.LayerNorm)}
    parts = {name.replace("/", ".").rpartition(".")[0] for name in model.base_model.adapter() if "LayerNorm" in name}
    assert parts == norms
    assert len([name for name in trained if "LayerNorm" in name]) == 2 * len(norms)
    inputs = batch("deberta")
    randomise(model)
    model.set_adapter("default")
    changed = logits(model, inputs)
    with model.disable_adapter():
        assert torch.equal(logits(model, inputs), logits(build("deberta"), inputs))
    assert not torch.equal(changed, logits(build("deberta"), inputs))


@pytest.mark.parametrize(("family", "kind"), [("roberta", "classification"), ("t5", "generation")])
def test_dropped_layers(family, kind):
    """AdapterDrop: no adapter below, nothing to differentiate there."""
    model = attach(family, kind, skip_layers=[0])
    whole = attach(family, kind)
    paths, all_paths = (m.base_model.adapter().keys() for m in (model, whole))
    assert {path for path in all_paths if path not in paths} == {
        path for path in all_paths if path.startswith(("roberta/encoder/layer/0/", "encoder/block/0/"))
    }
    noticed = []
    model.base_model.model.get_submodule(
        "roberta.encoder.layer.0" if family == "roberta" else "encoder.block.0"
    ).register_forward_hook(lambda module, args, output: noticed.append(hidden(output).requires_grad))
    model(**{key: value for key, value in batch(family, kind).items() if key != "labels"})
    assert noticed == [False]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bottleneck_size": 0}, "at least 1"),
        ({"init": "xavier"}, "known are normal, houlsby, identity"),
        ({"activation": "sigh"}, "no activation is called 'sigh'.*relu"),
        ({"skip_layers": [2]}, "layers 0 to 1"),
        ({"skip_layers": [0, 1]}, "no place is left"),
    ],
)
def test_bad_options(fields, message):
    with pytest.raises(ValueError, match=message):
        attach(**fields)


def test_norms_of_a_head_are_not_the_backbones():
    model = build("roberta")
    model.classifier.add_module("norm", torch.nn.LayerNorm(16))
    tuned = peft.get_peft_model(model, HoulsbyConfig(train_layernorm=True, modules_to_save=["classifier"]))
    assert not [name for name in tuned.base_model.adapter() if "classifier" in name]
    assert backbone.CONTAINER not in "".join(tuned.base_model.adapter())
