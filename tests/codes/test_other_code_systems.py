"""ICD-10-PCS, ATC and LOINC: levels, existence, tables of the user, refusals."""

from __future__ import annotations

import pytest

from clarion.codes.atc import atc
from clarion.codes.loinc import check_digit, loinc
from clarion.codes.pcs import icd10pcs
from clarion.errors import DataError, UsageError

HIERARCHY = """PATH_TO_ROOT,SEQUENCE,IMMEDIATE_PARENT,CODE,CODE_TEXT
,1,,LP29693-6,Laboratory
LP29693-6,2,LP29693-6,LP343406-7,Microbiology
LP29693-6,1,LP29693-6,LP7819-8,Hematology
LP29693-6.LP7819-8,1,LP7819-8,LP32067-8,Hemoglobin
LP29693-6.LP7819-8.LP32067-8,1,LP32067-8,718-7,Hemoglobin [Mass/volume] in Blood
LP29693-6.LP343406-7,9,LP343406-7,718-7,a second place
"""


@pytest.fixture
def hierarchy(tmp_path):
    path = tmp_path / "ComponentHierarchyBySystem.csv"
    path.write_text(HIERARCHY, encoding="utf-8")
    return str(path)


def test_pcs_prefixes():
    system = icd10pcs()
    assert [system.at_level("08rj3jz", level) for level in system.LEVELS] == ["0", "08", "08R", "08RJ3JZ"]
    assert system.title("08RJ3JZ").startswith("Replacement of Right Lens with Synthetic Substitute")
    assert [system.at_level("08R", level) for level in system.LEVELS] == ["0", "08", "08R", None]
    assert system.version == "2024"


def test_pcs_codes_that_do_not_exist():
    system = icd10pcs()
    assert system.normalise("08RJ3JQ") is None and system.normalise("08RJ3J") is None
    assert system.normalise("O8RJ3JZ") is None  # the letter O is not used
    with pytest.raises(DataError, match="'08RJ3JQ' is no code of ICD-10-PCS.*nearest: 08RJ3JZ"):
        system.chain("08RJ3JQ")
    with pytest.raises(UsageError, match="section, body_system, operation, full"):
        system.at_level("08RJ3JZ", "device")


def test_pcs_table_of_the_user(tmp_path):
    path = tmp_path / "icd10pcs_codes_2026.txt"
    path.write_text("08RJ3JZ Replacement of Right Lens\n", encoding="utf-8")
    assert icd10pcs(str(path)).version == "2026" and icd10pcs(str(path)).normalise("08RK3JZ") is None
    path = tmp_path / "other.txt"
    path.write_text("H40.1131 glaucoma\n", encoding="utf-8")
    with pytest.raises(DataError, match="line 1: 'H40.1131 glaucoma' does not begin with an ICD-10-PCS code"):
        icd10pcs(str(path))
    with pytest.raises(DataError, match="no list of ICD-10-PCS codes can be read"):
        icd10pcs(str(tmp_path / "missing.txt"))


def test_atc_levels_have_1_3_4_5_and_7_characters():
    system = atc()
    assert [system.at_level("a10ba02", level) for level in system.LEVELS] == ["A", "A10", "A10B", "A10BA", "A10BA02"]
    assert system.chain("S01EE01") == ["S01EE01", "S01EE", "S01E", "S01", "S"]
    assert [system.at_level("A10B", level) for level in system.LEVELS] == ["A", "A10", "A10B", None, None]
    for wrong in ("A10BA0", "A1", "E10", "Z01", "10A", "", None, "A10BA021"):
        assert system.normalise(wrong) is None


def test_atc_table_of_the_user(tmp_path):
    path = tmp_path / "atc.csv"
    path.write_text("code,title\nS01EE01,latanoprost\nS01EE04,travoprost\n", encoding="utf-8")
    system = atc(str(path))
    assert system.title("s01ee01") == "latanoprost" and system.normalise("S01E") == "S01E"
    assert system.normalise("S01EE09") is None
    with pytest.raises(DataError, match="'S01EE09' is no code of ATC .*nearest: S01EE0"):
        system.chain("S01EE09")
    empty = tmp_path / "empty.csv"
    empty.write_text("name\n", encoding="utf-8")
    with pytest.raises(DataError, match="no ATC code stands in the first column"):
        atc(str(empty))


def test_loinc_check_digits():
    assert [check_digit(n) for n in ("718", "8480", "2345", "4548")] == [7, 6, 7, 4]
    system = loinc()
    assert system.normalise(" 8480-6 ") == "8480-6" and system.normalise("8480-5") is None
    assert system.LEVELS == ("leaf",) and system.chain("718-7") == ["718-7"]
    with pytest.raises(DataError, match="'718-8' is no code of LOINC .*nearest: 718-7"):
        system.chain("718-8")
    with pytest.raises(UsageError, match=r"Name ComponentHierarchyBySystem\.csv"):
        system.at_level("718-7", "part_1")


def test_loinc_parts_from_the_users_table(hierarchy, tmp_path):
    system = loinc(hierarchy)
    expected = ["LP29693-6", "LP7819-8", "LP32067-8", "718-7"]
    assert [system.at_level("718-7", level) for level in system.LEVELS] == expected
    assert system.chain("718-7") == expected[::-1]  # the first place in the table
    assert system.title("718-7") == "Hemoglobin [Mass/volume] in Blood"
    assert system.normalise("8480-6") is None
    part = [system.at_level("LP7819-8", level) for level in system.LEVELS]
    assert part == ["LP29693-6", "LP7819-8", None, "LP7819-8"]
    broken = tmp_path / "Loinc.csv"
    broken.write_text("LOINC_NUM,COMPONENT\n718-7,Hemoglobin\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"lacks the column\(s\) PATH_TO_ROOT, CODE, CODE_TEXT"):
        loinc(str(broken))
