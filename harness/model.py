"""The backbone: loaded, or built at random; a method attached to it; parameters counted as the papers count them.

Initialisation has generators of its own: the head's depends on the seed alone (equal for every method, so that runs of
one seed can be paired), the adapter's on the seed too, and it is drawn after the head's.
"""

from __future__ import annotations

import contextlib
import importlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import architecture, targets
from harness.config import ModelConfig, QuantizationConfig
from harness.errors import ConfigError, ModelError, nearest
from harness.identity import digest

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from harness.task import Task

# Keys of a method's YAML, or of a recipe for it, that are no arguments of its configuration.
OURS = ("_target_", "name", "size", "ranks", "init_normal", "lean", "declares")


@dataclass(frozen=True)
class Params:
    """Numbers of parameters. `adapter` is what the method trains, without the task head, as the papers count."""

    adapter: int
    head: int
    total: int
    active: int


@contextlib.contextmanager
def _drawn_from(stream: str, seed: int) -> Iterator[None]:
    """A named random stream of the run's seed; the global generator is as before afterwards."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(int(digest([stream, seed])[:15], 16))
        yield


def load(
    spec: ModelConfig, directory: Path, task: Task, *, seed: int,
    quantization: QuantizationConfig | None = None, precision: str = "float32",
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:  # fmt: skip
    """The backbone with a new head for the task, quantised where that is asked for, and its fast tokenizer.

    Raises ModelError; weights that the checkpoint lacks must belong to the head: anything else would stay random in
    silence. `precision` is the run's, "float32" or "bfloat16".
    """
    from transformers import AutoTokenizer

    from harness.quantization import quantize
    from methods import attention

    _quiet()
    with architecture.loading(spec, directory):
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
        with _drawn_from("head", seed):
            model, missing = _instantiate(spec, directory, task)
    random = [name for name in missing if not _in_head(name, spec.head_modules)]
    if random:
        raise ModelError(
            f"{directory} lacks weights that are no part of the head ({', '.join(spec.head_modules)}): "
            f"{', '.join(sorted(random)[:5])}; they would stay random. Is it a {spec.family} model?"
        )
    model.to(dtype=_dtype(spec.dtype))  # type: ignore[call-arg]
    if spec.attention != "transformers":
        try:
            attention.lean(model, fused=spec.attention == "fused")
        except ValueError as error:
            raise ModelError(f"model.attention={spec.attention}: {error}") from None
    if quantization is not None:
        quantize(model, quantization, head=spec.head_modules, precision=precision)
    return model, tokenizer


def skeleton(spec: ModelConfig, directory: Path, task: Task) -> PreTrainedModel:
    """The backbone with its head on the meta device: names and shapes, no weights. For counting."""
    import torch

    _quiet()
    with architecture.loading(spec, directory), torch.device("meta"):
        return _instantiate(replace(spec, init="random"), directory, task)[0]


def _quiet() -> None:
    """No reports of transformers': what it would say of new weights is checked here, by name."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # about their next version


def _dtype(name: str) -> Any:
    import torch

    return getattr(torch, name)


def _instantiate(spec: ModelConfig, directory: Path, task: Task) -> tuple[PreTrainedModel, list[str]]:
    """The model, pre-trained or from its configuration alone, and the names that the checkpoint did not have."""
    from transformers import AutoModelForSeq2SeqLM, AutoModelForSequenceClassification

    generates = task.kind == "generation"
    labels = {} if generates else {"num_labels": max(1, len(task.labels))}
    config = architecture.of(spec, directory, labels)
    kind = AutoModelForSeq2SeqLM if generates else AutoModelForSequenceClassification
    if spec.init == "random":
        return _headed(_untied(kind.from_config(config, dtype=_dtype(spec.dtype))), spec, task), []
    model, info = kind.from_pretrained(
        directory,
        config=config,
        dtype=_dtype(spec.dtype),
        local_files_only=True,
        output_loading_info=True,
        trust_remote_code=False,
        weights_only=True,  # a .bin is a pickle: tensors of it, never code
    )
    return _headed(model, spec, task), sorted(info["missing_keys"])


def _headed(model: PreTrainedModel, spec: ModelConfig, task: Task) -> PreTrainedModel:
    """With a head for each of several tasks."""
    if task.kind == "multi":
        from harness.mixture import give_heads

        give_heads(model, spec.head_modules, {name: max(1, len(part.labels)) for name, part in task.parts.items()})
    return model


