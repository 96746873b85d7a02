"""The contract battery on interruption: a training killed after any update goes on, in a model built anew, as if never
killed: equal losses, curve, ranks and parameters to the last bit, dropout on and `select=best`.

Every method on one of the families; `-m slow` takes all of them.
"""

from dataclasses import replace

import peft
import pytest
import torch
from battery import CASES
from settings import training
from tiny import LABELS, METHODS, VOCABULARY, _built
from torch import nn

from harness.checkpoint import Checkpoints
from harness.data import Encoded
from harness.train import train

STEPS = 12
SETTINGS = training(
    learning_rate=1e-2, epochs=1, max_steps=STEPS, batch_size=2, warmup_steps=2, weight_decay=0.1, clip_norm=1.0,
    precision="float32", select="best", evaluate_every_epochs=0.5,
)  # fmt: skip
MOVING = {  # what makes a schedule move within so few updates
    "adalora": {"interval_steps": 1},
    "adalora_peft": {"deltaT": 1},
    "increlora": {"interval_steps": 2, "modules_per_growth": 8, "target_rank": 2},
    "propetl": {"masks_first": True},
}
SCORES = [30.0, 10.0, 40.0, 20.0, 35.0, 15.0]  # the third evaluation is the best


class Killed(BaseException):
    """The process is gone."""


class Bar:
    """A bar that kills the training once it has heard of so many updates."""

    total = None

    def __init__(self, at):
        self.at, self.done = at, 0

    def update(self, n):
        self.done += n
        if self.done == self.at:
            raise Killed

    def set_postfix_str(self, s, refresh):
        pass


def rows(case, number=8):
    generator, config = torch.Generator().manual_seed(3), _built(case.family, case.kind, 0).config
    ids = [torch.randint(4, VOCABULARY, (3 + row % 4,), generator=generator).tolist() for row in range(number)]
    ids = [[*row[:-1], config.eos_token_id or 2] for row in ids]
    targets = [row % LABELS for row in range(number)] if case.kind == "classification" else [row[:3] for row in ids]
    return Encoded(case.kind, ids, None, targets, [str(row) for row in range(number)], config.pad_token_id, 0)


def attempt(case, folder, kill=0, settings=SETTINGS):
    """One process's part: built, attached and trained anew, killed at an update or not."""
    model = case.base()
    torch.manual_seed(0)
    model = peft.get_peft_model(model, case.config(**MOVING.get(case.method, {})))
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.1
    bar = Bar(kill)
    outcome = train(
        model, rows(case), settings, seed=1, device="cpu", buckets=False, main="accuracy", progress=bar,
        validate=lambda: {"accuracy": SCORES[bar.done // 2 - 1]}, checkpoints=Checkpoints(folder, "key", 0.0) if folder else None,
    )  # fmt: skip
    return outcome, {**dict(model.named_parameters()), **dict(model.named_buffers())}


def check(case, folder, kills):
    expected, parameters = attempt(case, None)
    for kill in kills:
        with pytest.raises(Killed):
            attempt(case, folder, kill)
        assert len(list(folder.glob("*.safetensors"))) <= 2
    outcome, resumed = attempt(case, folder)
    assert outcome.resumed_at == kills[-1] - 1, "the update in which the process died is made again, no other"
    assert replace(outcome, resumed_at=0, step_seconds=None) == replace(expected, step_seconds=None)
    assert resumed.keys() == parameters.keys()
    assert all(torch.equal(tensor, parameters[name]) for name, tensor in resumed.items())
    assert all(tensor.requires_grad == parameters[name].requires_grad for name, tensor in resumed.items())


def one_each():
    """Each method on a family of its own, in turns."""
    of = {method: [case for case in CASES if case.method == method] for method in METHODS}
    return [cases[place % len(cases)] for place, cases in enumerate(of.values())]


@pytest.mark.parametrize("case", one_each(), ids=str)
def test_a_killed_training_goes_on_as_if_never_killed(case, tmp_path, capsys):
    check(case, tmp_path, [2, 7, STEPS])
    assert "resumed at step 11" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_killed_at_every_update(case, tmp_path):
    check(case, tmp_path, list(range(2, STEPS + 1)))
