"""`pack=5`: runs of a sweep that differ in seed and learning rate alone, five at a time, trained over one backbone.

    python -m harness -m method=lora seed=0,1,2,3,4 pack=5

Every run ends in an ordinary record of its own. It is not the record of the run alone: dropout is drawn for the pack, so
the two are equal in law and not in bits, and its identity says `packed`. Packed runs are averaged with packed runs, of
whatever number; no table averages them with others. What is killed or stopped begins anew: a pack has no checkpoints.

How it is done: harness/joint.py. Here: which runs make a pack, and what cannot be packed. Nothing heavy is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from harness.config import RunConfig
from harness.errors import ConfigError
from harness.identity import digest

if TYPE_CHECKING:
    from harness.joint import Seat
    from harness.wanted import Wanted

WORD = "packs"  # what a method declares (conf/method) whose forward pass can be batched over runs
FAMILIES = ("deberta", "roberta")
KINDS = ("classification", "regression")
REMARK = (
    "packed: dropout as of a run alone in law, not in bits; seconds, tokens a second and memory are of the whole pack"
)


def alone(config: RunConfig) -> None:
    """Raises ConfigError where a single run is asked to be packed."""
    if config.pack > 1:
        raise ConfigError(f"pack={config.pack} trains runs of a sweep together: add -m, and several seeds (seed=0,1,2)")


def check(runs: Iterable[Wanted], *, here: bool) -> None:
    """Raises ConfigError for the first run that cannot be packed, or where the launcher (not `here`) cannot."""
    for config in (one.config for one in runs if one.config.pack > 1):
        reason = _reason(config) if here else "packs are made by hydra/launcher=local"
        if reason:
            raise ConfigError(f"pack={config.pack}: {reason}; or leave pack away")


def _reason(config: RunConfig) -> str | None:
    """Why this run cannot be packed, and what could be."""
    settings = config.train
    switched = [name for name in ("gradient_checkpointing", "compile", "cuda_graphs", "cache_features", "retry_out_of_memory")
                if getattr(settings, name)]  # fmt: skip
    if WORD not in (config.method.get("declares") or ()):
        return (
            f"method {config.method['name']} cannot be batched over runs; those can that declare `{WORD}` in "
            "conf/method (lora, adalora, houlsby, pfeiffer, bitfit)"
        )
    if config.model.family not in FAMILIES or config.model.attention == "fused":
        fused = " with fused attention" if config.model.attention == "fused" else ""
        return f"model {config.model.name}{fused} cannot be batched over runs; families that can: {', '.join(FAMILIES)}"
    if config.task.kind not in KINDS:
        return f"task {config.task.name} is {config.task.kind}; kinds that can be packed: {', '.join(KINDS)}"
    if config.quantization.weights != "none":
        return f"quantization={config.quantization.name} cannot be batched over runs; quantization=none can"
    if settings.loss_reduction != "mean":
        return f"train.loss_reduction={settings.loss_reduction} works on one run at a time; mean can be packed"
    return f"train.{switched[0]}=true works on one run at a time" if switched else None


def units(runs: Sequence[Wanted]) -> list[list[Wanted]]:
    """Runs that share a process: alone, or as many as `pack` says that differ in seed and learning rate alone."""
    alike: dict[str, list[list[Wanted]]] = {}
    found: list[list[Wanted]] = []
    for one in runs:
        packs = alike.setdefault(_alike(one), [])
        if not packs or len(packs[-1]) >= one.config.pack:
            packs.append([])
            found.append(packs[-1])
        packs[-1].append(one)
    return found


def _alike(one: Wanted) -> str:
    known: dict[str, Any] = asdict(one.config)
    del known["seed"], known["train"]["learning_rate"], known["recipe"]
    return digest(known)


def together(runs: list[str], work: Callable[[Seat], None]) -> list[int]:
    """Make a pack of runs by their ids: `work` for each seat; its exit codes. A signal ends all after the update."""
    from harness.interrupt import Interrupt
    from harness.joint import Pack

    with Interrupt() as interrupt, interrupt.deferred():
        return Pack(runs, interrupt).make(work)
