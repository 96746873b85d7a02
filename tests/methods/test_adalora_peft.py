"""peft's own AdaLoRA: driven as it asks to be, and where it agrees with the authors' and where not."""

import itertools

import peft
import pytest
import torch
import transformers
from oracles import oracle, tensor
from tiny import Case, batch, build, logits, rows
from tiny import train as train_tiny
from torch.nn.functional import cross_entropy
from torch.testing import assert_close
from toys import Chain

from methods import hooks
from methods.reparameterized.adalora import AdaLoRAConfig

SHAPES = {"b_q": (4, 4), "a_fc1": (6, 4), "d_fc2": (4, 6), "c_v": (4, 4)}


def pair(final, warmup=4, interval=3):
    """peft's and ours on the same layers, ready for scripted gradients: hooks, and E, A, B of every layer."""
    theirs = peft.get_peft_model(
        Chain(SHAPES).double(),
        peft.AdaLoraConfig(
            target_modules=list(SHAPES),
            init_r=3,
            target_r=1,
            tinit=warmup,
            tfinal=final,
            deltaT=interval,
            total_step=99,
        ),
    )
    ours = peft.get_peft_model(
        Chain(SHAPES).double(),
        AdaLoRAConfig(
            target_modules=list(SHAPES), init_rank=3, target_rank=1, warmup_steps=warmup, final_steps=final,
            interval_steps=interval,
        ),
    )  # fmt: skip
    made = []
    for model in (theirs.double(), ours.double()):
        hook = hooks.find(model)
        if model is theirs:
            kinds = {kind: list(hook.parameters(f"lora_{kind}").values()) for kind in "EAB"}
        else:
            kinds = {kind: [getattr(form, kind) for form in hook.forms()] for kind in "EAB"}
        made.append((hook, kinds))
    return made


def survivors(made, scripted, total):
    """After every step: which singular values are not zero, theirs and ours."""
    for hook, _ in made:
        hook.on_train_begin(total)
    for step in range(total):
        found = []
        for hook, kinds in made:
            for kind, place in itertools.product("EAB", range(len(SHAPES))):
                weight, gradient = scripted[step][kind, place]
                kinds[kind][place].data, kinds[kind][place].grad = weight.clone(), gradient.clone()
            hook.on_optimizer_step(step)
            found.append([(value != 0).flatten().tolist() for value in kinds["E"]])
        yield step, found


def random_script(total):
    draw, script = torch.Generator().manual_seed(0), []
    for _ in range(total):
        step = {}
        for place, (outputs, inputs) in enumerate(SHAPES.values()):
            for kind, shape in (("E", (3, 1)), ("A", (3, inputs)), ("B", (outputs, 3))):
                step[kind, place] = tuple(torch.randn(*shape, generator=draw, dtype=torch.float64) for _ in "wg")
        script.append(step)
    return script


@pytest.mark.parametrize("final", [6, 7])
def test_masks_agree_but_for_one_step(final):
    """Everywhere, where the interval divides T - t_f (18); else peft masks at T - t_f (17) and the authors do not."""
    differing, masked = [], 0
    for step, (theirs, ours) in survivors(pair(final), random_script(24), 24):
        if theirs != ours:
            differing.append(step)
            assert sum(map(sum, theirs)) == 4 and sum(map(sum, ours)) == 12
        masked += sum(map(sum, ours)) < 12
    assert differing == ([] if final == 6 else [17])
    assert masked == (5 + 5 if final == 6 else 4 + 6)


def test_masks_over_static_vectors():
    """The authors' vectors: equal at every mask of theirs."""
    case = oracle("adalora_static.json")["cases"][0]
    assert case["modules_out_in"] == {name: list(shape) for name, shape in SHAPES.items()}
    made = pair(case["t_final"], case["t_init"], case["delta_t"])
    shapes = {kind: [value.shape for value in made[0][1][kind]] for kind in "EAB"}
    script = [
        {
            (kind, place): tuple(
                tensor(row[which][f"{name}.lora_{kind}"], shapes[kind][place]) / case["scale"] for which in "pg"
            )
            for kind, (place, name) in itertools.product("EAB", enumerate(SHAPES))
        }
        for row in case["steps"]
    ]
    compared = 0
    for step, (theirs, ours) in survivors(made, script, case["total_step"]):
        wanted = case["steps"][step].get("survive")
        if wanted is not None:
            assert theirs == ours == [[bool(alive) for alive in wanted[name]] for name in SHAPES]
            compared += 1
    assert compared == 10


