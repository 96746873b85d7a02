"""The cases of the contract battery, every method's YAML on every tiny model, and its limits.

A limit is a case that a test cannot ask its question of. It is no skip: the test asserts the error that stands there in
place of an answer, so that a limit that is gone is noticed. All are listed here, and `test_limits_are_counted` counts.

    python tests/methods/battery.py     prints them, with the number of cases that meet each
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from tiny import KINDS, METHODS, Case

CASES = [Case(method, family, kind) for method in METHODS for family, kind in KINDS]
CASES = [case for case in CASES if (case.method, case.kind) != ("head", "generation")]  # test_head holds the refusal
each = pytest.mark.parametrize("case", CASES, ids=str)
classifiers = pytest.mark.parametrize("case", [case for case in CASES if case.kind == "classification"], ids=str)
generators = pytest.mark.parametrize("case", [case for case in CASES if case.kind == "generation"], ids=str)


@dataclass(frozen=True)
class Limit:
    """What some cases meet in a test: an error that should be there, or one of upstream's."""

    test: str
    meets: Callable[[Case], bool]
    error: type[Exception] | tuple[type[Exception], ...]
    says: str
    reason: str

    def raised(self):
        return pytest.raises(self.error, match=self.says)


LIMITS = (
    Limit("merging", lambda case: not case.row.merges, (ValueError, NotImplementedError), "merge",
          "not a change of the backbone's weights: a clear refusal"),
    Limit("merging", lambda case: (case.method, case.family) == ("bitfit", "t5"), ValueError, "nothing to merge into",
          "T5's linear layers have no bias to merge into: a clear refusal"),
    Limit("merging for good", lambda case: case.kind == "classification" and case.method == "ia3", AttributeError,
          "has no attribute 'weight'", "peft replaces a head by reading its weight, which composite heads lack (#3114)"),
    Limit("a second adapter", lambda case: case.method == "adalora_peft", ValueError, "only 1 trainable adapter",
          "peft's AdaLoRA takes one trainable adapter"),
    Limit("reentrant checkpointing", lambda case: case.family == "deberta" and case.method in ("bitfit", "full"),
          RuntimeError, "backward through the graph a second time",
          "DeBERTa's layers share relative embeddings, and reentrant checkpointing cannot train what layers share"),
)  # fmt: skip


def limit(test, case):
    """The limit that a case meets in a test, or None."""
    return next((found for found in LIMITS if found.test == test and found.meets(case)), None)


def trained(model):
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def listed():
    """Every limit, the cases that meet it, and why, as lines of text."""
    yield f"{len(CASES)} cases: {len(METHODS)} methods on {len(KINDS)} tiny models, head on no language model; 0 skips"
    for found in LIMITS:
        met = [str(case) for case in CASES if limit(found.test, case) is found]
        yield f"{len(met):3} cases  {found.test}: {found.reason}"
        yield f"           {', '.join(sorted({name.split('-')[0] for name in met}))}"
    met = {(found.test, str(case)) for found in LIMITS for case in CASES if limit(found.test, case) is found}
    yield f"{len(met):3} limits in all"


if __name__ == "__main__":
    print("\n".join(listed()))
