"""Checkpoints on disk, and trainings that go on from them: cut off, garbled, foreign; phases, calibration, signals."""

import errno
import json
import os
import signal
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from test_train import SETTINGS, Recorder, Tiny, TwoPhases, rows, run
from torch import nn

from harness.checkpoint import Checkpoints, pack, unpack
from harness.distributed import Group
from harness.interrupt import Interrupt, Stopped, hand_on
from harness.monitor import Diverged

STATE = {
    "step": 7,
    "deep": [{"a": torch.arange(6).reshape(2, 3), "b": None}, 1.5, "text"],
    "scalar": torch.tensor(2.0, dtype=torch.bfloat16),
    "empty": torch.zeros(0, 3),
    "turned": torch.arange(6.0).reshape(2, 3).T,
    "nan": float("nan"),
}


def saved(folder, *steps, key="key"):
    store = Checkpoints(folder, key, 0.0)
    for step in steps:
        store.save({**STATE, "step": step})
    return store


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_everything_comes_back_and_the_file_is_real_safetensors(tmp_path):
    saved(tmp_path, 7)
    found = Checkpoints(tmp_path, "key", None).load()
    for name in ("scalar", "empty", "turned"):
        assert found[name].dtype is STATE[name].dtype and torch.equal(found[name], STATE[name])
    assert torch.equal(found["deep"][0]["a"], STATE["deep"][0]["a"]) and found["deep"][1:] == [1.5, "text"]
    assert found["deep"][0]["b"] is None and found["nan"] != found["nan"]
    [file] = tmp_path.glob("*.safetensors")
    tensors = {}
    pack(STATE, tensors)
    assert {name: tensor.tolist() for name, tensor in load_file(file).items()} == {
        n: t.tolist() for n, t in tensors.items()
    }
    assert unpack(pack({"x": [1]}, {}), {}) == {"x": [1]}


def test_two_are_kept_and_orphans_go(tmp_path):
    (tmp_path / "step-000000000009.safetensors").write_bytes(b"a kill came before its json")
    (tmp_path / "step-000000000001.json.tmp-1234").write_bytes(b"")
    saved(tmp_path, 1, 2, 3)
    names = [f"step-{step:012}.{kind}" for step in (2, 3) for kind in ("json", "safetensors")]
    assert files(tmp_path) == names


