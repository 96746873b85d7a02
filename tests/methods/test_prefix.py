"""Prefixes inside attention: every attention by hand, the gate identity, the network that is dropped."""

import copy
import pickle

import peft
import pytest
import torch
import transformers as tf
from test_counts import BACKBONES, SHAPES
from tiny import KINDS, batch, build, logits, randomise, train
from torch.testing import assert_close

from methods import attention
from methods.additive.houlsby import HoulsbyConfig
from methods.additive.pfeiffer import PfeifferConfig
from methods.hooks import find
from methods.hybrid.propetl import PropetlConfig
from methods.hybrid.propetl_prefix import PropetlPrefixConfig
from methods.parts import arguments, hidden
from methods.prompt.prefix import PrefixConfig

LENGTH = 5
each = pytest.mark.parametrize(("family", "kind"), KINDS)


def attach(family="roberta", kind="classification", implementation=None, **fields):
    model = build(family, kind)
    if implementation:
        model.set_attn_implementation(implementation)
    return peft.get_peft_model(model, PrefixConfig(**{"prefix_length": LENGTH} | fields)).eval()


def by_hand(module, prefix, asked, given, visible, bias):
    """softmax(q [P_k; K]^T s + [0; bias]) [P_v; V] with explicit loops over rows and heads.

    `visible` (rows, queries, keys) says which tokens see which; `bias` (rows, heads, queries, keys) is added to them.
    """
    names = ("query", "key", "value", "out"), ("q_proj", "k_proj", "v_proj", "out_proj"), ("q", "k", "v", "o")
    names += (("query_proj", "key_proj", "value_proj", "out"),)
    query, key, value, out = next(found for found in names if hasattr(module, found[0]))
    heads, width = attention.heads(module)
    scale = getattr(module, "scaling", (width * 3) ** -0.5)  # DeBERTa: contents, and two kinds of positions
    q, k, v = (getattr(module, n)(x) for n, x in ((query, asked), (key, given), (value, given)))
    contexts = torch.zeros_like(q)
    for row in range(len(q)):
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            scores = scale * q[row, :, part] @ k[row, :, part].T + bias[row, head]
            scores = scores.masked_fill(~visible[row], float("-inf"))
            before = scale * q[row, :, part] @ prefix[0][head].T
            weights = torch.cat([before, scores], dim=1).softmax(dim=1)
            contexts[row, :, part] = weights @ torch.cat([prefix[1][head], v[row, :, part]])
    return getattr(module, out)(contexts) if hasattr(module, out) else contexts


def bias_of(module, queries, keys, call, shape):
    if hasattr(module, "disentangled_attention_bias"):
        q, k = (module.transpose_for_scores(getattr(module, n)(call["hidden_states"]), module.num_attention_heads)
                for n in ("query_proj", "key_proj"))  # fmt: skip
        bias = module.disentangled_attention_bias(q, k, call.get("relative_pos"), call["rel_embeddings"], 3)
        return bias.unflatten(0, (-1, module.num_attention_heads))
    return torch.zeros(shape) if call.get("position_bias") is None else call["position_bias"].expand(shape)


