"""The direction of imports, drawn from the sources: an arrow that is not drawn here fails."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ARROWS = {
    "errors": set(),
    "paths": {"errors"},
    "atomic": set(),
    "schema": {"errors"},
    "ranges": {"errors"},
    "config": {"errors", "ranges", "schema"},
    "identity": {"config"},
    "device": {"errors", "provenance"},
    "scrub": set(),
    "record": {"atomic", "errors", "scrub"},
    "interrupt": set(),
    "distributed": {"device", "errors", "interrupt"},
    "checkpoint": {"atomic", "distributed", "errors"},
    "claim": {"atomic", "errors"},
    "provenance": {"paths", "record"},
    "publish": {"atomic", "device", "errors", "evaluate", "identity", "interrupt", "record", "scrub"},
    "progress": {"mirror", "record"},
    "rows": {"errors"},
    "level": {"paths", "rows"},
    "recipe": {"errors", "level", "paths", "rows"},
    "several": {"errors"},
    "shell": {"errors", "paths"},
    "allowed": {"errors", "shell"},
    "compose": {"allowed", "config", "errors", "paths", "recipe", "several"},
    "files": {"errors", "schema"},
    "splits": {"errors"},
    "spans": set(),
    "shapes": {"errors", "spans"},
    "instructions": {"errors", "shapes"},
    "columns": {"errors", "files", "schema", "shapes", "splits"},
    "dataset": {"columns", "errors", "files", "schema", "snapshot"},
    "answers": set(),
    "task": {"answers", "columns", "dataset", "errors", "files", "instructions", "paths", "schema", "splits"},
    "scores": set(),
    "metrics": {"errors", "schema", "scores", "spans"},
    "data": {"errors", "splits"},
    "mixture": {"data"},
    "tokens": {"atomic", "data", "identity", "mixture", "splits", "task"},
    "snapshot": {"errors"},
    "codes": {"errors"},
    "packed": {"codes", "errors"},
    "quantization": {"codes", "config", "packed"},
    "directory": {"errors", "identity", "paths", "schema", "snapshot"},
    "targets": {"errors"},
    "architecture": {"directory", "errors", "schema"},
    "model": {"architecture", "config", "errors", "identity", "mixture", "quantization", "targets", "task"},
    "budget": {"config", "errors", "level", "model", "rows", "task"},
    "cost": set(),
    "losses": {"data"},
    "frozen": {"errors"},
    "probe": {"config", "data", "errors", "feed", "task", "mixture"},
    "checks": {"frozen", "losses", "optimizer", "probe"},
    "fits": {"budget", "checks", "data", "errors", "metrics", "mixture", "probe", "schedule"},
    "preflight": {"checkpoint", "checks", "config", "errors", "fits", "probe"},
    "schedule": {"config"},
    "optimizer": {"config", "errors", "schedule"},
    "feed": {"config", "data", "errors", "losses", "mixture"},
    "monitor": {"errors"},
    "latency": {"data", "feed", "kept", "mixture"},
    "train": {
        "checkpoint", "config", "data", "distributed", "errors", "execution", "feed", "loop", "losses", "mixture",
        "monitor", "schedule", "update",
    },
    "kept": set(),
    "features": {"errors", "kept"},
    "execution": {"config", "errors", "features"},
    "work": {"data", "losses"},
    "estimate": {
        "budget", "compose", "config", "device", "directory", "errors", "execution", "mixture", "model", "provenance",
        "quantization", "task", "work",
    },
    "loop": {"checkpoint", "config", "errors", "interrupt", "monitor", "optimizer", "schedule", "update"},
    "update": {"device", "distributed", "errors", "feed", "losses", "optimizer"},
    "evaluate": {"answers", "config", "data", "metrics", "mixture", "schema", "several", "task"},
    "joint": {"distributed", "identity", "interrupt", "monitor"},
    "pack": {"config", "errors", "identity", "interrupt", "joint", "wanted"},
    "remarks": {"config", "pack", "recipe", "task"},
    "run": {
        "budget", "checkpoint", "claim", "config", "cost", "device", "directory", "distributed", "errors", "evaluate",
        "frozen", "identity", "latency", "mirror", "model", "preflight", "probe", "progress", "provenance", "publish",
        "quantization", "record", "remarks", "selection", "task", "tokens", "train",
    },
    "selection": {"evaluate", "itemwise", "record"},
    "submission": {"errors", "metrics", "schema", "splits"},
    "predict": {
        "answers", "atomic", "compose", "config", "device", "directory", "errors", "evaluate", "mixture", "model",
        "paths", "record", "schema", "splits", "submission", "sweep", "task", "tokens",
    },
    "make": {"claim", "config", "device", "distributed", "errors", "interrupt", "progress", "provenance", "record", "run"},
    "jobs": {"atomic", "errors", "scrub"},
    "trackers": set(),
    "mirror": {"config", "identity", "interrupt", "scrub", "trackers"},
    "state": {"atomic", "claim", "errors", "index", "jobs", "progress", "provenance", "record"},
    "composer": {"allowed", "compose"},
    "memory": {"atomic", "errors", "identity", "paths"},
    "wanted": {
        "compose", "composer", "config", "device", "directory", "errors", "identity", "memory", "paths", "schema", "task",
    },
    "standing": {"record", "state", "wanted"},
    "cancel": {"errors", "jobs", "standing"},
    "workers": {"claim", "device", "distributed", "errors", "joint", "make", "pack", "record", "run", "scrub", "wanted"},
    "slurm": {"claim", "config", "errors", "interrupt", "jobs", "make", "record", "run", "wanted", "workers"},
    "forecast": {"record"},
    "launch": {
        "__main__", "cancel", "compose", "errors", "forecast", "make", "paper", "paths", "published", "record", "standing",
        "state", "sweep", "trial",
    },
    "trial": {"progress", "record", "wanted", "workers"},
    "study": {"errors"},
    "search": {"claim", "errors", "launch", "record", "remarks", "state", "study", "sweep", "wanted"},
    "status": {"launch", "mirror", "paths", "record", "standing", "state", "sweep", "wanted"},
    "sweep": {"errors", "make", "pack", "record", "slurm", "standing", "state", "wanted", "workers"},
    "stats": set(),
    "itemwise": {"stats"},
    "canary": {"atomic", "compose", "errors", "identity", "paths", "provenance", "run", "stats"},
    "bundle": {"record"},
    "labels": set(),
    "cells": {"bundle", "identity", "labels", "record", "stats"},
    "skim": {"errors", "record"},
    "examples": {"cells", "itemwise", "scores"},
    "versus": {"cells", "examples", "itemwise", "stats"},
    "grid": {"cells", "examples", "versus"},
    "layout": {"cells", "grid", "stats"},
    "index": {"atomic", "bundle", "cells", "identity", "paths", "record", "skim"},
    "paper": set(),
    "published": {"errors", "paper", "paths", "schema"},
    "doubts": {"paper"},
    "match": {"bundle", "cells", "identity", "paper", "record"},
    "verdict": {"match", "paper", "stats"},
    "compare": {"bundle", "cells", "examples", "grid", "match", "paper", "stats", "verdict"},
    "fill": {"launch", "compare", "paths", "verdict"},
    "twin": {"compare", "doubts", "fill", "layout", "stats", "verdict"},
    "costs": {"bundle", "identity", "labels", "record"},
    "output": {"atomic", "errors", "layout"},
    "select": {"bundle", "errors", "match", "record"},
    "table": {
        "bundle", "cells", "compare", "costs", "errors", "examples", "grid", "index", "layout", "output", "paths", "provenance",
        "published", "select", "skim", "twin", "versus",
    },
    "ranking": {"stats"},
    "drawing": set(),
    "figures": {"drawing", "ranking"},
    "traces": {"drawing", "record", "stats"},
    "sheet": {
        "bundle", "cells", "compare", "costs", "fill", "grid", "layout", "record", "stats", "twin",
    },
    "page": {"paths", "sheet", "verdict"},
    "runsheet": {
        "costs", "drawing", "examples", "itemwise", "page", "record", "selection", "sheet", "stats", "traces",
    },
    "report": {
        "bundle", "cells", "compare", "drawing", "errors", "examples", "figures", "grid", "output", "page", "paths", "provenance",
        "published", "ranking", "record", "runsheet", "select", "sheet", "traces", "verdict",
    },
    "preview": {"budget", "compose", "directory", "errors", "task"},
    "__main__": {"compose", "distributed", "errors", "make", "pack", "paths", "preview", "sweep"},
}  # fmt: skip
OF_METHODS = {"hooks", "attention", "lowrank", "saved"}


def imported(path: Path) -> set[str]:
    """The modules of ours that a file imports, as dotted names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            packages = node.module in ("harness", "methods")
            found |= {f"{node.module}.{name.name}" for name in node.names} if packages else {node.module}
    return {name for name in found if name.split(".")[0] in ("harness", "methods", "scripts", "tests")}


