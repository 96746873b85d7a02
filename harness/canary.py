"""`python -m harness.canary`: does this machine, with these versions, still give the numbers it should?

Tiny runs, every value of theirs pinned, on the embedded backbone and task, one thread, CPU, some seeds each. What they are
expected to give is in canary.json, one entry for each set of versions; without an entry for this one the nearest is
taken, and what differs is named. Each run is

    identical     losses and scores to the bit
    rounding      losses equal to 1e-3 of their size throughout: another processor or another library sums in another order
    moved         anything else

and where runs moved, their mean is compared with that of the expected ones by what seeds alone do to it (95 %): within
seed noise (tables of this machine and of others agree in the mean), or beyond it (they do not: find out why first).
Exit code 0, 1 beyond seed noise, 2 bad input. `--record` puts what was found into the file, for a new set of versions.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import atomic, compose, provenance, stats
from harness.errors import ConfigError, HarnessError, unknown
from harness.identity import digest
from harness.paths import PACKAGE

EXPECTED = PACKAGE / "canary.json"
SEEDS = (0, 1, 2)
PINNED = (
    "task=demo/entailment", "model=demo_deberta", "budget=default", "~recipe", "~level", "data.max_train_rows=320",
    "data.max_eval_rows=200", "train.max_steps=20", "train.batch_size=16", "train.learning_rate=3e-3",
    "train.warmup_ratio=0.1", "train.evaluate_every_epochs=null", "train.select=last", "device=cpu", "threads=1",
    "progress=false", "preflight.enabled=false", "wandb.mode=disabled", "results.checkpoint_seconds=null",
    "results.keep_adapter=false",
)  # fmt: skip
RUNS = {
    "lora": ("method=lora", "method.r=4"),
    "adalora": ("method=adalora", "method.warmup_steps=4", "method.final_steps=6", "method.interval_steps=2"),
    "full": ("method=full", "train.learning_rate=5e-4"),
}
IDENTICAL, ROUNDING, MOVED = "identical", "rounding", "moved"
TOLERANCE = 1e-3  # of a loss: what sums in another order grow to within 20 updates is far below, a real change above

Found = dict[str, Any]  # score (in percent), losses (one an update)


def environment() -> dict[str, Any]:
    """What numbers depend on beside the command: versions, Python, kind of machine; and a digest of our own code."""
    known = provenance.code({})
    python = ".".join(platform.python_version_tuple()[:2])
    return {
        "versions": known["versions"],
        "python": python,
        "machine": platform.machine(),
        "code": digest(known["modules"]),
    }


def made(name: str, seed: int, store: Path) -> Found:
    """One of the tiny runs, made now."""
    from harness import run

    words = [*PINNED, *RUNS[name], f"seed={seed}", f"results.root={store}"]
    science = run.run(run.plan(compose.composed(words))).science
    return {"score": science["main"]["score"], "losses": science["losses"]}


def entries(path: Path) -> list[dict[str, Any]]:
    """What is expected, an entry a set of versions. Raises ConfigError for a file that holds something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return [one for one in found if one["runs"].keys() and one["environment"]["versions"].keys()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} does not hold the canary's expected values ({error}); --record makes it") from error


