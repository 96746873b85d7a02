"""Where a number comes from: the code that made it, the versions, the commit, the device; and whether that still holds.

Only sources are read here, nothing heavy is imported: the question "is the stored record still what this code would
give?" is asked before torch is.
"""

from __future__ import annotations

import ast
import hashlib
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from harness.paths import PACKAGE
from harness.record import Record

ROOT = PACKAGE.parent
NUMBER_MAKERS = (
    "harness.task",
    "harness.data",
    "harness.metrics",
    "harness.model",
    "harness.train",
    "harness.joint",
    "harness.evaluate",
)
# Reached from those, and no number changes with them: the maps of the packages, the schema (what a run's values are is
# in its identity), messages, signals, the store, and where files are.
NUMBERLESS = {"methods", "harness"} | {
    f"harness.{name}"
    for name in (
        "atomic",
        "config",
        "device",
        "errors",
        "interrupt",
        "paths",
        "provenance",
        "ranges",
        "record",
        "scrub",
        "snapshot",
    )
}
PACKED = ("nf4", "fp4", "int8")  # weights that bitsandbytes holds
PINNED = ("torch", "transformers", "peft", "accelerate", "tokenizers", "datasets", "numpy", "scipy", "rouge-score")


def _source(module: str) -> Path | None:
    """The file of one of our own modules, without importing it; None for anybody else's."""
    if module.split(".")[0] not in ("harness", "methods"):
        return None
    stem = ROOT.joinpath(*module.split("."))
    found = [path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.is_file()]
    return found[0] if found else None


@cache
def _parsed(path: Path) -> tuple[str, tuple[str, ...]]:
    """Digest of what a source file does (comments and docstrings apart), and the modules it imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imports: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports += [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            imports += [node.module, *(f"{node.module}.{name.name}" for name in node.names)]
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            body[0] = ast.Pass()
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16], tuple(imports)


def _closure(modules: tuple[str, ...]) -> dict[str, str]:
    """Digests of these modules and of all of ours that they import, by module name."""
    found: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        path = _source(module)
        if path is None or module in found:
            continue
        found[module], imports = _parsed(path)
        waiting += imports
    return {name: digest for name, digest in sorted(found.items()) if name not in NUMBERLESS}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def code(method: dict[str, Any], quantization: dict[str, Any] | None = None) -> dict[str, Any]:
    """The code that makes a run's numbers: digests of our modules that its method and the loop reach, and versions.

    The version of bitsandbytes counts where the backbone is quantised by it.
    """
    target = str(method.get("_target_", "")).rsplit(".", 1)[0]
    packages = (*PINNED, "bitsandbytes") if (quantization or {}).get("weights") in PACKED else PINNED
    return {
        "modules": _closure((*NUMBER_MAKERS, target)),
        "versions": {package: _version(package) for package in packages},
        "python": platform.python_version(),
    }


def stale(record: Record) -> list[str]:
    """What differs between the code and versions that made a record and the present ones; [] where nothing does."""
    now, then = code(record.identity.get("method", {}), record.identity.get("quantization")), record.code
    differs = []
    for kind in ("modules", "versions"):
        before, after = then.get(kind, {}), now[kind]
        differs += [name for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name)]
    if then.get("python") != now["python"]:
        differs.append("python")
    return differs


def _git(*words: str) -> str | None:
    """What git says of the checkout this code stands in, or None where there is no checkout or no git."""
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def commit() -> dict[str, Any]:
    """The commit of the checkout this code was run from, and whether tracked files differ from it."""
    if not (ROOT / ".git").exists():
        return {"commit": None, "dirty": None}
    changes = _git("status", "--porcelain", "--untracked-files=no")
    return {"commit": _git("rev-parse", "HEAD"), "dirty": None if changes is None else bool(changes)}


def processor() -> str:
    """The CPU's model name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def command() -> list[str]:
    """The words this process was started with; the home directory shows as ~."""
    home = os.path.expanduser("~")
    return [word.replace(home, "~") if len(home) > 1 else word for word in ["python", "-m", "harness", *sys.argv[1:]]]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def begin() -> dict[str, Any]:
    """What is known when a run starts: commit, command, system, time. No host name, no user's name."""
    return commit() | {"command": command(), "system": f"{platform.system()} {platform.machine()}", "begun": _now()}


def ended(begun: dict[str, Any], *, device: str) -> dict[str, Any]:
    """The same with what is known at the end: the device's name, CPU threads (sums depend on them), time."""
    import torch

    return begun | {"device": device, "threads": torch.get_num_threads(), "ended": _now()}
