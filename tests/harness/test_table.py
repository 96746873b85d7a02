"""The table as people see it: exact output, bold only where separable, every format, every mistake in one message."""

import io
import os
import subprocess
import sys
import time
from html.parser import HTMLParser

import pandas as pd
import pytest
from made import fresh, made, seeds, store

from harness import layout, paths, provenance, report, status, table
from harness.cells import PARAMS, gather
from harness.grid import grid

SMALL = """\
| method                            |          glue/mrpc |           glue/rte |    adapter |
|:----------------------------------|-------------------:|-------------------:|-----------:|
| head                              |     70.2 ± 0.7 (3) |     FAILED (1) [1] |          0 |
| ia3                               | 71.0 ± 2.5 (3) [2] |                  – |      5,000 |
| lora (train.learning_rate=0.0005) |                  – |      57.0 (1)† [3] | 98,304,000 |
| lora (train.learning_rate=0.001)  | **84.3 ± 1.3 (3)** | 58.2 ± 9.5 (2) [4] | 98,304,000 |

- Mean ± half-width of its 95 % interval (Student's t over seeds), and the number of seeds. Scores in percent: accuracy
  on validation (glue/mrpc, glue/rte).
- Parameters: adapter = trained by the method, without the head.
- All rows: model minilm, budget default.
- Bold: the best of its column, separable from every other row: paired over seeds (Welch's t without common seeds), 5 %
  after Holm's correction.
- All scores: recipe fallback: no published hyper-parameters were applied
- [1] FAILED: loss is NaN at step 3 ({failed})
- [2] subset: train has 2000 rows (3 runs)
- [3] stale, shown as †: made by other harness.train, torch ({alone})
- [4] stale, left out of the mean (--stale includes it): made by other harness.train, torch
  ({third})
"""


@pytest.fixture(autouse=True)
def _double(monkeypatch):
    monkeypatch.setattr(provenance, "stale", fresh)


def small():
    """Four rows, two tasks: a failed run, stale ones, remarks, another learning rate."""
    fallback = "recipe fallback: no published hyper-parameters were applied"
    old = {"differs": ["harness.train", "torch"]}
    whole = {"remarks": [fallback], "params": 98_304_000}
    return [
        *seeds("head", [70.0, 70.1, 70.5], remarks=[fallback], params=0),
        made("head", "glue/rte", 0, state="FAILED", error="loss is NaN at step 3\nTraceback", params=0),
        *seeds("ia3", [70.0, 71.0, 72.0], remarks=[fallback, "subset: train has 2000 rows"], params=5000),
        *seeds("lora", [84.0, 84.0, 84.9], **whole),
        *seeds("lora", [57.5, 59.0], "glue/rte", **whole),
        made("lora", "glue/rte", 2, 12.0, code=old, **whole),
        made("lora", "glue/rte", 0, 57.0, learning_rate=5e-4, code=old, **whole),
    ]


def shown(capsys, *argv):
    """Exit code and what was printed."""
    code = table.main([str(word) for word in argv])
    return code, *capsys.readouterr()


def rendered(records, name="markdown", params=PARAMS[:1]):
    return layout.FORMATS[name].write(grid(*gather(records, stale=fresh)), params)[0]


def test_the_small_store_exactly(tmp_path, capsys):
    third, alone = (record.id for record in small() if record.code)
    failed = made("head", "glue/rte", 0).id
    expected = SMALL.format(failed=failed, alone=alone, third=third)
    assert shown(capsys, "--root", store(tmp_path, small())) == (0, expected, "")


def test_it_fits_a_terminal(capsys, tmp_path):
    tasks = ["cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb"]
    records = [one for method in ("lora", "bitfit", "adalora") for task in tasks
               for one in seeds(method, [80.12, 81.5, 85.0], f"glue/{task}", params=1_327_104)]  # fmt: skip
    _, out, _ = shown(capsys, "--root", store(tmp_path, records))
    assert max(map(len, out.splitlines())) <= 160 + len(tasks)  # the worst case: every row shares the lead (≈)


