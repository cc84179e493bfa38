from __future__ import annotations

import pandas as pd
import pytest

from clarion.errors import DataError
from clarion.evaluators.join import join


def table(ids, patients=None, **columns):
    return pd.DataFrame({"sample_id": ids, "patient_id": patients or [f"p{i}" for i in ids], **columns})


def test_rows_meet_by_id_whatever_their_order():
    left, right = join(table(["b", "a"], x=[2, 1]), table(["a", "b"], y=[10, 20]), ["x"], ["y"])
    assert list(left["x"]) == [1, 2] and list(right["y"]) == [10, 20]
    assert list(left["sample_id"]) == list(right["sample_id"]) == ["a", "b"]


def test_ids_that_became_numbers_still_meet():
    left, _ = join(table([2, 1], ["7", "7"], x=[2, 1]), table(["1", "2"], [7, 7], y=[0, 0]), ["x"], ["y"])
    assert list(left["x"]) == [1, 2]


@pytest.mark.parametrize(
    ("predictions", "named"),
    [
        (table(["a"]), "b"),
        (table(["a", "b", "c"]), "c.*unknown"),
        (table(["a", "a", "b"]), r"\(a\).*more than once"),
        (table(["a", "b"], ["pa", "pZ"]), r"\(b\).*another"),
        (table(["a", None], ["pa", "pb"]), "no sample_id"),
        (table(["a", "b"]).drop(columns="patient_id"), "lacks the column.*patient_id"),
    ],
)
def test_errors_name_the_ids(predictions, named):
    with pytest.raises(DataError, match=named):
        join(predictions, table(["a", "b"]), [], [])


def test_errors_show_a_few_of_many_and_count_the_rest():
    with pytest.raises(DataError, match=r"8 sample id\(s\) \(s0, s1, s2, s3, s4 and 3 more\)"):
        join(table(["z"]), table([f"s{i}" for i in range(8)] + ["z"]), [], [])


def test_nothing_to_score_is_an_error():
    with pytest.raises(DataError, match="no rows"):
        join(table([]), table([]), [], [])
