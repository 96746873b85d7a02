"""Only the head: what is refused."""

import peft
import pytest
from tiny import build

from methods.selective.head import HeadConfig


@pytest.mark.parametrize("family", ["bart", "t5"])
def test_a_language_model_has_no_task_head(family):
    with pytest.raises(ValueError, match="has no task head to train"):
        peft.get_peft_model(build(family, "generation"), HeadConfig(task_type="SEQ_2_SEQ_LM"))
