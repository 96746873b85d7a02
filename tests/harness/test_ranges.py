"""Numbers out of bounds and patterns that are none: one message with the key, before anything is made."""

import os
import typing
from dataclasses import fields, is_dataclass

import pytest

from harness import compose, device, ranges
from harness.config import RunConfig
from harness.errors import ConfigError


def numeric(schema, prefix=""):
    """Keys of the schema that hold one number, but for the task's and the backbone's own."""
    hints = typing.get_type_hints(schema)
    for one in fields(schema):
        kind = hints[one.name]
        if is_dataclass(kind):
            yield from () if one.name in ("task", "model") else numeric(kind, f"{prefix}{one.name}.")
        elif {int, float} & {kind, *typing.get_args(kind)} and typing.get_origin(kind) not in (list, dict):
            yield f"{prefix}{one.name}"


def test_every_number_has_bounds():
    assert set(numeric(RunConfig)) == ranges.BOUNDS.keys()


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("train.label_smoothing=2", "above 1"),
        ("train.label_smoothing=1", "must be below 1"),
        ("train.adam_beta1=1.5", "above 1"),
        ("train.adam_beta2=1", "must be below 1"),
        ("train.adam_epsilon=-1", "below 0"),
        ("train.learning_rate=inf", "train.learning_rate=inf is above"),
        ("train.epochs=inf", "train.epochs=inf is above"),
        ("train.evaluate_every_epochs=-1", "below 0"),
        ("results.heartbeat_seconds=nan", "heartbeat_seconds=nan"),
        ("results.heartbeat_seconds=0", "below 0.1"),
        ("results.heartbeat_seconds=-1", "below 0.1"),
        (f"seed={10**29}", "above 4294967295"),
        ("results.root=''", "no folder's name"),
        ("results.root='a\nb'", "no folder's name"),
        ("task.temperature=inf", "task.temperature=inf is not a finite number"),
        ("+model.config.x=nan", "model.config.x=nan is not a finite number"),
        ("method.lora_alpha=inf", "method.lora_alpha=inf is not a finite number"),
        ("method.target_modules='('", "method.target_modules=( is no regular expression"),
        ("model.sites.linears='*'", "model.sites.linears=* is no regular expression"),
    ],
)
def test_out_of_bounds(word, says):
    with pytest.raises(ConfigError) as refused:
        compose.composed([word])
    assert says in str(refused.value)


def test_keys_that_are_patterns():
    ranges.patterns({"rank_pattern": {"query": 4}, "target_modules": ["*"]}, {})  # a list holds names
    with pytest.raises(ConfigError, match=r"method.rank_pattern=[(] is no regular expression"):
        ranges.patterns({"rank_pattern": {"(": 4}}, {})


def test_the_ends_are_within():
    found = compose.composed([
        "train.label_smoothing=0.99", "train.adam_beta1=0", "train.evaluate_every_epochs=0", "seed=4294967295",
        "results.heartbeat_seconds=0.1", "train.learning_rate=0", "method.target_modules=all-linear",
    ])  # fmt: skip
    assert found.seed == 2**32 - 1 and found.train.evaluate_every_epochs == 0


def test_more_threads_than_any_use():
    most = 4 * (os.cpu_count() or 1)
    device.check_threads(None)
    device.check_threads(most)
    with pytest.raises(ConfigError, match=f"threads={most + 1} is above {most}, four times"):
        device.check_threads(most + 1)
