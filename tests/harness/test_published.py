"""Published tables: all of them read, and every mistake in a file is one message that names file and key."""

import pytest

from harness import paper, paths, published
from harness.errors import ConfigError

SHAPES = {
    "adalora_glue": (12, 10), "adalora_summarization": (9, 6), "increlora_glue": (14, 8), "lora_gpt3": (8, 5),
    "propetl_glue_multi": (6, 11), "propetl_glue_roberta": (3, 11), "propetl_glue_single": (2, 11),
    "qlora_datatypes_glue": (6, 1), "qlora_t5_superni": (6, 5), "rehearsal_adalora": (1, 2),
}  # fmt: skip
SMALL = """
title = "T"
source = "S, Table 1"
model = "m"
split = "validation"
selection = "unknown"
statistic = "mean"
seeds_claimed = 5
seeds_inferred = 0
margin = 0.5
margin_reason = "R"
[average]
title = "Avg"
of = [["a", "b"]]
convention = "C"
[counts]
params = "P"
[[columns]]
key = "a"
title = "A"
task = "glue/rte"
metric = "accuracy"
[[columns]]
key = "b"
title = "B"
task = "glue/cola"
metric = "matthews"
margin = 1.0
[[rows]]
key = "x"
title = "X"
method = "lora"
cells = {a = 80.0, b = {value = -2.0, std = 0.5, split = "test"}}
average = 39.0
counts.params = {printed = "1.3M", formula = "13*100000"}
"""


@pytest.fixture
def small(tmp_path):
    """Reads SMALL with one piece of text replaced."""

    def read(old="", new=""):
        assert old in SMALL
        (tmp_path / "small.toml").write_text(SMALL.replace(old, new))
        return published.read(tmp_path / "small.toml")

    return read


@pytest.mark.parametrize("name", SHAPES)
def test_every_table_reads(name):
    table = published.load(name)
    assert (len(table.rows), len(table.columns)) == SHAPES[name]
    for row in table.rows.values():
        for cell in row.cells.values():
            assert cell.setting.source and cell.setting.margin > 0
            assert cell.value is not None or cell.remark


def test_no_table_is_forgotten():
    assert published.names() == sorted(SHAPES)


def test_the_narrowest_place_wins(small):
    row = small().rows["x"]
    assert (row.cells["a"].setting.margin, row.cells["b"].setting.margin) == (0.5, 1.0)
    assert (row.cells["a"].setting.split, row.cells["b"].setting.split) == ("validation", "test")
    assert row.cells["b"].std == 0.5
    assert row.counts["params"].computed == 1_300_000
    assert row.budget == "default"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("a = 80.0, ", "", "small.toml: rows.x.cells: lacks the cell 'a'"),
        ("a = 80.0", "a = 180.0", "small.toml: rows.x.cells.a: 180 is no accuracy in percent"),
        ("a = 80.0", "a = -1.0", "rows.x.cells.a: -1 is no accuracy"),
        ("a = 80.0", "a = nan", "rows.x.cells.a: must be a finite number"),
        ("a = 80.0", "a = true", "rows.x.cells.a: must be a finite number"),
        ("a = 80.0", 'a = "80.0"', "rows.x.cells.a: must be a finite number, found '80.0'"),
        ("std = 0.5", "std = -0.5", "rows.x.cells.b.std: -0.5 is no standard deviation"),
        ("std = 0.5", "sdt = 0.5", "rows.x.cells.b.sdt: unknown key 'sdt'. Did you mean std?"),
        ("average = 39.0", "", "rows.x: lacks the key 'average'"),
        ('method = "lora"', "", "rows.x: lacks the key 'method'"),
        ('split = "validation"', "", "top level: lacks the key 'split'"),
        ('title = "T"', 'title = "T"\ntitel = "T"', "titel: unknown key 'titel'. Did you mean title?"),
        ('statistic = "mean"', 'statistic = "maen"', "statistic: unknown value 'maen'. Did you mean mean?"),
        ("margin = 0.5", "margin = 0", "margin: is too small: 0"),
        ('of = [["a", "b"]]', 'of = [["a", "c"]]', "average.of: unknown column 'c'"),
        ('"13*100000"', '"__import__(1)"', "rows.x.counts.params.formula: '__import__(1)' is neither"),
        ("counts.params = ", "counts.prams = ", "rows.x.counts.prams: unknown key"),
        ('key = "b"', 'key = "a"', "columns.a: stands twice"),
        ('key = "x"\n', "", "rows[0]: lacks the key 'key'"),
        ("[average]", "[average", "cannot be read as TOML"),
        ('task = "glue/rte"\n', "", "columns.a: lacks the key 'task'"),
        (
            'metric = "accuracy"',
            'metric = "acuracy"',
            "columns.a.metric: unknown metric 'acuracy'. Did you mean accuracy?",
        ),
    ],
)
def test_mistakes_name_file_and_key(small, old, new, says):
    with pytest.raises(ConfigError) as stop:
        small(old, new)
    assert says in str(stop.value)
    assert "small.toml" in str(stop.value)


def test_an_absent_cell_says_why(small):
    cell = small("a = 80.0", 'a = {absent = "not printed"}').rows["x"].cells["a"]
    assert (cell.value, cell.remark) == (None, "not printed")


def test_an_unknown_name(monkeypatch, tmp_path):
    with pytest.raises(ConfigError, match="Did you mean adalora_glue"):
        published.load("adalora_glu")
    monkeypatch.setattr(paths, "PUBLISHED", tmp_path)
    with pytest.raises(ConfigError, match="holds none yet"):
        published.load("adalora_glue")


@pytest.mark.parametrize("text", ["", "1 +", "2**3", "a", "f(1)", "1/0", "True", "'a'"])
def test_arithmetic_is_arithmetic_alone(text):
    with pytest.raises(ValueError):
        paper.arithmetic(text)
    assert paper.arithmetic("2*(3 + 4)/7 - 1") == 1
