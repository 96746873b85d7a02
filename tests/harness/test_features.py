"""Kept features: the losses of a head on a backbone that is run every time, where there is no dropout."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from made import small_classifier as small

from harness import compose, identity, record, run
from harness.distributed import Group
from harness.errors import ConfigError
from harness.interrupt import Stopped

SHORT = [
    "method=head", "train.max_steps=24", "train.batch_size=8", "train.evaluate_every_epochs=1", "data.max_train_rows=64",
    "data.max_eval_rows=32", "progress=false", "wandb.mode=disabled", "threads=1",
]  # fmt: skip
NO_DROPOUT = [f"+model.config.{name}=0" for name in ("hidden_dropout_prob", "attention_probs_dropout_prob")]
KEPT = "train.cache_features=true"


def plan(root: Path, *words: str) -> run.Plan:
    return run.plan(compose.composed([*SHORT, *words, f"results.root={root}"]))


TOP_LORA = [
    "method=lora",
    "+method.layers_to_transform=[1,2]",
    "method.target_modules=[query_proj,value_proj,query,value]",
]


@pytest.mark.parametrize(
    ("model", "more"),
    [
        *(("demo_deberta", more) for more in ([], TOP_LORA, ["method=houlsby", "method.skip_layers=[0,1]"])),
        *(("demo_roberta", more) for more in ([], TOP_LORA)),
    ],
)
def test_losses_and_scores_are_those_of_a_backbone_that_is_run_every_time(model, more, tmp_path):
    words = [f"model={model}", *NO_DROPOUT, *more]
    kept, plain = (run.run(plan(tmp_path, *words, *switch)) for switch in ([KEPT], []))
    assert kept.science["losses"] == pytest.approx(plain.science["losses"], abs=1e-5)
    assert len(set(kept.science["losses"])) == 24
    for ours, theirs in zip(kept.science["curve"], plain.science["curve"], strict=True):
        assert ours["accuracy"] == pytest.approx(theirs["accuracy"], abs=100 / 32 + 1e-6)  # one row, by rounding
    assert kept.science["scores"].keys() == plain.science["scores"].keys()
    assert kept.provenance["preflight"]["passed"]


def test_it_is_another_run(tmp_path):
    kept, plain = plan(tmp_path, KEPT), plan(tmp_path)
    assert kept.id != plain.id
    assert identity.group(kept.identity) != identity.group(plain.identity)


class Interrupted(Group):
    """A process that is sent SIGTERM while it makes its fifth update."""

    updates = 0

    @property
    def signal(self) -> int | None:
        self.updates += 1
        return signal.SIGTERM if self.updates >= 5 else None


def test_an_interrupted_run_ends_with_the_bits_of_one_that_nobody_disturbed(tmp_path):
    whole = run.run(plan(tmp_path / "whole", KEPT))
    broken = plan(tmp_path / "broken", KEPT)
    with pytest.raises(Stopped):
        run.run(broken, Interrupted())
    stored = record.read(broken.folder)
    assert stored is not None and stored.state == "PREEMPTED"
    done = run.run(broken)
    assert done.provenance["resumed_at"] == 5
    assert done.science == whole.science
    told = "features were kept anew from update 5 on: equal to rounding, not in bits"
    assert told in done.remarks and told not in whole.remarks


@pytest.mark.parametrize(
    ("words", "said"),
    [
        *(
            ([f"method={name}"], "trains from the backbone's first layer on")
            for name in ("lora", "bitfit", "houlsby", "full")
        ),
        (["model=demo_bart"], "the head of a bart model reads more than the first token"),
    ],
)
def test_what_cannot_be_fed_with_kept_features_is_refused(words, said, tmp_path):
    with pytest.raises(ConfigError) as found:
        run.run(plan(tmp_path, *words, KEPT, "preflight.enabled=false"))
    assert said in str(found.value)
    assert "train.cache_features=true" in str(found.value)


@pytest.mark.parametrize("model", ["demo_deberta", "demo_roberta"])
def test_what_the_refusal_of_lora_proposes_is_accepted(model, tmp_path):
    words = [f"model={model}", "method=lora", KEPT, "preflight.enabled=false", "train.max_steps=1"]
    with pytest.raises(ConfigError) as found:
        run.run(plan(tmp_path, *words))
    proposed = str(found.value).rpartition("LoRA: ")[2].rstrip(")").split()
    assert len(proposed) == 2 and run.run(plan(tmp_path, *words, *proposed)).state == "DONE"


def test_a_method_that_reads_frozen_layers_from_the_side_is_refused():
    from harness import features

    class Ladder(torch.nn.Module):
        """Reads the first layer, and adds to the logits what is zero when it starts."""

        def __init__(self):
            super().__init__()
            self.inside, self.up = small("roberta").requires_grad_(False), torch.nn.Linear(16, 2, bias=False)
            torch.nn.init.zeros_(self.up.weight)
            self.config, self.base_model_prefix, self.roberta = self.inside.config, "roberta", self.inside.roberta
            self.inside.roberta.encoder.layer[0].register_forward_hook(lambda *seen: setattr(self, "low", seen[2]))

        def forward(self, **inputs):
            output = self.inside(**inputs)
            output.logits = output.logits + self.up(self.low[:, 0])
            return output

    ladder = Ladder()
    ladder.inside.roberta.encoder.layer[3].requires_grad_(True)
    with pytest.raises(ConfigError, match=r"reads the states of the frozen layers below \(3 of 4\)"):
        features.keep(ladder)


def test_features_that_memory_does_not_hold_are_refused_beforehand():
    from harness import features

    model = small("roberta").requires_grad_(False)
    model.classifier.requires_grad_(True)
    with pytest.raises(ConfigError, match="of the host's memory are free, of which they may take 50%"):
        features.keep(model, rows=10**12)


def test_a_convolution_beside_the_only_frozen_layer_is_refused():
    from harness import features

    for first, reason in ((1, "this backbone's convolution joins the first layer"), (2, None)):
        model = small("deberta-v2", conv_kernel_size=3).requires_grad_(False)
        model.deberta.encoder.layer[first].requires_grad_(True)
        if reason is None:
            features.keep(model)
        else:
            with pytest.raises(ConfigError, match=reason):
                features.keep(model)


@pytest.mark.parametrize(
    "words",
    [
        [*TOP_LORA, "train.gradient_checkpointing=true"],
        ["task=multi", "task.tasks=[demo/entailment,demo/acceptability]"],
    ],
)
def test_together_with_checkpointed_activations_and_several_tasks(words, tmp_path):
    kept, plain = (run.run(plan(tmp_path, *NO_DROPOUT, *words, *switch)) for switch in ([KEPT], []))
    assert kept.science["losses"] == pytest.approx(plain.science["losses"], abs=1e-5)


def test_the_refusal_of_several_tasks_names_what_is_trained_below(tmp_path):
    words = [
        "method=propetl",
        "method.bottleneck_size=4",
        "task=multi",
        "task.tasks=[demo/entailment,demo/acceptability]",
    ]
    with pytest.raises(ConfigError, match=r"\(it trains base_model.model.adapters.propetl_"):
        run.run(plan(tmp_path, *words, KEPT, "preflight.enabled=false"))
