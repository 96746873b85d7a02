"""IncreLoRA against its authors' numbers, a plain second implementation, closed forms, and its life with peft."""

import copy
import itertools
import math

import peft
import pytest
import torch
import transformers
from oracles import oracle, tensor
from tiny import batch, build, logits, rows, task_loss
from tiny import train as train_tiny
from torch import nn
from torch.nn.functional import cross_entropy
from torch.testing import assert_close
from toys import Chain, OldAdamW, data, linear_rate, train

from harness.optimizer import FormerAdamW, set_rates
from methods import hooks
from methods.reparameterized import growing, increlora
from methods.reparameterized.growing import farthest, memory_of, plan_of
from methods.reparameterized.increlora import IncreLoRAConfig
from methods.reparameterized.svd_form import smooth_

close = {"rtol": 1e-9, "atol": 1e-11}
SHAPES = {"m3": (6, 5), "m0": (5, 6), "m1": (6, 5), "m2": (4, 6)}


def attach(shapes, **fields):
    """Growing triplets beside every layer of a chain, in float64, and their authors' optimizer."""
    settings = {"target_modules": list(shapes), "target_rank": 2} | fields
    model = peft.get_peft_model(Chain(shapes).double(), IncreLoRAConfig(**settings)).double()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    options = {"lr": 0.05, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}
    return model, hooks.find(model), FormerAdamW([{"params": trained}], **options)


# the authors' numbers


def shapes_of(group):
    """A block of k triplets is k components in the authors' lists."""
    found = []
    for parameter in group["params"]:
        rows_, columns = parameter.shape
        if columns == 1 and rows_ <= 4 and parameter.is_value:
            found += [[1, 1]] * rows_
        else:
            found += [[1, columns]] * rows_ if parameter.is_right else [[rows_, 1]] * columns
    return found


def mark(forms):
    for form in forms:
        for kind, flag in (("E", "is_value"), ("A", "is_right"), ("B", "is_left")):
            for parameter in getattr(form, kind):
                parameter.is_value, parameter.is_right = flag == "is_value", flag == "is_right"


def components(form, flags):
    """A flag of every block, once for each of its triplets."""
    sizes = [block.shape[0] for block in form.A]
    return [int(flag) for flag, size in zip(flags, sizes, strict=True) for _ in range(size)]


def check_growth(row, tuner, optimizer, names, add):
    forms = dict(zip(names, tuner.forms(), strict=True))
    mark(forms.values())
    for name, form in forms.items():
        assert form.rank == row["ranknum"][name]
        trained = [block.requires_grad for block in form.E] + [False] * (form.reserve is not None)
        assert components(form, trained) == row["E_requires_grad"][name]
        assert components(form, [block.requires_grad for block in form.A]) == row["A_requires_grad"][name]
        assert sum(len(block) for block in form.A) == row["n_components"][name]
        assert [form.reserve] * add == row["E_last_add_r"][name]
        assert form.observing == bool(row["hook_alive"][name]) or row["total_rank"] > tuner.total_target()
        if form.observing:
            place = names.index(name)
            score = (tuner.mean * tuner.uncertainty)[place].item()
            assert_close(score, row["smoothed_score"][name], **close)
    group = optimizer.param_groups[-1]
    assert len(optimizer.param_groups) == row["n_param_groups"]
    assert shapes_of(group) == row["last_group_shapes"] or row["n_param_groups"] == 1
    assert (group["lr"], group["weight_decay"]) == (row["last_group_lr"], row["last_group_wd"])


def test_growth_oracle():
    """Scripted scores: who grows, thresholds, groups and their order, what trains, reserves, completion."""
    for case in oracle("increlora_static.json")["cases"]:
        names, (outputs, inputs) = case["modules_in_named_order"], case["out_in"]
        shapes = {name: (outputs, inputs) for name in names}
        model = peft.get_peft_model(
            Wide(shapes).double(),
            IncreLoRAConfig(
                target_modules=names, target_rank=min(case["target_rank"], 3), total_target_rank=case["target_total"],
                add_rank=case["incre_rank_num"], init_warmup_steps=case["init_warmup"],
                interval_steps=case["incre_interval"], modules_per_growth=case["top_h"],
                advance_learning=case["advance_learn"],
            ),
        ).double()  # fmt: skip
        tuner, trained = hooks.find(model), [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=case["optimizer_default_lr"], weight_decay=0.01)
        tuner.on_train_begin(case["steps"])
        grown = 0
        for row in case["rows"]:
            for form, score in zip(tuner.forms(), row["score_int"], strict=True):
                form.score = torch.tensor(score / case["score_scale"], dtype=torch.float64)
            tuner.on_pre_optimizer_step(row["step"], optimizer)
            if row.get("threshold") is not None:
                growth = tuner.growths[grown]
                assert_close(growth["threshold"], row["threshold"], **close)
                assert list(growth["jumps"]) == row["increased"]
                grown += 1
            if "ranknum" in row:
                check_growth(row, tuner, optimizer, names, case["incre_rank_num"])
        assert grown == len(tuner.growths)
        assert sum(tuner.ranks().values()) == case["final_total_rank"]
        assert (tuner.forms()[0].reserve == 0.0) == (case["reached_exactly"] or not case["advance_learn"])


