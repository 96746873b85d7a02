"""AdaLoRA against its authors' numbers, a plain second implementation, closed forms, and its promised cost."""

import copy
import itertools
import warnings

import peft
import pytest
import torch
import transformers
from oracles import oracle, tensor
from tiny import batch, build, logits, rows, sites
from tiny import train as train_tiny
from torch import nn
from torch.nn.functional import cross_entropy
from torch.testing import assert_close
from toys import Chain, OldAdamW, data, linear_rate, train

from harness.optimizer import FormerAdamW
from methods import hooks
from methods.reparameterized.adalora import AdaLoRAConfig, Triplets
from methods.reparameterized.allocator import Schedule
from methods.reparameterized.svd_form import drawn, orthogonality, spread

close = {"rtol": 1e-9, "atol": 1e-11}
SHAPES = {"b_q": (5, 6), "a_fc1": (7, 5), "d_fc2": (5, 7), "c_v": (3, 5)}


def attach(shapes, **fields):
    """Triplets beside every layer of a chain, in float64."""
    model = peft.get_peft_model(Chain(shapes).double(), AdaLoRAConfig(target_modules=list(shapes), **fields)).double()
    return model, hooks.find(model)


def ours(case):
    return {
        "init_rank": case["init_r"], "target_rank": case["target_rank"], "total_target_rank": case["target_total_rank"],
        "warmup_steps": case["t_init"], "final_steps": case["t_final"], "interval_steps": case["delta_t"],
        "beta1": case["beta1"], "beta2": case["beta2"],
    }  # fmt: skip


# the authors' numbers


def test_schedule_oracle():
    count = 0
    for config in oracle("adalora_schedule.json")["configs"]:
        ranks = (config["n_modules"] * config[key] for key in ("init_r", "target_r"))
        schedule = Schedule(*ranks, config["t_init"], config["t_final"], config["delta_t"], config["total_step"])
        for step, budget, due in config["rows_step_budget_maskflag"]:
            assert schedule(step) == (budget, bool(due)), (config["name"], step)
            count += 1
    assert count == 304


@pytest.mark.parametrize("name", ["adalora_static.json", "adalora_edge.json"])
def test_allocation_oracles(name):
    """Scripted parameters and gradients: budget, scores, threshold and survivors of every step."""
    for case in oracle(name)["cases"]:
        shapes = case["modules_out_in"]
        _, tuner = attach(shapes, **ours(case))
        tuner.on_train_begin(case["total_step"])
        forms = dict(zip(shapes, tuner.forms(), strict=True))
        for row in case["steps"]:
            for key, values in row["p"].items():
                module, _, kind = key.partition(".lora_")
                parameter = getattr(forms[module], kind)
                parameter.data = tensor(values, parameter.shape) / case["scale"]
                parameter.grad = tensor(row["g"][key], parameter.shape) / case["scale"]
            tuner.on_optimizer_step(row["step"])
            assert tuner.budget == row["budget"]
            alive = {module: (form.E != 0).flatten().int().tolist() for module, form in forms.items()}
            assert alive == row.get(
                "survive", {m: (tensor(row["p"][f"{m}.lora_E"]) != 0).int().tolist() for m in shapes}
            )
            if row["threshold"] is not None:
                scores = tuner.allocator.scores()
                assert_close(scores, tensor([row["scores"][module] for module in shapes]), **close)
                dropped = scores.numel() - tuner.budget
                assert_close(scores.flatten().sort().values[dropped - 1].item(), row["threshold"], **close)
        ema, place = case["final_ema"], list(shapes).index(case["final_ema"]["module"])
        stack = next(stack for stack in tuner.allocator.stacks if stack.kind == "E")
        assert_close(stack.mean[place].flatten(), tensor(ema["exp_avg_ipt_E"]), **close)
        assert_close(stack.uncertainty[place].flatten(), tensor(ema["exp_avg_unc_E"]), **close)


