"""Adapters, LoRA and prefixes on four tiny models against AdapterHub's numbers (oracles/adapter_family)."""

import re
from dataclasses import dataclass

import peft
import pytest
import torch
import transformers as tf
from oracles import fill, oracle
from torch import nn
from torch.testing import assert_close

from methods import sites
from methods.additive.bottleneck import places
from methods.additive.houlsby import HoulsbyConfig
from methods.additive.pfeiffer import PfeifferConfig
from methods.forms import Bottleneck
from methods.parts import Activation
from methods.prompt.prefix import PrefixConfig
from methods.tuner import Tuner, TunerConfig, register

SMALL = dict(vocab_size=23, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
             max_position_embeddings=16, num_labels=2)  # fmt: skip
DEBERTA = dict(relative_attention=True, position_buckets=4, norm_rel_ebd="layer_norm", share_att_key=True,
               pooler_dropout=0, pos_att_type=["p2c", "c2p"], layer_norm_eps=1e-7, position_biased_input=False,
               type_vocab_size=0, pooler_hidden_size=8, pooler_hidden_act="gelu", hidden_act="gelu")  # fmt: skip
MODELS = {
    "rob": lambda: tf.RobertaForSequenceClassification(
        tf.RobertaConfig(**SMALL, type_vocab_size=1, layer_norm_eps=1e-5)),
    "deb": lambda: tf.DebertaV2ForSequenceClassification(tf.DebertaV2Config(**SMALL, **DEBERTA)),
    "bart": lambda: tf.BartForConditionalGeneration(tf.BartConfig(
        vocab_size=23, d_model=8, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=16, pad_token_id=1,
        bos_token_id=0, eos_token_id=2, forced_eos_token_id=None)),
    "t5": lambda: tf.T5ForConditionalGeneration(tf.T5Config(
        vocab_size=23, d_model=8, d_kv=4, d_ff=16, num_layers=2, num_decoder_layers=2, num_heads=2,
        relative_attention_num_buckets=8, decoder_start_token_id=0)),
}  # fmt: skip
TASK = {"rob": "SEQ_CLS", "deb": "SEQ_CLS", "bart": "SEQ_2_SEQ_LM", "t5": "SEQ_2_SEQ_LM"}
KIND = {"rob": "roberta", "deb": "deberta-v2", "bart": "bart", "t5": "t5"}
each = pytest.mark.parametrize("family", MODELS)


def base(family):
    model = MODELS[family]().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            gain = parameter.dim() == 1 and name.endswith("weight")
            parameter.copy_(fill(name, parameter.shape, 0.1) + gain)
    return model


