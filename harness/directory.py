"""Where a backbone is, and what it is by content: a directory, the hub's snapshot, or a shape for random weights."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from harness.errors import ModelError
from harness.identity import digest, hash_files
from harness.paths import embedded
from harness.schema import ModelConfig

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
VOCABULARY = ("tokenizer.json", "vocab.*", "*.model")  # what a tokenizer knows words from, one of them at least
TOKENIZER = ("*token*.json", "vocab.*", "merges.txt", "*.model")


def locate(spec: ModelConfig) -> Path:
    """The directory that holds the backbone: `model.path`, or the hub's snapshot. Raises ModelError.

    For random weights in a shape that the YAML gives, the tokenizer's directory: there is nothing else to find. From
    the hub only what transformers needs is fetched; `.bin` weights only where a repository has no safetensors.
    """
    if spec.path is not None:
        return _checked_directory(embedded(spec.path), spec)
    if spec.init == "random" and spec.shape and spec.tokenizer is not None:
        return embedded(spec.tokenizer)
    if spec.hub_id is None:
        raise ModelError(f"model {spec.name} has neither model.path nor model.hub_id; give model.path=DIR")
    from harness.snapshot import snapshot

    found = _checked_directory(snapshot(spec.hub_id, spec.revision), spec)
    if spec.sha256 is not None:
        check_pin(weight_files(found), spec.sha256)
    return found


def weight_files(directory: Path) -> list[Path]:
    """The files that hold the weights: safetensors, or where there are none, .bin."""
    return sorted(directory.glob("*.safetensors")) or sorted(directory.glob("pytorch_model*.bin"))


def check_pin(files: list[Path], sha256: str) -> dict[str, str]:
    """Each file's SHA-256 by its name. Raises ModelError unless one of them is `sha256`."""
    hashes = {path.name: file_sha256(path) for path in files}
    if sha256 not in hashes.values():
        said = ", ".join(f"{name} {found}" for name, found in hashes.items())
        raise ModelError(f"the weights are not those that model.sha256 pins ({sha256}): {said}")
    return hashes


def file_sha256(path: Path) -> str:
    """Of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _checked_directory(directory: Path, spec: ModelConfig) -> Path:
    """The directory, if it holds a backbone. Raises ModelError that says what is missing."""
    if not directory.is_dir():
        raise ModelError(f"model.path={directory} is no directory; give one in the Hugging Face layout")
    if not (directory / "config.json").is_file():
        found = ", ".join(sorted(path.name for path in directory.iterdir())[:8]) or "nothing"
        raise ModelError(f"{directory} is no Hugging Face model: it has no config.json (found: {found})")
    if spec.init == "pretrained" and not any((directory / name).is_file() for name in WEIGHTS):
        raise ModelError(
            f"{directory} has no weights ({' or '.join(WEIGHTS[::2])}); for random ones: model.init=random"
        )
    if not any(path for pattern in VOCABULARY for path in directory.glob(pattern)):
        raise ModelError(  # transformers makes one that knows no word, and says nothing
            f"{directory} has no tokenizer ({', '.join(VOCABULARY)}); put the backbone's own beside its weights: "
            "AutoTokenizer.from_pretrained(...).save_pretrained(DIR)"
        )
    return directory


def shaped(spec: ModelConfig, directory: Path) -> dict[str, Any]:
    """The shape that the backbone is built from, where `locate` found no directory of its own; else nothing."""
    at = None if spec.tokenizer is None else embedded(spec.tokenizer)
    return spec.shape if spec.path is None and directory == at else {}


def fingerprint(directory: Path, init: str, shape: dict[str, Any] | None = None) -> str:
    """What the backbone is, by content: its configuration, tokenizer and (unless initialised at random) weights.

    `shape` stands in place of the configuration file.
    """
    if shape:
        return digest([init, shape, hash_files(sorted({path for one in TOKENIZER for path in directory.glob(one)}))])
    patterns = ["config.json", *TOKENIZER]
    if init == "pretrained":
        # transformers prefers safetensors: other weight files beside them are not read, and not part of the identity
        patterns += ["*.safetensors"] if any(directory.glob("*.safetensors")) else ["pytorch_model*.bin"]
    paths = {path for pattern in patterns for path in directory.glob(pattern) if path.is_file()}
    return digest([init, hash_files(sorted(paths))])