def test_forward_and_penalty_oracle():
    found, forms = oracle("adalora_forward_orth.json"), []
    for case in found["cases"]:
        layer = nn.Linear(case["inp"], case["out"]).double()
        form = Triplets(layer, case["r"], case["alpha"], dropout=0.0).double()
        forms.append(form)
        values = {name: tensor(case[name]) / found["scale"] for name in ("W", "bias", "A", "E", "B", "x")}
        for parameter, name in zip(
            (layer.weight, layer.bias, form.A, form.E, form.B), ("W", "bias", *"AEB"), strict=True
        ):
            parameter.data = values[name].reshape(parameter.shape)
        assert_close(form.scale, case["scaling_over_ranknum"], **close)
        states = values["x"].reshape(-1, case["inp"])
        assert_close(layer(states) + form(states), tensor(case["y"]), **close)
        for regulariser, weight, key in (
            ("mean_unsquared", 1.0, "orth_regu_weight1"), ("mean_unsquared", 0.1, "orth_regu_weight0p1"),
            ("sum_squared", 1.0, "paper_eq4_squared_sum"),
        ):  # fmt: skip
            assert_close((weight * orthogonality([form.B], [form.A], regulariser)).item(), case[key], **close)
    pair = [form.B for form in forms[:2]], [form.A for form in forms[:2]]
    assert_close(orthogonality(*pair, "mean_unsquared").item(), found["two_module_model"]["orth_regu_weight1"], **close)


# a whole loop against a plain second implementation


class Reference:
    """Section 3 of the paper, in the order of the authors' trainer: one module, one matrix, one entry at a time."""

    def __init__(self, model, tuner, config, total):
        self.network = copy.deepcopy(model.base_model.model)
        self.weights = {}
        for (path, part), kind in itertools.product(tuner.parts().items(), "AEB"):
            self.weights[path, kind] = getattr(part.form, kind).detach().clone().requires_grad_()
        self.config, self.total, self.smooth = config, total, {}
        self.paths = list(tuner.parts())
        self.scale = config.alpha / (config.init_rank + 1e-5)

    def forward(self, inputs):
        for path in self.paths:
            layer = self.network.get_submodule(path)
            a, e, b = (self.weights[path, kind] for kind in "AEB")
            inputs = inputs @ layer.weight.T + layer.bias + self.scale * (inputs @ (a * e).T @ b.T)
            if path != self.paths[-1]:
                inputs = torch.tanh(inputs)
        return inputs

    def regulariser(self):
        norms = []
        for path in self.paths:
            a, _, b = (self.weights[path, kind] for kind in "AEB")
            norms += [
                torch.norm(a @ a.T - torch.eye(len(a), dtype=a.dtype)),
                torch.norm(b.T @ b - torch.eye(len(a), dtype=a.dtype)),
            ]
        return sum(norms) / len(norms)

    def smoothed(self, step):
        if step < self.total - self.config.final_steps:
            for key, weight in self.weights.items():
                now = (weight * weight.grad).abs().detach()
                mean, spread = self.smooth.get(key, (0.0, 0.0))
                mean = self.config.beta1 * mean + (1 - self.config.beta1) * now
                self.smooth[key] = mean, self.config.beta2 * spread + (1 - self.config.beta2) * (now - mean).abs()

    def budget(self, step):
        c, every = self.config, len(self.paths) * self.config.init_rank
        target = len(self.paths) * c.target_rank
        if step <= c.warmup_steps:
            return every, False
        if step > self.total - c.final_steps:
            return target, True
        left = 1 - (step - c.warmup_steps) / (self.total - c.final_steps - c.warmup_steps)
        return int(target + (every - target) * left**3), step % c.interval_steps == 0

    def mask(self, budget):
        scores = {}
        for path in self.paths:
            s = {kind: self.smooth[path, kind][0] * self.smooth[path, kind][1] for kind in "AEB"}
            for i in range(self.config.init_rank):
                scores[path, i] = (s["E"][i, 0] + s["B"][:, i].mean() + s["A"][i].mean()).item()
        threshold = sorted(scores.values())[len(scores) - budget - 1]
        for (path, i), score in scores.items():
            if score <= threshold:
                self.weights[path, "E"].data[i] = 0.0

    def train(self, data, optimizer, warmup, before_step=False):
        for step in range(self.total):
            for group in optimizer.param_groups:
                group["lr"] = linear_rate(0.05, step, warmup, self.total)
            task, penalty = cross_entropy(self.forward(data[0]), data[1]), 0.3 * self.regulariser()
            (task + penalty).backward()
            nn.utils.clip_grad_norm_(list(self.weights.values()), 1.0)
            if before_step:
                self.smoothed(step)
            optimizer.step()
            if not before_step:
                self.smoothed(step)
            budget, due = self.budget(step)
            if due:
                self.mask(budget)
            optimizer.zero_grad()
            yield task.item(), penalty.item(), {key: weight.detach().clone() for key, weight in self.weights.items()}


