"""The backbone: found, fingerprinted, loaded; a method attached to it; parameters counted as the papers count them.

Initialisation has generators of its own: the head's depends on the seed alone (equal for every method, so that runs of
one seed can be paired), the adapter's on the seed too, and it is drawn after the head's.
"""

from __future__ import annotations

import contextlib
import importlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.config import ModelConfig
from harness.errors import ConfigError, ModelError, nearest
from harness.identity import digest, hash_files
from harness.paths import embedded

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from harness.task import Task

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
TOKENIZER = ("*token*.json", "vocab.*", "merges.txt", "*.model")


@dataclass(frozen=True)
class Params:
    """Numbers of parameters. `adapter` is what the method trains, without the task head, as the papers count."""

    adapter: int
    head: int
    total: int
    active: int


def locate(spec: ModelConfig) -> Path:
    """The directory that holds the backbone: `model.path`, or the hub's snapshot. Raises ModelError.

    Only what transformers needs is fetched; `.bin` weights only where a repository has no safetensors.
    """
    if spec.path is not None:
        return _checked_directory(embedded(spec.path), spec)
    if spec.hub_id is None:
        raise ModelError(f"model {spec.name} has neither model.path nor model.hub_id; give model.path=DIR")
    from harness.snapshot import snapshot

    return _checked_directory(snapshot(spec.hub_id, spec.revision), spec)


def _checked_directory(directory: Path, spec: ModelConfig) -> Path:
    """The directory, if it holds a backbone. Raises ModelError that says what is missing."""
    if not directory.is_dir():
        raise ModelError(f"model.path={directory} is no directory; give one in the Hugging Face layout")
    if not (directory / "config.json").is_file():
        found = ", ".join(sorted(path.name for path in directory.iterdir())[:8]) or "nothing"
        raise ModelError(f"{directory} is no Hugging Face model: it has no config.json (found: {found})")
    if spec.init == "pretrained" and not any((directory / name).is_file() for name in WEIGHTS):
        raise ModelError(
            f"{directory} has no weights ({' or '.join(WEIGHTS[::2])}); for random ones: model.init=random"
        )
    return directory


def fingerprint(directory: Path, init: str) -> str:
    """What the backbone is, by content: its configuration, tokenizer and (unless initialised at random) weights."""
    patterns = ["config.json", *TOKENIZER]
    if init == "pretrained":
        # transformers prefers safetensors: other weight files beside them are not read, and not part of the identity
        patterns += ["*.safetensors"] if any(directory.glob("*.safetensors")) else ["pytorch_model*.bin"]
    paths = {path for pattern in patterns for path in directory.glob(pattern) if path.is_file()}
    return digest([init, hash_files(sorted(paths))])


@contextlib.contextmanager
def _drawn_from(stream: str, seed: int) -> Iterator[None]:
    """A named random stream of the run's seed; the global generator is as before afterwards."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(int(digest([stream, seed])[:15], 16))
        yield


def load(
    spec: ModelConfig, directory: Path, task: Task, *, seed: int
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The backbone with a new head for the task, and its fast tokenizer. Raises ModelError.

    Weights that the checkpoint lacks must belong to the head: anything else would stay random in silence.
    """
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()  # what it would report (weights that are new) is checked below, by name
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # theirs, about their next version
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
        with _drawn_from("head", seed):
            model, missing = _instantiate(spec, directory, task)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        reason = str(error).strip().splitlines()
        raise ModelError(
            f"{directory} cannot be loaded as model {spec.name}: {reason[0] if reason else error!r}"
        ) from error
    random = [name for name in missing if not _in_head(name, spec.head_modules)]
    if random:
        raise ModelError(
            f"{directory} lacks weights that are no part of the head ({', '.join(spec.head_modules)}): "
            f"{', '.join(sorted(random)[:5])}; they would stay random. Is it a {spec.family} model?"
        )
    if getattr(model, "hf_quantizer", None) is None:
        model.to(dtype=_dtype(spec.dtype))
    return model, tokenizer


def _dtype(name: str) -> Any:
    import torch

    return getattr(torch, name)


def _instantiate(spec: ModelConfig, directory: Path, task: Task) -> tuple[PreTrainedModel, list[str]]:
    """The model, pre-trained or from its configuration alone, and the names that the checkpoint did not have."""
    from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification

    generates = task.kind == "generation"
    labels = {} if generates else {"num_labels": max(1, len(task.labels))}
    config = AutoConfig.from_pretrained(directory, local_files_only=True, **labels)
    for key, value in spec.config.items():
        if not hasattr(config, key):
            raise ModelError(f"model.config.{key} is no setting of a {config.model_type} model")
        setattr(config, key, value)
    kind = AutoModelForSeq2SeqLM if generates else AutoModelForSequenceClassification
    if spec.init == "random":
        return kind.from_config(config, dtype=_dtype(spec.dtype)), []
    model, info = kind.from_pretrained(
        directory, config=config, dtype=_dtype(spec.dtype), local_files_only=True, output_loading_info=True
    )
    return model, sorted(info["missing_keys"])


def _in_head(name: str, head_modules: list[str]) -> bool:
    return any(part in head_modules for part in name.split("."))


def method_config(method: dict[str, Any], spec: ModelConfig, task_kind: str, model: nn.Module) -> PeftConfig:
    """The method's peft configuration. Raises ConfigError for a foreign target or an unknown argument."""
    import peft

    target, arguments = str(method["_target_"]), {k: v for k, v in method.items() if k not in ("_target_", "name")}
    module, _, name = target.rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"method._target_={target} does not exist: {error}") from error
    if not (isinstance(kind, type) and issubclass(kind, peft.PeftConfig)):
        raise ConfigError(f"method._target_={target} is no peft configuration class")
    known = {field.name for field in fields(kind) if field.init}
    for key in arguments.keys() - known:
        close = nearest(key, known)
        raise ConfigError(f"unknown key 'method.{key}'.{f' Did you mean method.{close}?' if close else ''}")
    present = [name for name in spec.head_modules if any(n.split(".")[-1] == name for n, _ in model.named_modules())]
    kind_of_task = "SEQ_2_SEQ_LM" if task_kind == "generation" else "SEQ_CLS"
    try:
        return kind(task_type=kind_of_task, modules_to_save=present or None, **arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"method {method['name']}: {error}") from error


def attach(model: PreTrainedModel, config: PeftConfig, *, seed: int) -> PeftModel:
    """The method on the backbone, drawn from the run's seed. Raises ConfigError where it does not fit."""
    import peft

    with _drawn_from("adapter", seed):
        try:
            return peft.get_peft_model(model, config, autocast_adapter_dtype=False)
        except ValueError as error:
            raise ConfigError(f"the method does not fit this backbone: {error}") from error


def count(model: PeftModel, active: int | None) -> Params:
    """Parameters that train, adapter and head apart, and all there are. `active`: what survives, where it is less."""
    adapter = head = total = 0
    for name, parameter in model.named_parameters():
        size = parameter.numel()
        total += size
        if parameter.requires_grad:
            in_head = ".modules_to_save." in name
            head, adapter = head + size * in_head, adapter + size * (not in_head)
    return Params(adapter, head, total, adapter if active is None else active)
