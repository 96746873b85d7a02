"""Fetch a backbone for offline use, with its weights as safetensors: `python -m scripts.fetch model=deberta_v3_base -o DIR`.

A repository that has only a .bin, which is a pickle, is read with `weights_only=True`: tensors, never code. The result
is a directory for `model.path=DIR`. What was fetched is named by its SHA-256; with `--sha256`, or `model.sha256` in the
YAML, another file is refused: trust on first use, the YAMLs name a hash only where somebody has looked. No network is
needed for `--from DIR`, a copy that you have already.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

from harness import compose
from harness.directory import check_pin, file_sha256, weight_files
from harness.errors import HarnessError, ModelError
from harness.snapshot import snapshot

KEPT = ("config.json", "generation_config.json", "merges.txt")
KEPT_ENDS = (".model", ".json")


def tensors(path: Path) -> dict[str, Any]:
    """The tensors of a .bin. Raises ModelError for a pickle that holds anything else."""
    import pickle

    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{path} holds more than tensors, or is cut off: {reason}") from error
    if not isinstance(found, dict) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise ModelError(f"{path} is no mapping of names to tensors")
    return found


def convert(source: Path, target: Path, expected: str | None = None) -> dict[str, str]:
    """A usable directory at `target`; returns each weight file's name and hash. Raises ModelError."""
    from safetensors.torch import save_file

    weights = weight_files(source)
    if not weights:
        raise ModelError(f"{source} has no weights (*.safetensors or pytorch_model*.bin)")
    hashes = {path.name: file_sha256(path) for path in weights} if expected is None else check_pin(weights, expected)
    safe = weights[0].suffix == ".safetensors"
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        if path.name in KEPT or (path.name.endswith(KEPT_ENDS) and ".bin." not in path.name):
            shutil.copyfile(path, target / path.name)
    if safe:
        for path in weights:
            shutil.copyfile(path, target / path.name)
        return hashes
    whole: dict[str, Any] = {}
    for path in weights:
        whole |= tensors(path)
    # Tied tensors share memory, which safetensors refuses: each gets its own, and the model ties them again.
    save_file(
        {name: one.clone().contiguous() for name, one in whole.items()}, target / "model.safetensors", {"format": "pt"}
    )
    return hashes


def main() -> None:
    """Fetch, convert, say what it was."""
    parser = argparse.ArgumentParser(prog="python -m scripts.fetch", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", nargs="?", help="model=NAME of conf/model")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the directory to make")
    parser.add_argument("--from", dest="source", type=Path, help="a directory that holds the files already")
    parser.add_argument("--sha256", help="refuse other weights")
    arguments = parser.parse_args()
    try:
        source, pinned = arguments.source, arguments.sha256
        if source is None:
            if arguments.model is None:
                raise ModelError("say which: model=deberta_v3_base, or --from DIR")
            spec = compose.composed(
                [arguments.model, "task=demo/summarization" if "t5" in arguments.model else "seed=0"]
            ).model
            if spec.hub_id is None or spec.revision is None:
                raise ModelError(
                    f"model {spec.name} has no pinned hub_id and revision; give model.revision in its YAML"
                )
            source, pinned = snapshot(spec.hub_id, spec.revision), pinned or spec.sha256
        for name, found in convert(source, arguments.output, pinned).items():
            print(f"{name} {found}")
        if pinned is None:
            print("no hash was known: put this one into model.sha256, and any other will be refused from now on")
    except (HarnessError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    print(f"use it with model.path={arguments.output}")


if __name__ == "__main__":
    main()
