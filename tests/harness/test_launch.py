"""Desired state: what a table or a grid lacks, what is tried again, what it will cost; planning equals making."""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from harness import forecast, launch, published, record, run, state, trial, workers
from harness.config import RunConfig
from harness.errors import ConfigError
from harness.record import Record
from harness.state import LOST, MISSING, State, Survey
from harness.wanted import Wanted, _seed_apart, rebuilt

ROOT = Path(__file__).parents[2]
ENV = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
SHORT = ["train.max_steps=2", "data.max_train_rows=96", "data.max_eval_rows=40", "progress=false"]


def command(*words, code=0, module="harness.fill", env=ENV):
    done = subprocess.run(
        [sys.executable, "-m", module, *words], capture_output=True, text=True, cwd=ROOT, env=env, timeout=300
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """A store with one lost, one failed and one diverged run, and what a dry run says of a grid with them."""
    from specs import composed

    root = tmp_path_factory.mktemp("store") / "runs"
    config = composed(*SHORT, f"results.root={root}")
    for seed, word in enumerate(("RUNNING", "FAILED", "DIVERGED")):
        plan = run.plan(replace(config, seed=seed))
        plan.folder.mkdir(parents=True)
        code = {} if seed < 2 else __import__("harness.provenance").provenance.code(config.method)
        record.write(plan.folder, Record(plan.id, word, plan.identity, asdict(plan.config), {}, code=code, error="why"))
    return root


def test_the_plan_names_what_will_run_and_the_status_the_rest(planned):
    grid = ["method=lora,bitfit", "seed=0,1,2,3", *SHORT, f"results.root={planned}"]
    out = command(*grid, "--dry-run")
    assert "8 runs wanted: 5 missing" in out and "1 lost" in out and "1 diverged" in out
    assert "7 to launch" in out  # all but the diverged one
    assert "8 to launch" in command(*grid, "--dry-run", "--retry", "diverged")
    status = command(*grid, module="harness.status")
    assert "nobody owns it" in status and "not tried again by itself: --retry diverged" in status
    assert len(list(planned.iterdir())) <= 4, "a plan made something"


def test_a_store_alone_is_no_grid(planned):
    assert "3 runs: " in command(f"results.root={planned}", module="harness.status")
    assert "unknown option --nonsense" in command("--nonsense", module="harness", code=2)


@pytest.mark.parametrize(
    ("module", "words"),
    [("harness.status", ["--root", "results/reference"]), ("harness", ["--help"]), ("harness.estimate", [])],
)
def test_a_reader_that_has_read_enough(module, words):
    """As in `... | head`: no traceback."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", module, *words], stdout=writing, stderr=subprocess.PIPE, cwd=ROOT, env=ENV
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


def test_bad_input_is_one_line_and_exit_code_2(tmp_path):
    assert "nowhere is no folder" in command("--root", f"{tmp_path}/nowhere", module="harness.status", code=2)
    assert "Did you mean adalora_glue?" in command("table=adalora_glu", code=2)
    assert "Did you mean adalora?" in command("table=adalora_glue", "method=adalorra", code=2)
    assert "Did you mean diverged?" in command("--retry", "divergd", code=2)
    assert "partition" in command("hydra/launcher=slurm", "hydra.launcher.partitoin=x", code=2)
    assert "one table at a time" in command("table=a", "table=b", code=2)
    assert "nothing to search" in command("method=lora", "~recipe", code=2, module="harness.search")
    no_slurm = ENV | {"PATH": str(Path(sys.executable).parent)}
    out = command("hydra/launcher=slurm", *SHORT, f"results.root={tmp_path}", code=2, env=no_slurm)
    assert "login node" in out and "hydra/launcher=local" in out


def test_a_table_is_its_cells_and_words_choose_among_them():
    table = published.load("adalora_glue")
    rows, rest = launch.cells(
        table, ["task=glue/rte", "method=adalora,lora", "seed=0,1", "train.epochs=1", "model=demo_deberta"]
    )
    assert rest == ["seed=0,1", "train.epochs=1", "model=demo_deberta"]
    assert all("task=glue/rte" in row and not any(word.startswith("seed") for word in row) for row in rows)
    assert {word for row in rows for word in row if word.startswith("method=")} == {"method=adalora", "method=lora"}
    seeded, _ = launch.cells(table, ["task=glue/rte", "method=adalora"])
    seeds = {word for row in seeded for word in row if word.startswith("seed=")}
    assert seeds == {f"seed={n}" for n in range(5)}
    with pytest.raises(ConfigError, match="no such cell"):
        launch.cells(table, ["task=glue/wnli"])


def test_what_is_tried_again():
    assert State(MISSING).again and State(LOST, tries=4).again and not State(LOST, tries=5).again
    assert State("PREEMPTED", tries=99).again and State("TIMEOUT", tries=99).again
    assert State("FAILED", tries=1).again and not State("FAILED", tries=2).again
    assert not State("DIVERGED", tries=1).again and State("DIVERGED", tries=1, stale=True).again
    assert not State("DONE").again and not State("RUNNING").again and not State("QUEUED").again


def test_a_plan_finds_the_ids_that_runs_get(planned):
    """Through the composer's remembered cells, and through run.plan."""
    from specs import composed

    out = command("seed=0,1,2", *SHORT, f"results.root={planned}", module="harness.status")
    for seed in range(3):
        config = composed(f"seed={seed}", *SHORT, f"results.root={planned}")
        assert run.plan(config).id in out
        assert rebuilt(RunConfig, json.loads(json.dumps(asdict(config)))) == config
    assert Survey(planned).of("nowhere") == State(MISSING)
    assert _seed_apart(["seed=3", "a=1"]) == (("a=1",), 3)
    assert _seed_apart(["seed=3", "seed=4"]) == (("seed=3", "seed=4"), None)


def test_a_forecast_scales_by_rows_seen():
    train = {"max_steps": None, "epochs": 2.0, "batch_size": 8}
    names = {part: {"name": part} for part in ("model", "quantization", "task", "method", "budget")}
    config = {**names, "train": train, "data": {"max_train_rows": None}}
    cost = {"seconds": 110.0, "train_seconds": 100.0, "examples": 1000}
    known = forecast.Forecast([Record("a", "DONE", config, {}, {}, cost=cost)])
    assert known.seconds(config) == 110.0
    assert known.seconds({**config, "train": {**train, "epochs": 4.0}}) == 210.0
    assert known.seconds({**config, "train": {**train, "max_steps": 10}}) == pytest.approx(18.0)
    assert known.seconds({**config, "model": {"name": "another"}}) is None


class Begun:
    """A process that goes on for as long as it is asked."""

    def __init__(self, alive):
        self.alive = alive

    def join(self, seconds):
        pass

    def is_alive(self):
        return self.alive


def test_a_run_that_was_begun_says_what_it_will_cost(tmp_path, monkeypatch):
    one = Wanted("a", None, ())
    monkeypatch.setattr(Wanted, "folder", tmp_path)
    said = iter([{}, {"step": 0, "of": 100, "seconds_left": None}, {"step": 2, "of": 100, "seconds_left": 980.0},
                 {"step": 3, "of": 100, "seconds_left": 700.0}, {"step": 12, "of": 100, "seconds_left": 293.3333}])  # fmt: skip
    monkeypatch.setattr(trial.progress, "read", lambda folder: next(said))
    assert trial._watched(one, Begun(True)) == pytest.approx(100 * (40 - 20) / 10, rel=1e-4)
    assert trial._watched(one, Begun(False)) is None  # it ended without a result
    science = {"main": {"split": "test", "metric": "accuracy", "score": 99.0}}
    record.write(tmp_path, Record("a", "DONE", {}, {}, {}, science=science, cost={"seconds": 7.0}))
    assert trial._watched(one, Begun(False)) == 7.0
    assert "add --dry-run" in command("--probe", code=2)


def test_a_fault_of_ours_is_in_a_file_and_one_line_names_it(tmp_path, monkeypatch, capsys):
    from specs import composed

    one = Wanted("a", composed(*SHORT, f"results.root={tmp_path}"), ())

    def broken(config):
        raise TypeError("a fault")

    monkeypatch.setattr(run, "plan", broken)
    with pytest.raises(SystemExit) as stop:
        workers._make(one, True, shown=False)
    assert stop.value.code == 1 and "TypeError: a fault" in (one.folder / "log.txt").read_text()
    monkeypatch.setattr(workers, "failed", [])
    workers.LocalWorkers(1)._tell(1, one)
    out, err = capsys.readouterr()
    assert err == f"error: a: no record: its process ended with code 1; log: {one.folder / 'log.txt'}\n" and not out


def test_a_launcher_inside_a_swept_configuration_does_not_run_here_in_silence(tmp_path):
    for name in ("one", "two"):
        folder = tmp_path / "experiment"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.yaml").write_text("# @package _global_\ndefaults:\n  - override /hydra/launcher: slurm\n")
    out = command("-m", "+experiment=one,two", f"hydra.searchpath=[file://{tmp_path}]", *SHORT,
                  f"results.root={tmp_path / 'runs'}", code=2, module="harness")  # fmt: skip
    assert "stands inside the swept configuration" in out and not (tmp_path / "runs").exists()


def test_every_state_of_a_record_has_a_rule():
    words = {*record.STATES, MISSING, LOST} - {"DONE", "RUNNING"}
    assert words == set(state.TRIES)
    assert all(re.fullmatch("[A-Z_]+", word) for word in words)
