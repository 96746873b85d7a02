"""Tiny random models, the methods' YAMLs on them, and a loop that makes the hooks' calls in the documented order."""

import copy
import functools
import importlib
import random
from dataclasses import dataclass
from pathlib import Path

import peft
import torch
import transformers as tf
from omegaconf import OmegaConf
from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING
from torch import nn

from methods import hooks

ROOT = Path(__file__).parents[2]
YAMLS = {path.stem: path.read_text() for path in (ROOT / "conf/method").glob("[!_]*.yaml")}
# A method on a quantised backbone is another method on another backbone: tests/harness/test_quantization.py.
ON_QUANTISED = sorted(name for name, text in YAMLS.items() if "override /quantization" in text)
METHODS = sorted(YAMLS.keys() - set(ON_QUANTISED))
FAMILIES = ("deberta", "roberta", "bart", "t5")
KINDS = [(family, "classification") for family in FAMILIES] + [("bart", "generation"), ("t5", "generation")]
VOCABULARY, LABELS = 61, 3
SMALLER = {"propetl_lora": {"r": 4, "lora_alpha": 6}}  # where a YAML's size is too large for models of width 16

DEBERTA = dict(
    hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, max_position_embeddings=32,
    relative_attention=True, position_buckets=8, norm_rel_ebd="layer_norm", share_att_key=True, type_vocab_size=0,
    pos_att_type=["p2c", "c2p"], position_biased_input=False, pooler_hidden_size=16, hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0, pooler_dropout=0.0, initializer_range=0.2, layer_norm_eps=1e-7,
)  # fmt: skip
ROBERTA = dict(
    hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, max_position_embeddings=40,
    hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, type_vocab_size=1, initializer_range=0.2,
)  # fmt: skip
BART = dict(
    d_model=16, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2,
    encoder_ffn_dim=24, decoder_ffn_dim=24, max_position_embeddings=32, dropout=0.0, attention_dropout=0.0,
    activation_dropout=0.0, classifier_dropout=0.0, init_std=0.2, forced_eos_token_id=None,
)  # fmt: skip
T5 = dict(
    d_model=16, d_kv=8, d_ff=24, num_layers=2, num_decoder_layers=2, num_heads=2, dropout_rate=0.0,
    classifier_dropout=0.0, relative_attention_num_buckets=8, relative_attention_max_distance=16,
    decoder_start_token_id=0,
)  # fmt: skip
CONFIGS = {
    "deberta": (tf.DebertaV2Config, DEBERTA),
    "roberta": (tf.RobertaConfig, ROBERTA),
    "bart": (tf.BartConfig, BART),
    "t5": (tf.T5Config, T5),
}
CLASSIFIERS = {
    "deberta": tf.DebertaV2ForSequenceClassification,
    "roberta": tf.RobertaForSequenceClassification,
    "bart": tf.BartForSequenceClassification,
    "t5": tf.T5ForSequenceClassification,
}
GENERATORS = {"bart": tf.BartForConditionalGeneration, "t5": tf.T5ForConditionalGeneration}


