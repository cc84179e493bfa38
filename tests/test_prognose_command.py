"""`clarion prognose`: a new patient's slide and omics through a small fused run: probability, text, maps, a page."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from sklearn.linear_model import LogisticRegression

from clarion.building import build_data
from clarion.cancer.prognosis.checked import check_text, counted
from clarion.cancer.prognosis.page import percent, text_blocks
from clarion.cancer.prognosis.patient import named_cancer, read_omics, read_patient
from clarion.cancer.prognosis.probability import recalibrated
from clarion.cancer.prognosis.words import WORDS, Words
from clarion.cancer.slides.reader import open_slide
from clarion.errors import ClarionError, DataError, UsageError
from clarion.evaluators.factcheck_facts import Facts, Gene
from clarion.prognosing import open_fused, prognose, written_together

for folder in ("report", "trainers"):
    sys.path.insert(0, str(Path(__file__).parent / folder))
from chromium_page import LOWEST_CONTRAST, OVERLAPPING, SMALLEST_TEXT, Browser, chromium  # noqa: E402
from fusion_small import composed, fused, one_thread, unimodal  # noqa: E402, F401
from fusion_small import run as trained  # noqa: E402


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """slide, omics and fused; followed: the fused one with 60 validation patients whose log-odds mean something."""
    folder = tmp_path_factory.mktemp("prognose-runs")
    starts = unimodal(folder)
    made = trained(fused(folder, starts, "trainer.epochs=1"))
    followed = shutil.copytree(made, folder / "followed")
    rng = np.random.default_rng(0)
    risk = rng.normal(-7, 2, 60)
    time = rng.exponential(60 / np.exp((risk + 7) / 2))
    lost = rng.uniform(20, 200, 60)
    ids = [f"V{k}" for k in range(60)]
    pd.DataFrame({"sample_id": ids, "risk": risk, "missing": [["slide"]] * 15 + [[]] * 45}).to_parquet(
        followed / "predictions/val.parquet"
    )
    truth = {"sample_id": ids, "patient_id": ids, "time": np.minimum(time, lost), "event": time <= lost}
    pd.DataFrame(truth).to_parquet(followed / "truth/val.parquet")
    return starts | {"fused": made, "followed": followed}


@pytest.fixture(scope="module")
def given(runs, tmp_path_factory) -> dict[str, Path]:
    """Files of one test patient: his slide under another name, his omics as a row, and broken ones."""
    folder = tmp_path_factory.mktemp("prognose-inputs")
    sample = next(build_data(composed("model=fusion_smollm2")).samples("test"))
    slide = Path(shutil.copy(sample.inputs["slide"], folder / "slide.tif"))
    genes, values = sample.inputs["genes"]["rna"], [float(v) for v in sample.inputs["omics"]["rna"]]
    (folder / "truncated.tif").write_bytes(slide.read_bytes()[: slide.stat().st_size // 2])
    white = np.full((512, 512, 3), 244, np.uint8)
    tifffile.imwrite(folder / "no_scale.tif", white, tile=(256, 256), photometric="rgb")
    scale = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(folder / "white.tif", white, tile=(256, 256), photometric="rgb", **scale)

    def table(name: str, head: list[str], *rows: list) -> None:
        with open(folder / f"{name}.csv", "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([head, *rows])

    named = [f"{g}_rnaseq" for g in genes]
    table("row", ["patient_id", "cancer", *named], ["P1", "alfa", *values])
    table("plain", ["case_id", *genes], ["P1", *values])
    table("tall", ["gene", "value"], *zip(genes, values, strict=True))
    table("fewer", named[1:], values[1:])
    table("scaled", named, [v * 1000 for v in values])
    table("twice", [*named, named[3]], [*values, 1.0])
    table("tall_twice", ["gene", "value"], *zip(genes, values, strict=True), (genes[0], 2.0))
    table("cancer", ["cancer", *named], ["ALPA", *values])
    table("others", ["BRCA1_rnaseq", "TP53_rnaseq"], [1.0, 2.0])
    table("two_rows", ["patient_id", *named], ["P1", *values], ["P2", *values])
    table("words", named, ["high", *values[1:]])
    table("empty", named, [""] * len(named))
    table("nobody", named)
    table("clinical", ["age", "gender", "ajcc_pathologic_stage"], ["61", "FEMALE", "Stage IIIA"])
    return {path.stem: path for path in folder.iterdir()}


# ---- the whole way -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(runs, given, command, tmp_path_factory):
    out = tmp_path_factory.mktemp("prognose") / "환자 1"
    words = ["age=61", "sex=여성", "stage=Stage IIIA"]
    paths = {"--slide": given["slide"], "--omics": given["row"], "--run": runs["followed"], "--out": out}
    named = [str(word) for pair in paths.items() for word in pair]
    done = command("clarion", "prognose", *named, "--clinical", *words, "--format", "json", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    return out, json.loads(done.stdout)


def test_the_command_writes_what_it_says(whole, runs):
    out, said = whole
    kept = json.loads((out / "prognosis.json").read_text(encoding="utf-8"))
    assert kept == {k: v for k, v in said.items() if k != "out"} and kept["format"] == "clarion-prognosis/1"
    assert kept["patient"] == "P1" and kept["model"]["data_kind"] == "phantom" and "research" in kept["research_use"]
    assert kept["missing"] == [] and kept["inputs"]["clinical"]["sex"] == "F"
    assert kept["facts"]["age"] == 61 and kept["facts"]["stage"] == "III" and kept["facts"]["cancer"] == "ALFA"
    assert set(kept["files"]) == {"prognosis.html", "heatmap-1.tif", "slide-1.html"}
    assert all((out / name).is_file() for name in kept["files"])
    assert not [p for p in out.parent.rglob(".clarion-prognosis-*")]
    with open_slide(out / "heatmap-1.tif") as slide:
        assert slide.read(0, 0, 0, 32, 32).std() > 0 and slide.mpp > 0.4


def test_probability_has_the_interval_of_the_validation_patients(whole):
    survival = whole[1]["survival"]
    assert 0 < survival["low"] < survival["probability"] < survival["high"] < 1 and survival["level"] == 0.95
    assert survival["n"] <= 60 and 5 <= survival["deaths"] <= survival["n"] - 5 and survival["slope"] > 0
    line = survival["intercept"] + survival["slope"] * survival["log_odds"]
    assert survival["probability"] == pytest.approx(1 / (1 + np.exp(line)))
    assert survival["raw"] == pytest.approx(1 / (1 + np.exp(survival["log_odds"])))
    assert survival["raw"] != survival["probability"] and survival["group"]["n"] == 60
    facts = whole[1]["facts"]
    assert facts["survival"] == survival["probability"] and facts["interval"][:2] == [survival["low"], survival["high"]]
    assert "Platt" in survival["how"] and "IPCW" in survival["how"]


@pytest.mark.skipif(chromium() is None, reason="Chromium is not installed: apt-get install chromium runs this test")
@pytest.mark.parametrize("width", [1100, 380])
def test_the_page_reads_well_and_loads_nothing(whole, width):
    page = whole[0] / "prognosis.html"
    with Browser() as browser:
        browser.open(page, width)
        assert browser.problems() == [] and browser.requests() == [page.resolve().as_uri()]
        assert browser.value("document.documentElement.scrollWidth") <= width
        assert browser.value(LOWEST_CONTRAST) >= 4.5 and browser.value(OVERLAPPING) == []
        assert browser.value(SMALLEST_TEXT) >= 12
        assert browser.value("[...document.images].every(i => i.complete && i.naturalWidth > 200)")
        assert browser.value("document.querySelectorAll('#genes tbody tr').length") == 10
        shown = browser.value("document.querySelector('#survival .value').textContent")
        assert shown == percent(whole[1]["survival"]["probability"])
        assert browser.value("document.querySelectorAll('svg .band').length") == 1
        text = browser.value("document.body.innerText")
    assert "phantom" in text and "research only" in text and "95% interval" in text


def test_omics_alone_and_slide_alone_say_what_was_missing(runs, given, tmp_path):
    clinical = ["age=61", "sex=F", "stage=I"]
    omics = prognose(runs["followed"], tmp_path / "o", omics=given["row"], clinical=clinical, device="cpu")
    assert omics["missing"] == ["The slide: the model used its learned stand-in for a missing slide."]
    assert omics["files"] == ["prognosis.html"] and list(omics["facts"]["missing"]) == ["slide"]
    assert any("15 of 60 lacked" in note for note in omics["warnings"])
    slide = prognose(runs["fused"], tmp_path / "s", [given["slide"]], language="ko", device="cpu")
    assert not slide["facts"]["genes"] and set(slide["facts"]["missing"]) == {"omics", "clinical"}
    assert len(slide["missing"]) == 2 and slide["missing"][0].startswith("오믹스")
    assert slide["survival"]["probability"] != omics["survival"]["probability"]
    page = (tmp_path / "s/prognosis.html").read_text(encoding="utf-8")
    assert '<html lang="ko">' in page and "빠진 자료" in page and slide["rationale"]["language"] == "ko"
    # 4 validation patients are no ground for an interval: said, and the raw probability is shown
    survival = slide["survival"]
    assert survival["low"] is None and survival["probability"] == survival["raw"] and "4명" in survival["reason"]
    assert "구간 없음" in page


def test_a_second_prognosis_replaces_the_first_and_another_patients_is_refused(runs, given, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    prognose(runs["fused"], out, [given["slide"], given["white"]], clinical=["id=A"], device="cpu")
    assert (out / "slide-1.html").is_file()
    with pytest.raises(UsageError, match="holds the prognosis of another patient"):
        prognose(runs["fused"], out, omics=given["row"], device="cpu")
    assert json.loads((out / "prognosis.json").read_text())["patient"] == "A"
    found = prognose(runs["fused"], out, omics=given["fewer"], clinical=["id=A"], device="cpu")
    assert {p.name for p in out.iterdir()} == {"notes.txt", "prognosis.json", "prognosis.html"}
    assert found["warnings"] == ["The cancer was not given; ALFA is taken, the only one this model knows."]


def test_files_of_others_are_never_replaced(runs, given, tmp_path):
    (tmp_path / "prognosis.html").write_text("mine")
    (tmp_path / "slide-1").mkdir()
    with pytest.raises(UsageError, match="holds another prognosis.html"):
        prognose(runs["fused"], tmp_path, omics=given["row"], device="cpu")
    assert (tmp_path / "prognosis.html").read_text() == "mine" and len(list(tmp_path.iterdir())) == 2


def test_only_what_the_command_writes_is_taken_away(tmp_path):
    out = tmp_path / "above" / "out"
    (out / "slide-1").mkdir(parents=True)
    for name in ("notes.txt", "slide-1/tile.jpg", "slide-1.html", "../beside.txt"):
        (out / name).write_text("x")
    named = ["..", "", ".", "../beside.txt", "notes.txt", "slide-../..", "slide-1.html\n", "slide-1.html"]
    (out / "prognosis.json").write_text(json.dumps({"patient": "A", "files": named}))
    with written_together(out, "A") as folder:
        (folder / "prognosis.json").write_text("{}")
    assert sorted(p.name for p in out.iterdir()) == ["notes.txt", "prognosis.json"]
    assert (tmp_path / "above/beside.txt").is_file()


@pytest.mark.parametrize("content", ["[]", '{"patient": "A", "files": 3}'])
def test_a_prognosis_json_that_is_none_is_answered(tmp_path, content):
    (tmp_path / "prognosis.json").write_text(content)
    with pytest.raises(UsageError, match="holds a prognosis.json that is no prognosis"), written_together(
        tmp_path, "A"
    ):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["prognosis.json"]


def record_of(folder: Path, modalities: list[str], checkpoint: str) -> Path:
    """The record of a fused run, without its weights."""
    folder.mkdir()
    model = {"name": "fusion_smollm2", "task": "survival", "fusion": {"modalities": modalities}}
    (folder / "config.yaml").write_text(json.dumps({"model": model}))
    for name in ("manifest.json", "metrics.json"):
        (folder / name).write_text(json.dumps({"status": "done", "checkpoint": checkpoint}))
    return folder


def test_a_run_of_one_modality_is_named_as_what_it_is(tmp_path):
    run = record_of(tmp_path / "run", ["omics"], "checkpoints/best")
    with pytest.raises(UsageError, match="fuses omics; a prognosis is by a run that fuses omics and slide"):
        open_fused(run)


def test_a_checkpoint_outside_of_the_run_is_not_read(tmp_path):
    run = record_of(tmp_path / "run", ["omics", "slide"], "../other")
    whole = {"prompts.json": {"genes": {}}, "omics/model.json": {}, "slide/model.json": {"model": {}}}
    for name, content in whole.items():
        path = tmp_path / "other/fusion" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    with pytest.raises(UsageError, match="has no checkpoint below it"):
        open_fused(run)
    (run / "inside").symlink_to(tmp_path / "other")
    with pytest.raises(UsageError, match="has no checkpoint below it"):
        open_fused(record_of(tmp_path / "two", ["omics", "slide"], "../run/inside"))


def test_a_slide_without_tissue_among_others_and_genes_of_another_scale_are_told(runs, given, tmp_path):
    found = prognose(runs["fused"], tmp_path, [given["white"], given["slide"]], given["scaled"], device="cpu")
    assert "Slide 1 of 2 shows no tissue and was left out." in found["missing"]
    assert any("the scale may be another one" in note for note in found["warnings"])
    assert (tmp_path / "heatmap-1.tif").is_file() and not (tmp_path / "heatmap-2.tif").exists()


# ---- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words, expected", [
    ({}, "needs --slide, --omics, or both"),
    ({"omics": "twice"}, r"twice.csv holds the column \S+_rnaseq twice"),
    ({"omics": "tall_twice"}, r"tall_twice.csv holds the gene \S+ twice"),
    ({"omics": "cancer"}, "cancer=ALPA: this model knows ALFA. Did you mean `ALFA`"),
    ({"omics": "others"}, r"None of the model's \d+ genes is in the omics table \(it has BRCA1, TP53"),
    ({"omics": "two_rows"}, "holds 2 rows: a prognosis is of one patient"),
    ({"omics": "nobody"}, "holds no rows"),
    ({"omics": "words"}, "holds 'high' as"),
    ({"omics": "empty"}, "holds no value of any gene"),
    ({"omics": "slide"}, "slide.tif"),
    ({"slide": "no_scale"}, r"no_scale.tif .*mpp"),
    ({"slide": "truncated"}, "truncated.tif"),
    ({"slide": "white"}, "white.tif shows no tissue"),
    ({"slide": "row"}, "row.csv"),
    ({"slide": "slide", "mpp": 400.0}, "mpp=400"),
    ({"omics": "row", "run": "slide"}, "fuses no slide and omics"),
    ({"omics": "row", "run": "nowhere"}, "no such run directory"),
    ({"omics": "row", "run": "torn"}, "has no whole fused checkpoint"),
    ({"omics": "row", "clinical": ["age=old"]}, "age=old: give years"),
    ({"omics": "row", "clinical": ["sexx=f"]}, "sexx: unknown.*`sex`"),
    ({"omics": "row", "clinical": ["stage=9"]}, "stage=9: write I"),
    ({"omics": "row", "clinical": ["cancer=BRCA"]}, "which is right"),
    ({"omics": "row", "language": "kr"}, "--language kr: choose en or ko"),
])  # fmt: skip
def test_bad_input_is_one_sentence_and_leaves_nothing(runs, given, tmp_path, words, expected):
    run = words.get("run", "fused")
    place = runs.get(run, tmp_path / run)
    if run == "torn":
        shutil.copytree(runs["fused"], place, ignore=shutil.ignore_patterns("prompts.json"))
    slides = [given[words["slide"]]] if "slide" in words else []
    omics = given[words["omics"]] if "omics" in words else None
    extra = {k: words[k] for k in ("mpp", "clinical", "language") if k in words}
    with pytest.raises(ClarionError, match=expected) as error:
        prognose(place, tmp_path / "in/out", slides, omics, device="cpu", **extra)
    assert "\n" not in str(error.value) and str(error.value).rstrip().endswith((".", "?"))
    assert [p.name for p in tmp_path.iterdir()] == (["torn"] if run == "torn" else [])


def test_an_out_that_cannot_be_written_is_refused_before_the_model_is_loaded(runs, given, tmp_path):
    (tmp_path / "file").write_text("")
    for out, expected in ((tmp_path / "file", "is a file"), (tmp_path / "file/out", "file is a file")):
        with pytest.raises(UsageError, match=expected):
            prognose(runs["fused"], out, omics=given["row"], device="cpu")
    with pytest.raises(UsageError, match="cannot be written to"):
        prognose(runs["fused"], Path("/proc/out"), omics=given["row"], device="cpu")


# ---- parts -------------------------------------------------------------------------------------------------------


def test_omics_read_alike_as_row_plain_row_and_two_columns(given):
    row, beside = read_omics(given["row"])
    assert beside == {"id": "P1", "cancer": "alfa"} and len(row["rna"]) == 80
    assert read_omics(given["plain"]) == (row, {"id": "P1"}) and read_omics(given["tall"]) == (row, {})


def test_clinical_facts_as_words_or_table(given):
    patient = read_patient([given["slide"]], clinical=[str(given["clinical"])])
    assert patient.clinical == {"age": 61.0, "sex": "F", "stage": "III", "site": "", "cancer": ""}
    assert patient.name == "patient"  # never the slide's file name
    with pytest.raises(UsageError, match="given twice"):
        read_patient([given["slide"], given["slide"]])
    with pytest.raises(UsageError, match="no such file"):
        read_patient([given["slide"]], clinical=["nowhere.csv"])
    assert named_cancer("brca", ["BRCA", "LUAD"]) == "BRCA" and named_cancer("", ["BRCA", "LUAD"]) == ""


def followed(n: int, slope: float, seed: int = 0, censored: bool = True) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    risk = rng.normal(0, 2, n)
    dies = rng.random(n) < 1 / (1 + np.exp(-(0.5 + slope * risk)))
    time = np.where(dies, rng.uniform(1, 59, n), rng.uniform(61, 200, n))
    lost = rng.uniform(1, 150, n) if censored else np.full(n, 1e3)
    return pd.DataFrame({"patient_id": [f"V{k}" for k in range(n)], "risk": risk, "time": np.minimum(time, lost),
                         "event": time <= lost})  # fmt: skip


def test_recalibration_without_censoring_is_logistic_regression():
    table = followed(150, 0.6, censored=False)
    found = recalibrated(1.3, 60, table)
    plain = LogisticRegression(C=np.inf, tol=1e-10).fit(table[["risk"]].to_numpy(), table["time"] <= 60)
    assert found.slope == pytest.approx(plain.coef_[0, 0], abs=1e-5) and found.n == 150
    assert found.intercept == pytest.approx(plain.intercept_[0], abs=1e-5)
    assert found.probability == pytest.approx(plain.predict_proba([[1.3]])[0, 0], abs=1e-5)
    assert found.low < found.probability < found.high and found.group["probability"] == pytest.approx(
        (table["time"] > 60).mean()
    )


def test_recalibration_is_right_under_censoring_where_dropping_the_censored_is_not():
    table, true = followed(6000, 0.6), 1 / (1 + np.exp(0.5 + 0.6 * 1.3))
    found = recalibrated(1.3, 60, table, n_resamples=200)
    known = table[(table["time"] > 60) | table["event"]]
    dropped = LogisticRegression(C=np.inf).fit(known[["risk"]].to_numpy(), known["time"] <= 60)
    assert found.n < 0.9 * len(table) and found.low <= true <= found.high
    assert abs(dropped.predict_proba([[1.3]])[0, 0] - true) > 3 * abs(found.probability - true)


def test_where_nothing_can_be_fitted_the_raw_probability_stands_with_the_reason():
    table = followed(60, 1.0)
    parted = table.assign(time=np.where(table["risk"] > 0, 20.0, 100.0), event=table["risk"] > 0)
    for found, why in ((recalibrated(1.0, 60, None), "recorded no validation"),
                       (recalibrated(1.0, 60, table[:8]), "at least 5 dead and 5 alive"),
                       (recalibrated(1.0, 60, parted), "without overlap"),
                       (recalibrated(1.0, 60, table.assign(risk=-table["risk"])), "slope -")):  # fmt: skip
        assert why in found.reason and found.interval is None
        assert found.probability == found.raw == pytest.approx(1 / (1 + np.e))
    assert "drawn on beyond" in recalibrated(30.0, 60, table).notes[-1]


def test_removed_sentences_are_struck_with_their_reason():
    facts = Facts(genes=(Gene("ABC1", 0.8, 0.01, 1.5),), age=61.0, survival=0.7, horizon=60.0)
    text = "The patient survives five years.\n\n## Genes\nABC1 is a risk gene. XYZ9 is protective."
    statements = ("The patient survives five years.", "The patient dies within five years.")
    checked = check_text(text, facts, ["XYZ9"], statements)
    statement, heading, genes = text_blocks(text, checked, Words("en"))
    assert heading == {"heading": "Genes"} and not statement["sentences"][0]["struck"]
    kept, gone = genes["sentences"]
    assert not kept["struck"] and gone["struck"] and gone["text"] == "XYZ9 is protective." and "XYZ9" in gone["why"]
    assert counted(checked) | {"unsupported": []} == {
        "sentences": 3, "removed": ["XYZ9 is protective."], "claims": 5, "supported": 3, "precision": 0.6,
        "unread": 0, "repeated": 0, "unsupported": [], "omitted": [], "expected": 1, "empty": False,
    }  # fmt: skip
    again = counted(check_text("\n\n".join([statements[0]] * 20), facts, [], statements))
    assert (again["claims"], again["supported"], again["repeated"], again["unread"]) == (1, 1, 19, 19)
    (block,) = text_blocks("\n\n".join([statements[0]] * 20), checked, Words("en"))
    assert block["times"] == 20 and len(block["sentences"]) == 1
    # a statement that the shown probability contradicts is struck too
    worse = check_text(text, Facts(genes=facts.genes, survival=0.3), ["XYZ9"], statements)
    assert text_blocks(text, worse, Words("en"))[0]["sentences"][0]["struck"] and "survives" not in worse.text
    assert len(worse.removed) == 2 and "dies within" in text_blocks(text, worse, Words("en"))[0]["sentences"][0]["why"]


def test_both_languages_have_every_word():
    assert set(WORDS["en"]) == set(WORDS["ko"])
    assert [percent(p) for p in (0, 0.001, 0.5, 0.999, 1)] == ["0%", "< 1%", "50%", "> 99%", "100%"]


def test_errors_of_data_and_usage_keep_their_exit_codes(given):
    with pytest.raises(DataError) as error:
        read_omics(given["twice"])
    assert error.value.exit_code == 1 and "twice.csv" not in error.value.recorded
