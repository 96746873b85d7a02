"""Attention with a slot for keys and values that belong to no token: prefixes.

    head = softmax(q [P_k; K]^T / sqrt(d) + [0; bias] + [0; mask]) [P_v; V]

The prefix stands before the tokens' keys and values inside each attention and nowhere else: position ids, relative
distances, masks of the model, caches and generation are those of the backbone. Prefix columns are visible to every
query and carry no relative bias. Several prefixes in one attention stand beside each other.

Two ways in. BERT, RoBERTa, BART and T5 call transformers' `AttentionInterface`: an attention with a prefix gets a copy
of its configuration that names our function, which widens keys, values, mask and bias and calls the function that the
model asks for (eager or sdpa). DeBERTaV2 computes its attention itself; there `methods.disentangled` takes its place, as
it does without a prefix where `lean` asks for it.
"""

from __future__ import annotations

import copy
import importlib.util
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import AttentionInterface, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.deberta_v2.modeling_deberta_v2 import DebertaV2Encoder, DisentangledSelfAttention

from methods import sites
from methods.disentangled import ASKED, SLOT, LeanDisentangled, LeanEncoder
from methods.parts import Part

IMPLEMENTATION = "prefixed"
CONFIG = "_config_without_prefixes"  # in an attention's __dict__, as its SLOT
DELEGATES = ("eager", "sdpa")
KINDS = ("encoder", "decoder", "cross")
_SIZES = (("num_attention_heads", "attention_head_size"), ("num_heads", "head_dim"), ("n_heads", "key_value_proj_dim"))


