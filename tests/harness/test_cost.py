from __future__ import annotations

import sys
import time
from dataclasses import asdict
from types import SimpleNamespace

import pytest

from harness import cost
from harness.cost import Meter, stored_bytes

OUTCOME = SimpleNamespace(examples=64, tokens=999, step_seconds=0.25)


def test_a_second_is_counted_once(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(cost.time, "perf_counter", lambda: now[0])
    meter = Meter("cpu")

    def wait(seconds):
        now[0] += seconds

    wait(1)
    with meter.training():
        wait(10)
        with meter.evaluating():
            wait(4)
        wait(20)
    with meter.evaluating():
        wait(2)
    wait(3)
    found = meter.cost(OUTCOME)
    assert (found.seconds, found.train_seconds, found.eval_seconds) == (40, 30, 6)
    assert (found.examples, found.tokens, found.step_seconds) == (64, 999, 0.25)


def test_time_counts_also_when_the_inside_fails():
    meter = Meter("cpu")
    with pytest.raises(KeyError), meter.training():
        time.sleep(0.01)
        raise KeyError
    time.sleep(0.05)
    assert 0.01 <= meter.cost(OUTCOME).train_seconds < 0.05


def test_what_the_machine_does_not_tell_is_none():
    found = Meter("cpu").cost(OUTCOME)
    assert found.energy_joules is None and found.stored_bytes is None
    assert all(value is None or isinstance(value, int | float | str) for value in asdict(found).values())


def test_peak_memory_is_of_this_run_alone():
    size = 64 << 20
    before = bytearray(b"x") * size
    del before
    meter = Meter("cpu")
    found = meter.cost(OUTCOME)
    held = bytearray(b"x") * size
    after = meter.cost(OUTCOME)
    assert len(held) == size
    if found.peak_bytes_kind == "resident":
        assert after.peak_bytes - found.peak_bytes > size / 2
    else:
        assert found.peak_bytes_kind == "resident_ever"


def test_stored_bytes_are_those_of_the_weight_files(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "adapter_model.safetensors").write_bytes(b"12345")
    (tmp_path / "inner" / "masks.bin").write_bytes(b"123")
    (tmp_path / "adapter_config.json").write_text("{}")
    assert stored_bytes(tmp_path) == 8 == Meter("cpu").cost(OUTCOME, stored=tmp_path).stored_bytes
    assert stored_bytes(tmp_path / "adapter_model.safetensors") == 5
    assert stored_bytes(tmp_path / "nothing") is None


class NVML:
    """NVIDIA's library, as far as the meter asks; counts 1,500 mJ a call."""

    class NVMLError(Exception):
        pass

    def __init__(self, refuses: bool = False) -> None:
        self.refuses, self.calls = refuses, 0

    def nvmlInit(self):
        if self.refuses:
            raise self.NVMLError

    def nvmlDeviceGetHandleByUUID(self, name):
        return name

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        assert handle == "GPU-abc"
        self.calls += 1
        return 1500 * self.calls


@pytest.mark.parametrize(("library", "joules"), [(NVML(), 1.5), (NVML(refuses=True), None), (None, None)])
def test_a_gpu_is_asked_for_its_memory_and_energy(monkeypatch, library, joules):
    import torch

    calls = []
    monkeypatch.setitem(sys.modules, "pynvml", library)  # None: cannot be imported
    for name, value in {
        "synchronize": None,
        "reset_peak_memory_stats": None,
        "max_memory_allocated": 12345,
        "current_device": 0,
        "get_device_properties": SimpleNamespace(uuid="abc"),
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, name=name, value=value: calls.append(name) or value)
    meter = Meter("cuda")
    with meter.training():
        pass
    found = meter.cost(OUTCOME)
    assert (found.peak_bytes, found.peak_bytes_kind, found.energy_joules) == (12345, "cuda_allocated", joules)
    assert calls.count("reset_peak_memory_stats") == 1 and calls.count("synchronize") == 3