@each
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_every_attention_by_hand(family, kind, implementation):
    if (family, implementation) == ("deberta", "sdpa"):
        pytest.skip("transformers has no sdpa for DeBERTaV2")
    model, inputs = randomise(attach(family, kind, implementation)), batch(family, kind)
    network, calls = model.base_model.model, []
    kinds = {path: name for name, paths in attention.attentions(network).items() for path in paths}
    for path in kinds:
        network.get_submodule(path).register_forward_hook(
            lambda module, args, kwargs, output, path=path: calls.append(
                (path, module, arguments(module, args, kwargs), hidden(output))
            ),
            with_kwargs=True,
        )
    logits(model, inputs)
    assert {path for path, *_ in calls} == kinds.keys()
    padding, first_bias = inputs["attention_mask"].bool(), {}
    for path, module, call, output in calls:
        asked, given = call["hidden_states"], call.get("key_value_states")
        given = asked if given is None else given
        queries, keys = asked.shape[1], given.shape[1]
        if kinds[path] == "decoder":
            visible = torch.ones(len(asked), queries, keys, dtype=torch.bool).tril()  # no padding mask of its own
        else:
            visible = padding[:, None, :].expand(-1, queries, -1)
        shape = (len(asked), attention.heads(module)[0], queries, keys)
        if getattr(module, "has_relative_attention_bias", False):
            first_bias[kinds[path]] = module.compute_bias(queries, keys)
        call.setdefault("position_bias", None)
        if kinds[path] in first_bias:
            call["position_bias"] = first_bias[kinds[path]]
        with torch.no_grad():
            prefix = model.base_model.adapter()[path.replace(".", "/")].form()
            wanted = by_hand(module, prefix, asked, given, visible, bias_of(module, queries, keys, call, shape))
        real = padding if kinds[path] == "encoder" else torch.ones(asked.shape[:2], dtype=torch.bool)
        assert_close(output[real], wanted[real], rtol=1e-4, atol=1e-4, msg=lambda text, path=path: f"{path}: {text}")


def noted(network, path):
    """The arguments and the output of the latest call of a module."""
    calls = []
    network.get_submodule(path).register_forward_hook(
        lambda module, args, kwargs, output: calls.append((arguments(module, args, kwargs), output)), with_kwargs=True
    )
    return calls


def test_gate_identity():
    """He et al. 2022: a prefix is (1 - lam) attention + lam prefix attention, lam the prefix's share of the softmax."""
    model, inputs = randomise(attach(implementation="eager").double()), batch("roberta")
    plain = build("roberta").double()
    plain.set_attn_implementation("eager")
    path = attention.attentions(plain)["encoder"][0]
    changed, base = noted(model.base_model.model, path), noted(plain, path)
    logits(model, inputs)
    logits(plain, inputs)
    (call, (found, _)), (_, (context, weights)) = changed[0], base[0]
    module, x = plain.get_submodule(path), call["hidden_states"]
    with torch.no_grad():
        query, key = (p(x).unflatten(-1, (2, -1)).transpose(1, 2) for p in (module.query, module.key))
        keys, values = model.base_model.adapter()[path.replace(".", "/")].form()
        prefix = module.scaling * query @ keys.transpose(-1, -2)
        first = module.scaling * (query @ key.transpose(-1, -2))[..., :1]
        normaliser = first.exp() / weights[..., :1]  # of the base: weight = exp(score) / normaliser
        share = prefix.exp().sum(-1, keepdim=True)
        lam = (share / (share + normaliser)).transpose(1, 2)
        own = (prefix.softmax(-1) @ values).transpose(1, 2)
        wanted = (1 - lam) * context.unflatten(-1, (2, -1)) + lam * own
    real = inputs["attention_mask"].bool()
    assert_close(found[real], wanted.flatten(2)[real], rtol=1e-9, atol=1e-9)


def test_deberta_without_a_prefix_is_the_original():
    """Ours, with keys so far away that nobody looks there, to the last bits of float64."""
    model, plain = attach("deberta").double(), build("deberta").double()
    with torch.no_grad():
        for part in model.base_model.adapter().parts():
            part.form.block.zero_()
    attentions = [model.base_model.model.get_submodule(p) for p in attention.attentions(plain)["encoder"]]
    for module in attentions:  # a row of the mask that hides the prefix, in place of one that shows it
        module.dropout.register_forward_pre_hook(_hide)
    assert_close(logits(model, batch("deberta")), logits(plain, batch("deberta")), rtol=1e-12, atol=1e-12)


def _hide(module, args):
    weights = args[0].clone()
    weights[..., :LENGTH] = 0
    total = weights.sum(-1, keepdim=True)
    return (torch.where(total > 0, weights / total.clamp(min=1e-300), weights),)


