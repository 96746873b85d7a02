"""Bad input, by the thousand: `python scripts/fuzz.py [--inputs 10000] [--seed 0]`. Counts what was tried and what went wrong.

Words of a command line, keys and values of every YAML, recipe rows, bytes of data files, record files, published tables,
and whole commands up to the run itself. Right is a result or a HarnessError, which a command turns into one message
and exit code 2. Wrong is any other exception (a raw traceback), another exit code of a command, or more than SECONDS for
one input (a hang).
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from inputs import SURFACES

from harness import compose, sweep
from harness.errors import HarnessError

SECONDS = 20
SHARES = {
    "command line": 6,
    "whole command": 4,
    "yaml": 8,
    "recipe": 10,
    "data": 27,
    "record": 27,
    "table": 18,
}  # percent


def _late(*arguments: Any) -> None:
    raise TimeoutError(f"more than {SECONDS} seconds for one input")


def tried(name: str, inputs: int, start: int) -> tuple[Counter[str], dict[str, str]]:
    """How inputs to one surface ended, and every kind of wrong end with its traceback."""
    counted: Counter[str] = Counter()
    wrong: dict[str, str] = {}

    @seed(start)
    @settings(
        max_examples=inputs,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def attempt(data: Any) -> None:
        with tempfile.TemporaryDirectory() as folder:
            signal.alarm(SECONDS)
            try:
                SURFACES[name](data, Path(folder))
                counted["accepted"] += 1
            except HarnessError:
                counted["refused"] += 1
            except (Exception, RecursionError) as error:  # what this script is looking for
                if type(error).__module__.startswith("hypothesis"):
                    raise
                counted["wrong"] += 1
                last = traceback.extract_tb(error.__traceback__)[-1]
                wrong.setdefault(
                    f"{type(error).__name__} {Path(last.filename).name}:{last.lineno}", traceback.format_exc(limit=-8)
                )
            finally:
                signal.alarm(0)

    attempt()
    return counted, wrong


def main() -> None:
    """All surfaces, a table, and exit code 1 where anything went wrong."""
    parser = argparse.ArgumentParser(prog="python scripts/fuzz.py", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=SURFACES, action="append")
    arguments = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    signal.signal(signal.SIGALRM, _late)
    compose.register()
    sweep.register()
    total: Counter[str] = Counter()
    print(f"{'surface':<14}{'inputs':>8}{'accepted':>10}{'refused':>9}{'wrong':>7}")
    for name in arguments.only or SURFACES:
        counted, wrong = tried(name, max(1, arguments.inputs * SHARES[name] // 100), arguments.seed)
        total += counted
        print(
            f"{name:<14}{counted.total():>8}{counted['accepted']:>10}{counted['refused']:>9}{counted['wrong']:>7}",
            flush=True,
        )
        for kind, text in wrong.items():
            print(f"  {kind}\n    " + "\n    ".join(text.splitlines()[-9:]), flush=True)
    print(f"{'all':<14}{total.total():>8}{total['accepted']:>10}{total['refused']:>9}{total['wrong']:>7}")
    raise SystemExit(1 if total["wrong"] else 0)


if __name__ == "__main__":
    main()
