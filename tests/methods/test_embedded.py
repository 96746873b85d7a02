"""The backbones that travel with the package: every method attaches to real files, trains, saves and loads there."""

import peft
import pytest
import torch
import transformers as tf
from tiny import FAMILIES, KINDS, METHODS, ROOT, Case, logits, randomise, train

BACKBONES = ROOT / "harness/embedded/backbones"
pytestmark = pytest.mark.skipif(not BACKBONES.is_dir(), reason="this checkout has no embedded backbones")
PAIRS = [(method, family, kind) for method in METHODS for family, kind in KINDS]
PAIRS = [pair for pair in PAIRS if (pair[0], pair[2]) != ("head", "generation")]


def load(case):
    kind = tf.AutoModelForSequenceClassification if case.kind == "classification" else tf.AutoModelForSeq2SeqLM
    torch.manual_seed(0)
    extra = {"num_labels": 3} if case.kind == "classification" else {}
    return kind.from_pretrained(BACKBONES / case.family, local_files_only=True, dtype=torch.float32, **extra).eval()


@pytest.mark.parametrize(("method", "family", "kind"), PAIRS)
def test_life_on_an_embedded_backbone(method, family, kind, tmp_path):
    case = Case(method, family, kind)
    base = load(case)
    inputs = case.batch()
    if base.config.eos_token_id is not None and family in ("bart", "t5"):
        ends = inputs["attention_mask"].sum(1, keepdim=True) - 1
        inputs["input_ids"].clamp_(min=5).scatter_(1, ends, base.config.eos_token_id)
    expected = logits(base, inputs)
    model = peft.get_peft_model(base, case.config())
    train(model, [inputs], steps=1)
    randomise(model, 0.1)
    changed = logits(model, inputs)
    with model.disable_adapter():
        assert torch.equal(logits(model, inputs), expected)
    assert not torch.equal(changed, expected)
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(peft.PeftModel.from_pretrained(load(case), tmp_path), inputs), changed)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_module_is_never_missed(family):
    """What a checkpoint lacks is random; all of it must be trained."""
    kind = tf.AutoModelForSequenceClassification
    _, info = kind.from_pretrained(BACKBONES / family, local_files_only=True, output_loading_info=True, num_labels=3)
    model = peft.get_peft_model(load(Case("head", family, "classification")),
                                Case("head", family, "classification").config())  # fmt: skip
    trained = {name.replace(".modules_to_save.default", "") for name, p in model.named_parameters() if p.requires_grad}
    assert {f"base_model.model.{name}" for name in info["missing_keys"]} <= trained
