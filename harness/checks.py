"""The checks of preflight on the model, each a function from what is there to a list of faults; an empty list is a pass.

A fault says what was found and how to mend it. None knows a method by name: what one declares of itself is in
`Probe.declared`, what it does while it trains in its hooks (methods/hooks.py). harness/fits.py has the checks on data,
budget and schedule.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from torch import nn

from harness import losses, optimizer
from harness.frozen import adapter_prefix
from harness.probe import Probe
from methods.hooks import find

TRIES = 4  # random values that may leave a ReLU dead before a gradient of zero is believed


def some(names: Any) -> str:
    """A few names of many."""
    found = sorted(names)
    return ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")


def _in_head(name: str) -> bool:
    return ".modules_to_save." in name


def _adapter(model: Any) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad and not _in_head(name)}


def seed(probe: Probe) -> list[str]:
    """The adapter's first values follow from the run's seed, unless the method draws none."""
    real, again = _adapter(probe.real), _adapter(probe.attach(probe.run.seed))
    if other := [name for name in real if name not in again or not torch.equal(real[name].cpu(), again[name].cpu())]:
        return [f"attached twice with the same seed, {some(other)} differ; draw from torch's global generator"]
    if not real:
        return []
    third = _adapter(probe.attach(probe.run.seed + 1))
    follows = any(not torch.equal(again[name], third[name]) for name in again)
    if follows == ("no_draws" not in probe.declared):
        return []
    if follows:
        return ["the initial values depend on the seed, and the method declares no_draws; take that word away"]
    return ["the initial values do not depend on the seed: draw them from torch's global generator, or say "
            "method.declares=[no_draws]"]  # fmt: skip


def gradients(probe: Probe) -> list[str]:
    """Every trained tensor is reached by a gradient, in some phase; nothing trains but adapter and head."""
    method, config = find(probe.model), probe.model.peft_config["default"]
    prefix = adapter_prefix(config)
    biases = getattr(config, "bias", "none") != "none"
    dead: set[str] = set()
    wrong: set[str] = set()
    stages: list[Any] = list(method.phases()) or [None]
    for phase in stages:
        if phase is not None:
            method.on_phase_begin(phase)
        wrong |= {name for name in _adapter(probe.model)
                  if prefix not in name and not (biases and name.endswith("bias"))}  # fmt: skip
        dead |= _unreached(probe)
    faults = [
        f"{some(dead)} require a gradient and never get one; use them in the forward pass, or freeze them"
    ] * bool(dead)
    return faults + [f"{some(wrong)} belong to the backbone and would be trained; set requires_grad=False"] * bool(
        wrong
    )


def _unreached(probe: Probe) -> set[str]:
    """Names of trained tensors whose gradient is missing, or zero whatever their values."""
    method, waiting = find(probe.model), set(probe.trained())
    for attempt in range(TRIES):
        probe.randomise(attempt)
        for part in probe.parts:  # a head or a mask of one task is reached by that task's rows
            if not waiting:
                break
            probe.turn_to(part)
            probe.model.train()
            probe.model.zero_grad(set_to_none=True)
            with probe.autocast():
                loss = method.loss(probe.model, probe.batch, losses.task_loss(probe.rows.kind))
            penalty = method.penalty()
            (loss if penalty is None else loss + penalty).backward()
            found = probe.trained()
            waiting = {name for name in waiting if name in found and not _reached(found[name])}
    probe.model.zero_grad(set_to_none=True)
    probe.turn_to(None)
    return waiting


def _reached(parameter: nn.Parameter) -> bool:
    return parameter.grad is not None and bool(parameter.grad.count_nonzero())


def head(probe: Probe) -> list[str]:
    """Everything that stands behind the backbone, which is random at first (head and pooler), is trained and saved."""
    if probe.rows.kind == "generation":
        return []
    base = probe.model.get_base_model()
    inside = {id(p) for p in getattr(base, base.base_model_prefix, base).parameters()}
    named = set(probe.run.model.head_modules)
    asked = {name for name, p in base.named_parameters()
             if not name.startswith("adapters.") and ".original_module." not in name
             and (named & set(name.split(".")) or id(p) not in inside)}  # fmt: skip
    trained = {name for name, p in base.named_parameters() if p.requires_grad}
    told = "name their modules in model.head_modules, and leave requires_grad on"
    if frozen := {name for name in asked - trained if "lora_" not in name}:
        return [f"{some(frozen)} are new for this task and would stay as they are; {told}"]
    kept = {name.replace(".modules_to_save.default", "") for name in asked}
    stored = {re.sub(r"^base_model\.(model\.)?", "", key) for key in get_peft_model_state_dict(probe.model)}
    lost = {name for name in kept if name not in stored}
    return [f"{some(lost)} are trained and would not be saved; {told}"] if lost else []


def saved(probe: Probe) -> list[str]:
    """What is saved is all that training changes: saved, spoilt and loaded again, the model says the same."""
    probe.randomise(101)
    before, values = probe.logits(), {name: p.detach().clone() for name, p in probe.trained().items()}
    stored = get_peft_model_state_dict(probe.model, save_embedding_layers=False)
    stored = {name: tensor.detach().to("cpu", copy=True) for name, tensor in stored.items()}
    probe.randomise(102)
    if torch.equal(before, probe.logits()):
        return ["other values of what is trained do not change a single logit: the adapter is not in use"]
    set_peft_model_state_dict(probe.model, stored)
    after = probe.logits()
    if torch.allclose(before, after, rtol=1e-5, atol=1e-6):
        return []
    lost = {name for name, p in probe.trained().items() if not torch.equal(p, values[name])}
    gap = (before - after).abs().max().item()
    return [f"saved and loaded again, the logits differ by {gap:.2g}; not restored: {some(lost)}. The method's saved "
            "state has to hold them (head: model.head_modules)"]  # fmt: skip


def penalty(probe: Probe) -> list[str]:
    """A method's penalty is a matter of training: neither logits nor the model's own loss know of it in evaluation."""
    method: Any = find(probe.model)
    if type(method).penalty is find(nn.Identity()).__class__.penalty:
        return []
    plain, batch = probe.logits(), probe.batch
    found = method.penalty()
    if found is not None and (found.dim() or not torch.isfinite(found)):
        return [f"is {found.tolist()}, not one finite number"]
    if not torch.equal(plain, probe.logits()):
        return ["computing the penalty changes the logits; it must not leave anything behind"]
    if "penalised_loss" in probe.declared:
        return []
    with torch.no_grad(), probe.autocast():
        said = probe.model(**batch).loss
    expected = losses.task_loss(probe.rows.kind)(plain, batch["labels"])
    if torch.allclose(said.float(), expected, rtol=1e-2, atol=1e-3):
        return []
    return [f"in evaluation the model's own loss is {said:.4g} and that of its logits {expected:.4g}; add the penalty "
            "in training only, or say method.declares=[penalised_loss] (no score here is made of it)"]  # fmt: skip


def padding(probe: Probe) -> list[str]:
    """A row says the same alone as beside a longer one."""
    if "padding" in probe.declared:
        return []
    rough = (
        probe.precision == "bfloat16" or probe.run.quantization.weights != "none" or probe.run.model.dtype != "float32"
    )
    alone = {name: tensor[:1] for name, tensor in probe.batch.items()}
    wider = dict(alone)
    fill = {"input_ids": probe.rows.pad_token_id, "attention_mask": 0, "token_type_ids": 0}
    for name, value in fill.items():
        if name in alone:
            wider[name] = nn.functional.pad(alone[name], (0, 5), value=value)
    before, after = probe.logits(alone), probe.logits(wider)
    gap, scale = (before - after).abs().max().item(), max(1.0, before.abs().max().item())
    if gap <= (0.1 if rough else 1e-3) * scale:
        return []
    return [f"5 padding tokens change a logit by {gap:.2g}; honour attention_mask, or say method.declares=[padding]"]


def dtypes(probe: Probe) -> list[str]:
    """Frozen weights in model.dtype (quantised ones apart), trained values and AdamW's moments in float32."""
    asked = getattr(torch, probe.run.model.dtype)
    packed = probe.run.quantization.weights != "none"
    named = list(probe.real.named_parameters())
    wrong = {f"{name} ({str(p.dtype).removeprefix('torch.')})" for name, p in named
             if not p.requires_grad and p.dtype.is_floating_point and p.dtype != asked}  # fmt: skip
    if wrong and not packed:
        return [f"model.dtype={probe.run.model.dtype}, and {some(wrong)} are not; load the backbone in that dtype"]
    allowed = {torch.float32, asked}
    if low := {name for name, p in named if p.requires_grad and p.dtype not in allowed}:
        return [f"{some(low)} train in neither float32 nor model.dtype; set autocast_adapter_dtype"]
    return _moments(probe)


