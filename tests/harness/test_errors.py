"""The nearest right name."""

import pytest

from harness.errors import nearest, unknown

MODELS = ["demo_bart", "demo_deberta", "demo_roberta", "deberta_v3_base", "deberta_v3_xsmall", "roberta_base"]


@pytest.mark.parametrize(
    ("word", "allowed", "close"),
    [
        ("deberta", MODELS, "deberta_v3_base"),  # what begins with it, though demo_roberta is as near by letters
        ("demo_debreta", MODELS, "demo_deberta"),
        ("rte", ["glue/rte", "glue/mrpc", "superglue/rte"], "glue/rte"),
        ("glue/rt", ["glue/rte", "glue/mrpc"], "glue/rte"),
        ("zzz", MODELS, None),
    ],
)
def test_nearest(word, allowed, close):
    assert nearest(word, allowed) == close
    assert (f"Did you mean {close}?" in unknown("model", word, allowed)) == (close is not None)
