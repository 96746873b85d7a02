"""From a finished run to the files that the GLUE and SuperGLUE servers take."""

from __future__ import annotations

import json

import pytest
import superglue
from specs import composed, task

from harness import predict, run
from harness.errors import ConfigError
from harness.splits import Split
from harness.submission import written

HEADER = "index\tsentence1\tsentence2\tlabel\n"


def lines(content):
    return [json.loads(line) for line in content.splitlines()]


@pytest.mark.parametrize(
    ("name", "prediction", "content"),
    [
        ("glue/rte", [1, 0], "index\tprediction\n3\tnot_entailment\n4\tentailment\n"),
        ("glue/cola", [1, 0], "index\tprediction\n3\t1\n4\t0\n"),
        ("glue/stsb", [5.21, -0.3], "index\tprediction\n3\t5.000\n4\t0.000\n"),
        ("glue_text/rte", [-1, 1], "index\tprediction\n3\tentailment\n4\tnot_entailment\n"),
        ("superglue/cb", [2, 1], '{"idx": 3, "label": "neutral"}\n{"idx": 4, "label": "contradiction"}\n'),
        ("superglue/boolq", [1, 0], '{"idx": 3, "label": "true"}\n{"idx": 4, "label": "false"}\n'),
        ("superglue/wsc", [1, 0], '{"idx": 3, "label": "True"}\n{"idx": 4, "label": "False"}\n'),
        ("superglue_text/copa", [1, 0], '{"idx": 3, "label": 1}\n{"idx": 4, "label": 0}\n'),
        ("superglue_text/record", ["Bo", "Al"], '{"idx": 3, "label": "Bo"}\n{"idx": 4, "label": "Al"}\n'),
    ],
)
def test_the_servers_words(name, prediction, content):
    rows = Split(["3", "4"], ["a", "b"], None, [0, 0])
    assert written(task(name), "test", rows, {"prediction": prediction})[1] == content


def test_mnli_has_a_file_for_each_set():
    rows = Split(["0"], ["a"], ["b"], [0])
    names = [written(task("glue/mnli"), name, rows, {"prediction": [2]})[0] for name in task("glue/mnli").hidden]
    assert names == ["MNLI-m.tsv", "MNLI-mm.tsv", "AX.tsv"]
    with pytest.raises(ConfigError, match="no submission file for its split 'test'"):
        written(task("glue/mnli"), "test", rows, {"prediction": [2]})


def test_candidates_become_one_answer_a_group():
    rows = Split(
        ["0", "0", "1", "1"], ["a"] * 4, None, [0] * 4, groups=["0", "0", "1", "1"], truth=["0", "1", "0", "1"]
    )
    logits = {"logit_0": [0.0, 0.0, 1.0, 0.0], "logit_1": [0.0, 1.0, 0.0, -2.0], "prediction": [0] * 4}
    file, content = written(task("superglue/copa"), "test", rows, logits)
    assert (file, lines(content)) == ("COPA.jsonl", [{"idx": 0, "label": 1}, {"idx": 1, "label": 0}])
    names = Split(rows.ids, rows.text, None, rows.target, groups=rows.groups, truth=["Ann", "Bo", "Al", "Oz"])
    assert lines(written(task("superglue/record"), "test", names, logits)[1])[1] == {"idx": 1, "label": "Al"}


def test_multirc_is_nested_as_its_data():
    rows = Split(["[7, 3, 0]", "[7, 3, 1]", "[7, 4, 2]", "[9, 5, 3]"], ["a"] * 4, None, [0] * 4)
    file, content = written(task("superglue/multirc"), "test", rows, {"prediction": [1, 0, 0, 1]})
    first = {"idx": 3, "answers": [{"idx": 0, "label": 1}, {"idx": 1, "label": 0}]}
    second = {"idx": 4, "answers": [{"idx": 2, "label": 0}]}
    assert (file, lines(content)[0]) == ("MultiRC.jsonl", {"idx": 7, "passage": {"questions": [first, second]}})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run on made rows, and the root where its hidden rows are."""
    root = tmp_path_factory.mktemp("glue")
    (root / "RTE").mkdir()
    body = "".join(f"{at}\ta cat {at}\tb\t{('entailment', 'not_entailment')[at % 2]}\n" for at in range(12))
    for name in ("train", "dev"):
        (root / "RTE" / f"{name}.tsv").write_text(HEADER + body)
    (root / "RTE" / "test.tsv").write_text("index\tsentence1\tsentence2\n0\ta cat 3\tb\n1\ta cat 4\tb\n")
    config = composed(
        "task=glue/rte", "model=demo_deberta", f"data.root={root}", f"results.root={root / 'runs'}",
       "train.max_steps=3", "train.learning_rate=1e-2", "device=cpu", "progress=false", "~recipe",
    )  # fmt: skip
    made = run.run(run.plan(config))
    return root, root / "runs" / made.id, made


def test_a_run_writes_its_submission(finished, capsys, tmp_path):
    import pandas

    _, folder, _ = finished
    assert predict.main([str(folder), "--output", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "RTE.tsv")
    rows = (tmp_path / "RTE.tsv").read_text().splitlines()
    # The hidden rows are the fourth and fifth of the validation set: the adapter came back if the labels agree.
    stored = pandas.read_parquet(folder / "predictions.validation.parquet")["prediction"]
    expected = [("entailment", "not_entailment")[at] for at in stored[[3, 4]]]
    assert rows == ["index\tprediction", f"0\t{expected[0]}", f"1\t{expected[1]}"]


def test_another_task_of_the_same_labels(finished, tmp_path):
    _, folder, _ = finished
    test = [{"premise": "a cat 3", "hypothesis": "b", "idx": 0}]
    other = superglue.directory(tmp_path / "other", "rte", test=test)
    assert predict.main([str(folder), "--root", other, "--task", "superglue/rte", "--output", str(tmp_path)]) == 0
    assert lines((tmp_path / "RTE.jsonl").read_text())[0]["label"] in ("entailment", "not_entailment")


def test_bad_input_is_told(finished, capsys, tmp_path):
    root, folder, _ = finished
    for words, says in [
        ([str(tmp_path)], "holds no record; give the directory of a finished run"),
        ([str(folder), "--task", "superglue/cb"], "--task superglue/cb: its labels are entailment, contradiction"),
        ([str(folder), "--root", str(tmp_path)], f"no directory {tmp_path}/RTE"),
        ([str(folder), "--task", "glue/rt"], "Did you mean glue/rte"),
    ]:
        assert predict.main(words) == 2
        assert says in capsys.readouterr().err
    (root / "RTE" / "test.tsv").rename(root / "RTE" / "gone.tsv")
    assert predict.main([str(folder)]) == 2
    assert "has no rows to predict: test.tsv is looked for" in capsys.readouterr().err
