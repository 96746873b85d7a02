"""Tokenizers of the four demo backbones.

Both kinds are built from word counts by the plain code below instead of a trainer, so a rebuild gives the same pieces
everywhere.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

MAX_LENGTH = 128
SENTINELS = 16
SPACE = "\u2581"
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def word_counts(lines: list[str]) -> Counter[str]:
    """How often each word occurs; full stops and commas count as words."""
    return Counter(word for line in lines for word in line.replace(".", " .").replace(",", " ,").split())


def unigram_pieces(counts: Counter[str]) -> list[str]:
    """Whole words, most frequent first, with single letters to spell anything else.

    A regular plural or third person is left out, as its stem and "s" spell it: both numbers then share the stem.
    """
    words = [word for word in counts if not (word.endswith("s") and word[:-1] in counts)]
    words.sort(key=lambda word: (-counts[word], word))
    marks = [word for word in words if not word.isalpha()]
    return marks + [SPACE + word for word in words if word.isalpha()] + [SPACE, *LETTERS, "es"]


def unigram(counts: Counter[str], specials: list[str], last: list[str]) -> Tokenizer:
    """A SentencePiece-like tokenizer: `specials` first, then the pieces, then `last`.

    Scores fall with the number of letters a piece leaves to others, so the longest match wins.
    """
    vocab = [(token, 0.0) for token in specials]
    vocab += [(piece, -8.0 if len(piece) > 1 or not piece.isalpha() else -12.0) for piece in unigram_pieces(counts)]
    vocab += [(token, 0.0) for token in last]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=[token for token, _ in vocab].index(unknown_of(specials))))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always"),
            pre_tokenizers.Punctuation(),
        ]
    )
    tokenizer.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme="always")
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials + last])
    return tokenizer


def unknown_of(specials: list[str]) -> str:
    """The unknown token among the special ones, however the family spells it."""
    return next(token for token in specials if token.lower() in ("[unk]", "<unk>"))


def merge(symbols: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    """Join every occurrence of `pair` in a spelling."""
    out: list[str] = []
    for symbol in symbols:
        if out and (out[-1], symbol) == pair:
            out[-1] += symbol
        else:
            out.append(symbol)
    return tuple(out)


def learn_merges(counts: Counter[str], size: int) -> list[tuple[str, str]]:
    """Plain byte-pair encoding; of equally frequent pairs the alphabetically first one is merged."""
    spellings = {word: tuple("\u0120" + word if word.isalpha() else word) for word in counts}
    merges: list[tuple[str, str]] = []
    while len(merges) < size:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, symbols in spellings.items():
            for pair in pairwise(symbols):
                pairs[pair] += counts[word]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        spellings = {word: merge(symbols, best) for word, symbols in spellings.items()}
    return merges


def byte_pair(counts: Counter[str], merges: int) -> Tokenizer:
    """A RoBERTa-like tokenizer: byte-level symbols, every word with its leading space, <mask> last."""
    rules = learn_merges(counts, merges)
    pieces = [*".,", "\u0120", *LETTERS, *(first + second for first, second in rules)]
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *dict.fromkeys(pieces), "<mask>"]
    vocab = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab, rules, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    specials = [AddedToken(token, special=True, normalized=False) for token in tokens[:4]]
    specials.append(AddedToken("<mask>", special=True, normalized=False, lstrip=True))
    tokenizer.add_special_tokens(specials)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=True)
    return tokenizer


def deberta_tokenizer(counts: Counter[str]) -> PreTrainedTokenizerFast:
    """[CLS] A [SEP] B [SEP] over unigram pieces."""
    tokenizer = unigram(counts, ["[PAD]", "[CLS]", "[SEP]", "[UNK]"], ["[MASK]"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=MAX_LENGTH,
        bos_token="[CLS]",
        eos_token="[SEP]",
        unk_token="[UNK]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def roberta_tokenizer(counts: Counter[str]) -> PreTrainedTokenizerFast:
    """<s> A </s></s> B </s> over byte pairs; BART uses the same one."""
    return PreTrainedTokenizerFast(
        tokenizer_object=byte_pair(counts, 980),
        model_max_length=MAX_LENGTH,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        sep_token="</s>",
        pad_token="<pad>",
        cls_token="<s>",
        mask_token="<mask>",
        model_input_names=["input_ids", "attention_mask"],
    )


def t5_tokenizer(counts: Counter[str]) -> PreTrainedTokenizerFast:
    """A </s> B </s> over unigram pieces, with the sentinels of span corruption at the end of the vocabulary."""
    sentinels = [f"<extra_id_{index}>" for index in range(SENTINELS)]
    tokenizer = unigram(counts, ["<pad>", "</s>", "<unk>"], sentinels[::-1])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=MAX_LENGTH,
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        extra_special_tokens=sentinels,
        model_input_names=["input_ids", "attention_mask"],
    )


def build_tokenizer(name: str, counts: Counter[str]) -> PreTrainedTokenizerFast:
    """The tokenizer of one backbone."""
    makers = {
        "deberta": deberta_tokenizer,
        "roberta": roberta_tokenizer,
        "bart": roberta_tokenizer,
        "t5": t5_tokenizer,
    }
    return makers[name](counts)