def differences(expected: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """What of an environment is not as it was, in words."""
    then, now = expected["versions"], here["versions"]
    said = [f"{name} {now.get(name)} (expected {then.get(name)})" for name in sorted(then.keys() | now.keys())
            if then.get(name) != now.get(name)]  # fmt: skip
    said += [
        f"{key} {here[key]} (expected {expected[key]})" for key in ("python", "machine") if here[key] != expected[key]
    ]
    return said + ["this project's code"] * (here["code"] != expected["code"])


def nearest(known: list[dict[str, Any]], here: dict[str, Any]) -> dict[str, Any]:
    """The entry whose environment differs least; the newest of equals. Raises ConfigError where there is none."""
    if not known:
        raise ConfigError("no values are expected yet; --record makes them")
    return min(reversed(known), key=lambda entry: len(differences(entry["environment"], here)))


def likeness(found: Found, expected: Found) -> str:
    """IDENTICAL, ROUNDING or MOVED."""
    if found == expected:
        return IDENTICAL
    pairs = list(zip(found["losses"], expected["losses"], strict=False))
    close = all(abs(a - b) <= TOLERANCE * max(abs(b), 1e-3) for a, b in pairs)
    return ROUNDING if close and len(found["losses"]) == len(expected["losses"]) else MOVED


def beyond_noise(found: Sequence[Found], expected: Sequence[Found]) -> tuple[float, bool]:
    """The mean difference in the score, in points, and whether seeds alone would seldom (5 %) make one so large."""
    ours, theirs = [one["score"] for one in found], [one["score"] for one in expected]
    compared = stats.welch_t(ours, theirs, resolution=0.5)  # a row of 200
    return compared.difference, compared.p < 0.05


def report(found: dict[str, list[Found]], expected: dict[str, Any]) -> bool:
    """Print run by run what was found. Returns whether anything lies beyond seed noise."""
    drifted = False
    print(f"{'run':<16}{'score':>8}{'expected':>10}{'largest loss difference':>26}  verdict")
    for name, runs in found.items():
        then = [expected[name][str(seed)] for seed in SEEDS]
        kinds = [likeness(one, other) for one, other in zip(runs, then, strict=True)]
        for seed, one, other, kind in zip(SEEDS, runs, then, kinds, strict=True):
            gap = max(abs(a - b) for a, b in zip(one["losses"], other["losses"], strict=False))
            print(f"{name + f' seed {seed}':<16}{one['score']:>8.2f}{other['score']:>10.2f}{gap:>26.2g}  {kind}")
        if MOVED in kinds:
            difference, beyond = beyond_noise(runs, then)
            drifted |= beyond
            print(f"{name}: the mean moved by {difference:+.2f} points, {'BEYOND' if beyond else 'within'} seed noise")
    return drifted


def main(argv: Sequence[str] | None = None) -> int:
    """Make the runs, compare or record; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m harness.canary", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run", nargs="*", help=f"only these of {', '.join(RUNS)}")
    parser.add_argument("--record", action="store_true", help="expect from now on what is found, with these versions")
    asked = parser.parse_args(argv)
    try:
        if strange := [name for name in asked.run if name not in RUNS]:
            raise ConfigError(unknown("run", strange[0], RUNS))
        here, names = environment(), asked.run or list(RUNS)
        entry = None if asked.record else nearest(entries(EXPECTED), here)
        with tempfile.TemporaryDirectory() as store:
            found = {name: [made(name, seed, Path(store)) for seed in SEEDS] for name in names}
        if entry is None:
            _record(found, here)
            return 0
        differs = differences(entry["environment"], here)
        print(
            f"expected values made with {', '.join(differs)} other than here"
            if differs
            else "versions and code as expected"
        )
        return int(report(found, entry["runs"]))
    except (HarnessError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _record(found: dict[str, list[Found]], here: dict[str, Any]) -> None:
    """Put what was found into the file; an entry of the same versions is replaced."""
    if found.keys() != RUNS.keys():
        raise ConfigError(f"--record takes all of {', '.join(RUNS)}")
    known = entries(EXPECTED) if EXPECTED.is_file() else []
    kept = [one for one in known if {**one["environment"], "code": ""} != {**here, "code": ""}]
    runs = {name: {str(seed): one for seed, one in zip(SEEDS, every, strict=True)} for name, every in found.items()}
    atomic.write(EXPECTED, atomic.to_json([*kept, {"environment": here, "runs": runs}]))
    print(f"{EXPECTED} expects this from now on: {len(kept) + 1} sets of versions")


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    raise SystemExit(main())
