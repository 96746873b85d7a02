"""4- and 8-bit weights: the authors' library's numbers, definitions, and bitsandbytes itself."""

import json
import math
import os
import statistics
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from harness import codes


def oracle(name):
    folder = os.environ.get("HARNESS_SHARED")
    if not folder or not (Path(folder) / "oracles" / name).is_file():
        pytest.skip(f"HARNESS_SHARED is not set, or holds no oracles/{name}")
    return json.loads((Path(folder) / "oracles" / name).read_text())


def table(weights):
    return torch.tensor(codes.TABLES[weights])


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_oracle_tables():
    found = oracle("nf4_tables.json")
    assert torch.equal(table("nf4"), torch.tensor(found["nf4"]))
    assert torch.equal(table("fp4"), torch.tensor(found["fp4_by_code"]))
    assert torch.equal(codes.dynamic_map(), torch.tensor(found["dynamic_map_signed"]))


def test_the_oracle_blocks():
    for case in oracle("nf4_blockwise.json")["cases"]:
        values = torch.tensor(case["x"]).view(case["shape"])
        found, scales = codes.blockwise(values, table(case["quant_type"]), case["blocksize"])
        assert found.tolist() == case["codes"]
        assert codes.pack(found).numpy().tobytes().hex() == case["packed_hex"]
        assert codes.unpack(codes.pack(found), len(found)).tolist() == case["codes"]
        assert torch.equal(scales, torch.tensor(case["absmax"]))
        assert torch.equal(codes.from_blocks(found, scales, table(case["quant_type"])), torch.tensor(case["dequant"]))
        assert torch.equal(codes.rounded(values, case["quant_type"]).flatten(), torch.tensor(case["dequant"]))


def test_the_oracle_scales():
    case = oracle("nf4_double_quant.json")
    found, offset, second = codes.double_quantize(torch.tensor(case["absmax"]))
    assert found.tolist() == case["absmax_codes"]
    assert torch.equal(offset, torch.tensor(case["offset"]))
    assert torch.equal(second, torch.tensor(case["state2_absmax"]))
    scales = codes.double_dequantize(found, offset, second)
    assert torch.equal(scales, torch.tensor(case["absmax_dequant"]))
    blocks = case["first_blocks"]
    first, _ = codes.blockwise(torch.tensor(blocks["x"]), table("nf4"))
    packed = next(value for key, value in blocks.items() if key.startswith("packed"))
    assert codes.pack(first).numpy().tobytes().hex() == packed
    values = codes.from_blocks(first, scales[:2], table("nf4"))
    assert torch.equal(values, torch.tensor(blocks["dequant"]).flatten())


def test_the_oracle_rows():
    case = oracle("int8_rowwise.json")
    found, scales = codes.rowwise(torch.tensor(case["w"]).view(5, 8))
    assert found.tolist() == case["codes"]
    assert torch.equal(scales, torch.tensor(case["scale"]))
    assert_close(codes.from_rows(found, scales).flatten(), torch.tensor(case["dequant"]), rtol=0, atol=1e-7)


def test_nf4_are_quantiles_of_a_normal_distribution():
    """Equally many on either side of zero but for one, by the paper's offset; greatest magnitude 1."""
    density, offset = statistics.NormalDist(), 1 - (1 / 30 + 1 / 32) / 2
    positive = [density.inv_cdf(offset + k * (0.5 - offset) / 8) for k in range(8)]
    negative = [-density.inv_cdf(offset + k * (0.5 - offset) / 7) for k in range(7)]
    values = torch.tensor(sorted([*positive, 0.0, *negative])) / max(positive)
    assert_close(values, table("nf4"), rtol=0, atol=2e-7)


@pytest.mark.parametrize("weights", ["nf4", "fp4"])
def test_a_code_is_the_nearest_value_of_its_block(weights):
    values = normal(24, 100)
    found, scales = codes.blockwise(values, table(weights))
    assert scales.tolist() == [block.abs().max().item() for block in values.flatten().split(64)]
    normed = values.flatten() / scales.repeat_interleave(64)[: values.numel()]
    best = (normed[:, None] - table(weights)).abs().min(1).values
    assert ((normed - table(weights)[found.long()]).abs() - best).max() < 1e-6
    assert not codes.rounded(torch.zeros(3, 50), weights).any()


