"""Where a part can stand: for each architecture, the names of the places of its layers (transformers 5).

One table, architecture -> place -> regular expression of module paths, matched in full against the names of the task
model's modules; whatever stands before the backbone's own name (`deberta.`, `model.`, nothing) is allowed. An
encoder-decoder's places cover both stacks, and a role such as `query` covers self- and cross-attention. No import of
torch here.

Linear layers         `query` `key` `value` `output` (attention), `ffn_up` `ffn_down`
Groups of them        `attention` = the first four, `query_value`, `linears` = all six, `ia3` = key, value, ffn_down
Attention itself      `self_attention`, `cross_attention`: the module that computes the softmax (prefixes)
Sequential adapters   `attention_output`, `ffn_output`: the module whose output is the sub-layer's, before the residual
Parallel adapters     `ffn_input`: the module whose first input is the feed-forward input. In T5 that is after the norm;
                      `ffn_residual` is the residual stream before it (in post-norm architectures the two are the same)
Norms                 `attention_norm`, `ffn_norm`
Whole layers          `layer`
Embeddings            `embeddings`: the token table(s)

Traps: DeBERTa's model reads the last of its encoder's `hidden_states`, not `last_hidden_state`. DeBERTa calls its
query and key layers twice, for contents and for relative positions; it reads its relative embeddings without calling
their module; BART's attention modules return tuples.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_BERT = r"encoder\.layer\.\d+\."
_BART = r"(?:encoder|decoder)\.layers\.\d+\."
_T5 = r"(?:encoder|decoder)\.block\.\d+\.layer\."
_T5_ATTENTION = r"(?:encoder\.block\.\d+\.layer\.0|decoder\.block\.\d+\.layer\.[01])\."
_T5_FFN = r"(?:encoder\.block\.\d+\.layer\.1|decoder\.block\.\d+\.layer\.2)"


def _bert(query: str, key: str, value: str) -> dict[str, str]:
    """BERT, RoBERTa and DeBERTa share one plan; only the names of three linear layers differ."""
    return {
        "query": rf"{_BERT}attention\.self\.{query}",
        "key": rf"{_BERT}attention\.self\.{key}",
        "value": rf"{_BERT}attention\.self\.{value}",
        "output": rf"{_BERT}attention\.output\.dense",
        "ffn_up": rf"{_BERT}intermediate\.dense",
        "ffn_down": rf"{_BERT}output\.dense",
        "self_attention": rf"{_BERT}attention\.self",
        "attention_output": rf"{_BERT}attention\.output\.dropout",
        "ffn_output": rf"{_BERT}output\.dropout",
        "ffn_input": rf"{_BERT}intermediate",
        "ffn_residual": rf"{_BERT}intermediate",
        "attention_norm": rf"{_BERT}attention\.output\.LayerNorm",
        "ffn_norm": rf"{_BERT}output\.LayerNorm",
        "layer": r"encoder\.layer\.\d+",
        "embeddings": r"embeddings\.word_embeddings",
    }


SITES: dict[str, dict[str, str]] = {
    "bert": _bert("query", "key", "value"),
    "roberta": _bert("query", "key", "value"),
    "deberta-v2": _bert("query_proj", "key_proj", "value_proj"),
    "bart": {
        "query": rf"{_BART}(?:self|encoder)_attn\.q_proj",
        "key": rf"{_BART}(?:self|encoder)_attn\.k_proj",
        "value": rf"{_BART}(?:self|encoder)_attn\.v_proj",
        "output": rf"{_BART}(?:self|encoder)_attn\.out_proj",
        "ffn_up": rf"{_BART}fc1",
        "ffn_down": rf"{_BART}fc2",
        "self_attention": rf"{_BART}self_attn",
        "cross_attention": rf"{_BART}encoder_attn",
        "attention_output": rf"{_BART}(?:self|encoder)_attn",
        "ffn_output": rf"{_BART}fc2",
        "ffn_input": rf"{_BART}fc1",
        "ffn_residual": rf"{_BART}fc1",
        "attention_norm": rf"{_BART}(?:self|encoder)_attn_layer_norm",
        "ffn_norm": rf"{_BART}final_layer_norm",
        "layer": r"(?:encoder|decoder)\.layers\.\d+",
        "embeddings": r"shared|(?:encoder|decoder)\.embed_tokens",
    },
    "t5": {
        "query": rf"{_T5}\d\.(?:SelfAttention|EncDecAttention)\.q",
        "key": rf"{_T5}\d\.(?:SelfAttention|EncDecAttention)\.k",
        "value": rf"{_T5}\d\.(?:SelfAttention|EncDecAttention)\.v",
        "output": rf"{_T5}\d\.(?:SelfAttention|EncDecAttention)\.o",
        "ffn_up": rf"{_T5}\d\.DenseReluDense\.wi(?:_[01])?",
        "ffn_down": rf"{_T5}\d\.DenseReluDense\.wo",
        "self_attention": rf"{_T5}0\.SelfAttention",
        "cross_attention": rf"{_T5}1\.EncDecAttention",
        "attention_output": rf"{_T5_ATTENTION}dropout",
        "ffn_output": rf"{_T5_FFN}\.dropout",
        "ffn_input": rf"{_T5_FFN}\.DenseReluDense",
        "ffn_residual": _T5_FFN,
        "attention_norm": rf"{_T5_ATTENTION}layer_norm",
        "ffn_norm": rf"{_T5_FFN}\.layer_norm",
        "layer": r"(?:encoder|decoder)\.block\.\d+",
        "embeddings": r"shared|(?:encoder|decoder)\.embed_tokens",
    },
}

GROUPS: dict[str, tuple[str, ...]] = {
    "attention": ("query", "key", "value", "output"),
    "query_value": ("query", "value"),
    "linears": ("query", "key", "value", "output", "ffn_up", "ffn_down"),
    "ia3": ("key", "value", "ffn_down"),
    "ia3_feedforward": ("ffn_down",),
}


def regex(model_type: str, site: str) -> str:
    """The regular expression (full match) of the module paths of `site`.

    Args:
        model_type: `config.model_type` of the backbone.
        site: a place, or a group of places.

    Raises:
        ValueError: for an architecture or a place that the table lacks.
    """
    if model_type not in SITES:
        raise ValueError(f"no sites are known for model type '{model_type}'; known are {', '.join(sorted(SITES))}")
    places = SITES[model_type]
    wanted = GROUPS.get(site, (site,))
    if missing := [place for place in wanted if place not in places]:
        known = sorted({*places, *GROUPS})
        raise ValueError(f"'{missing[0]}' is no site of {model_type}; its sites are {', '.join(known)}")
    return r"(?:.+\.)?(?:" + "|".join(places[place] for place in wanted) + ")"


def find(model_type: str, site: str, names: Iterable[str]) -> list[str]:
    """The module paths of `site` among `names`, in their order, which is the model's."""
    pattern = re.compile(regex(model_type, site))
    return [name for name in names if pattern.fullmatch(name)]


def layer(path: str) -> tuple[str, int]:
    """Stack and index of the layer that a path lies in: `encoder.block.3.layer.0` -> ("encoder", 3).

    Raises ValueError for a path outside every layer.
    """
    match = re.search(r"(?:^|\.)(encoder|decoder)\.(?:layer|layers|block)\.(\d+)(?:\.|$)", path)
    if match is None:
        raise ValueError(f"'{path}' lies in no layer of an encoder or decoder")
    return match[1], int(match[2])


def is_cross(path: str) -> bool:
    """Whether a path belongs to cross-attention: a decoder's attention to the encoder."""
    return re.search(r"\.(?:encoder_attn|EncDecAttention)\b|decoder\.block\.\d+\.layer\.1\.", path) is not None


def is_pre_norm(model_type: str) -> bool:
    """Whether a sub-layer normalises its input (T5) and not its sum with the residual."""
    return regex(model_type, "ffn_input") != regex(model_type, "ffn_residual")
