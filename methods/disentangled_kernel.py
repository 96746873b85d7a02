"""Disentangled attention by Triton kernels: scores and weights never reach memory. For CUDA.

    score[q, k] = Q_q . K_k + C[q, L - 1 - q + k] + P[k, L - 1 - k + q]

C (queries times positions, distances falling) and P (keys times positions, distances rising) are matrix products of
2 L - 1 columns a row, read where they lie: `methods.disentangled` skews them, here the address does. The softmax runs
over blocks of keys with a running maximum (Dao et al. 2022, FlashAttention); backwards, products and scores are made
again. Nothing that grows with the square of the length is kept from forwards to backwards.

A hidden pair has the lowest score and a query that sees nothing attends evenly, as in transformers; so padding's states
and gradients are the original's too. Columns before the texts' own (prefixes) have no position. Dropout is drawn by
Philox from a seed of torch's generator, once a layer and step, and drawn again backwards: equal in law, not in bits.

flashdeberta and disentangled-flash are the peers. Exactness is tested by Triton's interpreter on the CPU, and that it
compiles for compute capability 8.0 and 9.0 with what a block may use of memory; its speed is unmeasured: no GPU was at
hand (`scripts/gpu_check.py parity attention`).
"""

# ruff: noqa: ANN001, ANN202 (what a kernel takes are pointers and numbers of the device, which have no type here)
from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

HIDDEN = tl.constexpr(-3e38)  # of a pair that the mask hides; finite, so that a row of them is even
ROUNDS = tl.constexpr(7)  # of Philox: the fewest that pass every test of randomness (Salmon et al. 2011)
BLOCK = 32  # queries and keys a program holds: with 64 what a thread holds does not fit its registers
WIDEST = 128  # of a head
WARPS, STAGES = 4, 2


@triton.jit
def _place(count, SIZE: tl.constexpr):
    """The head of a text that this program works on (heads before the batch), and its block of `count` places."""
    blocks = tl.cdiv(count, SIZE)
    number = tl.program_id(0)
    return number // blocks, number % blocks * SIZE + tl.arange(0, SIZE)