class Wide(nn.Module):
    """Layers side by side."""

    def __init__(self, shapes):
        super().__init__()
        for name, (outputs, inputs) in shapes.items():
            self.add_module(name, nn.Linear(inputs, outputs))

    def forward(self, inputs):
        return torch.cat([layer(inputs) for name, layer in self.named_children() if name != "adapters"], -1)


def test_schedule_oracle():
    """Rounds, first and last growth and final ranks of every released script, with scores without ties."""
    names = [f"m{place}" for place in range(72)]
    for row in oracle("increlora_schedule.json")["rows"]:
        model = peft.get_peft_model(
            Wide({name: (8, 8) for name in names}),
            IncreLoRAConfig(
                target_modules=names, target_rank=row["target_rank"], add_rank=row["add_r"],
                interval_steps=row["interval"], modules_per_growth=row["top_h"],
            ),
        )  # fmt: skip
        tuner = hooks.find(model)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
        tuner.on_train_begin(row["total_steps"])
        draw = torch.Generator().manual_seed(row["total_steps"])
        for step in range(0, row["total_steps"], row["interval"]):
            if tuner.missing() <= 0:
                break
            for form in tuner.forms():
                form.score = torch.rand((), generator=draw)
            tuner.on_pre_optimizer_step(step, optimizer)
        steps = [growth["step"] for growth in tuner.growths]
        assert (len(steps), steps[0], steps[-1]) == (row["rounds"], row["first_step"], row["last_step"])
        total = sum(tuner.ranks().values())
        assert [steps[-1], len(tuner.growths[-1]["jumps"]), total] == row["last_event"]
        assert (total, total == tuner.total_target()) == (row["final_total_rank"], row["exact"])


def test_score_oracle():
    found = oracle("increlora_score.json")
    values = {key: tensor(found[key]) / found["scale"] for key in ("W", "bias", "A", "E", "B", "x", "c")}
    outputs, inputs, rank = found["out"], found["inp"], found["r"]
    model, tuner, optimizer = attach(
        {"m": (outputs, inputs)}, init_rank=rank, target_rank=rank + 1, add_rank=1, alpha=found["alpha"]
    )
    form = tuner.forms()[0]
    tuner.on_train_begin(10)
    tuner.on_pre_optimizer_step(0, optimizer)
    layer = tuner.model.m
    reserve = {kind: found["reserve"][kind] for kind in "AB"}
    pairs = [(layer.weight, values["W"]), (layer.bias, values["bias"])]
    pairs += [(getattr(form, kind)[0], values[kind]) for kind in "AEB"]
    pairs += [(getattr(form, kind)[1], tensor(reserve[kind]) * found["reserve"]["mult"]) for kind in "AB"]
    for parameter, value in pairs:
        parameter.data = value.reshape(parameter.shape)
    model.train()
    y = model(values["x"].reshape(-1, inputs))
    assert_close(y.detach(), tensor(found["y"]), **close)
    (y * values["c"].reshape(-1, outputs)).sum().backward()
    assert_close(form.delta().detach(), tensor(found["deltaW"]), **close)
    assert_close(form.score.item(), found["score_official"], **close)
    assert_close(form.A[1].grad, tensor(found["grad_reserve_A"]), **close)
    assert_close(form.B[1].grad, tensor(found["grad_reserve_B"]), **close)
    assert len(form.E) == 1  # a reserve's value is no parameter


# a whole loop against a plain second implementation


