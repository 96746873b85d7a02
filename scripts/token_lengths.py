"""How long the texts of four GLUE tasks are, for benchmarks that need real lengths and no text.

    python scripts/token_lengths.py --data DIR --tokenizer DIR > scripts/token_lengths.toml

The file holds the number of training rows and 101 quantiles of their tokens (special tokens included), which is all that
padding depends on. It was made with the tokenizer of all-MiniLM-L6-v2 (BERT's vocabulary).
"""

from __future__ import annotations

import argparse
import os
import tomllib
from pathlib import Path

import numpy as np

os.environ.setdefault("HF_HUB_OFFLINE", "1")

FILE = Path(__file__).with_suffix(".toml")
TASKS = ("rte", "mrpc", "cola", "sst2")


def stored(task: str, rows: int) -> np.ndarray:
    """Token counts of `rows` texts of a task in random order (seeded), int64 [rows]; at most as many as it has."""
    known = tomllib.loads(FILE.read_text())[task]
    places = np.linspace(0, 100, min(rows, known["rows"]))
    found = np.interp(places, np.arange(101), known["quantiles"]).round().astype(np.int64)
    return np.random.Generator(np.random.PCG64(0)).permutation(found)


def measured(task: str, data: str, tokenizer: str) -> np.ndarray:
    """Token counts of the training rows of a task, in the order of its file."""
    from transformers import AutoTokenizer

    from harness import compose
    from harness import task as tasks
    from harness.data import encode

    spec = compose.composed([f"task=glue/{task}"]).task
    split = tasks.load(spec, data).splits["train"]
    words = AutoTokenizer.from_pretrained(tokenizer, local_files_only=True)
    return encode(split, words, kind="classification", max_length_tokens=512, max_target_tokens=1).lengths


def main() -> None:
    """Measure, and print the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a directory in GLUE's official layout")
    parser.add_argument("--tokenizer", required=True, help="a directory with a tokenizer of transformers")
    options = parser.parse_args()
    print("# Made by scripts/token_lengths.py. Tokens of a training row: quantiles 0, 1, ..., 100 percent.")
    for task in TASKS:
        found = measured(task, options.data, options.tokenizer)
        quantiles = np.percentile(found, np.arange(101)).round().astype(int).tolist()
        print(f"\n[{task}]\nrows = {len(found)}\nmean = {found.mean():.2f}\nquantiles = {quantiles}")


if __name__ == "__main__":
    main()
