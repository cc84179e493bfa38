"""Set scores by level: known answers, and vectorised results against plain sets."""

from __future__ import annotations

import numpy as np
import pytest

from clarion.codes.atc import atc
from clarion.codes.icd10cm import LEVELS, icd10cm
from clarion.codes.scores import CodeSets
from clarion.errors import DataError, UsageError

TRUE = [["H40.1131", "H25.11"]]


@pytest.fixture(scope="module")
def system():
    return icd10cm()


@pytest.mark.parametrize(
    ("predicted", "expected"),
    [
        (["H40.1132", "H25.11"], [1, 1, 1, 1, 0.5]),
        (["H40", "H25"], [1, 1, 1, 0, 0]),
        (["h401131", "H2511", "H25.11"], [1, 1, 1, 1, 1]),
        ([], [0, 0, 0, 0, 0]),
        (["H40.1139"], [0, 0, 0, 0, 0]),
    ],
)
def test_f1_by_level(system, predicted, expected):
    sets = CodeSets(TRUE, [predicted], system)
    assert [sets.counts(level).f1()[0] for level in LEVELS] == pytest.approx(expected)


def test_atc_levels_differ_where_a_slice_off_by_one_sees_none():
    sets = CodeSets([["A10BA02"]], [["A10BB01"]], atc())
    assert [sets.counts(level).both[0] for level in sets.system.LEVELS] == [1, 1, 1, 0, 0]


def test_exact_match(system):
    predicted = [["H25.11", "h401131"], ["H25.11"], [*TRUE[0], "B20"], [*TRUE[0], "H99"], []]
    sets = CodeSets(TRUE * 4 + [[]], predicted, system)
    assert sets.exact()[:4].tolist() == [1, 0, 0, 0] and np.isnan(sets.exact()[4])


def test_distances_by_hand(system):
    predicted = [["H40.1132", "H25.11"], ["H40", "H25"], [], ["H40.1139"], TRUE[0]]
    found = CodeSets(TRUE * 5, predicted, system).distances()
    # 2 + 0 + 2 + 0 over four codes; 4 + 2 twice over four; 7 and 5 up to the root over two; the same and 5 down to the
    # nearest true code from the root over three
    assert found.tolist() == pytest.approx([1.0, 3.0, 6.0, 17 / 3, 0.0])


def test_agrees_with_plain_sets(system):
    rng = np.random.default_rng(7)
    leaves = [*system.descendant_leaves("7")[:30], "B20", "C4A.0", "H40", "H59"]
    true = [list(rng.choice(leaves, rng.integers(1, 5), replace=False)) for _ in range(120)]
    predicted = [list(rng.choice([*leaves, "H40.1139", "Q0"], rng.integers(0, 6))) for _ in range(120)]
    sets = CodeSets(true, predicted, system)

    def at(codes, level):
        return {(system.at_level(c, level) or c) if system.exists(c) else f"?{c}" for c in codes}

    for level in LEVELS:
        counts = sets.counts(level)
        for k in range(120):
            one, other = at(true[k], level), at(predicted[k], level)
            assert (counts.both[k], counts.true[k], counts.predicted[k]) == (len(one & other), len(one), len(other))
    distances = sets.distances()
    for k in range(120):
        one, other = set(true[k]), {c if system.exists(c) else None for c in predicted[k]}
        nearest = [min((edges(system, a, b) for b in other), default=edges(system, a, None)) for a in one]
        nearest += [min(edges(system, a, b) for a in one) for b in {*other} if b is not None]
        gone = {c for c in predicted[k] if not system.exists(c)}
        nearest += [min(edges(system, a, None) for a in one)] * len(gone)
        assert distances[k] == pytest.approx(np.mean(nearest))


def edges(system, a, b):
    return len(system.chain(a)) if b is None else system.distance(a, b)


def test_confidence_curve_by_hand(system):
    sets = CodeSets([*TRUE, ["H35.3211"]], [["H40.1132", "H25.11"], ["H35.3211", "h353211"]], system)
    curve = sets.ranked([[0.2, 0.9], [0.5, 0.1]], "leaf").curve()
    assert curve["threshold"].tolist() == [0.2, 0.5, 0.9]  # of a code given twice the surer one counts
    assert curve["coverage"].tolist() == [1.0, 1.0, 0.5]
    assert curve["f1"].tolist() == pytest.approx([4 / 6, 4 / 5, 2 / 4])
    assert curve["f1_answered"].tolist() == pytest.approx([4 / 6, 4 / 5, 2 / 3])
    many = CodeSets([["H25.11"]] * 500, [["H25.11"]] * 500, system)
    assert len(many.ranked([[k / 500] for k in range(500)], "leaf").curve()["threshold"]) == 201
    assert not len(CodeSets(TRUE, [[]], system).ranked([[]], "leaf").curve()["f1"])


def test_bad_input(system):
    with pytest.raises(UsageError, match="'subject' is no level of ICD-10-CM"):
        CodeSets(TRUE, TRUE, system).counts("subject")
    with pytest.raises(DataError, match=r"'H40\.1139' is no code"):
        CodeSets([["H40.1139"]], TRUE, system)
    with pytest.raises(UsageError, match="1 cases with true codes, 2 with predicted"):
        CodeSets(TRUE, TRUE * 2, system)
    empty = CodeSets([[]], [[]], system)
    assert np.isnan(empty.counts("leaf").f1()).all() and np.isnan(empty.distances()).all()
