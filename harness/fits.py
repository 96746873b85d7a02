"""The checks of preflight on data, budget and schedule: what a model cannot show by itself."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, cast

import numpy as np
from torch import nn

from harness import budget, metrics
from harness.checks import some
from harness.data import Encoded
from harness.errors import ConfigError
from harness.mixture import Mixture
from harness.probe import Probe
from harness.schedule import total_steps, warmup_steps
from methods.hooks import find

ENDS = ("pad_token_id", "bos_token_id", "eos_token_id")
FEWEST_WORDS = 0.9  # of the embeddings: tables are filled up to a round number, by less than a tenth
MOST_UNKNOWN_PERCENT, MOST_ROWS = 50.0, 2000


def parameters(probe: Probe) -> list[str]:
    """As many as the method's shapes say, and no more than the budget's ceiling."""
    built, said = budget.planned(probe.real), probe.counted()
    if built != said:
        return [f"the method has {built[0]:,} adapter parameters, and by its shapes {said[0]:,}; a module is missed or "
                "counted twice: look at method.target_modules"]  # fmt: skip
    ceiling = probe.run.budget.max_adapter_params
    if ceiling is not None and built[0] > ceiling:
        return [f"{built[0]:,} adapter parameters are above budget.max_adapter_params={ceiling:,}; allow more"]
    return []


def labels(probe: Probe) -> list[str]:
    """The head has a logit a label, every target is one of them, and the metric calls the truth right."""
    task, kind = probe.task, probe.rows.kind
    if kind == "generation":
        return _answers(probe)
    width, wanted = probe.logits().shape[-1], len(task.labels) if kind == "classification" else 1
    if width != wanted:
        return [
            f"the head has {width} logits and the task {wanted} ({', '.join(task.labels) or 'a score'}); task.labels"
        ]
    faults = []
    for split, encoded in probe.splits.items():
        if kind == "classification" and (
            odd := {str(t) for t in encoded.targets if not (0 <= t < wanted and t == int(t))}
        ):
            faults.append(f"{split} has targets {some(odd)} and labels 0 to {wanted - 1}; look at task.labels")
        elif not all(math.isfinite(target) for target in encoded.targets):
            faults.append(f"{split} has a target that is no finite number; mend the file")
    truth = probe.splits[task.reports].targets
    if faults or task.metric in (*metrics.CHOICES, *metrics.GROUPED) or len(set(truth)) < 2:
        return faults
    score = metrics.compute(task.metric, list(truth), list(truth))[task.score]
    return [f"metric {task.metric} gives the truth itself {score:.1f} of 100; it does not fit a task of {kind}: "
            "task.metric"] if score < 99.99 else []  # fmt: skip


def _answers(probe: Probe) -> list[str]:
    """Text to text: every answer that is trained on is read back as what it stands for."""
    reader = probe.task.answers
    if reader is None:
        return []
    texts = set(probe.task.splits["train"].target)
    lost = {text for text in texts if reader.parse(str(text)) is None}
    return (
        [f"the answers {some(lost)} are trained on and would be scored as wrong; look at task.answers"] if lost else []
    )


def truncation(probe: Probe) -> list[str]:
    """No split loses tokens in more rows than preflight.max_truncated_percent."""
    limit, faults = probe.run.preflight.max_truncated_percent, []
    for split, encoded in probe.splits.items():
        share = 100.0 * encoded.truncated_rows / max(1, len(encoded))
        if share > limit:
            faults.append(f"{share:.0f} % of the {split} rows are cut at data.max_length_tokens="
                          f"{probe.run.data.max_length_tokens} (text to text: or at data.max_target_tokens), above "
                          f"preflight.max_truncated_percent={limit:g}; raise one of them")  # fmt: skip
    return faults


def tokenizer(probe: Probe) -> list[str]:
    """The tokenizer is the backbone's: ids within its table, the same padding and ends, texts in words that it knows."""
    words, base, parts = probe.tokenizer, cast(Any, probe.real.get_base_model()), _parts(probe.splits["train"])
    rows = int(base.get_input_embeddings().weight.shape[0])
    faults, remedy = [], "give the directory (model.path) the tokenizer that its weights were trained with"
    if len(words) > rows and (highest := max(int(max(ids)) for part in parts for ids in part.input_ids)) >= rows:
        faults.append(f"a row has token {highest}, and the backbone {rows:,} embeddings; {remedy}")
    if probe.run.model.init == "pretrained":
        if len(words) < FEWEST_WORDS * rows:
            faults.append(f"the tokenizer has {len(words):,} words, and the backbone {rows:,} embeddings; {remedy}")
        ends = [(name, getattr(base.config, name, None), getattr(words, name)) for name in ENDS]
        apart = [f"{name} {theirs} where the backbone has {ours}" for name, ours, theirs in ends
                 if None not in (ours, theirs) and ours != theirs]  # fmt: skip
        faults += [f"the tokenizer has {', '.join(apart)}; {remedy}"] if apart else []
    looked = [ids for part in parts for ids in part.input_ids[:: max(1, len(part) // MOST_ROWS)]]
    share = 100.0 * np.mean(np.concatenate(looked) == words.unk_token_id) if words.unk_token_id is not None else 0.0
    if share > MOST_UNKNOWN_PERCENT:
        faults.append(f"{share:.0f} % of the training rows' tokens are unknown to the tokenizer ({words.unk_token}): texts "
                      "of another language or file format, or another model's tokenizer")  # fmt: skip
    return faults


def _parts(encoded: Encoded | Mixture) -> list[Encoded]:
    """The rows of every task."""
    return list(encoded.parts.values()) if isinstance(encoded, Mixture) else [encoded]


def positions(probe: Probe) -> list[str]:
    """No row is longer than the backbone has positions for; on a GPU that would be an error without a name."""
    places = [_places(name, module) for name, module in probe.real.named_modules()]
    limit = min((count for count in places if count is not None), default=None)
    if limit is None:
        return []
    data, faults = probe.run.data, []
    source, split = max((int(max(encoded.lengths)), split) for split, encoded in probe.splits.items())
    target, where = max((_longest_target(encoded), split) for split, encoded in probe.splits.items())
    if source > limit:
        faults.append(f"a {split} row has {source} tokens, and the backbone {limit} positions; data.max_length_tokens="
                      f"{data.max_length_tokens} may be {limit} at most")  # fmt: skip
    if target > limit:
        faults.append(f"a {where} target has {target} tokens, and the decoder {limit} positions; "
                      f"data.max_target_tokens={data.max_target_tokens} may be {limit} at most")  # fmt: skip
    longest = probe.run.generation.max_new_tokens  # the last one is never read
    if probe.task.kind == "generation" and longest > limit:
        faults.append(f"the decoder has {limit} positions; generation.max_new_tokens={longest} may be {limit} at most")
    return faults


def _longest_target(encoded: Encoded | Mixture) -> int:
    """Tokens of the longest target; 0 where targets are classes or scores."""
    return max(
        (len(target) for part in _parts(encoded) if part.kind == "generation" for target in part.targets), default=0
    )


def _places(name: str, module: nn.Module) -> int | None:
    """How many tokens a table of learnt positions has entries for; None for any other module."""
    if not isinstance(module, nn.Embedding) or "position" not in name.rpartition(".")[2]:
        return None
    # RoBERTa counts from the place after its padding, BART leaves out the first two.
    unused = 0 if module.padding_idx is None else module.padding_idx + 1
    return int(module.num_embeddings) - unused - int(getattr(module, "offset", 0))


def schedule(probe: Probe) -> list[str]:
    """The method's schedule fits the number of updates, its budget will move, and the rate rises above zero.

    Raises ConfigError where the method refuses so few updates: training without this check would be refused as well.
    """
    train = probe.run.train
    total = total_steps(train, math.ceil(len(probe.splits["train"]) / train.batch_size))
    if warmup_steps(train, total) >= total:
        probe.remarks.append(f"the warm-up takes all {total} updates: the learning rate never comes down from its rise")
    method = find(probe.model)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # training says them again
            method.on_train_begin(total)
    except ValueError as error:
        raise ConfigError(f"the method does not fit a training of {total} updates: {error}") from error
    if method.will_move(total) is False:
        return [f"in {total} updates the method's budget never moves: it would be the plain method at its first size; "
                "train longer (train.epochs), or shorten the method's warm-up and interval"]  # fmt: skip
    return []


CHECKS: dict[str, Callable[[Probe], list[str]]] = {
    check.__name__: check for check in (parameters, labels, truncation, tokenizer, positions, schedule)
}
