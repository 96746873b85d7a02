"""Backbones from the hub: what transformers needs of a repository, from the cache where it is complete."""

from __future__ import annotations

import contextlib
from pathlib import Path

from harness.errors import ModelError

FILES = ["config.json", "*token*.json", "vocab.*", "merges.txt", "*.model", "generation_config.json"]


def snapshot(hub_id: str, revision: str | None) -> Path:
    """The local directory of a repository's files. Raises ModelError, two lines with both remedies.

    A pinned revision that is in the cache needs no network. `.bin` weights are fetched only where there are no
    safetensors; other frameworks' weights never.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return _cached(hub_id, revision, "HF_HUB_OFFLINE is set")
    if revision is not None:
        with contextlib.suppress(ModelError):  # not there yet, or not complete: fetch it
            return _cached(hub_id, revision, "")
    return _fetched(hub_id, revision)


def _cached(hub_id: str, revision: str | None, reason: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        directory = Path(snapshot_download(hub_id, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, FileNotFoundError) as error:
        raise _unreachable(hub_id, reason) from error
    if not (directory / "config.json").is_file() or not any(
        [*directory.glob("*.safetensors"), *directory.glob("*.bin")]
    ):
        raise _unreachable(hub_id, f"its copy in the cache is not complete; {reason}")
    return directory


def _fetched(hub_id: str, revision: str | None) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    from huggingface_hub.utils import httpx  # whichever one its errors come from

    try:
        files = HfApi().model_info(hub_id, revision=revision, timeout=20).siblings or []
        safe = any(file.rfilename.endswith(".safetensors") and "/" not in file.rfilename for file in files)
        weights = ["*.safetensors*"] if safe else ["pytorch_model*.bin*"]
        patterns = [*FILES, *weights]
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=patterns, ignore_patterns=["*/*"]))
    except (HfHubHTTPError, HFValidationError, httpx.HTTPError, OSError, ValueError, LookupError, TypeError) as error:
        lines = str(error).strip().splitlines()
        try:
            return _cached(hub_id, revision, lines[0] if lines else type(error).__name__)
        except ModelError as missing:
            raise missing from error


def _unreachable(hub_id: str, reason: str) -> ModelError:
    return ModelError(
        f"the hub cannot give {hub_id} ({reason.strip()[:160]}).\n"
        f"Either give a local copy, model.path=DIR, or fetch it once while online: hf download {hub_id}"
    )
