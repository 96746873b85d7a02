"""A small cut of scripts/fuzz.py and of what it found; the whole of it is `python scripts/fuzz.py`."""

import signal
import sys
from pathlib import Path

import pytest

from harness import compose, recipe, rows, sweep
from harness.errors import ConfigError

SCRIPTS = Path(__file__).parents[2] / "scripts"
CUT = {"command line": 12, "whole command": 6, "yaml": 6, "recipe": 60, "data": 120, "record": 60, "table": 60}


@pytest.fixture
def fuzz(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import fuzz

    compose.register()
    sweep.register()
    before = signal.signal(signal.SIGALRM, fuzz._late)
    yield fuzz
    signal.signal(signal.SIGALRM, before)
    for name in ("fuzz", "inputs", "commands"):
        sys.modules.pop(name)


@pytest.mark.parametrize("surface", CUT)
def test_bad_input_is_refused_in_our_words(fuzz, surface):
    assert list(fuzz.SURFACES) == list(CUT)
    counted, wrong = fuzz.tried(surface, CUT[surface], start=7)
    assert not wrong, wrong
    assert counted.total() == CUT[surface] and counted["refused"] > 0


def test_what_is_wrong_is_noticed(fuzz, monkeypatch):
    monkeypatch.setitem(fuzz.SURFACES, "table", lambda data, folder: [][0])
    counted, wrong = fuzz.tried("table", 3, start=0)
    assert counted["wrong"] == counted.total() > 0 and "IndexError" in str(wrong)


def test_options_that_hydra_cannot_compose(fuzz):
    for word in ("budget=[1]", "~hydra/launcher=[0]", "task={a: 1}"):
        with pytest.raises(ConfigError):
            compose.composed([word])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("rows = ['a']", "a row holds keys and values, found 'a'"),
        ("rows = 3", r"rows must be rows, \[\[rows\]\], found 3"),
        ("[[rows]]\nsource = 1\nset = {}", "source must be a text, found 1"),
        ("[[rows]]\nsource = ''\nmethod = [1]\nset = {}", r"method must be a text or a list of texts, found \[1\]"),
        ("[[rows]]\nsource = ''\nset = 3", "set must hold keys and values, found 3"),
        ("[[rows]]\nsource = ''\nset = {}\nseeds = 3", "seeds must hold a list, found 3"),
        ("[[rows]]\nsource = ''\nset = {a = 1}\ntags = {a = [1]}", "tags are script"),
    ],
)
def test_malformed_rows(tmp_path, text, says):
    (tmp_path / "x.toml").write_text(text)
    rows.read.cache_clear()
    with pytest.raises(ConfigError, match=says):
        recipe._checked(tmp_path / "x.toml")