def _untied(model: PreTrainedModel) -> PreTrainedModel:
    """T5 1.1 with a language-model head of its own: transformers ties that of every T5 without a checkpoint."""
    import torch

    own = getattr(model.config, "scale_decoder_outputs", True) is False  # what its T5Config makes of "not tied"
    if own and "lm_head.weight" in (model._tied_weights_keys or {}):
        model._tied_weights_keys = {k: v for k, v in model._tied_weights_keys.items() if k != "lm_head.weight"}
        model.all_tied_weights_keys.pop("lm_head.weight", None)
        weight = torch.empty_like(model.lm_head.weight).normal_(std=model.config.initializer_factor)
        model.lm_head.weight = torch.nn.Parameter(weight)
    return model


def _in_head(name: str, head_modules: list[str]) -> bool:
    return any(part in head_modules for part in name.split("."))


def method_config(method: dict[str, Any], spec: ModelConfig, task_kind: str, model: nn.Module) -> PeftConfig:
    """The method's peft configuration. Raises ConfigError for a foreign target or an unknown argument."""
    import peft

    target, arguments = str(method["_target_"]), {k: v for k, v in method.items() if k not in OURS}
    module, _, name = target.rpartition(".")
    try:
        kind: Any = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"method._target_={target} does not exist: {error}") from error
    if not (isinstance(kind, type) and issubclass(kind, peft.PeftConfig)):
        raise ConfigError(f"method._target_={target} is no peft configuration class")
    known = {field.name for field in fields(kind) if field.init}
    for key in arguments.keys() - known:
        close = nearest(key, known)
        raise ConfigError(f"unknown key 'method.{key}'.{f' Did you mean method.{close}?' if close else ''}")
    if not isinstance(lean := method.get("lean", True), bool):
        raise ConfigError(f"method.lean: found {lean}, wanted true or false")
    targets.check_kinds(kind, arguments, whole=[*method.get("ranks", ()), *(method.get("size") or ())])
    present = [name for name in spec.head_modules if any(n.split(".")[-1] == name for n, _ in model.named_modules())]
    kind_of_task = "SEQ_2_SEQ_LM" if task_kind == "generation" else "SEQ_CLS"
    try:
        config = kind(task_type=kind_of_task, modules_to_save=present or None, **arguments)  # type: ignore[call-arg]
    except (TypeError, ValueError) as error:
        raise ConfigError(f"method {method['name']}: {error}") from error
    targets.check_silent(config, model)
    for rank in method.get("ranks", ()):
        targets.check_rank(rank, getattr(config, rank), config, model)
    return config


def attach(
    model: PreTrainedModel, config: PeftConfig, *, seed: int, init_normal: dict[str, float] | None = None,
    lean: bool = True,
) -> PeftModel:  # fmt: skip
    """The method on the backbone, drawn from the run's seed. Raises ConfigError where it does not fit.

    Args:
        lean: whether peft's LoRA layers compute in fewer passes (`methods.lowrank`), equal to rounding.
        init_normal: a part of the names of trained parameters -> the standard deviation of the normal distribution that
            they start from, where a paper's start is none that peft offers.
    """
    import peft

    from methods import lowrank, saved

    saved.mark(model, config)
    with _drawn_from("adapter", seed):
        try:
            tuned: Any = peft.get_peft_model(model, config, autocast_adapter_dtype=True)
        except ValueError as error:
            raise ConfigError(
                f"the method does not fit this backbone: {targets.unmatched(model, config) or error}"
            ) from error
        for part, std in (init_normal or {}).items():
            _draw(tuned, part, std)
    if lean:
        lowrank.lean(tuned)
    return tuned


def _draw(tuned: nn.Module, part: str, std: float) -> None:
    """Draw the trained parameters with `part` in their names anew. Raises ConfigError where there are none."""
    found = [p for name, p in tuned.named_parameters() if p.requires_grad and part in name]
    if not found:
        raise ConfigError(f"method.init_normal.{part}: no trained parameter has '{part}' in its name")
    for parameter in found:
        parameter.data.normal_(0.0, std)


def count(model: PeftModel, active: int | None) -> Params:
    """Parameters of adapter and head, apart, and all there are. `active`: what survives, where it is less."""
    from harness.quantization import size as values
    from methods.hooks import find

    adapter = head = total = 0
    for name, parameter in model.named_parameters():
        size = values(parameter)
        total += size
        if parameter.requires_grad:
            in_head = ".modules_to_save." in name
            head, adapter = head + size * in_head, adapter + size * (not in_head)
    own = find(model).adapter_params()
    adapter = adapter if own is None else own
    return Params(adapter, head, total, adapter if active is None else active)
