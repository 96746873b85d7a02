"""Several processes for one run, as a user starts them. How they train is in tests/methods/test_contract_processes.py."""

import json
import os
import socket
import subprocess
import sys

import pytest
import torch
from test_run import ENV, ROOT, SHORT, harness, records
from torch import nn

from harness import distributed
from harness.distributed import Group, PeerFailed, described, remade
from harness.errors import ConfigError
from harness.interrupt import Stopped
from harness.monitor import Diverged


def test_a_process_alone_exchanges_nothing():
    group, parameter = Group(), nn.Parameter(torch.ones(2))
    loss = torch.tensor(1.5)
    assert group.reduce(loss, [parameter]) is loss and parameter.grad is None
    group.agree(ValueError("mine to raise"))
    assert group.tell({"a": 1}) == {"a": 1} and group.leads and group.signal is None
    with distributed.joined("cpu") as alone:
        assert (alone.rank, alone.size) == (0, 1)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, (0, 1)),
        ({"WORLD_SIZE": "4", "RANK": "3"}, (3, 4)),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}, (1, 2)),
        ({"WORLD_SIZE": "1", "RANK": "0"}, (0, 1)),
    ],
)
def test_who_we_are_is_what_the_launcher_says(monkeypatch, variables, expected):
    for name in ("WORLD_SIZE", "RANK", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert (distributed.rank(), distributed.size()) == expected


@pytest.mark.parametrize(
    ("error", "says", "state"),
    [
        (ConfigError("no such key"), "process 3: no such key", None),
        (Diverged(7, "loss", float("nan"), ["a"]), "process 3: training diverged: loss nan at update 7", "DIVERGED"),
        (torch.OutOfMemoryError("CUDA out of memory"), "process 3: OutOfMemoryError: CUDA", "OUT_OF_MEMORY"),
        (KeyError("x" * 9000 + "é"), "process 3: KeyError: ", "FAILED"),
        (Stopped(15, "after update 2"), "stopped by SIGTERM after update 2", "PREEMPTED"),
    ],
)
def test_why_one_ends_is_told_to_the_others(error, says, state):
    message = described(error)
    assert len(json.dumps(message)) < distributed.MESSAGE_BYTES
    again = remade(3, message)
    assert str(again).startswith(says) and getattr(again, "state", None) == state
    assert isinstance(again, Stopped if isinstance(error, Stopped) else PeerFailed)


def launched(root, *words):
    """What two processes of one run print and exit with, without the launcher's own process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-m", "harness", *words, f"results.root={root}", *SHORT]
    shared = ENV | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = [
        subprocess.Popen(
            command, cwd=ROOT, env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    return [(*process.communicate(timeout=300), process.returncode) for process in started]


@pytest.mark.slow
def test_two_processes_make_one_run(tmp_path):
    still = [f"++model.config.{name}=0.0" for name in ("hidden_dropout_prob", "attention_probs_dropout_prob")]
    (printed, _, code), other = launched(tmp_path / "two", *still)
    assert (code, other) == (0, ("", "", 0)) and printed.count("lora on demo/entailment") == 1
    harness(tmp_path / "one", *still)
    [two], [one] = records(tmp_path / "two"), records(tmp_path / "one")
    assert two["id"] == one["id"] and two["provenance"]["processes"] == 2
    assert [said for said in two["remarks"] if said.startswith("made by 2 processes")] and two["remarks"] != one[
        "remarks"
    ]
    assert two["science"]["losses"] == pytest.approx(one["science"]["losses"], abs=1e-5)
    assert os.listdir(tmp_path / "two") == [two["id"]]
    (printed, _, code), other = launched(tmp_path / "two", *still)
    assert printed.startswith("already done") and (code, other) == (0, ("", "", 0))


@pytest.mark.slow
def test_bad_input_is_said_once_and_ends_both(tmp_path):
    (_, first, code), (_, second, other) = launched(tmp_path, "method.target_modules=nothing_like_this")
    assert (code, other) == (2, 2) and "does not fit this backbone" in first and second == ""
    (_, first, code), (_, second, other) = launched(tmp_path, "-m", "seed=0,1")
    assert (code, other) == (2, 2) and "start a sweep (-m) without" in first and second == ""
