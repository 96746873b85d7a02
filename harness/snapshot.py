"""Backbones from the hub: what transformers needs of a repository, from the cache where it is complete."""

from __future__ import annotations

import contextlib
from pathlib import Path

from harness.errors import ModelError

FILES = ["config.json", "*token*.json", "vocab.*", "merges.txt", "*.model", "generation_config.json"]
STRANGE = (ValueError, LookupError, TypeError)  # an answer that is none of the hub's: a page of a proxy, say


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
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        directory = Path(snapshot_download(hub_id, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, FileNotFoundError) as error:
        raise _unreachable(hub_id, reason) from error
    except HFValidationError as error:
        raise _unreachable(hub_id, said(error)) from error
    if not (directory / "config.json").is_file() or not any(
        [*directory.glob("*.safetensors"), *directory.glob("*.bin")]
    ):
        raise _unreachable(hub_id, f"its copy in the cache is not complete; {reason}")
    return directory


def _fetched(hub_id: str, revision: str | None) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import httpx  # whichever one its errors come from

    try:
        files = HfApi().model_info(hub_id, revision=revision, timeout=20).siblings or []
        safe = any(file.rfilename.endswith(".safetensors") and "/" not in file.rfilename for file in files)
        weights = ["*.safetensors*"] if safe else ["pytorch_model*.bin*"]
        patterns = [*FILES, *weights]
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=patterns, ignore_patterns=["*/*"]))
    except (HfHubHTTPError, httpx.HTTPError, OSError, *STRANGE) as error:
        try:
            return _cached(hub_id, revision, said(error))
        except ModelError as missing:
            raise missing from error


def said(error: Exception) -> str:
    """Why the hub gave nothing; of an answer that cannot be read, that it is one."""
    from huggingface_hub.errors import HFValidationError

    lines = str(error).strip().splitlines() or [type(error).__name__]
    strange = isinstance(error, STRANGE) and not isinstance(error, HFValidationError)  # a name that cannot be
    return f"its answer is not the hub's: {lines[0]}" if strange else lines[0]


def _unreachable(hub_id: str, reason: str) -> ModelError:
    return ModelError(
        f"the hub cannot give {hub_id} ({reason.strip()[:160]}).\n"
        f"Either give a local copy, model.path=DIR, or fetch it once while online: hf download {hub_id}"
    )
