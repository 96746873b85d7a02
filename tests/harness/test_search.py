"""A search: equal trials, replayed from the store, chosen on the selecting split alone, told in the record."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from harness import record, search, study
from harness.errors import ConfigError
from harness.record import Record

optuna = pytest.importorskip("optuna")
ROOT = Path(__file__).parents[2]
# In place of training: on validation a low learning rate is best, on test a high one. Method ia3 always fails.
WORKERS = """
import sys
from dataclasses import asdict
from harness import record, search, workers
from harness.record import Record

def work(self, runs):
    for one in runs:
        rate = one.config.train.learning_rate
        print("made", one.config.method["name"], one.config.seed, rate, one.config.results.root)
        state = "FAILED" if one.config.method["name"] == "ia3" else "DONE"
        science = {"main": {"split": "test", "metric": "accuracy", "score": 0.0},
                   "scores": {"validation": {"accuracy": -rate}, "test": {"accuracy": rate}}}
        one.folder.mkdir(parents=True)
        record.write(one.folder, Record(one.id, state, asdict(one.config), asdict(one.config), {}, science=science,
                                        remarks=["a subset"]))

workers.LocalWorkers.work = work
from harness import sweep
sweep.say = lambda *a, **k: None
raise SystemExit(search.main(sys.argv[1:]))
"""


def searched(root, *words, code=0):
    done = subprocess.run([sys.executable, "-c", WORKERS, *words, f"results.root={root}"], cwd=ROOT, timeout=120,
                          env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True)  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def trials_of(root):
    return [json.loads(path.read_text()) for path in Path(root).glob("*/record.json")]


def test_equal_trials_replayed_from_the_store_and_chosen_on_the_selecting_split(tmp_path):
    words = ["method=lora,bitfit", "train.learning_rate=tag(log,interval(1e-4,1e-2))", "seed=5,6", "--batch", "3"]
    out = searched(tmp_path / "runs", *words, "--trials", "3")
    made = [record["config"] for record in trials_of(tmp_path / "runs.trials")]
    rates = {name: sorted(one["train"]["learning_rate"] for one in made if one["method"]["name"] == name)
             for name in ("lora", "bitfit")}  # fmt: skip
    assert len(rates["lora"]) == len(rates["bitfit"]) == 3 and {one["seed"] for one in made} == {5}
    best = trials_of(tmp_path / "runs")
    assert len(best) == 4 and {one["config"]["seed"] for one in best} == {5, 6}
    for one in best:
        assert one["config"]["train"]["learning_rate"] == rates[one["config"]["method"]["name"]][0]
        assert one["config"]["recipe"]["trials"] == 3
    assert out.count("the best of 3 trials") == 2
    more = searched(tmp_path / "runs", *words, "--trials", "6")
    assert sum(".trials" in line for line in more.splitlines() if line.startswith("made")) == 6
    for one in trials_of(tmp_path / "runs"):  # also those that were there before
        if one["config"]["recipe"]["trials"] == 6:
            assert any("chosen by 6 trials on validation" in said for said in one["remarks"]) or one["remarks"] == [
                "a subset"
            ]
            assert not any("chosen by 3 trials" in said for said in one["remarks"])


def test_a_finite_space_is_tried_once_and_failures_are_trials_too(tmp_path):
    out = searched(tmp_path / "runs", "method=bitfit", "train.learning_rate=choice(1e-3,2e-3)", "--trials", "9")
    assert len(trials_of(tmp_path / "runs.trials")) == 2 and "the best of 2 trials" in out
    out = searched(tmp_path / "runs", "method=ia3", "train.learning_rate=choice(1e-3,2e-3)", code=2)
    assert "no trial ended with a score" in out


def test_a_run_that_was_there_says_how_many_trials_chose_it(tmp_path):
    from dataclasses import replace

    from specs import composed

    config = composed(f"results.root={tmp_path}", "recipe.trials=4")
    (tmp_path / "a").mkdir()
    known = {"recipe": {"trials": 0}}
    record.write(tmp_path / "a", Record("a", "DONE", {}, known, {}, science={"main": {}}, remarks=["a subset"]))
    for count in (4, 9):
        one = search.Wanted("a", replace(config, recipe=replace(config.recipe, trials=count)), ())
        search.noted(one)
        stored = record.read(tmp_path / "a")
        assert stored.remarks == ["a subset", f"values chosen by {count} trials on validation (harness.search)"]
        assert stored.config["recipe"]["trials"] == count


def test_a_search_hears_of_the_selecting_split_alone(tmp_path):
    from specs import composed

    config = composed(f"results.root={tmp_path}")
    one = search.Wanted("a", config, ())
    assert search.selected(one) is None
    science = {"main": {"split": "test", "metric": "accuracy", "score": 99.0},
               "scores": {"test": {"accuracy": 99.0}, "validation": {"accuracy": 40.0}}}  # fmt: skip
    (tmp_path / "a").mkdir()
    record.write(tmp_path / "a", Record("a", "DONE", {}, {}, {}, science=science))
    assert search.selected(one) == 40.0


def space(word):
    return OverridesParser.create().parse_override(word).value()


def test_a_whole_number_stays_one_and_a_rate_is_short():
    trial = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0)).ask()
    rate = study.suggest(trial, "rate", space("rate=tag(log,interval(1e-5,1e-2))"))
    assert len(rate) <= 9 and 1e-5 <= float(rate) <= 1e-2
    from hydra import compose, initialize_config_dir

    from harness import paths

    with initialize_config_dir(str(paths.CONF), version_base="1.3"):
        config = compose("config", ["method=lora"])
    planned = study.plan([], {"method.r": space("method.r=interval(2,8)")}, config, 5, 0)
    assert planned.ask()[1][0].removeprefix("method.r=").isdigit()


@pytest.mark.parametrize(
    ("word", "said"),
    [("a=interval(3,2)", "lower end stands first"), ("a=tag(log,interval(0,1))", "begin above 0")],
)
def test_an_interval_that_holds_nothing(word, said):
    with pytest.raises(ConfigError, match=said):
        study.ends("a", space(word))
