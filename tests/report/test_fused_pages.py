"""The page of a fused run: unimodal models beside, ablations, texts with what was removed, where it looked."""

from __future__ import annotations

import json
import re

import pytest
from fused_runs import PATIENTS, TISSUE, WRONG, add_look, build_fused
from test_pages import assert_static, text_of

from clarion.evaluators.factcheck_facts import Facts
from clarion.evaluators.factcheck_text import check
from clarion.report import write_run_report
from clarion.report.files import read_run
from clarion.report.fused import beside_view, struck, texts_view


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    return build_fused(tmp_path_factory.mktemp("runs") / "fused")


@pytest.fixture
def run(recorded, tmp_path):
    import shutil

    return shutil.copytree(recorded, tmp_path / "fused")


def test_the_page_has_all_of_it(run):
    add_look(run)
    page = text_of(write_run_report(run))
    parsed = assert_static(page.replace('href="look/', 'href="#look/'))  # the one kind of link out of the page
    for part in (
        "Fused and unimodal, side by side", "slide alone (swin_mil_nano)", "omics alone (tabular_transformer)",
        "ridge_cox", "Fused minus it", "DeLong p", f"same {PATIENTS} patients",
        "What the answer depends on", "slide: the mean training patient (zeroed)", "Texts that change",
        "Texts against the facts", f"{WRONG} of ", "sentences had an unsupported claim and were removed",
        "most sentences removed", "at random", "“q = 0.9” is contradicted (they hold 0.003)",
        "Where it looked", "0.875 [0.750, 1.000]", "P00, slide 1", "+0.031 [+0.010, +0.050]",
    ):  # fmt: skip
        assert part in parsed.text, part
    assert re.findall(r"<del>([^<]*)</del>", page) == ["TP53 is a risk gene (q = 0.9)."]
    assert 'href="look/P00/slide-1.html"' in page and "Free answers" not in page


def test_scores_beside_are_those_of_the_evaluator(run):
    results = json.loads((run / "metrics.json").read_text())["evaluators"]["survival"]
    first = beside_view(read_run(run))["first"]
    assert [row[0] for row in first["rows"]] == ["fusion_smollm2 (fused)", "slide alone (swin_mil_nano)",
                                                 "omics alone (tabular_transformer)", "ridge_cox"]  # fmt: skip
    own = results["metrics"]["auc_60m"]
    assert first["rows"][0][1] == f"{own['value']:.3f} [{own['low']:.3f}, {own['high']:.3f}]"
    ridge = next(one for one in results["beside"] if one["name"] == "ridge_cox")["metrics"]["auc_60m"]
    assert ridge["difference"]["value"] == pytest.approx(own["value"] - ridge["other"]["value"])
    assert ridge["difference"]["low"] > 0 and first["rows"][3][2].startswith(f"+{ridge['difference']['value']:.3f}")


def test_what_is_not_shown_is_said(tmp_path):
    why = "The omics model alone is not shown beside: its run has other splits than this one."
    run = build_fused(tmp_path / "fused", notes=(why,))
    page = text_of(write_run_report(run))
    assert why in page
    assert f"clarion look {run.name} --out {run.name}/look" in page  # no maps yet: the command that makes them


def test_private_patients_show_figures_and_no_text_and_no_slide(tmp_path):
    run = build_fused(tmp_path / "fused", kind="private")
    add_look(run)
    page = text_of(write_run_report(run))
    assert "Texts against the facts" in page and "Pointing game" in page
    assert "EGFR is a protective gene" not in page and "look/P00" not in page and "<del>" not in page


def test_links_out_of_the_folder_are_left_out(run):
    (run / "other.html").write_text("x")
    add_look(run, pages=("../other.html", "P00/gone.html", "P00/slide-1.html"))
    page = text_of(write_run_report(run))
    assert re.findall(r'href="(look/[^"]*)"', page) == ["look/P00/slide-1.html"]


@pytest.mark.parametrize("damage", ["{", '{"format": "clarion-looking/9"}', "[]"])
def test_a_damaged_folder_of_maps_is_no_folder(run, damage):
    add_look(run)
    (run / "look" / "looking.json").write_text(damage)
    assert "No maps were drawn" in text_of(write_run_report(run))


def test_struck_parts_join_to_the_text():
    facts = Facts.read(json.dumps({"schema": "clarion-rationale-facts/1", "genes": [
        {"name": "TP53", "coef": 0.4, "q": 0.003, "z": 1.0}]}))  # fmt: skip
    text = "Summary:\nTP53 is a risk gene. TP53 is protective.\n\nKRAS is a risk gene. TP53 is protective.\n"
    parts = struck(text, check(text, facts))
    assert "".join(part for part, _ in parts) == text
    assert [part for part, gone in parts if gone] == ["TP53 is protective.", "KRAS is a risk gene.",
                                                      "TP53 is protective."]  # fmt: skip


def test_what_a_text_says_of_tissue_is_judged_by_what_the_model_was_told(run):
    """As the evaluator does: the truth holds stroma, the prompt named necrosis, and so does the text."""
    for one in texts_view(read_run(run))["examples"]:
        kept = "".join(part for part, gone in one["parts"] if not gone)
        assert TISSUE in kept and not any("necrosis" in said for said in one["wrong"])


def test_texts_are_chosen_the_same_every_time(run):
    first, again = (texts_view(read_run(run))["examples"] for _ in range(2))
    assert first == again and len(first) == 3 and len({one["sample_id"] for one in first}) == 3