@triton.jit
def _scores(q, k, C, P, mask, rows, columns, head, length, width, prefix, stride_q, stride_k,
            HAS_C: tl.constexpr, HAS_P: tl.constexpr, SUM: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Scores of a block of pairs; which are visible; which have a position; where their positions' products lie."""
    scores = tl.dot(q, tl.trans(k), out_dtype=SUM, input_precision=PRECISION)
    queries, keys = rows[:, None], columns[None, :]
    inside = (queries < length) & (keys < width)
    places = keys - prefix
    placed = inside & (places >= 0)
    start = head.to(tl.int64) * length * (2 * length - 1)  # beyond 32 bits in a large batch; places in a head are not
    at_c = queries * (2 * length - 1) + (length - 1 - queries + places)
    at_p = places * (2 * length - 1) + (length - 1 - places + queries)
    if HAS_C:
        scores += tl.load(C + start + at_c, mask=placed, other=0.0).to(SUM)
    if HAS_P:
        scores += tl.load(P + start + at_p, mask=placed, other=0.0).to(SUM)
    visible = tl.load(mask + queries * stride_q + keys * stride_k, mask=inside, other=0) != 0
    scores = tl.where(visible, scores, HIDDEN)
    return tl.where(keys < width, scores, float("-inf")), visible, placed, start, at_c, at_p


@triton.jit
def _kept(seed, rows, columns, head, width, dropout):
    """Which weights dropout keeps: a number a pair, the same forwards and backwards."""
    return tl.rand(tl.load(seed) + head, rows[:, None] * width + columns[None, :], ROUNDS) >= dropout


@triton.jit
def _block(tensor, places, dims, head, count, D: tl.constexpr):
    """Rows `places` of a head: (block, head width up to a power of two), zero outside."""
    inside = (places[:, None] < count) & (dims[None, :] < D)
    return tl.load(tensor + head.to(tl.int64) * count * D + places[:, None] * D + dims[None, :], mask=inside, other=0.0)


@triton.jit
def _keep(tensor, values, places, dims, head, count, D: tl.constexpr):
    """Store what `_block` would read."""
    inside = (places[:, None] < count) & (dims[None, :] < D)
    at = tensor + head.to(tl.int64) * count * D + places[:, None] * D + dims[None, :]
    tl.store(at, values.to(tensor.dtype.element_ty), mask=inside)


@triton.jit
def _forward(Q, K, V, C, P, MASK, SEED, OUT, TOP, TOTAL, batch, length, width, prefix, stride_b, stride_q, stride_k,
             dropout, HAS_C: tl.constexpr, HAS_P: tl.constexpr, DROPS: tl.constexpr, D: tl.constexpr, WIDE: tl.constexpr,
             ROWS: tl.constexpr, COLUMNS: tl.constexpr, SUM: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Contexts of a block of queries of one head of one text; the maximum and the sum that its softmax divides by."""
    head, rows = _place(length, ROWS)
    dims = tl.arange(0, WIDE)
    q = _block(Q, rows, dims, head, length, D)
    mask = MASK + (head % batch) * stride_b
    top = tl.full([ROWS], float("-inf"), SUM)
    total = tl.zeros([ROWS], SUM)
    out = tl.zeros([ROWS, WIDE], SUM)
    for start in range(0, width, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        k = _block(K, columns, dims, head, width, D)
        v = _block(V, columns, dims, head, width, D)
        scores, _, _, _, _, _ = _scores(q, k, C, P, mask, rows, columns, head, length, width, prefix, stride_q, stride_k,
                                     HAS_C, HAS_P, SUM, PRECISION)  # fmt: skip
        higher = tl.maximum(top, tl.max(scores, 1))
        weights = tl.exp(scores - higher[:, None])
        shrunk = tl.exp(top - higher)
        total = total * shrunk + tl.sum(weights, 1)
        if DROPS:
            weights = tl.where(_kept(SEED, rows, columns, head, width, dropout), weights / (1 - dropout), 0.0)
        out = out * shrunk[:, None] + tl.dot(weights.to(v.dtype), v, out_dtype=SUM, input_precision=PRECISION)
        top = higher
    _keep(OUT, out / total[:, None], rows, dims, head, length, D)
    at = head.to(tl.int64) * length + rows
    tl.store(TOP + at, top, mask=rows < length)
    tl.store(TOTAL + at, total, mask=rows < length)


@triton.jit
def _pairs(q, k, v, gradient, C, P, mask, SEED, TOP, TOTAL, DELTA, rows, columns, head, length, width, prefix, stride_q,
           stride_k, dropout, HAS_C: tl.constexpr, HAS_P: tl.constexpr, DROPS: tl.constexpr, SUM: tl.constexpr,
           PRECISION: tl.constexpr):  # fmt: skip
    """Of a block of pairs: the weights after dropout, the gradients of the scores, and where positions lie."""
    scores, visible, placed, start, at_c, at_p = _scores(
        q, k, C, P, mask, rows, columns, head, length, width, prefix, stride_q, stride_k, HAS_C, HAS_P, SUM, PRECISION
    )
    at, inside = head.to(tl.int64) * length + rows, rows < length
    top = tl.load(TOP + at, mask=inside, other=0.0)
    total = tl.load(TOTAL + at, mask=inside, other=1.0)
    weights = tl.where(inside[:, None], tl.exp(scores - top[:, None]) / total[:, None], 0.0)
    upwards = tl.dot(gradient, tl.trans(v), out_dtype=SUM, input_precision=PRECISION)
    dropped = weights
    if DROPS:
        kept = _kept(SEED, rows, columns, head, width, dropout)
        dropped = tl.where(kept, weights / (1 - dropout), 0.0)
        upwards = tl.where(kept, upwards / (1 - dropout), 0.0)
    inner = tl.load(DELTA + at, mask=inside, other=0.0)
    return dropped, tl.where(visible, weights * (upwards - inner[:, None]), 0.0), placed, start, at_c, at_p


@triton.jit
def _backward_keys(Q, K, V, C, P, MASK, SEED, TOP, TOTAL, DELTA, OUT, DK, DV, DC, DP, batch, length, width, prefix,
                   stride_b, stride_q, stride_k, dropout, HAS_C: tl.constexpr, HAS_P: tl.constexpr, DROPS: tl.constexpr,
                   D: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, SUM: tl.constexpr,
                   PRECISION: tl.constexpr):  # fmt: skip
    """Gradients of a block of keys and values, and of the positions' products of its pairs. OUT: gradient of contexts."""
    head, columns = _place(width, COLUMNS)
    dims = tl.arange(0, WIDE)
    k, v = _block(K, columns, dims, head, width, D), _block(V, columns, dims, head, width, D)
    mask = MASK + (head % batch) * stride_b
    dk, dv = tl.zeros([COLUMNS, WIDE], SUM), tl.zeros([COLUMNS, WIDE], SUM)
    for start in range(0, length, ROWS):
        rows = start + tl.arange(0, ROWS)
        q, gradient = _block(Q, rows, dims, head, length, D), _block(OUT, rows, dims, head, length, D)
        dropped, ds, placed, head_start, at_c, at_p = _pairs(
            q, k, v, gradient, C, P, mask, SEED, TOP, TOTAL, DELTA, rows, columns, head, length, width, prefix, stride_q,
            stride_k, dropout, HAS_C, HAS_P, DROPS, SUM, PRECISION,
        )  # fmt: skip
        if HAS_C:
            tl.store(DC + head_start + at_c, ds.to(DC.dtype.element_ty), mask=placed)
        if HAS_P:
            tl.store(DP + head_start + at_p, ds.to(DP.dtype.element_ty), mask=placed)
        dv += tl.dot(tl.trans(dropped.to(v.dtype)), gradient, out_dtype=SUM, input_precision=PRECISION)
        dk += tl.dot(tl.trans(ds.to(q.dtype)), q, out_dtype=SUM, input_precision=PRECISION)
    _keep(DK, dk, columns, dims, head, width, D)
    _keep(DV, dv, columns, dims, head, width, D)


@triton.jit
def _backward_queries(Q, K, V, C, P, MASK, SEED, TOP, TOTAL, DELTA, OUT, DQ, batch, length, width, prefix, stride_b,
                      stride_q, stride_k, dropout, HAS_C: tl.constexpr, HAS_P: tl.constexpr, DROPS: tl.constexpr,
                      D: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, SUM: tl.constexpr,
                      PRECISION: tl.constexpr):  # fmt: skip
    """Gradients of a block of queries. OUT: gradient of contexts."""
    head, rows = _place(length, ROWS)
    dims = tl.arange(0, WIDE)
    q, gradient = _block(Q, rows, dims, head, length, D), _block(OUT, rows, dims, head, length, D)
    mask = MASK + (head % batch) * stride_b
    dq = tl.zeros([ROWS, WIDE], SUM)
    for start in range(0, width, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        k, v = _block(K, columns, dims, head, width, D), _block(V, columns, dims, head, width, D)
        _, ds, _, _, _, _ = _pairs(
            q, k, v, gradient, C, P, mask, SEED, TOP, TOTAL, DELTA, rows, columns, head, length, width, prefix, stride_q,
            stride_k, dropout, HAS_C, HAS_P, DROPS, SUM, PRECISION,
        )  # fmt: skip
        dq += tl.dot(ds.to(k.dtype), k, out_dtype=SUM, input_precision=PRECISION)
    _keep(DQ, dq, rows, dims, head, length, D)


KERNELS = (_forward, _backward_keys, _backward_queries)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    to_position: Tensor | None,
    to_content: Tensor | None,
    mask: Tensor,
    dropout: float = 0.0,
) -> Tensor:
    """Contexts, differentiable in the first five.

    Args:
        query: (heads, batch, length, head width), scaled.
        key, value: (heads, batch, width, head width); the last `length` of `width` are the text's own.
        to_position: positions as keys, distances falling from length - 1: (heads, 2 length - 1, head width), or None.
        to_content: positions as queries, scaled, distances rising: likewise.
        mask: True where a key is visible, (1, batch, length or 1, width).
        dropout: share of the weights that is dropped.

    Returns (heads, batch, length, head width), under autocast in its dtype, as products are. Raises ValueError for heads
    wider than 128.
    """
    if query.shape[-1] > WIDEST:
        raise ValueError(f"fused attention holds heads of at most {WIDEST}; this one is {query.shape[-1]} wide")
    return _Attend.apply(query, key, value, to_position, to_content, mask, dropout)


class _Attend(torch.autograd.Function):
    """The kernels as a differentiable function; what it keeps grows with the texts' length, not with its square."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, to_position: Tensor | None, to_content: Tensor | None,
        mask: Tensor, dropout: float,
    ) -> Tensor:  # fmt: skip
        given = query, key, value, to_position, to_content
        query, key, value, to_position, to_content = [_as(_kind(given[0]), one) for one in given]
        # An integer of torch's generator, on the device: nothing waits, and a checkpoint's generator draws it again.
        # Where nothing is dropped nothing is drawn: an evaluation must not change what the training after it drops.
        seed = torch.empty(1, dtype=torch.int64, device=query.device)
        if dropout:
            seed.random_(2**62)
        out = torch.empty_like(query)
        top, total = (query.new_empty(query.shape[:3], dtype=_sums(query)) for _ in range(2))
        one = _Inputs(query, key, value, to_position, to_content, mask, seed, dropout)
        one.launch(_forward, query.shape[2], one.products, out, top, total)
        ctx.save_for_backward(*one[:7], out, top, total)
        ctx.dropout = dropout
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        *saved, out, top, total = ctx.saved_tensors
        one = _Inputs._make([*saved, ctx.dropout])
        gradient = gradients[0].to(out.dtype).contiguous()
        inner = (gradient.to(top.dtype) * out.to(top.dtype)).sum(-1)
        dq, dk, dv = (torch.empty_like(tensor) for tensor in one[:3])
        products = one.products
        of_c, of_p = (None if product is None else torch.zeros_like(product) for product in products)
        known = top, total, inner, gradient
        one.launch(_backward_keys, one.key.shape[2], products, *known, dk, dv, _given(of_c, out), _given(of_p, out))
        one.launch(_backward_queries, one.query.shape[2], products, *known, dq)
        to_position = to_content = None
        if of_c is not None and one.to_position is not None:
            by_query, to_position = _through(of_c, one.query, one.to_position, ctx.needs_input_grad[3])
            dq += by_query
        if of_p is not None and one.to_content is not None:
            by_key, to_content = _through(of_p, one.own_keys, one.to_content, ctx.needs_input_grad[4])
            dk[:, :, one.prefix :] += by_key
        return dq, dk, dv, to_position, to_content, None, None


class _Inputs(NamedTuple):
    """What forward and backward are made of, as `attend` has it, contiguous and of one dtype."""

    query: Tensor
    key: Tensor
    value: Tensor
    to_position: Tensor | None
    to_content: Tensor | None
    mask: Tensor
    seed: Tensor
    dropout: float

    @property
    def prefix(self) -> int:
        """Columns before the text's own."""
        return self.key.shape[2] - self.query.shape[2]

    @property
    def own_keys(self) -> Tensor:
        """The keys that have a position: (heads, batch, length, head width)."""
        return self.key[:, :, self.prefix :]

    @property
    def products(self) -> tuple[Tensor | None, Tensor | None]:
        """C and P of the module's docstring, made when asked for: to keep them would be to keep scores."""
        of_queries = None if self.to_position is None else _product(self.query, self.to_position)
        return of_queries, None if self.to_content is None else _product(self.own_keys, self.to_content)

    def launch(self, kernel: Any, count: int, products: tuple[Tensor | None, Tensor | None], *tensors: Tensor) -> None:
        """A program for every block of `count` places of every head of every text. `products`: those of this."""
        heads, batch, length, head_width = self.query.shape
        visible = self.mask.expand(1, batch, length, self.key.shape[2])
        of_queries, of_keys = products
        block = min(BLOCK, max(16, triton.next_power_of_2(length)))
        kernel[(heads * batch * math.ceil(count / block),)](
            self.query, self.key, self.value, _given(of_queries, self.query), _given(of_keys, self.query), visible,
            self.seed, *tensors, batch, length, visible.shape[3], self.prefix, *visible.stride()[1:], self.dropout,
            HAS_C=of_queries is not None, HAS_P=of_keys is not None, DROPS=self.dropout > 0, D=head_width,
            WIDE=max(16, triton.next_power_of_2(head_width)), ROWS=block, COLUMNS=block,
            SUM=tl.float64 if self.query.dtype is torch.float64 else tl.float32,
            PRECISION=_precision(), num_warps=WARPS, num_stages=STAGES,
        )  # fmt: skip


def _as(kind: torch.dtype, tensor: Tensor | None) -> Any:
    return None if tensor is None else tensor.to(kind).contiguous()


def _kind(query: Tensor) -> torch.dtype:
    """What is multiplied: autocast's dtype where it is on (a quantised layer's queries are float32 there), else theirs."""
    device = query.device.type
    casts = torch.is_autocast_enabled(device) and query.dtype is not torch.float64  # which autocast leaves as it is
    return torch.get_autocast_dtype(device) if casts else query.dtype


def _precision() -> str:
    """Of products of float32: torch's own. Not by `allow_tf32`, which raises where the newer setting says tf32."""
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"


def _given(tensor: Tensor | None, other: Tensor) -> Tensor:
    """The tensor, or where there is none some pointer, which nothing reads."""
    return other if tensor is None else tensor


def _sums(tensor: Tensor) -> torch.dtype:
    """What sums are kept in: float32, or float64 for float64 (which only the interpreter sees)."""
    return torch.promote_types(tensor.dtype, torch.float32)


def _product(states: Tensor, positions: Tensor) -> Tensor:
    """Every state times every position of its head: (heads, batch, length, 2 length - 1)."""
    return (states.flatten(1, 2) @ positions.mT).unflatten(1, states.shape[1:3])


def _through(gradient: Tensor, states: Tensor, positions: Tensor, wanted: bool) -> tuple[Tensor, Tensor | None]:
    """Gradients of `_product`'s factors, from its own; of the positions where it is wanted."""
    of_products = gradient.flatten(1, 2)
    of_positions = of_products.mT @ states.flatten(1, 2) if wanted else None
    return (of_products @ positions).view(states.shape), of_positions
