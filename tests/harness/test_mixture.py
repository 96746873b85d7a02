"""Several tasks in one run: how they are drawn, a head each, masks each, scores each; and what cannot be together."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from specs import composed, task, written

from harness import evaluate, predict, progress, run
from harness.data import Encoded
from harness.errors import ConfigError
from harness.evaluate import Evaluation
from harness.feed import Feed
from harness.identity import identity
from harness.losses import task_loss
from harness.mixture import Heads, Mixture, choose, give_heads
from harness.task import empty

# After PROPETL's splits, in its order, and the probabilities that its sampler has at temperature 10.
SIZES = {
    "rte": 2490,
    "sst2": 66349,
    "mrpc": 3668,
    "stsb": 5749,
    "qqp": 362846,
    "mnli": 392702,
    "qnli": 103743,
    "cola": 8551,
}
SHARES = [0.096, 0.134, 0.100, 0.105, 0.158, 0.159, 0.140, 0.109]
RTE = (
    "index\tsentence1\tsentence2\tlabel\n"
    + "0\ta cat sat\tit sat\tentailment\n1\ta dog ran\tit sat\tnot_entailment\n" * 6
)
STSB = "index\tsentence1\tsentence2\tscore\n" + "0\ta cat\ta cat\t5.0\n1\ta cat\tthe sea\t0.5\n" * 6
COLA = "x\t1\t\tthe cat sat\nx\t0\t*\tsat cat the\n" * 6
TINY = (
    "train.max_steps=3", "train.batch_size=4", "train.warmup_steps=0", "~recipe", "device=cpu", "progress=false",
    "data.eval_batch_size=8",
)  # fmt: skip


class Rows(Encoded):
    """Rows that nobody reads."""

    def __len__(self) -> int:
        return self.pad_token_id


def mixture(sizes, temperature=10.0):
    parts = {name: Rows("classification", [], None, [], [], size, 0) for name, size in sizes.items()}
    return Mixture("multi", parts, temperature)


def test_tasks_are_drawn_as_the_paper_draws_them():
    assert np.allclose(mixture(SIZES).shares, SHARES, atol=6e-4)
    assert np.allclose(mixture({"a": 1, "b": 3}, 1.0).shares, [0.25, 0.75])


def test_an_update_has_rows_of_one_task_and_draws_that_nothing_else_shifts():
    drawn = mixture(SIZES)
    made = list(islice(drawn.updates(16, seed=3), 400))
    names = [drawn.at(rows)[0] for rows in made]
    for rows in made:
        name, _, places = drawn.at(rows)
        assert places.min() >= 0 and places.max() < SIZES[name]
    assert [names.count(name) / 400 for name in SIZES] == pytest.approx(SHARES, abs=0.06)
    later = next(drawn.updates(16, seed=3, start=250))
    assert (later == made[250]).all()
    assert any((a != b).any() for a, b in zip(made, islice(drawn.updates(16, seed=4), 400), strict=True))


class Net(torch.nn.Module):
    """A backbone with a pooler and a classifier."""

    def __init__(self):
        super().__init__()
        self.pooler = torch.nn.Sequential(torch.nn.Linear(4, 4))
        self.classifier = torch.nn.Linear(4, 9)

    def _init_weights(self, module):
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight)

    def forward(self, input_ids):
        return self.classifier(self.pooler(input_ids))


def test_each_task_has_a_head_of_its_own():
    net = Net()
    give_heads(net, ["pooler", "classifier"], {"glue/mnli": 3, "glue/stsb": 1})
    assert isinstance(net.pooler, Heads) and isinstance(net.classifier, Heads)
    states = torch.randn(2, 4)
    choose(net, "glue/stsb")
    assert net(states).shape == (2, 1)
    net(states).sum().backward()
    assert net.classifier.heads[0].weight.grad is None and net.classifier.heads[1].weight.grad is not None
    choose(net, "glue/mnli")
    assert net(states).shape == (2, 3)
    assert not torch.equal(net.pooler.heads[0][0].weight, net.pooler.heads[1][0].weight)


def test_the_loss_is_the_task_s():
    loss = task_loss("multi")
    logits = torch.tensor([[1.0], [3.0]])
    assert loss(logits, torch.tensor([1.0, 1.0])) == 2.0
    assert loss(torch.zeros(2, 3), torch.tensor([0, 2])) == pytest.approx(np.log(3))


def test_the_mean_is_the_paper_s():
    spec = task("propetl/multi")
    printed = {
        "cola": {"matthews": 61.43}, "sst2": {"accuracy": 94.22}, "mrpc": {"accuracy": 87.36, "f1": 90.97},
        "qqp": {"accuracy": 90.13, "f1": 87.14}, "stsb": {"pearson": 90.32, "spearman": 90.12},
        "mnli": {"accuracy": 85.34}, "qnli": {"accuracy": 93.01}, "rte": {"accuracy": 75.60},
    }  # fmt: skip
    means = {"mrpc": {"accuracy_f1": 0.0}, "qqp": {"accuracy_f1": 0.0}, "stsb": {"pearson_spearman": 0.0}}
    found = {
        f"propetl/{name}": Evaluation(
            scores | means.get(name, {}) | {"unparsable": 1.0}, {"id": ["0"], "prediction": [1]}
        )
        for name, scores in printed.items()
    }
    together = evaluate._together(found, empty(spec))
    assert together.scores["mean_metrics"] == pytest.approx(85.97, abs=0.01)
    assert together.scores["mrpc.f1"] == 90.97
    assert together.predictions["id"][0] == "propetl/cola/0"
    assert spec.score == "mean_metrics" and spec.reports == "test"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("task=multi",), "task.tasks=[glue/rte,glue/stsb]"),
        (("task=multi", "task.tasks=[glue/rte,glue/rte]"), "twice"),
        (("task=multi", "task.tasks=[glue/rte,glue/rt]"), "Did you mean glue/rte?"),
        (("task=multi", "task.tasks=[glue/rte,glue_text/rte]"), "cannot be one run"),
        (("task=multi", "task.tasks=[glue/rte,demo/entailment]"), "task.reports: validation and test"),
        (("task=multi", "task.tasks=[glue/rte,propetl/multi]"), "several tasks itself"),
        (("task=glue/rte", "task.tasks=[glue/rte]"), "belongs to task=multi"),
        (("task=glue/multi", "task.temperature=0"), "above 0"),
    ],
)
def test_what_cannot_be_together_is_said(words, said):
    with pytest.raises(ConfigError, match=said.replace("[", r"\[").replace("?", r"\?")):
        composed(*words)


def test_glue_multi_is_the_table_s_run_with_masks_for_each_task():
    config = composed("task=glue/multi", "method=propetl")
    assert (config.task.name, config.model.name, config.recipe.name) == ("propetl/multi", "t5_base", "propetl_2023")
    assert config.method["tasks"] == config.task.tasks == [f"propetl/{name}" for name in SIZES]
    assert (config.train.max_steps, config.train.batch_size, config.task.temperature) == (20000, 128, 10.0)
    assert composed("task=glue/rte", "method=propetl", "model=roberta_base").method["tasks"] == []


def test_temperature_counts_and_a_single_task_says_nothing_of_several():
    alone = identity(composed("task=glue/rte"), data="", weights="", device="cpu", precision="float32")
    assert not {"tasks", "parts", "temperature"} & alone["task"].keys()
    kept = identity(composed("task=glue/multi"), data="", weights="", device="cpu", precision="float32")["task"]
    assert kept["temperature"] == 10.0 and list(kept["parts"]) == kept["tasks"]
    assert "hub" not in kept["parts"]["propetl/rte"] and "prompt" in kept["parts"]["propetl/rte"]


def of_two_tasks(tmp_path):
    """A run of RTE and STS-B, a head each."""
    root = written(tmp_path / "data", "RTE", RTE)
    written(tmp_path / "data", "STS-B", STSB)
    config = composed("task=multi", "task.tasks=[glue/rte,glue/stsb]", "model=demo_deberta", f"data.root={root}",
                      f"results.root={tmp_path / 'runs'}", *TINY)  # fmt: skip
    return run.plan(config)


def test_a_run_of_several_tasks_with_a_head_each(tmp_path):
    plan = of_two_tasks(tmp_path)
    width = json.loads((plan.directory / "config.json").read_text())["hidden_size"]
    made = run.run(plan)
    said = progress.line(replace(made, remarks=[f"subset: {task}: {n} rows left out" for task in ("glue/rte", "glue/stsb")
                                                for n in (1, 2)] + ["of all"]), "there")  # fmt: skip
    assert said.endswith(
        "; of all; subset: not all rows of 2 of 2 tasks; 4 remarks on single tasks in the record; there"
    )
    scores = made.science["scores"]["validation"]
    assert set(made.provenance["preflight"]["skipped"]) == {"penalty"}  # the backbone's own loss knows of one head
    assert {"mean_tasks", "mean_metrics", "rte.accuracy", "stsb.pearson"} <= scores.keys()
    assert made.science["main"]["metric"] == "mean_tasks"
    assert scores["mean_tasks"] == pytest.approx((scores["rte.accuracy"] + scores["stsb.pearson_spearman"]) / 2)
    assert made.id.startswith("multi-rte-stsb.demo_deberta.lora.")
    assert made.science["predictions"]["validation"]["rows"] == 24
    for folder, header in (("RTE", "index\tsentence1\tsentence2\n"), ("STS-B", "index\tsentence1\tsentence2\n")):
        (tmp_path / "data" / folder / "test.tsv").write_text(header + "0\ta cat\ta dog\n")
    files = predict.predict(plan.folder, None, tmp_path / "sent", None)
    assert [path.name for path in files] == ["RTE.tsv", "STS-B.tsv"]
    assert made.science["params"]["head"] == 2 * width * (width + 1) + (width + 1) * (2 + 1)


def test_text_to_text_masks_are_the_task_s(tmp_path, monkeypatch):
    root = written(tmp_path / "data", "RTE", RTE)
    written(tmp_path / "data", "CoLA", COLA)
    told = []
    monkeypatch.setattr("methods.hybrid.masks.Tasks.mask", _noted(told))
    config = composed("task=multi", "task.tasks=[glue_text/rte,glue_text/cola]", "model=demo_t5", "method=propetl",
                      f"data.root={root}", f"results.root={tmp_path / 'runs'}", "generation.max_new_tokens=2",
                      "train.evaluate_every_epochs=null", *TINY)  # fmt: skip
    made = run.run(run.plan(config))
    assert made.provenance["preflight"]["skipped"] == []
    assert {"glue_text/rte", "glue_text/cola"} == set(told)
    assert {"rte.accuracy", "cola.matthews", "rte.unparsable"} <= made.science["scores"]["validation"].keys()


def _noted(told):
    from methods.hybrid.masks import Tasks

    mask = Tasks.mask

    def noted(self, name, matrix):
        told.append(name)
        return mask(self, name, matrix)

    return noted


def test_calibration_tells_the_task_too():
    told = []

    class Tuned(Net):
        pass

    net = Tuned()
    give_heads(net, ["classifier"], {"a": 2, "b": 2})
    rows = {name: Encoded("classification", [[1, 2]] * 3, None, [0, 1, 0], ["0", "1", "2"], 0, 0) for name in "ab"}
    settings = composed("train.batch_size=2").train
    feed = Feed(Mixture("multi", rows, 1.0), settings, net, torch.device("cpu"), 0, buckets=False)
    for batch in feed.calibration():
        told.append(net.classifier.active)
        assert batch["labels"].shape == (2,)
    assert set(told) <= {0, 1} and len(told) == 3


def test_training_looks_at_some_rows_and_the_end_at_all(tmp_path):
    config = composed("task=demo/summarization", "model=demo_t5", f"results.root={tmp_path}", "generation.num_beams=1",
                      "generation.max_new_tokens=2", "generation.validation_rows=2", "data.max_train_rows=12",
                      "data.max_eval_rows=5", *TINY)  # fmt: skip
    made = run.run(run.plan(config))
    assert "while training, at most the first 2 validation rows are scored" in made.remarks
    assert made.science["predictions"]["validation"]["rows"] == 5 and "rouge2" in made.science["curve"][0]
    assert composed("task=xsum").generation.validation_rows == 500
    assert composed("task=glue/rte").generation.validation_rows is None


def test_preflight_asks_each_of_several_tasks(tmp_path):
    """The second one's rows are spoilt; and its head, which the first one's rows never reach, is no dead parameter."""
    plan = of_two_tasks(tmp_path)
    plan.task.parts["glue/stsb"].splits["validation"].target[0] = float("nan")
    with pytest.raises(ConfigError, match=r"preflight, labels: glue/stsb: validation has a target that is no finite"):
        run.run(plan)