class KeyValue(Part):
    """Keys and values in one attention.

    Args:
        site: path of the module that computes the softmax (`self_attention`, `cross_attention` in `methods.sites`).
        form: maps the attention's input (batch, tokens, width) to keys and values, each (heads, length, head width) or
            (batch, heads, length, head width).
    """

    def __init__(self, site: str, form: nn.Module) -> None:
        super().__init__()
        self.site, self.form = site, form
        self.pair: tuple[Tensor, Tensor] | None = None
        self._attentions: list[nn.Module] = []

    def mount(self, model: nn.Module) -> None:
        """Open the attention's slot and take a place in it. Raises ValueError for an attention that has none."""
        attention = model.get_submodule(self.site)
        _open(attention, self.site).append(self)
        self._attentions.append(attention)
        self.before(attention, self._compute)

    def unmount(self) -> None:
        """Leave the slot; the last to leave closes it."""
        super().unmount()
        self.pair = None
        for attention in self._attentions:
            _close(attention, self)
        self._attentions.clear()

    def _compute(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.pair = self.form(args[0] if args else kwargs["hidden_states"])


def attentions(model: PreTrainedModel) -> dict[str, list[str]]:
    """Paths of the attentions by kind: "encoder" and "decoder" (self), "cross"; empty kinds are left out."""
    names, model_type = [name for name, _ in model.named_modules()], model.config.model_type
    found: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for path in sites.find(model_type, "self_attention", names):
        found[sites.layer(path)[0]].append(path)
    if "cross_attention" in sites.SITES[model_type]:
        found["cross"] = sites.find(model_type, "cross_attention", names)
    return {kind: paths for kind, paths in found.items() if paths}


def lean(model: nn.Module, *, fused: bool = False) -> int:
    """Exchange every disentangled attention of DeBERTaV2 for the lean one (`methods.disentangled`), in place.

    Returns how many there were; other families have none. Weights, names and outputs stay (outputs to rounding).
    Raises ValueError for `fused` where there is a GPU and no triton, in which its kernels are written.
    """
    if fused and torch.cuda.is_available() and importlib.util.find_spec("triton") is None:
        raise ValueError("fused attention on a GPU needs triton (pip install triton); lean attention does not")
    found = [module for module in model.modules() if isinstance(module, DisentangledSelfAttention)]
    for attention in found:
        attention.__class__ = LeanDisentangled
        attention.__dict__[ASKED], attention.__dict__["fused"] = True, fused
    for encoder in [module for module in model.modules() if isinstance(module, DebertaV2Encoder)]:
        encoder.__class__ = LeanEncoder
    return len(found)


def heads(attention: nn.Module) -> tuple[int, int]:
    """The number of heads of an attention, and their width. Raises ValueError for an unknown kind of attention."""
    for number, width in _SIZES:
        if hasattr(attention, number) and hasattr(attention, width):
            return getattr(attention, number), getattr(attention, width)
    raise ValueError(f"{type(attention).__name__} does not say how many heads it has; no prefix can stand there")


def _open(attention: nn.Module, site: str) -> list[KeyValue]:
    """The list of prefixes of an attention, which from now on honours it."""
    if SLOT in attention.__dict__:
        return attention.__dict__[SLOT]
    if isinstance(attention, DisentangledSelfAttention):
        attention.__class__ = LeanDisentangled
    else:
        config: Any = getattr(attention, "config", None)
        wanted = getattr(config, "_attn_implementation", None)
        if wanted not in DELEGATES:
            raise ValueError(
                f"{site} ({type(attention).__name__}) computes its attention with '{wanted}', which has no slot for "
                f"prefixes; load the backbone with attn_implementation={' or '.join(DELEGATES)}"
            )
        attention.__dict__[CONFIG] = config
        own = copy.copy(config)
        own._attn_implementation_internal = IMPLEMENTATION  # the model's own config, which makes the masks, stays
        attention.config = own
    return attention.__dict__.setdefault(SLOT, [])


def _close(attention: Any, part: KeyValue) -> None:
    """Take a prefix out of an attention; without any, it is again what it was."""
    attention.__dict__[SLOT] = [other for other in attention.__dict__[SLOT] if other is not part]
    if attention.__dict__[SLOT]:
        return
    del attention.__dict__[SLOT]
    if CONFIG in attention.__dict__:
        attention.config = attention.__dict__.pop(CONFIG)
    elif ASKED not in attention.__dict__:
        attention.__class__ = DisentangledSelfAttention


def _prefix(attention: nn.Module, query: Tensor) -> tuple[Tensor, Tensor]:
    """All prefixes of an attention: keys and values, each (batch, heads, length, head width), as `query` is."""
    pairs = [part.pair for part in attention.__dict__[SLOT]]
    widened = [[tensor.to(query).expand(len(query), -1, -1, -1) for tensor in pair] for pair in pairs if pair]
    keys, values = zip(*widened, strict=True)
    return torch.cat(keys, dim=2), torch.cat(values, dim=2)


def _prefixed(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, Tensor | None]:
    """What `AttentionInterface` calls: (batch, heads, tokens, head width) each, then the model's own function."""
    implementation = module.__dict__[CONFIG]._attn_implementation
    keys, values = _prefix(module, query)
    length = keys.shape[2]
    causal = options.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    if attention_mask is None and causal and query.shape[2] > 1 and implementation != "eager":
        # sdpa would align its own causal triangle with the first column, which is the prefix's now
        triangle = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril()
        attention_mask = triangle[None, None]
    if attention_mask is not None:
        visible = True if attention_mask.dtype is torch.bool else 0.0
        attention_mask = pad(attention_mask, (length, 0), value=visible)
    if options.get("position_bias") is not None:
        options["position_bias"] = pad(options["position_bias"], (length, 0))
    compute = _delegate(module, implementation)
    return compute(module, query, torch.cat([keys, key], 2), torch.cat([values, value], 2), attention_mask, **options)


def _delegate(module: nn.Module, implementation: str) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """The function that the model asks for. Each modelling file has an eager one of its own."""
    eager = sys.modules[type(module).__module__].eager_attention_forward
    return ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager)


AttentionInterface.register(IMPLEMENTATION, _prefixed)