def test_errors_are_those_of_the_paper_sheet():
    """Relative root of the mean square on a normal weight, and the worst entry over its block's scale."""
    weight = normal(1024, 1024)
    wanted = {("nf4", False): (0.0920, 0.1520), ("nf4", True): (0.0920, 0.158), ("fp4", False): (0.1219, 0.1667),
              ("int8", False): (0.0079, None)}  # fmt: skip
    for (weights, double), (mean, worst) in wanted.items():
        off = codes.rounded(weight, weights, double) - weight
        assert off.square().mean().sqrt().item() == pytest.approx(mean, abs=5e-4)
        scales = weight.view(-1, 64).abs().amax(1, keepdim=True)
        assert worst is None or (off.view(-1, 64).abs() / scales).max() <= worst + 1e-4
    assert 0.1 < codes.distance(weight, weight, "fp4") < 0.13
    assert codes.distance(codes.rounded(weight, "nf4"), weight, "nf4") == 0


def test_codes_again_are_the_same_codes():
    for weights in ("nf4", "int8"):
        once = codes.rounded(normal(40, 64), weights)
        assert_close(codes.rounded(once, weights), once, rtol=0, atol=1e-2 if weights == "int8" else 0)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("weights", ["nf4", "fp4"])
def test_bitsandbytes_agrees_to_the_bit(weights, seed):
    functional = pytest.importorskip("bitsandbytes").functional
    weight = normal(300, 256, seed=seed)
    packed, state = functional.quantize_4bit(weight, quant_type=weights, blocksize=64)
    found, scales = codes.blockwise(weight, table(weights))
    assert torch.equal(codes.pack(found), packed.flatten()) and torch.equal(scales, state.absmax)
    assert torch.equal(functional.dequantize_4bit(packed, state), codes.rounded(weight, weights))
    packed, state = functional.quantize_4bit(weight, quant_type=weights, blocksize=64, compress_statistics=True)
    ours, offset, second = codes.double_quantize(scales)
    assert torch.equal(offset, state.offset) and torch.equal(second, state.state2.absmax)
    assert torch.equal(ours, state.absmax)
    assert state.blocksize == codes.BLOCK and state.state2.blocksize == codes.SCALES_BLOCK
    values = functional.dequantize_4bit(packed, state)
    assert math.isclose(codes.distance(values, weight, weights, True), 0, abs_tol=1e-6)


def test_codes_of_scales_are_looked_up_on_a_grid():
    """As in bitsandbytes' code for a CPU: 0.2 % have the neighbour of the nearest code."""
    functional = pytest.importorskip("bitsandbytes").functional
    scales = normal(60_000).abs()
    found, state = functional.quantize_blockwise(scales - scales.mean(), code=codes.dynamic_map(), blocksize=256)
    ours, _, second = codes.double_quantize(scales)
    assert torch.equal(ours, found) and torch.equal(second, state.absmax)
    plain, _ = codes.blockwise(scales - scales.mean(), codes.dynamic_map(), 256)
    assert 20 < (plain != ours).sum() < 300


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("weights", ["nf4", "fp4"])
def test_odd_shapes_and_halves_to_the_byte(weights, dtype):
    functional = pytest.importorskip("bitsandbytes").functional
    weight = normal(13, 17).to(dtype)
    weight[3, 4] = 80  # an outlier takes its block's codes down to zero
    packed, state = functional.quantize_4bit(weight, quant_type=weights, blocksize=64)
    found, scales = codes.blockwise(weight, table(weights))
    assert torch.equal(codes.pack(found, int(codes.nearest(torch.zeros(()), table(weights)))), packed.flatten())
    assert torch.equal(codes.unpack(packed.flatten(), 221), found) and torch.equal(scales, state.absmax)
