"""BitFit: exactly the biases, in the numbers that were published."""

import peft
import pytest
import torch
import transformers as tf
from tiny import batch, build, logits, randomise

from methods.selective.bitfit import BitFitConfig

DEBERTA_V3_BASE = dict(
    hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072, vocab_size=128100,
    relative_attention=True, position_buckets=256, norm_rel_ebd="layer_norm", share_att_key=True,
    pos_att_type=["p2c", "c2p"], position_biased_input=False, type_vocab_size=0, max_relative_positions=-1,
)  # fmt: skip
ROBERTA_BASE = dict(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1)
T5_BASE = dict(d_model=768, d_ff=3072, num_layers=12, num_heads=12)
PUBLISHED = [
    (tf.DebertaV2ForSequenceClassification, tf.DebertaV2Config(**DEBERTA_V3_BASE), ["pooler", "classifier"], 102_912),
    (tf.RobertaForSequenceClassification, tf.RobertaConfig(**ROBERTA_BASE), ["classifier"], 102_144),
    (tf.BartForSequenceClassification, tf.BartConfig(), ["classification_head"], 333_824),
    (tf.BartForConditionalGeneration, tf.BartConfig(), None, 333_824),
    (tf.T5ForConditionalGeneration, tf.T5Config(**T5_BASE), None, 202_752),
]


@pytest.mark.parametrize(("model_cls", "config", "head", "expected"), PUBLISHED)
def test_counts(model_cls, config, head, expected):
    with torch.device("meta"):
        task = "SEQ_CLS" if head else "SEQ_2_SEQ_LM"
        arguments = {"task_type": task, "modules_to_save": head, "add_missing": model_cls.__name__.startswith("T5")}
        model = peft.get_peft_model(model_cls(config), BitFitConfig(**arguments))
    adapter = [parameter for name, parameter in model.named_parameters() if ".bitfit_." in name]
    assert sum(parameter.numel() for parameter in adapter) == expected


def test_t5_needs_a_decision():
    with pytest.raises(ValueError, match=r"finds no biases.*add_missing=True"):
        peft.get_peft_model(build("t5"), BitFitConfig(task_type="SEQ_CLS"))


def test_relative_attention_bias_is_no_bias():
    model = peft.get_peft_model(build("t5"), BitFitConfig(task_type="SEQ_CLS", add_missing=True))
    assert not [name for name in model.base_model.adapter() if "relative_attention_bias" in name]


@pytest.mark.parametrize("family", ["deberta", "roberta", "bart"])
def test_add_missing_changes_nothing_where_there_are_biases(family):
    models = [peft.get_peft_model(build(family), BitFitConfig(task_type="SEQ_CLS", add_missing=add)) for add in (0, 1)]
    assert models[0].base_model.adapter().keys() == models[1].base_model.adapter().keys()


def test_it_equals_training_the_biases_in_place():
    """The oracle: the same values written straight into the backbone."""
    model, plain = randomise(peft.get_peft_model(build("roberta"), BitFitConfig(task_type="SEQ_CLS"))), build("roberta")
    head = model.base_model.model.classifier.modules_to_save["default"].state_dict()
    plain.classifier.load_state_dict(head)
    trained = {key.removesuffix("/bias").replace("/", "."): part.form.value for key, part in adapter_items(model)}
    assert trained.keys() == {name.removesuffix(".bias") for name, _ in plain.roberta.named_parameters("roberta")
                              if name.endswith("bias")}  # fmt: skip
    with torch.no_grad():
        for path, value in trained.items():
            plain.get_submodule(path).bias.copy_(value)
    inputs = batch("roberta")
    assert torch.equal(logits(plain, inputs), logits(model, inputs))


def adapter_items(model):
    return model.base_model.adapter().items()
