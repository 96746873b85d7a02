"""The table of methods against conf/method, and the five names of a method."""

import importlib
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from peft import PeftType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from tiny import METHODS, ON_QUANTISED, ROOT

import methods

FAMILIES = {"additive", "prompt", "selective", "reparameterized", "hybrid"}
OURS = [row for row in methods.METHODS if row.file != "peft"]


def test_the_table_is_conf_method():
    assert sorted(row.name for row in methods.METHODS) == sorted([*METHODS, *ON_QUANTISED])
    assert {row.family for row in methods.METHODS} <= FAMILIES


@pytest.mark.parametrize("row", methods.METHODS, ids=lambda row: row.name)
def test_the_yaml_names_its_method(row):
    raw = OmegaConf.load(ROOT / f"conf/method/{row.name}.yaml")
    assert raw.name == row.name
    assert raw._target_.rpartition(".")[0] == row.file


@pytest.mark.parametrize("row", OURS, ids=lambda row: row.name)
def test_five_names_agree(row):
    key = row.peft_type or row.name.upper()
    assert row.file == f"methods.{row.family}.{row.name}"
    assert PEFT_TYPE_TO_PREFIX_MAPPING[PeftType[key]] == f"{key.lower()}_"
    stem = row.name.replace("_", "")
    config, tuner = PEFT_TYPE_TO_CONFIG_MAPPING[key], PEFT_TYPE_TO_TUNER_MAPPING[key]
    assert (config.__name__.lower(), tuner.__name__.lower()) == (f"{stem}config", f"{stem}tuner")
    raw = OmegaConf.load(ROOT / f"conf/method/{row.name}.yaml")
    assert raw._target_ == f"{row.file}.{config.__name__}"


@pytest.mark.parametrize("row", OURS, ids=lambda row: row.name)
def test_a_method_cites_its_paper_and_documents_its_fields(row):
    module = importlib.import_module(row.file)
    assert len(module.__doc__) > 100
    config = PEFT_TYPE_TO_CONFIG_MAPPING[row.peft_type or row.name.upper()]
    assert all(field.metadata.get("help") for name, field in config.__dataclass_fields__.items()
               if name in config.__annotations__)  # fmt: skip


def test_no_method_imports_the_harness():
    for path in (Path(methods.__file__).parent).rglob("*.py"):
        for word in ("harness", "hydra", "omegaconf"):
            assert f"import {word}" not in path.read_text() and f"from {word}" not in path.read_text(), path
