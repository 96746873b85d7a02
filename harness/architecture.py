"""A backbone's architecture, as its configuration class has it: read from its directory or from the YAML's shape, with
`model.config` put in, and nothing in it that makes transformers fetch code.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from harness.directory import shaped
from harness.errors import ConfigError, ModelError, unknown
from harness.schema import ModelConfig

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# Settings that a model reads and its configuration class lacks.
UNDECLARED = {
    "deberta-v2": ("cls_dropout", "norm_rel_ebd", "position_buckets", "share_att_key"),
    "t5": ("decoder_start_token_id",),
}
ACTIVATIONS = ("hidden_act", "pooler_hidden_act", "activation_function")
# What transformers and torch answer a backbone's wrong files and settings with.
FAULTS = (OSError, ValueError, LookupError, RuntimeError, ImportError, TypeError, AttributeError, ArithmeticError,
          AssertionError, EOFError, UnpicklingError)  # fmt: skip


@contextlib.contextmanager
def loading(spec: ModelConfig, directory: Path) -> Iterator[None]:
    """Raises ModelError in place of whatever transformers says of this backbone."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    try:
        yield
    except (*FAULTS, StrictDataclassError, SafetensorError) as error:
        raise ModelError(f"{directory} cannot be loaded as model {spec.name}: {_reason(error)}") from error


def of(spec: ModelConfig, directory: Path, labels: dict[str, int]) -> PretrainedConfig:
    """The backbone's configuration. Raises ConfigError and ModelError for settings that it lacks or cannot have."""
    from transformers import AutoConfig

    if shape := shaped(spec, directory):
        config = AutoConfig.for_model(**(shape | labels))
        known = {*type(config)().to_dict(), *type(config).attribute_map, *UNDECLARED.get(config.model_type, ())}
        for key in shape.keys() - known:
            raise ConfigError(f"model.shape: {unknown('setting', key, known)}")
    else:
        config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False, **labels)
    _change(config, spec.config)
    for part in (config, *(getattr(config, name, None) for name in config.sub_configs)):
        for kind in ("_attn_implementation", "_experts_implementation"):
            if "/" in str(getattr(part, kind, None)):
                raise ModelError(
                    f"{directory}/config.json asks for the kernel {getattr(part, kind)}, which would be fetched and run; "
                    f"take {kind.removeprefix('_')} out of it"
                )
    return config


def _change(config: PretrainedConfig, wanted: dict[str, Any]) -> None:
    """Put in what `model.config` says. What begins with `_` is transformers' own: kernels to fetch, among others."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers.activations import ACT2FN

    declared = {key for key in (*config.to_dict(), *config.attribute_map) if not key.startswith("_")}
    known = declared.union(UNDECLARED.get(config.model_type, ()))
    for key, value in wanted.items():
        if key not in known:
            raise ModelError(f"model.config.{key} is no setting of a {config.model_type} model that can be changed")
        if key in ACTIVATIONS and value not in ACT2FN:
            raise ConfigError(f"model.config.{key}: {unknown('activation', str(value), ACT2FN)}")
        try:
            setattr(config, key, value)
        except (StrictDataclassError, TypeError, ValueError, AttributeError) as error:
            raise ConfigError(f"model.config.{key}={value} is not allowed: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """The last line of what a library says; where it is about a file, or no sentence, what may be the matter."""
    lines = str(error).strip().splitlines()
    at = -1 if len(lines) > 1 and type(error).__name__.startswith("Strict") else 0
    said = lines[at].strip() if lines else ""
    if said.endswith(":"):
        said = " ".join(line.strip() for line in lines)[:300]
    if type(error).__name__ == "SafetensorError" or " " not in said or isinstance(error, json.JSONDecodeError):
        return f"{type(error).__name__} {said}".strip() + "; a file of it may be damaged: copy or fetch it again"
    return said
