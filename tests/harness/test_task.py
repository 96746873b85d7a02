"""Tasks from directories: official counts, one fingerprint for the same rows, and a line number for what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from specs import complaint, task, written

from harness import compose
from harness.errors import ConfigError
from harness.paths import PACKAGE
from harness.task import Split, cut, fingerprint, load

GLUE = ["cola", "sst2", "mrpc", "stsb", "rte", "wnli", "qnli", "qqp", "mnli"]
SUPERGLUE = ["boolq", "cb", "copa", "multirc", "record", "rte", "wic", "wsc"]
DEMO = ["entailment", "acceptability", "similarity", "summarization"]
HEADER = "index\tsentence1\tsentence2\tlabel\n"
GOOD = HEADER + "0\ta\tb\tentailment\n1\tc\td\tnot_entailment\n"
SCORED = "sentence1\tsentence2\tscore\n"


# Real data


@pytest.mark.parametrize("name", ["cola", "sst2", "mrpc", "stsb", "rte", "wnli"])
def test_official_counts(glue, name):
    found = load(task(f"glue/{name}"), str(glue))
    assert {split: len(rows) for split, rows in found.splits.items()} == task(f"glue/{name}").rows
    # Rows of the official sets that are in both splits, counted independently.
    twice = {"cola": (19, 1043), "stsb": (6, 1500), "sst2": (2, 872)}.get(name)
    told = [] if twice is None else ["{} of {} validation rows have the texts of a training row".format(*twice)]
    assert found.remarks == told


@pytest.mark.parametrize("name", ["qnli", "qqp", "mnli"])
def test_a_subset_is_remarked_on(glue, name):
    found = load(task(f"glue/{name}"), str(glue))
    rows, official = len(found.splits["train"]), task(f"glue/{name}").rows["train"]
    assert f"subset: train has {rows} rows, the official split {official}" in found.remarks
    assert any("validation" in remark for remark in found.remarks) is (name != "qnli")


def test_real_labels_and_texts(glue):
    rte = load(task("glue/rte"), str(glue)).splits["validation"]
    assert rte.target.count(0) == 146  # entailment
    assert rte.text_pair[0] == "Christopher Reeve had an accident."
    cola = load(task("glue/cola"), str(glue)).splits["validation"]
    assert (cola.text[0], cola.target.count(1)) == ("The sailors rode the breeze clear of the rocks.", 721)
    assert cola.text_pair is None
    stsb = load(task("glue/stsb"), str(glue)).splits["train"]
    assert (min(stsb.target), max(stsb.target)) == (0.0, 5.0)
    sst2 = load(task("glue/sst2"), str(glue)).splits["validation"]
    assert sst2.text[0].endswith(" "), "nothing is stripped"
    mnli = load(task("glue/mnli"), str(glue)).splits["validation"]
    assert [mnli.target.count(label) for label in range(3)] == [2681, 2353, 2435]


def test_the_largest_complete_set_is_read_fast(glue):
    spec = task("glue/sst2")
    started = time.process_time()
    load(spec, str(glue))
    assert time.process_time() - started < 0.5


# What travels with the package


@pytest.mark.parametrize("name", DEMO)
def test_demo_tasks_load_without_a_root(name):
    found = load(task(f"demo/{name}"), None)
    assert set(found.splits) == {"train", "validation", "test"}
    assert (found.selects, found.reports) == ("validation", "test")
    assert found.remarks == []
    for rows in found.splits.values():
        assert len(set(rows.ids)) == len(rows) > 100
        if found.kind == "classification":
            assert set(rows.target) == set(range(len(found.labels)))


def test_every_task_says_all_it_must():
    glue = {f"{suite}/{name}" for suite in ("glue", "glue_text", "propetl") for name in GLUE} - {"propetl/wnli"}
    superglue = {f"{suite}/{name}" for suite in ("superglue", "superglue_text") for name in SUPERGLUE}
    others = {"xsum", "cnn_dailymail", "superni"} | {f"demo/{name}" for name in DEMO}
    several = {"multi", "glue/multi", "propetl/multi"}
    assert set(compose.options("task")) == glue | superglue | others | several
    for name in glue | superglue | others:
        spec = task(name)
        assert spec.name == name
        assert spec.splits != "official" or (spec.selects in spec.files and spec.reports in spec.files)
        assert spec.splits == "official" or spec.reports == "test"
        assert spec.kind == "generation" or (spec.kind == "classification") == (len(spec.labels) >= 2)
        assert (spec.prompt is not None) == ("text/" in name or name.startswith("propetl/"))
        assert not spec.submitted or len(spec.submitted) == len(spec.labels)
        if name.startswith("glue/"):
            assert spec.hub.id == "nyu-mll/glue"
            assert spec.hub.splits.keys() == spec.files.keys() == spec.rows.keys()
            assert (spec.text_pair is None) == (spec.hub.text_pair is None)


# The same rows, the same fingerprint


def test_spelling_of_the_file_does_not_matter(tmp_path):
    variants = {
        "names": GOOD.encode(),
        "indices": GOOD.replace("\tnot_entailment", "\t1").replace("\tentailment", "\t0").encode(),
        "bom": b"\xef\xbb\xbf" + GOOD.encode(),
        "crlf": GOOD.replace("\n", "\r\n").encode(),
        "no end": GOOD.rstrip("\n").encode(),
        "columns": b"label\tsentence2\tmore\tsentence1\n0\tb\t\ta\n1\td\t\tc\n",
    }
    prints = {
        load(task("glue/rte"), written(tmp_path / name, "RTE", data)).fingerprint for name, data in variants.items()
    }
    lines = [
        {"sentence1": "a", "sentence2": "b", "label": "entailment"},
        {"sentence1": "c", "sentence2": "d", "label": 1},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    prints.add(load(task("glue/rte"), written(tmp_path / "json", "RTE", text, suffix=".jsonl")).fingerprint)
    assert len(prints) == 1


def test_any_difference_that_counts_changes_the_fingerprint():
    base = {"train": Split(["0", "1"], ["a", "b"], ["c", "d"], [0, 1])}
    others = [
        (["x", "y"], {"train": replace(base["train"], text=["b", "a"])}),
        (["x", "y"], {"train": replace(base["train"], text=["a ", "b"])}),
        (["x", "y"], {"train": replace(base["train"], text_pair=None)}),
        (["x", "y"], {"train": replace(base["train"], target=[1, 0])}),
        (["x", "y"], {"validation": base["train"]}),
        (["x", "y"], base | {"test": base["train"]}),
        (["y", "x"], base),
    ]
    prints = [fingerprint(labels, splits) for labels, splits in [(["x", "y"], base), *others]]
    assert len(set(prints)) == len(prints)
    assert fingerprint(["x", "y"], {"train": replace(base["train"], ids=["7", "8"])}) == prints[0]


def test_texts_stay_as_they_are(tmp_path):
    texts = [' "open', "a\u2028b\x0b\x85\x1c", "  spaces  ", "e\u0301", "\ufeff"]
    body = HEADER + "".join(f"{at}\t{text}\t\\n\t0\n" for at, text in enumerate(texts))
    rows = load(task("glue/rte"), written(tmp_path, "RTE", body)).splits["train"]
    assert rows.text == texts
    assert rows.text_pair == ["\\n"] * len(texts)
    assert rows.ids == ["0", "1", "2", "3", "4"]


def test_scores_survive_the_hubs_float32(tmp_path):
    import numpy as np

    scores = [round(at / 1000, 3) for at in range(5001)]
    hub = "".join(f"a\tb\t{float(np.float32(score))!r}\n" for score in scores)
    file = "".join(f"a\tb\t{score:.3f}\n" for score in scores)
    found = [
        load(task("glue/stsb"), written(tmp_path / str(len(body)), "STS-B", SCORED + body)) for body in (hub, file)
    ]
    assert found[0].splits["train"].target == found[1].splits["train"].target == scores
    assert found[0].fingerprint == found[1].fingerprint


# What is missing, and what is left out


def test_missing_files_and_folders_are_named_with_what_is_there(tmp_path):
    root = written(tmp_path / "glue", "RTE", GOOD)
    assert f"no directory {root}/nowhere. glue/rte is looked for" in complaint("glue/rte", f"{root}/nowhere")
    said = complaint("glue/wnli", root)
    assert f"no directory {root}/WNLI. glue/wnli is looked for under data.root={root}, as WNLI/train.tsv" in said
    assert "It holds RTE" in said
    (tmp_path / "glue" / "RTE" / "dev.tsv").rename(tmp_path / "glue" / "RTE" / "Dev.TSV")
    said = complaint("glue/rte", root)
    assert f"no file {root}/RTE/dev.tsv, the validation split" in said
    assert "It holds Dev.TSV, train.tsv. The nearest name is Dev.TSV." in said
    (tmp_path / "empty" / "RTE").mkdir(parents=True)
    assert "/empty/RTE is empty" in complaint("glue/rte", str(tmp_path / "empty"))
    (tmp_path / "file").write_text("x")
    assert "/file. glue/rte is looked for" in complaint("glue/rte", str(tmp_path / "file"))


def test_the_root_may_hold_the_suites_folder(tmp_path):
    root = written(tmp_path / "GLUE", "RTE", GOOD)
    assert load(task("glue/rte"), str(tmp_path)).fingerprint == load(task("glue/rte"), root).fingerprint


def test_a_cut_split_is_remarked_on_and_keeps_its_first_rows():
    whole = load(task("demo/similarity"), None)
    part = cut(whole, 7, 3)
    assert {name: len(rows) for name, rows in part.splits.items()} == {"train": 7, "validation": 3, "test": 3}
    assert part.splits["train"].text_pair == whole.splits["train"].text_pair[:7]
    assert part.splits["test"].ids == ["0", "1", "2"]
    assert f"subset: train cut to its first 7 of {len(whole.splits['train'])} rows" in part.remarks
    assert cut(whole, None, None) == whole


def test_what_stands_twice_is_counted_among_the_rows_that_are_left(tmp_path):
    body = GOOD + "2\te\tf\tentailment\n"
    whole = load(task("glue/rte"), written(tmp_path, "RTE", body, GOOD))
    twice = "of {} validation rows have the texts of a training row"
    assert f"2 {twice.format(2)}" in whole.remarks
    assert [remark for remark in cut(whole, None, 1).remarks if "texts" in remark] == [f"1 {twice.format(1)}"]


def test_broken_rows_are_left_out_where_the_task_says_so_and_counted(tmp_path):
    body = GOOD + "2\ta\n" + "3\ta\t\t0\n" + "4\te\tf\t0\n"
    root = written(tmp_path, "RTE", body, GOOD)
    assert "train.tsv:4: 2 fields" in complaint("glue/rte", root)
    found = load(task("glue/rte", "task.skip_broken=true"), root)
    assert found.splits["train"].text == ["a", "c", "e"]
    assert "train: 2 rows with missing fields or an empty text were left out" in found.remarks
    assert task("glue/qqp").skip_broken
    bad = written(tmp_path / "label", "RTE", body + "5\tg\th\tmaybe\n", GOOD)
    assert "train.tsv:7: label is 'maybe'" in complaint("glue/rte", bad, "task.skip_broken=true")


def test_a_split_that_the_task_lacks_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"task\.reports=test: unknown split 'test'.*Allowed: train, validation"):
        load(task("glue/rte", "task.reports=test"), written(tmp_path, "RTE", GOOD))


def test_metric_and_score_are_checked_by_the_schema():
    with pytest.raises(ConfigError, match=r"task\.metric: .*Did you mean matthews"):
        replace(task("glue/cola"), metric="mathews")
    with pytest.raises(ConfigError, match=r"task\.score: .*Allowed: accuracy, accuracy_f1, f1"):
        replace(task("glue/mrpc"), score="F-measure")


def test_reading_needs_no_heavy_import():
    heavy = "torch transformers datasets evaluate pandas numpy peft pyarrow"
    code = (
        "import sys; from pathlib import Path; from harness import task, files; "
        f"files.read(Path({str(PACKAGE / 'embedded/tasks/entailment/train.tsv')!r}), {{'text': 'sentence1'}}); "
        f"sys.exit(', '.join(set({heavy!r}.split()) & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert done.returncode == 0, done.stderr
