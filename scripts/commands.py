"""Words of a command line, drawn by hypothesis, and whole commands made of them: two surfaces of scripts/fuzz.py."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from harness import __main__, compose, make, ranges, run, table
from harness.errors import HarnessError
from harness.paths import CONF

VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**9), 10**9), st.floats(), st.text(max_size=12), st.sampled_from(
        ["", "null", "~", "../../etc/passwd", "${seed}", "${oc.env:HOME}", "${nothing}", "\x00", "-1", "1e400", "\ud800", "[",
         "a,b", "nan"]),
    st.lists(st.integers(), max_size=3), st.dictionaries(st.text(max_size=4), st.integers(), max_size=2),
)  # fmt: skip
GROUPS = ("method", "task", "model", "budget", "recipe_variant", "quantization", "hydra/launcher", "hydra/sweeper")


def _keys(section: Any, prefix: str = "") -> Iterator[str]:
    """Every key of a configuration, dotted."""
    for name, value in section.items():
        yield f"{prefix}{name}"
        if isinstance(value, dict):
            yield from _keys(value, f"{prefix}{name}.")


KEYS = sorted(_keys(yaml.safe_load((CONF / "config.yaml").read_text())))
WORD = st.one_of(
    st.sampled_from(["seed=3", "method=adalora", "train.epochs=2", "task=glue/rte", "~recipe", "model=demo_roberta"]),
    st.builds("{}{}={}".format, st.sampled_from(["", "+", "++", "~"]), st.sampled_from(KEYS), VALUES),
    st.builds("{}={}".format, st.sampled_from(GROUPS), st.one_of(VALUES, st.sampled_from(compose.options("method")))),
    st.builds("{}={}".format, st.text(max_size=10), VALUES),
    st.text(max_size=20),
)


# Every key that holds a number: those with bounds, and what a method, a task and a launcher bring along.
NUMBERS = sorted({
    *ranges.BOUNDS, "method.r", "method.lora_alpha", "method.lora_dropout", "task.temperature", "task.max_length_tokens",
    "task.num_beams", "task.answer_step", "hydra.launcher.workers", "+model.config.hidden_dropout_prob",
    "+model.config.num_attention_heads", "+model.config.hidden_size", "+model.config.layer_norm_eps",
})  # fmt: skip
EXTREMES = ("0", "-1", "0.5", "1", "2", "1e308", "-1e308", "inf", "-inf", "nan", f"{2**31}", f"{2**63}", f"{10**29}", "''",
            "null", "true", "x", "[1]", "{a: 1}")  # fmt: skip
NUMBER = st.builds("{}={}".format, st.sampled_from(NUMBERS), st.sampled_from(EXTREMES))


def command_line(data: Any, folder: Path) -> None:
    """Random overrides: keys that exist with values of any type, groups with any option, and plain noise."""
    compose.composed(data.draw(st.lists(WORD, min_size=1, max_size=3)))


OPTIONS = st.sampled_from(
    ["--cfg", "job", "--help", "--info", "-c", "--resolve", "--package", "--config-name", "x", "--version"]
)
TABLE = st.sampled_from([
    "table=adalora_glue", "table=", "--format", "html", "csv", "--where", "train.select=best", "seed", "--task",
    "demo/entailment", "--root", "results/reference", "--plain", "--pairs", "--costs", "--stale",
])  # fmt: skip


def whole_command(data: Any, folder: Path) -> None:
    """A command in a process of its own, up to where a run would begin: exit code 0, or 2 with a message and no traceback."""
    kind = data.draw(st.sampled_from(["words", "numbers", "numbers", "table"]))
    if kind == "words":
        words, ended = data.draw(st.lists(WORD | OPTIONS, max_size=3)), _ended(_harness, folder)
    elif kind == "numbers":
        words, ended = data.draw(st.lists(NUMBER, min_size=1, max_size=2)), _ended(_harness, folder)
    else:
        words, ended = data.draw(st.lists(TABLE | st.text(max_size=8), max_size=4)), _ended(table.main, folder)
    code = ended([word for word in words if word not in ("-m", "--multirun")])
    said = (folder / "said").read_text(errors="replace")
    refused = code == 2 and ("error: " in said or "usage: " in said)
    if code not in (0, 2) or "Traceback" in said or not (code == 0 or refused):
        raise Wrong(f"exit code {code}: {words!r}\n{said[-1500:]}")
    if code == 2:
        raise HarnessError(said)


class Wrong(Exception):
    """A command that ended as none may."""


def _harness(words: list[str]) -> int:
    """`python -m harness`, with the plan of a run in place of the run."""
    sys.argv = ["harness", *words]
    make.make = lambda config: run.plan(config) and None  # type: ignore[assignment]
    __main__.main()
    return 0


def _ended(command: Callable[[list[str]], int], folder: Path) -> Callable[[list[str]], int]:
    """What runs a command in a forked process and gives its exit code; what it prints lies in `folder`/said."""

    def forked(words: list[str]) -> int:
        if pid := os.fork():
            try:
                return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                raise
        code, said = 1, os.open(folder / "said", os.O_WRONLY | os.O_CREAT)
        os.dup2(said, 1)
        os.dup2(said, 2)
        sys.stdout = sys.stderr = os.fdopen(1, "w", encoding="utf-8", errors="backslashreplace", buffering=1)
        try:
            code = command(words)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        finally:  # Python's own end is not reached: what it would print, and its exit code 1
            if not isinstance(sys.exception(), None | SystemExit):
                traceback.print_exc()
            sys.stdout.flush()
            os._exit(code)

    return forked
