"""Configurations of the four demo backbones: the shapes of their families, only smaller."""

from __future__ import annotations

from typing import Any

from demo_tokenizers import MAX_LENGTH
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    DebertaV2Config,
    DebertaV2ForMaskedLM,
    PreTrainedConfig,
    PreTrainedModel,
    RobertaConfig,
    RobertaForMaskedLM,
    T5Config,
    T5ForConditionalGeneration,
)

BACKBONES: tuple[str, ...] = ("deberta", "roberta", "bart", "t5")
HIDDEN, FEED_FORWARD, HEADS = 128, 256, 4
# The families' own 0.02 suits widths near 1000; at this width it leaves attention flat for most of a short training.
INITIAL_SPREAD = 0.06


def deberta_config(vocabulary: int) -> DebertaV2Config:
    """DeBERTaV3: disentangled attention, no absolute positions in the input."""
    settings: dict[str, Any] = dict(
        vocab_size=vocabulary,
        hidden_size=HIDDEN,
        num_hidden_layers=3,
        num_attention_heads=HEADS,
        intermediate_size=FEED_FORWARD,
        max_position_embeddings=MAX_LENGTH,
        type_vocab_size=0,
        relative_attention=True,
        max_relative_positions=-1,
        position_buckets=16,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        layer_norm_eps=1e-7,
        pooler_dropout=0,
        pooler_hidden_act="gelu",
        pooler_hidden_size=HIDDEN,
        pad_token_id=0,
        initializer_range=INITIAL_SPREAD,
    )
    return DebertaV2Config(**settings)


def roberta_config(vocabulary: int) -> RobertaConfig:
    """RoBERTa: learned positions, which start after the padding index."""
    return RobertaConfig(
        vocab_size=vocabulary,
        hidden_size=HIDDEN,
        num_hidden_layers=3,
        num_attention_heads=HEADS,
        intermediate_size=FEED_FORWARD,
        max_position_embeddings=MAX_LENGTH + 2,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        initializer_range=INITIAL_SPREAD,
    )


def bart_config(vocabulary: int) -> BartConfig:
    """BART: two layers on either side; the decoder starts from </s>."""
    return BartConfig(
        vocab_size=vocabulary,
        d_model=HIDDEN,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS,
        encoder_ffn_dim=FEED_FORWARD,
        decoder_ffn_dim=FEED_FORWARD,
        max_position_embeddings=MAX_LENGTH,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
        forced_eos_token_id=2,
        init_std=INITIAL_SPREAD,
    )


def t5_config(vocabulary: int) -> T5Config:
    """T5 v1.0: ReLU feed-forward, relative bias, tied embeddings; the decoder starts from <pad>."""
    settings: dict[str, Any] = dict(
        vocab_size=vocabulary,
        d_model=HIDDEN,
        d_kv=HIDDEN // HEADS,
        d_ff=FEED_FORWARD,
        num_layers=2,
        num_decoder_layers=2,
        num_heads=HEADS,
        relative_attention_num_buckets=16,
        relative_attention_max_distance=64,
        feed_forward_proj="relu",
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )
    return T5Config(**settings)


def build_config(name: str, vocabulary: int) -> PreTrainedConfig:
    """The configuration of one backbone."""
    makers = {"deberta": deberta_config, "roberta": roberta_config, "bart": bart_config, "t5": t5_config}
    return makers[name](vocabulary)


def build_model(name: str, vocabulary: int) -> PreTrainedModel:
    """A freshly initialised model with the language modelling head its pre-training needs."""
    classes = {
        "deberta": DebertaV2ForMaskedLM,
        "roberta": RobertaForMaskedLM,
        "bart": BartForConditionalGeneration,
        "t5": T5ForConditionalGeneration,
    }
    return classes[name](build_config(name, vocabulary))