@pytest.mark.parametrize("sensitivity", ["after_step", "before_step"])
def test_whole_loop(sensitivity):
    total, rows_ = 40, data(24, 6, 3)
    fields = {"init_rank": 3, "target_rank": 1, "warmup_steps": 4, "final_steps": 9, "interval_steps": 3, "beta1": 0.8,
              "orthogonality_weight": 0.3, "alpha": 4.0, "sensitivity": sensitivity}  # fmt: skip
    model, tuner = attach(SHAPES, **fields)
    reference = Reference(model, tuner, tuner.settings, total)
    plain = OldAdamW([{"params": list(reference.weights.values())}], lr=0.05, weight_decay=0.01)
    expected = reference.train(rows_, plain, warmup=5, before_step=sensitivity == "before_step")
    alive = []

    def compare(step, task, penalty):
        wanted_task, wanted_penalty, weights = next(expected)
        assert_close((task, penalty), (wanted_task, wanted_penalty), **close)
        for path, part in tuner.parts().items():
            for kind in "AEB":
                assert_close(getattr(part.form, kind).detach(), weights[path, kind], **close)
            assert torch.equal(part.form.E == 0, weights[path, "E"] == 0)
        alive.append(sum(tuner.ranks().values()))

    trained = [{"params": [p for p in model.parameters() if p.requires_grad]}]
    optimizer = FormerAdamW(trained, lr=0.05, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)  # the recipe's
    train(model, tuner, optimizer, rows_, total, warmup=5, observe=compare)
    assert alive[:6] == [12] * 6
    assert min(alive[6:]) < 12
    assert alive[-8:] == [4] * 8


# properties


def test_smoothing_starts_at_zero_without_correction():
    _, tuner = attach({"m": (2, 2)}, init_rank=2, target_rank=1, warmup_steps=0, final_steps=2)
    tuner.on_train_begin(9)
    form = tuner.forms()[0]
    for parameter in form.parameters():
        parameter.data.fill_(-2.0)
        parameter.grad = torch.full_like(parameter, 3.0)
    tuner.on_optimizer_step(0)
    for stack in tuner.allocator.stacks:
        assert_close(stack.mean, torch.full_like(stack.mean, 0.15 * 6))
        assert_close(stack.uncertainty, torch.full_like(stack.mean, 0.15 * 0.85 * 6))


def scripted(shapes, gradients, order=None, factor=1.0):
    """Scores after three steps of given gradients, by layer."""
    order = order or list(shapes)
    _, tuner = attach({name: shapes[name] for name in order}, init_rank=3, target_rank=1, warmup_steps=0, final_steps=2)
    tuner.on_train_begin(9)
    for step in range(3):
        for name, part in tuner.parts().items():
            for kind in "AEB":
                parameter, (value, gradient) = getattr(part.form, kind), gradients[name, kind, step]
                parameter.data, parameter.grad = value.clone(), factor * gradient
        tuner.allocator.observe()
    return dict(zip(order, tuner.allocator.scores(), strict=True))