class Reference:
    """Section 3, in the order of the authors' trainer: lists of rank-1 components, D as an explicit matrix."""

    def __init__(self, model, tuner, config, total, reserves):
        self.network = copy.deepcopy(model.base_model.model)
        self.paths, self.config, self.total, self.reserves = list(tuner.parts()), config, total, reserves
        self.lists = {}
        for path, part in tuner.parts().items():
            for kind in "AEB":
                self.lists[path, kind] = [getattr(part.form, kind)[0].detach().clone().requires_grad_()]
        self.rank = dict.fromkeys(self.paths, 1)
        self.smooth = {path: (0.0, 0.0) for path in self.paths}
        self.optimizer = OldAdamW(
            [{"params": [p for ps in self.lists.values() for p in ps]}], lr=0.05, weight_decay=0.01
        )
        self.done, self.events = False, []

    def cat(self, path, kind):
        return torch.cat(self.lists[path, kind], 1 if kind == "B" else 0)

    def change(self, path):
        size = (self.config.alpha if self.config.alpha > 0 else 1) / (self.rank[path] + 1e-5)
        return size * self.cat(path, "B") @ (self.cat(path, "E") * self.cat(path, "A"))

    def forward(self, inputs):
        self.changes = {}
        for path in self.paths:
            layer, self.changes[path] = self.network.get_submodule(path), self.change(path)
            self.changes[path].retain_grad()
            inputs = inputs @ layer.weight.T + layer.bias + inputs @ self.changes[path].T
            if path != self.paths[-1]:
                inputs = torch.tanh(inputs)
        return inputs

    def regulariser(self):
        norms = []
        for path in self.paths:
            a, b = self.cat(path, "A"), self.cat(path, "B")
            identity = torch.eye(len(a), dtype=a.dtype)
            norms += [torch.norm(a @ a.T - identity), torch.norm(b.T @ b - identity)]
        return sum(norms) / len(norms)

    def reserve(self, path):
        """Components a, b from the shared stream, e at 1e-5 (or 0 and all frozen without advance learning)."""
        train_, add = self.config.advance_learning, self.config.growth
        a, b = self.reserves[path].pop(0)
        new = []
        for i in range(add):
            e = torch.full((1, 1), 1e-5 if train_ else 0.0, dtype=a.dtype)
            for kind, value in (("E", e), ("A", a[i : i + 1].clone()), ("B", b[:, i : i + 1].clone())):
                self.lists[path, kind].append(value.requires_grad_(train_ and kind != "E"))
        for kind in "AB":
            new += self.lists[path, kind][-add:]
        return new

    def group(self, parameters, step):
        self.optimizer.add_param_group({"params": parameters, "lr": 0.05, "weight_decay": 0.01, "start_step": step + 1})

    def allocate(self, step):
        config, add = self.config, self.config.growth
        if step == 0:
            new = [block for path in self.paths for block in self.reserve(path)]
            if config.advance_learning:
                self.group(new, step)
        if sum(self.rank.values()) >= config.target_rank * len(self.paths):
            return
        for path in self.paths:
            grad, value = self.task_gradients[path], self.changes[path].detach()
            now = ((value * grad).abs().sum() / math.sqrt(value.numel())).item()
            mean, spread = self.smooth[path]
            mean = config.beta1 * mean + (1 - config.beta1) * now
            self.smooth[path] = mean, config.beta2 * spread + (1 - config.beta2) * abs(now - mean)
        if step > config.init_warmup_steps and step % config.interval_steps == 0:
            self.grow(step, config, add)

    def grow(self, step, config, add):
        scores = {path: mean * spread for path, (mean, spread) in self.smooth.items()}
        target = config.target_rank * len(self.paths)
        count = min(config.modules_per_growth, target - sum(self.rank.values()))
        threshold, new = sorted(scores.values(), reverse=True)[count - 1], []
        for path in self.paths:
            if scores[path] >= threshold:
                self.rank[path] += add
                kinds = "E" if config.advance_learning else "EAB"
                new += [p.requires_grad_() for kind in kinds for p in self.lists[path, kind][-add:]]
                new += self.reserve(path) if config.advance_learning else self.reserve(path)[:0]
                self.events.append((step, path))
        self.group(new, step)
        if sum(self.rank.values()) == target:
            for path in self.paths:
                for e in self.lists[path, "E"][-add:]:
                    e.data.zero_()

    def train(self, data, warmup):
        for step in range(self.total):
            for group in self.optimizer.param_groups:
                start = group.get("start_step", 0)
                group["lr"] = linear_rate(0.05, step - start, warmup, self.total - start)
            task = cross_entropy(self.forward(data[0]), data[1])
            task.backward()
            self.task_gradients = {path: change.grad.clone() for path, change in self.changes.items()}
            penalty = 0.3 * self.regulariser()
            penalty.backward()
            every = [p for ps in self.lists.values() for p in ps if p.grad is not None]
            nn.utils.clip_grad_norm_(every, 0.7)
            self.allocate(step)
            self.optimizer.step()
            self.optimizer.zero_grad()
            yield task.item(), penalty.item()


