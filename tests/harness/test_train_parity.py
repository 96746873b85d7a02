"""The loop against transformers.Trainer on the very same batches, and accumulation against one big batch."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from settings import training
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    PrinterCallback,
    RobertaConfig,
    RobertaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from harness.config import TrainConfig
from harness.data import Encoded, collate, epoch_batches
from harness.train import train

SEED = 7
STEPS = 20
SETTINGS = training(
    learning_rate=1e-3,
    epochs=1,
    max_steps=STEPS,
    batch_size=8,
    accumulation_steps=1,
    optimizer="adamw",
    warmup_steps=0,
    warmup_ratio=0.0,
    schedule="linear",
    weight_decay=0.01,
    adam_beta1=0.9,
    adam_beta2=0.999,
    adam_epsilon=1e-8,
    clip_norm=1.0,
    label_smoothing=0.0,
    precision="float32",
    select="last",
    evaluate_every_epochs=None,
)
SMALL = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


def encoded(kind: str, ids: list[list[int]], targets: list) -> Encoded:
    names = [str(row) for row in range(len(ids))]
    return Encoded(
        kind=kind, input_ids=ids, token_type_ids=None, targets=targets, ids=names, pad_token_id=0, truncated_rows=0
    )


def classification(rows: int = 60) -> Encoded:
    """Unequal lengths; 60 rows in batches of 8 leave 4 for the last."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(3, 12, (rows,), generator=generator).tolist()
    ids = [torch.randint(4, 50, (length,), generator=generator).tolist() for length in lengths]
    targets = torch.randint(0, 3, (rows,), generator=generator).tolist()
    return encoded("classification", ids, targets)


def text(rows: int = 32) -> Encoded:
    """Targets of very unequal length, so that a mean of micro-batch means is not the mean over tokens."""
    generator = torch.Generator().manual_seed(2)
    ids = [torch.randint(4, 50, (5 + row % 4,), generator=generator).tolist() for row in range(rows)]
    targets = [torch.randint(4, 50, (1 + (row * row) % 11,), generator=generator).tolist() for row in range(rows)]
    return encoded("generation", ids, targets)


def backbone(family: str) -> torch.nn.Module:
    torch.manual_seed(0)
    common = {
        "intermediate_size": 32,
        "num_labels": 3,
        "pad_token_id": 0,
        "max_position_embeddings": 40,
        "initializer_range": 0.3,
    }
    if family == "deberta":
        positions = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8}
        return DebertaV2ForSequenceClassification(DebertaV2Config(**SMALL, **common, **positions, cls_dropout=0.2))
    return RobertaForSequenceClassification(RobertaConfig(**SMALL, **common))


def with_method(model: torch.nn.Module, family: str, method: str) -> torch.nn.Module:
    if method == "full":
        return model
    torch.manual_seed(1)
    targets = {"deberta": ["query_proj", "value_proj"], "roberta": ["query", "value"]}[family]
    head = ["pooler", "classifier"] if family == "deberta" else ["classifier"]
    config = LoraConfig(r=4, lora_dropout=0.1, target_modules=targets, modules_to_save=head, task_type="SEQ_CLS")
    return get_peft_model(model, config)


class Batches:
    """The batches of our loop, for Trainer: anything with a length that can be walked is a data loader to it."""

    def __init__(self, encoded: Encoded, settings: TrainConfig) -> None:
        self.rows: list = []
        for epoch in range(STEPS):
            self.rows += epoch_batches(encoded.lengths, settings.batch_size, seed=SEED, epoch=epoch, buckets=True)
        self.encoded, self.rows = encoded, self.rows[:STEPS]

    def __len__(self):
        return len(self.rows)

    def __iter__(self):
        return (collate(self.encoded, rows) for rows in self.rows)


class Log(TrainerCallback):
    """Starts dropout where our loop starts it, and keeps the gradient norms before clipping."""

    def __init__(self) -> None:
        self.norms: list[float] = []

    def on_train_begin(self, args, state, control, **kwargs):
        torch.manual_seed(SEED)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "grad_norm" in logs:
            self.norms.append(float(logs["grad_norm"]))


class Fed(Trainer):
    """Trainer on given batches; its losses are kept unrounded."""

    def get_train_dataloader(self):
        return self.batches

    def training_step(self, *args, **kwargs):
        loss = super().training_step(*args, **kwargs)
        self.losses.append(float(loss))
        return loss


