"""Lean attention against transformers' own: outputs and every gradient, wherever the two could part."""

from types import SimpleNamespace

import peft
import pytest
import torch
from lean import VARIANTS, batch, outcome, pair
from torch.testing import assert_close

from methods import attention, disentangled


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("length", [1, 2, 4, 9, 40])  # 4: every distance has a row of its own; 9 and 40: buckets share
def test_outputs_and_gradients_are_those_of_transformers(variant, length, fused):
    original, lean = pair(fused=fused, **VARIANTS[variant])
    inputs = batch(length)
    if variant == "convolution" and length == 1:
        inputs["attention_mask"].fill_(1)
    expected, gradients = outcome(original, inputs)
    found, ours = outcome(lean, inputs)
    assert_close(found.last_hidden_state, expected.last_hidden_state, rtol=0, atol=1e-6)
    assert ours.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert_close(ours[name], gradient, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


def test_lora_on_the_projections_is_respected():
    original, lean = pair(lora=True)
    expected, gradients = outcome(original, batch(9))
    found, ours = outcome(lean, batch(9))
    assert_close(found.last_hidden_state, expected.last_hidden_state, rtol=0, atol=1e-6)
    assert len(ours) == 2 * 3 * 2 and all(gradient.abs().max() > 1e-3 for gradient in ours.values())
    for name, gradient in gradients.items():
        assert_close(ours[name], gradient, rtol=1e-5, atol=1e-5)
    with lean.disable_adapter(), original.disable_adapter():
        without = lean(**batch(9)).last_hidden_state
        assert_close(without, original(**batch(9)).last_hidden_state, rtol=0, atol=1e-6)
    assert not torch.allclose(without, found.last_hidden_state, atol=1e-2)


def test_the_projections_are_called_as_often_and_in_the_same_order():
    def calls(model):
        seen = []
        for name, module in model.named_modules():
            if name.endswith("_proj"):
                module.register_forward_hook(lambda *args, name=name: seen.append(name))
        model(**batch(9))
        return seen

    original, lean = pair()
    assert calls(lean) == calls(original)


def test_no_matrix_of_distances_is_made_since_a_gpu_would_be_waited_for(monkeypatch):
    original, lean = pair()
    expected = original(**batch(9)).last_hidden_state

    def made(*args, **options):
        raise AssertionError("made")

    monkeypatch.setattr("transformers.models.deberta_v2.modeling_deberta_v2.build_relative_position", made)
    with pytest.raises(AssertionError, match="made"):
        original(**batch(9))
    assert_close(lean(**batch(9)).last_hidden_state, expected, rtol=0, atol=1e-6)


def test_weights_of_attention_are_returned_on_request():
    original, lean = pair()
    expected = original(**batch(9), output_attentions=True).attentions
    for fused in (False, True):
        attention.lean(lean, fused=fused)
        for ours, theirs in zip(lean(**batch(9), output_attentions=True).attentions, expected, strict=True):
            assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_fused_attention_on_a_gpu_without_triton_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs triton"):
        attention.lean(pair()[1], fused=True)


@pytest.mark.parametrize("dtype, kernel", [(torch.bfloat16, True), (torch.float32, True), (torch.float64, False)])
def test_what_a_gpu_cannot_multiply_in_the_kernel_is_not_given_to_it(dtype, kernel):
    assert disentangled.by_kernel(SimpleNamespace(is_cuda=True, dtype=dtype)) is kernel


def test_float32_at_the_width_of_deberta_v3():
    original, lean = pair(
        dtype=torch.float32, hidden_size=768, num_attention_heads=12, intermediate_size=64, initializer_range=0.05,
        max_position_embeddings=512, position_buckets=256,
    )  # fmt: skip
    with torch.no_grad():
        expected, found = (model(**batch(33)).last_hidden_state for model in (original, lean))
    assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "name, rate", [("dropout", "attention_probs_dropout_prob"), ("pos_dropout", "hidden_dropout_prob")]
)
def test_dropout_is_equal_in_law(name, rate):
    """Means over many draws agree: of the output, and of its square (which a missing or doubled dropout would move)."""
    original, lean = pair(**{rate: 0.3}, num_hidden_layers=2, dtype=torch.float32)
    moments = []
    for model in (original, lean):
        module = model.encoder.layer[0].attention.self.train()
        others = "pos_dropout" if name == "dropout" else "dropout"
        getattr(module, others).eval()
        torch.manual_seed(3)
        states, table = torch.randn(1, 6, 16), torch.randn(16, 16)
        mask = torch.ones(1, 1, 6, 6)
        torch.manual_seed(4)
        with torch.no_grad():
            draws = torch.stack([module(states, mask, rel_embeddings=table)[0] for _ in range(1500)])
        moments.append((draws.mean(0), draws.var(0)))
    (mean, variance), (our_mean, our_variance) = moments
    assert variance.min() > 0
    assert ((our_mean - mean).abs() < 5 * (2 * variance / 1500).sqrt() + 1e-6).all()
    assert abs((our_variance / variance).log().mean()) < 0.05


