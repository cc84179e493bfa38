"""Boxes read as presence per A-scan, and the table that makes their scores probabilities."""

from __future__ import annotations

import numpy as np
import pytest

from clarion.errors import DataError
from clarion.oct.presence.boxes import ScoreTable, fit_score_table, presence_from_boxes


def test_the_best_box_over_an_ascan_decides():
    boxes = np.array([[2, 0, 6, 9, 0.4], [4, 0, 8, 9, 0.9], [0, 0, 10, 9, 0.1]])
    expected = [0.1, 0.1, 0.4, 0.4, 0.9, 0.9, 0.9, 0.9, 0.1, 0.1]
    assert presence_from_boxes(boxes, 10) == pytest.approx(expected)
    assert presence_from_boxes(boxes, 10, confidence=0.3)[[0, 2, 9]] == pytest.approx([0, 0.4, 0])


def test_edges_count_where_the_middle_of_an_ascan_is_inside():
    found = presence_from_boxes(np.array([[1.6, 0, 3.4, 1, 1.0], [-5, 0, 0.6, 1, 1.0], [7.2, 0, 99, 1, 1.0]]), 9)
    assert found.dtype == np.float32
    assert found.tolist() == [1, 0, 1, 0, 0, 0, 0, 1, 1]


@pytest.mark.parametrize("none", [None, [], np.zeros((0, 5))])
def test_without_boxes_there_is_nothing(none):
    assert not presence_from_boxes(none, 7).any()


def test_bad_boxes_are_refused():
    with pytest.raises(DataError, match="five numbers"):
        presence_from_boxes(np.zeros((2, 4)), 5)
    with pytest.raises(DataError, match="finite"):
        presence_from_boxes(np.array([[0, 0, np.nan, 1, 1]]), 5)


def test_a_table_learnt_from_scores_is_calibrated():
    random = np.random.default_rng(0)
    scores = [np.where(random.random(400) < 0.5, 0, random.random(400)) for _ in range(40)]
    presence = [(random.random(400) < np.where(s > 0, s**2, 0.07)).astype(float) for s in scores]
    table = fit_score_table(scores, presence)
    assert table(np.array([0.0, 0.5, 0.9])) == pytest.approx([0.07, 0.25, 0.81], abs=0.06)
    said = presence_from_boxes(np.array([[3, 0, 6, 1, 0.5]]), 8, table=table)
    assert said[:3] == pytest.approx([0.07] * 3, abs=0.01) and said[4] == pytest.approx(0.25, abs=0.06)


def test_bad_tables_are_refused():
    falling, above_one, short = ((0, 1), (0.5, 0.2)), ((0, 1), (0, 1.2)), ((0, 1), (0.1,))
    for scores, probabilities in (((0, 0), (0, 1)), falling, above_one, short, ((), ())):
        with pytest.raises(DataError, match="score table"):
            ScoreTable(scores, probabilities)
    with pytest.raises(DataError, match="A-scans"):
        fit_score_table([np.zeros(10)], [np.zeros(10)])
