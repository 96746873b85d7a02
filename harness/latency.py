"""Seconds of one forward pass for one row, with the adapter beside the backbone and merged into it."""

from __future__ import annotations

import statistics
import time
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from harness.data import Encoded, collate
from harness.feed import decoder_inputs
from harness.kept import forget
from harness.mixture import Mixture

if TYPE_CHECKING:
    from peft import PeftModel

ROWS = 8  # timed one after the other, after one that is not timed
# What a method says that cannot be merged. AttributeError: IA3 in peft, beside a head of several layers (its issue 3114).
REFUSALS = (ValueError, NotImplementedError, AttributeError)


def measure(model: PeftModel, encoded: Encoded | Mixture, *, device: str, precision: str) -> dict[str, float | None]:
    """`latency_seconds` and `latency_merged_seconds`: medians over the first rows; None where there is nothing to time.

    A row is one forward pass by itself; text to text, encoder and decoder over the whole target. **The model is used
    up:** where it can be merged its backbone is another one afterwards. A method that refuses to be merged has no
    merged latency.
    """
    inputs = [_inputs(model, encoded, row, device) for row in range(min(ROWS, len(encoded)))]
    if not inputs:
        return {"latency_seconds": None, "latency_merged_seconds": None}
    forget(model)
    apart = _median(model, inputs, device, precision)
    merge: Any = getattr(model, "merge_and_unload", None)  # prompts of peft's have none
    try:
        with warnings.catch_warnings():  # of rounding in 4 bits: nothing is predicted with what is merged here
            warnings.simplefilter("ignore")
            merged = None if merge is None else merge()
    except REFUSALS:
        merged = None
    together = None if merged is None else _median(merged, inputs, device, precision)
    return {"latency_seconds": apart, "latency_merged_seconds": together}


def _inputs(model: nn.Module, encoded: Encoded | Mixture, row: int, device: str) -> dict[str, Tensor]:
    """One row as a batch, without labels; the decoder's inputs where there is a decoder."""
    if isinstance(encoded, Mixture):  # whatever task the model was last asked about
        _, encoded, _ = encoded.at([0])
    batch = collate(encoded, [row])
    labels = batch.pop("labels")
    if encoded.kind == "generation":
        batch["decoder_input_ids"] = decoder_inputs(model)(labels)
    return {name: tensor.to(device) for name, tensor in batch.items()}


def _median(model: nn.Module, inputs: list[dict[str, Tensor]], device: str, precision: str) -> float:
    """Median seconds of a forward pass, after one to warm up."""
    place = torch.device(device)
    model.eval()
    seconds = []
    # Not `inference_mode`: a table that a model caches here may be used by the next training in this process.
    with torch.no_grad(), torch.autocast(place.type, torch.bfloat16, enabled=precision == "bfloat16"):
        for batch in [inputs[0], *inputs]:
            begun = time.perf_counter()
            model(**batch)
            if place.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds[1:])
