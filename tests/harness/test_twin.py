"""The published table as people see it: as in the paper, in every format, with the commands that fill it."""

import io

import pandas as pd
import pytest
from made import fresh, store
from twins import runs

from harness import fill, layout, published, table, twin
from harness import provenance as known
from harness.compare import compare

NAMES = published.names()
GLUE = published.load("adalora_glue")


@pytest.fixture(autouse=True)
def _double(monkeypatch):
    monkeypatch.setattr(known, "stale", fresh)


@pytest.fixture(scope="module")
def filled():
    """Three rows run: some cells reproduced, some not."""
    ours = runs(GLUE, ["lora_1.33M", "adalora_1.27M", "bitfit"], shift={"rte": -3, "cola": 0.9})
    return compare(GLUE, ours, stale=fresh)


def shown(capsys, *argv):
    code = table.main([str(word) for word in argv])
    return code, *capsys.readouterr()


@pytest.mark.parametrize("name", NAMES)
def test_without_runs_it_is_the_paper_and_the_command(name, capsys, tmp_path):
    code, out, err = shown(capsys, f"table={name}", "--root", tmp_path)
    found = published.load(name)
    assert (code, err) == (0, "")
    for row in found.rows.values():
        for cell in row.cells.values():
            assert cell.value is None or f"{cell.value:.1f}"[:-1] in out
    assert ("No runs yet; these commands would fill the table" in out) == found.can_run
    tables = [line for line in out.splitlines() if line.startswith("|")]
    assert max(map(len, tables)) <= twin.TERMINAL


def test_a_row_exactly(filled):
    text = twin.markdown(filled, plain=False)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert max(map(len, lines)) <= twin.TERMINAL
    at = next(index for index, line in enumerate(lines) if line.startswith("| LoRA r=8"))
    block = [[word.strip() for word in line.strip("|").split("|")] for line in lines[at : at + 6]]
    assert [line[2] for line in block] == ["paper", "ours", "difference", "verdict", "would hold", "by chance"]
    mnli = [line[3] for line in block]
    assert mnli[0] == "90.65"
    assert mnli[1].endswith("(5)≈") and " ± 0." in mnli[1]
    assert mnli[3:] == ["reproduced", "", "inside"]
    assert "differs" in text and "under-powered" in text and "paper; not run" in text
    assert "Margins: ±0.5 points (MNLI m, MNLI mm," in text
    assert "**" in text


def test_the_reasons_are_numbered(capsys, tmp_path):
    ours = runs(GLUE, ["lora_1.33M"], model="minilm")
    _, out, _ = shown(capsys, "table=adalora_glue", "--root", store(tmp_path, ours))
    assert "not comparable [1]" in out
    assert "- [1] backbone: ours minilm, paper deberta_v3_base" in out


def test_plain_is_the_papers_own_layout(filled):
    text = twin.markdown(filled, plain=True)
    assert len(text.splitlines()) == 14
    assert text.splitlines()[2].split("|")[3].strip() == "89.90"
    assert "90.93 ± 0.04" in twin.markdown(compare(published.load("increlora_glue"), [], stale=fresh), plain=True)
    frame = pd.read_csv(io.StringIO(twin.csv(filled, plain=True)))
    assert frame.shape == (12, 13)


def test_latex(filled):
    text = twin.latex(filled, plain=False)
    assert text.startswith("\\begin{tabular}{lrlrrrrrrrrrrr}\n\\toprule\nmethod & \\# Params & ")
    assert text.count("\\\\\n") >= 12 + 3 * 4
    body = text.partition("\\bottomrule")[0]
    assert "_" not in body.replace("\\_", "") and "%" not in body.replace("\\%", "")
    assert "% python -m harness -m model=deberta_v3_base" in text


def test_latex_prints_text_literally():
    assert layout.latex_text("a_b 5 % < 3 [-1.5, 2] s0-1 −2 | x") == (
        r"a\_b 5 \% $<$ 3 [$-$1.5, 2] s0-1 $-$2 \textbar{} x"
    )


def test_csv_has_everything(filled):
    frame = pd.read_csv(io.StringIO(twin.csv(filled, plain=False)))
    assert len(frame) == 12 * 11
    wanted = "paper paper_std ours low high seeds difference margin verdict smallest_margin more_seeds source why runs"
    assert {*wanted.split(), "paper_inside_prediction", "params_printed", "params_computed"} <= {*frame.columns}


