"""The hub, served on this machine: the same data as from a directory, `.bin` weights, and what is said when it is away.

Rows are made here; with HARNESS_SHARED set, the real GLUE files go through the same door.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import superglue
from hub import Hub, binary_only, commit_of, parquet_repository
from specs import task

from harness import snapshot
from harness.errors import ConfigError, DataError, ModelError
from harness.paths import embedded
from harness.task import load

pytestmark = pytest.mark.xdist_group("hub")  # one worker starts the hub, once

TESTS = Path(__file__).resolve().parents[1]
BACKBONE = embedded("embedded:backbones/deberta")
# What stripping, unquoting, splitting lines the Python way or normalising would change.
TEXTS = [' "quoted " ', "it 's .  ", "e\u0301 \u00e9", "a\u2028b\x85c", "\ufefflead", "tail\u00a0", "back\\slash ''"]
SCORES = ["3.8", "0.583", "4.250", "1.714", "2.667", "5.000", "0"]
CHILD = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
from harness.errors import HarnessError
from harness.task import load
import datasets, huggingface_hub.hf_api, specs
told = []
for name, words in json.loads(sys.argv[2]):
    spec, started = specs.task(name, *words), time.monotonic()
    try:
        found = load(spec, None)
        told.append({"fingerprint": found.fingerprint, "source": found.source, "rows": len(found.splits["train"])})
    except HarnessError as error:
        told.append({"error": str(error)})
    told[-1]["seconds"] = time.monotonic() - started
if len(sys.argv) > 3:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    model = AutoModelForSequenceClassification.from_pretrained(sys.argv[3])
    told.append({"sum": float(model.base_model.get_input_embeddings().weight.detach().double().sum()),
                 "tokens": AutoTokenizer.from_pretrained(sys.argv[3])("a b").input_ids})
print(json.dumps(told))
"""
PAIRS = {"sentence1": "string", "sentence2": "string"}
ENTAILMENT = ["entailment", "not_entailment"]


