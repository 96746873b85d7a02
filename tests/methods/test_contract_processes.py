"""The contract battery on several processes: two that share every batch train as one does, and end as one."""

import os
import signal
from dataclasses import replace
from types import SimpleNamespace

import peft
import pytest
import torch
from processes import together
from test_contract_resume import MOVING, SETTINGS, STEPS, Killed, one_each, rows
from tiny import Case

from harness.checkpoint import Checkpoints
from harness.distributed import Group
from harness.identity import digest
from harness.interrupt import Interrupt
from harness.train import train
from methods import hooks

LORA = Case("lora", "deberta", "classification")
SHARED = replace(SETTINGS, batch_size=4, accumulation_steps=2, adam_epsilon=1e-6, select="last")
ENDING = replace(SHARED, batch_size=3, accumulation_steps=1)  # a batch of 3 and one of 2: one process has a row less


def built(case):
    model = case.base()
    torch.manual_seed(0)
    return peft.get_peft_model(model, case.config(**MOVING.get(case.method, {})))


def trained(case, group=None, settings=SHARED, checkpoints=None, model=None, validate=lambda: {"accuracy": 1.0}):
    """What one process has after training: losses, what the method says of itself, and its parameters as a digest."""
    model = model or built(case)
    outcome = train(
        model, rows(case, 5 if settings is ENDING else 8), settings, seed=1, device="cpu", buckets=False,
        validate=validate, main="accuracy", checkpoints=checkpoints, group=group,
    )  # fmt: skip
    values = {name: parameter.tolist() for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {
        "losses": outcome.losses, "trace": outcome.trace, "parameters": digest(values), "curve": len(outcome.curve),
        "fed": [outcome.examples, outcome.tokens], "resumed": outcome.resumed_at, "remarks": outcome.remarks,
    }  # fmt: skip


NAMED = ("adalora", "increlora", "lora", "propetl")  # the others are as slow to start and teach no more
CASES = [
    pytest.param(case, id=str(case), marks=() if case.method in NAMED else pytest.mark.slow) for case in one_each()
]


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_as_one(case, tmp_path):
    alone, (first, second) = trained(case), together(lambda group: trained(case, group), tmp_path)
    assert "losses" in first, first
    assert first["losses"] == pytest.approx(alone["losses"], abs=1e-5)
    assert first["losses"] == second["losses"], "both hold the sum, to the last bit"
    assert first["parameters"] == second["parameters"]
    assert first["trace"] == second["trace"]
    assert first["trace"].get("ranks") == alone["trace"].get("ranks")
    assert first["fed"] == alone["fed"] == second["fed"]
    assert (first["curve"], second["curve"]) == (alone["curve"], 1), "the first one alone evaluates"


def test_a_process_without_rows_of_its_own_takes_part(tmp_path):
    alone = trained(LORA, settings=ENDING)
    first, second, third = together(lambda group: trained(LORA, group, ENDING), tmp_path, size=3)
    assert first["losses"] == pytest.approx(alone["losses"], abs=1e-5)
    assert first["parameters"] == second["parameters"] == third["parameters"]


def spoiled(at, raises, only):
    """A model whose loss fails in one process at its n-th micro-batch, and what it has computed."""
    model, count = built(LORA), [0]
    loss = hooks.Hooks.loss

    def failing(self, model, batch, task_loss):
        count[0] += 1
        if count[0] == at and only:
            raises()
        return loss(self, model, batch, task_loss)

    hooks.Hooks.loss = failing
    return model


def test_an_error_of_one_ends_all_with_its_message(tmp_path):
    def work(group):
        def fail():
            raise ValueError("no such token")

        return trained(LORA, group, model=spoiled(5, fail, group.rank == 1))

    first, second = together(work, tmp_path)
    assert (second["raised"], second["said"]) == ("ValueError", "no such token")
    assert (first["raised"], first["said"]) == ("PeerFailed", "process 1: ValueError: no such token")
    assert first["state"] == "FAILED"


def test_one_that_is_killed_is_noticed(tmp_path):
    def work(group):
        def die():
            (tmp_path / "answer.1.json").write_text("{}")
            os.kill(os.getpid(), signal.SIGKILL)

        return trained(LORA, group, model=spoiled(5, die, group.rank == 1))

    first, _ = together(work, tmp_path)
    assert first["raised"] == "PeerFailed" and "gone without a word" in first["said"]


def test_a_failing_evaluation_of_the_first_does_not_leave_the_other_waiting(tmp_path):
    def validate():
        raise Killed("while it evaluates")

    first, second = together(lambda group: trained(LORA, group, validate=validate), tmp_path)
    assert first["raised"] == "Killed" and second["said"] == "process 0: Killed: while it evaluates"


def test_a_signal_to_one_stops_all_after_the_same_update_and_one_process_goes_on(tmp_path):
    expected = trained(LORA)

    def work(group):
        with group.interrupt:
            model = spoiled(9, lambda: os.kill(os.getpid(), signal.SIGUSR2), group.rank == 1)
            own = Checkpoints(tmp_path / ("kept" if group.leads else "follower"), "key", None)
            return trained(LORA, group, checkpoints=own, model=model)

    for answer in together(work, tmp_path):
        assert (answer["raised"], answer["state"]) == ("Stopped", "TIMEOUT")
        assert "after update 5 of 12" in answer["said"]
    assert not (tmp_path / "follower").exists(), "two that write one file garble it"
    again = trained(LORA, checkpoints=Checkpoints(tmp_path / "kept", "key", None))
    assert again["resumed"] == 5 and again["losses"] == pytest.approx(expected["losses"], abs=1e-5)


def test_two_processes_go_on_from_a_checkpoint_of_one(tmp_path):
    expected, case = trained(LORA), LORA
    with Interrupt() as interrupt, pytest.raises(SystemExit):
        interrupt.number = signal.SIGTERM
        checkpoints = Checkpoints(tmp_path / "kept", "key", None)
        trained(case, Group(interrupt=interrupt), checkpoints=checkpoints)
    first, second = together(
        lambda group: trained(case, group, checkpoints=Checkpoints(tmp_path / "kept", "key", None)), tmp_path
    )
    assert first["resumed"] == second["resumed"] == 1 and len(first["losses"]) == STEPS
    assert first["losses"] == pytest.approx(expected["losses"], abs=1e-5)
    assert first["parameters"] == second["parameters"]


def test_memory_that_runs_out_in_one_process_is_divided_there(tmp_path):
    expected, settings = trained(LORA), replace(SHARED, accumulation_steps=1, retry_out_of_memory=True)

    def work(group):
        def full():
            raise torch.OutOfMemoryError("CUDA out of memory")

        return trained(LORA, group, settings, model=spoiled(3, full, group.rank == 0))

    first, second = together(work, tmp_path)
    assert first["losses"] == pytest.approx(expected["losses"], abs=1e-5) and first["fed"] == expected["fed"]
    assert first["remarks"] == ["out of memory: micro-batches were divided by 2"] and second["remarks"] == []


def test_trainer_does_not_grow_under_data_parallelism():
    """transformers.Trainer wraps the model in DistributedDataParallel, which never sums what comes later."""
    model = built(Case("increlora", "deberta", "classification"))
    optimizer = torch.optim.AdamW(hooks.optimizer_groups(model, 1e-3, 0.0))
    hooks.find(model).on_train_begin(40)
    arguments, state = SimpleNamespace(world_size=2), SimpleNamespace(global_step=0, max_steps=40)
    with pytest.raises(ValueError, match="does not sum what a method adds"):
        hooks.HooksCallback().on_pre_optimizer_step(arguments, state, None, model=model, optimizer=optimizer)
