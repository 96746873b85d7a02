"""`python -m harness.estimate model=... method=... [key=value ...]`: memory and disk of a run, before it is made.

    python -m harness.estimate model=deberta_v3_base method=lora task=glue/rte
    python -m harness.estimate model=t5_3b method=lora task=xsum train.batch_size=8 train.gradient_checkpointing=true
    python -m harness.estimate params=7B trained=40M     a backbone known by its number of parameters alone

The run asked for stands beside full fine-tuning and QLoRA of the same backbone. Weights, gradients, optimizer and disk
follow from shapes; activations are counted by running a step on the meta device (`harness.work`), at the longest batch
that the limits allow, which real batches seldom reach. Not counted: libraries (about 0.5 GB on a CPU, a context of the
like on a GPU), an allocator's fragments, evaluation. Attention's weights count as kept, which a fused kernel spares.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from harness import compose, device, directory, provenance, task
from harness.config import RunConfig
from harness.errors import ConfigError, HarnessError, reader_left

if TYPE_CHECKING:
    from torch import nn

FLOAT = 4  # bytes of a float32
MOMENTS = 2  # of AdamW, float32 each
BLOCK, SUPERBLOCK = 64, 256  # weights that share a 4-bit constant; constants that share one of double quantisation
BYTES = {"none": 4.0, "bf16": 2.0, "int8": 1.0, "nf4": 0.5, "fp4": 0.5}
UNITS = {"K": 1e3, "M": 1e6, "B": 1e9}
COLUMNS = ("weights", "gradients", "optimizer", "activations", "sum", "peak", "disk", "trained")


@dataclass(frozen=True)
class Estimate:
    """Bytes of one run.

    Args:
        weights: backbone, adapter and head as they are stored in memory.
        gradients, optimizer: of what is trained; the optimizer's two moments, and a copy for `train.select=best`.
        activations: the most that a step holds beside these; None where the shape is not known.
        peak: the most at once, which is less than the sum where gradients come after activations have gone.
        disk: what the run stores: adapter and head, or with full fine-tuning the model.
        trained: parameters that are trained, the head's included.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int | None
    peak: int | None
    disk: int
    trained: int

    @property
    def sum(self) -> int:
        """All parts together: a bound."""
        return self.weights + self.gradients + self.optimizer + (self.activations or 0)


def textbook(
    params: float, trained: float | None = None, weights: str = "none", double_quant: bool = False
) -> Estimate:
    """A backbone of `params` parameters in float32, or stored as `weights`, of which, or beside which, some are trained.

    Args:
        trained: parameters of an adapter; None: the backbone itself is trained.
    """
    moved = params if trained is None else trained
    stored = params * (BYTES[weights] + constants(weights, double_quant)) + (trained or 0) * FLOAT
    return Estimate(
        int(stored), int(moved * FLOAT), int(moved * FLOAT * MOMENTS), None, None, int(moved * FLOAT), int(moved)
    )


def constants(weights: str, double_quant: bool) -> float:
    """Bytes of quantisation constants a weight: a float32 a block of 64, or 8 bits and a float32 every 256 of these."""
    if weights not in ("nf4", "fp4"):
        return 0.0
    return (1 + FLOAT / SUPERBLOCK) / BLOCK if double_quant else FLOAT / BLOCK


