"""Kept features: the losses of a head on a backbone that is run every time, where there is no dropout."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch

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


def small(kind, **more):
    from transformers import AutoConfig, AutoModelForSequenceClassification

    shape = {
        "num_hidden_layers": 4,
        "hidden_size": 16,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "vocab_size": 64,
    }
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(AutoConfig.for_model(kind, **shape, **more))


@pytest.mark.parametrize("kind", ["deberta-v2", "roberta", "bert"])
def test_layers_below_the_first_trained_one_run_once_a_text(kind):
    from harness import features

    model = small(kind).eval().requires_grad_(False)
    body = getattr(model, model.base_model_prefix)
    body.encoder.layer[2].requires_grad_(True)
    ids = torch.randint(4, 64, (3, 9))
    mask = (torch.arange(9) < torch.tensor([[9], [6], [4]])).long()
    whole = model(input_ids=ids, attention_mask=mask).logits
    runs = [0] * 4

    def count(number):
        return lambda *_: runs.__setitem__(number, runs[number] + 1)

    for number, layer in enumerate(body.encoder.layer):
        layer.attention.register_forward_hook(count(number))
    features.keep(model)
    runs[:] = [0] * 4
    for _ in range(3):
        model.train()
        assert torch.allclose(model.eval()(input_ids=ids, attention_mask=mask).logits, whole, atol=1e-6)
    assert torch.allclose(model(input_ids=ids[2:, :4], attention_mask=mask[2:, :4]).logits, whole[2:], atol=1e-6)
    assert runs == [1, 1, 4, 4]


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


def test_the_backbone_sees_a_text_once_whatever_its_padding():
    from harness.kept import Kept

    class Body(torch.nn.Module):
        seen = 0

        def forward(self, input_ids, attention_mask):
            Body.seen += len(input_ids)
            assert not self.training
            return (input_ids[:, :, None].float() * attention_mask[:, :, None],)

    body = Body().train()
    kept = Kept(body)
    ids, mask = torch.tensor([[3, 4, 0], [5, 6, 7]]), torch.tensor([[1, 1, 0], [1, 1, 1]])
    first = kept(ids, mask)
    again = kept(ids[:1, :2], mask[:1, :2])
    assert Body.seen == 2 and body.training
    assert first.last_hidden_state.shape == (2, 1, 1)
    assert torch.equal(again[0], first[0][:1])


def test_what_is_kept_of_a_text_holds_no_more_memory_than_that():
    from harness import features, kept

    ids = torch.randint(4, 64, (3, 9))
    mask = (torch.arange(9) < torch.tensor([[9], [6], [4]])).long()
    for top in (False, True):
        model = small("roberta").requires_grad_(False)
        model.classifier.requires_grad_(True)
        model.roberta.encoder.layer[3].requires_grad_(top)
        features.keep(model)
        model(input_ids=ids, attention_mask=mask)
        states = kept.memories(model)[0]._kept.values()
        assert len(states) == 5  # and the two of the probe
        assert all(one.untyped_storage().nbytes() == one.shape[0] * 16 * 4 for one in states)


@pytest.mark.parametrize("top", [False, True])
def test_a_backbone_in_bfloat16_is_kept_as_it_is(top):
    from harness import features

    model = small("roberta").to(torch.bfloat16).requires_grad_(False)
    model.classifier.requires_grad_(True)
    model.roberta.encoder.layer[3].requires_grad_(top)
    ids = torch.randint(4, 64, (3, 9))
    whole = model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    features.keep(model)
    assert torch.equal(model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits, whole)


def test_what_evaluation_asks_for_never_takes_the_room_of_training():
    from harness.kept import Kept

    class Body(torch.nn.Module):
        seen = 0

        def forward(self, input_ids, attention_mask):
            Body.seen += len(input_ids)
            return (input_ids[:, :, None].float(),)

    body = Body().eval()
    kept = Kept(body, room=8)
    ids = torch.tensor([[3], [4], [5]])
    for _ in range(2):
        assert kept(ids, torch.ones_like(ids))[0][:, 0, 0].tolist() == [3, 4, 5]
    assert Body.seen == 3 + 1, "two of them had room"
    body.train()
    for _ in range(2):
        kept(ids, torch.ones_like(ids))
    assert Body.seen == 3 + 1 + 1


@pytest.mark.parametrize("top", [False, True])
def test_seconds_of_a_row_are_of_the_whole_backbone(top):
    from harness import features, latency
    from harness.data import Encoded

    model = small("roberta").requires_grad_(False)
    model.classifier.requires_grad_(True)
    model.roberta.encoder.layer[3].requires_grad_(top)
    features.keep(model)
    runs: list[int] = []
    model.roberta.encoder.layer[0].attention.register_forward_hook(lambda *_: runs.append(1))
    rows = Encoded("classification", [[4, 5, 6]], None, [0], ["0"], 1, 0)
    latency.measure(model, rows, device="cpu", precision="float32")
    assert len(runs) == 2  # one to warm up; not looked up the second time


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


@pytest.mark.parametrize("how", ["changed", "trained"])
def test_frozen_layers_that_move_while_it_trains_are_found_out(how):
    from harness import features

    model = small("roberta").requires_grad_(False)
    model.roberta.encoder.layer[2].requires_grad_(True)
    features.keep(model)
    features.check(model)
    first = model.roberta.encoder.layer[0]
    if how == "changed":
        first.output.dense.weight.data.add_(0.5 * torch.randn_like(first.output.dense.weight))
    else:
        first.requires_grad_(True)
    with pytest.raises(ConfigError, match="gave other states at the end of training than at its beginning"):
        features.check(model)


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
