"""Several tasks in one run, as configuration: `task=multi task.tasks=[glue/rte,glue/stsb]`, or a suite such as propetl/multi.

Each task stays what its own YAML says (columns, prompt, metric, splits); the run adds how batches are drawn from them
(harness/mixture.py) and what their mean is. Nothing heavy is imported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from harness.errors import ConfigError

Composed = Callable[[list[str]], dict[str, dict[str, Any]]]  # tasks' names -> their sections of the configuration


def whole(section: dict[str, Any], composed: Composed) -> dict[str, Any]:
    """The section `task` with the configurations of its tasks filled in, and with what they agree on.

    Args:
        section: of any task; one without `tasks` comes back as it is.
        composed: gives the sections of other tasks.

    Raises:
        ConfigError: no tasks where there must be some, a task twice, a task that is several, or tasks that cannot be
            trained together (text to text beside classification; other splits that select or report).
    """
    names, several = list(section.get("tasks") or ()), section.get("metric") == "multi"
    if not several and not names:
        return section
    if not several:
        raise ConfigError(f"task.tasks belongs to task=multi, not to task {section.get('name')}")
    if not names:
        raise ConfigError("task=multi needs the tasks of the run: task.tasks=[glue/rte,glue/stsb]")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ConfigError(f"task.tasks names {twice[0]} twice")
    parts = composed(names)
    if inner := [name for name, part in parts.items() if part["metric"] == "multi"]:
        raise ConfigError(f"task.tasks: {inner[0]} is several tasks itself; name single ones")
    generates = _same({name: part["kind"] == "generation" for name, part in parts.items()}, "text to text")
    roles = {role: _same({name: _role(part, role) for name, part in parts.items()}, f"task.{role}")
             for role in ("selects", "reports")}  # fmt: skip
    also = {split: None for part in parts.values() for split in part["also_reports"]}
    kind = "generation" if generates else "multi"
    name = section["name"]
    if name == "multi":  # one column of a table for each choice of tasks
        name = "multi/" + "+".join(short(names).values())
    return section | roles | {"name": name, "kind": kind, "also_reports": list(also), "parts": parts}


def _role(part: dict[str, Any], role: str) -> str:
    return "test" if role == "reports" and part["splits"] != "official" else str(part[role])


def _same(values: dict[str, Any], what: str) -> Any:
    """What all tasks say. Raises ConfigError with one of each opinion where they differ."""
    first = next(iter(values))
    for name, value in values.items():
        if value != values[first]:
            raise ConfigError(
                f"task.tasks: {first} and {name} cannot be one run: {what}: {values[first]} and {value}. Choose tasks "
                "that agree (all of glue/*, all of glue_text/*, ...)"
            )
    return values[first]


def short(names: list[str]) -> dict[str, str]:
    """What scores call each task: the last part of its name where that tells them apart (`rte`), else the whole name."""
    ends = Counter(name.rpartition("/")[2] for name in names)
    return {name: end if ends[end := name.rpartition("/")[2]] == 1 else name for name in names}