@pytest.mark.parametrize(
    ("target", "add", "modules", "advance", "alpha", "total_rank"),
    [(2, 1, 2, True, 3, 8), (4, 3, 2, True, 3, 16), (4, 2, 1, True, 3, 16), (3, 3, 1, True, 3, 13),
     (2, 1, 3, False, 3, 8), (4, 2, 1, True, -1, 16)],
    ids=["scripts", "add3", "add2", "overshoot", "no_advance", "initial_rank_for_alpha"],
)  # fmt: skip
def test_whole_loop(monkeypatch, target, add, modules, advance, alpha, total_rank):
    total, rows_ = 50, data(24, 5, 4)
    draw = torch.Generator().manual_seed(11)
    reserves = {path: [] for path in SHAPES}
    model, tuner, optimizer = attach(
        SHAPES, target_rank=target, add_rank=add, init_warmup_steps=4, interval_steps=4, modules_per_growth=modules,
        beta1=0.8, orthogonality_weight=0.3, alpha=alpha, advance_learning=advance,
    )  # fmt: skip
    paths = {id(form): path for path, form in zip(SHAPES, tuner.forms(), strict=True)}
    lay_in = increlora.GrowingTriplets.lay_in

    def recorded(form, *args):
        blocks = lay_in(form, *args)
        with torch.no_grad():
            for block in blocks:
                block.copy_(0.3 * torch.randn(block.shape, generator=draw, dtype=torch.float64))
        reserves[paths[id(form)]].append(tuple(block.detach().clone() for block in blocks))
        return blocks

    monkeypatch.setattr(increlora.GrowingTriplets, "lay_in", recorded)
    seen, states = [], []

    def remember(step, task, penalty):
        seen.append((task, penalty))
        states.append([(form.rank, form.delta().detach().clone()) for form in tuner.forms()])

    reference = Reference(model, tuner, tuner.settings, total, reserves)
    train(model, tuner, optimizer, rows_, total, warmup=5, clip=0.7, observe=remember)
    for step, wanted in enumerate(reference.train(rows_, warmup=5)):
        assert_close(seen[step], wanted, **close)
        for path, (rank, change) in zip(SHAPES, states[step], strict=True):
            assert rank == reference.rank[path]
            assert_close(change, reference.change(path).detach(), **close)
    assert reference.events == [(growth["step"], path) for growth in tuner.growths for path in growth["jumps"]]
    assert sum(tuner.ranks().values()) == total_rank
    assert [len(group["params"]) > 0 for group in optimizer.param_groups] == [True] * len(
        reference.optimizer.param_groups
    )
    rates = [[group["lr"] for group in one.param_groups] for one in (optimizer, reference.optimizer)]
    assert rates[0] == rates[1]
    assert all(not values for values in reserves.values())


# properties


def grow(shapes=SHAPES, total=24, **fields):
    """A trained chain that has grown."""
    settings = {"init_warmup_steps": 2, "interval_steps": 2, "modules_per_growth": 2, "alpha": 3.0} | fields
    torch.manual_seed(4)
    model, tuner, optimizer = attach(shapes, **settings)
    train(model, tuner, optimizer, data(24, 5, 4), total, warmup=2)
    return model, tuner, optimizer


def test_faded_scores_are_not_taken_and_nothing_else_changes(monkeypatch):
    """Two growths 200 steps apart: scores of the 178 steps before each count, and the run is that of a score every step."""
    found = {}
    for faded in (growing.FADED, 0.0):
        monkeypatch.setattr(growing, "FADED", faded)
        monkeypatch.setattr(growing, "memory_of", memory_of if faded else lambda *_: 10**9)
        torch.manual_seed(4)
        model, tuner, optimizer = attach(SHAPES, modules_per_growth=2, interval_steps=200, init_warmup_steps=0)
        taken, form = [], tuner.forms()[0]
        inputs, labels = data(16, 5, 4)
        watch = tuner.on_pre_optimizer_step

        def noted(step, optimizer, form=form, taken=taken, watch=watch):
            taken.append(form.observing)
            watch(step, optimizer)

        monkeypatch.setattr(tuner, "on_pre_optimizer_step", noted)
        train(model, tuner, optimizer, (inputs, labels), 450, 20)
        found[faded] = taken, tuner.trace(), model(inputs)
    (short, trace, logits_), (always, whole, expected) = found.values()
    assert [step for step, taken in enumerate(short) if taken] == [*range(200 - 177, 201), *range(400 - 177, 401)]
    assert sum(always) == 401, "until the target is reached"
    assert [(one["step"], list(one["jumps"])) for one in trace["growths"]] == [
        (one["step"], list(one["jumps"])) for one in whole["growths"]
    ]
    for ours, theirs in zip(trace["growths"], whole["growths"], strict=True):
        assert ours["threshold"] == pytest.approx(theirs["threshold"], rel=1e-8)
    assert_close(logits_, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.85, 0.95, 0.999])