def test_scores_follow_layers_and_scale():
    """Whatever the order of the layers; quadratic in the gradient; unmoved by doubling the columns of A."""
    draw = torch.Generator().manual_seed(1)
    made, shapes = {}, dict(SHAPES)
    for (name, (outputs, inputs)), step in itertools.product(shapes.items(), range(3)):
        for kind, shape in (("A", (3, inputs)), ("E", (3, 1)), ("B", (outputs, 3))):
            made[name, kind, step] = tuple(torch.randn(*shape, generator=draw, dtype=torch.float64) for _ in "wg")
    scores = scripted(shapes, made)
    moved = scripted(shapes, made, order=list(reversed(shapes)))
    larger = scripted(shapes, made, factor=3.0)
    for name in shapes:
        assert_close(moved[name], scores[name])
        assert_close(larger[name], 9 * scores[name])
    doubled = {key: tuple(torch.cat([t, t], 1) if key[1] == "A" else t for t in pair) for key, pair in made.items()}
    again = scripted({name: (o, 2 * i) for name, (o, i) in shapes.items()}, doubled)
    assert all(torch.allclose(again[name], scores[name]) for name in shapes)


def test_a_mask_touches_singular_values_only(monkeypatch):
    """Not A, B, head, backbone, scale or moments; and a masked value comes back with its moments."""
    model, tuner = attach(SHAPES, init_rank=3, target_rank=1, warmup_steps=0, final_steps=2, interval_steps=3)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    allocate, scales = tuner.on_optimizer_step, [form.scale for form in tuner.forms()]
    masked, alive = [], []

    def checked(step):
        kept = {name: p.detach().clone() for name, p in model.named_parameters()}
        moments = copy.deepcopy(optimizer.state_dict()["state"])
        allocate(step)
        changed = [name for name, p in model.named_parameters() if not torch.equal(p, kept[name])]
        assert all(name.endswith(".E") for name in changed)
        for key, state in optimizer.state_dict()["state"].items():
            assert all(torch.equal(state[name], moments[key][name]) for name in state)
        masked.append(len(changed))
        alive.append(sum(tuner.ranks().values()))

    monkeypatch.setattr(tuner, "on_optimizer_step", checked)
    train(model, tuner, optimizer, data(16, 6, 3), 12, warmup=0)
    assert [form.scale for form in tuner.forms()] == scales
    assert masked[3] and not masked[4]
    assert alive[3] < alive[4] == 12


def test_start_and_penalty():
    """E = 0: the backbone's output; the task's gradient reaches E alone; the penalty A and B alone."""
    model, tuner = attach(SHAPES, init_rank=3, target_rank=1, orthogonality_weight=0.5)
    rows_, labels = data(8, 6, 3)
    assert torch.equal(model(rows_), Chain(SHAPES).double()(rows_))
    cross_entropy(model(rows_), labels).backward()
    for form in tuner.forms():
        assert form.E.grad.abs().min() > 0
        assert form.A.grad.abs().max() == form.B.grad.abs().max() == 0
    model.zero_grad()
    tuner.penalty().backward()
    assert all(form.E.grad is None and form.A.grad.abs().max() > 0 for form in tuner.forms())
    with model.disable_adapter():
        assert tuner.penalty() is None
    q, _ = torch.linalg.qr(torch.randn(6, 3, dtype=torch.float64))
    assert orthogonality([q], [q.T], "mean_unsquared") < 1e-14
    squares = sum(
        ((f.A @ f.A.T - torch.eye(3)) ** 2).sum() + ((f.B.T @ f.B - torch.eye(3)) ** 2).sum() for f in tuner.forms()
    )
    tuner.settings.regulariser = "sum_squared"
    assert_close(tuner.penalty(), 0.5 * squares)


def test_singular_vectors_start_from_a_normal_distribution():
    """N(0, 0.02), in every form of both methods: they draw by `drawn`."""
    for generator in (None, torch.Generator().manual_seed(0)):
        torch.manual_seed(0)
        values = drawn(400, 300, generator=generator)
        assert values.requires_grad
        values = values.detach()
        assert abs(values.mean()) < 3e-4 and values.std() == pytest.approx(0.02, rel=0.01)


