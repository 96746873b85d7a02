"""The table of sites against real module trees and against conf/model."""

import re
import subprocess
import sys

import pytest
from tiny import FAMILIES, KINDS, ROOT, build, sites

import methods.sites as table

LAYERS = {"deberta": (2, 0), "roberta": (2, 0), "bart": (2, 2), "t5": (2, 2)}  # encoder, decoder


def tree(family, kind):
    model = build(family, kind)
    return model.config.model_type, [name for name, _ in model.named_modules()]


@pytest.mark.parametrize(("family", "kind"), KINDS)
@pytest.mark.parametrize("site", ["linears", "attention", "query_value", "ia3", "ia3_feedforward"])
def test_the_groups_of_conf_model(family, kind, site):
    model_type, names = tree(family, kind)
    expected = [name for name in names if re.fullmatch(sites(family)["sites"][site], name)]
    assert table.find(model_type, site, names) == expected != []


@pytest.mark.parametrize(("family", "kind"), KINDS)
def test_every_place_is_in_every_layer(family, kind):
    model_type, names = tree(family, kind)
    encoder, decoder = LAYERS[family]
    attentions = encoder + 2 * decoder
    for site in table.SITES[model_type]:
        found = table.find(model_type, site, names)
        if site == "embeddings":
            assert found
            continue
        crossing = {"cross_attention": decoder, "self_attention": encoder + decoder}
        per_attention = site in ("query", "key", "value", "output", "attention_output", "attention_norm")
        assert len(found) == crossing.get(site, attentions if per_attention else encoder + decoder), site
        assert {table.layer(name)[0] for name in found} <= {"encoder", "decoder"}


def test_layer():
    assert table.layer("transformer.decoder.block.11.layer.0.SelfAttention.q") == ("decoder", 11)
    assert table.layer("deberta.encoder.layer.3.attention.self") == ("encoder", 3)
    with pytest.raises(ValueError, match="lies in no layer"):
        table.layer("deberta.embeddings")


def test_unknown_words_are_answered():
    with pytest.raises(ValueError, match="known are bart, bert"):
        table.regex("gpt2", "query")
    with pytest.raises(ValueError, match="'cross_attention' is no site of roberta; its sites are"):
        table.regex("roberta", "cross_attention")


def test_gated_t5_has_two_up_projections():
    names = [f"encoder.block.0.layer.1.DenseReluDense.{name}" for name in ("wi_0", "wi_1", "wo")]
    assert table.find("t5", "ffn_up", names) == names[:2]


def test_the_table_needs_no_torch():
    """The budget and the configuration read it before anything heavy is imported."""
    path = ROOT / "methods/sites.py"
    script = f"import runpy, sys; runpy.run_path({str(path)!r}); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_all_families_are_covered():
    assert {build(family).config.model_type for family in FAMILIES} | {"bert"} == table.SITES.keys()