def test_what_has_faded_is_lost_in_float32(beta):
    """Averages of two streams that differ in the first score alone, and by a thousandfold."""
    mean, uncertainty = torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    for step in range(memory_of(beta, beta) + 1):
        now = torch.tensor([1000.0, 0.0] if step == 0 else [1.0 + step % 3] * 2, dtype=torch.float64)
        smooth_(mean, uncertainty, now, beta, beta)
    for kept in (mean, uncertainty):
        assert abs(kept[0] - kept[1]) <= 3e-7 * kept[1]


def test_the_jump_of_a_growth():
    """What was there shrinks by (rank + 1e-5) / (rank + add + 1e-5), reserves of 1e-5 aside; the trace says how far."""
    _, tuner, _ = grow(target_rank=4, add_rank=2)
    jumps = [(growth["step"], path, jump) for growth in tuner.growths for path, jump in growth["jumps"].items()]
    ranks = dict.fromkeys(SHAPES, 1)
    assert sum(2 for _ in jumps) == sum(tuner.ranks().values()) - 4
    for _, path, jump in jumps:
        assert jump == pytest.approx(2 / (ranks[path] + 2), rel=1e-2)
        ranks[path] += 2
    assert ranks == tuner.ranks()


def test_score_is_of_the_task_alone():
    """The score does not know the penalty, not even in one backward pass; nor evaluation, nor the end of growth."""
    scores = []
    for together in (False, True):
        model, tuner, _ = attach(SHAPES, orthogonality_weight=5.0, interval_steps=2)
        tuner.on_train_begin(20)
        for form in tuner.forms():
            form.E[0].data.fill_(0.7)
        rows_, labels = data(8, 5, 4)
        loss = cross_entropy(model.train()(rows_), labels)
        (loss + tuner.penalty() if together else loss).backward()
        scores.append(torch.stack([form.score for form in tuner.forms()]))
        model.eval()
        for form in tuner.forms():
            form.score = None
        cross_entropy(model(rows_), labels).backward()
        assert all(form.score is None for form in tuner.forms())
    assert torch.equal(*scores)


def test_twice_called_layers_are_scored_on_the_contents():
    """DeBERTa's query and key also see relative positions: the gradient of the contents' call is what counts."""
    model = adapted(target_modules=r".*layer\.1.*query_proj")
    tuner, inputs = model.base_model, batch("deberta")
    tuner.on_train_begin(10)
    (path, part), seen = next(iter(tuner.parts().items())), []
    part.form.E[0].data.fill_(0.5)
    tuner.model.get_submodule(path).register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
    for _, output in seen:
        output.retain_grad()
    loss = task_loss(model.train()(**{k: v for k, v in inputs.items() if k != "labels"}).logits, inputs["labels"])
    assert len(seen) == 2
    gradients = torch.autograd.grad(loss, [output for _, output in seen], retain_graph=True)
    loss.backward()
    states, gradient = max(((s, g) for (s, _), g in zip(seen, gradients, strict=True)), key=lambda pair: pair[0].dim())
    matrix = gradient.flatten(0, -2).T @ states.flatten(0, -2)
    delta = part.form.delta().detach()
    assert_close(part.form.score, (matrix * delta).abs().sum() / math.sqrt(delta.numel()))


def test_completion():
    """Reached exactly: output without reserves, which go when training ends; overshoot: they stay at 1e-5."""
    model, tuner, _ = grow()
    assert tuner.missing() == 0
    rows_ = data(5, 5, 4)[0]
    before = model.eval()(rows_)
    for form in tuner.forms():
        assert form.reserve == 0.0 and not form.observing
        form.A[-1].data.add_(9.0)
    assert torch.equal(model(rows_), before)
    tuner.on_train_end()
    assert torch.equal(model(rows_), before)
    assert tuner.will_move(30) is None, "nothing is left to grow"
    assert all(len(form.A) == len(form.E) == len(form.B) for form in tuner.forms())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert tuner.active_params() == trained
    model, tuner, _ = grow(target_rank=4, add_rank=4, modules_per_growth=4)
    tuner.on_train_end()
    assert sum(tuner.ranks().values()) == 20
    assert {form.reserve for form in tuner.forms()} == {1e-5}
    _, tuner, _ = attach(SHAPES)
    tuner.on_train_begin(30)
    assert tuner.missing() > 0 and all(form.observing for form in tuner.forms())


