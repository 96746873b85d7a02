"""Every backbone's YAML, built from its shape alone on the meta device: the parameter totals that are published.

Counts of encoders are without a pooler, as the papers count them; `total` has a head for two classes.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from specs import composed

from harness import compose, directory, model, published
from harness.errors import ConfigError
from methods.disentangled import LeanDisentangled

# Parameters of the backbone, and with the head for two classes where a sheet or card gives it.
ENCODERS = {
    "deberta_v3_xsmall": (70_682_112, None),
    "deberta_v3_small": (141_304_320, None),
    "deberta_v3_base": (183_831_552, 184_423_682),
    "deberta_v3_large": (434_012_160, None),
    "roberta_base": (124_055_040, 124_647_170),
    "roberta_large": (354_310_144, 355_361_794),
    "bert_base": (108_891_648, 109_483_778),
    "bert_large": (334_092_288, None),
    "minilm": (22_565_376, None),
}
DECODERS = {
    "bart_base": 139_420_416,
    "bart_large": 406_291_456,
    "t5_small": 60_506_624,
    "t5_base": 222_903_552,
    "t5_large": 737_668_096,
    "t5_3b": 2_851_598_336,
    "t5_11b": 11_307_321_344,
    "t5_v11_small": 76_961_152,
    "t5_v11_base": 247_577_856,
    "t5_v11_large": 783_150_080,
    "t5_v11_xl": 2_849_757_184,
    "t5_v11_xxl": 11_135_332_352,
}
DECODERS |= {name.replace("v11_", "") + "_lm_adapt": count for name, count in DECODERS.items() if "v11" in name}
CLASSES = SimpleNamespace(kind="classification", labels=("no", "yes"))
TEXT = SimpleNamespace(kind="generation", labels=())


def built(name, task):
    spec = composed(f"model={name}", "model.init=random").model
    return model.skeleton(spec, directory.locate(spec), task), spec


def test_every_backbone_is_counted():
    named = {name for name in compose.options("model") if not name.startswith("demo_")}
    assert named == {*ENCODERS, *DECODERS}


def test_the_backbones_of_the_published_tables_are_here():
    tables = [published.load(name) for name in published.names()]
    wanted = {
        cell.setting.model for one in tables if one.can_run for row in one.rows.values() for cell in row.cells.values()
    }
    assert wanted - set(compose.options("model")) == set()


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders(name):
    made, spec = built(name, CLASSES)
    head = sum(p.numel() for n, p in made.named_parameters() if any(part in spec.head_modules for part in n.split(".")))
    backbone, total = ENCODERS[name]
    assert sum(p.numel() for p in made.parameters()) - head == backbone
    assert total is None or backbone + head == total


@pytest.mark.parametrize("name", DECODERS)
def test_encoder_decoders(name):
    made, _ = built(name, TEXT)
    assert sum(p.numel() for p in made.parameters()) == DECODERS[name]
    tied = made.get_output_embeddings().weight is made.get_input_embeddings().weight
    assert tied is not ("t5_v11" in name or "lm_adapt" in name)


@pytest.mark.parametrize(
    "name", ["deberta_v3_small", "bart_base", "t5_small", "t5_v11_small", "minilm", "roberta_base"]
)
def test_sites_and_head_modules_exist_in_the_models(name):
    import re

    made, spec = built(name, CLASSES)
    names = [module for module, _ in made.named_modules()]
    for site, pattern in spec.sites.items():
        assert any(re.fullmatch(pattern, module) for module in names), f"{name}: {site} names no module"
    assert any(module.split(".")[-1] in spec.head_modules for module in names)


def test_random_weights_need_neither_hub_nor_directory():
    words = ("model=minilm", "model.init=random", "model.shape.num_hidden_layers=1", "model.shape.hidden_size=24")
    spec = composed(*words).model
    at = directory.locate(spec)
    shape = directory.shaped(spec, at)
    assert shape["hidden_size"] == 24
    made, tokenizer = model.load(spec, at, CLASSES, seed=0)
    batch = tokenizer(["a b"], return_tensors="pt")
    with torch.no_grad():
        assert made(**batch).logits.shape == (1, 2)
    again, _ = model.load(spec, at, CLASSES, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), again.parameters(), strict=True))
    other = composed(*words, "model.shape.intermediate_size=48").model
    prints = {directory.fingerprint(at, "random", one.shape) for one in (spec, other)}
    assert len(prints) == 2


def test_a_wrong_word_of_the_shape_is_an_error_not_a_default():
    spec = composed("model=minilm", "model.init=random", "+model.shape.hiden_size=24").model
    with pytest.raises(ConfigError, match="hidden_size"):
        model.skeleton(spec, directory.locate(spec), CLASSES)


def test_deberta_is_loaded_with_lean_attention_unless_asked_otherwise():
    logits, leans = [], []
    for words in ((), ("model.attention=transformers",)):
        spec = composed("model=demo_deberta", *words).model
        made, tokenizer = model.load(spec, directory.locate(spec), CLASSES, seed=0)
        leans.append(sum(isinstance(module, LeanDisentangled) for module in made.modules()))
        with torch.no_grad():
            logits.append(made(**tokenizer(["the cat sleeps", "a dog"], padding=True, return_tensors="pt")).logits)
    assert leans == [3, 0]
    torch.testing.assert_close(*logits, rtol=0, atol=1e-5)
    with pytest.raises(ConfigError, match=r"family roberta.*Allowed: transformers"):
        composed("model=demo_roberta", "model.attention=lean")
