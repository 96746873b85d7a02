"""A quantised backbone: codes, constants and bytes; what stays as it is; the traps; merging; refusals."""

import copy
import sys
from dataclasses import replace

import pytest
import torch
import transformers as tf
from peft import LoraConfig, PeftModel, get_peft_model
from specs import composed
from torch import nn
from torch.testing import assert_close

import methods  # noqa: F401  (makes peft know the methods)
from harness import codes, identity, model, packed, quantization, run
from harness.errors import ConfigError, ModelError
from harness.quantization import dequantize, footprint, merged, quantize
from methods.reparameterized.adalora import AdaLoRAConfig
from methods.selective.bitfit import BitFitConfig
from methods.selective.full import FullConfig

torch.set_num_threads(1)
bitsandbytes = pytest.importorskip("bitsandbytes")
FOUR_BIT = ("nf4", "nf4_dq", "fp4")
SMALL = {
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 61,
}
TEXT = {"d_model": 64, "vocab_size": 61}


def settings(name, **changes):
    return replace(composed(f"quantization={name}").quantization, **changes)


def build(family, seed=0):
    """A small model in float32 whose linear layers suit every kernel of bitsandbytes (out % 32, in % 64)."""
    torch.manual_seed(seed)
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128}
    dropouts = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
    made = {
        "roberta": lambda: tf.RobertaForSequenceClassification(tf.RobertaConfig(**SMALL, initializer_range=0.2)),
        "bert": lambda: tf.BertForSequenceClassification(tf.BertConfig(**SMALL)),
        "deberta": lambda: tf.DebertaV2ForSequenceClassification(
            tf.DebertaV2Config(**SMALL, relative_attention=True, pos_att_type=["c2p", "p2c"], initializer_range=0.2)
        ),
        "t5": lambda: tf.T5ForConditionalGeneration(
            tf.T5Config(
                **TEXT, dropout_rate=0.0, d_ff=128, d_kv=32, num_heads=2, num_layers=2, decoder_start_token_id=0
            )
        ),
        "bart": lambda: tf.BartForConditionalGeneration(
            tf.BartConfig(**TEXT, **heads, **dropouts, encoder_layers=2, decoder_layers=2, init_std=0.2)
        ),
    }[family]()
    return made.eval()


HEADS = {
    "roberta": ["classifier"],
    "bert": ["pooler", "classifier"],
    "deberta": ["pooler", "classifier"],
    "t5": [],
    "bart": [],
}


def quantized(family, name, **changes):
    made = build(family)
    quantize(made, settings(name, **changes), head=HEADS[family], precision="float32")
    return made


def inputs(family, seed=1):
    generator = torch.Generator().manual_seed(seed)
    made = {"input_ids": torch.randint(4, 61, (3, 7), generator=generator), "attention_mask": torch.ones(3, 7).long()}
    if family in ("t5", "bart"):
        made["decoder_input_ids"] = torch.randint(4, 61, (3, 4), generator=generator)
    return made


def lora(backbone, family, seed=0):
    """LoRA on every linear layer of the blocks, with large random parameters."""
    targets = (
        ["q", "v", "k", "o", "wi", "wo"] if family == "t5" else ["q_proj", "v_proj", "fc1", "query", "value", "dense"]
    )
    torch.manual_seed(seed)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, modules_to_save=HEADS[family] or None,
                        exclude_modules=r".*(pooler|classifier).*")  # fmt: skip
    tuned = get_peft_model(backbone, config)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.2)
    return tuned


def gradients(tuned, family):
    """Of every trained parameter, of a loss that all logits feed (the models have no dropout)."""
    tuned.train().zero_grad()
    tuned(**inputs(family)).logits.square().mean().backward()
    return {name: p.grad.clone() for name, p in tuned.named_parameters() if p.requires_grad}


def logits(tuned, family):
    with torch.no_grad():
        return tuned.eval()(**inputs(family)).logits


# --- the codes ---------------------------------------------------------------------------------------------------------


def decoded(layer):
    """Codes of a 4-bit layer, and bitsandbytes' constants."""
    return codes.unpack(layer.weight.data.flatten(), quantization.size(layer.weight)), layer.weight.quant_state


