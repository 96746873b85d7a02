"""A stranger's configuration runs no code, reads no environment, writes no file: it is refused before Hydra acts on it."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from harness import compose, sweep
from harness.errors import ConfigError, HarnessError
from harness.paths import CONF

ROOT = Path(__file__).parents[2]
HANDLER = "+hydra.job_logging.handlers.x"


@pytest.fixture(scope="module", autouse=True)
def hydra_here():
    compose.register()
    sweep.register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def composed(*words):
    return compose.checked(hydra_compose("config", overrides=list(words)))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["method._target_=os.system"], "method._target_=os.system is not allowed"),
        (["method._target_=pefty.x"], "is not allowed"),
        (["+model.config._target_=os.system"], "model.config._target_"),
        (["+method.x._target_=peft.LoraConfig"], "nothing may be called from there"),
        (["+hydra.callbacks.x._target_=os.system"], "hydra.callbacks.x._target_"),
        (["+hydra.callbacks.x.y=1"], "neither run code"),
        (["hydra.launcher._target_=os.system"], "hydra.launcher._target_"),
        (["hydra.sweeper._target_=subprocess.run"], "hydra.sweeper._target_"),
        ([f"{HANDLER}.class=logging.FileHandler", f"{HANDLER}.filename=x"], "write files"),
        ([f"{HANDLER}.stream=ext://antigravity"], "ext://antigravity"),
        (["hydra.job_logging=${model.config}"], "not allowed"),
        (["+hydra.job.env_set.LD_PRELOAD=x"], "nor set environments"),
        (["hydra.job.env_copy=[PATH]"], "nor set environments"),
        (["hydra.job.env_copy=[NOT_SET_HERE]"], "NOT_SET_HERE"),
        (["hydra.sweeper._target_=hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper"], "must begin with"),
        (["hydra.run.dir=elsewhere"], "results go to results.root"),
        (["hydra.sweep.dir=elsewhere"], "results go to results.root"),
        (["hydra.sweep.subdir=elsewhere"], "results go to results.root"),
        (["hydra.output_subdir=sub"], "results go to results.root"),
        (["hydra.job.chdir=true"], "results go to results.root"),
        (["hydra.searchpath=[pkg://this]"], "pkg://this is not allowed"),
        (["hydra.searchpath=[s3://x]"], "s3://x is not allowed"),
        (["hydra.overrides.task=['seed=1']"], "it says what the command line said"),
        (["hydra.overrides.hydra=['hydra.launcher.setup=[ls]']"], "it says what the command line said"),
        (["hydra/launcher=slurm", "hydra.launcher.partition='gpu\ntouch x'"], "control character"),
        (["hydra/launcher=slurm", "hydra.launcher.setup=['ls\n']"], "control character"),
        (["hydra/launcher=slurm", "+hydra.launcher.sbatch={x_y: 1}"], "no option of sbatch"),
        (["hydra/launcher=slurm", "hydra.launcher.gres={x: 1}"], "must be a single value"),
        (["hydra/launcher=slurm", "hydra.launcher.setup=ls"], "must be a list of lines"),
        (["hydra.launcher.workers=0"], "must be a whole number, 1 or more or null"),
        (["hydra.launcher.workers=two"], "must be a whole number"),
        (["hydra/launcher=slurm", "hydra.launcher.time_minutes=null"], "must be a whole number, 1 or more"),
        (["hydra/launcher=slurm", "hydra.launcher.nodes=1.5"], "must be a whole number"),
        (["hydra/launcher=slurm", "hydra.launcher.cpus_per_task='1 --wrap=ls'"], "must be a whole number"),
        (["hydra/launcher=slurm", "hydra.launcher.memory_gb=0"], "above 0"),
        (["hydra/launcher=slurm", "hydra.launcher.memory_gb=nan"], "above 0"),
        (["hydra/launcher=slurm", "hydra.launcher.wait=x"], "true or false"),
        (["hydra/launcher=slurm", "hydra.launcher.device=tpu"], "cpu, cuda or null"),
        (["results.root=${oc.env:HOME}"], "oc.env"),
        (["recipe.note=${oc.decode:'1'}"], "oc.decode"),
        (["+model.config.trust_remote_code=${oc.env:HF_TOKEN,x}"], "oc.env"),
    ],
)
def test_refused(words, says):
    with pytest.raises((ConfigError, *compose.COMPOSITION_ERRORS)) as refused:
        composed(*words)
    assert says in str(refused.value) + compose.explain(refused.value)


@pytest.mark.parametrize(
    "word", ["+model.config.trust_remote_code=true", "+model.trust_remote_code=true", "++trust_remote_code=true",
             "+model.config.auto_map={AutoModel: x.Y}", "+task.hub.trust_remote_code=true"],
)  # fmt: skip
def test_nobody_switches_remote_code_on(word, tmp_path):
    """Neither the schema nor a backbone's configuration has such a word; the loader says False whatever a file says."""
    from harness import directory, model, task

    try:
        found = composed(word)
    except (ConfigError, *compose.COMPOSITION_ERRORS) as refused:
        assert "trust_remote_code" in compose.explain(refused)
        return
    rows = task.empty(found.task)
    with pytest.raises(HarnessError, match=r"model\.config\.(trust_remote_code|auto_map) is no setting"):
        model.skeleton(found.model, directory.locate(found.model), rows)