def logits(model, family):
    ids = torch.tensor([[4, 9, 13, 5, 7], [6, 11, 8, 1, 1]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    if family in ("t5", "deb"):
        ids = ids.masked_fill(mask == 0, 0)
    inputs = {"input_ids": ids, "attention_mask": mask}
    if family in ("bart", "t5"):
        inputs["decoder_input_ids"] = torch.tensor([[2, 5, 9, 12], [2, 7, 3, 10]])
    with torch.no_grad():
        return model.eval()(**inputs).logits


def canonical(path):
    """`{stack}.{layer}.{site}` of a module path, in the oracles' words."""
    stack, index = sites.layer(path)
    attention = re.search(
        r"attention\.|self_attn|SelfAttention|encoder_attn|EncDecAttention|layer\.[01]\.dropout", path
    )
    if "encoder.block" in path and "layer.1." in path:
        attention = None
    site = ("xattn" if sites.is_cross(path) else "attn") if attention else "ffn"
    return f"{stack[:3]}.{index}.{site}"


def attach(family, config_cls, **fields):
    return peft.get_peft_model(base(family), config_cls(task_type=TASK[family], **fields))


def fill_bottlenecks(model):
    count = 0
    with torch.no_grad():
        for path, part in model.base_model.adapter().items():
            for name, parameter in part.form.named_parameters():
                parameter.copy_(fill(f"{canonical(path.replace('/', '.'))}.{name}", parameter.shape, 0.3))
                count += parameter.numel()
    return count


def expected(family, case):
    found = oracle("adapter_family/adapterhub_tiny.json")[family]
    if case not in found:
        pytest.skip(f"the oracles at hand have no case {case} for {family}")
    if quirk := found[case].get("quirk"):
        pytest.skip(f"a peculiarity of AdapterHub, not the paper: {quirk}")
    return found[case]


def check(model, family, case, count):
    wanted = expected(family, case)
    assert count == wanted.get("n_params", count)
    assert_close(logits(model, family), torch.tensor(wanted["logits"]), rtol=1e-5, atol=2e-6)


@each
def test_base(family):
    check(base(family), family, "base", 0)


def crosses(family, case, dropped=0):
    decoder_layers = 2 if family in ("bart", "t5") else 0
    return expected(family, case)["n_params"] == (2 * 8 * 4 + 4 + 8) * (2 * 2 + 3 * decoder_layers - dropped)


@each
@pytest.mark.parametrize(("case", "dropped"), [("houlsby_r4", []), ("houlsby_r4_drop_layer0", [0])])
def test_houlsby(family, case, dropped):
    """AdapterHub leaves cross-attention alone unless told otherwise; the count says which of the two a case is."""
    fields = {"bottleneck_size": 4, "activation": "relu", "skip_layers": dropped}
    model = attach(family, HoulsbyConfig, **fields, cross_attention=crosses(family, case, 2 * len(dropped)))
    check(model, family, case, fill_bottlenecks(model))


@each
def test_pfeiffer(family):
    model = attach(family, PfeifferConfig, bottleneck_size=4)
    check(model, family, "pfeiffer_r4", fill_bottlenecks(model))


@dataclass
class HubParallelConfig(TunerConfig):
    """A parallel adapter (He et al. 2022): not a method here yet, and its places are tested all the same."""

    attention: bool = False
    cross_attention: bool = False
    scaling: float = 4.0


class HubParallelTuner(Tuner):
    def build(self, model, config):
        def part(site, source):
            return Activation(site, Bottleneck(8, 4, scaling=config.scaling), reads="input", source=source)

        pairs = zip(places(model, "ffn_output"), places(model, "ffn_residual"), strict=True)
        parts = {site: part(site, source) for site, source in pairs}
        for site in places(model, "attention_output", None, config.cross_attention) if config.attention else ():
            parts[site] = part(site, attention_input(site))
        return parts


def attention_input(site):
    """The module whose first input is the attention sub-layer's, by the path of its output."""
    return site if site.endswith("attn") else site.removesuffix(".dropout").removesuffix(".output")


register("hub_parallel", HubParallelConfig, HubParallelTuner)


@each
@pytest.mark.parametrize(("attention", "case"), [(False, "parallel_ffn_r4_s4"), (True, "parallel_attn_ffn_r4_s1")])
def test_parallel(family, attention, case):
    fields = {"attention": attention, "scaling": 1.0 if attention else 4.0}
    model = attach(family, HubParallelConfig, **fields, cross_attention=crosses(family, case))
    check(model, family, case, fill_bottlenecks(model))


@each
def test_lora(family):
    targets = sites.regex(KIND[family], "query_value")
    model = attach(family, peft.LoraConfig, r=2, lora_alpha=4, target_modules=targets)
    count = 0
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if match := re.search(r"\.(q|v)\w*\.lora_([AB])\.", name):
                key = f"{canonical(name)}.{match[1]}.{match[2]}"
                parameter.copy_(fill(key, parameter.shape, 0.3))
                count += parameter.numel()
    check(model, family, "lora_qv_r2_a4", count)


def fill_prefixes(model):
    count = 0
    with torch.no_grad():
        for path, part in model.base_model.adapter().items():
            keys = [f"{canonical(path.replace('/', '.'))}.prefix.{name}" for name in "kv"]
            halves = [fill(key, (2, 3, 4), 0.3).transpose(0, 1).flatten(1) for key in keys]
            part.form.block.copy_(torch.cat(halves, dim=-1))
            count += part.form.block.numel()
    return count


@each
def test_prefix(family):
    if family == "t5":
        pytest.skip("AdapterHub's T5 counts the prefix in relative distances, which is not the paper's meaning")
    model = attach(family, PrefixConfig, prefix_length=3)
    check(model, family, "prefix_l3", fill_prefixes(model))


class Gated(nn.Module):
    """A prefix scaled by a gate over the attention's input (UniPELT), to show what a form may depend on."""

    def __init__(self, form):
        super().__init__()
        self.form, self.gate = form, nn.Linear(8, 1)

    def forward(self, states):
        gate = torch.sigmoid(self.gate(states)).mean(dim=1)[..., None, None]
        return tuple(gate * tensor for tensor in self.form(states))


@pytest.mark.parametrize("family", ["rob", "deb", "bart"])
def test_gated_prefix(family):
    wanted = expected(family, "prefix_l3_gated")
    model = attach(family, PrefixConfig, prefix_length=3)
    fill_prefixes(model)
    with torch.no_grad():
        for path, part in model.base_model.adapter().items():
            part.form = Gated(part.form)
            for name, parameter in part.form.gate.named_parameters():
                parameter.copy_(fill(f"{canonical(path.replace('/', '.'))}.pgate.{name}", parameter.shape, 0.3))
    assert_close(logits(model, family), torch.tensor(wanted["logits"]), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("norm", ["none", "in", "out"])
@pytest.mark.parametrize("scaling", [1, 4])
def test_bottleneck_alone(norm, scaling):
    """He et al.'s adapter layer, with its optional layer norm around ours."""
    expected = oracle("adapter_family/he2022_adapter_layer.json")[f"ln_{norm}_s{scaling}"]
    form, layer_norm = Bottleneck(8, 4, init="identity", scaling=scaling), nn.LayerNorm(8)
    x = fill("x", (2, 3, 8), 1.0)
    assert form(x).abs().max().item() == expected["delta_at_init_max"] == 0
    with torch.no_grad():
        for name, parameter in form.named_parameters():
            parameter.copy_(fill(name, parameter.shape, 0.3))
        layer_norm.weight.copy_(1 + fill("ln.weight", (8,), 0.1))
        layer_norm.bias.copy_(fill("ln.bias", (8,), 0.1))
        delta = form(layer_norm(x)) if norm == "in" else form(x)
        delta = layer_norm(delta) if norm == "out" else delta
    assert_close(delta, torch.tensor(expected["delta"]), rtol=1e-5, atol=2e-6)
    assert_close(x + delta, torch.tensor(expected["out"]), rtol=1e-5, atol=2e-6)