@pytest.mark.parametrize("regulariser", ["mean_unsquared", "sum_squared"])
def test_the_penalty_is_no_matter_of_autocast(regulariser):
    """In bfloat16 A A' - I would be lost beside I once it is small."""
    rights = [torch.linalg.qr(torch.randn(9, 4))[0].T + 1e-3 for _ in range(3)]
    lefts = [right.T.clone() for right in rights]
    apart = torch.stack([right @ right.T - torch.eye(4) for right in rights])
    norms = torch.linalg.vector_norm(apart, dim=(1, 2))
    expected = 2 * norms.square().sum() if regulariser == "sum_squared" else norms.mean()
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(orthogonality(lefts, rights, regulariser), expected, rtol=1e-3, atol=0)


def test_without_a_weight_there_is_no_penalty():
    _, tuner = attach(SHAPES, init_rank=3, target_rank=1, orthogonality_weight=0.0)
    assert tuner.penalty() is None


def test_equal_ranks_prune_nothing():
    model, tuner = attach(SHAPES, init_rank=2, target_rank=2, warmup_steps=0, final_steps=3, interval_steps=1)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    train(model, tuner, optimizer, data(16, 6, 3), 10, warmup=0)
    assert set(tuner.ranks().values()) == {2}
    assert not any(stack.mean.any() for stack in tuner.allocator.stacks), "nothing to score: no work for it"


def test_the_number_of_triplets_that_a_layer_can_end_with(recwarn):
    _, tuner = attach(SHAPES, init_rank=3, target_rank=1, total_target_rank=12, warmup_steps=1, final_steps=1)
    assert (tuner.room(), tuner.overshoot()) == ((0, 3), 0)
    tuner.on_train_begin(10)
    assert not recwarn.list, "all triplets stay: there is no budget that could be missed"


def test_triplets_spread_over_layers():
    """Two layers of 3 and 5 numbers a triplet, 10 triplets, 1 to 8 a layer: evenly, and 8 in the longer layer."""
    assert spread(10, [3, 5], 1, 8) == (40, 8 * 5 + 2 * 3)


def test_schedule_at_its_edges():
    schedule = Schedule(initial=12, target=4, warmup=2, final=3, interval=2, total=10)
    assert [schedule(step) for step in (0, 2)] == [(12, False)] * 2, "nothing is due up to the warm-up's last step"
    assert [schedule(step) for step in (3, 4, 7, 8, 9)] == [(8, False), (5, True), (4, False), (4, True), (4, True)]


def test_a_layer_without_a_gradient_has_no_sensitivity():
    _, tuner = attach(SHAPES, init_rank=3, target_rank=1, warmup_steps=1, final_steps=2, interval_steps=1)
    tuner.on_train_begin(10)
    first, *others = tuner.forms()
    for parameter in (parameter for form in others for parameter in form.parameters()):
        parameter.grad = torch.ones_like(parameter)
    tuner.on_optimizer_step(0)
    scores = tuner.allocator.scores()
    assert first.E.grad is None and not scores[0].any() and scores[1:].all()


def test_whether_the_budget_will_move():
    def moves(total_steps, **fields):
        _, tuner = attach(SHAPES, **({"init_rank": 3, "target_rank": 1, "warmup_steps": 2, "final_steps": 0} | fields))
        assert tuner.will_move(total_steps) is None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tuner.on_train_begin(total_steps)
        return tuner.will_move(total_steps)

    assert moves(10, interval_steps=4) is True
    assert moves(10, interval_steps=100) is False
    assert moves(10, interval_steps=100, final_steps=2) is True
    assert moves(10, target_rank=3) is None


