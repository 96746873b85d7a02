"""What a sweep composes by a short cut is what Hydra composes, errors included."""

from dataclasses import asdict

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import setup_globals
from hydra.types import RunMode
from omegaconf import open_dict

from harness import compose, paths
from harness.composer import SweepConfigs
from harness.errors import HarnessError

JOBS = [
    ["method=adalora", "task=glue/rte", "budget=0.3M", "train.learning_rate=1e-3", "train.max_steps=7"],
    ["method=adalora", "task=glue/rte", "budget=0.3M", "train.learning_rate=2e-3", "train.max_steps=null"],
    ["train.learning_rate=1e-3", "method=lora", "method.r=3", "method.r=4", "results.root=x"],
    ["task=xsum", "recipe_variant=paper", "model.path=true", "data.root=007"],
    ["train.learning_rate=much"],
    ["train.lerning_rate=1"],
    ["method._target_=os.system"],
    ["method=lroa", "train.max_steps=1"],
    ["hydra.launcher.nonsense=1"],
]


@pytest.fixture(scope="module")
def loaded():
    compose.register()
    setup_globals()
    with initialize_config_dir(str(paths.CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        base = loader.load_configuration("config", ["hydra/launcher=basic"], RunMode.MULTIRUN)
        plain = [tried(lambda job: loader.load_sweep_config(base, list(job)), job) for job in JOBS]
        yield plain, SweepConfigs(loader, base)


def tried(of, job):
    try:
        config = of(job)
        with open_dict(config):
            del config["hydra"]
        return asdict(compose.checked(config))
    except (HarnessError, *compose.COMPOSITION_ERRORS) as error:
        return type(error).__name__, str(error)


def test_the_short_cut_gives_what_hydra_gives(loaded):
    plain, configs = loaded
    assert sum(isinstance(one, dict) for one in plain) == 4
    assert [tried(configs.of, job) for job in JOBS] == plain
    assert [tried(configs.of, job) for job in JOBS[1::-1]] == plain[1::-1], "one job left something behind for another"
