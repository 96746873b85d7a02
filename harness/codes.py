"""4- and 8-bit weights written out in plain torch: what the codes are, and the values that they stand for.

NormalFloat and double quantisation: Dettmers et al., NeurIPS 2023, section 3; rows of int8: Dettmers et al., NeurIPS 2022,
section 2. Runs compute with bitsandbytes (`quantization`); this is what one layer of it is held against in every run,
and what a reader can follow. Equal to bitsandbytes 0.50 on a CPU, whose 8-bit scales are not the paper's FP8 but a dynamic
map, and whose int8 has a scale a row where the paper's general formula has blocks. It looks the code of a scale up on a
grid of 16 bits, so that 0.2 % of normal weights' scales have the neighbour of the nearest code: here as well.

Everything is flattened row-major first. Where two values of a table are equally near, the lower one is taken.
"""

from __future__ import annotations

import torch
from torch import Tensor

from harness.errors import ModelError

BLOCK, SCALES_BLOCK = 64, 256  # weights that share a scale; scales that share one when they are quantised too
GRID = 2**16  # points of [-1, 1], ends included, at which bitsandbytes knows the code of a scale
# Quantiles of a normal distribution: 7 negative ones, zero, 8 positive ones. The code is the place in the table.
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
# One sign bit, two of exponent, one of mantissa; the order of the codes is that of their bits, and zero has two.
FP4 = tuple(sign * value / 12 for sign in (1, -1) for value in (0, 0.0625, 8, 12, 4, 6, 2, 3))
TABLES = {"nf4": NF4, "fp4": FP4}
AGREES = 0.01  # of a weight's norm; NF4 itself is 0.09 away from the weight, FP4 0.1 from NF4


def dynamic_map() -> Tensor:
    """The 256 values of an 8-bit code for scales, ascending: an exponent in unary, the remaining bits linear.

    For each power of ten from 10^-6 to 1 the middles of 1, 2, 4, ..., 64 equal parts of [0.1, 1], both signs; 0 and 1.
    """
    values = [torch.tensor([0.0, 1.0])]
    for exponent in range(7):
        edges = torch.linspace(0.1, 1, 2**exponent + 1)
        middles = (edges[:-1] + edges[1:]) / 2 * 10.0 ** (exponent - 6)
        values += [middles, -middles]
    return torch.cat(values).sort().values


def nearest(values: Tensor, table: Tensor) -> Tensor:
    """The code of each value (uint8, in its shape): the place in `table` (float32, 1-D) of what is nearest to it."""
    ordered, places = table.sort(stable=True)
    middles = (ordered[:-1] + ordered[1:]) / 2
    return places[torch.bucketize(values, middles)].to(torch.uint8)


def blockwise(values: Tensor, table: Tensor, block: int = BLOCK, grid: int | None = None) -> tuple[Tensor, Tensor]:
    """Codes (uint8, flat) and scales (float32, one a block) of values in any shape; the last block may be short.

    A block's scale is its greatest magnitude; its codes are of the values over the scale. A block of zeros has scale 0.
    With `grid` these are rounded first, to so many points of [-1, 1].
    """
    flat = values.detach().float().flatten()
    padded = torch.nn.functional.pad(flat, (0, -flat.numel() % block)).view(-1, block)
    scales = padded.abs().amax(1)
    normed = padded * (1 / scales).masked_fill(scales == 0, 0.0)[:, None]
    if grid is not None:
        half = (grid - 1) / 2
        normed = ((normed + 1) * half + 0.5).floor() / half - 1
    return nearest(normed, table).flatten()[: flat.numel()], scales


def from_blocks(codes: Tensor, scales: Tensor, table: Tensor, block: int = BLOCK) -> Tensor:
    """The values (float32, flat) that codes and scales stand for."""
    return table[codes.long()] * scales.repeat_interleave(block)[: codes.numel()]


def double_quantize(scales: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scales as codes of the dynamic map: codes (uint8), the mean that was taken off (scalar), the scales of 256 each."""
    offset = scales.mean()
    codes, second = blockwise(scales - offset, dynamic_map(), SCALES_BLOCK, GRID)
    return codes, offset, second


def double_dequantize(codes: Tensor, offset: Tensor, second: Tensor) -> Tensor:
    """The scales that `double_quantize` made codes of, as far as the codes can tell."""
    return from_blocks(codes, second, dynamic_map(), SCALES_BLOCK) + offset


def rowwise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """LLM.int8 of a weight (out x in): codes (int8, out x in) and scales (float32, out).

    The weight is rounded to float16 first; a row's scale is its greatest magnitude, a code round(127 w / scale).
    """
    half = weight.detach().half().float()
    scales = half.abs().amax(1)
    return (half * (127 / scales).masked_fill(scales == 0, 0.0)[:, None]).round().to(torch.int8), scales


def from_rows(codes: Tensor, scales: Tensor) -> Tensor:
    """The weight (float32, out x in) that codes and scales of rows stand for."""
    return codes.float() * scales[:, None] / 127


def pack(codes: Tensor, end: int = 0) -> Tensor:
    """Two 4-bit codes a byte, the first in the high half; an odd number is filled up with `end` (bitsandbytes: of zero)."""
    pairs = torch.nn.functional.pad(codes, (0, codes.numel() % 2), value=end).view(-1, 2)
    return pairs[:, 0] << 4 | pairs[:, 1]


def unpack(packed: Tensor, count: int) -> Tensor:
    """The first `count` codes of packed bytes."""
    return torch.stack([packed >> 4, packed & 15], dim=1).flatten()[:count]


def rounded(weight: Tensor, weights: str, double_quant: bool = False) -> Tensor:
    """A weight as the layer computes with it: to codes and back, in float32 and in the weight's shape.

    Args:
        weight: out x in, or any shape where it goes by blocks.
        weights: "nf4", "fp4" or "int8".
        double_quant: whether the scales of 4-bit blocks go to codes and back as well.
    """
    if weights == "int8":
        return from_rows(*rowwise(weight))
    table = torch.tensor(TABLES[weights])
    codes, scales = blockwise(weight, table)
    scales = double_dequantize(*double_quantize(scales)) if double_quant else scales
    return from_blocks(codes, scales, table).view(weight.shape)


def distance(values: Tensor, weight: Tensor, weights: str, double_quant: bool = False) -> float:
    """How far `values` are from what `rounded` makes of the weight, over the norm of that: 0 where all codes agree."""
    expected = rounded(weight, weights, double_quant)
    return ((values.float() - expected).norm() / expected.norm().clamp(min=1e-30)).item()


def check(name: str, values: Tensor, weight: Tensor, weights: str, double_quant: bool) -> None:
    """Raises ModelError where a quantised layer's `values` are not what the tables make of its weight."""
    off = distance(values, weight, weights, double_quant)
    if off > AGREES:
        raise ModelError(
            f"bitsandbytes makes other codes of {name} than {weights} has, {off:.3f} of the weight's norm away (at most "
            f"{AGREES} is allowed); use quantization=none, or the version in constraints.txt"
        )