def test_code_beside_a_backbone_is_not_run(tmp_path):
    """A directory whose configuration names a module of its own, as repositories with remote code do."""
    import json
    import shutil

    from harness import model, paths, task

    folder = tmp_path / "backbone"
    shutil.copytree(paths.embedded("embedded:backbones/deberta"), folder)
    asked = json.loads((folder / "config.json").read_text())
    named = {"AutoConfig": "evil.Config", "AutoModelForSequenceClassification": "evil.Model"}
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    for kind in (asked["model_type"], "evil"):
        (folder / "config.json").write_text(json.dumps(asked | {"auto_map": named, "model_type": kind}))
        found = composed(f"model.path={folder}")
        with contextlib.suppress(HarnessError):  # an unknown type is refused, a known one is transformers' own class
            model.load(found.model, folder, task.empty(found.task), seed=0)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["hydra.launcher.setup=[module load cuda]"],
        ["+hydra.launcher.sbatch.exclude=n7", "+hydra.launcher.sbatch.mail-type=FAIL"],
        ["+hydra.launcher.sbatch={exclude: n7}", "hydra.launcher.partition=gpu", "hydra.launcher.gres=gpu:a100:1"],
    ],
)
def test_what_is_ours_passes(words):
    assert composed("method=adalora").method["_target_"].startswith("methods.")
    hydra_compose("config", overrides=["hydra/launcher=slurm", *words], return_hydra_config=True)


@pytest.mark.parametrize(
    ("evil", "words"),
    [
        ({"sbatch": {"comment=x\ntouch x\n#": "cpu"}}, []),
        ({"sbatch": {"wrap": "touch x"}}, []),
        ({"sbatch": {"wrap": "touch x"}}, ["+hydra.launcher.sbatch.exclude=n7"]),
        ({"setup": ["source venv/bin/activate"]}, []),  # words of a comment in our own file
        ({"setup": ["touch x"]}, ["+hydra.launcher.setup_=[ls]"]),
        ({"setup": ["${seed}"]}, []),
        ({"partition": "gpu\ntouch x\n"}, []),
        ({"gres": "${recipe.note}"}, ["recipe.note='gpu\ntouch x'"]),
        ({"account\nx": "y"}, []),
        ({"_target_": "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"}, []),
    ],
)
def test_a_strangers_launcher_reaches_no_shell(tmp_path, evil, words):
    folder = tmp_path / "hydra" / "launcher"
    folder.mkdir(parents=True)
    (folder / "cl.yaml").write_text("defaults: [slurm]\n" + yaml.safe_dump(evil))
    with pytest.raises((ConfigError, *compose.COMPOSITION_ERRORS)):
        composed(f"hydra.searchpath=[file://{tmp_path}]", "hydra/launcher=cl", *words)
    if "_" not in str(words + list(evil)):  # what it asks for is what is refused, not something beside it
        (folder / "cl.yaml").write_text("defaults: [slurm]\npartition: cpu\n")
        hydra_compose("config", overrides=[f"hydra.searchpath=[file://{tmp_path}]", "hydra/launcher=cl", *words])


def test_a_package_to_search_is_not_imported(tmp_path):
    """`this` prints a poem when it is imported; a package of configurations would run whatever it holds."""
    (tmp_path / "path.yaml").write_text("defaults: [config, _self_]\nhydra: {searchpath: ['pkg://this']}\n")
    done = subprocess.run(
        [sys.executable, "-m", "harness", "--config-dir", str(tmp_path), "--config-name", "path", "--cfg", "job"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2 and "pkg://this is not allowed" in done.stderr, done.stderr
    assert "Beautiful" not in done.stdout + done.stderr and "Traceback" not in done.stderr


def test_a_pickled_configuration_is_not_opened(tmp_path):
    (tmp_path / "config.pickle").write_bytes(b"cos\nmkdir\n(V" + str(tmp_path / "ran").encode() + b"\ntR.")
    done = subprocess.run([sys.executable, "-m", "harness", "--experimental-rerun", str(tmp_path / "config.pickle")],
                          cwd=ROOT, capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 2 and "a pickle runs code" in done.stderr, done.stderr
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("option", ["--config-dir", "--config-path"])
def test_callbacks_of_a_strangers_folder_do_not_run(tmp_path, option):
    """Nor its logging, its launcher's shell lines, its secrets: each file of it in turn."""
    evil = {
        "callback": "# @package _global_\nhydra:\n  callbacks:\n    x: {_target_: pathlib.Path.touch, self: CODE}\n",
        "logger": "# @package hydra.hydra_logging\nversion: 1\nhandlers:\n  x: {(): os.mkdir, path: CODE}\n",
        "shell": "# @package hydra.launcher\nsetup: [touch CODE]\n",
        "secret": "# @package _global_\nresults: {root: '${oc.env:HF_TOKEN}'}\n",
    }
    (tmp_path / "budget").mkdir()
    code = tmp_path / "ran"
    for name, text in evil.items():
        (tmp_path / "budget" / f"{name}.yaml").write_text(text.replace("CODE", str(code)))
    (tmp_path / "config.yaml").write_text("defaults: [_self_, budget: callback]\n")
    for name in evil if option == "--config-dir" else ["callback", "logger"]:
        words = [option, str(tmp_path), f"budget={name}"]
        words = ["-m", *words, "hydra/launcher=slurm"] if name == "shell" else words
        done = subprocess.run(
            [sys.executable, "-m", "harness", *words], cwd=ROOT, capture_output=True, text=True,
            env=os.environ | {"HF_TOKEN": "hf_planted"},
        )  # fmt: skip
        assert done.returncode == 2, done.stdout + done.stderr
        assert not code.exists() and "hf_planted" not in done.stdout + done.stderr
        assert done.stderr.splitlines()[-1].startswith("error: ") and "Traceback" not in done.stderr
