"""Tokens as the tokenizer gives them; every row once an epoch, in the same order for the same seed; padding."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.data import Encoded, collate, encode, epoch_batches, sorted_batches
from harness.errors import ConfigError, DataError, ModelError
from harness.paths import embedded
from harness.task import Split

TEXTS = ["a cat sat on the mat", "dogs", "the the the the the the the the the", "x y z"]
PAIRS = ["b", "a dog slept near a cat and a bird", "no", "the"]


@pytest.fixture(scope="module")
def tokenizers():
    from transformers import AutoTokenizer

    return {name: AutoTokenizer.from_pretrained(embedded(f"embedded:backbones/{name}")) for name in ("deberta", "bart")}


def split(targets, pairs=PAIRS) -> Split:
    return Split([str(at) for at in range(len(TEXTS))], TEXTS, pairs, targets)


def encoded(tokenizer, targets=(0, 1, 0, 1), kind="classification", pairs=PAIRS, **lengths) -> Encoded:
    limits = {"max_length_tokens": 128, "max_target_tokens": 32} | lengths
    return encode(split(list(targets), pairs), tokenizer, kind=kind, **limits)


@pytest.mark.parametrize("name", ["deberta", "bart"])
@pytest.mark.parametrize("pairs", [PAIRS, None])
@pytest.mark.parametrize("limit", [128, 8])
def test_rows_are_what_the_tokenizer_says_of_each_alone(tokenizers, name, pairs, limit):
    found = encoded(tokenizers[name], pairs=pairs, max_length_tokens=limit)
    truncated = 0
    for at, text in enumerate(TEXTS):
        words = (text,) if pairs is None else (text, pairs[at])
        alone = tokenizers[name](*words, truncation=True, max_length=limit)
        assert list(found.input_ids[at]) == alone.input_ids
        if "token_type_ids" in alone:
            assert list(found.token_type_ids[at]) == alone.token_type_ids
        truncated += len(tokenizers[name](*words).input_ids) > limit
    assert (found.token_type_ids is None) == (name == "bart")
    assert found.truncated_rows == truncated
    assert truncated or limit == 128
    assert found.lengths.tolist() == [len(ids) for ids in found.input_ids]
    assert len(found) == len(TEXTS)


@pytest.mark.parametrize(("limit", "pairs"), [(1, PAIRS), (3, PAIRS), (2, None)])
def test_a_limit_that_special_tokens_take_up_is_refused(tokenizers, limit, pairs):
    with pytest.raises(ConfigError, match=rf"data\.max_length_tokens={limit} .* allowed: {4 if pairs else 3} and more"):
        encoded(tokenizers["deberta"], pairs=pairs, max_length_tokens=limit)
    with pytest.raises(ConfigError, match=r"data\.max_target_tokens=2 "):
        encoded(tokenizers["bart"], PAIRS, "generation", None, max_target_tokens=2)
    assert encoded(tokenizers["deberta"], pairs=PAIRS, max_length_tokens=4).truncated_rows == len(TEXTS)


def test_the_number_of_chunks_does_not_matter(tokenizers, monkeypatch):
    whole = encoded(tokenizers["deberta"])
    monkeypatch.setattr("harness.data.CHUNK_ROWS", 3)
    parts = encoded(tokenizers["deberta"])
    assert [row.tolist() for row in parts.input_ids] == [row.tolist() for row in whole.input_ids]
    assert [row.tolist() for row in parts.token_type_ids] == [row.tolist() for row in whole.token_type_ids]


def test_text_targets_are_tokens_and_their_truncation_counts(tokenizers):
    bart = tokenizers["bart"]
    found = encoded(bart, PAIRS, "generation", None)
    assert [list(row) for row in found.targets] == [bart(text_target=text).input_ids for text in PAIRS]
    assert found.truncated_rows == 0
    assert encoded(bart, PAIRS, "generation", None, max_target_tokens=4).truncated_rows >= 1
    batch = collate(found, [0, 1])
    width = len(found.targets[1])
    assert batch["labels"].shape == (2, width)
    assert batch["labels"].dtype == torch.int64
    assert batch["labels"][0].tolist() == [*found.targets[0], *[-100] * (width - len(found.targets[0]))]


@pytest.mark.parametrize("name", ["deberta", "bart"])
def test_a_batch_is_what_the_tokenizer_pads(tokenizers, name):
    found, tokenizer = encoded(tokenizers[name]), tokenizers[name]
    rows = [2, 0, 1]
    batch = collate(found, np.array(rows))
    alone = [tokenizer(TEXTS[row], PAIRS[row]) for row in rows]
    padded = tokenizer.pad([dict(one) for one in alone], return_tensors="pt")
    assert batch.keys() - {"labels"} == padded.keys()
    for key, tensor in padded.items():
        assert torch.equal(batch[key], tensor)
        assert batch[key].dtype == torch.int64
    assert torch.equal(batch["labels"], torch.tensor([0, 0, 1]))


def test_labels_have_the_type_that_their_loss_needs(tokenizers):
    assert collate(encoded(tokenizers["deberta"]), [0])["labels"].dtype == torch.int64
    scores = encoded(tokenizers["deberta"], (0.5, 3.8, 1.0, 5.0), "regression")
    labels = collate(scores, [1, 0])["labels"]
    assert labels.dtype == torch.float32
    assert labels.tolist() == pytest.approx([3.8, 0.5])


def test_plain_lists_do_too():
    rows = Encoded("classification", [[5], [6, 7]], None, [1, 0], ["0", "1"], 9, 0)
    assert collate(rows, [0, 1])["input_ids"].tolist() == [[5, 9], [6, 7]]
    assert collate(rows, [0, 1])["attention_mask"].tolist() == [[1, 0], [1, 1]]


@pytest.mark.parametrize(("multiple", "width"), [(1, 2), (2, 2), (3, 3), (4, 4), (8, 5)])
def test_batches_are_padded_to_a_multiple_but_no_further_than_the_longest_row(multiple, width):
    rows = Encoded("generation", [[5], [6, 7], [1] * 5], None, [[1], [2, 3], [4] * 5], ["0", "1", "2"], 9, 0)
    batch = collate(rows, [0, 1], multiple)
    assert {name: tensor.shape for name, tensor in batch.items()} == dict.fromkeys(batch, (2, width))
    assert batch["attention_mask"].sum() == 3 and (batch["labels"] >= 0).sum() == 3


def test_an_empty_text_and_a_tokenizer_without_padding_are_refused(tokenizers, monkeypatch):
    empty = Split(["17"], [" "], None, [0])
    limits = {"kind": "classification", "max_length_tokens": 8, "max_target_tokens": 8}
    with pytest.raises(DataError, match="row 17 has an empty text"):
        encode(empty, tokenizers["deberta"], **limits)

    class Bare:
        pad_token_id = None
        name_or_path = "me/backbone"

    with pytest.raises(ModelError, match="me/backbone has no padding token"):
        encode(split([0, 1, 0, 1]), Bare(), **limits)


LENGTHS = st.lists(st.integers(1, 40), max_size=700)
PLAN = {"seed": st.integers(0, 2**32), "epoch": st.integers(0, 5), "buckets": st.booleans()}


@given(lengths=LENGTHS, batch_size=st.integers(1, 9), **PLAN)
def test_every_row_once_in_batches_of_one_size(lengths, batch_size, seed, epoch, buckets):
    batches = epoch_batches(lengths, batch_size, seed=seed, epoch=epoch, buckets=buckets)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert len(batches) == -(-len(lengths) // batch_size)
    again = epoch_batches(np.array(lengths), batch_size, seed=seed, epoch=epoch, buckets=buckets)
    assert [batch.tolist() for batch in again] == [batch.tolist() for batch in batches]


def test_order_depends_on_seed_and_epoch_and_on_no_other_generator():
    def order(seed: int, epoch: int, buckets: bool = True) -> list[int]:
        random.seed(len(seen))
        np.random.seed(len(seen))
        torch.manual_seed(len(seen))
        found = epoch_batches([1 + at % 30 for at in range(500)], 8, seed=seed, epoch=epoch, buckets=buckets)
        return np.concatenate(found).tolist()

    seen: list[list[int]] = []
    for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1)):
        for buckets in (True, False):
            seen.append(order(seed, epoch, buckets))
            assert order(seed, epoch, buckets) == seen[-1]
    assert len({tuple(one) for one in seen}) == len(seen)


def test_the_order_is_the_same_on_every_machine_and_version():
    order = np.concatenate(epoch_batches([1] * 10, 4, seed=0, epoch=0, buckets=False))
    assert order.tolist() == [
        3,
        2,
        1,
        8,
        6,
        0,
        7,
        4,
        5,
        9,
    ]


def test_buckets_spare_padding_and_keep_batches_random():
    lengths = np.random.default_rng(0).integers(1, 100, 5000)

    def padded(batches: list[np.ndarray]) -> float:
        return sum(lengths[batch].max() * len(batch) for batch in batches) / lengths.sum()

    bucketed = epoch_batches(lengths, 32, seed=0, epoch=0, buckets=True)
    assert padded(bucketed) < 1.05 < 1.5 < padded(epoch_batches(lengths, 32, seed=0, epoch=0, buckets=False))
    means = np.array([lengths[batch].mean() for batch in bucketed])
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.3, "neighbouring batches do not grow in length"
    # Were the smaller last batch cut from sorted rows, it would hold the longest of them.
    last = [lengths[epoch_batches(lengths, 32, seed=seed, epoch=0, buckets=True)[-1]].mean() for seed in range(40)]
    assert abs(np.mean(last) - lengths.mean()) < 8


@given(LENGTHS, st.integers(1, 9))
def test_evaluation_takes_the_longest_first(lengths, batch_size):
    order = [row for batch in sorted_batches(lengths, batch_size) for row in batch]
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[row] for row in order] == sorted(lengths, reverse=True)


def test_a_row_that_is_too_long_takes_its_shorter_text(tokenizers):
    words = ["a " * 40, "a " * 6, "a"]
    rows = Split(
        ["0", "1", "2"], [words[0], words[1], words[0]], None, [0, 0, 0], shorter=[words[1:], words[1:], [words[0]] * 2]
    )
    found = encode(rows, tokenizers["deberta"], kind="classification", max_length_tokens=12, max_target_tokens=4)
    alone = [
        tokenizers["deberta"](text, truncation=True, max_length=12).input_ids for text in (words[1], words[1], words[0])
    ]
    assert [list(row) for row in found.input_ids] == alone
    assert found.truncated_rows == 1, "only the row whose shortest text is too long"


def test_the_splits_longest_row_is_asked_once_and_not_by_every_batch():
    class Counted(list):
        asked = 0

        def __iter__(self):
            Counted.asked += 1
            return super().__iter__()

    rows = Encoded("classification", Counted([[1] * size for size in (3, 5, 9)]), None, [0, 1, 0], list("abc"), 0, 0)
    widths = [collate(rows, [0, 1], 8)["input_ids"].shape[1] for _ in range(4)]
    assert widths == [8] * 4 and Counted.asked == 1
    assert collate(rows, [2], 8)["input_ids"].shape[1] == 9