@each
def test_positions_and_masks_are_the_backbones(family, kind):
    """The embeddings see what they saw without prefixes, and masks keep their widths."""
    model, plain, inputs = attach(family, kind), build(family, kind), batch(family, kind)
    seen = {}
    for name, network in (("with", model.base_model.model), ("without", plain)):
        for path, module in network.named_modules():
            if "position" in type(module).__name__.lower() or path.endswith("embeddings"):
                module.register_forward_hook(
                    lambda module, args, output, key=(name, path): seen.update({key: hidden(output)})
                )
        logits(network, inputs)
    pairs = [(value, seen["without", path]) for (name, path), value in seen.items() if name == "with"]
    assert pairs or family == "t5"
    assert all(torch.equal(*pair) for pair in pairs)


@each
def test_network_is_dropped_when_training_ends(family, kind, tmp_path):
    torch.manual_seed(0)
    fields = {"reparameterize": True, "network_width": 7}
    model, inputs = attach(family, kind, **fields), batch(family, kind)
    adapter = model.base_model.adapter()
    sets = attention.attentions(model.base_model.model)
    width = 2 * adapter[next(iter(sets.values()))[0].replace(".", "/")].form()[0][0].shape[-1]
    per_set = [LENGTH * 16 + 16 * 7 + 7 + 2 * width * len(paths) * (7 + 1) for paths in sets.values()]
    assert sum(p.numel() for p in adapter.parameters()) == sum(per_set)
    find(model).loss(model, inputs, lambda scores, labels: scores.square().sum()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in adapter.parameters())
    train(model, [inputs], steps=2)
    assert not [name for name in model.base_model.adapter() if name.startswith("network")]
    assert sum(p.numel() for p in model.base_model.adapter().parameters()) == sum(
        2 * width * LENGTH * len(paths) for paths in sets.values()
    )
    expected = logits(model, inputs)
    model.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(build(family, kind), tmp_path)
    assert again.peft_config["default"].reparameterize is False
    assert torch.equal(logits(again, inputs), expected)


def test_dropping_the_network_changes_nothing():
    model = randomise(attach("bart", "generation", reparameterize=True, network_width=7))
    inputs = batch("bart", "generation")
    expected = logits(model, inputs)
    find(model).on_train_end()
    assert torch.equal(logits(model, inputs), expected)
    find(model).on_train_end()
    assert torch.equal(logits(model, inputs), expected)
    assert all(p.requires_grad for p in model.base_model.adapter().parameters())


@pytest.mark.parametrize("index", range(4), ids=list(BACKBONES))
def test_counts(index):
    family = list(BACKBONES)[index]
    model_cls, config = BACKBONES[family]
    with torch.device("meta"):
        model = model_cls(config)
    width, attentions = SHAPES[family][0], SHAPES[family][2]
    network = {"deberta": 15_402_272, "roberta": 15_402_272, "bart": 61_608_288, "t5": 46_206_816}[family]
    one_stack = {"attentions": ["encoder"], "prefix_length": 20}
    layers = attentions // (3 if family in ("bart", "t5") else 1)
    for fields, expected in (
        ({"prefix_length": 30}, 2 * 30 * width * attentions),
        ({"prefix_length": 200}, 2 * 200 * width * attentions),
        (one_stack, 2 * 20 * width * layers),
        ({"prefix_length": 30, "reparameterize": True, "network_width": 800}, network),
    ):
        tuned = peft.get_peft_model(model, PrefixConfig(**fields))
        assert sum(p.numel() for p in tuned.parameters() if p.requires_grad) == expected, fields
        model = tuned.unload()


def test_published_counts():
    assert 2 * 30 * 768 * 12 == 552_960
    assert 2 * 30 * 1024 * 36 == 2_211_840
    assert 2 * 200 * 1024 * 36 == 14_745_600  # Li and Liang say 2 % of BART-large; it is 3.63 %


@pytest.mark.parametrize("family", ["deberta", "roberta", "bart", "t5"])
def test_attention_is_itself_again(family):
    """Disabled, unloaded or deleted, an attention has its class and its configuration back."""
    plain = build(family)
    kinds = [type(module) for module in plain.modules()]
    model = attach(family)
    network = model.base_model.model
    first = network.get_submodule(next(iter(attention.attentions(network).values()))[0])
    assert attention.SLOT in first.__dict__
    with model.disable_adapter():
        assert attention.SLOT not in first.__dict__ and attention.CONFIG not in first.__dict__
        if family != "deberta":
            assert first.config._attn_implementation == network.config._attn_implementation
    base = model.unload()
    assert [type(module) for module in base.modules()] == kinds
    assert {id(m.config) for m in base.modules() if hasattr(m, "config")} == {
        id(m.config) for m in base.modules() if isinstance(m, type(base)) or hasattr(m, "base_model_prefix")
    }


