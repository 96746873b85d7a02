"""The page: whole and escaped as text, and as a browser sees it."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from browser import CHROMIUM, Browser
from made import fresh, made, seeds, store
from twins import runs

from harness import figures, page, provenance, published, report, runsheet, traces
from harness.record import Unreadable

EVIL = "</pre><script>alert(1)</script><img src=x onerror=alert(1)>\"'&"
VOID = {"meta", "input", "br", "img", "link"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A store with curves, ranks, predictions, failed and unlike runs, and words that must be escaped."""
    table = published.load("increlora_glue")
    ours = runs(table, ["lora_0.33M", "adalora_0.32M"], seeds=2)
    ours += runs(table, ["houlsby_0.31M"], seeds=2, model=EVIL)
    for one in ours:
        scores = one.science["scores"]["validation"]
        one.science["main"]["score"] = scores[one.science["main"]["metric"]]
        one.identity["task"]["labels"] = ["no", EVIL]
        one.science["curve"] = [{"step": step, **{k: v - 10 / step for k, v in scores.items()}} for step in (5, 10, 20)]
        one.provenance.update(command=["python", "-m", "harness", EVIL], commit="abc" * 10, dirty=True, device=EVIL)
        one.config["note"] = EVIL
        if one.identity["method"]["name"] == "adalora" and one.identity["task"]["name"] == "glue/rte":
            names = [f"deberta.encoder.layer.{layer}.{m}" for layer in range(3) for m in ("query_proj", "output.dense")]
            one.science["trace"] = {"ranks": {name: index for index, name in enumerate(names)}}
            for at, row in enumerate(one.science["curve"]):
                row["trace"] = {"ranks": {name: 6 - at for name in names}}
    folder = store(tmp_path_factory.mktemp("runs"), ours)
    for one in ours[:4]:
        frame = pd.DataFrame({"id": ["a", "b", "c"], "target": [0, 1, 1], "prediction": [0, 1, 0]})
        frame.to_parquet(folder / one.id / "predictions.validation.parquet")
    (folder / "cut").mkdir()
    (folder / "cut/record.json").write_text("{")
    return folder


@pytest.fixture(scope="module")
def built(root, tmp_path_factory):
    """Pages of the published table and of the store."""
    folder = tmp_path_factory.mktemp("pages")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(provenance, "stale", fresh)
        assert report.main(["table=increlora_glue", "--root", str(root), "-o", str(folder / "twin.html")]) == 0
        small = store(
            folder / "small", [*seeds("lora", [80.0, 81.0, 82.0]), *seeds("a<b>", [70.0]), made(state="FAILED", seed=9)]
        )
        assert report.main(["--root", str(small), "-o", str(folder / "store.html")]) == 0
    return folder


