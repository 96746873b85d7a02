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


def copied(folder, **files):
    """The embedded DeBERTa with some files replaced (`None`: gone)."""
    shutil.copytree(paths.embedded("embedded:backbones/deberta"), folder)
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        path.unlink() if content is None else path.write_bytes(content)
    return compose.composed([f"model.path={folder}"])


def test_weights_that_are_cut_off_are_one_message(tmp_path):
    found = copied(tmp_path / "cut", model__safetensors=b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    with pytest.raises(ModelError, match="a file of it may be damaged: copy or fetch it again"):
        model.load(found.model, tmp_path / "cut", task.empty(found.task), seed=0)


def test_pickled_weights_that_are_none_are_one_message(tmp_path):
    found = copied(tmp_path / "bin", model__safetensors=None, pytorch_model__bin=b"hello\n")
    with pytest.raises(ModelError, match="a file of it may be damaged: copy or fetch it again"):
        model.load(found.model, tmp_path / "bin", task.empty(found.task), seed=0)


def test_a_backbone_without_its_tokenizer_is_refused(tmp_path):
    for name in ("deberta", "roberta", "bart", "t5"):
        folder = tmp_path / name
        shutil.copytree(paths.embedded(f"embedded:backbones/{name}"), folder)
        spec = compose.composed([f"model=demo_{name}", f"model.path={folder}"]).model
        directory.locate(spec)
        (folder / "tokenizer.json").unlink()
        with pytest.raises(ModelError, match="has no tokenizer"):
            directory.locate(spec)
