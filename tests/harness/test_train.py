from __future__ import annotations

import copy
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from settings import training
from torch import nn
from transformers import get_linear_schedule_with_warmup

from harness.data import Encoded, collate, epoch_batches
from harness.errors import ConfigError
from harness.monitor import Diverged, Monitor
from harness.schedule import evaluation_steps, learning_rate, total_steps
from harness.train import train
from methods.hooks import Hooks, Phase

SETTINGS = training(
    learning_rate=0.05,
    epochs=2,
    max_steps=None,
    batch_size=4,
    accumulation_steps=1,
    optimizer="adamw",
    warmup_steps=0,
    warmup_ratio=0.0,
    schedule="linear",
    weight_decay=0.0,
    adam_beta1=0.9,
    adam_beta2=0.999,
    adam_epsilon=1e-8,
    clip_norm=None,
    label_smoothing=0.0,
    precision="float32",
    select="last",
    evaluate_every_epochs=None,
)


class Tiny(nn.Module):
    """Mean of embeddings, dropout, a linear head: two classes. `base_model` is where hooks are looked for."""

    def __init__(self, tuner: nn.Module | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.head = nn.Embedding(12, 6), nn.Linear(6, 2)
        self.dropout = nn.Dropout(dropout)
        if tuner is not None:
            self.base_model = tuner

    def forward(self, input_ids, attention_mask):
        mask = attention_mask.unsqueeze(-1)
        mean = (self.embedding(input_ids) * mask).sum(1) / mask.sum(1)
        return SimpleNamespace(logits=self.head(self.dropout(mean)))


class Recorder(nn.Module, Hooks):
    """A tuner that writes down what the loop tells it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list = []

    def on_train_begin(self, total_steps):
        self.calls.append(("begin", total_steps))

    def prepare(self, batches, task_loss):
        self.calls.append(("prepare", [len(batch["labels"]) for batch in batches]))

    def on_phase_begin(self, phase):
        self.calls.append(("phase", phase.name))

    def loss(self, model, batch, task_loss):
        self.calls.append("loss")
        return super().loss(model, batch, task_loss)

    def penalty(self):
        self.calls.append("penalty")

    def on_pre_optimizer_step(self, step, optimizer):
        self.calls.append(("pre", step))

    def on_optimizer_step(self, step):
        self.calls.append(("post", step))

    def on_train_end(self):
        self.calls.append("end")

    def trace(self):
        return {"calls": len(self.calls)}


def rows(number: int = 10) -> Encoded:
    generator = torch.Generator().manual_seed(3)
    ids = [torch.randint(1, 12, (1 + row % 5,), generator=generator).tolist() for row in range(number)]
    return Encoded(
        kind="classification",
        input_ids=ids,
        token_type_ids=None,
        targets=[row % 2 for row in range(number)],
        ids=[f"row{row}" for row in range(number)],
        pad_token_id=0,
        truncated_rows=0,
    )


def run(model, settings=SETTINGS, encoded=None, **changed):
    keywords = {"seed": 5, "device": "cpu", "buckets": False, "validate": None, "main": "accuracy"}
    return train(model, encoded or rows(), settings, **keywords | changed)


# Schedules


@pytest.mark.parametrize(("warmup", "total"), [(0, 7), (3, 10), (5, 5), (9, 6)])
def test_linear_rates_are_those_of_transformers(warmup, total):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    scheduler = get_linear_schedule_with_warmup(optimizer, warmup, total)
    for step in range(total):
        assert learning_rate(0.3, step, 0, warmup, total) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        optimizer.step()
        scheduler.step()


def test_constant_schedule_keeps_its_warm_up():
    rates = [learning_rate(2.0, step, 0, 4, 8, "constant") for step in range(8)]
    assert rates == [0.0, 0.5, 1.0, 1.5, 2.0, 2.0, 2.0, 2.0]


class Grower(Recorder):
    """Adds a parameter group at update 3, as a method that grows does."""

    def __init__(self) -> None:
        super().__init__()
        self.rates: list = []
        self.grown: nn.Parameter | None = None

    def on_pre_optimizer_step(self, step, optimizer):
        if step == 3:
            self.grown = nn.Parameter(torch.ones(2))
            optimizer.add_param_group({"params": [self.grown], "lr": 0.7, "start_step": step + 1})
        self.optimizer = optimizer

    def on_optimizer_step(self, step):
        self.rates.append([group["lr"] for group in self.optimizer.param_groups])

    def penalty(self):
        return None if self.grown is None else self.grown.square().sum()


def test_a_group_born_late_has_its_own_clock_and_ends_at_zero():
    tuner, total, warmup = Grower(), 12, 2
    run(Tiny(tuner), replace(SETTINGS, max_steps=total, warmup_steps=warmup))
    assert [len(rates) for rates in tuner.rates] == [2] * 3 + [3] * 9  # weights, biases; the newborn
    born = 4
    expected = []
    for step in range(born, total):
        clock, length = step - born, total - born
        expected.append(0.7 * (clock / warmup if clock < warmup else (length - clock) / (length - warmup)))
    assert [rates[2] for rates in tuner.rates[born:]] == pytest.approx(expected)
    assert expected[0] == 0 and learning_rate(0.7, total, born, warmup, total) == 0
    assert [rates[0] for rates in tuner.rates] == pytest.approx(
        [0.05 * (step / 2 if step < 2 else (12 - step) / 10) for step in range(12)]
    )
    assert (tuner.grown < 1).all(), "the new parameter is trained"


def test_number_of_updates_and_evaluations():
    assert total_steps(replace(SETTINGS, epochs=2), 3) == 6
    assert total_steps(replace(SETTINGS, epochs=1.5), 3) == 5
    assert total_steps(replace(SETTINGS, epochs=9, max_steps=4), 3) == 4
    assert evaluation_steps(None, 3, 7) == set()
    assert evaluation_steps(1, 3, 7) == {3, 6, 7}
    assert evaluation_steps(0.01, 3, 2) == {1, 2}


# Batches, losses, counts


def test_every_update_is_the_mean_over_its_rows_also_in_the_last_smaller_batch():
    encoded, model = rows(10), Tiny()
    reference = copy.deepcopy(model)
    outcome = run(model, replace(SETTINGS, learning_rate=0.0), encoded)  # nothing moves: each loss can be recomputed
    expected = []
    for epoch in range(2):
        for batch_rows in epoch_batches(encoded.lengths, 4, seed=5, epoch=epoch, buckets=False):
            batch = collate(encoded, batch_rows)
            labels = batch.pop("labels")
            batch.pop("token_type_ids", None)
            expected.append(nn.functional.cross_entropy(reference(**batch).logits, labels).item())
    assert outcome.steps == 6 and outcome.losses == pytest.approx(expected, abs=1e-6)
    assert outcome.examples == 20
    assert outcome.tokens == 2 * sum(len(ids) for ids in encoded.input_ids)


@pytest.mark.parametrize("pieces", [2, 4])
def test_accumulation_equals_one_batch(pieces):
    one, many = Tiny(), Tiny()
    settings = replace(SETTINGS, adam_epsilon=1e-3, clip_norm=0.1)
    whole, split = run(one, settings), run(many, replace(settings, accumulation_steps=pieces))
    assert split.losses == pytest.approx(whole.losses, abs=1e-6)
    for a, b in zip(one.parameters(), many.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


class Gradients(Recorder):
    """Keeps the head's gradient, once of every update."""

    def on_pre_optimizer_step(self, step, optimizer):
        self.kept = [p.grad.clone() for group in optimizer.param_groups for p in group["params"]]


@pytest.mark.parametrize("pieces", [1, 4])
def test_a_sum_is_the_mean_times_the_effective_batch(pieces):
    settings, found = replace(SETTINGS, max_steps=1, accumulation_steps=pieces), {}
    for kind in ("mean", "sum"):
        tuner = Gradients()
        outcome = run(Tiny(tuner), replace(settings, loss_reduction=kind))
        found[kind] = (outcome.losses[0], tuner.kept)
    assert found["sum"][0] == pytest.approx(4 * found["mean"][0], rel=1e-6)
    for summed, mean in zip(found["sum"][1], found["mean"][1], strict=True):
        torch.testing.assert_close(summed, 4 * mean)


class Penalised(Recorder):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([2.0, -1.0]))
        self.gradients: list = []

    def penalty(self):
        return self.weight.square().sum()

    def on_optimizer_step(self, step):
        self.gradients.append(self.weight.grad.clone())