def test_at_the_target_from_the_start():
    """Nothing is to grow: reserves are laid in, train for the penalty alone, and go."""
    _, tuner, optimizer = grow(target_rank=1, add_rank=2)
    assert tuner.growths == () and len(optimizer.param_groups) == 2
    assert [(form.reserve, len(form.A), len(form.E)) for form in tuner.forms()] == [(0.0, 2, 1)] * 4
    assert tuner.settings.reserve == 0.0
    tuner.on_train_end()
    assert [(form.reserve, len(form.A)) for form in tuner.forms()] == [(None, 1)] * 4
    tuner.on_train_end()
    assert not any(form.observing for form in tuner.forms()), "stopped in the middle of growth: nobody asks for scores"


def test_exact_budget():
    """Never above the target; as many as fit; ties in the model's order."""
    for target, add, total in ((4, 4, 16), (4, 2, 16), (3, 3, 12)):
        _, tuner, _ = grow(target_rank=target, add_rank=add, modules_per_growth=3, exact_budget=True)
        assert sum(tuner.ranks().values()) == total - (total - 4) % add
        assert {form.reserve for form in tuner.forms()} == {0.0}
    _, tuner, optimizer = attach(SHAPES, exact_budget=True, interval_steps=1, modules_per_growth=3)
    tuner.on_train_begin(9)
    for step in range(4):
        for form in tuner.forms():
            form.score = torch.tensor(1.0, dtype=torch.float64)
        tuner.on_pre_optimizer_step(step, optimizer)
    assert [list(growth["jumps"]) for growth in tuner.growths] == [["m3", "m0", "m1"], ["m3"]]


def test_rates_of_what_grows():
    for own, expected in ((True, {"start_step": 5}), (False, {"schedule": "constant", "warmup_steps": 0})):
        _, tuner, optimizer = attach(SHAPES, own_rates=own, interval_steps=2, modules_per_growth=1)
        tuner.on_train_begin(20)
        for step in range(5):
            for place, form in enumerate(tuner.forms()):
                form.score = torch.tensor(float(place + step), dtype=torch.float64)
            tuner.on_pre_optimizer_step(step, optimizer)
        group = optimizer.param_groups[-1]
        assert {key: group[key] for key in expected} == expected
        assert (group["lr"], group["weight_decay"]) == (0.05, 0.01)
        assert own == ("start_step" in group)
        for step in (7, 15):  # in the harness's own loop: a clock of its own, or no clock
            rate = set_rates(optimizer, step, 0, 4, 20, "linear")[-1]
            assert rate == (linear_rate(0.05, step - 5, 4, 15) if own else 0.05)


def test_what_grows_has_the_rate_and_the_decay_of_what_was_there():
    """Also where these are not the optimizer's defaults; of a layer that took no part yet the score is 0."""
    _, tuner, optimizer = attach(SHAPES, interval_steps=2, modules_per_growth=1)
    optimizer.param_groups[0] |= {"lr": 0.3, "weight_decay": 0.5}
    tuner.on_train_begin(20)
    for step in range(5):
        for form, score in zip(tuner.forms(), (None, 1.0 + step, None, 0.5), strict=True):
            form.score = None if score is None else torch.tensor(score, dtype=torch.float64)
        tuner.on_pre_optimizer_step(step, optimizer)
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups[1:]] == [(0.3, 0.5)] * 2
    assert list(tuner.ranks().values()) == [1, 2, 1, 1]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"target_rank": 3}, "target_rank=3 has no usual add_rank.*give add_rank"),
        ({"init_rank": 3}, "target_rank=2 is below init_rank=3"),
        ({"target_rank": 6}, "target_rank=6 is above the rank of m3, which is 6 x 5"),
        ({"modules_per_growth": 0}, "modules_per_growth=0 must be at least 1"),
        ({"beta2": 0.0}, "beta2=0.0 must lie strictly between"),
    ],
)
def test_bad_settings(fields, words):
    with pytest.raises(ValueError, match=words):
        attach(SHAPES, **fields)


def test_it_starts_as_the_backbone_and_takes_no_scores_before_it_trains():
    model, tuner, _ = attach(SHAPES)
    inputs, _ = data(8, 5, 4)
    assert torch.equal(model(inputs), Chain(SHAPES).double()(inputs))
    assert not any(form.E[0].any() or form.observing for form in tuner.forms())
    assert all(form.A[0].any() and form.B[0].any() for form in tuner.forms())


