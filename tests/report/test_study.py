"""The page of a study: what it says, that it hides nothing, and that it stands alone."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from chromium_page import LOWEST_CONTRAST, SMALLEST_TEXT
from drawn_study import drawn_study, known_association, measured_study
from test_pages import HOSTILE, assert_static, text_of

from clarion.findings import Document, Finding
from clarion.oct.volume import Flag
from clarion.report import study_pictures as pictures
from clarion.report.bscan_figures import evidence, membrane_extents_mm
from clarion.report.enface_figures import share_wheel
from clarion.report.study import finding_row, shown, study_view, write_study_report


@pytest.fixture(scope="module")
def study():
    found = measured_study()
    found.association = known_association()
    return found


@pytest.fixture(scope="module")
def page(study, tmp_path_factory):
    return write_study_report(study, tmp_path_factory.mktemp("page") / "report.html")


def test_page_says_what_was_measured(study, page):
    text = text_of(page)
    parsed = assert_static(text)
    eye = {"OD": "right eye (OD)", "OS": "left eye (OS)"}[study.volume.laterality]
    assert f"<title>Epiretinal membrane, {eye} (phantom data)</title>" in text
    area = study.document.get("erm_area")
    for part in (
        f"{area.value:.2f} mm²",
        f"{area.interval[0]:.2f} to {area.interval[1]:.2f} (95 %)",
        "331 µm",
        "320 to 342 (95 %)",  # half to even
        "These figures say nothing about a patient",
        "The scale is the device's nominal one, not measured.",
        "flagged: The fovea was not found with certainty.",
        "No central scan was measured.",
        "Difference at equal eccentricity and direction",
        "22.5 to 59.5 (95 %)",
        study.document.get("erm_area").source["model"],
        *(rule for rule in study.stage.trace),
    ):
        assert part in re.sub(r"\s+", " ", parsed.text), part
    for name, sector in study.etdrs_um.items():
        assert f"{sector.mean:.0f} µm" in parsed.text, name
    assert page.stat().st_size < 3_000_000


def test_warnings_stand_before_everything_that_was_measured(page):
    text = text_of(page)
    assert text.index("nominal one, not measured") < text.index("What was measured") < text.index("<svg")


def test_warnings_of_reader_and_measurement_are_all_told_once(study):
    document = replace(study.document, warnings=[{"name": "a", "message": "One."}, {"name": "b", "message": "Two."}])
    volume = study.volume.flagged(Flag("a", "One."), Flag("c", "Three."))
    warnings = study_view(replace(study, document=document, volume=volume))["warnings"]
    assert sorted(warnings) == sorted(
        ["The scale is the device's nominal one, not measured.", "One.", "Two.", "Three."]
    )


def test_pictures_are_named_for_those_who_do_not_see_them(page):
    drawings = [a for tag, a in assert_static(text_of(page)).tags if tag == "svg" and a.get("aria-hidden") != "true"]
    assert len(drawings) > 15
    assert all(a["role"] == "img" and a["aria-label"] for a in drawings)


def test_evidence_scans(study):
    chosen = evidence(study)
    reasons = {study.volume.scans[k].scan_id: words for k, words in chosen}
    extents = membrane_extents_mm(study)
    assert chosen[0][0] == int(extents.argmax()) and f"{extents.max():.2f} mm" in chosen[0][1][0]
    foveal = [scan_id for scan_id, words in reasons.items() if any("scan nearest to" in word for word in words)]
    assert {scan_id[0] for scan_id in foveal} == {"H", "V"}
    for scan_id in foveal:
        scan = next(s for s in study.volume.scans if s.scan_id == scan_id)
        across, place = (1, study.fovea.y_mm) if scan_id[0] == "H" else (0, study.fovea.x_mm)
        assert abs(scan.start_mm[across] - place) <= study.volume.line_spacing_mm(scan_id[0]) / 2
    assert any("lowest image quality, 20 dB" in words for words in reasons.values())
    assert any("Central subfield thickness" in word for word in reasons["H03"])


def test_the_scan_with_the_least_certain_layers_is_shown(study):
    doubts = [np.full_like(sd, 0.5) for sd in study.surfaces_sd]
    doubts[9][:] = 1.25
    reasons = dict(evidence(replace(study, surfaces_sd=doubts)))
    assert any(f"SD {1.25 * study.volume.axial_um:.1f} µm" in word for word in reasons[9])


def test_membrane_extent_of_known_presence(study):
    half = [np.where(np.arange(s.width) < s.width // 2, 0.9, 0.1) for s in study.volume.scans]
    extents = membrane_extents_mm(replace(study, presence=half))
    assert extents == pytest.approx([s.length_mm / 2 for s in study.volume.scans])
    assert membrane_extents_mm(replace(study, presence=None)) is None


def test_nasal_is_on_the_right_of_a_right_eye():
    class Share:
        def __init__(self, mean):
            self.mean = mean

    names = ("CSF", "inner_superior", "inner_nasal", "inner_inferior", "inner_temporal",
             "outer_superior", "outer_nasal", "outer_inferior", "outer_temporal")  # fmt: skip
    shares = {name: Share(k / 10) for k, name in enumerate(names)}
    for eye, at_right in (("OD", "60"), ("OS", "80")):
        words = re.findall(
            r'<text class="value dark" x="([\d.]+)" y="([\d.]+)">([\d]+)</text>', share_wheel(shares, eye)
        )
        assert max(words, key=lambda w: float(w[0]))[2] == at_right
        left, right = re.findall(r">(nasal|temporal)</text>", share_wheel(shares, eye))
        assert right == ("nasal" if eye == "OD" else "temporal") and left != right


def test_maps_keep_their_values():
    values = np.array([[100.0, np.nan], [300.0, 200.0]])
    rgba = pictures.coloured(values, 100, 300)
    assert rgba[0, 1, 3] == 0 and (rgba[[0, 1, 1], [0, 0, 1], 3] == 255).all()
    light = rgba[..., :3].astype(float) @ (0.2126, 0.7152, 0.0722)
    assert light[0, 0] < light[1, 1] < light[1, 0]  # brighter is thicker
    assert pictures.round_range(np.linspace(210, 402, 500), 25) == (200, 400)
    assert pictures.round_range(np.full((2, 2), np.nan), 25) is None
    assert pictures.tint(np.array([[0.01, 0.5, 1.0, np.nan]]))[0, :, 3].tolist() == [0, 64, 128, 0]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (331.4, "um", "331"), (23.44, "um", "23.4"), (4.2678, "mm2", "4.27"), (41.54, "%", "41.5"), (True, None, "yes"),
        ("absent", None, "absent"), (2, "1", "2"), (-12.31, "um", "−12.3"), (float("nan"), "um", "—"),
    ],
)  # fmt: skip
def test_digits_follow_the_unit(value, unit, text):
    assert shown(value, unit) == text


def test_finding_row_links_only_scans_that_are_shown():
    row = finding_row(Finding("x", "X", 1.0, "um", derived_from=("H01", "H02", "erm")), {"H02", "V03"})
    assert row["scans"] == ["H02"]


def test_a_study_of_which_nothing_could_be_measured(tmp_path):
    study = drawn_study(localiser=False)
    volume = replace(study.volume, laterality=None)
    document = Document("P1", volume.study_id, "", "2026-01-01T00:00:00+00:00", data_kind="private")
    document.omit("everything", "The scans are empty.")
    empty = replace(study, volume=volume, document=document, surfaces=[], surfaces_sd=[], presence=None, boxes=None)
    parsed = assert_static(text_of(write_study_report(empty, tmp_path / "report.html")))
    for part in ("Nothing could be measured", "The scans are empty.", "eye unknown", "keep it where the data may be"):
        assert part in parsed.text, part
    assert "Maps" not in parsed.text and "Stage" not in parsed.text


def test_unknown_eye_has_no_nasal_side(study, tmp_path):
    from clarion.oct import etdrs

    volume = replace(study.volume, laterality=None, localiser=None)
    sectors = etdrs.sectors(study.thickness.total, study.grid, study.fovea, None)
    view = replace(study, volume=volume, etdrs_um=sectors, etdrs_erm=sectors)
    text = assert_static(text_of(write_study_report(view, tmp_path / "report.html"))).text
    assert "nasal" not in text and "inner right" in text and "holds no infrared image" in text


def test_hostile_strings_stay_text(study, tmp_path):
    document = replace(study.document, findings=[], patient=HOSTILE, omitted=[{"name": HOSTILE, "why": HOSTILE}])
    document.add(
        Finding("erm_area", HOSTILE, 1.0, HOSTILE, None, HOSTILE, {HOSTILE: HOSTILE}, quality="flagged", why=HOSTILE)
    )
    volume = replace(study.volume, device=HOSTILE, patient_id=HOSTILE, flags=(Flag("x", HOSTILE),))
    stage = replace(study.stage, trace=(HOSTILE,), why=HOSTILE)
    bad = replace(study, document=document, volume=volume, stage=stage)
    parsed = assert_static(text_of(write_study_report(bad, tmp_path / "report.html")))
    assert parsed.text.count("{{ 7 * 7 }}") >= 9


@pytest.fixture(scope="module")
def second_visit(study):
    from clarion.oct.phantom.revisit import revisit

    return measured_study(eye=revisit(study.volume.truth, 3, growth_mm=0.3, thickening_um=40))


@pytest.fixture(scope="module")
def change_page(study, second_visit, tmp_path_factory):
    from clarion.oct.progression import compare
    from clarion.report.progression import write_progression_report

    found = compare(study, second_visit, years=2.0)
    return found, write_progression_report(study, second_visit, found, tmp_path_factory.mktemp("change") / "c.html")


def test_change_page_says_what_changed(study, change_page):
    found, path = change_page
    text = assert_static(text_of(path)).text
    for part in (
        f"+{found.area.value:.2f}",
        f"±{found.area.limit:.2f}",
        found.area.verdict,
        "+40" if found.csf.value > 39.5 else f"+{found.csf.value:.1f}",
        "mm²/year",
        "2.00 years",
        "Visit 1: The scale is the device's nominal one",
        "Visit 2: membrane",
        "Membrane, visit 2 against 1",
        "These figures say nothing about a patient",
        *(flag.message for flag in found.flags),
        *found.omitted.values(),
    ):
        assert part in text, part
    assert found.area.changed and found.csf.changed
    assert path.stat().st_size < 2_000_000


def test_change_page_without_anything_to_compare(study, change_page, tmp_path):
    from clarion.report.progression import write_progression_report

    found, _ = change_page
    bare = replace(found, area=None, growth_mm2_per_year=None, csf=None, sectors={}, thickness_change_um=None,
                   new_erm=None, lost_erm=None, years=None, omitted={"area_change": HOSTILE})  # fmt: skip
    none = replace(study, projection=None, area=None, fovea=None, document=replace(study.document, data_kind="private"))
    text = assert_static(text_of(write_progression_report(none, none, bare, tmp_path / "c.html"))).text
    assert "No change could be measured" in text and "{{ 7 * 7 }}" in text and "Maps" not in text


@pytest.mark.skipif(
    not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
    reason="Chromium is not installed: apt-get install chromium runs this test",
)
def test_pages_in_chromium(page, change_page):
    from chromium_page import Browser

    with Browser() as browser:
        for path, width in ((change_page[1], 1280), (change_page[1], 400), (page, 1280), (page, 400)):
            browser.open(path, width, dark=width == 400)
            assert browser.problems() == []
            assert browser.requests() == [path.resolve().as_uri()]
            assert browser.value("document.documentElement.scrollWidth") <= width
            assert browser.value(SMALLEST_TEXT) >= 9.5
            assert browser.value(LOWEST_CONTRAST) >= 4.5
        assert browser.value("document.scripts.length") == 0
        widths = browser.value(
            "[...document.querySelectorAll('svg image')].filter(i => i.checkVisibility()).map(i => i.getBBox().width)"
        )
        assert len(widths) > 10 and min(widths) > 0


def test_dose_response_is_drawn_bin_by_bin():
    from clarion.report.association_figures import dose_chart

    bins = known_association().dose_response
    svg = dose_chart(bins).svg
    assert svg.count("<circle") == len(bins) == 6 and svg.count('class="whisker') == 5  # the reference has no interval
    heights = [float(y) for y in re.findall(r'<circle[^>]* cy="([\d.]+)"', svg)]
    assert heights == sorted(heights, reverse=True)
    assert [t for t in re.findall(r'text-anchor="middle">(−?[\d.]+)</text>', svg)] == ["−1", "−0.5", "0", "0.25", "0.5"]
    assert "inf" not in svg and "nan" not in svg
