"""What a run cost: seconds, rows and tokens, peak and stored bytes, energy. A number nobody measured is None."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

WEIGHT_FILES = (".safetensors", ".bin", ".pt")


class Trained(Protocol):
    """What the meter asks of `harness.train.Outcome`."""

    examples: int
    tokens: int
    step_seconds: float | None


@dataclass(frozen=True)
class Cost:
    """The cost of one run in plain numbers; None where the machine does not tell.

    Args:
        seconds: from the meter's start to now.
        train_seconds: inside `training()`, evaluations left out.
        eval_seconds: inside `evaluating()`.
        step_seconds: median of one update.
        examples: training rows seen.
        tokens: training tokens seen, padding not counted.
        peak_bytes: the largest memory held since the meter's start.
        peak_bytes_kind: what that is: `cuda_allocated`, or on a CPU `resident` (the whole process, its libraries too);
            `resident_ever` where the system cannot forget what the process held before the meter started.
        stored_bytes: the adapter's weight files.
        energy_joules: of the whole GPU since the meter's start, whoever used it.
    """

    seconds: float
    train_seconds: float
    eval_seconds: float
    step_seconds: float | None
    examples: int
    tokens: int
    peak_bytes: int
    peak_bytes_kind: str
    stored_bytes: int | None
    energy_joules: float | None


class Meter:
    """Measures one run on `device` (`cpu` or `cuda`) from the moment it is made.

    Timers may stand inside each other: the inner one stops the outer one, so a second is counted once.
    """

    def __init__(self, device: str) -> None:
        self._on_gpu = device.startswith("cuda")
        self._seconds = {"training": 0.0, "evaluating": 0.0}
        self._running: list[str] = []
        self._energy = _Energy() if self._on_gpu else None
        self._peak_is_ours = self._forget_peak()
        self._earlier: dict[str, Any] | None = None  # of a process whose checkpoint this run went on from
        self._begun = self._since = time.perf_counter()

    def training(self) -> Any:
        """A context: its seconds are training."""
        return self._timed("training")

    def evaluating(self) -> Any:
        """A context: its seconds are evaluation, also inside `training()`."""
        return self._timed("evaluating")

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        self._settle()
        self._running.append(what)
        try:
            yield
        finally:
            self._settle()
            self._running.pop()

    def _settle(self) -> None:
        """Book the seconds since the last change to the timer that ran; a GPU finishes its queue first."""
        if self._on_gpu:
            import torch

            torch.cuda.synchronize()
        now = time.perf_counter()
        if self._running:
            self._seconds[self._running[-1]] += now - self._since
        self._since = now

    def state(self) -> dict[str, Any]:
        """What was measured so far, for a checkpoint."""
        self._settle()
        joules = None if self._energy is None else self._energy.joules()
        return {"total": self._since - self._begun, **self._seconds, "peak": self._peak()[0], "joules": joules}

    def load_state(self, state: dict[str, Any]) -> None:
        """Add what an earlier process had measured up to its checkpoint."""
        self._begun -= state["total"]
        for name in self._seconds:
            self._seconds[name] += state[name]
        self._earlier = state

    def _forget_peak(self) -> bool:
        """Start the peak anew, since one process may make several runs. False where the system cannot."""
        if self._on_gpu:
            import torch

            torch.cuda.reset_peak_memory_stats()
            return True
        try:
            Path("/proc/self/clear_refs").write_text("5")  # Linux: resets this process's peak resident set
        except OSError:
            return False
        return True

    def _peak(self) -> tuple[int, str]:
        if self._on_gpu:
            import torch

            return torch.cuda.max_memory_allocated(), "cuda_allocated"
        unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes there, KiB elsewhere
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        return peak, "resident" if self._peak_is_ours else "resident_ever"

    def cost(self, outcome: Trained, stored: Path | None = None) -> Cost:
        """Everything so far. `stored` is the adapter's folder or file; one that is not there is unknown."""
        self._settle()
        peak_bytes, kind = self._peak()
        joules = None if self._energy is None else self._energy.joules()
        if self._earlier is not None:
            peak_bytes = max(peak_bytes, self._earlier["peak"])
            joules = None if joules is None or self._earlier["joules"] is None else joules + self._earlier["joules"]
        return Cost(
            seconds=self._since - self._begun,
            train_seconds=self._seconds["training"],
            eval_seconds=self._seconds["evaluating"],
            step_seconds=outcome.step_seconds,
            examples=outcome.examples,
            tokens=outcome.tokens,
            peak_bytes=peak_bytes,
            peak_bytes_kind=kind,
            stored_bytes=None if stored is None else stored_bytes(stored),
            energy_joules=joules,
        )


def stored_bytes(path: Path) -> int | None:
    """Bytes of the weight files at or under `path`; None where there are none."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.suffix in WEIGHT_FILES]
    return sum(file.stat().st_size for file in files) if files else None


class _Energy:
    """Joules of the current GPU since construction, where NVIDIA's `pynvml` is installed and the device counts them."""

    def __init__(self) -> None:
        self._before = self._millijoules()

    def joules(self) -> float | None:
        """None where the device does not tell."""
        now = self._millijoules()
        return None if now is None or self._before is None else (now - self._before) / 1000

    @staticmethod
    def _millijoules() -> int | None:
        try:
            import pynvml
        except ImportError:
            return None
        import torch

        # By its UUID: NVML counts all devices of the machine, torch only those it was allowed to see.
        name = f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}"
        try:
            pynvml.nvmlInit()
            return int(pynvml.nvmlDeviceGetTotalEnergyConsumption(pynvml.nvmlDeviceGetHandleByUUID(name)))
        except pynvml.NVMLError:  # no driver access, a device without a counter, a MIG slice
            return None