def test_growths_that_are_not_given_are_spread_over_their_share_of_the_steps():
    """1,010 steps: one every 25 from step 50 on, 15 of them up to step 404; 30 layers' growths go two at a time."""
    plan = plan_of(IncreLoRAConfig(target_rank=2), 30, 24, 1010)
    assert (plan.warmup, plan.interval, plan.first, plan.modules) == (25, 25, 50, 2)
    assert plan_of(IncreLoRAConfig(target_rank=2), 31, 24, 1010).modules == 3


def test_nothing_to_grow_needs_no_time(recwarn):
    _, tuner, _ = attach(SHAPES, init_rank=2, interval_steps=10)
    tuner.on_train_begin(5)
    assert tuner.will_move(5) is None and not recwarn.list
    assert not any(form.observing for form in tuner.forms())


@pytest.mark.parametrize("advance", [True, False])
def test_a_beginner_takes_the_blocks_of_a_later_moment(advance):
    """As a run that goes on from its checkpoint: the shapes and what of them trains are those of the moment."""
    later, grown, _ = grow(target_rank=4, add_rank=1, total=9, advance_learning=advance)
    state = copy.deepcopy(grown.training_state())
    early, tuner, _ = attach(SHAPES, target_rank=4, add_rank=1, advance_learning=advance)
    tuner.on_train_begin(24)
    tuner.load_training_state(state)
    told = [{name: (p.shape, p.requires_grad) for name, p in model.named_parameters()} for model in (early, later)]
    assert told[0] == told[1] and max(grown.ranks().values()) > 2


def test_bad_schedules():
    _, tuner, _ = attach(SHAPES, interval_steps=10, modules_per_growth=1)
    with pytest.raises(ValueError, match="grows in steps 20 to 50 to reach 8 triplets, and there are 20 steps"):
        tuner.on_train_begin(20)
    with pytest.warns(UserWarning, match="there are 30 steps"):
        tuner.on_train_begin(30)
    _, tuner, _ = attach(SHAPES, target_rank=3, add_rank=3, interval_steps=10, modules_per_growth=1)
    with pytest.warns(UserWarning, match="grows in steps 20 to 40 to reach 12 triplets"):  # 8 are missing: thrice 3
        tuner.on_train_begin(30)


# in a real model


def adapted(**fields):
    torch.manual_seed(0)
    settings = {"target_rank": 4} | fields
    return peft.get_peft_model(
        build("deberta"), IncreLoRAConfig(task_type="SEQ_CLS", modules_to_save=["pooler", "classifier"], **settings)
    )


@pytest.mark.parametrize("fields", [{}, {"modules_per_growth": 5}, {"advance_learning": False}])
@pytest.mark.filterwarnings("ignore:IncreLoRA grows")
def test_a_grown_adapter_reloads(tmp_path, fields):
    """At any time: after training, and in the middle of growth with its reserves."""
    model, inputs = adapted(**fields), batch("deberta")
    tuner = model.base_model
    for steps, folder in ((16, "end"), (30, "later")):
        train_tiny(model, [inputs], steps)
        expected, ranks = logits(model, inputs), tuner.ranks()
        model.save_pretrained(tmp_path / folder)
        again = peft.PeftModel.from_pretrained(build("deberta"), tmp_path / folder)
        assert torch.equal(logits(again, inputs), expected)
        assert again.base_model.ranks() == ranks == again.base_model.settings.rank_pattern
    resumed = peft.PeftModel.from_pretrained(build("deberta"), tmp_path / "end", is_trainable=True)
    before = sum(resumed.base_model.ranks().values())
    train_tiny(resumed, [inputs], 24)
    assert sum(resumed.base_model.ranks().values()) >= max(before, 48)
    merged = model.merge_and_unload()
    assert_close(logits(merged, inputs), expected, rtol=1e-4, atol=1e-4)


