from __future__ import annotations

import random

import pytest

from clarion.data.splits import fold_patients, patient_order, patients_in_two_splits, split_hash, split_patients
from clarion.errors import UsageError

PATIENTS = [f"patient {k}" for k in range(100)]
SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}


def test_split_is_a_partition_of_the_asked_sizes_and_ignores_order():
    shuffled = PATIENTS * 3
    random.Random(1).shuffle(shuffled)
    splits = split_patients(PATIENTS, SHARES, seed=0)
    assert {k: len(v) for k, v in splits.items()} == {"train": 70, "val": 10, "test": 20}
    assert sorted(p for v in splits.values() for p in v) == sorted(PATIENTS)
    assert split_patients(shuffled, SHARES, seed=0) == splits
    assert split_patients(PATIENTS, SHARES, seed=1) != splits


def test_a_few_new_patients_move_few_old_ones():
    before = {p: s for s, v in split_patients(PATIENTS, SHARES, 0).items() for p in v}
    after = {p: s for s, v in split_patients([*PATIENTS, "new a", "new b"], SHARES, 0).items() for p in v}
    assert sum(before[p] != after[p] for p in PATIENTS) <= 4


def test_orders_are_nested_and_korean_names_agree_in_both_unicode_forms():
    order = patient_order(PATIENTS, 0)
    assert set(order[:25]) < set(order[:50])
    import unicodedata

    names = ["김철수", "이영희", "박민수", "최지우"]
    decomposed = [unicodedata.normalize("NFD", n) for n in names]
    back = [unicodedata.normalize("NFC", n) for n in patient_order(decomposed, 3)]
    assert back == patient_order(names, 3)


def test_strata_are_shared_out_alike():
    strata = {p: "rare" if k < 10 else "common" for k, p in enumerate(PATIENTS)}
    splits = split_patients(PATIENTS, SHARES, 0, strata)
    assert {k: len(v) for k, v in splits.items()} == {"train": 70, "val": 10, "test": 20}
    rare = {k: sum(strata[p] == "rare" for p in v) for k, v in splits.items()}
    assert rare == {"train": 7, "val": 1, "test": 2}
    folds = fold_patients(PATIENTS, 5, 0, strata)
    assert all(sum(strata[p] == "rare" for p in fold) == 2 for fold in folds)


def test_folds_partition_the_patients():
    folds = fold_patients(PATIENTS, 7, seed=0)
    assert sorted(p for fold in folds for p in fold) == sorted(PATIENTS)
    assert max(map(len, folds)) - min(map(len, folds)) <= 1


@pytest.mark.parametrize("bad", [{"train": 0.5, "test": 0.4}, {"train": 1.2, "test": -0.2}, {}])
def test_wrong_shares_are_refused(bad):
    with pytest.raises(UsageError, match="sum to 1"):
        split_patients(PATIENTS, bad, 0)


def test_too_few_patients_are_refused_and_few_still_fill_every_split():
    assert all(split_patients(PATIENTS[:3], SHARES, 0).values())
    with pytest.raises(UsageError, match="2 patient"):
        split_patients(PATIENTS[:2], SHARES, 0)
    with pytest.raises(UsageError, match="data.folds=9"):
        fold_patients(PATIENTS[:4], 9, 0)


def test_split_hash_and_shared_patients():
    splits = {"train": ["a", "b"], "test": ["c"]}
    assert split_hash(splits) == split_hash({"test": ["c"], "train": ["b", "a"]})
    assert split_hash(splits) != split_hash({"train": ["a"], "test": ["b", "c"]})
    assert patients_in_two_splits(splits, {"a": "p", "b": "q", "c": "p"}) == {"p": ["train", "test"]}
