"""Where the package keeps what it reads: configuration, embedded backbones and tasks, published tables."""

from __future__ import annotations

from pathlib import Path

from harness.errors import ConfigError

PACKAGE = Path(__file__).resolve().parent
EMBEDDED = PACKAGE / "embedded"
STORE = Path("results/runs")  # where runs are written to unless results.root says otherwise


def _shipped(in_wheel: str, in_checkout: str) -> Path:
    """A folder that stands inside the package in a wheel and at the top level in a checkout."""
    inside = PACKAGE / in_wheel
    return inside if inside.is_dir() else PACKAGE.parent / in_checkout


CONF = _shipped("conf", "conf")
PUBLISHED = _shipped("literature", "results/published")


def embedded(path: str) -> Path:
    """`embedded:backbones/deberta` -> that directory inside the package; any other path as it is, `~` expanded."""
    scheme, _, inside = path.partition(":")
    return EMBEDDED / inside if scheme == "embedded" else Path(path).expanduser()


def store(root: Path) -> Path:
    """A store to read. Raises ConfigError for one that somebody named and that is not there."""
    if root != STORE and not root.is_dir():
        raise ConfigError(f"{root} is no folder; give the store that runs were written to (results.root)")
    return root
