"""README says what is true: its commands compose, its files exist."""

import re
import shlex
from pathlib import Path

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from harness import compose, sweep
from harness.paths import CONF

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
RUNS = [line.split("#")[0].strip() for line in TEXT.splitlines() if line.startswith("python -m harness ")]


def jobs(words: list[str]) -> list[list[str]]:
    """Every combination of values given with commas."""
    found: list[list[str]] = [[]]
    for word in words:
        key, _, values = word.partition("=")
        found = [[*job, f"{key}={value}"] for job in found
                 for value in ([values] if values.startswith("[") else values.split(","))]  # fmt: skip
    return found


@pytest.mark.parametrize("line", RUNS)
def test_every_command_composes(line):
    words = [word for word in shlex.split(line)[3:] if not word.startswith("-") and word != "job"]
    compose.register()
    sweep.register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for job in jobs(words):
            compose.checked(hydra_compose("config", overrides=job))


def test_there_are_commands():
    assert len(RUNS) >= 6


def test_linked_files_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert target.startswith("http") or (ROOT / target).exists(), target