def four_bit(weight, name):
    """A linear layer with this weight, quantised by the harness."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data = weight
    return quantization._four_bit(layer, settings(name), torch.float32)


@pytest.mark.parametrize("name", [*FOUR_BIT, "int8"])
def test_a_layer_holds_the_codes_of_its_weight(name):
    """Ours and bitsandbytes' are equal to the bit (tests/harness/test_codes.py); here, that the layer is made of them."""
    weight = torch.randn(100, 256, generator=torch.Generator().manual_seed(0))
    if name == "int8":
        layer = int8_layer(weight)
        assert torch.equal(layer.weight.data, codes.rowwise(weight)[0])
        assert torch.equal(layer.weight.SCB, codes.rowwise(weight)[1])
    else:
        found, state = decoded(four_bit(weight, name))
        table = torch.tensor(codes.TABLES[name.removesuffix("_dq")])
        assert torch.equal(found, codes.blockwise(weight, table)[0])
        assert state.nested == (name == "nf4_dq")
    off = codes.distance(packed.values(four_bit(weight, name) if name != "int8" else layer), weight,
                         name.removesuffix("_dq"), name == "nf4_dq")  # fmt: skip
    assert off < 1e-3


def test_other_codes_than_the_tables_are_refused(monkeypatch):
    monkeypatch.setitem(codes.TABLES, "nf4", codes.FP4)
    with pytest.raises(ModelError, match=r"makes other codes of .* than nf4 has, 0.1"):
        quantized("roberta", "nf4")


def test_the_first_layer_is_compared_and_no_other(monkeypatch):
    compared = []
    monkeypatch.setattr(codes, "check", lambda name, *more: compared.append(name))
    first, *_ = (name for name, _ in quantization.layers(build("roberta"), ["classifier"]))
    quantized("roberta", "nf4")
    assert compared == [first]


def int8_layer(weight):
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data = weight
    return quantization._eight_bit(layer, settings("int8"))


# --- which layers, equal to transformers' way ------------------------------------------------------------------------


@pytest.mark.parametrize("family", HEADS)
@pytest.mark.parametrize("name", [*FOUR_BIT, "int8"])
def test_a_model_from_its_configuration_is_quantised_as_transformers_would(family, name, tmp_path):
    plain, ours = build(family), quantized(family, name)
    plain.save_pretrained(tmp_path)
    skipped = [rf"(?:.*\.)?{part}" for part in HEADS[family]] or None
    config = copy.deepcopy(ours.config.quantization_config)
    config.llm_int8_skip_modules = skipped
    theirs = type(plain).from_pretrained(tmp_path, quantization_config=config, device_map={"": "cpu"})
    codes = {n: p for n, p in ours.named_parameters() if quantization.is_packed(p)}
    wanted = {n: p for n, p in theirs.named_parameters() if quantization.is_packed(p)}
    assert codes.keys() == wanted.keys() and codes
    assert all(torch.equal(codes[n].data, wanted[n].data) for n in codes)
    assert ours.is_quantized and getattr(ours, f"is_loaded_in_{'8' if name == 'int8' else '4'}bit")
    if name != "int8":
        for module in theirs.modules():
            if isinstance(module, bitsandbytes.nn.Linear4bit):
                module.support_avx512bf16_for_cpu = False
    assert torch.equal(logits(ours, family), logits(theirs, family))


@pytest.mark.parametrize("family", HEADS)
def test_head_output_and_t5s_wo_stay(family):
    ours = quantized(family, "nf4_dq")
    kept = {name for name, module in ours.named_modules() if type(module) is nn.Linear}
    assert kept == {
        "roberta": {"classifier.dense", "classifier.out_proj"},
        "bert": {"bert.pooler.dense", "classifier"},
        "deberta": {"pooler.dense", "classifier"},
        "bart": {"lm_head"},
        "t5": {"lm_head"} | {f"encoder.block.{i}.layer.1.DenseReluDense.wo" for i in (0, 1)}
        | {f"decoder.block.{i}.layer.2.DenseReluDense.wo" for i in (0, 1)},
    }[family]  # fmt: skip


def test_none_changes_nothing():
    ours, plain = quantized("roberta", "none"), build("roberta")
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), plain.parameters(), strict=True))
    assert footprint(ours).bits_per_param == 32 and footprint(ours).quantized_bits_per_param is None


# --- training on it --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["roberta", "deberta", "t5", "bart"])
@pytest.mark.parametrize("name", FOUR_BIT)
def test_gradients_are_those_of_a_dense_model_with_the_same_values(family, name):
    on_codes = lora(quantized(family, name), family)
    on_values = lora(dequantize(quantized(family, name)), family)
    ours, dense = gradients(on_codes, family), gradients(on_values, family)
    assert ours.keys() == dense.keys()
    assert all(torch.equal(ours[key], dense[key]) for key in ours)
    assert torch.equal(logits(on_codes, family), logits(on_values, family))


