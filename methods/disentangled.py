"""DeBERTaV2's disentangled attention (He et al. 2021, equation 4), exact and lean, with a slot for prefixes.

    score[q, k] = (q K^T + Q_q R^K_(q-k) + K_k R^Q_(q-k)) / sqrt(3 d)

transformers' module projects every relative position that the model knows (512) in every layer, repeats the result over
the batch and gathers (tokens x tokens) entries out of (tokens x 512) products. A text of L tokens has 2 L - 1 distances.
Here only those are projected; the products with them, ordered by distance, become scores by a skew: in memory, row q of
(L, 2 L - 1) starts L - 1 - q entries later, which is a view. Where distances share rows (the logarithmic buckets of long
texts) each row is projected once. Heads come before the batch, so that every head's product with the positions is one
matrix product.

Same parameters, names and calls of the projections as the original (content first, then positions), so whatever stands
on q, k and v is respected, LoRA and hooks included. Dropout of the positions is drawn over the rows in use: equal in law,
not in bits. A prefix (`methods.attention`) adds columns that have contents and no position.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers.models.deberta_v2.modeling_deberta_v2 import (
    DebertaV2Encoder,
    DisentangledSelfAttention,
    make_log_bucket_position,
)

SLOT, ASKED = "_prefixes", "_lean"  # in an attention's __dict__: its prefixes; whether `lean` was asked for


def positions(length: int, buckets: int, reach: int, span: int, device: torch.device | str) -> Tensor:
    """The row of the position table for every distance from length - 1 down to 1 - length: (2 length - 1,).

    Args:
        buckets, reach, span: the module's `position_buckets`, `max_relative_positions` and `pos_ebd_size`.
    """
    falling = torch.arange(length - 1, -length, -1, device=device)
    bucketed = make_log_bucket_position(falling, buckets, reach).long() if buckets > 0 and reach > 0 else falling
    return (bucketed + span).clamp(0, 2 * span - 1)


@lru_cache(maxsize=256)
def falling(length: int, buckets: int, reach: int, span: int, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """The rows of the position table that a text of `length` tokens uses; arguments as of `positions`.

    Returns:
        rows (rows in use,), and where distances share rows the place among them of every distance from length - 1 down
        (2 length - 1,); without sharing, rows stand in that order, and the places are None.
    """
    table = positions(length, buckets, reach, span, "cpu")  # a GPU would be waited for, meta has no values
    rows, place = torch.unique_consecutive(table, return_inverse=True)
    return (table.to(device), None) if len(rows) == len(table) else (rows.to(device), place.to(device))


@lru_cache(maxsize=256)
def distances(length: int, buckets: int, reach: int, span: int, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """As `falling`, but with the place of every pair (length, length) of query and key."""
    rows, place = falling(length, buckets, reach, span, torch.device("cpu"))
    if place is None:
        return rows.to(device), None
    ids = torch.arange(length, device="cpu")
    return rows.to(device), place[length - 1 - ids[:, None] + ids[None, :]].to(device)


def may_share(length: int, buckets: int, reach: int, span: int) -> bool:
    """Whether distances of a text could share a row: by its length alone, for a compiled program."""
    return length > (buckets // 2 + 1 if buckets > 0 and reach > 0 else span)


def by_kernel(query: Tensor) -> bool:
    """Whether fused attention is the kernel's here; float64 it multiplies only in the interpreter (Triton 3.6)."""
    return query.is_cuda and query.dtype is not torch.float64 and not torch.compiler.is_compiling()


def float32(number: float) -> float:
    """The float32 next to a number, by arithmetic: reading a tensor's value would end a compiled program."""
    mantissa, exponent = math.frexp(number)
    return math.ldexp(round(mantissa * 2**24), exponent - 24)


def skew(products: Tensor) -> Tensor:
    """(..., L, 2 L - 1) -> (..., L, L): entry [i, j] is products[i, L - 1 - i + j]. A view."""
    length = products.shape[-2]
    run = products.flatten(-2)[..., length - 1 : length - 1 + length * (2 * length - 2)]
    return run.unflatten(-1, (length, 2 * length - 2))[..., :length] if length > 1 else products