def test_gradient_checkpointing_gives_the_same_gradients():
    _, lean = pair()
    plain = outcome(lean.train(), batch(9))[1]
    lean.gradient_checkpointing_enable()
    for name, gradient in outcome(lean, batch(9))[1].items():
        assert_close(gradient, plain[name])


def test_the_skew_reads_a_row_further_on_for_every_query():
    length = 5
    products = torch.arange(length * (2 * length - 1)).view(1, length, 2 * length - 1)
    for i in range(length):
        for j in range(length):
            assert disentangled.skew(products)[0, i, j] == products[0, i, length - 1 - i + j]


def test_a_position_is_projected_once_and_only_if_in_use():
    device = torch.device("cpu")
    rows, place = disentangled.distances(100, 256, 512, 256, device)
    assert len(rows) == 199 and place is None
    rows, place = disentangled.distances(512, 256, 512, 256, device)
    assert len(rows) == len(rows.unique()) < 512 and place.shape == (512, 512)


def test_another_number_of_queries_is_refused():
    _, lean = pair()
    module = lean.encoder.layer[0].attention.self
    with pytest.raises(ValueError, match="2 queries and 3 keys"):
        module(torch.zeros(1, 3, 16).double(), torch.ones(1, 1, 3, 3), query_states=torch.zeros(1, 2, 16).double())


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_branch_of_compiled_programs_is_the_same(variant, monkeypatch):
    plain, lean = pair(**VARIANTS[variant])
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    for length in (1, 23, 64):
        inputs = batch(length)
        theirs, ours = (outcome(model, inputs) for model in (plain, lean))
        assert_close(ours[0].last_hidden_state, theirs[0].last_hidden_state)
        assert_close(ours[1], theirs[1])


@pytest.mark.parametrize("length", [5, 6, 40])  # with 8 buckets, distances from 5 on share rows
def test_distances_that_share_a_row_lose_the_same_of_it_in_a_compiled_program_too(monkeypatch, length):
    """To the table's dropout, and to that of an adapter on the projections."""
    _, lean = pair(lora=True, hidden_dropout_prob=0.5)
    for module in lean.modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            module.lora_dropout["default"] = torch.nn.Dropout(0.5)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    seen, spread = [], disentangled.LeanDisentangled._spread
    monkeypatch.setattr(
        disentangled.LeanDisentangled,
        "_spread",
        staticmethod(lambda states, table, place: seen.append(table) or spread(states, table, place)),
    )
    lean.train()(**batch(length))
    module = lean.get_base_model().encoder.layer[0].attention.self
    rows = disentangled.positions(
        length, module.position_buckets, module.max_relative_positions, module.pos_ebd_size, "cpu"
    )
    assert seen[0].shape[1] == seen[1].shape[1] == 2 * length - 1
    shared = [place for place in range(1, len(rows)) if rows[place] == rows[place - 1]]
    assert bool(shared) == (length == 40)
    for table in (seen[0], seen[1].flip(1)):
        assert all(torch.equal(table[:, place], table[:, place - 1]) for place in shared)
        assert not torch.equal(table[:, 0], table[:, length - 1])


@pytest.mark.parametrize("buckets, reach", [(8, 12), (8, 64), (256, 512), (32, 512), (-1, 12), (0, 40), (7, 20)])
def test_a_length_that_may_share_no_rows_shares_none(buckets, reach):
    span = buckets if buckets > 0 else reach
    for length in range(1, 140):
        place = disentangled.falling(length, buckets, reach, span, torch.device("cpu"))[1]
        assert disentangled.may_share(length, buckets, reach, span) or place is None, length
    assert not disentangled.may_share(2, buckets, reach, span)
