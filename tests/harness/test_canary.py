"""The canary: what it expects stands in the package, and it tells rounding, seed noise and drift apart."""

import json
import subprocess
import sys

import pytest

from harness import canary
from harness.errors import ConfigError


def runs(scores, shift=0.0):
    return [{"score": score, "losses": [0.7 + shift, 0.6, 0.5]} for score in scores]


def test_a_run_here_is_what_the_package_expects(tmp_path):
    """Another processor may round otherwise; other code or versions than any entry's say so."""
    here, known = canary.environment(), canary.entries(canary.EXPECTED)
    entry = canary.nearest(known, here)
    if differs := canary.differences(entry["environment"], here):
        pytest.skip(f"expected values are of {', '.join(differs)}; python -m harness.canary --record makes new ones")
    found = canary.made("lora", 0, tmp_path)
    assert canary.likeness(found, entry["runs"]["lora"]["0"]) in (canary.IDENTICAL, canary.ROUNDING)


def test_every_run_is_expected_for_every_seed():
    for entry in canary.entries(canary.EXPECTED):
        assert entry["runs"].keys() == canary.RUNS.keys()
        for seeds in entry["runs"].values():
            assert list(seeds) == [str(seed) for seed in canary.SEEDS]
            assert all(len(one["losses"]) == 20 and 0 <= one["score"] <= 100 for one in seeds.values())


def test_kinds():
    [one] = runs([60.0])
    assert canary.likeness(one, dict(one)) == canary.IDENTICAL
    assert canary.likeness(runs([60.5], 1e-6)[0], one) == canary.ROUNDING
    assert canary.likeness(runs([60.0], 0.01)[0], one) == canary.MOVED
    assert canary.likeness({"score": 60.0, "losses": [0.7]}, one) == canary.MOVED


@pytest.mark.parametrize(
    ("scores", "beyond", "says"),
    [((60.0, 63.0, 66.0), False, "moved by +0.00 points, within seed noise"),
     ((62.0, 65.0, 68.5), False, "moved by +2.17 points, within seed noise"),
     ((80.0, 83.0, 86.0), True, "moved by +20.00 points, BEYOND seed noise")],
)  # fmt: skip
def test_drift_is_told_from_seed_noise(capsys, scores, beyond, says):
    expected = {"lora": {str(seed): one for seed, one in zip(canary.SEEDS, runs((60.0, 63.0, 66.0)), strict=True)}}
    assert canary.report({"lora": runs(scores, 0.1)}, expected) is beyond
    assert says in capsys.readouterr().out
    assert canary.report({"lora": runs((60.0, 63.0, 66.0))}, expected) is False
    assert "points" not in capsys.readouterr().out


def test_the_nearest_versions_are_taken_and_what_differs_is_named():
    here = canary.environment()
    other = here | {"versions": here["versions"] | {"torch": "9.9"}, "python": "2.7"}
    third = here | {"versions": here["versions"] | {"torch": "8.8"}}
    known = [{"environment": other}, {"environment": third}]
    assert canary.nearest(known, here)["environment"] == third
    assert canary.differences(third, here) == [f"torch {here['versions']['torch']} (expected 8.8)"]
    assert canary.differences(here | {"code": "x"}, here) == ["this project's code"]
    with pytest.raises(ConfigError, match="--record makes them"):
        canary.nearest([], here)


def test_recording_replaces_the_same_versions(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(canary, "EXPECTED", tmp_path / "canary.json")
    here = canary.environment()
    found = {name: runs((60.0, 63.0, 66.0)) for name in canary.RUNS}
    canary._record(found, here | {"code": "before"})
    canary._record(found, here | {"python": "3.99"})
    canary._record(found, here)
    stored = json.loads((tmp_path / "canary.json").read_text())
    assert [one["environment"] for one in stored] == [here | {"python": "3.99"}, here]
    with pytest.raises(ConfigError, match="--record takes all of lora"):
        canary._record({"lora": found["lora"]}, here)
    (tmp_path / "canary.json").write_text("[1]")
    with pytest.raises(ConfigError, match="does not hold the canary's expected values"):
        canary.entries(tmp_path / "canary.json")


def test_the_command_refuses_an_unknown_run():
    done = subprocess.run([sys.executable, "-m", "harness.canary", "lroa"], capture_output=True, text=True)
    assert done.returncode == 2 and "Did you mean lora?" in done.stderr and "Traceback" not in done.stderr
