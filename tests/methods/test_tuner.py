"""The plumbing where the battery does not reach: refusals, penalties, pickling, registration, files that do not fit."""

import json
import pickle
from dataclasses import dataclass

import peft
import pytest
import torch
from peft import PeftType
from safetensors.torch import load_file, save_file
from tiny import Case, batch, build, logits, randomise, task_loss
from torch import nn

from methods import backbone
from methods.hooks import find
from methods.parts import Activation, Weight
from methods.selective.bitfit import BitFitConfig, BitFitTuner
from methods.selective.full import FullConfig
from methods.tuner import Tuner, TunerConfig, register


@dataclass
class TunerProbeConfig(TunerConfig):
    """One scale on the last layer's output weight and an unmergeable activation, in either order."""

    refuse: bool = False
    break_form: bool = False


class Double(nn.Module):
    def __init__(self, broken=False):
        super().__init__()
        self.value, self.broken = nn.Parameter(torch.full((1,), 2.0)), broken

    def forward(self, base):
        return base * (self.missing if self.broken else self.value)


class TunerProbeTuner(Tuner):
    def build(self, model, config):
        site = "roberta.encoder.layer.1.output.dense"
        parts = {"weight": Weight([f"{site}.weight"], Double(config.break_form))}
        return parts | ({"activation": Activation(site, Double())} if config.refuse else {})

    def penalty(self):
        return 5.0 * self.adapter()["weight"].form.value.sum()


register("tuner_probe", TunerProbeConfig, TunerProbeTuner)


def attach(**fields):
    return peft.get_peft_model(build("roberta"), TunerProbeConfig(task_type="SEQ_CLS", **fields)).eval()


def test_a_refused_merge_leaves_the_backbone_alone():
    model, inputs = attach(refuse=True), batch("roberta")
    expected = logits(model, inputs)
    with pytest.raises(ValueError, match="Activation is not a change of the backbone's weights"):
        model.merge_and_unload()
    assert torch.equal(logits(model, inputs), expected)
    with model.disable_adapter():
        assert torch.equal(logits(model, inputs), logits(build("roberta"), inputs))


def test_safe_merge_refuses_what_is_not_finite():
    model = attach()
    model.base_model.adapter()["weight"].form.value.data.fill_(float("inf"))
    with pytest.raises(ValueError, match="not finite"):
        model.merge_adapter(safe_merge=True)
    assert torch.isfinite(model.base_model.model.roberta.encoder.layer[1].output.dense.weight).logical_not().any()
    assert all(torch.isfinite(parameter).all() for name, parameter in model.named_parameters() if "roberta." in name)


def test_merge_unmerge_is_exact_and_disabling_unmerges():
    model, inputs = attach(), batch("roberta")
    base = {name: parameter.clone() for name, parameter in model.named_parameters()}
    model.merge_adapter()
    assert model.base_model.container.merged_adapters == ["default"]
    with pytest.raises(ValueError, match="while they are merged"):
        model.delete_adapter("default")
    with pytest.raises(ValueError, match="cannot be added while another one is merged"):
        model.add_adapter("other", TunerProbeConfig(task_type="SEQ_CLS"))
    with model.disable_adapter():
        assert torch.equal(logits(model, inputs), logits(build("roberta"), inputs))
    assert all(torch.equal(parameter, base[name]) for name, parameter in model.named_parameters())


def test_a_broken_form_is_heard():
    """nn.Module would answer an AttributeError with the frozen tensor, in silence."""
    with pytest.raises(RuntimeError, match=r"the form of Linear.weight failed"):
        logits(attach(break_form=True), batch("roberta"))


def test_the_penalty_is_training_only_and_added_once():
    model, inputs = attach(), batch("roberta")
    outputs = model.train()(**inputs)
    plain = task_loss(outputs.logits, inputs["labels"])
    torch.testing.assert_close(outputs.loss, plain + 10.0)
    torch.testing.assert_close(find(model).loss(model, inputs, task_loss), plain)
    assert model.eval()(**inputs).loss < 10.0


def test_switching_while_disabled():
    model, inputs = attach(), batch("roberta")
    model.add_adapter("other", TunerProbeConfig(task_type="SEQ_CLS"))
    with model.disable_adapter():
        model.set_adapter("other")
        assert torch.equal(logits(model, inputs), logits(build("roberta"), inputs))
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained and all(".other." in name for name in trained)


def test_one_adapter_at_a_time():
    model = attach()
    model.add_adapter("other", TunerProbeConfig(task_type="SEQ_CLS"))
    with pytest.raises(ValueError, match=r"one adapter|multiple|Only one"):
        model.base_model.set_adapter(["default", "other"])


@pytest.mark.parametrize("method", ["bitfit", "full"])
def test_pickle(method):
    case = Case(method, "deberta", "classification")
    model = randomise(case.attach())
    again = pickle.loads(pickle.dumps(model))  # noqa: S301
    assert torch.equal(logits(again, case.batch()), logits(model, case.batch()))


def test_registration_is_idempotent_and_careful():
    before = list(PeftType)
    register("bitfit", BitFitConfig, BitFitTuner)
    assert list(PeftType) == before
    assert PeftType("BITFIT") is PeftType.BITFIT is PeftType["BITFIT"]
    assert json.dumps(PeftType.BITFIT) == '"BITFIT"'
    with pytest.raises(ValueError, match="peft has a method 'lora' of its own"):
        register("lora", TunerProbeConfig, TunerProbeTuner)


def test_a_file_that_lacks_a_part_is_refused(tmp_path):
    case = Case("bitfit", "roberta", "classification")
    case.attach().save_pretrained(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    gone = next(name for name in tensors if ".bitfit_." in name)
    save_file({name: tensor for name, tensor in tensors.items() if name != gone}, path)
    with pytest.raises(ValueError, match="do not describe the same parts"):
        peft.PeftModel.from_pretrained(case.base(), tmp_path)


def test_the_file_holds_plain_names(tmp_path):
    Case("bitfit", "roberta", "classification").attach().save_pretrained(tmp_path)
    names = load_file(tmp_path / "adapter_model.safetensors")
    name = "base_model.model.adapters.bitfit_.roberta/encoder/layer/0/attention/self/query/bias.form.value"
    assert name in names
    assert "modules_to_save" not in " ".join(names)


def test_the_configuration_is_not_the_callers():
    config = FullConfig(task_type="SEQ_CLS")
    first, second = (peft.get_peft_model(build("roberta", seed=seed), config) for seed in (0, 1))
    found = [model.peft_config["default"].backbone_fingerprint for model in (first, second)]
    assert found[0] != found[1]
    assert config.backbone_fingerprint is None


def test_backbone_parameters_leave_the_head_out():
    for family, heads in (("deberta", ("pooler", "classifier")), ("bart", ("classification_head",)), ("t5", ())):
        names = backbone.parameters(build(family), heads)
        assert not [name for name in names if name.split(".")[0] in (*heads, "classification_head")]
    assert len(backbone.parameters(build("t5"))) < len(list(build("t5").parameters()))


def test_fingerprint_ignores_head_and_precision():
    model, other = build("roberta"), build("roberta")
    nn.init.normal_(other.classifier.out_proj.weight)
    assert backbone.fingerprint(model) == backbone.fingerprint(other) == backbone.fingerprint(other.bfloat16())
    assert backbone.fingerprint(build("roberta", seed=1)) != backbone.fingerprint(model)
