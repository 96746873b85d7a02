"""Every task on every family that can do it, briefly: which of them run from data to score.

    python scripts/walk_tasks.py --root ../shared/data
    python scripts/walk_tasks.py --root DIR --tasks glue/rte,superglue_text/copa --families bert,t5 --markdown walk.md

All runs in one process, on the embedded backbones (and `bert` on random weights): 20 updates of 4 rows, then at most 32
rows of every split that counts, at most 16 new tokens each. The matrix says what ran, with its score, what was skipped
and why, and what failed; the exit code is 1 if something failed. Scores say nothing but that the way is open.
ReCoRD's rows are made here where the root has none. `glue/multi` is `propetl/multi` by another name.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hydra import compose as hydra_compose
from hydra import initialize_config_dir

from harness import compose, run, sweep
from harness.config import RunConfig
from harness.errors import HarnessError
from harness.paths import CONF

FAMILIES = ("deberta", "roberta", "bert", "bart", "t5")
# A BERT as small as the embedded backbones; there is no embedded one.
BERT = ("model=minilm", "model.init=random", "model.shape.hidden_size=48", "model.shape.num_hidden_layers=2",
        "model.shape.num_attention_heads=4", "model.shape.intermediate_size=96")  # fmt: skip
# Of several tasks in one run: three kinds of head, with splits that are there.
SEVERAL = {"multi": ("task.tasks=[glue/rte,glue/stsb,superglue/cb]",)}
BRIEF = (
    "train.max_steps=20", "train.batch_size=4", "train.evaluate_every_epochs=null", "train.select=last",
    "data.max_train_rows=80", "data.max_eval_rows=32", "data.eval_batch_size=16", "data.max_length_tokens=96",
    "data.max_target_tokens=16", "generation.max_new_tokens=16", "generation.num_beams=2", "train.warmup_steps=2",
    "progress=false", "preflight.skip=[truncation]", "results.keep_adapter=false", "rerun=always", "device=cpu", "~recipe",
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One task on one family: `ran`, `skipped` or `FAILED`; the score, or why."""

    state: str
    said: str
    seconds: float = 0.0

    def __str__(self) -> str:
        return self.said if self.state == "ran" else f"{self.state}: {self.said}"


@cache
def config(*words: str) -> RunConfig:
    """The configuration of `python -m harness WORDS`."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose.checked(hydra_compose("config", overrides=list(words)))


def words(task: str, family: str, root: Path, results: Path) -> list[str]:
    """The command line of one cell."""
    model = BERT if family == "bert" else (f"model=demo_{family}",)
    return [f"task={task}", *SEVERAL.get(task, ()), *model, *BRIEF, f"data.root={root}", f"results.root={results}"]


def walk(task: str, family: str, root: Path, results: Path, method: str) -> Cell:
    """Run one cell."""
    started = time.monotonic()
    if (
        family not in ("bart", "t5")
        and config(f"task={task}", *SEVERAL.get(task, ()), "model=demo_bart").task.kind == "generation"
    ):
        return Cell("skipped", "text to text, no decoder")
    try:
        made = run.run(run.plan(config(*words(task, family, root, results), f"method={method}")))
    except HarnessError as error:
        return Cell("FAILED", str(error).splitlines()[0][:160], time.monotonic() - started)
    except Exception as error:  # noqa: BLE001  (the matrix is what shows it; its traceback is in the run's log.txt)
        return Cell("FAILED", f"{type(error).__name__}: {error}".splitlines()[0][:160], time.monotonic() - started)
    main = made.science["main"]
    return Cell("ran", f"{main['metric']} {main['score']:.1f} on {main['split']}", time.monotonic() - started)


def made_record(root: Path) -> Path:
    """A root with made rows in ReCoRD's official form."""
    passage = "Ann Lee met Bob Ray in Oslo.\n@highlight\nBob Ray likes Oslo"
    entities = [{"start": 0, "end": 6}, {"start": 12, "end": 18}, {"start": 23, "end": 26}]
    answers = [{"start": 23, "end": 26, "text": "Oslo"}]
    lines = [
        json.dumps({"source": "made", "passage": {"text": f"{passage} on day {at}", "entities": entities}, "idx": at,
                    "qas": [{"query": "They both were in @placeholder", "answers": answers, "idx": at}]})
        for at in range(40)
    ]  # fmt: skip
    folder = root / "ReCoRD"
    folder.mkdir(parents=True)
    for name in ("train", "val"):
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def matrix(cells: dict[tuple[str, str], Cell], tasks: Sequence[str], families: Sequence[str]) -> str:
    """Tasks by families, as Markdown."""
    lines = ["| task | " + " | ".join(families) + " |", "| --- " * (len(families) + 1) + "|"]
    lines += [f"| {task} | " + " | ".join(str(cells[task, family]) for family in families) + " |" for task in tasks]
    return "\n".join(lines)


def everywhere(
    tasks: Sequence[str], families: Sequence[str], root: Path, method: str = "lora"
) -> dict[tuple[str, str], Cell]:
    """Every cell, told as it is done."""
    cells = {}
    with tempfile.TemporaryDirectory(prefix="walk-") as scratch:
        made = made_record(Path(scratch, "made"))
        there = any(root.glob("ReCoRD")) or any(root.glob("SuperGLUE/ReCoRD"))
        for task in tasks:
            at = made if task.endswith("/record") and not there else root
            for family in families:
                cell = walk(task, family, at, Path(scratch, "runs"), method)
                cells[task, family] = cell
                print(f"{task:24} {family:8} {cell.seconds:6.1f} s  {cell.state}: {cell.said}", flush=True)
    return cells


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--root", type=Path, required=True, help="data in the official layouts")
    parser.add_argument("--tasks", help="comma-separated; default: all but the demo tasks")
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--method", default="lora")
    parser.add_argument("--markdown", type=Path, help="write the matrix there too")
    options = parser.parse_args(argv)
    compose.register()
    sweep.register()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    every = [name for name in compose.options("task") if not name.startswith("demo/") and name != "glue/multi"]
    tasks = options.tasks.split(",") if options.tasks else every
    families = options.families.split(",")
    started = time.monotonic()
    cells = everywhere(tasks, families, options.root.resolve(), options.method)
    text = matrix(cells, tasks, families)
    count = {state: sum(cell.state == state for cell in cells.values()) for state in ("ran", "skipped", "FAILED")}
    total = ", ".join(f"{number} {state}" for state, number in count.items())
    spent = f"{(time.monotonic() - started) / 60:.1f} minutes ({time.process_time() / 60:.1f} of one core)"
    print(f"\n{text}\n\n{total} in {spent}")
    if options.markdown:
        options.markdown.write_text(f"{text}\n\n{total}\n", encoding="utf-8")
    return 1 if count["FAILED"] else 0


if __name__ == "__main__":
    sys.exit(main())
