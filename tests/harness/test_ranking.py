"""Average ranks and critical distances, beside the numbers that Demsar (2006) prints."""

import pytest

from harness import ranking


def test_the_papers_own_example():
    """Section 3.2.2: four algorithms on 14 data sets: 2.569 sqrt(4 * 5 / (6 * 14)) = 1.25."""
    assert ranking.distance(4, 14) == pytest.approx(1.25, abs=0.005)


def test_ranks_ties_and_friedman():
    found = ranking.rank({"a": [3, 3, 3, 3], "b": [2, 2, 3, 2], "c": [1, 1, 1, 1]}, "tasks")
    assert found.ranks == {"a": 1.125, "b": 1.875, "c": 3.0}
    assert found.p == pytest.approx(0.0218, abs=0.002)  # scipy.stats.friedmanchisquare
    assert ranking.rank({"a": [1.0, 1.0, 1.0], "b": [1.0, 1.0, 1.0], "c": [1.0, 1.0, 1.0]}, "tasks").p == 1
    assert ranking.rank({"a": [1.0], "b": [2.0]}, "tasks") is None


def test_cliques_are_the_longest_runs():
    found = ranking.Ranking({"a": 1.0, "b": 1.5, "c": 2.6, "d": 4.0}, 0.01, 1.2, 10, "tasks")
    assert found.cliques() == [(1.0, 1.5), (1.5, 2.6)]