@pytest.mark.parametrize("path", sorted((ROOT / "harness").glob("*.py")), ids=lambda path: path.stem)
def test_the_harness_imports_along_the_arrows(path):
    if path.stem == "__init__":
        assert not imported(path)
        return
    assert path.stem in ARROWS, f"harness/{path.name} is new: draw its arrows here and in harness/__init__.py"
    for name in imported(path):
        package, _, module = name.partition(".")
        allowed = OF_METHODS if package == "methods" else ARROWS[path.stem]
        assert package in ("harness", "methods"), f"{path.stem} imports {name}"
        assert module.split(".")[0] in allowed, f"{path.stem} -> {name} is not drawn"


def test_methods_know_nothing_of_the_harness():
    for path in (ROOT / "methods").rglob("*.py"):
        foreign = {name for name in imported(path) if not name.startswith("methods")}
        assert not foreign, f"{path} imports {foreign}"
        text = path.read_text()
        assert "hydra" not in text.lower() or "import hydra" not in text
        assert "import omegaconf" not in text and "from omegaconf" not in text


def test_there_is_no_cycle():
    done: set[str] = set()
    waiting = dict(ARROWS)
    while waiting:
        free = [name for name, needs in waiting.items() if needs <= done]
        assert free, f"a cycle among {sorted(waiting)}"
        for name in free:
            done.add(name)
            del waiting[name]