def estimate(config: RunConfig) -> Estimate:
    """What a run will hold and store, by parts. Raises ConfigError or ModelError as the run would."""
    from harness.work import work

    tuned, weights = _blank(config)
    train, kind = config.train, config.task.kind
    trained = sum(parameter.numel() for parameter in tuned.parameters() if parameter.requires_grad)
    copies = MOMENTS + (train.select == "best")
    half = device.precision(train.precision, device.resolve(config.device)) == "bfloat16"
    rows = max(1, train.batch_size // train.accumulation_steps)
    one = work(tuned, kind, rows, config.data.max_length_tokens, config.data.max_target_tokens, half=half)
    return Estimate(
        weights, trained * FLOAT, trained * FLOAT * copies, one.activation_bytes,
        weights + trained * FLOAT * copies + one.peak_bytes, trained * FLOAT, trained,
    )  # fmt: skip


def _blank(config: RunConfig) -> tuple[nn.Module, int]:
    """The run's model on the meta device, and the bytes that its parameters take as they are stored."""
    import torch

    from harness import budget, execution, mixture, model, quantization
    from methods import attention

    spec = config.model if config.model.path else replace(config.model, init="random")
    at, blank = directory.locate(spec), task.empty(config.task)
    sized, _ = budget.solve(config.budget, config.method, spec, at, blank)
    backbone = model.skeleton(spec, at, blank)
    attention.lean(backbone)  # transformers' cannot run without values; it holds more
    stored = config.quantization
    if stored.weights in provenance.PACKED:
        _fits_codes(model.skeleton(spec, at, blank), config, sized, blank.kind)
    packed = {id(layer.weight) for _, layer in quantization.layers(backbone, spec.head_modules)}
    own = {id(parameter) for parameter in backbone.parameters()}
    with torch.device("meta"):
        tuned = model.attach(backbone, model.method_config(sized, spec, blank.kind, backbone), seed=0)
    if config.task.parts:
        mixture.choose(tuned, next(iter(config.task.parts)))
    if config.train.gradient_checkpointing:
        execution.checkpoint_activations(tuned)
    whole = 0.0
    for parameter in tuned.parameters():
        size = float(parameter.element_size())
        if stored.weights == "bf16" and id(parameter) in own and not parameter.requires_grad:
            size = BYTES["bf16"]
        elif stored.weights != "none" and id(parameter) in packed:
            size = BYTES[stored.weights] + constants(stored.weights, stored.double_quant)
        whole += parameter.numel() * size
    return tuned, int(whole)


def _fits_codes(backbone: Any, config: RunConfig, sized: dict[str, Any], kind: str) -> None:
    """Raises ConfigError, as the run would, for a method that computes with weights which are codes once quantised."""
    import torch
    from torch import nn

    from harness import model, quantization

    for _, layer in quantization.layers(backbone, config.model.head_modules):
        layer.weight = nn.Parameter(torch.empty_like(layer.weight, dtype=torch.uint8), requires_grad=False)
    with torch.device("meta"):
        model.attach(backbone, model.method_config(sized, config.model, kind, backbone), seed=0)


def variants(words: Sequence[str]) -> dict[str, RunConfig]:
    """The run asked for, and beside it full fine-tuning and QLoRA of the same backbone on the same task."""
    kept = [
        word for word in words if not word.lstrip("+~").startswith(("method=", "method.", "quantization", "budget"))
    ]
    asked = compose.composed(words)
    kept += [f"train.{name}={getattr(asked.train, name)}" for name in ("batch_size", "accumulation_steps", "select")]
    kept += [f"data.{name}={value}" for name, value in asked.data.lengths.items()]  # recipes differ in all of these
    name = asked.method["name"] + ("" if asked.quantization.weights == "none" else f" ({asked.quantization.name})")
    found = {name: asked}
    for other, label in (("full", "full"), ("qlora", "qlora (nf4_dq)")):
        found.setdefault(label, compose.composed([*kept, f"method={other}"]))
    return found


def numbers(words: Sequence[str]) -> dict[str, Estimate]:
    """The textbook's rows for `params=7B trained=40M`. Raises ConfigError."""
    given: dict[str, float] = {}
    for word in words:
        key, _, value = word.partition("=")
        if key not in ("params", "trained"):
            raise ConfigError(f"params=N stands alone or with trained=N, not with {word}; without it, give model=NAME")
        given[key] = _number(word, value)
    if "params" not in given:
        raise ConfigError("trained=N needs params=N")
    found = {"full": textbook(given["params"])}
    if adapter := given.get("trained"):
        found["PEFT"] = textbook(given["params"], adapter)
        found["QLoRA (nf4_dq)"] = textbook(given["params"], adapter, "nf4", double_quant=True)
    return found


def _number(word: str, value: str) -> float:
    unit = UNITS.get(value[-1:].upper(), 1.0)
    try:
        number = float(value[:-1] if unit > 1 else value) * unit
    except ValueError:
        number = 0.0
    if not 0 < number < 1e15:
        raise ConfigError(f"{word}: found {value or 'nothing'}, wanted a number such as 7e9, 7B or 40M")
    return number


def shown(found: dict[str, Estimate]) -> str:
    """A table: a line a variant, decimal gigabytes, parameters in millions."""
    lines = [f"{'GB':22}" + "".join(f"{column:>13}" for column in COLUMNS)]
    for name, one in found.items():
        cells = [getattr(one, column) for column in COLUMNS[:-1]]
        text = "".join(f"{'-' if cell is None else f'{cell / 1e9:,.3f}':>13}" for cell in cells)
        lines.append(f"{name:22}{text}{f'{one.trained / 1e6:,.2f} M':>13}")
    return "\n".join(lines)


def main() -> None:
    """Print the table; a mistake is one message and exit code 2."""
    try:
        print(_answer(sys.argv[1:]), flush=True)
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except BrokenPipeError:
        raise SystemExit(reader_left()) from None


def _answer(words: list[str]) -> str:
    if not words or {"-h", "--help"} & set(words):
        return __doc__ or ""
    if any(word.startswith(("params=", "trained=")) for word in words):
        return shown(numbers(words))
    configs = variants(words)
    asked = next(iter(configs.values()))
    train, data = asked.train, asked.data
    batch = f"micro-batch {train.batch_size // train.accumulation_steps} x {data.max_length_tokens} tokens"
    found = shown({name: estimate(config) for name, config in configs.items()})
    return f"{asked.model.name}, {asked.task.name}: {batch}\n{found}"


if __name__ == "__main__":
    main()
