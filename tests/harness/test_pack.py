"""Packed runs: the losses of the runs alone, records that say what they are, and a refusal of what cannot be packed."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from harness import cells, compose, identity, pack, ranges, record, run
from harness.errors import ConfigError, HarnessError
from harness.identity import run_id
from harness.joint import padded
from harness.run import Plan
from harness.wanted import Wanted

SHORT = [
    "train.max_steps=50", "train.batch_size=4", "train.evaluate_every_epochs=null", "data.max_train_rows=64",
    "data.max_eval_rows=16", "preflight.enabled=false", "progress=false", "wandb.mode=disabled", "threads=1",
]  # fmt: skip
NO_DROPOUT = [f"+model.config.{name}=0" for name in ("hidden_dropout_prob", "attention_probs_dropout_prob")]
LR = "train.learning_rate={}"


def plans(root: Path, words: list[str], *, packed: bool, rates: tuple[float, ...] = (3e-3, 1e-3)) -> list[Plan]:
    """Two runs that differ in seed and learning rate."""
    shared = [*SHORT, *words, f"results.root={root}", *(["pack=2"] if packed else [])]
    return [run.plan(compose.composed([*shared, f"seed={seed}", LR.format(rate)])) for seed, rate in enumerate(rates)]


def together(wanted: list[Plan]) -> list[int]:
    """All of them as one pack, in this process."""
    by_id = {one.id: one for one in wanted}

    def work(seat) -> None:
        run.run(by_id[seat.run], seat)

    return pack.together(list(by_id), work)


def losses(wanted: list[Plan]) -> list[list[float]]:
    return [read(one).science["losses"] for one in wanted]


def read(one: Plan):
    found = record.read(one.folder)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("model", "method"),
    [
        ("demo_deberta", "lora"),
        ("demo_roberta", "bitfit"),
        *(
            pytest.param(model, method, marks=pytest.mark.slow)
            for model, method in [
                ("demo_deberta", "houlsby"),
                ("demo_deberta", "bitfit"),
                ("demo_deberta", "adalora"),
                ("demo_roberta", "lora"),
                ("demo_roberta", "pfeiffer"),
            ]
        ),
    ],
)
def test_losses_are_those_of_the_runs_alone(model, method, tmp_path):
    words = [f"model={model}", f"method={method}", *NO_DROPOUT]
    packed, solo = plans(tmp_path, words, packed=True), plans(tmp_path, words, packed=False)
    assert together(packed) == [0, 0]
    for one in solo:
        run.run(one)
    ours, theirs = torch.tensor(losses(packed)), torch.tensor(losses(solo))
    assert ours.shape == (2, 50)
    assert not torch.allclose(theirs[0], theirs[1], atol=1e-2)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


REFUSED = [
    (["method=ia3"], "method ia3 cannot be batched"),
    (["train.loss_reduction=sum"], "train.loss_reduction=sum works on one run at a time"),
    (["method=full"], "method full cannot be batched"),
    (["method=qlora"], "cannot be batched"),
    (["task=demo/summarization", "model=demo_t5"], "model demo_t5 cannot be batched"),
    (["model=demo_bart"], "model demo_bart cannot be batched"),
    (["model.attention=fused"], "fused attention"),
    (["quantization=nf4"], "quantization=nf4"),
    (["train.compile=true"], "train.compile=true"),
    (["train.gradient_checkpointing=true"], "train.gradient_checkpointing=true"),
]


def wanted(words: list[str]) -> Wanted:
    config = compose.composed(words)
    return Wanted(f"run-{words}", config, tuple(words))


@pytest.mark.parametrize(("words", "said"), REFUSED, ids=lambda part: "-".join(part) if isinstance(part, list) else "")
def test_what_cannot_be_packed_is_refused_in_one_message(words, said):
    with pytest.raises(ConfigError, match=r"^pack=2: .*leave pack away$") as found:
        pack.check([wanted([*words, "pack=2"])], here=True)
    assert said in str(found.value)
    pack.check([wanted(words)], here=True)


def test_a_launcher_that_makes_no_packs_is_refused():
    with pytest.raises(ConfigError, match="hydra/launcher=local"):
        pack.check([wanted(["pack=2"])], here=False)


def test_a_run_alone_is_no_pack():
    with pytest.raises(ConfigError, match="add -m"):
        pack.alone(compose.composed(["pack=2"]))
    with pytest.raises(ConfigError, match="pack"):
        compose.composed(["pack=0"])


def test_a_pack_holds_runs_that_differ_in_seed_and_rate_alone():
    words = [
        [f"method={method}", f"seed={seed}", LR.format(rate), "pack=3"]
        for method in ("lora", "bitfit") for rate in (1e-3, 2e-3) for seed in (0, 1)
    ]  # fmt: skip
    units = pack.units([wanted(one) for one in words])
    assert [len(unit) for unit in units] == [3, 1, 3, 1]
    assert [{one.config.method["name"] for one in unit} for unit in units] == [
        {"lora"},
        {"lora"},
        {"bitfit"},
        {"bitfit"},
    ]
    assert [len(unit) for unit in pack.units([wanted([f"seed={seed}"]) for seed in range(3)])] == [1, 1, 1]


def ended(wanted: list[Plan]) -> list[str]:
    return [read(one).state for one in wanted]


def test_a_run_that_diverges_takes_no_other_along(tmp_path, monkeypatch):
    monkeypatch.setitem(ranges.BOUNDS, "train.learning_rate", (0, 1e39))  # the largest allowed one diverges too late
    words = ["method=bitfit", *NO_DROPOUT, "train.max_steps=8"]
    packed = plans(tmp_path, words, packed=True, rates=(1e38, 1e-3))
    solo = plans(tmp_path, words, packed=False)[1]
    by_id = {one.id: one for one in packed}

    def work(seat) -> None:
        try:
            run.run(by_id[seat.run], seat)
        except HarnessError as error:
            raise SystemExit(2) from error

    assert pack.together(list(by_id), work) == [2, 0]
    assert ended(packed) == ["DIVERGED", "DONE"]
    run.run(solo)
    assert losses(packed[1:])[0] == pytest.approx(read(solo).science["losses"], abs=1e-4)


def test_dropout_is_each_runs_own_and_a_record_says_that_it_is_packed(tmp_path):
    words = ["model=demo_roberta", "train.max_steps=4", "data.buckets=false"]
    packed, solo = plans(tmp_path, words, packed=True), plans(tmp_path, words, packed=False)
    assert together(packed) == [0, 0]
    again = plans(tmp_path / "again", words, packed=True)
    assert together(again) == [0, 0]
    assert (
        read(packed[0]).science["losses"] == read(again[0]).science["losses"]
    )  # with the same partners, the same bits
    for one, other in (packed, packed[::-1]):
        stored = read(one)
        assert ".packed.s" in one.id and stored.id == one.id
        assert stored.identity["packed"] is True and pack.REMARK in stored.remarks
        assert stored.provenance["packed_with"] == [other.id]
    assert "packed" not in solo[0].identity
    assert len({identity.group({**one.identity, "train": None}) for one in packed}) == 1
    assert identity.group(packed[0].identity) != identity.group(solo[0].identity)
    stored = read(packed[0])
    alone = {name: value for name, value in stored.identity.items() if name != "packed"}
    kinds = [stored.identity | {"seed": 7}, stored.identity, alone | {"seed": 7}, alone]
    shown, _ = cells.gather([replace(stored, id=run_id(kind), identity=kind) for kind in kinds], stale=lambda _: [])
    assert [len(one.scores) for one in shown] == [2, 2]  # packed ones are averaged, and not with the others
    assert {one.row.settings for one in shown} == {"packed=true", "packed=unset"}
    five = compose.composed([*SHORT, *words, f"results.root={tmp_path}", "pack=5", "seed=0", LR.format(3e-3)])
    assert run.plan(five).id == packed[0].id  # how many came together is no part of what a run is


def test_a_signal_ends_every_run_of_a_pack_and_the_next_attempt_makes_them(tmp_path):
    packed = plans(tmp_path, ["method=bitfit", "train.max_steps=2"], packed=True)
    by_id = {one.id: one for one in packed}

    def stopped(seat) -> None:
        seat.pack.interrupt.number = signal.SIGTERM
        run.run(by_id[seat.run], seat)

    assert pack.together(list(by_id), stopped) == [128 + signal.SIGTERM] * 2
    assert ended(packed) == ["PREEMPTED", "PREEMPTED"]
    assert not any((one.folder / "checkpoints").exists() for one in packed)
    assert together(packed) == [0, 0]
    assert ended(packed) == ["DONE", "DONE"]


def test_batches_of_unlike_shape_are_padded_to_one():
    short = {"input_ids": torch.tensor([[5, 6]]), "attention_mask": torch.tensor([[1, 1]])}
    long = {"input_ids": torch.tensor([[5, 6, 7], [8, 1, 1]]), "attention_mask": torch.tensor([[1, 1, 1], [1, 0, 0]])}
    both = padded([short, long], pad_token=1)
    assert both["input_ids"].tolist() == [[[5, 6, 1], [1, 1, 1]], [[5, 6, 7], [8, 1, 1]]]
    assert both["attention_mask"].tolist() == [[[1, 1, 0], [1, 0, 0]], [[1, 1, 1], [1, 0, 0]]]
