"""BitFit: exactly the biases."""

import peft
import pytest
import torch
import transformers as tf
from tiny import batch, build, logits, randomise

from methods.selective.bitfit import BitFitConfig


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


def test_berts_pooler_belongs_to_the_head():
    """It lies inside the backbone, and `modules_to_save` names it."""
    sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, vocab_size=50)
    bert = tf.BertForSequenceClassification(tf.BertConfig(**sizes))
    model = peft.get_peft_model(bert, BitFitConfig(task_type="SEQ_CLS", modules_to_save=["pooler"]))
    names = list(model.base_model.adapter())
    assert names and not [name for name in names if "pooler" in name]


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