@pytest.mark.parametrize("pieces", [1, 4])
def test_a_penalty_counts_once_an_update_and_is_no_part_of_the_loss(pieces):
    settings = replace(SETTINGS, max_steps=2, learning_rate=0.0, accumulation_steps=pieces)
    tuner = Penalised()
    outcome = run(Tiny(tuner), settings)
    torch.testing.assert_close(tuner.gradients[0], torch.tensor([4.0, -2.0]))
    assert outcome.losses == pytest.approx(run(Tiny(), settings).losses, abs=1e-6)
    assert outcome.curve[-1]["penalty"] == 5.0


def test_same_inputs_give_the_same_bits_and_evaluation_does_not_disturb_dropout():
    models = [Tiny(dropout=0.3) for _ in range(3)]
    settings = replace(SETTINGS, epochs=4)
    first, second = run(models[0], settings), run(models[1], settings)
    torch.rand(7)  # whatever the caller draws before
    scored = run(models[2], replace(settings, evaluate_every_epochs=0.5), validate=lambda: {"accuracy": 50.0})
    assert first.losses == second.losses == scored.losses
    for a, b, c in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(a, b) and torch.equal(a, c)
    assert run(Tiny(dropout=0.3), settings, seed=6).losses != first.losses


def test_a_validation_that_leaves_evaluation_mode_on_does_not_switch_dropout_off():
    model, other = Tiny(dropout=0.3), Tiny(dropout=0.3)

    def careless():
        model.eval()
        return {"accuracy": 1.0}

    settings = replace(SETTINGS, evaluate_every_epochs=0.5)
    assert run(model, settings, validate=careless).losses == run(other, SETTINGS).losses


