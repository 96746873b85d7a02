"""A method on a backbone: where its parameters start."""

import contextlib

import peft
import pytest
import torch
from test_quantization import build

from harness import model, targets
from harness.errors import ConfigError
from methods.lowrank import LeanLinear


def attached(**options):
    config = peft.LoraConfig(target_modules=["query"], r=8, task_type="SEQ_CLS", modules_to_save=["classifier"])
    return dict(model.attach(build("roberta"), config, seed=3, **options).named_parameters())


def test_a_start_that_peft_does_not_offer():
    """N(0, std) where the name says so, from the run's seed; everything else as it was."""
    peft_own, ours, again = attached(), attached(init_normal={"lora_A": 0.02}), attached(init_normal={"lora_A": 0.02})
    drawn = torch.cat([parameter.flatten() for name, parameter in ours.items() if "lora_A" in name])
    assert drawn.std().item() == pytest.approx(0.02, rel=0.05)
    assert all(torch.equal(parameter, again[name]) for name, parameter in ours.items())
    same = {name for name, parameter in ours.items() if torch.equal(parameter, peft_own[name])}
    assert ours.keys() - same == {name for name in ours if "lora_A" in name}
    with pytest.raises(ConfigError, match=r"init_normal.lora_Q: no trained parameter has 'lora_Q' in its name"):
        attached(init_normal={"lora_Q": 0.1})


def test_lora_is_lean_unless_it_is_asked_for_as_pefts():
    config = peft.LoraConfig(target_modules=["query"], r=8, task_type="SEQ_CLS", modules_to_save=["classifier"])
    for named, count in (({}, 2), ({"lean": False}, 0)):
        tuned = model.attach(build("roberta"), config, seed=3, **named)
        assert sum(isinstance(module, LeanLinear) for module in tuned.modules()) == count
    with pytest.raises(ConfigError, match=r"method.lean: found no, wanted true or false"):
        model.method_config({"_target_": "peft.LoraConfig", "name": "lora", "lean": "no"}, None, "classification", None)


@pytest.mark.parametrize(
    ("kind", "words", "says"),
    [
        (peft.LoraConfig, {"init_lora_weights": "eva"}, "it would be plain LoRA under that name"),
        (peft.LoraConfig, {"layers_to_transform": [0, 99]}, "there is no layer 99; this backbone has layers 0 to"),
        (peft.LoraConfig, {"layers_to_transform": 99}, "there is no layer 99"),
        (peft.IA3Config, {"feedforward_modules": ["foo"]}, "matches nothing; the linear layers are called dense, key"),
        (peft.IA3Config, {"feedforward_modules": r".*\.foo"}, "matches nothing"),
    ],
)
def test_what_peft_leaves_out_in_silence_is_refused(kind, words, says):
    with pytest.warns() if "eva" in words.values() else contextlib.nullcontext():
        config = kind(**words)
    with pytest.raises(ConfigError, match=says):
        targets.check_silent(config, build("roberta"))


def test_what_peft_does_is_left_alone():
    body = build("roberta")
    for config in (
        peft.LoraConfig(layers_to_transform=[0, 1], init_lora_weights="pissa"),
        peft.LoraConfig(init_lora_weights=False),
        peft.IA3Config(feedforward_modules=r".*\.output\.dense"),
        peft.IA3Config(feedforward_modules=["output.dense"]),
        peft.PromptTuningConfig(),
    ):
        targets.check_silent(config, body)


def test_the_head_is_not_named_twice():
    with pytest.raises(ConfigError, match=r"model\.head_modules names what belongs to it"):
        targets.check_kinds(peft.LoraConfig, {"modules_to_save": ["classifier"]})
