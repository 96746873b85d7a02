"""Memory and disk before a run, by parts."""

import pytest

from harness import compose, estimate, model
from harness.errors import ConfigError

DEMO = ["task=demo/entailment", "data.max_length_tokens=32", "train.batch_size=8", "train.select=last"]


def parts(*words):
    return estimate.estimate(compose.composed([*DEMO, *words]))


def test_the_textbook_case_of_seven_billion_parameters():
    full = estimate.numbers(["params=7B"])["full"]
    assert (full.weights, full.gradients, full.optimizer, full.sum) == (28e9, 28e9, 56e9, 112e9)
    rows = estimate.numbers(["params=7e9", "trained=40M"])
    assert rows["PEFT"].weights == 28e9 + 4 * 40e6
    assert rows["QLoRA (nf4_dq)"].weights == pytest.approx(7e9 * 4.127 / 8 + 4 * 40e6, rel=1e-3), "4.127 bits a weight"
    assert rows["QLoRA (nf4_dq)"].optimizer == rows["PEFT"].optimizer == 8 * 40e6


@pytest.mark.parametrize("words", [["params=many"], ["params=7B", "model=t5_base"], ["trained=1M"], ["params=-1"]])
def test_a_number_that_is_none_is_said(words):
    with pytest.raises(ConfigError, match="params"):
        estimate.numbers(words)


def test_parts_are_those_of_the_model():
    lora, full = parts("method=lora"), parts("method=full")
    assert lora.gradients == 4 * lora.trained == lora.disk
    assert lora.optimizer == 8 * lora.trained
    assert full.trained > 5 * lora.trained
    assert lora.peak <= lora.sum
    assert parts("method=lora", "train.select=best").optimizer == 12 * lora.trained
    checkpointed = parts("method=lora", "train.gradient_checkpointing=true")
    assert checkpointed.activations < lora.activations
    assert checkpointed.weights == lora.weights


def test_a_quantised_backbone_is_counted_as_it_is_stored():
    from harness import budget, directory, quantization, task

    config = compose.composed([*DEMO, "method=qlora", "model.init=random"])
    at, blank = directory.locate(config.model), task.empty(config.task)
    pytest.importorskip("bitsandbytes", reason="quantised layers are bitsandbytes'")
    backbone, _ = model.load(config.model, at, blank, seed=0, quantization=config.quantization)
    stored = quantization.footprint(backbone).backbone_bytes
    sized, _ = budget.solve(config.budget, config.method, config.model, at, blank)
    tuned = model.attach(backbone, model.method_config(sized, config.model, blank.kind, backbone), seed=0)
    added = 4 * sum(p.numel() for name, p in tuned.named_parameters() if "lora_" in name or "modules_to_save" in name)
    assert parts("method=qlora").weights == pytest.approx(stored + added, rel=0.01)


def test_full_and_qlora_stand_beside_with_the_same_batch():
    found = estimate.variants([*DEMO, "method=bitfit"])
    assert list(found) == ["bitfit", "full", "qlora (nf4_dq)"]
    assert {config.train.batch_size for config in found.values()} == {8}
    assert list(estimate.variants([*DEMO, "method=full"])) == ["full", "qlora (nf4_dq)"]
    table = estimate.shown({"x": estimate.textbook(7e9)})
    assert "112.000" in table and "7,000.00 M" in table


def test_a_mistake_is_one_message(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["estimate", "model=demo_debrta"])
    with pytest.raises(SystemExit) as end:
        estimate.main()
    assert end.value.code == 2
    assert "Did you mean demo_deberta" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["demo_t5", "demo_bart"])
def test_an_encoder_decoder_that_classifies(name):
    """It looks for the text's last token by its value, and there are no values here."""
    said = parts(f"model={name}", "method=lora")
    assert said.peak and said.peak > said.weights > 0


def test_weights_that_are_codes_are_refused_where_a_run_would_refuse_them():
    with pytest.raises(ConfigError, match=r"is quantised .*quantization=none"):
        parts("method=full", "quantization=nf4")
    assert parts("method=lora", "quantization=nf4").peak