class LeanEncoder(DebertaV2Encoder):
    """Of lean attentions, which read no matrix of distances. To make it, the original makes a GPU wait at every step."""

    def get_rel_pos(self, *states: Tensor | None) -> None:
        """Nothing."""


class LeanDisentangled(DisentangledSelfAttention):
    """Takes the place of an existing module's class; it has no parameters of its own.

    `fused=True` is for CUDA, off by default, its speed not measured on a GPU: scores, softmax, dropout and the product
    with values in one kernel (`methods.disentangled_kernel`). On a CPU, and in a compiled program, torch's
    scaled_dot_product_attention takes its place, with the positions as its bias; there states of padding, which
    nothing reads, get other gradients.
    """

    fused = False

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor,
        output_attentions: bool = False,
        query_states: Tensor | None = None,
        relative_pos: Tensor | None = None,
        rel_embeddings: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """As the original: contexts (batch, tokens, width), and the weights where asked for.

        `attention_mask` is (batch, 1, tokens, tokens), or 1 in place of tokens. `relative_pos`, which follows from the
        lengths alone, is made here, in the form that is needed.
        """
        asking = hidden_states if query_states is None else query_states
        if asking.shape != hidden_states.shape:
            raise ValueError(f"{len(asking[0])} queries and {len(hidden_states[0])} keys: lean attention needs as many")
        query = self._heads(self.query_proj(asking))
        key = self._heads(self.key_proj(hidden_states))
        value = self._heads(self.value_proj(hidden_states))
        terms = 1 + ("c2p" in self.pos_att_type) + ("p2c" in self.pos_att_type)
        scale = float32(math.sqrt(query.shape[-1] * terms))  # as precise as the original
        query = query / scale
        mask = attention_mask.bool().transpose(0, 1)  # heads before the batch, here too
        prefixes = self.__dict__.get(SLOT)
        if self.fused and not output_attentions and by_kernel(query):
            context = self._kernel(query, key, value, mask, rel_embeddings, scale, prefixes)
            return context.permute(1, 2, 0, 3).flatten(2), None
        bias = self._positions(query, key, rel_embeddings, scale) if self.relative_attention else None
        if prefixes:
            key, value, bias, mask = self._widened(prefixes, key, value, bias, mask)
        if self.fused and not output_attentions:
            context = self._fused(query, key, value, bias, mask)
            return context.permute(1, 2, 0, 3).flatten(2), None
        scores = query @ key.transpose(-1, -2)
        scores = scores if bias is None else scores + bias
        weights = self.dropout(scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(dim=-1))
        context = (weights @ value).permute(1, 2, 0, 3).flatten(2)
        return context, weights.transpose(0, 1) if output_attentions else None

    def _heads(self, states: Tensor) -> Tensor:
        """(batch, tokens, width) -> (heads, batch, tokens, head width), in that order in memory."""
        return states.unflatten(-1, (self.num_attention_heads, -1)).permute(2, 0, 1, 3).contiguous()

    def _positions(self, query: Tensor, key: Tensor, embeddings: Tensor | None, scale: float) -> Tensor | None:
        """Content to position and position to content: (heads, batch, tokens, tokens). `query` is scaled already."""
        asked = self._asked(query)
        if not torch.compiler.is_compiling():
            rows, place = distances(*asked)
            to_position, to_content = self._tables(embeddings, scale, rows)
        else:  # how many rows are shared depends on values, which would end a program: the whole table, where any could be
            every, place = positions(*asked), None
            shared = may_share(*asked[:4])
            to_position, to_content = self._tables(embeddings, scale, *((None, every) if shared else (every,)))
        score = None
        if to_position is not None:
            score = self._spread(query, to_position, place)
        if to_content is not None:  # rows are keys here: distances rise along them, and the result lies on its side
            sideways = to_content if place is not None else to_content.flip(1)
            turned = self._spread(key, sideways, None if place is None else place.t()).transpose(-1, -2)
            score = turned if score is None else score + turned
        return score

    def _kernel(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, embeddings: Tensor | None, scale: float,
        prefixes: list | None,
    ) -> Tensor:  # fmt: skip
        """Contexts (heads, batch, tokens, head width) by the kernel. `query` is scaled already."""
        from methods.disentangled_kernel import attend  # it needs triton

        to_position = to_content = None
        if self.relative_attention:
            to_position, to_content = self._tables(embeddings, scale, *falling(*self._asked(query)))
        if prefixes:
            key, value, _, mask = self._widened(prefixes, key, value, None, mask)
        rising = None if to_content is None else to_content.flip(1)
        return attend(query, key, value, to_position, rising, mask, self.dropout.p if self.training else 0.0)

    def _asked(self, query: Tensor) -> tuple[int, int, int, int, torch.device]:
        """What `positions` and its like need to know."""
        return query.shape[2], self.position_buckets, self.max_relative_positions, self.pos_ebd_size, query.device

    def _tables(
        self, embeddings: Tensor | None, scale: float, rows: Tensor | None, order: Tensor | None = None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Positions as keys (for queries) and, scaled, as queries (for keys), where the model has them.

        Args:
            rows: of the table, those in use; None: all. A row is projected once, so that what dropout takes of it,
                an adapter's on the projections too, is the same wherever it stands.
            order: places among them, for a row each; None: as they are.

        Returns (heads, rows, head width) twice.
        """
        if embeddings is None:
            raise ValueError("this attention is relative and got no rel_embeddings")
        used = self.pos_dropout(embeddings if rows is None else embeddings[rows])[None]
        # The original projects queries first; the order of the calls is what stochastic adapters see.
        to_content = self._projected(used, "query") / scale if "p2c" in self.pos_att_type else None
        to_position = self._projected(used, "key") if "c2p" in self.pos_att_type else None
        if order is None:
            return to_position, to_content
        return tuple(None if one is None else one[:, order] for one in (to_position, to_content))  # type: ignore[return-value]

    def _projected(self, used: Tensor, kind: str) -> Tensor:
        """(1, rows, width) -> (heads, rows, head width), by the content's projection or the positions' own."""
        name = f"{kind}_proj" if self.share_att_key else f"pos_{kind}_proj"
        return self._heads(getattr(self, name)(used))[:, 0]

    @staticmethod
    def _spread(states: Tensor, positions: Tensor, place: Tensor | None) -> Tensor:
        """Every state with the positions of its row of pairs: (heads, batch, tokens, tokens)."""
        heads, batch, length, _ = states.shape
        products = (states.flatten(1, 2) @ positions.transpose(-1, -2)).unflatten(1, (batch, length))
        if place is None:
            return skew(products)
        return products.gather(-1, place.expand(heads, batch, length, length))

    @staticmethod
    def _widened(
        prefixes: list, key: Tensor, value: Tensor, bias: Tensor | None, mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """Keys, values, bias and mask with the prefixes' columns before the tokens'; visible, without a position."""
        pairs = [part.pair for part in prefixes if part.pair]
        batch = key.shape[1]
        wide = [[tensor.to(key).expand(batch, -1, -1, -1).transpose(0, 1) for tensor in pair] for pair in pairs]
        keys, values = (torch.cat(parts, dim=2) for parts in zip(*wide, strict=True))
        length = keys.shape[2]
        pad = torch.nn.functional.pad
        bias = None if bias is None else pad(bias, (length, 0))
        return torch.cat([keys, key], 2), torch.cat([values, value], 2), bias, pad(mask, (length, 0), value=True)

    def _fused(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, mask: Tensor) -> Tensor:
        """The same by one kernel, which scales nothing: the queries are."""
        floor = torch.finfo(query.dtype).min
        hidden = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, floor)
        # Not a sum where the mask hides: a bias added to the lowest number may fall to minus infinity.
        added = hidden if bias is None else bias.masked_fill(~mask, floor)
        dropout = self.dropout.p if self.training else 0.0
        return scaled_dot_product_attention(query, key, value, attn_mask=added, dropout_p=dropout, scale=1.0)
