"""The contract battery on files: what is saved, what loads, where, and what is refused."""

import subprocess
import sys

import peft
import pytest
import torch
from battery import each, trained
from safetensors.torch import load_file
from tiny import METHODS, ROOT, Case, logits, randomise, train

import methods
from methods import saved

OURS = [row.name for row in methods.METHODS if row.file != "peft"]


@each
def test_save_and_reload(case, tmp_path):
    model, inputs = randomise(case.attach()), case.batch()
    expected = logits(model, inputs)
    model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "adapter_model.safetensors")
    scores = {name: p for name, p in trained(model).items() if case.row.scores and name.endswith(case.row.scores)}
    whole = [p.numel() for name, p in trained(model).items() if name not in scores]
    packed = [-(-p.numel() // 8) for p in scores.values()]
    assert sum(tensor.numel() for tensor in stored.values() if tensor.dtype is torch.float32) == sum(whole)
    assert sum(tensor.numel() for tensor in stored.values() if tensor.dtype is torch.uint8) == sum(packed)
    assert {tensor.dtype for tensor in stored.values()} <= {torch.float32, torch.uint8}
    for head in case.head:
        assert any(f".{head}." in name for name in stored), head
    again = peft.PeftModel.from_pretrained(case.base(), tmp_path)
    assert torch.equal(logits(again, inputs), expected)
    assert not trained(again)
    resumed = peft.PeftModel.from_pretrained(case.base(), tmp_path, is_trainable=True)
    assert trained(resumed).keys() == trained(model).keys()
    train(resumed, [inputs], steps=1)


@pytest.mark.parametrize("method", OURS)
def test_another_backbone_is_refused(method, tmp_path):
    case = Case(method, "roberta", "classification")
    case.attach().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="belongs to a backbone with fingerprint"):
        peft.PeftModel.from_pretrained(case.base(seed=1), tmp_path)
    low_precision = peft.PeftModel.from_pretrained(case.base().bfloat16(), tmp_path)
    adapter = [parameter for name, parameter in low_precision.named_parameters() if case.is_adapter(name)]
    assert all(parameter.dtype is torch.float32 for parameter in adapter)
    assert torch.isfinite(logits(low_precision, case.batch())).all()


@pytest.mark.parametrize("method", [name for name in METHODS if name not in OURS])
def test_another_backbone_is_refused_to_adapters_of_peft(method, tmp_path):
    case = Case(method, "roberta", "classification")
    bare = case.base()
    config = case.config()
    saved.mark(bare, config)
    model = peft.get_peft_model(bare, config)
    model.save_pretrained(tmp_path)
    saved.sign(tmp_path, model.peft_config["default"])
    with pytest.raises(ValueError, match="belongs to a backbone with fingerprint"):
        saved.load(case.base(seed=1), tmp_path)
    assert not trained(saved.load(case.base(), tmp_path))


@pytest.mark.parametrize("method", OURS)
def test_loading_through_the_meta_device(method, tmp_path):
    case = Case(method, "bart", "classification")
    model = randomise(case.attach())
    model.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(case.base(), tmp_path, low_cpu_mem_usage=True)
    assert torch.equal(logits(again, case.batch()), logits(model, case.batch()))


def test_fresh_process_loads_every_method_of_ours(tmp_path):
    """`import methods` is all that a new process needs."""
    for method in OURS:
        case = Case(method, "bart", "classification")
        model = randomise(case.attach())
        model.save_pretrained(tmp_path / method)
        torch.save(logits(model, case.batch()), tmp_path / method / "logits.pt")
    script = (
        "import sys, torch, peft, methods; sys.path.insert(0, 'tests/methods'); import tiny\n"
        "for method in sys.argv[2:]:\n"
        "    model = peft.PeftModel.from_pretrained(tiny.build('bart'), f'{sys.argv[1]}/{method}')\n"
        "    expected = torch.load(f'{sys.argv[1]}/{method}/logits.pt')\n"
        "    assert torch.equal(tiny.logits(model, tiny.batch('bart')), expected), method\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path), *OURS], cwd=ROOT, check=True, timeout=120)
