"""What scripts/rehearsal_adalora.py kept, as a published table.

python scripts/rehearsal_table.py authors.json -o results/published/rehearsal_adalora.toml
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

TABLE = """\
# Written by scripts/rehearsal_adalora.py from runs of the authors' library, QingruZhang/AdaLoRA at commit {commit}.
title = "Rehearsal: the authors' AdaLoRA library on MiniLM and MRPC"
source = "QingruZhang/AdaLoRA at commit {commit}, run by scripts/rehearsal_adalora.py with torch {torch}, one CPU thread"
model = "minilm"
split = "validation"
selection = "last"
statistic = "mean"
seeds_claimed = {seeds}
seeds_inferred = {seeds}
seeds_reason = "Run here: seeds {numbers}."
margin = 1.0
margin_reason = "The margin of MRPC in the table adalora_glue; one of its 408 examples is 0.25 points."
words = ["recipe_variant=rehearsal"]
remarks = [
  "Not a table of a paper: numbers of the authors' unmodified library, made here, on data and a backbone that are at hand.",
  "Settings: conf/recipe/rehearsal.toml, the same for both sides; {steps} updates; {kept} triplets left of 144.",
  "Rows, tokens and the order of batches of a seed are the same on both sides; initial values and dropout are not.",
  "Accuracy, seed by seed: {accuracy}. F1: {f1}.",
  "Parameters: in use at the end, E counted; mean over the seeds, from {low:,} to {high:,}; the head (148,610) apart.",
]

[counts]
params = "# Params"
{columns}
[[rows]]
key = "adalora_authors"
title = "AdaLoRA, authors' library"
method = "adalora"
cells = {{{cells}}}
counts.params = {{printed = "{params:,}", remark = "Which ranks remain is learnt, so no formula gives it."}}
"""


def table(kept: dict[str, Any]) -> str:
    """The published table of what scripts/rehearsal_adalora.py kept."""
    runs = sorted(kept["runs"], key=lambda found: found["seed"])
    names = {"accuracy": "MRPC acc", "f1": "MRPC F1"}
    cells = {name: [found["scores"][name] for found in runs] for name in names}
    said = {name: ", ".join(f"{value:.2f}" for value in values) for name, values in cells.items()}
    params = [found["active_params"] for found in runs]
    columns = "".join(
        f'\n[[columns]]\nkey = "{name}"\ntitle = "{title}"\ntask = "glue/mrpc"\nmetric = "{name}"\n'
        + ("items = 408\n" if name == "accuracy" else "")
        for name, title in names.items()
    )
    filled = ", ".join(f"{name} = {{value = {mean(v):.2f}, std = {stdev(v):.2f}}}" for name, v in cells.items())
    return TABLE.format(
        commit=kept["commit"][:7], torch=kept["torch"], seeds=len(runs), numbers=", ".join(str(r["seed"]) for r in runs),
        accuracy=said["accuracy"], f1=said["f1"], columns=columns, cells=filled, params=round(mean(params)),
        low=min(params), high=max(params), steps=runs[0]["steps"], kept=sum(runs[0]["ranks"].values()),
    )  # fmt: skip


def main() -> None:
    """Write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, help="the JSON of scripts/rehearsal_adalora.py")
    parser.add_argument("-o", dest="output", type=Path, required=True)
    options = parser.parse_args()
    options.output.write_text(table(json.loads(options.runs.read_text())), encoding="utf-8")


if __name__ == "__main__":
    main()
