"""Synthetic case reports: the two tests are what they claim, notes are a task, cases make sense; the data set."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from clarion.codes.icd10cm import icd10cm
from clarion.codes.pcs import icd10pcs
from clarion.errors import DataError, UsageError
from clarion.llm.cases.dataset import CaseReports
from clarion.llm.cases.generator import MOST_WEIGHT, draw_cases, templates, weight
from clarion.llm.cases.knowledge import conditions, vocabulary
from clarion.llm.cases.layout import CODE_LEAD, CODE_SEPARATOR, codes_in_target, finding_words, target_text
from clarion.llm.cases.plan import cut
from clarion.llm.contamination import TrainIndex

SIDE = {"OD": "right", "OS": "left"}


@pytest.fixture(scope="module")
def data():
    found = CaseReports(train=600, val=40, test=200)
    found.prepare()
    return found


@pytest.fixture(scope="module")
def every(data):
    return [case for cases in data.cases.values() for case in cases]


def codes(cases):
    return {code for case in cases for code in case.codes}


# What the generator knows.


def test_the_conditions_cover_all_eye_categories_with_existing_leaves():
    system = icd10cm()
    eye = {c for block in system.children("7") for c in (system.children(block) if "-" in block else [block])}
    found = {leaf.code for condition in conditions().values() for leaf in condition.leaves}
    assert {code[:3] for code in found} == {c[:3] for c in eye} and len({code[:3] for code in found}) == 40
    assert len(found) >= 550 and all(system.is_leaf(code) and "7" in system.chain(code) for code in found)
    assert len(found) == sum(len(c.leaves) for c in conditions().values()), "two conditions share a code"


def test_the_eye_of_a_leaf_is_the_eye_of_its_title():
    for condition in conditions().values():
        for leaf in condition.leaves:
            title = leaf.title.lower()
            if leaf.eye is None:
                assert not re.search(r"\b(right|left)\b", title), leaf
            elif leaf.eye == "OU":
                assert re.search(r"bilateral|both", title), leaf
            else:
                assert re.search(rf"\b{SIDE[leaf.eye]}\b", title) and "bilateral" not in title, leaf


def test_stages_say_what_their_titles_say():
    by = {leaf.code: leaf for c in conditions().values() for leaf in c.leaves}
    stages = vocabulary()["stages"]
    for code, word, told in [
        ("H40.1111", "mild stage", "early"),
        ("H40.1133", "severe stage", "advanced"),
        ("H34.8110", "macular edema", "swollen"),
        ("H34.8312", "stable", "old"),
        ("H35.3114", "with subfoveal", "through the foveal"),
        ("H35.3223", "inactive scar", "scar"),
        ("H59.43", "stage 3", "vitreous"),
    ]:
        leaf = by[code]
        group = next(s for s in stages.values() if conditions()[leaf.condition].stages is s)
        assert word in leaf.title and told in " ".join(group[leaf.stage]["en"]), code


def test_procedure_codes_exist_and_are_of_their_eye(every):
    known = icd10pcs()
    found = {(p.code, p.laterality) for case in every for p in case.procedures}
    assert found and all(known.normalise(code) == code for code, _ in found)
    assert all(SIDE[eye] in known.title(code).lower() for code, eye in found if eye)


def test_layouts_have_every_slot_in_every_split():
    slots = set(re.findall(r"\{(\w+)\}", templates()["en-clinic"]["body"]))
    assert {(t["language"], t["split"]) for t in templates().values()} == {
        (language, split) for language in ("en", "ko") for split in ("train", "val", "test")
    }
    for name, layout in templates().items():
        assert set(re.findall(r"\{(\w+)\}", layout["body"])) == slots, name
        assert len(layout["durations"]) == 4, name


# The leaks that would make the two tests worthless.


def test_no_case_no_layout_and_no_note_is_in_two_splits(data):
    for of in (lambda c: c.template, lambda c: c.case_id, lambda c: c.patient_id, lambda c: c.note):
        seen = [{of(case) for case in cases} for cases in data.cases.values()]
        assert sum(map(len, seen)) == len(set.union(*seen))
    assert {templates()[c.template]["split"] for c in data.cases["test"]} == {"test"}


def test_no_sentence_of_a_test_layout_stands_in_a_training_layout():
    def sentences(split):
        layouts = [t for t in templates().values() if t["split"] == split]
        kinds = ("negated", "history", "family", "other_eye", "impression")
        return {s for t in layouts for kind in kinds for s in t[kind] if re.sub(r"\{\w+\}|\W", "", s)}

    assert not sentences("test") & sentences("train") and not sentences("test") & sentences("val")


def test_unseen_codes_never_occur_in_training_nor_do_their_conditions(data):
    train, test = data.cases["train"], data.cases["test"]
    unseen = [c for c in test if c.meta["diagnoses"] == "unseen"]
    seen = [c for c in test if c.meta["diagnoses"] == "seen"]
    assert len(seen) == len(unseen) == 100
    assert codes(seen) <= codes(train) and codes(data.cases["val"]) <= codes(train)
    assert not codes(unseen) & codes(train) and len(codes(unseen)) >= 60
    # nor a neighbour: the code without eye and stage, even as a condition that is denied or another person's
    held = {conditions()[c.meta["condition"]].root for c in unseen}
    told = codes(train) | {m.code for case in train for m in case.mentions}
    assert not {root for root in held if any(code.startswith(root) for code in told)}


def test_the_cut_leaves_every_large_category_in_both_parts():
    trained, held = cut(0)
    assert not {c.key for c in trained} & {c.key for c in held}
    assert 0.15 < len(held) / (len(held) + len(trained)) < 0.3 and len({c.category for c in held}) >= 25
    assert cut(0)[1] != cut(1)[1]


def test_the_contamination_index_finds_no_copy_of_a_test_note(data):
    index = TrainIndex.build(data.train_texts(), {"run": "x"})
    overlaps = index.overlap(data.eval_texts("test"))
    # what is shared are words for a sign of some ten words, with the eye: nothing of a note's own
    unseen = overlaps["sample_id"].str.contains("unseen")
    assert not overlaps["exact"].any() and not overlaps["minhash"].any() and overlaps["ngram_share"].mean() < 0.01
    assert overlaps[unseen]["ngram13"].mean() <= 0.02 and overlaps["ngram13"].mean() < 0.12
    copied = index.overlap([("copy", next(data.train_texts())[1].split("\n\n")[0])])
    assert copied["exact"].all()  # the search itself works


# Notes are a task, and make sense.


def test_two_hundred_diagnoses_in_all_categories_and_both_languages(data, every):
    assert len(codes(every)) >= 500 and len({code[:3] for code in codes(data.cases["train"])}) == 40
    assert {c.language for c in data.cases["test"]} == {"en", "ko"}
    kinds = [m.kind for case in every for m in case.mentions]
    assert all(kinds.count(kind) > 100 for kind in ("negated", "history", "family", "other_eye"))
    words = np.array([len(c.note.split()) for c in every if c.language == "en"])
    assert np.median(words) >= 80 and words.max() <= 180
    assert max(weight(c.note) for c in every) <= MOST_WEIGHT


def test_notes_state_no_code_and_seldom_their_title(data, every):
    for case in every:
        squeezed = case.note.replace(".", "")
        assert not any(code.replace(".", "") in squeezed for code in case.codes if len(code) > 3), case.case_id
    shares = [data.card()["splits"][split]["title_in_note"] for split in ("train", "test")]
    assert all(0 < share < 0.2 for share in shares)


def test_a_mention_is_no_diagnosis_of_the_case(every):
    for case in every:
        for mention in case.mentions:
            assert mention.text in case.note, (case.case_id, mention)
            assert not any(code.startswith(mention.code) for code in case.codes), (case.case_id, mention)


def test_a_wrong_eye_mention_names_the_same_diagnosis_on_the_other_side(every):
    wrong = [(case, m) for case in every for m in case.mentions if m.kind == "other_eye"]
    assert len(wrong) > 100
    for case, mention in wrong:
        lead = conditions()[case.meta["condition"]]
        assert mention.code.startswith(lead.root) and case.codes[0].startswith(lead.root) and case.laterality in SIDE
        eyes = {leaf.eye for leaf in lead.leaves if leaf.code.startswith(mention.code)}
        assert eyes == {"OS" if case.laterality == "OD" else "OD"}, (case.codes, mention)


def test_biomarkers_fit_the_diagnoses(every):
    def values(key, name):
        leads = [c for c in every if c.meta["condition"] == key]
        assert leads, key
        return [f.value for c in leads for f in c.findings if f.name == name and f.laterality in (c.laterality, None)]

    assert min(values("poag", "intraocular pressure")) >= 25 and max(values("ntg", "intraocular pressure")) <= 17
    assert min(values("poag", "vertical cup-disc ratio")) >= 0.65
    assert min(values("erm", "central macular thickness")) >= 360
    assert max(values("keratoconus_stable", "central corneal thickness")) <= 470
    for case in every:
        for diagnosis in case.diagnoses:
            if diagnosis.title.endswith("severe stage"):
                md = [f.value for f in case.findings if f.name == "visual field mean deviation"]
                assert md and max(md) <= -12
        low, high = conditions()[case.meta["condition"]].ages
        assert low <= case.age <= high


def test_a_measured_value_of_a_finding_stands_in_the_note(every):
    for case in every[:200]:
        for finding in case.findings:
            if finding.unit == "mm[Hg]" and finding.laterality:
                assert f"{finding.value} mmHg" in case.note, case.case_id


def test_the_same_seed_gives_the_same_cases_and_more_cases_leave_them_alone():
    sizes = {"train": 30, "val": 4, "test": 8}
    first, again, other = (draw_cases(sizes, seed) for seed in (3, 3, 4))
    assert first == again and first["train"] != other["train"]
    more = draw_cases(sizes | {"train": 60}, 3)
    assert [c.codes[0] for c in more["train"][:30]] == [c.codes[0] for c in first["train"]]


def test_few_conditions_still_hold_some_out():
    cases = draw_cases({"train": 60, "val": 4, "test": 20}, 0, korean=0.0, most=16)
    assert len({c.meta["condition"] for found in cases.values() for c in found}) <= 16
    assert {c.meta["diagnoses"] for c in cases["test"]} == {"seen", "unseen"}
    assert {c.language for c in cases["train"]} == {"en"}


# The layout that models and decoders share.


def test_targets_keep_the_published_order_and_end_with_the_codes(every):
    for case in every[:100]:
        text = target_text(case)
        places = [text.index(lead) for lead in ("Symptoms:", "Image findings:", "Diagnosis:", "Treatment:", CODE_LEAD)]
        assert places == sorted(places) and text.endswith(CODE_LEAD + CODE_SEPARATOR.join(case.codes))
        assert codes_in_target(text) == case.codes == codes_in_target(target_text(case, explanations=False))
        assert all(d.title in text for d in case.diagnoses)
    assert target_text(case, explanations=False).startswith(CODE_LEAD)
    assert codes_in_target("no codes here") == []


def test_findings_of_two_eyes_stand_beside_each_other(every):
    case = next(c for c in every if c.meta["condition"] == "poag" and c.laterality == "OU")
    line = next(words for words in finding_words(case.findings) if words.startswith("intraocular pressure"))
    assert re.fullmatch(r"intraocular pressure OD \d+, OS \d+ mm\[Hg\]", line)


# The data set.


def test_the_data_set_offers_what_trainer_and_evaluators_read(data):
    assert data.check().ok and not data.check().warnings
    truth = data.truth("test")
    assert {"sample_id", "patient_id", "codes", "procedures", "labs", "drugs", "diagnoses", "language", "category",
            "named"} <= set(truth)  # fmt: skip
    assert set(truth["diagnoses"]) == {"seen", "unseen"} and truth["codes"].map(len).min() >= 1
    planned = {c.case_id: c.meta["diagnoses"] for c in data.cases["test"]}
    assert dict(zip(truth["sample_id"], truth["diagnoses"], strict=True)) == planned
    samples = list(data.samples("test"))
    assert [s.sample_id for s in samples] == list(truth["sample_id"])
    for sample, row in zip(samples, truth.itertuples(), strict=True):
        assert sample.inputs["note"] in sample.inputs["messages"][-1]["content"] and not sample.inputs["code_first"]
        assert not any(CODE_LEAD in turn["content"] for turn in sample.inputs["messages"]), row.sample_id
    rows = data.hf_dataset("train")
    assert rows[0]["completion"][0]["content"].endswith(CODE_SEPARATOR.join(data.cases["train"][0].codes))
    assert rows[0]["prompt"][-1]["content"].startswith("Case report:\n")
    assert json.dumps(data.card(), ensure_ascii=False) and "unseen" in data.card()["how"]


def test_targets_without_explanations_begin_with_the_codes():
    data = CaseReports(train=8, val=1, test=2, explanations=False)
    assert data.hf_dataset("train")[0]["completion"][0]["content"].startswith(CODE_LEAD)
    assert next(data.samples("test")).inputs["code_first"]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"kind": "private"}, "data.root"), ({"korean": 1.5}, "0 to 1"), ({"test": 1}, "at least 2"),
        ({"conditions": 3}, "at least 8"), ({"fold": 0}, "data.fold=null"),
        ({"root": "/no/such/folder"}, "train.jsonl"),
    ],
)  # fmt: skip
def test_wrong_settings_end_in_one_sentence(settings, told):
    with pytest.raises(UsageError, match=told):
        CaseReports(**settings)


def folder(path, **splits):
    for split, rows in splits.items():
        text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        (path / f"{split}.jsonl").write_text(text + "\n", encoding="utf-8")
    return path


def test_files_of_the_user_are_read_with_pseudonyms_and_their_own_unseen(tmp_path):
    train = [
        {"patient_id": f"MRN{k}", "note": f"환자 {k}: IOP 30, cup 0.8", "diagnoses": ["H401131"], "age": 60 + k}
        for k in range(20)
    ]
    test = [
        {"patient_id": "MRN900", "note": "a drooping story", "diagnoses": [{"code": "H40.1131"}]},
        {"patient_id": "MRN901", "note": "hazy lens", "diagnoses": ["H25.11", "H40.1131"]},
    ]
    data = CaseReports(root=str(folder(tmp_path, train=train, test=test)), kind="private")
    data.prepare()
    assert data.check().ok and len(data.splits["train"]) == 18 and len(data.splits["val"]) == 2
    truth = data.truth("test")
    assert list(truth["diagnoses"]) == ["seen", "unseen"] and list(truth["category"]) == ["H40", "H25"]
    assert truth["codes"][1] == ["H25.11", "H40.1131"]
    told = json.dumps([data.card(), data.splits, list(truth["patient_id"])], ensure_ascii=False)
    assert "MRN" not in told and truth["patient_id"].str.startswith("P-").all()
    assert {c.language for c in data.cases["train"]} == {"ko"}


def test_broken_folders_are_refused_by_name(tmp_path):
    with pytest.raises(UsageError, match="lacks train.jsonl and test.jsonl"):
        CaseReports(root=str(tmp_path), kind="public").prepare()
    good = {"note": "x", "diagnoses": ["H25.11"]}
    folder(tmp_path, train=[good], test=[good, {"note": "y", "diagnoses": []}])
    with pytest.raises(DataError, match=r"test.jsonl: 1 case\(s\) have no ICD-10-CM code"):
        CaseReports(root=str(tmp_path), kind="public").prepare()


def test_a_note_that_states_its_code_is_a_warning(tmp_path):
    rows = [{"patient_id": str(k), "note": f"case {k}, coded H25.11", "diagnoses": ["H25.11"]} for k in range(12)]
    data = CaseReports(root=str(folder(tmp_path, train=rows[:10], test=rows[10:])), kind="public")
    assert any("states the code" in str(w) for w in data.check().warnings)