class Reader(HTMLParser):
    """Checks nesting, and collects ids, links and what a strict policy forbids."""

    def __init__(self, text):
        super().__init__()
        self.stack, self.ids, self.links, self.bad, self.scripts = [], [], [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.stack += [] if tag in VOID else [tag]
        self.scripts += tag == "script"
        for key, value in attrs:
            if key == "id":
                self.ids.append(value)
            if key in ("href", "xlink:href"):
                self.links.append(value)
            if key.startswith("on") or key in ("style", "src", "action") or (value or "").startswith("javascript:"):
                self.bad.append((tag, key, value))

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.stack.pop()

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag


@pytest.mark.parametrize("name", ["twin", "store"])
def test_whole_escaped_and_strict(built, name):
    text = (built / f"{name}.html").read_text()
    found = Reader(text)
    assert found.stack == []
    assert found.bad == []
    assert found.scripts == 1
    assert len(found.ids) == len(set(found.ids)), "ids of figures must not collide"
    assert {link for link in found.links if link.startswith("#")} <= {f"#{one}" for one in found.ids}
    assert all(link.startswith("#") for link in found.links)
    assert not re.search(r"https?://(?!www\.w3\.org)", text.partition("<h2>Notes")[0])
    assert "default-src 'none'" in text
    assert "alert(1)</script>" not in text


def test_it_shows_what_is_behind_a_cell(built):
    text = (built / "twin.html").read_text()
    wanted = (
        "Confusion, 2 runs together", "Command of seed 0", "Ranks at the end, seed 0", "Learning curves of 2 runs", "✓",
        "abcabcabcabc + changes", "Score against what it costs", "≠ ", "unreadable:", "What is not run",
    )  # fmt: skip
    for words in wanted:
        assert words in text, words
    assert "FAILED 1" in (built / "store.html").read_text()
    assert "a&lt;b&gt;" in (built / "store.html").read_text()


def test_no_home_directory(root, monkeypatch, tmp_path):
    one = made()
    one.provenance["command"] = ["python", "-m", "harness", f"data.root={tmp_path}/data"]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert runsheet.command(one) == "python -m harness data.root=~/data"


def test_ranks_by_matrix_and_layer():
    one = made()
    one.science["trace"] = {"ranks": {"model.encoder.layers.0.fc1": 3, "model.decoder.layers.11.fc1": 4, "odd": 1}}
    assert traces.final(one) == {"decoder fc1": {"11": 4.0}, "encoder fc1": {"0": 3.0}}
    assert traces.final(made()) == {}


def test_the_same_records_give_the_same_page(root, built, tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "stale", fresh)
    held = [*seeds("lora", [80.0, 81.0, 82.0])]
    first = report.render(report.sheet(None, held, stale=fresh), tmp_path)
    assert report.render(report.sheet(None, held, stale=fresh), tmp_path) == first


def test_figures_are_plain_svg():
    points = [figures.Point("a&b", 1e5, 80.0, 79.0, 81.0), figures.Point("c", 1e6, 82.0, paper=True)]
    text = figures.pareto("<T> $x$", {"adapter parameters": points, "bits stored": points}, "x").element()
    assert text.startswith("<svg role=")
    assert "style=" not in text and "<style" not in text and "currentColor" in text
    assert "100k" in text and "a&amp;b" in text
    assert 'id="x-' in text


def test_ranks_over_time():
    one = made()
    names = ("encoder.layer.0.query", "encoder.layer.1.query", "encoder.layer.0.key")
    one.science["curve"] = [{"step": 5, "trace": {"ranks": dict.fromkeys(names, 4)}}, {"step": 9, "accuracy": 1.0},
                            {"step": 10, "trace": {"ranks": dict(zip(names, (4, 1, 3), strict=True))}}]  # fmt: skip
    held = traces.history(one)
    assert held == {5.0: {"query": {"0": 4.0, "1": 4.0}, "key": {"0": 4.0}},
                    10.0: {"query": {"0": 4.0, "1": 1.0}, "key": {"0": 3.0}}}  # fmt: skip
    assert traces.telling(held) == ("query", "1")
    text = traces.over_time(held, "Ranks", "x").element()
    assert "2.5" in text and "layer 1" in text and "updates" in text
    assert "seed 0" in traces.of_one({"seed 0": held}, "query", "1", "x").element()


def test_figures_as_files(tmp_path, capsys):
    held = [
        one
        for place, method in enumerate(("lora", "ia3", "adalora"))
        for one in seeds(method, [80.0 + place, 81.0, 82.0])
    ]
    for one in held[-3:]:
        one.science["trace"] = {"ranks": {"encoder.layer.0.query": 4}}
    words = ["--root", str(store(tmp_path / "runs", held)), "--as-made", "-o", str(tmp_path / "r.html"), "--figures"]
    assert report.main([*words, str(tmp_path / "figures")]) == 0
    names = {path.stem for path in (tmp_path / "figures").glob("*.svg")}
    assert names == {"pareto-1", "intervals", "critical-difference", "ranks-1"}
    assert {path.stem for path in (tmp_path / "figures").glob("*.png")} == names
    assert (tmp_path / "figures/intervals.png").read_bytes()[1:4] == b"PNG"
    (tmp_path / "file").touch()
    assert report.main([*words, str(tmp_path / "file/no")]) == 2
    assert "--figures" in capsys.readouterr().err


def test_bad_input(capsys, tmp_path):
    for words, says in (
        (["--root", tmp_path], "holds no runs yet"),
        (["table=nope"], "unknown table 'nope'"),
        (["lora"], "unknown argument 'lora'"),
        (["table=lora_gpt3", "--root", tmp_path, "-o", tmp_path / "no/r.html"], "cannot be written"),
    ):
        assert report.main([str(word) for word in words]) == 2
        assert says in capsys.readouterr().err


def test_without_runs_the_paper_stands_alone(tmp_path):
    text = report.render(report.sheet("qlora_t5_superni", [Unreadable(Path("x"), "x is cut")], stale=fresh), tmp_path)
    assert "62.0" in text and "python -m harness -m" in text and "x is cut" in text
    assert page.asset("report.js") in text


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (apt-get install chromium)")
def test_in_a_browser(built, tmp_path):
    browser = Browser(tmp_path / "profile")
    try:
        browser.open(built / "twin.html")
        first = "document.querySelector('#table tbody th').textContent"
        assert browser.run(first) == "Full FT"
        browser.run(
            "document.querySelectorAll('#table thead button')[8].click()"
        )  # RTE, downwards: ours where there is one
        column = "[...document.querySelectorAll('#table tbody tr')].map((row) => Number(row.cells[8].dataset.sort))"
        assert browser.run(column) == sorted(browser.run(column), reverse=True)
        browser.run("document.querySelectorAll('#table thead button')[8].click()")
        assert browser.run(column) == sorted(browser.run(column))
        shown = "[...document.querySelectorAll('#table tbody tr')].filter((row) => !row.hidden).length"
        browser.run("search.value = 'lora'; search.dispatchEvent(new Event('input'))")
        assert browser.run(shown) == 6
        browser.run("verdict.value = 'not-comparable'; search.value = ''; verdict.dispatchEvent(new Event('change'))")
        assert browser.run(shown) == 1
        assert browser.run("count.textContent") == "1 of 14 rows"
        browser.run("document.querySelector('#table td.not-comparable a').click()")
        assert browser.run("getComputedStyle(document.querySelector('.detail:target')).display") == "block"
        browser.run("document.dispatchEvent(new KeyboardEvent('keydown', {key: 'Escape'}))")
        assert browser.run("location.hash") == "#table"
        links = "[...document.links].filter((a) => !document.getElementById(a.hash.slice(1))).length"
        assert browser.run(links) == 0
        ink = "getComputedStyle(document.body).color"
        light = browser.run(ink)
        browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
        assert browser.run(ink) != light
        browser.call("Emulation.setDeviceMetricsOverride", width=375, height=800, deviceScaleFactor=1, mobile=True)
        assert browser.run("document.documentElement.scrollWidth") <= 375, "the page itself never scrolls sideways"
        browser.open(built / "store.html")
        assert browser.errors == []
    finally:
        browser.close()