def test_zero_updates_leave_everything_as_it_was():
    model = Tiny()
    before = copy.deepcopy(model.state_dict())
    outcome = run(model, replace(SETTINGS, epochs=0))
    assert (outcome.steps, outcome.losses, outcome.best, outcome.step_seconds) == (0, [], None, None)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_bfloat16_is_autocast_over_float32_weights_and_precision_may_change_within_a_process():
    seen = []

    class Watcher(Recorder):
        def loss(self, model, batch, task_loss):
            inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
            logits = model(**inputs).logits
            seen.append(logits.dtype)
            return task_loss(logits, batch["labels"])

    for precision in ("float32", "bfloat16", "float32", "auto"):
        model = Tiny(Watcher())
        run(model, replace(SETTINGS, max_steps=1, precision=precision))
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert seen == [torch.float32, torch.bfloat16, torch.float32, torch.float32]


def test_a_gpu_that_is_not_there_is_said():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError, match="no GPU"):
        run(Tiny(), device="cuda")


# Hooks


def test_hooks_are_called_in_order():
    tuner = Recorder()
    run(Tiny(tuner), replace(SETTINGS, epochs=1, accumulation_steps=2))
    updates = []
    for step, micro_batches in enumerate([2, 2, 1]):  # 10 rows in batches of 4; micro-batches of 2
        updates += ["loss"] * micro_batches + ["penalty", ("pre", step), ("post", step)]
    assert tuner.calls == [("begin", 3), ("prepare", [2, 2, 2, 2, 2]), *updates, "end"]