def asked(hub: Hub, cache: Path, jobs: list[tuple[str, list[str]]], *model: str) -> list[dict[str, Any]]:
    """What another process gets from the hub, job by job."""
    command = [sys.executable, "-c", CHILD, str(TESTS), json.dumps(jobs), *model]
    done = subprocess.run(command, env=os.environ | hub.environment(cache), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def rows(labels: list[Any], key: str = "label") -> list[dict[str, Any]]:
    texts = zip(TEXTS, reversed(TEXTS), labels, strict=False)
    return [{"sentence1": a, "sentence2": b, key: label} for a, b, label in texts]


def config(features: dict[str, Any], content: list[dict[str, Any]]) -> dict[str, Any]:
    """A configuration with the same rows in train and validation."""
    return {"features": features, "splits": {"train": content, "validation": content}}


def repository(order: list[str]) -> dict[str, bytes]:
    """RTE and STS-B as on the hub; `order` is the class order of RTE."""
    labels = [order.index(ENTAILMENT[at % 2]) for at in range(7)]
    return parquet_repository(
        {
            "rte": config(PAIRS | {"label": order}, rows(labels)),
            "stsb": config(PAIRS | {"label": "float32"}, rows([float(score) for score in SCORES])),
            "hidden": config(PAIRS | {"label": order}, rows([-1, -1])),
        }
    )


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    """The same rows in the official layout."""
    root = tmp_path_factory.mktemp("layout")
    names = {"RTE": [ENTAILMENT[at % 2] for at in range(7)], "STS-B": SCORES}
    for folder, targets in names.items():
        (root / folder).mkdir()
        lines = ["index\tsentence1\tsentence2\t" + ("label" if folder == "RTE" else "score")]
        found = zip(TEXTS, reversed(TEXTS), targets, strict=True)
        lines += [f"{at}\t{a}\t{b}\t{target}" for at, (a, b, target) in enumerate(found)]
        for name in ("train.tsv", "dev.tsv"):
            (root / folder / name).write_bytes("\n".join(lines).encode() + b"\n")
    return root


@pytest.fixture(scope="module")
def online(tmp_path_factory) -> dict[str, Any]:
    """Everything asked of a hub that answers, and then of the same hub after it went away."""
    ours, swapped = repository(ENTAILMENT), repository(ENTAILMENT[::-1])
    at = f"task.hub.revision={commit_of(ours)}"
    jobs = {
        "rte": ("glue/rte", []),
        "stsb": ("glue/stsb", []),
        "swapped": ("glue/rte", ["task.hub.id=other/glue"]),
        "config": ("glue/rte", ["task.hub.config=rtee"]),
        "column": ("glue/rte", ["task.hub.text=sentence"]),
        "labels": ("glue/rte", ["task.labels=[yes,no]"]),
        "split": ("glue/rte", ["task.hub.splits.validation=dev"]),
        "dataset": ("glue/rte", ["task.hub.id=nyu-mll/glu"]),
        "revision": ("glue/rte", ["task.hub.revision=v9"]),
        "hidden": ("glue/rte", ["task.hub.config=hidden"]),
    }
    later = {
        "cached": ("glue/rte", []),
        "pinned": ("glue/rte", [at]),
        "other": ("glue/rte", [f"task.hub.revision={'0' * 40}"]),
        "absent": ("glue/wnli", []),
    }
    cache = tmp_path_factory.mktemp("cache")
    with Hub(
        datasets={"nyu-mll/glue": ours, "other/glue": swapped}, models={"me/binary": binary_only(BACKBONE)}
    ) as hub:
        found = dict(zip([*jobs, "model"], asked(hub, cache, list(jobs.values()), "me/binary"), strict=True))
    found |= dict(zip(later, asked(hub, cache, list(later.values())), strict=True))
    return found | {"commit": commit_of(ours), "requests": hub.requests}


def test_hub_and_directory_are_the_same_data(online, directory):
    for name in ("rte", "stsb"):
        here = load(task(f"glue/{name}"), str(directory))
        assert online[name]["fingerprint"] == here.fingerprint
        assert online[name]["source"] == f"hub nyu-mll/glue {name} at {online['commit']}"
    assert load(task("glue/rte"), str(directory)).splits["train"].target == [0, 1, 0, 1, 0, 1, 0]
    assert load(task("glue/stsb"), str(directory)).splits["train"].target == [float(score) for score in SCORES]
    assert load(task("glue/rte"), str(directory)).splits["train"].text == TEXTS


def test_labels_go_by_name_not_by_the_hubs_order(online):
    assert online["swapped"]["fingerprint"] == online["rte"]["fingerprint"]


@pytest.mark.parametrize(
    ("job", "said"),
    [
        ("config", ["the hub cannot give nyu-mll/glue rtee", "Available: ['rte', 'stsb'", "data.root=DIR"]),
        ("column", ["unknown column 'sentence'. Did you mean sentence", "task.hub.text"]),
        ("labels", ["its labels are entailment, not_entailment; those of task glue/rte are yes, no"]),
        ("split", ["unknown split 'dev'", "train, validation", "task.hub.splits"]),
        (
            "dataset",
            ["the hub cannot give nyu-mll/glu rte (no dataset of that name", "data.root=DIR", "HF_ENDPOINT=URL"],
        ),
        (
            "revision",
            ["the hub cannot give nyu-mll/glue rte at v9 (the dataset has no such revision)"],
        ),
        ("hidden", ["nyu-mll/glue hidden train, row 0: label is -1; one of entailment (or 0), not_entailment (or 1)"]),
    ],
)
def test_what_the_hub_lacks_is_said(online, job, said):
    message = online[job]["error"]
    assert all(part in message for part in said), message
    assert len(message.splitlines()) <= 2


def test_binary_weights_load_from_the_hub(online):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    weight = (
        AutoModelForSequenceClassification.from_pretrained(BACKBONE).base_model.get_input_embeddings().weight.detach()
    )
    assert online["model"]["sum"] == float(weight.double().sum())
    assert online["model"]["tokens"] == AutoTokenizer.from_pretrained(BACKBONE)("a b").input_ids
    assert any("pytorch_model.bin" in request for request in online["requests"])


def test_the_cache_serves_what_was_fetched_when_the_hub_is_away(online):
    for job in ("cached", "pinned"):
        assert online[job]["fingerprint"] == online["rte"]["fingerprint"]
        assert online[job]["source"] == online["rte"]["source"]
        assert online[job]["seconds"] < 5


def test_a_hub_that_is_away_is_said_in_two_lines_and_at_once(online):
    for job in ("other", "absent"):
        why, remedy = online[job]["error"].splitlines()
        assert "the hub cannot give nyu-mll/glue" in why
        assert "Connection refused" in why
        assert "data.root=DIR, or run once while online" in remedy
        assert online[job]["seconds"] < 5
    assert "at 0000000000" in online["other"]["error"]
    assert "DIR/WNLI/train.tsv and DIR/WNLI/dev.tsv" in online["absent"]["error"]


def test_offline_mode_is_said_too(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    started = time.monotonic()
    with pytest.raises(DataError) as caught:
        load(task("glue/rte"), None)
    assert time.monotonic() - started < 5
    assert len(str(caught.value).splitlines()) == 2
    assert "offline mode is enabled" in str(caught.value)


def test_nested_sets_are_the_same_both_ways(tmp_path):
    sets = {name: (superglue.HUB_FEATURES[name], superglue.HUB[name]) for name in superglue.HUB}
    whole = parquet_repository(
        {
            name: {"features": kinds, "splits": {"train": found, "validation": found}}
            for name, (kinds, found) in sets.items()
        }
    )
    with Hub(datasets={"aps/super_glue": whole}) as hub:
        told = asked(hub, tmp_path, [(f"superglue/{name}", []) for name in sets])
    for name, one in zip(sets, told, strict=True):
        here = load(task(f"superglue/{name}"), superglue.directory(tmp_path / "files", name))
        assert one.get("fingerprint") == here.fingerprint, one


def test_a_task_without_a_dataset_says_so():
    with pytest.raises(ConfigError, match="task glue/rte has no dataset on the hub"):
        load(task("glue/rte", "task.hub.id=null"), None)


def test_real_data_is_the_same_both_ways(glue, tmp_path):
    def table(split: str, folder: str, names: list[str], header: bool = True) -> list[list[str]]:
        lines = (glue / folder / f"{split}.tsv").read_bytes().decode().removesuffix("\n").split("\n")
        at = [lines[0].split("\t").index(name) for name in names] if header else [3, 1]
        return [[line.split("\t")[place] for place in at] for line in lines[header:]]

    def content(folder: str, names: list[str], keys: list[str], target: Any, header: bool = True) -> dict[str, Any]:
        found = {}
        for split, name in (("train", "train"), ("dev", "validation")):
            lines = table(split, folder, names, header)
            found[name] = [dict(zip(keys, [*line[:-1], target(line[-1])], strict=True)) for line in lines]
        return found

    pair = ["sentence1", "sentence2", "label"]
    sets = {
        "rte": (PAIRS | {"label": ENTAILMENT}, content("RTE", pair, pair, ENTAILMENT.index)),
        "stsb": (PAIRS | {"label": "float32"}, content("STS-B", [*pair[:2], "score"], pair, float)),
        "mrpc": (
            PAIRS | {"label": ["not_equivalent", "equivalent"]},
            content("MRPC", ["#1 String", "#2 String", "Quality"], pair, int),
        ),
        "cola": (
            {"sentence": "string", "label": ["unacceptable", "acceptable"]},
            content("CoLA", [], ["sentence", "label"], int, header=False),
        ),
    }
    whole = parquet_repository({name: {"features": kinds, "splits": found} for name, (kinds, found) in sets.items()})
    with Hub(datasets={"nyu-mll/glue": whole}) as hub:
        told = asked(hub, tmp_path, [(f"glue/{name}", []) for name in sets])
    for name, one in zip(sets, told, strict=True):
        here = load(task(f"glue/{name}"), str(glue))
        assert one.get("fingerprint") == here.fingerprint, one
        assert not any("official split" in remark for remark in here.remarks)


@pytest.mark.parametrize("answer", [json.JSONDecodeError("Expecting value", "<html>", 0), KeyError("id")])
def test_a_page_in_place_of_the_hub_is_said(tmp_path, monkeypatch, answer):
    def asked(self, *_, **__):
        raise answer

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr("huggingface_hub.hf_api.HfApi.dataset_info", asked)
    monkeypatch.setattr("huggingface_hub.hf_api.HfApi.model_info", asked)
    with pytest.raises(DataError, match="its answer is not the hub's") as data:
        load(task("glue/rte"), None)
    with pytest.raises(ModelError, match=r"the hub cannot give some/backbone \(its answer is not the hub's") as model:
        snapshot._fetched("some/backbone", None)
    assert all(len(str(error.value).splitlines()) == 2 for error in (data, model))


def test_a_name_that_cannot_be_is_no_strange_answer():
    with pytest.raises(ModelError, match=r"cannot give a/b/c \(Repo id"):
        snapshot._fetched("a/b/c", None)
