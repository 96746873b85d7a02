"""Build the embedded demo: `python scripts/build_demo.py {corpus,tokenizer,backbone NAME,tasks,all}`.

Everything follows from one seed. The task files come out byte for byte the same anywhere; backbones come out the same
on one machine with one thread, as floating-point sums differ between processors.

The backbones go to harness/embedded/backbones/NAME as ordinary Hugging Face directories (weights in float16), the
tasks to harness/embedded/tasks/NAME/{train,validation,test}.tsv. `corpus` only prints a sample: the pre-training text
is generated on the fly and never stored.
"""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path

import torch
from demo_corpus import documents
from demo_models import BACKBONES
from demo_pretrain import pretrain
from demo_tasks import SIZES, build_task, to_tsv
from demo_tokenizers import build_tokenizer, word_counts
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

EMBEDDED = Path(__file__).resolve().parent.parent / "harness" / "embedded"
TOKENIZER_SAMPLE = 20_000


def sample_lines(seed: int, count: int) -> list[str]:
    """The first `count` documents of the corpus, one line each."""
    return [" ".join(document) for document in islice(documents(seed), count)]


def wrote(path: Path) -> None:
    """Report every file of a directory with its size."""
    for file in sorted(path.iterdir()):
        print(f"wrote {file.relative_to(EMBEDDED.parent.parent)} {file.stat().st_size} bytes", flush=True)


def build_corpus(seed: int) -> None:
    """Print a sample of the pre-training text."""
    for line in sample_lines(seed, 40):
        print(line)


def make_tokenizer(name: str, seed: int) -> PreTrainedTokenizerFast:
    """Build the tokenizer of one backbone."""
    tokenizer = build_tokenizer(name, word_counts(sample_lines(seed, TOKENIZER_SAMPLE)))
    print(f"{name}: {len(tokenizer)} tokens", flush=True)
    return tokenizer


def build_backbone(name: str, seed: int) -> None:
    """Tokenizer and pre-training of one backbone; saved together at the end, as weights fit one vocabulary only."""
    path = EMBEDDED / "backbones" / name
    tokenizer = make_tokenizer(name, seed)
    model, loss = pretrain(name, tokenizer, seed)
    tokenizer.save_pretrained(path)
    model.half().save_pretrained(path)
    print(f"{name}: {model.num_parameters()} parameters, held-out loss {loss:.3f}")
    wrote(path)


def build_tasks(seed: int) -> None:
    """Write the splits of every task."""
    for task in SIZES:
        path = EMBEDDED / "tasks" / task
        path.mkdir(parents=True, exist_ok=True)
        for split, rows in build_task(task, seed).items():
            (path / f"{split}.tsv").write_text(to_tsv(task, rows), encoding="ascii", newline="\n")
        wrote(path)


def main() -> None:
    """Parse the command line and build what it names."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("corpus", "tokenizer", "backbone", "tasks", "all"))
    parser.add_argument("name", nargs="?", choices=BACKBONES, help="one backbone; all four if left out")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    names = [arguments.name] if arguments.name else list(BACKBONES)
    if arguments.what == "corpus":
        build_corpus(arguments.seed)
    if arguments.what in ("tasks", "all"):
        build_tasks(arguments.seed)
    if arguments.what == "tokenizer":
        for name in names:
            make_tokenizer(name, arguments.seed).save_pretrained(EMBEDDED / "backbones" / name)
    if arguments.what in ("backbone", "all"):
        for name in names:
            build_backbone(name, arguments.seed)


if __name__ == "__main__":
    main()
