"""Which numbers and patterns a configuration may hold, by their keys: others would end in a library's words, or never."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Any

from harness.errors import ConfigError

MOST = 2**31 - 1  # of what is counted
LARGEST = 1e6  # of rates, factors and durations
# The smallest and the largest value allowed
BOUNDS: dict[str, tuple[float, float]] = {
    "seed": (0, 2**32 - 1),  # what numpy's and torch's generators take
    "threads": (1, MOST),  # harness/device.py compares them with the machine that makes the run
    "pack": (1, 1024),
    "data.max_length_tokens": (1, MOST),
    "data.max_target_tokens": (1, 65536),
    "data.eval_batch_size": (1, MOST),
    "data.max_train_rows": (1, MOST),
    "data.max_eval_rows": (1, MOST),
    "train.learning_rate": (0, LARGEST),
    "train.epochs": (0, 10_000),
    "train.max_steps": (1, 10_000_000),  # after which of them to evaluate is a set in memory
    "train.batch_size": (1, MOST),
    "train.accumulation_steps": (1, MOST),
    "train.warmup_steps": (0, MOST),
    "train.warmup_ratio": (0, 1),
    "train.weight_decay": (0, LARGEST),
    "train.adam_beta1": (0, 1),
    "train.adam_beta2": (0, 1),
    "train.adam_epsilon": (0, LARGEST),
    "train.clip_norm": (0, 1e30),
    "train.label_smoothing": (0, 1),
    "train.evaluate_every_epochs": (0, LARGEST),  # 0: after each update
    "quantization.outlier_threshold": (0, 1e30),
    "generation.num_beams": (1, 256),
    "generation.max_new_tokens": (1, 65536),
    "generation.min_new_tokens": (0, MOST),
    "generation.length_penalty": (-10, 10),  # the power of a length
    "generation.no_repeat_ngram_size": (0, MOST),
    "generation.validation_rows": (1, MOST),
    "budget.max_adapter_params": (1, 2**63 - 1),
    "budget.level_params": (1, 2**63 - 1),
    "budget.level_percent": (0, LARGEST),
    "recipe.trials": (0, MOST),
    "preflight.max_truncated_percent": (0, LARGEST),
    "results.heartbeat_seconds": (0.1, LARGEST),
    "results.checkpoint_seconds": (0, 1e9),
}
BELOW = ("train.adam_beta1", "train.adam_beta2", "train.label_smoothing")  # the largest value itself is too large
# The smallest value itself is too small: what it would do, and what to say instead.
ABOVE = {"train.clip_norm": "would clip every gradient to nothing, and nothing would train; null switches clipping off"}
PATTERNS = ("target_modules", "exclude_modules")  # of a method: a text is a regular expression of module names
KEYED = ("rank_pattern", "alpha_pattern")  # their keys are


def check(section: Any, group: str = "") -> None:
    """Raises ConfigError for the first number of a section, or of the whole configuration, that is out of bounds.

    None passes. What has no bounds, wherever it is, must be finite.
    """
    for key, value in _numbers(section, group):
        if key in BOUNDS:
            _within(key, value)
        if not (isinstance(value, int) or math.isfinite(value)):
            raise ConfigError(f"{key}={value} is not a finite number")


def patterns(method: dict[str, Any], sites: dict[str, str]) -> None:
    """Raises ConfigError for a regular expression of `method` or `model.sites` that is none."""
    found: list[tuple[str, Any]] = [(f"model.sites.{name}", pattern) for name, pattern in sites.items()]
    found += [(f"method.{name}", method.get(name)) for name in PATTERNS]
    for name in KEYED:
        found += [(f"method.{name}", key) for key in method[name]] if isinstance(method.get(name), dict) else []
    for key, pattern in found:
        try:
            re.compile(pattern if isinstance(pattern, str) else "")
        except (re.error, OverflowError, RecursionError) as error:
            raise ConfigError(f"{key}={pattern} is no regular expression of module names: {error}") from error


def _within(key: str, value: float) -> None:
    lowest, highest = BOUNDS[key]
    if not value >= lowest:  # NaN too
        raise ConfigError(f"{key}={value} is below {_said(lowest)}, the smallest value allowed")
    if value == lowest and key in ABOVE:
        raise ConfigError(f"{key}={value} {ABOVE[key]}")
    if value > highest:
        raise ConfigError(f"{key}={value} is above {_said(highest)}, the largest value allowed")
    if value == highest and key in BELOW:
        raise ConfigError(f"{key}={value} must be below {_said(highest)}")


def _said(bound: float) -> str:
    return str(bound) if isinstance(bound, int) else f"{bound:g}"


def _numbers(value: Any, key: str) -> Iterator[tuple[str, float]]:
    """Every number of dataclasses, mappings and lists, with its key, dots between."""
    if isinstance(value, int | float):
        yield key, value
    elif isinstance(value, list | tuple):
        for place, inside in enumerate(value):
            yield from _numbers(inside, f"{key}.{place}")
    elif isinstance(value, dict) or is_dataclass(value):
        for name, inside in (value if isinstance(value, dict) else vars(value)).items():
            yield from _numbers(inside, f"{key}.{name}" if key else str(name))
