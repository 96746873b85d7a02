"""What a configuration may change in a backbone's own: settings that its class has, never what fetches code."""

import json
import shutil

import pytest

from harness import architecture, compose, directory, model, paths, task
from harness.errors import ConfigError, HarnessError, ModelError


def changed(**settings):
    return compose.composed([f"+model.config.{name}={value}" for name, value in settings.items()])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"_attn_implementation": "kernels-community/x"}, "_attn_implementation is no setting"),
        ({"_attn_implementation_internal": "kernels-community/x"}, "is no setting"),
        ({"_experts_implementation": "kernels-community/x"}, "is no setting"),
        ({"attn_implementation": "kernels-community/x"}, "is no setting"),
        ({"to_dict": 4}, "to_dict is no setting"),
        ({"hidden_act": "gelo"}, "unknown activation 'gelo'. Did you mean gelu"),
        ({"hidden_size": "foo"}, "hidden_size=foo is not allowed: .*expected int"),
        ({"num_attention_heads": 0}, "cannot be loaded as model demo_deberta"),
    ],
)
def test_settings_that_are_refused(settings, says):
    found = changed(**settings)
    with pytest.raises(HarnessError, match=says):
        model.skeleton(found.model, directory.locate(found.model), task.empty(found.task))


def test_settings_that_are_taken():
    found = changed(hidden_dropout_prob=0.3, cls_dropout=0.2).model
    config = architecture.of(found, directory.locate(found), {"num_labels": 3})
    assert (config.hidden_dropout_prob, config.cls_dropout, config.num_labels) == (0.3, 0.2, 3)


def test_a_kernel_that_a_directory_asks_for_is_not_fetched(tmp_path):
    folder = tmp_path / "backbone"
    shutil.copytree(paths.embedded("embedded:backbones/deberta"), folder)
    asked = json.loads((folder / "config.json").read_text()) | {"attn_implementation": "kernels-community/x"}
    (folder / "config.json").write_text(json.dumps(asked))
    found = compose.composed([f"model.path={folder}"])
    with pytest.raises(ModelError, match="asks for the kernel kernels-community/x"):
        model.skeleton(found.model, folder, task.empty(found.task))


def test_what_a_library_says_is_one_line(tmp_path):
    spec = changed().model
    for error in (KeyError("'x'"), TypeError("a\nb"), ZeroDivisionError()):
        with pytest.raises(ModelError) as refused, architecture.loading(spec, tmp_path):
            raise error
        assert "\n" not in str(refused.value) and str(refused.value).split(": ", 1)[1]
    with pytest.raises(ConfigError), architecture.loading(spec, tmp_path):
        raise ConfigError("ours passes as it is")