@pytest.mark.parametrize("family", ["deberta", "roberta", "bart"])
def test_two_prefixes_stand_beside_each_other(family):
    """One prefix of six is two of three."""
    model, inputs = randomise(attach(family, prefix_length=6)), batch(family)
    expected = logits(model, inputs)
    parts = list(model.base_model.adapter().parts())
    halves = []
    for part in parts:
        other = copy.deepcopy(part)
        part.form.block.data, other.form.block.data = part.form.block.data[:3], part.form.block.data[3:]
        other._handles, other._attentions = [], []
        other.mount(model.base_model.model)
        halves.append(other)
    assert_close(logits(model, inputs), expected, rtol=1e-5, atol=1e-5)
    for other in halves:
        other.unmount()
    assert not torch.allclose(logits(model, inputs), expected, atol=1e-3)


@each
def test_pickled(family, kind):
    model, inputs = randomise(attach(family, kind)), batch(family, kind)
    again = pickle.loads(pickle.dumps(model))  # noqa: S301
    assert torch.equal(logits(again, inputs), logits(model, inputs))


@pytest.mark.parametrize("family", ["roberta", "bart", "t5"])
def test_the_models_choice_of_attention_holds(family):
    """Changed under a mounted prefix, it is followed."""
    model, inputs = randomise(attach(family, implementation="eager"), 0.3), batch(family)
    expected = logits(model, inputs)
    model.base_model.model.set_attn_implementation("sdpa")
    assert_close(logits(model, inputs), expected, rtol=1e-4, atol=1e-5)


def test_low_precision_backbone():
    model = peft.get_peft_model(build("t5", "generation").bfloat16(), PrefixConfig(prefix_length=3))
    assert {part.form.block.dtype for part in model.base_model.adapter().parts()} == {torch.float32}
    assert torch.isfinite(logits(model, batch("t5", "generation"))).all()


def bert():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    config = tf.BertConfig(vocab_size=61, num_labels=3, initializer_range=0.2, **sizes)
    return tf.BertForSequenceClassification(config).eval()


@pytest.mark.parametrize("config", [HoulsbyConfig, PfeifferConfig, PrefixConfig, PropetlConfig, PropetlPrefixConfig])
def test_they_stand_on_bert(config):
    inputs = {key: value for key, value in batch("roberta").items() if key != "labels"}
    model = randomise(peft.get_peft_model(bert(), config()), 0.3)
    changed = logits(model, inputs)
    with model.disable_adapter():
        assert torch.equal(logits(model, inputs), logits(bert(), inputs))
    assert torch.isfinite(changed).all() and not torch.allclose(changed, logits(bert(), inputs), atol=1e-3)


@pytest.mark.parametrize(
    ("family", "fields", "message"),
    [
        ("roberta", {"prefix_length": 0}, "at least 1"),
        ("roberta", {"attentions": ["self"]}, "known are encoder, decoder, cross"),
        ("roberta", {"attentions": ["cross"]}, "this backbone has only encoder"),
    ],
)
def test_bad_options(family, fields, message):
    with pytest.raises(ValueError, match=message):
        attach(family, **fields)


def test_unknown_attention_is_refused():
    model = build("roberta")
    model.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(ValueError, match=r"flash_attention_2.*attn_implementation=eager or sdpa"):
        peft.get_peft_model(model, PrefixConfig(prefix_length=3))
    with pytest.raises(ValueError, match="how many heads"):
        attention.heads(torch.nn.Linear(2, 2))


def test_it_cannot_be_merged():
    with pytest.raises(ValueError, match="cannot be merged"):
        attach().merge_and_unload()