@pytest.mark.parametrize("family", ["roberta", "t5"])
@pytest.mark.parametrize("name", FOUR_BIT)
def test_an_evaluation_and_a_checkpoint_change_nothing(family, name, tmp_path, monkeypatch):
    """On a CPU with AVX512-BF16 (here forced), bitsandbytes repacks weights at the first evaluation."""
    monkeypatch.setattr(bitsandbytes.nn.modules, "has_avx512bf16", lambda: True)
    tuned = lora(quantized(family, name), family)
    before, codes = gradients(tuned, family), [p.data.clone() for p in tuned.parameters() if quantization.is_packed(p)]
    scores = logits(tuned, family)
    tuned.save_pretrained(tmp_path)
    assert torch.equal(logits(tuned, family), scores)
    after = gradients(tuned, family)
    assert all(torch.equal(before[key], after[key]) for key in before)
    now = [p.data for p in tuned.parameters() if quantization.is_packed(p)]
    assert all(torch.equal(a, b) for a, b in zip(codes, now, strict=True))


def test_the_trap_is_there_without_the_fix(monkeypatch):
    """If this fails, bitsandbytes has mended it (or this CPU has no such kernel): the fix may go."""
    if not bitsandbytes.functional.has_avx512bf16():
        pytest.skip("this CPU has no AVX512-BF16, and its kernel is what repacks for")
    tuned = lora(quantized("t5", "nf4"), "t5")
    for module in tuned.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.__class__ = bitsandbytes.nn.Linear4bit
    before = gradients(tuned, "t5")
    logits(tuned, "t5")
    after = gradients(tuned, "t5")
    assert max(((before[k] - after[k]).norm() / before[k].norm()).item() for k in before if before[k].any()) > 0.1