def test_bold_needs_separable_rows():
    assert "**90.0" in rendered([*seeds("a", [90.0, 90.3, 89.7]), *seeds("b", [80.0, 80.5, 79.5])])
    for rival in (
        seeds("b", [89.9, 90.4, 89.5]),  # as good
        seeds("b", [90.0, 90.3, 89.7]),  # the same under another name
        seeds("b", [80.0]),  # one seed
        seeds("b", [80.0, 80.5, 79.5], data="subset"),  # another set of rows
        seeds("b", [80.0, 80.5, 79.5], code={"differs": ["torch"]}),  # stale
    ):
        text = rendered([*seeds("a", [90.0, 90.3, 89.7]), *rival])
        assert "**" not in text
        assert "No bold" in text or text.count("≈ |") + text.count("≈**") == 2


def test_without_common_seeds_welch_decides():
    ahead = [made("a", seed=seed, score=90.0 + seed / 10) for seed in (5, 6, 7)]
    assert "**90.6" in rendered([*ahead, *seeds("b", [80.0, 80.5, 79.5])])


def test_a_narrow_interval_is_not_printed_as_zero():
    assert "80.00 ± 0.01 (4)" in rendered(seeds("a", [80.0, 80.01, 79.99, 80.0], kind="regression"))


def test_long_settings_move_beneath_the_table():
    text = rendered([made(), made(learning_rate=5e-4, epochs=7, batch_size=64)])
    assert "variant 1" in text.splitlines()[2]
    assert "- variant 1: train.batch_size=64, train.epochs=7, train.learning_rate=0.0005" in text


def test_all_params_and_unlike_models(capsys, tmp_path):
    records = [made(params=1000), made(task="glue/rte", params=2500), made(model="roberta", params=7)]
    _, out, _ = shown(capsys, "--root", store(tmp_path, records), "--all-params")
    assert "| model " in out
    assert "1,000–2,500" in out
    assert [word.strip() for word in out.splitlines()[0].split("|")][-5:-1] == ["adapter", "active", "head", "total"]


def test_filters(capsys, tmp_path):
    root = store(tmp_path, small())
    _, out, _ = shown(capsys, "--root", root, "--task", "glue/mrpc", "--method", "lora,ia3")
    assert "glue/rte" not in out
    assert "| head" not in out
    assert "| lora     | **84.3 ± 1.3 (3)** |" in out
    code, _, err = shown(capsys, "--root", root, "--task", "rtee")
    assert code == 2
    assert (
        err == "error: --task: unknown task in the store 'rtee'. Did you mean glue/rte? Allowed: glue/mrpc, glue/rte\n"
    )


def test_stale_on_request(capsys, tmp_path):
    _, out, _ = shown(capsys, "--root", store(tmp_path, small()), "--stale")
    assert "42.8 ± 66.4 (3)† [3]" in out


def test_unreadable_and_newer_records_are_named(capsys, tmp_path):
    root = store(tmp_path, small())
    for name, text in (("cut", '{"schema": 1, "id"'), ("newer", '{"schema": 99}'), ("foreign", "[]")):
        (root / name).mkdir()
        (root / name / "record.json").write_text(text)
    flat = " ".join(shown(capsys, "--root", root)[1].split())
    for words in (
        "cut/record.json cannot be read",
        "schema 99 and this version reads schema 1",
        "is not a record of this",
    ):
        assert words in flat