class Places(Recorder):
    """Looks at parameters and gradients where the hooks stand."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.found: dict = {}

    def prepare(self, batches, task_loss):
        self.eval()
        self.weight.square().sum().backward()

    def penalty(self):
        return 100 * self.weight.sum()

    def on_pre_optimizer_step(self, step, optimizer):
        self.found["clipped"] = torch.nn.utils.get_total_norm(
            [p.grad for g in optimizer.param_groups for p in g["params"]]
        )
        self.found["training"] = self.training
        self.found["before"] = self.weight.detach().clone()

    def on_optimizer_step(self, step):
        self.found["after"], self.found["gradient"] = self.weight.detach().clone(), self.weight.grad.clone()


def test_hooks_stand_after_clipping_before_the_step_and_after_it_before_zeroing():
    tuner = Places()
    run(Tiny(tuner), replace(SETTINGS, max_steps=1, clip_norm=1.0))
    assert float(tuner.found["clipped"]) == pytest.approx(1.0, abs=1e-4)
    assert torch.equal(tuner.found["before"], torch.ones(3)) and (tuner.found["after"] < 1).all()
    assert (tuner.found["gradient"] > 0).all() and tuner.weight.grad is None
    assert float(tuner.found["gradient"].norm()) < 1.0, "what calibration left in the gradients is gone"
    assert tuner.found["training"]


class TwoPhases(Recorder):
    def phases(self):
        return [Phase("embed", 0.25), Phase("head", 0.75, learning_rate=0.4)]

    def on_phase_begin(self, phase):
        super().on_phase_begin(phase)
        self.owner[0].embedding.requires_grad_(phase.name == "embed")
        self.owner[0].head.requires_grad_(phase.name == "head")

    def on_pre_optimizer_step(self, step, optimizer):
        group = optimizer.param_groups[0]
        self.calls.append((step, sum(p.numel() for p in group["params"]), group["lr"], len(optimizer.state)))


def test_each_phase_has_its_trained_set_its_optimizer_and_its_schedule():
    tuner = TwoPhases()
    model = Tiny(tuner)
    tuner.owner = [model]  # in a list: not a submodule
    run(model, replace(SETTINGS, max_steps=8, warmup_steps=4))
    steps = [call for call in tuner.calls if isinstance(call, tuple) and len(call) == 4]
    assert [call[:2] for call in steps] == [(0, 72), (1, 72), (2, 12), (3, 12), (4, 12), (5, 12), (6, 12), (7, 12)]
    assert [call[2] for call in steps] == pytest.approx([0, 0.05, 0, 0.4 / 3, 0.8 / 3, 0.4, 0.8 / 3, 0.4 / 3])
    assert steps[2][3] == 0, "AdamW of the second phase starts without moments"
    assert [call for call in tuner.calls if call[0] == "phase"] == [("phase", "embed"), ("phase", "head")]


def test_phases_that_do_not_fill_the_training_are_refused():
    tuner = TwoPhases()
    tuner.phases = lambda: [Phase("a", 0.5), Phase("b", 0.4)]
    with pytest.raises(ValueError, match=r"sum to 0\.9"):
        run(Tiny(tuner))


def test_a_schedule_that_does_not_fit_stops_before_calibration():
    class Strict(Recorder):
        def on_train_begin(self, total_steps):
            raise ValueError(f"{total_steps} steps are too few")

        def prepare(self, batches, task_loss):
            pytest.fail("calibrated in vain")

    with pytest.raises(ConfigError, match="6 steps"):
        run(Tiny(Strict()))


# Evaluation, selection, divergence


def test_curve_has_means_since_the_row_before():
    scores = iter([10.0, 30.0, 20.0])
    settings = replace(SETTINGS, max_steps=7, evaluate_every_epochs=1)
    outcome = run(Tiny(Recorder()), settings, validate=lambda: {"accuracy": next(scores)})
    assert [row["step"] for row in outcome.curve] == [3, 6, 7]
    assert [row["epoch"] for row in outcome.curve] == pytest.approx([1, 2, 7 / 3])
    means = [sum(outcome.losses[a:b]) / (b - a) for a, b in [(0, 3), (3, 6), (6, 7)]]
    assert [row["loss"] for row in outcome.curve] == pytest.approx(means)
    assert all(row["trace"]["calls"] for row in outcome.curve)
    assert {"step": 6, "accuracy": 30.0, "last_step": 7, "last_accuracy": 20.0}.items() <= outcome.best.items()


@pytest.mark.parametrize(("select", "kept"), [("best", 1), ("last", 3)])
def test_select_best_puts_the_best_state_back(select, kept):
    model, states = Tiny(), []
    scores = iter([10.0, 30.0, 30.0, float("nan")])  # of equal scores the earliest

    def validate():
        states.append(copy.deepcopy(model.state_dict()))
        return {"accuracy": next(scores)}

    settings = replace(SETTINGS, max_steps=12, evaluate_every_epochs=1, select=select)
    outcome = run(model, settings, validate=validate)
    assert outcome.best["step"] == 6 and math.isnan(outcome.best["last_accuracy"])
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, states[kept][name])


def test_select_best_knows_what_a_tuner_changes_without_training_it():
    """A mask or rank of its own: a frozen parameter under the tuner's prefix, or a buffer."""

    class Masking(Recorder):
        prefix = "mask_"

        def __init__(self):
            super().__init__()
            self.mask_entry = nn.Parameter(torch.zeros(1), requires_grad=False)
            self.register_buffer("budget", torch.zeros(1))

        def on_optimizer_step(self, step):
            self.mask_entry += 1
            self.budget += 10

    tuner = Masking()
    settings = replace(SETTINGS, evaluate_every_epochs=1, select="best")
    run(Tiny(tuner), settings, validate=iter([{"accuracy": 2.0}, {"accuracy": 1.0}]).__next__)
    assert (tuner.mask_entry.item(), tuner.budget.item()) == (3, 30)


