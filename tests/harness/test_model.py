"""A method on a backbone: where its parameters start."""

import peft
import pytest
import torch
from test_quantization import build

from harness import model
from harness.errors import ConfigError


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
