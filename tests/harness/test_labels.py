"""What tells configurations apart, in words a reader knows."""

from made import fresh, made

from harness.cells import gather


def test_labels_of_weights_are_words():
    def with_init(init, weights):
        one = made()
        one.identity["model"]["init"] = init
        one.identity["content"]["weights"] = weights * 64
        return one

    cells, _ = gather([with_init("pretrained", "a"), with_init("random", "b")], stale=fresh)
    assert [cell.row.settings for cell in cells] == ["", "random weights"]
    cells, _ = gather([with_init("pretrained", "a"), with_init("pretrained", "b")], stale=fresh)
    assert [cell.row.settings for cell in cells] == ["weights aaaaaaaa", "weights bbbbbbbb"]
