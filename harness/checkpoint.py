"""Checkpoints: everything a run needs to go on as if it had never stopped, on disk whole or not at all.

    results/runs/<run id>/checkpoints/
        step-000000000120.safetensors    every tensor: trained parameters, buffers, optimizer, method, generators, losses
        step-000000000120.json           all else, and the digests of both; written last, so it says that both are there

A checkpoint belongs to one identity and one state of the code: any other is left alone, with a message. At most two are
kept, so that a newest one which turns out to be cut off or garbled leaves the one before it. Nothing is ever pickled.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from harness import atomic
from harness.distributed import Group
from harness.errors import HarnessError

KEPT = 2
TENSOR = "tensor:"  # a string that starts so stands for the tensor of that name
DTYPES = {  # as the format calls them
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


class Unusable(HarnessError):
    """A checkpoint that is cut off, garbled, or somebody else's."""


def pack(value: Any, tensors: dict[str, Tensor], name: str = "") -> Any:
    """Nested dictionaries and lists of tensors and JSON values -> JSON alone; the tensors go into `tensors` by path."""
    if isinstance(value, Tensor):
        tensors[name] = value.detach()
        return f"{TENSOR}{name}"
    if isinstance(value, dict):
        return {key: pack(inner, tensors, f"{name}/{key}") for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [pack(inner, tensors, f"{name}/{place}") for place, inner in enumerate(value)]
    return value


def unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """What `pack` took apart; tuples come back as lists."""
    if isinstance(value, str) and value.startswith(TENSOR):
        return tensors[value.removeprefix(TENSOR)]
    if isinstance(value, dict):
        return {key: unpack(inner, tensors) for key, inner in value.items()}
    return [unpack(inner, tensors) for inner in value] if isinstance(value, list) else value


def placed(value: Any, device: torch.device) -> Any:
    """The same nested dictionaries and lists, every tensor on `device`."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: placed(inner, device) for key, inner in value.items()}
    return [placed(inner, device) for inner in value] if isinstance(value, list) else value


def _chunks(tensors: dict[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The bytes of a safetensors file, a tensor at a time: no second copy of all of them in memory."""
    header, end = {}, 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for tensor in tensors.values():
        yield tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: theirs alone; None: nothing is kept.
        key: of the run's identity and code; a checkpoint with another one is not used.
        every_seconds: how often one is due; None: only when the run is stopped by a signal.
        beside: what belongs into each one and training does not know, by name; it has `state` and `load_state`.
    """

    def __init__(
        self, folder: Path | None, key: str, every_seconds: float | None, beside: dict[str, Any] | None = None
    ) -> None:
        self._beside = beside or {}
        self.folder, self.key, self.every_seconds = folder, key, every_seconds
        self.newest: int | None = None  # update after which the last good one was written
        self._good: list[int] = []
        self._since = time.monotonic()

    def due(self, last: bool = False) -> bool:
        """Whether the interval is over since the last one, or since this was made; and at the end of a long training.

        The end of training is no end of the run: an evaluation follows, which may take as long.
        """
        if self.every_seconds is None or self.folder is None:
            return False
        return time.monotonic() - self._since >= self.every_seconds or (last and self.newest is not None)

    def save(self, state: dict[str, Any], *, write: bool = True) -> None:
        """Write a checkpoint; `state["step"]` names it. A store that cannot take it costs no run: it is said, and goes on.

        Of several processes one has to `write`: their clocks and generators differ, and so would the two files.
        """
        if self.folder is not None and write:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._write(self.folder, {**state, **{name: part.state() for name, part in self._beside.items()}})
            except OSError as error:
                print(f"no checkpoint of update {state['step']}: {error}", file=sys.stderr, flush=True)
        self._since = time.monotonic()

    def _write(self, folder: Path, state: dict[str, Any]) -> None:
        step, tensors, total = int(state["step"]), dict[str, Tensor](), hashlib.sha256()
        text = json.dumps(pack(state, tensors))  # NaN is not JSON, and comes back all the same
        tensor_file, facts_file = _files(folder, step)
        atomic.write(tensor_file, _hashed(_chunks(tensors), total))
        whole = {"key": self.key, "tensors": total.hexdigest(), "facts": _digest(text), "state": text}
        atomic.write(facts_file, json.dumps(whole).encode())
        self.newest, self._good = step, [*(good for good in self._good if good != step), step][-KEPT:]
        kept = {path for good in self._good for path in _files(folder, good)}
        for path in sorted(set(folder.iterdir()) - kept):  # older, unusable, orphans of a kill; .json first
            path.unlink(missing_ok=True)

    def load(self, group: Group | None = None) -> dict[str, Any] | None:
        """The newest usable one; None where there is none. What cannot be used is named on standard error.

        Of several processes the first one chooses. Raises Unusable in another one that cannot read what was chosen.
        """
        group = group or Group()
        state = self._newest() if group.leads else None
        chosen = group.tell(self.newest)
        if group.leads or chosen is None or self.folder is None:
            return state
        return self._read(*_files(self.folder, chosen))

    def _newest(self) -> dict[str, Any] | None:
        if self.folder is None:
            return None
        steps = sorted(int(path.stem.partition("-")[2]) for path in self.folder.glob(f"step-{12 * '[0-9]'}.json"))
        for step in reversed(steps):
            try:
                state = self._read(*_files(self.folder, step))
            except Unusable as error:
                print(f"checkpoint of update {step} is not used: {error}", file=sys.stderr, flush=True)
                continue
            self.newest, self._good = step, [step]
            for name, part in self._beside.items():
                part.load_state(state[name])
            print(f"resumed at step {step}", file=sys.stderr, flush=True)
            return state
        return None

    def _read(self, tensor_file: Path, facts_file: Path) -> dict[str, Any]:
        """Raises Unusable."""
        try:
            whole = json.loads(facts_file.read_bytes())
            key, digest, text = whole["key"], whole["tensors"], whole["state"]
            if whole["facts"] != _digest(text):
                raise Unusable(f"{facts_file.name} is not what was written")
            if key != self.key:
                raise Unusable("other code, other versions or another configuration made it; training starts anew")
            with tensor_file.open("rb") as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != digest:
                    raise Unusable(f"{tensor_file.name} is not what was written")
            with safe_open(tensor_file, "pt") as opened:
                state = unpack(json.loads(text), {name: opened.get_tensor(name) for name in opened.keys()})  # noqa: SIM118
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise Unusable(f"it cannot be read ({type(error).__name__}: {error})") from error
        return state


def _files(folder: Path, step: int) -> tuple[Path, Path]:
    return folder / f"step-{step:012}.safetensors", folder / f"step-{step:012}.json"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _hashed(chunks: Iterator[bytes | memoryview], total: Any) -> Iterator[bytes | memoryview]:
    for chunk in chunks:
        total.update(chunk)
        yield chunk


# What of a model and of the process belongs into one


def model_state(model: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The given parameters and buffers, and which parameters require a gradient."""
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    return {"tensors": tensors, "trained": trained}


@torch.no_grad()
def load_model_state(model: nn.Module, state: dict[str, Any]) -> None:
    """Put values back by name. Raises RuntimeError where the method did not bring its shapes back first."""
    own: dict[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, tensor in state["tensors"].items():
        found = list(own[name].shape) if name in own else "none"
        if found != list(tensor.shape):
            raise RuntimeError(
                f"the checkpoint has {name} {list(tensor.shape)} and the model {found}: the method's "
                "load_training_state has to bring its shapes back"
            )
        own[name].copy_(tensor)
    trained = set(state["trained"])
    for name, parameter in model.named_parameters():
        if parameter.requires_grad != (name in trained):
            parameter.requires_grad_(name in trained)


def generators() -> dict[str, Tensor]:
    """The state of the global generators, which dropout draws from."""
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_initialized() else {})


def load_generators(states: dict[str, Tensor]) -> None:
    """Put them back; a GPU's where there is one."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
