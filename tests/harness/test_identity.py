"""Two runs are the same run if and only if nothing that can change a number differs."""

from dataclasses import replace

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from harness import compose, identity, sweep
from harness.paths import CONF

CONTENT = {"data": "d", "weights": "w", "device": "cpu", "precision": "float32"}


@pytest.fixture(scope="module")
def run():
    compose.register()
    sweep.register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield lambda *words: compose.checked(hydra_compose("config", overrides=list(words)))


def run_id(config, **content):
    return identity.run_id(identity.identity(config, **(CONTENT | content)))


@pytest.mark.parametrize(
    "word",
    ["results.root=/elsewhere", "threads=1", "rerun=always", "progress=false", "data.root=/data", "model.path=/m",
     "model.revision=abc", "device=cpu", "results.heartbeat_seconds=1", "results.checkpoint_seconds=1",
     "train.retry_out_of_memory=true", "preflight.enabled=false", "preflight.skip=[seed]", "+method.declares=[padding]"],
)  # fmt: skip
def test_where_and_how_it_is_shown_do_not_matter(run, word):
    assert run_id(run(word)) == run_id(run())


@pytest.mark.parametrize(
    "word",
    ["seed=1", "train.learning_rate=0.3", "data.buckets=false", "method.r=4", "model.init=random", "train.select=best",
     "data.max_length_tokens=9", "budget.max_adapter_params=10000000", "+model.config.cls_dropout=0.2"],
)  # fmt: skip
def test_what_can_change_a_number_does(run, word):
    assert run_id(run(word)) != run_id(run())


@pytest.mark.parametrize("what", CONTENT)
def test_content_and_device_matter(run, what):
    assert run_id(run(), **{what: "other"}) != run_id(run())


def test_the_group_forgets_the_seed_and_nothing_else(run):
    def group(*words):
        return identity.group(identity.identity(run(*words), **CONTENT))

    assert group("seed=0") == group("seed=7")
    assert group("seed=0") != group("seed=0", "train.epochs=9")


def test_ids_are_safe_file_names(run):
    config = run()
    hostile = replace(
        config, task=replace(config.task, name="../../etc/passwd"), method=config.method | {"name": "a b\0c"}
    )
    name = run_id(hostile)
    assert "/" not in name and ".." not in name and "\0" not in name and " " not in name