def by_trainer(model: torch.nn.Module, encoded: Encoded, folder: str) -> tuple[list[float], list[float]]:
    """Losses and gradient norms; the model is trained in place."""
    arguments = TrainingArguments(
        output_dir=folder,
        max_steps=STEPS,
        learning_rate=SETTINGS.learning_rate,
        weight_decay=SETTINGS.weight_decay,
        lr_scheduler_type="linear",
        max_grad_norm=SETTINGS.clip_norm,
        optim="adamw_torch_fused",  # its default, spelled out
        logging_steps=1,
        use_cpu=True,
        seed=SEED,
        save_strategy="no",
        disable_tqdm=True,
        report_to="none",
    )
    log = Log()
    trainer = Fed(model=model, args=arguments, callbacks=[log])
    trainer.remove_callback(PrinterCallback)
    trainer.batches, trainer.losses = Batches(encoded, SETTINGS), []
    trainer.train()
    return trainer.losses, log.norms


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("family", ["deberta", "roberta"])
def test_losses_and_parameters_are_those_of_transformers_trainer(family, method, tmp_path):
    """Dropout on, AdamW with decay, clipping, linear decay from the peak rate, a smaller last batch in every epoch.

    Equal to the bit, in fact, and it has to be close to that: a key's bias has no gradient but rounding noise, which
    AdamW blows up to whole steps.
    """
    rows = classification()
    model = with_method(backbone(family), family, method)
    their_model = copy.deepcopy(model)
    theirs, norms = by_trainer(their_model, rows, str(tmp_path))
    assert sum(norm > SETTINGS.clip_norm for norm in norms) > STEPS / 4, "clipping has to be at work"
    ours = train(model, rows, SETTINGS, seed=SEED, device="cpu", buckets=True, validate=None, main="accuracy")
    assert len(theirs) == ours.steps == STEPS
    assert ours.losses == pytest.approx(theirs, abs=1e-5)
    for (name, a), (_, b) in zip(model.named_parameters(), their_model.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0, msg=name)


def seq2seq(family: str) -> torch.nn.Module:
    torch.manual_seed(0)
    if family == "t5":
        sizes = {"vocab_size": 50, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
        config = T5Config(**sizes, dropout_rate=0.0, decoder_start_token_id=0, pad_token_id=0)
        return T5ForConditionalGeneration(config)
    layers = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    sizes = {"vocab_size": 50, "d_model": 16, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    return BartForConditionalGeneration(
        BartConfig(**sizes, **layers, **special, max_position_embeddings=40, dropout=0.0, forced_eos_token_id=None)
    )


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_four_micro_batches_are_one_batch(family):
    """Without dropout: losses, gradients and thus parameters, although the micro-batches differ in target tokens."""
    encoded, big = text(), seq2seq(family)
    small = copy.deepcopy(big)
    # eps well above rounding noise: at 1e-8 Adam turns the noise of a zero gradient into a whole step
    settings = replace(SETTINGS, max_steps=6, epochs=1, adam_epsilon=1e-4)
    keywords = {"seed": SEED, "device": "cpu", "buckets": False, "validate": None, "main": "rouge"}
    one = train(big, encoded, settings, **keywords)
    four = train(small, encoded, replace(settings, accumulation_steps=4), **keywords)
    assert four.losses == pytest.approx(one.losses, abs=1e-6)
    assert four.tokens == one.tokens and four.examples == one.examples
    for a, b in zip(big.parameters(), small.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


@pytest.mark.parametrize("method", [None, LoraConfig, PrefixTuningConfig])
@pytest.mark.parametrize("family", ["t5", "bart"])
def test_text_to_text_loss_is_the_models_own(family, method):
    """Decoder inputs and token loss of ours equal what the model computes when it is given labels, also inside peft."""
    texts, model = text(), seq2seq(family)
    if method is not None:
        size = {"num_virtual_tokens": 3} if method is PrefixTuningConfig else {}
        model = get_peft_model(model, method(task_type="SEQ_2_SEQ_LM", **size))
    rows = epoch_batches(texts.lengths, 8, seed=SEED, epoch=0, buckets=False)[0]
    with torch.no_grad():
        theirs = float(model.eval()(**collate(texts, rows)).loss)
    keywords = {"seed": SEED, "device": "cpu", "buckets": False, "validate": None, "main": "rouge1"}
    ours = train(model, texts, replace(SETTINGS, max_steps=1), **keywords)
    assert ours.losses[0] == pytest.approx(theirs, abs=1e-5)