@functools.cache
def _built(family, kind, seed):
    config_cls, sizes = CONFIGS[family]
    config = config_cls(vocab_size=VOCABULARY, num_labels=LABELS, **sizes)
    torch.manual_seed(seed)
    model = (CLASSIFIERS if kind == "classification" else GENERATORS)[family](config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # biases of 0 and norms of 1 would hide mistakes
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.eval()


def build(family, kind="classification", seed=0):
    """A fresh tiny model in evaluation mode; equal arguments give equal weights."""
    return copy.deepcopy(_built(family, kind, seed))


@functools.cache
def sites(family):
    """The `sites` and head modules of conf/model."""
    return OmegaConf.to_container(OmegaConf.load(ROOT / f"conf/model/_{family}.yaml"))


def batch(family, kind="classification", lengths=(9, 7, 5)):
    """Padded inputs and labels, as the collator makes them."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(4, VOCABULARY, (len(lengths), max(lengths)), generator=generator)
    config = _built(family, kind, 0).config
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        mask[row, :length] = 1
        if family in ("bart", "t5"):
            ids[row, length - 1] = config.eos_token_id
    made = {"input_ids": ids.masked_fill(mask == 0, config.pad_token_id), "attention_mask": mask}
    if kind == "classification":
        return made | {"labels": torch.randint(0, LABELS, (len(lengths),), generator=generator)}
    labels = torch.randint(4, VOCABULARY, (len(lengths), 4), generator=generator)
    decoder = _built(family, kind, 0).prepare_decoder_input_ids_from_labels(labels=labels)
    return made | {"decoder_input_ids": decoder, "labels": labels}


def logits(model, inputs):
    """The model's logits, without gradients, in evaluation mode."""
    model.eval()
    with torch.no_grad():
        return model(**{key: value for key, value in inputs.items() if key != "labels"}).logits


def task_loss(scores, labels):
    """Mean cross-entropy over rows or tokens."""
    return nn.functional.cross_entropy(scores.flatten(0, -2), labels.flatten())


def train(model, batches, steps, learning_rate=1e-2, weight_decay=0.1):
    """The documented order of hook calls, and nothing that knows a method. Returns the losses."""
    method, step, losses = hooks.find(model), 0, []
    method.prepare(batches, task_loss)
    method.on_train_begin(steps)
    model.train()
    for phase in method.phases() or [hooks.Phase("all", 1.0)]:
        method.on_phase_begin(phase)
        rate = phase.learning_rate or learning_rate
        optimizer = torch.optim.AdamW(hooks.optimizer_groups(model, rate, weight_decay))
        for _ in range(round(phase.fraction * steps)):
            loss = method.loss(model, batches[step % len(batches)], task_loss)
            penalty = method.penalty()
            (loss if penalty is None else loss + penalty).backward()
            nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None], 1.0)
            method.on_pre_optimizer_step(step, optimizer)
            optimizer.step()
            method.on_optimizer_step(step)
            optimizer.zero_grad()
            losses.append(loss.item())
            step += 1
    method.on_train_end()
    return losses


def randomise(model, scale=1.0, seed=7, adapter="default"):
    """N(0, scale) in every trained tensor of one adapter and its head: small values hide wrong merges."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if f".{adapter}" in name and (parameter.requires_grad or adapter != "default"):
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return model


@dataclass(frozen=True)
class Case:
    """One method's YAML on one tiny model."""

    method: str
    family: str
    kind: str

    def __str__(self):
        return f"{self.method}-{self.family}-{self.kind}"

    @functools.cached_property
    def row(self):
        import methods

        return next(row for row in methods.METHODS if row.name == self.method)

    @property
    def ours(self):
        return self.row.file != "peft"

    @property
    def head(self):
        return [name for name in sites(self.family)["head_modules"] if self.kind == "classification"]

    @functools.cached_property
    def arguments(self):
        method = OmegaConf.load(ROOT / f"conf/method/{self.method}.yaml")
        raw = {"model": sites(self.family), "task": {"tasks": []}, "method": method}
        return OmegaConf.to_container(OmegaConf.create(raw), resolve=True)["method"]

    def config(self, **changes):
        arguments = copy.deepcopy(self.arguments) | SMALLER.get(self.method, {}) | changes
        module, _, name = arguments.pop("_target_").rpartition(".")
        for key in ("name", "size", "ranks", "defaults", "declares"):  # for the harness and for Hydra
            arguments.pop(key, None)
        task_type = "SEQ_CLS" if self.kind == "classification" else "SEQ_2_SEQ_LM"
        return getattr(importlib.import_module(module), name)(
            task_type=task_type, modules_to_save=self.head or None, **arguments
        )

    def base(self, seed=0):
        return build(self.family, self.kind, seed)

    def attach(self, seed=0):
        model = self.base()
        torch.manual_seed(seed)
        return peft.get_peft_model(model, self.config()).eval()

    def batch(self, **options):
        return batch(self.family, self.kind, **options)

    @functools.cached_property
    def prefix(self):
        return PEFT_TYPE_TO_PREFIX_MAPPING[self.config().peft_type]

    def is_adapter(self, name):
        return self.prefix in name


def rows(family, count=8):
    """A data set for transformers.Trainer: classification rows without padding."""
    generator, end = random.Random(0), _built(family, "classification", 0).config.eos_token_id or 2
    return [
        {"input_ids": [generator.randrange(4, VOCABULARY) for _ in range(6)] + [end], "labels": index % LABELS}
        for index in range(count)
    ]