@pytest.mark.parametrize("name", [*FOUR_BIT, "int8"])
def test_training_leaves_the_codes(name):
    tuned = lora(quantized("roberta", name), "roberta")
    codes = {n: p.data.clone() for n, p in tuned.named_parameters() if quantization.is_packed(p)}
    optimizer = torch.optim.AdamW([p for p in tuned.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(12):
        tuned.train().zero_grad()
        loss = nn.functional.cross_entropy(tuned(**inputs("roberta")).logits, torch.tensor([0, 1, 0]))
        loss.backward()
        optimizer.step()
        logits(tuned, "roberta")
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(torch.equal(p.data, codes[n]) for n, p in tuned.named_parameters() if n in codes)


@pytest.mark.parametrize("name", [*FOUR_BIT, "int8", "none"])
@pytest.mark.parametrize("family", ["roberta", "t5"])
def test_merged_equals_unmerged_because_the_backbone_is_dequantised_first(family, name):
    tuned = lora(quantized(family, name), family)
    expected = logits(tuned, family)
    whole = merged(tuned)
    assert not [p for p in whole.parameters() if quantization.is_packed(p)] and not isinstance(whole, PeftModel)
    assert not [n for n, _ in whole.named_modules() if "lora" in n]
    assert getattr(whole.config, "quantization_config", None) is None, "a saved one would be loaded as codes"
    assert not any(getattr(whole, f"is_{mark}", False) for mark in ("quantized", "loaded_in_4bit", "loaded_in_8bit"))
    close = 0.15 if name == "int8" else 1e-4  # int8 also rounds its inputs
    assert_close(logits(whole, family), expected, rtol=0, atol=close * expected.abs().max().item())


def test_dequantised_weights_stay_frozen():
    model = quantized("roberta", "nf4")
    coded = [name for name, parameter in model.named_parameters() if quantization.is_packed(parameter)]
    plain = dict(quantization.dequantize(model).named_parameters())
    assert coded and not any(plain[name].requires_grad for name in coded)


def test_merging_into_the_codes_would_not_be_equal():
    tuned = lora(quantized("roberta", "nf4"), "roberta")
    expected = logits(tuned, "roberta")
    rounded = logits(tuned.merge_and_unload(), "roberta")
    assert (rounded - expected).abs().max() > 100 * 1e-4 * expected.abs().max()


@pytest.mark.parametrize("name", [*FOUR_BIT, "int8"])
def test_a_method_that_needs_the_full_weights_is_refused(name):
    with pytest.raises(ConfigError, match=r"is quantised \(torch.u?int8\).*quantization=none"):
        model.attach(quantized("roberta", name), FullConfig(modules_to_save=["classifier"]), seed=0)


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_biases_can_be_trained_beside_codes(compute):
    backbone = quantized("roberta", "nf4", compute_dtype=compute)
    tuned = model.attach(backbone, BitFitConfig(modules_to_save=["classifier"]), seed=0)
    grads = gradients(tuned, "roberta")
    assert len(grads) > 20 and all(grad.isfinite().all() for grad in grads.values())
    assert {p.dtype for p in tuned.parameters() if p.requires_grad} == {torch.float32}


# --- bfloat16 --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["roberta", "deberta", "bart"])
def test_bf16_is_the_backbone_and_not_what_is_trained(family):
    plain, ours = build(family), quantized(family, "bf16")
    kinds = {name: p.dtype for name, p in ours.named_parameters()}
    assert {kind for name, kind in kinds.items() if set(name.split(".")) & set(HEADS[family])} <= {torch.float32}
    assert {kind for name, kind in kinds.items() if not set(name.split(".")) & set(HEADS[family])} == {torch.bfloat16}
    config = LoraConfig(r=2, target_modules=["query", "query_proj", "q_proj"], modules_to_save=HEADS[family] or None)
    tuned = model.attach(ours, config, seed=0)
    assert {p.dtype for p in tuned.parameters() if p.requires_grad} == {torch.float32}
    assert_close(logits(tuned, family).float(), logits(plain, family), rtol=0, atol=0.1)
    assert all(grad.isfinite().all() for grad in gradients(tuned, family).values())


# --- the footprint ---------------------------------------------------------------------------------------------------


def test_a_head_takes_values_in_its_own_dtype_and_nothing_else():
    numbers, values = torch.arange(3), torch.ones(3, dtype=torch.bfloat16)
    [same, changed, word] = quantization._in_own_dtype(nn.Linear(3, 2), (numbers, values, "word"))
    assert same is numbers and word == "word" and changed.dtype == torch.float32


def test_bits_per_parameter_with_constants():
    found = {name: footprint(quantized("roberta", name)) for name in ("none", "bf16", "nf4", "fp4", "nf4_dq", "int8")}
    plain = build("roberta")
    linears = [m.weight.numel() for n, m in plain.named_modules() if type(m) is nn.Linear and "classifier" not in n]
    assert found["nf4"].quantized_params == sum(linears)
    assert found["nf4"].quantized_bits_per_param == found["fp4"].quantized_bits_per_param == 4.5
    total = sum(p.numel() for p in plain.parameters())
    for name, one in found.items():
        rest = total - one.quantized_params
        whole = one.quantized_params * (one.quantized_bits_per_param or 0)
        assert one.backbone_bytes * 8 == pytest.approx(one.bits_per_param * total)
        if name != "bf16":
            assert one.backbone_bytes * 8 == pytest.approx(whole + 32 * rest)
    head = sum(p.numel() for n, p in plain.named_parameters() if "classifier" in n)
    assert found["bf16"].backbone_bytes == 2 * (total - head) + 4 * head


@pytest.mark.parametrize(
    ("name", "constants"), [("nf4", 5_308_416), ("nf4_dq", 1_348_128), ("fp4", 5_308_416)]
)  # fmt: skip
def test_constants_of_roberta_bases_linear_layers_to_the_byte(name, constants):
    small, large = (four_bit(torch.zeros(shape), name) for shape in ((768, 768), (3072, 768)))
    found = 12 * (4 * quantization.stored_bytes(small) + 2 * quantization.stored_bytes(large))
    assert found - 84_934_656 // 2 == constants


def test_rows_of_int8_take_eight_bits_and_a_scale():
    assert 8 * quantization.stored_bytes(int8_layer(torch.randn(3, 1024))) / (3 * 1024) == 8 + 32 / 1024


def test_parameters_are_counted_by_what_they_stand_for():
    plain = model.count(lora(build("roberta"), "roberta"), None)
    for name in ("nf4", "nf4_dq", "int8", "bf16"):
        assert model.count(lora(quantized("roberta", name), "roberta"), None) == plain


# --- as an option ----------------------------------------------------------------------------------------------------


def test_qlora_brings_its_quantisation_and_the_command_line_wins():
    assert composed("method=qlora").quantization.name == "nf4_dq"
    assert composed("method=qlora", "quantization=fp4").quantization.name == "fp4"
    assert composed("method=lora").quantization.name == "none"
    assert composed("method=lora", "quantization=int8").quantization.weights == "int8"
    with pytest.raises(ConfigError, match="needs 4-bit weights"):
        composed("quantization=int8", "quantization.double_quant=true")


def test_quantisation_is_part_of_a_runs_identity():
    keys = {"data": "d", "weights": "w", "device": "cpu", "precision": "float32"}
    names = ["none", "nf4", "nf4_dq", "fp4", "int8", "bf16"]
    ids = {identity.run_id(identity.identity(composed(f"quantization={name}"), **keys)) for name in names}
    assert len(ids) == len(names)


def test_without_bitsandbytes_there_is_one_message(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ConfigError, match="pip install"):
        quantized("roberta", "nf4")
    assert quantized("roberta", "bf16") is not None


def test_a_whole_run(tmp_path):
    words = [
        "method=qlora",
        "train.optimizer=paged_adamw",
        "train.max_steps=4",
        "data.max_train_rows=64",
        "data.max_eval_rows=20",
        "progress=false",
        "device=cpu",
    ]
    made = run.run(run.plan(composed(f"results.root={tmp_path}", *words)))
    assert made.state == "DONE" and made.identity["quantization"]["name"] == "nf4_dq"
    assert 4.12 < made.cost["quantized_bits_per_param"] < 4.13
    assert made.cost["quantized_params"] > 100_000
    assert any("plain AdamW" in told for told in made.remarks)


def test_a_random_backbone_can_be_quantised_too(tmp_path):
    words = ["train.max_steps=2", "data.max_train_rows=64", "data.max_eval_rows=20", "progress=false", "device=cpu"]
    words += ["model.init=random", "quantization=nf4", "method=bitfit", f"results.root={tmp_path}"]
    made = run.run(run.plan(composed(*words)))
    assert made.state == "DONE" and made.cost["quantized_bits_per_param"] == 4.5


def test_a_method_of_ours_merges_by_the_same_way_and_not_into_the_codes():
    config = AdaLoRAConfig(target_modules=["query", "intermediate.dense"], modules_to_save=["classifier"])
    tuned = model.attach(quantized("roberta", "nf4_dq"), config, seed=0)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if parameter.requires_grad and "classifier" not in name:
                parameter.normal_(std=0.3)
    expected = logits(tuned, "roberta")
    with pytest.raises(ValueError, match=r"is quantised .*dequantise"):
        tuned.merge_adapter()
    assert torch.equal(logits(tuned, "roberta"), expected)
    whole = logits(merged(tuned), "roberta")
    assert_close(whole, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize("evaluated", [False, True])
def test_the_constants_of_int8_follow_the_codes_when_the_model_moves(evaluated):
    tuned = lora(quantized("roberta", "int8"), "roberta")
    before = logits(tuned, "roberta") if evaluated else logits(copy.deepcopy(tuned), "roberta")
    places = {name: parameter.data_ptr() for name, parameter in tuned.named_parameters()}
    tuned._apply(lambda tensor: tensor.clone())  # what moving does, without a second device
    assert all(parameter.data_ptr() != places[name] for name, parameter in tuned.named_parameters())
    for module in tuned.modules():
        if isinstance(module, bitsandbytes.nn.Linear8bitLt):
            assert module.state.has_fp16_weights is False
            [codes] = [holder.CB for holder in (module.weight, module.state) if holder.CB is not None]
            assert codes.data_ptr() == module.weight.data_ptr()
            assert quantization.stored_bytes(module) == module.weight.numel() + 4 * module.out_features
    assert torch.equal(logits(tuned, "roberta"), before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", [*FOUR_BIT, "int8", "bf16"])
def test_quantised_here_and_moved_to_a_gpu(name):
    here, there = (lora(quantized("roberta", name), "roberta") for _ in range(2))
    there.to("cuda")
    moved = {key: tensor.to("cuda") for key, tensor in inputs("roberta").items()}
    with torch.no_grad():
        found = there.eval()(**moved).logits.cpu()
    expected = logits(here, "roberta")
    assert_close(found.float(), expected.float(), rtol=0, atol=0.05 * expected.abs().max().item())
    there.train()(**moved).logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in there.parameters() if p.requires_grad)
