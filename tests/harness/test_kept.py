"""What is kept of texts: no more than that, as it was, in the room that there is; and forgotten, and found out."""

from __future__ import annotations

import pytest
import torch
from made import small_classifier as small

from harness.errors import ConfigError


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
