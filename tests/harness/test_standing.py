"""Runs that were made on another device, and runs whose rows or weights are not here, are found in the store."""

from dataclasses import asdict

import pytest
from test_launch import SHORT, command

from harness import device, identity, record
from harness.record import DONE, Record

SCIENCE = {"main": {"split": "validation", "metric": "accuracy", "score": 80.0}, "params": {}, "predictions": {}}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two runs made on a GPU, a third by a cell whose data and backbone are of the hub."""
    from specs import composed

    from harness import run

    root = tmp_path_factory.mktemp("elsewhere") / "runs"
    grid = [*SHORT, f"results.root={root}"]
    configs = [composed(f"seed={seed}", *grid) for seed in range(2)]
    configs.append(composed("task=glue/rte", "method=lora", "seed=1", *grid))
    for config in configs:
        content = (
            {"data": "d", "weights": "w"} if config.task.name == "glue/rte" else run.plan(config).identity["content"]
        )
        precision = device.precision(config.train.precision, "cuda")
        known = identity.identity(config, **(content | {"device": "cuda"}), precision=precision)
        one = Record(identity.run_id(known), DONE, known, asdict(config), {}, science=SCIENCE)
        (root / one.id).mkdir(parents=True)
        record.write(root / one.id, one)
    return root


def test_what_was_made_on_a_gpu_is_counted_and_said(store):
    grid = ["seed=0,1,2", *SHORT, f"results.root={store}"]
    status = command(*grid, module="harness.status")
    assert "3 runs: 2 done, 1 missing" in status and "2 of these runs are counted as made on cuda" in status
    plan = command(*grid, "--dry-run")
    assert "3 to launch" in plan and "hydra/launcher=slurm hydra.launcher.device=cuda" in plan
    there = command(*grid, "device=cuda", module="harness.status")
    assert "3 runs: 2 done, 1 missing" in there and "note" not in there
    assert "1 to launch" in command(*grid, "hydra/launcher=slurm", "hydra.launcher.gres=gpu:1", "--dry-run")


def test_a_table_whose_data_are_not_here_is_shown_by_names_and_configuration(store):
    cell = ["task=glue/rte", "method=lora", "seed=0,1", *SHORT, f"results.root={store}"]
    status = command(*cell, module="harness.status")
    assert "2 runs: 1 done, 1 missing" in status and ".s0." in status.split("missing")[-1]
    assert "data of glue/rte; the backbone deberta_v3_base (on the hub" in status
    assert "1 missing, 1 done" in command(*cell, "device=cuda", "--dry-run")
    other = command(*cell, "device=cuda", "train.learning_rate=0.123", "--dry-run")
    assert "2 to launch" in other  # another configuration is another run
    nowhere = command(*cell, f"data.root={store}", module="harness.status")
    assert f"{store}/RTE" in nowhere and "1 done" in nowhere
    assert "the hub cannot give" in command(*cell, code=2)
    assert len(list(store.glob("*/record.json"))) == 3