def test_a_score_that_is_not_a_number_gives_way_to_any_other():
    scores = iter([float("nan"), 1.0])
    settings = replace(SETTINGS, evaluate_every_epochs=1, select="best")
    assert run(Tiny(), settings, validate=lambda: {"accuracy": next(scores)}).best["step"] == 6


def test_select_best_without_evaluations_is_refused():
    with pytest.raises(ConfigError, match="evaluate_every_epochs"):
        run(Tiny(), replace(SETTINGS, select="best"), validate=lambda: {"accuracy": 1.0})


class Growing(Recorder):
    """Owns one more parameter from update 4 on."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ParameterList([nn.Parameter(torch.ones(1))])

    def on_optimizer_step(self, step):
        if step == 4:
            self.parts.append(nn.Parameter(torch.ones(1)))

    def trace(self):
        return {"parts": len(self.parts)}


class Shrinking(Growing):
    def training_state(self):
        return {"parts": len(self.parts)}

    def load_training_state(self, state):
        self.parts = self.parts[: state["parts"]]


def test_a_method_that_grew_goes_back_by_its_trace_or_says_that_it_cannot():
    settings = replace(SETTINGS, evaluate_every_epochs=1, select="best")
    scores = [2.0, 1.0]
    tuner = Shrinking()
    outcome = run(Tiny(tuner), settings, validate=iter([{"accuracy": score} for score in scores]).__next__)
    assert len(tuner.parts) == 1 and outcome.trace == {"parts": 1}
    with pytest.raises(RuntimeError, match=r"parts\.1.*load_training_state"):
        run(Tiny(Growing()), settings, validate=iter([{"accuracy": score} for score in scores]).__next__)


class Exploding(Recorder):
    def loss(self, model, batch, task_loss):
        loss = super().loss(model, batch, task_loss)
        return loss * float("inf") if self.calls.count("loss") == 3 else loss


def test_divergence_names_the_update_and_its_rows():
    encoded = rows()
    with pytest.raises(Diverged, match="update 2") as caught:
        run(Tiny(Exploding()), encoded=encoded)
    batch = epoch_batches(encoded.lengths, 4, seed=5, epoch=0, buckets=False)[2]
    assert caught.value.step == 2 and caught.value.ids == [f"row{row}" for row in batch]
    assert caught.value.state == "DIVERGED"


def test_the_last_update_may_not_leave_a_parameter_that_is_no_number():
    class Late(Recorder):
        def on_pre_optimizer_step(self, step, optimizer):
            if step == 5:
                optimizer.param_groups[0]["params"][0].grad.fill_(float("nan"))

    with pytest.raises(Diverged, match="update 5"):
        run(Tiny(Late()))


def test_losses_fetched_in_a_block_still_name_the_first_bad_update():
    monitor = Monitor([str(row) for row in range(8)], 8, 8, 4, None)
    for step, value in enumerate([1.0, float("nan"), float("inf")]):
        monitor.add([step], torch.tensor(value), None, torch.tensor(1.0))
    assert monitor.losses == []
    with pytest.raises(Diverged) as caught:
        monitor.add([3], torch.tensor(1.0), None, torch.tensor(1.0))
    assert (caught.value.step, caught.value.ids) == (1, ["1"])


def test_the_bar_learns_its_total_and_hears_of_every_update():
    class Bar:
        total, done, word = None, 0, ""

        def update(self, n):
            self.done += n

        def set_postfix_str(self, s, refresh):
            self.word = s

    bar = Bar()
    outcome = run(Tiny(), progress=bar)
    assert (bar.total, bar.done) == (6, 6) and bar.word == f"loss {outcome.losses[-1]:.3f}"
