"""What is taken out of the queue: waiting jobs of the table or grid that asks, and nothing else."""

from functools import partial

import pytest

from harness import identity, jobs, launch
from harness.cancel import cancel, values
from harness.state import State
from harness.wanted import Wanted

QUEUE = {"6_0": "PENDING", "6_1": "PENDING", "6_2": "RUNNING", "6_3": "PENDING", "7_0": "RUNNING", "7_1": "PENDING",
         "8_0": "PENDING", "8_1": "PENDING", "9_0": "PENDING"}  # fmt: skip


@pytest.fixture
def queue(tmp_path, monkeypatch):
    """A store with the jobs of a table, of another one, of a grid and of an earlier version; what scancel is told."""
    from specs import composed

    told = []

    def ask(*words):
        told.extend([list(words[1:])] if words[0] == "scancel" else [])
        return "\n".join(f"{job} {state}" for job, state in QUEUE.items())

    monkeypatch.setattr(jobs, "_ask", ask)
    monkeypatch.setattr(jobs, "available", lambda: True)
    monkeypatch.setattr(jobs, "cluster", lambda: {"ClusterName": "here"})
    jobs.note(tmp_path, {f"6_{n}": f"mine.s{n}" for n in range(4)}, "adalora_glue", ["train.epochs=3"])
    jobs.note(tmp_path, {"7_0": "other.s0", "7_1": "other.s1"}, "increlora_glue", [])
    jobs.note(tmp_path, {"8_0": "grid.s0", "8_1": "grid.s1"}, "", ["method=lora,full", "seed=0,1", "threads=1"])
    jobs.note(tmp_path, {"9_0": "former.s0"})
    config = composed(f"results.root={tmp_path}")
    monkeypatch.setattr(identity, "run_id", lambda one: one["id"])
    wanted = Wanted("mine.s0", config, (), others={"cuda": {"id": "mine.s3"}})
    found = {"mine.s0": (wanted, State("QUEUED"))}
    return partial(cancel, found), told


def test_waiting_jobs_of_this_table_that_it_no_longer_names(queue, capsys):
    ask, told = queue
    ask(table="adalora_glue", words=[])
    out = capsys.readouterr().out
    assert told == [["--state=PENDING", "6_1"]]  # not what runs, nor the same run on the other device
    assert "cancelled job 6_1: mine.s1" in out and "6_2 runs already and stays" in out and "8 stay" in out


def test_what_runs_goes_when_it_is_asked_for(queue):
    ask, told = queue
    ask(table="adalora_glue", words=[], running=True)
    assert told == [["6_1", "6_2"]]


def test_a_dry_run_cancels_nothing(queue, capsys):
    ask, told = queue
    ask(table="adalora_glue", words=[], dry=True)
    assert not told and "would cancel job 6_1: mine.s1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "gone"),
    [
        (["method=lora", "seed=0"], [["--state=PENDING", "8_0", "8_1"]]),
        (["method=bitfit", "seed=0"], []),
        (["method=lora", "seed=0", "train.epochs=1"], []),
        ([], []),
    ],
)
def test_a_grid_is_known_by_its_words(queue, words, gone):
    ask, told = queue
    ask(table="", words=words)
    assert told == gone


def test_the_words_that_choose_runs():
    assert values(["method=lora,full", "results.root=x", "+hydra.job.name=a", "wandb.tags=[t]", "x=[1,2]"]) == {
        "method": {"lora", "full"}, "x": {"[1,2]"},
    }  # fmt: skip


def test_a_table_is_tagged_beside_the_tags_of_the_user():
    assert launch.tagged(["seed=0"], "t") == ["seed=0", "wandb.tags=[t]"]
    assert launch.tagged(["wandb.tags=[mine,own]", "seed=0"], "t") == ["wandb.tags=[t,mine,own]", "seed=0"]
    assert launch.tagged(["wandb.tags=[]"], "t") == ["wandb.tags=[t]"]
    assert launch.tagged(["wandb.tags=[a],[b]"], "t") == ["wandb.tags=[a],[b]"]