def test_what_was_observed_goes_on():
    def observed(start):
        _, tuner = attach(SHAPES, init_rank=3, target_rank=1, warmup_steps=1, final_steps=2, interval_steps=1)
        tuner.on_train_begin(10)
        for step in range(start, 4):
            for place, parameter in enumerate(tuner.container.parameters()):
                parameter.data.fill_(1.0 + place + step)
                parameter.grad = torch.ones_like(parameter)
            tuner.on_optimizer_step(step)
            if step == 2:
                kept.setdefault("state", copy.deepcopy(tuner.training_state()))
        return tuner

    kept = {}
    whole = observed(0)
    again = observed(4)
    again.load_training_state(kept["state"])
    assert again.budget == kept["state"]["budget"] < 12 and again.allocator.masked
    for place, parameter in enumerate(again.container.parameters()):
        parameter.data.fill_(4.0 + place)
        parameter.grad = torch.ones_like(parameter)
    again.on_optimizer_step(3)
    assert torch.equal(again.allocator.scores(), whole.allocator.scores()) and again.budget == whole.budget


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"init_rank": 2, "target_rank": 3}, "target_rank=3 must not exceed init_rank=2"),
        ({"beta1": 1.0}, "beta1=1.0 must lie strictly between"),
        ({"interval_steps": 0}, "interval_steps=0 must be at least 1"),
        ({"init_rank": 0}, "init_rank=0 must be at least 1"),
        ({"target_rank": 0}, "target_rank=0 must be at least 1"),
        ({"total_target_rank": 0}, "total_target_rank=0 must be at least 1"),
        ({"regulariser": "none"}, "must be one of mean_unsquared, sum_squared"),
        ({"sensitivity": "later"}, "must be one of after_step, before_step"),
        ({"init_rank": 4, "target_rank": 1}, "init_rank=4 is above the rank of c_v, which is 3 x 5"),
        ({"init_rank": 3, "target_rank": 1, "total_target_rank": 13}, "total_target_rank=13 exceeds the 12 triplets"),
        ({"init_rank": 3, "target_rank": 1, "target_modules": ["q_proj"]}, "matches no module of Chain; its linear"),
    ],
)
def test_bad_settings(fields, words):
    with pytest.raises(ValueError, match=words):
        attach(SHAPES, **fields) if "target_modules" not in fields else peft.get_peft_model(
            Chain(SHAPES), AdaLoRAConfig(**fields)
        )


def test_bad_schedules():
    _, tuner = attach(SHAPES, init_rank=3, target_rank=1, warmup_steps=5, final_steps=5)
    with pytest.raises(ValueError, match="no steps to prune in: warmup_steps=5 and final_steps=5 take all of the 10"):
        tuner.on_train_begin(10)
    tuner.on_train_begin(11)
    with pytest.raises(RuntimeError, match="finds no gradients"):
        tuner.on_optimizer_step(0)
    _, tuner = attach(SHAPES, init_rank=3, target_rank=1, warmup_steps=1, final_steps=1, interval_steps=4)
    with pytest.warns(UserWarning, match="not enforced after the last of 10 steps"):
        tuner.on_train_begin(10)


# in a real model


def adapted(**fields):
    torch.manual_seed(0)
    settings = {"init_rank": 4, "target_rank": 2, "interval_steps": 2} | fields
    return peft.get_peft_model(
        build("deberta"), AdaLoRAConfig(task_type="SEQ_CLS", modules_to_save=["pooler", "classifier"], **settings)
    )


def test_masked_values_survive_saving(tmp_path):
    model, inputs = adapted(), batch("deberta")
    tuner = model.base_model
    assert tuner.active_params() == sum(p.numel() for n, p in model.named_parameters() if "adalora_svd_" in n)
    train_tiny(model, [inputs], 20)
    ranks = tuner.ranks()
    assert sum(ranks.values()) == 24
    assert tuner.trace() == {"ranks": ranks, "budget": 24}
    sizes = {
        path: 1 + layer.in_features + layer.out_features
        for path in ranks
        for layer in [tuner.model.get_submodule(path)]
    }
    assert tuner.active_params() == sum(rank * sizes[path] for path, rank in ranks.items())
    expected = logits(model, inputs)
    model.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(build("deberta"), tmp_path)
    assert torch.equal(logits(again, inputs), expected)
    assert again.base_model.ranks() == ranks
    assert_close(logits(model.merge_and_unload(), inputs), expected, rtol=1e-4, atol=1e-4)