def attach(**changes):
    torch.manual_seed(0)
    config = Case("adalora_peft", "deberta", "classification").config(**({"init_r": 4, "target_r": 2} | changes))
    return peft.get_peft_model(build("deberta"), config)


def test_penalty_is_what_peft_adds():
    model, inputs = attach(orth_reg_weight=0.7), batch("deberta")
    added = model(**inputs).loss - cross_entropy(logits(model, inputs), inputs["labels"])
    assert_close(hooks.find(model).penalty(), added)
    assert hooks.find(attach(orth_reg_weight=0.0)).penalty() is None


def test_the_number_of_steps_arrives():
    model = attach(tinit=0.15, tfinal=0.5)
    hooks.find(model).on_train_begin(50)
    config = model.peft_config["default"]
    assert (config.tinit, config.tfinal, config.total_step) == (7, 25, 50)
    model = attach(tinit=20, tfinal=30)
    with pytest.raises(ValueError, match="tinit=20 and tfinal=30 take all of the 50 training steps"):
        hooks.find(model).on_train_begin(50)
    with pytest.raises(ValueError, match="cannot keep init_r=2 triplets for target_r=2"):
        hooks.find(attach(init_r=2)).on_train_begin(50)


def test_pruned_saved_and_loaded(tmp_path):
    model, inputs = attach(deltaT=2), batch("deberta")
    assert hooks.find(model).active_params() == sum(
        p.numel() for name, p in model.named_parameters() if "lora_" in name and p.requires_grad
    )
    train_tiny(model, [inputs], 20)
    hook = hooks.find(model)
    ranks, expected = hook.trace()["ranks"], logits(model, inputs)
    assert sum(ranks.values()) == 24
    model.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(build("deberta"), tmp_path)
    assert_close(logits(again, inputs), expected)
    loaded = hooks.find(again)
    assert loaded.penalty() is None
    assert loaded.ranks() == ranks
    resumed = peft.PeftModel.from_pretrained(build("deberta"), tmp_path, is_trainable=True)
    train_tiny(resumed, [inputs], 20)  # already at its target: nothing more to prune
    assert sum(hooks.find(resumed).ranks().values()) == 24


def test_an_earlier_checkpoint_is_saved_as_it_is(tmp_path, monkeypatch):
    """select=best may go back to a time with other survivors than the last mask's."""
    model, inputs = attach(deltaT=2), batch("deberta")
    hook_type, kept = type(hooks.find(model)), {}
    allocate, end = hook_type.on_optimizer_step, hook_type.on_train_end

    def watch(self, step):
        allocate(self, step)
        if step == 7:
            kept.update({name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad})

    def restore(self):
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(kept.get(name, parameter))
        end(self)

    monkeypatch.setattr(hook_type, "on_optimizer_step", watch)
    monkeypatch.setattr(hook_type, "on_train_end", restore)
    train_tiny(model, [inputs], 20)
    assert sum(hooks.find(model).ranks().values()) > 24
    expected = logits(model, inputs)
    model.save_pretrained(tmp_path)
    assert_close(logits(peft.PeftModel.from_pretrained(build("deberta"), tmp_path), inputs), expected)


@pytest.mark.parametrize("driven", [True, False])
def test_trainer(tmp_path, driven):
    """With the callback the budget is met; without it nothing is pruned, and nobody says so."""
    model = attach(deltaT=2)
    arguments = transformers.TrainingArguments(
        tmp_path, max_steps=12, per_device_train_batch_size=4, learning_rate=1e-2, report_to=[], use_cpu=True,
        save_strategy="no", logging_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    callbacks = [hooks.HooksCallback()] if driven else []
    transformers.Trainer(model, arguments, train_dataset=rows("deberta"), callbacks=callbacks).train()
    assert sum(hooks.find(model).ranks().values()) == (24 if driven else 48)
