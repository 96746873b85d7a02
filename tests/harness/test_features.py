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


@pytest.mark.parametrize("model", ["demo_deberta", "demo_roberta"])
def test_losses_and_scores_are_those_of_a_backbone_that_is_run_every_time(model, tmp_path):
    words = [f"model={model}", *NO_DROPOUT]
    kept, plain = (run.run(plan(tmp_path, *words, *more)) for more in ([KEPT], []))
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


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["method=lora"], "needs a frozen backbone (method=head); this method trains"),
        *(([f"method={name}"], "needs a frozen backbone") for name in ("bitfit", "houlsby")),
        (["model=demo_bart"], "the head of a bart model reads more than the first token"),
    ],
)
def test_what_cannot_be_fed_with_kept_features_is_refused(words, said, tmp_path):
    with pytest.raises(ConfigError) as found:
        run.run(plan(tmp_path, *words, KEPT, "preflight.enabled=false"))
    assert said in str(found.value)
    assert "train.cache_features=true" in str(found.value)


def test_the_backbone_sees_a_text_once_whatever_its_padding():
    from harness.features import Kept

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
