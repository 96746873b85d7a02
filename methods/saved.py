"""An adapter's folder and the backbone that it belongs to: what peft's own formats do not say.

Configurations of this package's methods carry the backbone's fingerprint, and peft asks for it wherever it loads them
(methods/tuner.py). For peft's own methods it stands beside them in `backbone.json`, which `load` reads.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel
from torch import nn

from methods import backbone

FILE = "backbone.json"


def mark(model: nn.Module, config: PeftConfig) -> str | None:
    """The fingerprint of a backbone that bears no adapter yet; kept on the configuration, for `sign`."""
    found = backbone.fingerprint(model, getattr(config, "modules_to_save", None) or ())
    config.backbone_fingerprint = found  # type: ignore[attr-defined]  # no field of peft's own: it is not written by peft
    return found


def sign(folder: Path, config: PeftConfig) -> None:
    """Write down beside an adapter which backbone it was trained on, where that is known."""
    if found := getattr(config, "backbone_fingerprint", None):
        (folder / FILE).write_text(json.dumps({"fingerprint": found}) + "\n")


def load(model: nn.Module, folder: str | Path, **options: Any) -> PeftModel:
    """`PeftModel.from_pretrained` of an adapter that the harness saved, whatever its method.

    Args:
        model: the backbone, without an adapter. folder: the run's `adapter`. options: as of `from_pretrained`.

    Raises:
        ValueError: the adapter belongs to another backbone.
    """
    path = Path(folder) / FILE
    config = PeftConfig.from_pretrained(str(folder))
    signed = json.loads(path.read_text())["fingerprint"] if path.is_file() else None
    found = mark(model, config)
    if signed and found and signed != found:
        raise ValueError(
            f"this adapter belongs to a backbone with fingerprint {signed}, and this one has {found}; "
            "load the backbone that it was trained on"
        )
    loaded: PeftModel = PeftModel.from_pretrained(model, str(folder), **options)  # type: ignore[arg-type]
    return loaded
