"""ICD-10-CM against its known answers and against the package that holds the tabular list."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from clarion.codes.icd10cm import LEVELS, icd10cm
from clarion.errors import DataError, UsageError


@pytest.fixture(scope="module")
def system():
    return icd10cm()


@pytest.fixture(scope="module")
def package():
    """simple-icd-10-cm itself: five seconds to import."""
    import simple_icd_10_cm

    return simple_icd_10_cm


def test_chain_of_a_leaf(system):
    assert system.chain("H40.1131") == ["H40.1131", "H40.113", "H40.11", "H40.1", "H40", "H40-H42", "7"]
    assert system.title("h401131") == "Primary open-angle glaucoma, bilateral, mild stage"
    assert system.terms("H40.11") == ("Chronic simple glaucoma",)


def test_codes_with_a_letter_in_third_place(system):
    assert {system.normalise(t) for t in ("C4A.0", "c4a0", " C4a.0 ")} == {"C4A.0"}
    assert system.chain("C4A0")[1:] == ["C4A", "C43-C44", "2"]


def test_every_leaf_parses_and_round_trips(system, package):
    listed = [code for code in package.get_all_codes() if package.is_leaf(code)]
    assert len(listed) == 74_736  # the five leaves that share a name with their block are listed twice
    assert len(set(listed)) == len(system.leaves) == 74_731 and set(listed) == set(system.leaves)
    for code in system.leaves:
        bare = code.replace(".", "")
        assert system.normalise(code) == system.normalise(bare) == system.normalise(bare.lower()) == code
        assert system.normalise(code.lower()) == code


def test_tree_is_that_of_the_package(system, package):
    for code in package.get_all_codes():
        assert (system.parent(code) or "") == package.get_parent(code)
        assert system.children(code) == package.get_children(code)
        assert system.title(code) == " ".join(package.get_description(code).split())
    assert list(system.chain("T36.0X1A")[1:]) == package.get_ancestors("T36.0X1A")


def test_blocks_that_share_a_name_with_their_category(system, package):
    shared = [c for c in system.codes if package.get_parent(c) == c]
    assert len(shared) == 39 and {"H59", "B20"} <= set(shared)  # 78 entries in the package's list of all codes
    assert sum(package.get_all_codes().count(code) for code in ("H59", "B20")) == 4
    for code in shared:
        assert system.parent(code) == code and system.children(code, prioritize_blocks=True) == [code]
        assert system.parent(code, prioritize_blocks=True) == package.get_parent(code, prioritize_blocks=True)
        title = package.get_description(code, prioritize_blocks=True).strip()
        assert system.title(code, prioritize_blocks=True) == title
        assert system.level(code, prioritize_blocks=True) == "block"
        assert system.at_level(code, "block") == system.at_level(code, "category") == code
    assert system.chain("H59.0") == ["H59.0", "H59", "H59", "7"]
    assert system.chain("H59", prioritize_blocks=True) == ["H59", "7"]
    assert system.is_leaf("B20") and not system.is_leaf("B20", prioritize_blocks=True)
    assert system.level("B20") == "leaf" and system.at_level("B20", "sub_category") is None
    assert system.at_level("B20", "leaf") == "B20"


def test_the_eye(system):
    categories = [c for block in system.children("7") for c in system.children(block, prioritize_blocks=True)]
    assert len(system.descendant_leaves("7")) == 2_677
    assert len(categories) == 40  # 41 where H59, a block and a category, is counted twice
    assert all(system.at_level(leaf, "chapter") == "7" for leaf in system.descendant_leaves("7"))
    assert len(system.children("7") + categories) - len({*system.children("7"), *categories}) == 1


def test_levels(system):
    assert [system.at_level("H401131", level) for level in LEVELS] == ["7", "H40-H42", "H40", "H40.1", "H40.1131"]
    assert [system.at_level("H25.11", level) for level in LEVELS] == ["7", "H25-H28", "H25", "H25.1", "H25.11"]
    assert [system.at_level("H40", level) for level in LEVELS] == ["7", "H40-H42", "H40", None, None]
    assert [system.level(c) for c in ("7", "H40-H42", "H40", "H40.1", "H40.113", "H40.1131")] == [
        "chapter", "block", "category", "sub_category", "sub_category", "leaf"
    ]  # fmt: skip
    with pytest.raises(UsageError, match="'subcategory' is no level .* chapter, block, category, sub_category, leaf"):
        system.at_level("H40", "subcategory")


def test_distance(system):
    assert system.distance("H40.1131", "H40.1132") == 2
    assert system.distance("H40.1131", "H40") == 4
    assert system.distance("H40.1131", "H40.1131") == 0
    assert system.distance("H40.1131", "H25.11") == system.distance("H25.11", "H40.1131") == 6 + 4
    assert system.distance("B20", "H25.11") == 3 + 5  # only the root is common
    assert system.distance("B20", "A00.0") == 2 + 3  # the chapter is


def test_a_code_that_does_not_exist_is_answered_with_the_nearest(system):
    assert system.normalise("H40.1139") is None and not system.exists("H40.1139")
    assert system.suggest("H401139")[0] == "H40.113"
    assert system.suggest("age related nuclear cataract of the right eye")[0] == "H25.11"
    assert system.suggest("") == [] and system.suggest("xyzzy") == []
    with pytest.raises(DataError, match=r"'H40\.1139' is no code of ICD-10-CM \(April 2026\); nearest: H40\.113 \("):
        system.chain("H40.1139")
    for text in (None, 3.5, "", "   ", "녹내장", "H40.1131 and H25.11", "x" * 10_000):
        assert system.normalise(text) is None
    with pytest.raises(DataError, match="is no code"):
        system.title("녹내장")


def test_loads_quickly_and_nothing_heavy(system):
    """In a process of its own, from the file that the first load left."""
    code = (
        "import sys, time; began = time.process_time()\n"
        "from clarion.codes.icd10cm import icd10cm\n"
        "icd10cm().chain('H40.1131')\n"
        "assert not {'simple_icd_10_cm', 'torch', 'pandas', 'rapidfuzz'} & set(sys.modules), sys.modules.keys()\n"
        "print(time.process_time() - began)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 2.0  # seconds of CPU; 0.4 measured


def test_normalising_is_fast_enough_for_every_word_of_a_note(system):
    began = time.process_time()
    for _ in range(20_000):
        system.normalise("h40.1131")
    assert time.process_time() - began < 1.0