def _moments(probe: Probe) -> list[str]:
    """One update of the smallest trained tensor, with the run's own optimiser."""
    every = list(probe.trained().values())
    small = min(every, key=lambda parameter: parameter.numel())
    before = small.detach().clone()
    for parameter in every:
        parameter.requires_grad_(parameter is small)
    try:
        adamw = optimizer.build(probe.model, find(probe.model), probe.run.train, probe.run.train.learning_rate)
        small.grad = torch.ones_like(small)
        adamw.step()
    finally:
        small.data.copy_(before)
        for parameter in every:
            parameter.requires_grad_(True)
            parameter.grad = None
    kept = {str(t.dtype) for state in adamw.state.values() for t in state.values()
            if isinstance(t, torch.Tensor) and t.dim() and t.dtype not in (torch.float32, small.dtype)}  # fmt: skip
    fault = f"the optimiser keeps its moments in {some(kept)}, not in float32; choose another train.optimizer"
    return [fault] if kept else []


def ties(probe: Probe) -> list[str]:
    """Weights that the backbone shares between modules are still one tensor."""
    base: Any = probe.real.get_base_model()
    pairs = getattr(base, "all_tied_weights_keys", None) or {}
    broken = []
    for one, other in dict(pairs).items():
        first, second = (_weight(base, name) for name in (one, other))
        if first is not None and second is not None and first is not second:
            broken.append(f"{one} and {other}")
    return [f"{some(broken)} were one tensor and are two now; leave tied weights out of what the method wraps or copies, "
            "or train them as one"] if broken else []  # fmt: skip


def _weight(model: nn.Module, name: str) -> Any:
    """A parameter by its own name, also where the method wrapped its module."""
    path, _, last = name.rpartition(".")
    for inner in ("", ".base_layer", ".original_module"):
        try:
            return model.get_submodule(path + inner).get_parameter(last)
        except AttributeError:
            continue
    return None


CHECKS: dict[str, Callable[[Probe], list[str]]] = {
    check.__name__: check for check in (seed, dtypes, ties, padding, head, gradients, saved, penalty)
}
