"""The main job against a hub: data in Parquet, weights that exist only as .bin (as DeBERTaV3's do); then without it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub import Hub, binary_only, files_of, parquet_repository
from omegaconf import OmegaConf

from harness.paths import CONF, embedded

pytestmark = pytest.mark.xdist_group("hub")

BACKBONE = embedded("embedded:backbones/deberta")
LABELS = ["entailment", "not_entailment"]


def repository() -> dict[str, bytes]:
    words = ["jack", "anna", "a falcon", "a bird", "some dog", "the tulip", "a rake", "tom"]
    pairs = zip(words, words[::-1], strict=True)
    rows = [
        {"sentence1": f"{a} saw {b}.", "sentence2": f"{b} ran.", "label": at % 2} for at, (a, b) in enumerate(pairs)
    ]
    features = {"sentence1": "string", "sentence2": "string", "label": LABELS}
    return parquet_repository({"rte": {"features": features, "splits": {"train": rows, "validation": rows}}})


def harness(root: Path, environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness", "task=glue/rte", f"results.root={root}", "progress=false", "threads=1"]
    return subprocess.run(
        [*command, "train.max_steps=2", *words],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """glue/rte on DeBERTaV3-base by its hub name, while the hub answers, after it went away, and on a bare machine."""
    root, cache, bare = (tmp_path_factory.mktemp(name) for name in ("runs", "cache", "bare"))
    models = {"microsoft/deberta-v3-base": binary_only(BACKBONE), "other/safe": files_of(BACKBONE)}
    pinned = {"microsoft/deberta-v3-base": OmegaConf.load(CONF / "model/deberta_v3_base.yaml").revision}
    with Hub(datasets={"nyu-mll/glue": repository()}, models=models, commits=pinned) as hub:
        online = harness(root, hub.environment(cache))
        missing = harness(root, hub.environment(cache), "model.hub_id=microsoft/deberta-v3-bass")
        environment, fresh = hub.environment(cache), hub.environment(bare)
    return {
        "root": root,
        "online": online,
        "missing": missing,
        "again": harness(root, environment),
        "bare": harness(root, fresh),
        "model": harness(root, fresh, "task=demo/entailment", "model=deberta_v3_base"),
        "requests": hub.requests,
    }


def test_the_hub_gives_data_and_binary_weights(told):
    assert told["online"].returncode == 0, told["online"].stderr
    assert "lora on glue/rte, deberta_v3_base" in told["online"].stdout
    [record] = [json.loads(path.read_text()) for path in told["root"].glob("*/record.json")]
    assert record["state"] == "DONE"
    assert any("pytorch_model.bin" in str(request) for request in told["requests"]), told["requests"]


def test_what_is_done_stays_done_without_the_hub(told):
    assert told["again"].returncode == 0, told["again"].stderr
    assert told["again"].stdout.splitlines()[0].startswith("already done")
    assert told["again"].stdout.splitlines()[1:] == told["online"].stdout.splitlines()


@pytest.mark.parametrize(
    ("case", "remedies"), [("bare", ("data.root=",)), ("model", ("model.path=DIR", "hf download"))]
)
def test_a_hub_that_is_away_is_said_in_two_lines(told, case, remedies):
    done = told[case]
    assert done.returncode == 2, done.stdout
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 2, done.stderr
    assert all(remedy in done.stderr for remedy in remedies)
    assert "Traceback" not in done.stderr


def test_a_repository_that_is_not_there_is_said(told):
    assert told["missing"].returncode == 2
    assert "microsoft/deberta-v3-bass" in told["missing"].stderr
    assert "Traceback" not in told["missing"].stderr