def test_back_to_the_best(monkeypatch):
    """What the loop does for select=best: copy the living state at some step, go back to it after more growth."""
    model, inputs = adapted(modules_per_growth=2, interval_steps=2), batch("deberta")
    tuner, kept = model.base_model, []
    allocate = tuner.on_optimizer_step

    def living():
        return {name: p for name, p in model.named_parameters() if p.requires_grad or tuner.prefix in name}

    def watch(step):
        allocate(step)
        assert tuner.settings.rank_pattern == tuner.ranks(), "what a checkpoint's configuration says"
        kept.append((copy.deepcopy(tuner.training_state()), {name: p.detach().clone() for name, p in living().items()}))
        kept[-1] += (logits(model, inputs),)
        model.train()

    monkeypatch.setattr(tuner, "on_optimizer_step", watch)
    monkeypatch.setattr(tuner, "on_train_end", lambda: None)  # the loop goes back before the end
    train_tiny(model, [inputs], 40)
    assert len({str(then["ranks"]) for then, _, _ in kept}) > 5
    for then, state, expected in reversed(kept):
        tuner.load_training_state(then)
        assert living().keys() == state.keys()
        with torch.no_grad():
            for name, parameter in living().items():
                parameter.copy_(state[name])
        assert torch.equal(logits(model, inputs), expected)
        assert tuner.trace() == {name: then[name] for name in tuner.trace()}
        again = tuner.training_state()
        assert again["seed"] == then["seed"], "the next reserve is the one that it would have been"
        assert all(torch.equal(again[name], then[name]) for name in ("mean", "uncertainty"))
        assert {form.observing for form in tuner.forms()} == {tuner.missing() > 0}
        assert (tuner.settings.rank_pattern, tuner.settings.reserve) == (then["ranks"], then["reserve"])


def test_trainer(tmp_path):
    """transformers.Trainer: groups that growth adds get their own clock in its schedule; the target is reached."""
    model = adapted(modules_per_growth=12, interval_steps=2, exact_budget=True)
    rates = []

    class Watch(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, optimizer=None, **kwargs):
            rates.append([group["lr"] for group in optimizer.param_groups])

    arguments = transformers.TrainingArguments(
        tmp_path, max_steps=12, per_device_train_batch_size=4, learning_rate=1e-2, report_to=[], use_cpu=True,
        save_strategy="no", logging_strategy="no", disable_tqdm=True, warmup_steps=2, lr_scheduler_type="linear",
    )  # fmt: skip
    trainer = transformers.Trainer(
        model, arguments, train_dataset=rows("deberta"), callbacks=[hooks.HooksCallback(), Watch()]
    )
    trainer.train()
    tuner = model.base_model
    assert [growth["step"] for growth in tuner.growths] == [4, 6]
    assert sum(tuner.ranks().values()) == 48
    born = [0, 0, 1, 5, 7]  # decayed, not decayed, reserves, two growths
    for step, groups in enumerate(rates, start=1):  # a callback sees the rates of the step to come
        for rate, start in zip(groups, born, strict=False):
            assert rate == pytest.approx(linear_rate(1e-2, step - start, 2, 12 - start))
    assert len(rates[-1]) == 5


def test_published_count():
    """Rank 2 of DeBERTaV3-base: 331,920 where every layer has it."""
    sizes = [(768, 768)] * 48 + [(3072, 768)] * 12 + [(768, 3072)] * 12
    with torch.device("meta"):
        names = {f"m{place}": shape for place, shape in enumerate(sizes)}
        model = peft.get_peft_model(Wide(names), IncreLoRAConfig(target_modules=list(names), target_rank=2))
    tuner = hooks.find(model)
    assert tuner.active_params() == 165_888 + 72
    for form in tuner.forms():
        form.rank = 2
    assert tuner.active_params() == 331_920
    assert list(itertools.chain(*tuner.trace()["growths"])) == []


def test_the_worst_that_growing_can_come_to():
    """The scripts' overshoots (sheet, section 4), and parameters with the same layers always growing."""
    for add, layers, total in ((4, 10, 592), (4, 22, 600), (4, 9, 576), (1, 18, 576)):
        over, rounds = farthest(576 - 72, add, [layers], exact=False)
        assert (576 + over, rounds) == (total, math.ceil((576 - 72) / (add * layers)))
    assert farthest(7, 2, [3], exact=True) == (0, 1)
    assert farthest(0, 2, [1, 2], exact=False) == (0, 0)
    _, tuner, _ = attach(SHAPES, target_rank=3, add_rank=2, modules_per_growth=3)
    lengths = [12, 12, 12, 11]  # in + out + 1; 8 triplets are missing: 3 layers grow by 2, then 2 do
    assert (tuner.overshoot(), tuner.room()) == (2, (1, 5))
    assert tuner.planned_params() == (3 * sum(lengths), sum(lengths) + 10 * 12)
    _, tuner, _ = attach(
        SHAPES, target_rank=3, add_rank=2
    )  # 1 to 4 layers at a time: one grows 4 times, three go beyond
    assert (tuner.overshoot(), tuner.room()) == (2, (1, 9))
    with pytest.raises(ValueError, match="total_target_rank=3 is below the 4 triplets that 4 layers have at the start"):
        attach(SHAPES, total_target_rank=3)
