"""The cases of the contract battery: every method's YAML on every tiny model, and what two upstream limits exclude."""

import pytest
from tiny import KINDS, METHODS, Case

CASES = [Case(method, family, kind) for method in METHODS for family, kind in KINDS]
CASES = [case for case in CASES if (case.method, case.kind) != ("head", "generation")]  # test_head holds the refusal
UNMERGEABLE = {("bitfit", "t5"): "T5's linear layers have no bias to merge into"}
each = pytest.mark.parametrize("case", CASES, ids=str)
classifiers = pytest.mark.parametrize("case", [case for case in CASES if case.kind == "classification"], ids=str)
generators = pytest.mark.parametrize("case", [case for case in CASES if case.kind == "generation"], ids=str)


def broken_upstream(case):
    """peft replaces a head by reading its `weight`, unless the method overrides that (LoRA does)."""
    return case.kind == "classification" and case.method in ("ia3",)


def trained(model):
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