def test_trainer(tmp_path):
    """transformers.Trainer with the callback: the budget is met; the loss has the penalty in training alone."""
    model = adapted(orthogonality_weight=7.0)
    arguments = transformers.TrainingArguments(
        tmp_path, max_steps=12, per_device_train_batch_size=4, learning_rate=1e-2, report_to=[], use_cpu=True,
        save_strategy="no", logging_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    trainer = transformers.Trainer(
        model, arguments, train_dataset=rows("deberta"), eval_dataset=rows("deberta"), callbacks=[hooks.HooksCallback()]
    )
    trainer.train()
    assert sum(model.base_model.ranks().values()) == 24
    inputs = batch("deberta")
    assert_close(model.eval()(**inputs).loss, cross_entropy(logits(model, inputs), inputs["labels"]))
    assert model.train()(**inputs).loss > model.base_model.penalty() > 1


def test_targets():
    """null, the model's own names as a list, and a regular expression name the same layers; the head is never one."""
    pattern = sites("deberta")["sites"]["linears"]
    names = ["query_proj", "key_proj", "value_proj", "dense"]
    found = [adapted(target_modules=targets).base_model.ranks().keys() for targets in (None, pattern, names)]
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 12


DEBERTA_V3_BASE = dict(
    hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072, relative_attention=True,
    position_buckets=256, norm_rel_ebd="layer_norm", share_att_key=True, pos_att_type=["p2c", "c2p"],
    position_biased_input=False, type_vocab_size=0, vocab_size=128100, max_relative_positions=-1,
)  # fmt: skip


@pytest.mark.parametrize(
    ("model_cls", "config", "layers", "expected"),
    [
        (transformers.DebertaV2ForSequenceClassification, transformers.DebertaV2Config(**DEBERTA_V3_BASE), 72, 165_888),
        (transformers.BartForConditionalGeneration, transformers.BartConfig(), 192, 540_672),
    ],
)
def test_published_counts(model_cls, config, layers, expected):
    with torch.device("meta"):
        model = peft.get_peft_model(
            model_cls(config), AdaLoRAConfig(init_rank=12, modules_to_save=["pooler", "classifier"])
        )
    sizes = [p.numel() for name, p in model.named_parameters() if ".adalora_svd_." in name]
    assert len(sizes) == 3 * layers
    assert sum(sizes) == 12 * (expected + layers)


# what it costs


def operations(layers):
    """How many operations the profiler sees in penalty and allocation outside stack, unbind and foreach calls.

    Of the penalty's way back, autograd's own adding to every parameter's gradient is left out as well.
    """
    shapes = {f"{kind}{layer}": shape for layer in range(layers) for kind, shape in
              (("up", (12, 8)), ("mid", (12, 12)), ("down", (8, 12)))}  # fmt: skip
    model, tuner = attach(shapes, init_rank=4, target_rank=2, warmup_steps=0, final_steps=2, interval_steps=1)
    tuner.on_train_begin(50)
    cross_entropy(model(torch.randn(4, 8, dtype=torch.float64)), torch.zeros(4, dtype=torch.long)).backward()
    found, penalty = {}, tuner.penalty()
    for name, call in {
        "penalty": tuner.penalty,
        "its gradient": penalty.backward,
        "allocation": lambda: [tuner.on_optimizer_step(step) for step in (1, 2, 49)],
    }.items():
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            call()
        found[name] = sum(_counted(event) for event in profile.events())
    return found


def _counted(event):
    while event is not None:
        if any(word in event.name for word in ("aten::stack", "StackBackward", "unbind", "foreach", "AccumulateGrad")):
            return False
        event = event.cpu_parent
    return True


def test_operations_do_not_grow_with_layers():
    few, many = operations(2), operations(12)
    assert few == many
    assert all(10 < count < 400 for count in few.values())
