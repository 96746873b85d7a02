"""What of scripts/gpu_check.py can be tested without a GPU: that rows ask for what there is, and end when they must."""

import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def check(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import gpu_check

    return gpu_check


@pytest.fixture
def asked(check, monkeypatch):
    """The configurations that a row asks for, in the place of its trainings."""
    import short_run

    from harness import estimate

    configs = []

    def trained(config, net, length, steps, tick=None):
        for _ in range(steps if tick else 0):
            tick()
        return SimpleNamespace(losses=[0.5] * steps)

    monkeypatch.setattr(short_run, "build", lambda config: configs.append(config) or nn.Linear(1, 1))
    monkeypatch.setattr(short_run, "trained", trained)
    monkeypatch.setattr(estimate, "estimate", lambda config: SimpleNamespace(peak=8))
    for name in ("synchronize", "empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 10)
    return configs


@pytest.mark.parametrize("name, number", [("attention", 9), ("compiled", 3), ("paged", 2), ("memory", 4)])
def test_rows_ask_for_configurations_that_there_are(check, asked, name, number):
    assert check.ROWS[name]()
    assert len(asked) == number
    assert all(config.device == "cuda" and config.model.init == "random" for config in asked)


def test_losses_are_compared_without_any_dropout(check, asked):
    check.compiled()
    assert [(config.train.compile, config.train.cuda_graphs) for config in asked] == [
        (False, False), (True, False), (False, True),
    ]  # fmt: skip
    for config in asked:
        rates = {name: rate for name, rate in config.model.config.items() if "dropout" in name}
        assert rates == dict.fromkeys(("cls_dropout", "hidden_dropout_prob", "attention_probs_dropout_prob"), 0)


def test_optimizers_are_compared_where_they_move_something(check, asked):
    check.paged()
    assert {config.train.warmup_steps for config in asked} == {0}


def test_a_row_says_what_it_found_or_the_last_line_of_its_complaint(check):
    assert check._row([sys.executable, "-c", "print('fine')"], 60) == "fine"
    assert check._row([sys.executable, "-c", "raise SystemExit('broken')"], 60) == "FAILED: broken"
    with pytest.raises(RuntimeError, match=r"^broken$"):
        check._said("-c", "raise SystemExit('warning\\nbroken')")


def test_a_row_that_takes_too_long_ends_with_what_it_started(check, tmp_path):
    mark = tmp_path / "mark"
    below = f"import time, pathlib; time.sleep(1.5); pathlib.Path({str(mark)!r}).touch()"
    above = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {below!r}], capture_output=True)"
    assert check._row([sys.executable, "-c", above], 0.8) == "FAILED: took more than 0.8 s"
    time.sleep(1.5)
    assert not mark.exists()
