"""Which device and precision a run gets, known before torch is imported (both are part of a run's identity)."""

from __future__ import annotations

import ctypes
import os
from importlib import metadata

from harness.errors import ConfigError


def gpus() -> int:
    """How many NVIDIA GPUs this process may use, asked of the driver; 0 with a CPU build of torch."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1") or "+cpu" in metadata.version("torch"):
        return 0
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    number = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(number)) != 0:
        return 0
    return number.value


def resolve(device: str) -> str:
    """ "auto" -> "cuda" where there is a GPU, else "cpu". Raises ConfigError for a GPU that is not there."""
    if device == "auto":
        return "cuda" if gpus() else "cpu"
    if device == "cuda" and not gpus():
        raise ConfigError("device=cuda, and no NVIDIA GPU answers (or this torch is a CPU build); use device=cpu")
    return device


def precision(asked: str, device: str) -> str:
    """ "auto" -> bfloat16 autocast (float32 master weights) on a GPU, float32 elsewhere."""
    return ("bfloat16" if device == "cuda" else "float32") if asked == "auto" else asked


def check_threads(threads: int | None) -> None:
    """Raises ConfigError for more threads than this machine has any use for; a library would die of them."""
    if threads is not None and threads > (most := 4 * (os.cpu_count() or 1)):
        raise ConfigError(f"threads={threads} is above {most}, four times the CPU cores of this machine")


def use(device: str, threads: int | None) -> str:
    """Set the number of CPU threads; the device's name, for the record. Raises ConfigError if torch sees no GPU."""
    import torch

    from harness.provenance import processor

    if threads is not None:
        torch.set_num_threads(threads)
    if device == "cpu":
        return processor()
    if not torch.cuda.is_available():
        raise ConfigError("the driver sees a GPU and torch does not: install a CUDA build of torch, or use device=cpu")
    return torch.cuda.get_device_name()


def failed_as(error: BaseException) -> str:
    """The state of a run that ended in this exception: OUT_OF_MEMORY (a GPU's or the host's) or FAILED."""
    gone = (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
    )
    return "OUT_OF_MEMORY" if gone else "FAILED"