def test_a_store_of_nothing_readable(capsys, tmp_path):
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut/record.json").write_text("{")
    for name in layout.FORMATS:
        code, out, err = shown(capsys, "--root", tmp_path, "--format", name)
        assert (code, "cut/record.json" in (out + err).replace("\n", " ")) == (0, True)


def test_an_empty_store_says_what_would_fill_it(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for root in (tmp_path, paths.STORE):
        code, out, err = shown(capsys, "--root", root)
        assert (code, err) == (0, "")
        assert f"{root} holds no runs yet" in out
        assert "python -m harness -m method=" in out


def test_latex():
    text = rendered(small(), "latex")
    assert text.startswith("\\begin{tabular}{lrrr}\n\\toprule\n")
    assert r"\textbf{84.3 $\pm$ 1.3 (3)}" in text
    assert r"train.learning\_rate=0.001" in text
    assert all(line.endswith(r"\\") for line in text.splitlines()[2:3] + text.splitlines()[4:8])
    assert "%" not in text.replace(r"\%", "")


def test_html_is_well_formed_and_escaped():
    text = rendered([*small(), made("a<b>&", score=1.0)], "html")
    stack = []

    class Balanced(HTMLParser):
        def handle_starttag(self, tag, attrs):
            stack.extend([] if tag == "meta" else [tag])

        def handle_endtag(self, tag):
            assert stack.pop() == tag

    Balanced().feed(text)
    assert stack == []
    assert "<td>a&lt;b&gt;&amp;</td>" in text


def test_csv_has_every_number():
    frame = pd.read_csv(io.StringIO(rendered(small(), "csv")), keep_default_na=False)
    assert len(frame) == 6
    assert not frame.isin(["nan", "NaN"]).any(axis=None)
    best = frame[frame.best].iloc[0]
    assert (best.method, best.task, best.seeds, int(best.adapter_params)) == ("lora", "glue/mrpc", 3, 98_304_000)
    assert float(best["mean"]) == pytest.approx((84 + 84 + 84.9) / 3)
    assert frame.not_counted.tolist().count("stale 1") == 1


def test_output_to_a_file(capsys, tmp_path):
    root, out = store(tmp_path / "runs", small()), tmp_path / "table.tex"
    assert shown(capsys, "--root", root, "-o", out) == (0, "", "")
    assert out.read_text().startswith("\\begin{tabular}")
    code, _, err = shown(capsys, "--root", root, "-o", tmp_path / "no/table.md")
    assert code == 2
    assert "cannot be written" in err
    code, _, err = shown(capsys, "--root", root, "-o", tmp_path / "table.doc")
    assert code == 2
    assert "unknown suffix '.doc'" in err


def test_published_tables_are_named(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "PUBLISHED", tmp_path)
    code, _, err = shown(capsys, "table=adalora_glue")
    assert code == 2
    assert "unknown table 'adalora_glue': results/published holds none yet" in err
    (tmp_path / "adalora_glue.toml").touch()
    (tmp_path / ".hidden").touch()
    _, _, err = shown(capsys, "table=adalora_glu")
    assert "Did you mean adalora_glue? Allowed: adalora_glue\n" in err


def test_words_of_a_run_are_options(capsys, tmp_path):
    root = store(tmp_path, small())
    code, out, _ = shown(capsys, f"results.root={root}", "method=lora")
    assert (code, out) == shown(capsys, "--root", str(root), "--method", "lora")[:2] and code == 0 and "lora" in out


def test_other_words_are_refused(capsys):
    code, _, err = shown(capsys, "table=adalora_glue", "seed=1")
    assert code == 2
    assert err.startswith("error: unknown argument 'seed=1'; allowed: table=NAME, results.root=DIR, task=A,B")
    with pytest.raises(SystemExit) as stop:
        table.main(["--format", "word"])
    assert stop.value.code == 2


@pytest.mark.parametrize("command", [table, report, status])
def test_a_store_that_is_not_there_is_said(command, tmp_path, capsys):
    assert command.main(["--root", str(tmp_path / "nothere")]) == 2
    assert "nothere is no folder; give the store" in capsys.readouterr().err


def test_the_command_starts_quickly_and_needs_no_torch(tmp_path):
    root = store(tmp_path, small())
    probe = "import sys; from harness import table; table.main(['--root', sys.argv[1]]); print('torch' in sys.modules)"
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", probe, str(root)], capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONIOENCODING": "utf-8", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert time.perf_counter() - started < 10  # 1 s on an idle core; this only catches a heavy import
    assert done.stdout.endswith("False\n")
