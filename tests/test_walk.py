"""A small cut of scripts/walk_tasks.py, on made rows: every shape and both forms, from files to a score."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import superglue

ROOT = Path(__file__).parents[1]
CUT = [  # every shape, every kind of metric and every family once; scripts/walk_tasks.py has them all
    ("superglue/wic", "deberta"),
    ("superglue/cb", "bert"),
    ("superglue/copa", "bart"),
    ("superglue/wsc", "t5"),
    ("superglue/record", "roberta"),
    ("superglue_text/multirc", "t5"),
    ("superglue_text/record", "bart"),
]


@pytest.fixture(scope="module")
def walker():
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        import walk_tasks
    finally:
        sys.path.pop(0)
    from harness import compose, sweep

    compose.register()
    sweep.register()
    return walk_tasks


@pytest.mark.parametrize(("task", "family"), CUT)
def test_a_task_walks_from_its_files_to_a_score(walker, tmp_path, monkeypatch, task, family):
    monkeypatch.setattr(walker, "BRIEF", (*walker.BRIEF, "train.max_steps=2", "generation.max_new_tokens=3"))
    name = task.rpartition("/")[2]
    root = Path(superglue.directory(tmp_path / "data", name, superglue.FILES[name] * 3))
    cell = walker.walk(task, family, root, tmp_path / "runs", "lora")
    assert cell.state == "ran", cell.said


def test_what_cannot_be_is_skipped_and_what_fails_is_told(walker, tmp_path):
    cells = walker.everywhere(["superglue_text/rte"], ["deberta"], tmp_path)
    cells |= walker.everywhere(["superglue/rte"], ["deberta"], tmp_path)
    text = walker.matrix(cells, ["superglue_text/rte", "superglue/rte"], ["deberta"])
    assert "| superglue_text/rte | skipped: text to text, no decoder |" in text
    assert f"| superglue/rte | FAILED: no directory {tmp_path}/RTE." in text


def test_real_data_walks(walker, glue, tmp_path):
    tasks, root = ["glue/wnli", "propetl/rte"], glue.parent
    cells = walker.everywhere(tasks, ["roberta", "t5"], root)
    assert sorted(cell.state for cell in cells.values()) == ["ran", "ran", "ran", "skipped"]