@pytest.mark.parametrize("kind", ["json", "safetensors"])
@pytest.mark.parametrize("fault", ["cut off", "garbled", "gone", "empty"])
def test_a_damaged_newest_one_gives_way_to_the_one_before(tmp_path, capsys, kind, fault):
    saved(tmp_path, 1, 2)
    file = tmp_path / f"step-{2:012}.{kind}"
    whole = file.read_bytes()
    damaged = {"cut off": whole[: len(whole) // 2], "garbled": whole[:-9] + b"?" + whole[-8:], "empty": b""}
    file.unlink() if fault == "gone" else file.write_bytes(damaged[fault])
    store = Checkpoints(tmp_path, "key", 0.0)
    assert store.load()["step"] == 1 and store.newest == 1
    told = capsys.readouterr().err
    assert "resumed at step 1" in told and ("update 2 is not used" in told) == ((kind, fault) != ("json", "gone"))
    store.save({**STATE, "step": 2})
    assert Checkpoints(tmp_path, "key", 0.0).load()["step"] == 2


def test_one_of_other_code_is_not_used_and_says_so(tmp_path, capsys):
    saved(tmp_path, 1, key="other")
    assert Checkpoints(tmp_path, "key", 0.0).load() is None
    assert "other code, other versions or another configuration made it" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content", [b"[]", b'{"key": "key"}', b"{}", b"null", b"\xff", b'{"key": "key", "tensors": 1, "state": 2}']
)
def test_foreign_files_are_not_used(tmp_path, content):
    (tmp_path / f"step-{1:012}.json").write_bytes(content)
    assert Checkpoints(tmp_path, "key", 0.0).load() is None


def test_a_full_disk_costs_no_run(tmp_path, monkeypatch, capsys):
    store = saved(tmp_path, 1)

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    store.save({**STATE, "step": 2})
    monkeypatch.undo()
    assert "no checkpoint of update 2: [Errno 28] No space left" in capsys.readouterr().err
    assert Checkpoints(tmp_path, "key", 0.0).load()["step"] == 1 and len(files(tmp_path)) == 2


def test_when_one_is_due(tmp_path):
    assert Checkpoints(tmp_path, "key", 0.0).due() and not Checkpoints(tmp_path, "key", 3600.0).due(last=True)
    assert not Checkpoints(tmp_path, "key", None).due() and not Checkpoints(None, "key", 0.0).due()
    long = saved(tmp_path, 1)
    long.every_seconds = 3600.0
    assert long.due(last=True) and not long.due(), "a long training leaves one at its end: an evaluation follows"


# Trainings


class Staged(TwoPhases):
    """Calibrates, trains in two phases, and remembers both in a buffer and in a number of its own."""

    def __init__(self, kill=None):
        super().__init__()
        self.register_buffer("mask", torch.zeros(6))
        self.kill, self.seen, self.begun = kill, 0, []

    def prepare(self, batches, task_loss):
        self.mask += sum(len(batch["labels"]) for batch in batches)

    def on_phase_begin(self, phase):
        super().on_phase_begin(phase)
        self.begun.append((phase.name, float(self.owner[0].embedding.weight.detach().sum())))

    def on_optimizer_step(self, step):
        self.seen = 3 * self.seen + step
        if step == self.kill:
            raise KeyboardInterrupt

    def training_state(self):
        return {"seen": self.seen}

    def load_training_state(self, state):
        self.seen = state["seen"]


def staged(folder, kill=None):
    tuner = Staged(kill)
    model = Tiny(tuner, dropout=0.3)
    tuner.owner = [model]
    settings = replace(SETTINGS, max_steps=8, warmup_steps=4, evaluate_every_epochs=1, select="best")
    outcome = run(model, settings, validate=lambda: {"accuracy": 1.0}, checkpoints=Checkpoints(folder, "key", 0.0))
    return outcome, model, tuner


@pytest.mark.parametrize("kill", range(1, 8))
def test_phases_and_calibration_go_on(tmp_path, kill):
    """Two phases of 2 and 6 updates: the second begins at what the first has trained, also in another process."""
    expected, model, tuner = staged(None)
    with pytest.raises(KeyboardInterrupt):
        staged(tmp_path, kill)
    outcome, resumed, again = staged(tmp_path)
    assert outcome.losses == expected.losses and outcome.resumed_at == kill
    assert {k: v for k, v in outcome.best.items() if k != "trace"} == {
        k: v for k, v in expected.best.items() if k != "trace"
    }
    for (name, tensor), other in zip(model.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(tensor, other), name
    assert again.seen == tuner.seen and not any(call[0] == "prepare" for call in again.calls if isinstance(call, tuple))
    assert [phase for phase, _ in again.begun] == ["embed", "head"]
    if kill <= 2:
        assert again.begun[1] == tuner.begun[1]


class Signalled(Recorder):
    def __init__(self, at, numbers):
        super().__init__()
        self.at, self.numbers = at, numbers

    def on_optimizer_step(self, step):
        super().on_optimizer_step(step)
        if step == self.at:
            for number in self.numbers:
                os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("number", "state"),
    [("SIGTERM", "PREEMPTED"), ("SIGINT", "PREEMPTED"), ("SIGUSR1", "TIMEOUT"), ("SIGUSR2", "TIMEOUT")],
)
def test_a_signal_ends_training_after_the_update_with_a_checkpoint(tmp_path, number, state):
    expected, number = run(Tiny(Recorder(), dropout=0.3)), getattr(signal, number)
    before = signal.getsignal(number)
    with pytest.raises(Stopped, match="after update 3 of 6") as stopped, Interrupt() as interrupt:
        model = Tiny(Signalled(2, [number]), dropout=0.3)
        run(model, checkpoints=Checkpoints(tmp_path, "key", None), group=Group(interrupt=interrupt))
    assert (stopped.value.code, stopped.value.state) == (128 + number, state)
    assert signal.getsignal(number) == before
    outcome = run(Tiny(Recorder(), dropout=0.3), checkpoints=Checkpoints(tmp_path, "key", None))
    assert outcome.losses == expected.losses and outcome.resumed_at == 3


@pytest.mark.parametrize(
    ("second", "said"), [("SIGINT", "stopped by SIGINT"), ("SIGTERM", "stopped by SIGINT after update 3 of 6; .*")]
)
def test_a_second_ctrl_c_does_not_wait_and_another_signal_does(second, said):
    tuner = Signalled(2, [signal.SIGINT, getattr(signal, second)])
    with pytest.raises(Stopped, match=f"^{said}$") as stopped, Interrupt() as interrupt:
        run(Tiny(tuner), group=Group(interrupt=interrupt))
    assert stopped.value.code == 130 and tuner.calls[-1] == ("post", 2)


def test_a_signal_in_an_evaluation_ends_it_at_once_and_it_is_made_later(tmp_path):
    asked = []

    def validate():
        asked.append(len(asked))
        if len(asked) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            pytest.fail("the evaluation went on")
        return {"accuracy": 1.0}

    settings = replace(SETTINGS, evaluate_every_epochs=0.5)
    with pytest.raises(Stopped, match="after update 4 of 6"), Interrupt() as interrupt:
        run(
            Tiny(),
            settings,
            validate=validate,
            checkpoints=Checkpoints(tmp_path, "key", None),
            group=Group(interrupt=interrupt),
        )
    outcome = run(Tiny(), settings, validate=validate, checkpoints=Checkpoints(tmp_path, "key", None))
    assert [row["step"] for row in outcome.curve] == [2, 4, 6] and outcome.resumed_at == 4


def test_the_launchers_own_handler_has_its_turn_afterwards():
    """submitit's: note the signal first, requeue and exit when all is on disk."""
    heard = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: heard.append(number))
    try:
        with pytest.raises(Stopped) as stopped, Interrupt():
            os.kill(os.getpid(), signal.SIGUSR2)
        assert heard == []
        hand_on(stopped.value)
        assert heard == [signal.SIGUSR2]
    finally:
        signal.signal(signal.SIGUSR2, before)