def test_every_format_goes_to_a_file(capsys, tmp_path):
    for name, one in layout.FORMATS.items():
        out = tmp_path / f"table{one.suffix}"
        assert shown(capsys, "table=qlora_t5_superni", "--root", tmp_path / "none", "-o", out) == (0, "", "")
        assert out.stat().st_size > 1000, name


def test_the_commands_cover_what_is_not_run(filled):
    found = fill.commands(filled)
    assert len(found) == 3
    assert "method=houlsby,pfeiffer budget=1.2M,0.6M " in " ".join(found) + " "
    assert not any("budget=1.2M" in line and "adalora" in line for line in found), "those are run"
    increlora = fill.commands(compare(published.load("increlora_glue"), [], stale=fresh))
    assert any("train.select=best seed=0,1,2" in line for line in increlora)
    t5 = fill.commands(compare(published.load("qlora_t5_superni"), [], stale=fresh))
    assert any("quantization=nf4_dq" in line for line in t5)
    assert fill.commands(compare(published.load("lora_gpt3"), [], stale=fresh)) == []


def test_options_that_conf_lacks_are_named(tmp_path, monkeypatch):
    assert fill.absent(method="nonesuch", task="glue/rte", model="t5_base") == ["method=nonesuch"]
    found = fill.commands(compare(published.load("propetl_glue_multi"), [], stale=fresh))
    assert found[-1] == "# not run: no method hyperformer here yet"
    assert not any("hyperformer" in line for line in found[:-1]), "no command that would fail"
    (tmp_path / "method").mkdir()
    monkeypatch.setattr(fill.paths, "CONF", tmp_path)
    (tmp_path / "method/lora.yaml").touch()
    assert "# not in conf yet: " in "\n".join(fill.commands(compare(published.load("adalora_glue"), [], stale=fresh)))


def test_html_is_escaped():
    bad = published.load("lora_gpt3")
    rows = {key: row.__class__(**{**row.__dict__, "title": "<b>&"}) for key, row in bad.rows.items()}
    found = compare(bad.__class__(**{**bad.__dict__, "rows": rows}), [], stale=fresh)
    assert "<td>&lt;b&gt;&amp;</td>" in twin.page(found, plain=False)


def test_costs(capsys, tmp_path):
    ours = runs(GLUE, ["lora_1.33M"], seeds=2)
    for index, one in enumerate(ours):
        one.cost.update(stored_bytes=1000, peak_bytes=2**20 * (5 + index), train_seconds=10.0, examples=400)
        one.cost.update(latency_seconds=0.0123, latency_merged_seconds=None, seconds=1800.0, processes=2)
        one.provenance["device"] = "cpu"
    root = store(tmp_path, ours)
    for argv in (("table=adalora_glue",), ()):
        _, out, _ = shown(capsys, *argv, "--root", root, "--costs")
        line = next(line for line in reversed(out.splitlines()) if line.startswith(("| lora", "| LoRA")))
        words = [word.strip() for word in line.strip("|").split("|")]
        hours = 2 * 1800 * sum("lora" in one.id for one in ours) / 3600 / (1 if "table=adalora_glue" in argv else 8)
        assert {"12.3", "–", f"{hours:.3g}"} <= set(words)
        assert "8,000" in words and "40.0" in words and "10.0" in words and "device cpu" in " ".join(out.split())
    for name in ("latex", "html"):
        assert "8,000" in shown(capsys, "--root", root, "--costs", "--format", name)[1]


def test_where(capsys, tmp_path):
    ours = [*runs(GLUE, ["lora_1.33M"], seeds=2), *runs(GLUE, ["lora_1.33M"], seeds=2, learning_rate=5e-4)]
    root = store(tmp_path, ours)
    assert "2 unlike configurations" in shown(capsys, "table=adalora_glue", "--root", root)[1]
    chosen = shown(capsys, "table=adalora_glue", "--root", root, "--where", "train.learning_rate=0.001")[1]
    assert "unlike configurations" not in chosen and "(2)" in chosen
    code, _, err = shown(capsys, "--root", root, "--where", "train.lr=1")
    assert (code, "no record has the key 'train.lr'" in err) == (2, True)