class Spoilt(Recorder):
    """Its loss has no finite gradient at update 3, and is finite itself."""

    def loss(self, model, batch, task_loss):
        loss = super().loss(model, batch, task_loss)
        if self.calls.count("loss") == 4:
            loss = loss + torch.sqrt((model.head.weight * 0).sum().abs())
        return loss


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_a_gradient_that_is_not_finite_is_divergence_and_the_last_good_checkpoint_is_named(tmp_path, clip_norm):
    settings = replace(SETTINGS, clip_norm=clip_norm)
    with pytest.raises(
        Diverged, match=r"gradient norm nan at update 3 .* rows row.*checkpoint has 3 updates"
    ) as caught:
        run(Tiny(Spoilt()), settings, checkpoints=Checkpoints(tmp_path, "key", 0.0))
    assert caught.value.step == 3 and len(caught.value.ids) == 4
    facts = json.loads(json.loads((tmp_path / f"step-{3:012}.json").read_text())["state"])
    assert facts["step"] == 3, "no checkpoint holds what is not finite"


def test_a_parameter_that_the_model_does_not_own_cannot_be_checkpointed(tmp_path):
    class Stray(Recorder):
        def on_pre_optimizer_step(self, step, optimizer):
            if step == 0:
                optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})

    with pytest.raises(ValueError, match="no part of the model; register it"):
        run(Tiny(Stray()), encoded=rows(), checkpoints=Checkpoints(tmp_path, "key", 0.0))
