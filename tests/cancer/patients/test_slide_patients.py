"""SlidePatients: synthetic patients with a known truth, a user's folder, and what must stop a run."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sksurv.metrics import concordance_index_censored, cumulative_dynamic_auc
from sksurv.util import Surv

from clarion import config
from clarion.cancer.patients.datasets import SlidePatients
from clarion.cancer.patients.folder import stage_of
from clarion.cancer.patients.oracle import oracle_scores, status_at
from clarion.cancer.patients.planted import SLIDE_EFFECTS, PatientRecipe, synthetic_patients
from clarion.cancer.patients.tissue_map import KINDS
from clarion.errors import DataError, UsageError
from clarion.run import build

SMALL = {"patients": 30, "side": 512, "genes": 60, "two_slides": 0.2, "flawed": 0.3, "slide_effect": 1.0, "seed": 1}
SHARES = {"train": 0.5, "val": 0.2, "test": 0.3}
LOOSE = {"min_events": 3}


def synthetic(**options) -> SlidePatients:
    return SlidePatients("slides_demo", **{"source": "synthetic", "synthetic": SMALL, "fractions": SHARES,
                                           "limits": LOOSE} | options)  # fmt: skip


@pytest.fixture(scope="module")
def demo() -> SlidePatients:
    data = synthetic()
    data.prepare()
    data.check()
    return data


@pytest.fixture
def root(demo, tmp_path) -> Path:
    """The synthetic patients as a user would have them in a folder."""
    shutil.copytree(demo.planted.folder, tmp_path / "mine", ignore=shutil.ignore_patterns("maps"))
    return tmp_path / "mine"


def folder(root: Path, **options) -> SlidePatients:
    return SlidePatients("cancer_slides", **{"kind": "public", "root": str(root), "fractions": SHARES,
                                             "limits": LOOSE} | options)  # fmt: skip


# ---- the planted truth -------------------------------------------------------------------------------------


def test_patients_have_everything_and_it_is_the_same_every_time(demo):
    again = synthetic()
    assert again.fingerprint() == demo.fingerprint() and demo.kind == "phantom" and demo.task == "survival"
    assert sum(map(len, demo.splits.values())) == 30 and len(demo.splits["test"]) == 9
    samples = list(demo.samples("test"))
    truth = demo.truth("test")
    assert [s.sample_id for s in samples] == truth["sample_id"].tolist() == demo.splits["test"]
    first = samples[0].inputs
    assert first["slide"].is_file() and first["slides"][0] == first["slide"] and first["mpp"] is None
    assert first["omics"]["rna"].shape == (60,) == (len(first["genes"]["rna"]),)
    assert set(first["clinical"]) == {"age", "sex", "stage", "site", "cancer"}
    assert not {"time", "event"} & set(first) and not {"time", "event"} & set(first["clinical"])
    assert set(truth["stage"]) <= {"I", "II", "III", "IV"} and set(truth["has"]) == {"slide and omics"}
    assert any(len(s.inputs["slides"]) == 2 for split in demo.splits for s in demo.samples(split))


def test_regions_are_the_slides_own(demo):
    """What the map calls dark tissue is darker in haematoxylin than what it calls stroma, on the file itself."""
    import openslide

    patient = max(demo.planted.shares.index, key=lambda p: demo.planted.shares.at[p, "lymphocytes"])
    path = next(s for split in demo.splits for s in demo.samples(split) if s.sample_id == patient).inputs["slide"]
    regions = demo.planted(patient)
    with openslide.OpenSlide(path) as slide:
        image = np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))
    assert tuple(n * regions.downsample for n in regions.kinds.shape) == image.shape[:2]
    red = np.kron(regions.kinds, np.ones((8, 8), np.uint8))
    assert image[..., 0][red == KINDS.index("lymphocytes")].mean() + 15 < image[..., 0][red == 1].mean()
    planned = demo.planted.shares.loc[patient]
    for kind in SLIDE_EFFECTS:
        assert regions.of(kind).sum() / regions.tissue.sum() == pytest.approx(planned[kind], abs=0.01)
    assert np.array_equal(np.asarray(regions), regions.mask) and 0 < regions.chance < 1
    y, x = np.argwhere(regions.mask)[0] * 8 + 4
    assert regions.hit(np.array([x, -5, 10**6]), np.array([y, 5, 5])).tolist() == [True, False, False]


def test_risk_is_what_was_planted():
    """A Cox model of the true parts of many patients gives every part the coefficient 1."""
    from sksurv.linear_model import CoxPHSurvivalAnalysis

    planted = synthetic_patients(PatientRecipe(patients=3000, genes=40, slide_effect=1, gene_effect=0.6, seed=4))
    c = planted.cohort
    risk = planted.risk
    own = 10 * (planted.shares[list(SLIDE_EFFECTS)] @ pd.Series(SLIDE_EFFECTS))
    np.testing.assert_allclose(risk["slide"], own - own.mean(), atol=1e-9)
    assert risk["slide"].std() == pytest.approx(1.1, abs=0.15) and risk["omics"].std() == pytest.approx(1.2, abs=0.25)
    assert abs(np.corrcoef(risk["slide"], risk["omics"])[0, 1]) < 0.06
    assert 1 - c.event.mean() == pytest.approx(0.35, abs=0.01)
    parts = risk[["slide", "omics", "clinical"]].to_numpy()
    fitted = CoxPHSurvivalAnalysis().fit(parts, Surv.from_arrays(c.event, c.time))
    np.testing.assert_allclose(fitted.coef_, 1, atol=0.15)


def test_oracle_scores_are_those_of_scikit_survival():
    planted = synthetic_patients(PatientRecipe(patients=200, genes=40, seed=2))
    c, train = planted.cohort.of(planted.cohort.patients[:120]), planted.cohort.of(planted.cohort.patients[120:])
    found = oracle_scores(c, planted.risk, train, n_resamples=50)
    risk = planted.risk.loc[c.patients, "all"].to_numpy()
    assert found["all"]["c_index"]["value"] == pytest.approx(concordance_index_censored(c.event, c.time, risk)[0])
    y, z = Surv.from_arrays(c.event, c.time), Surv.from_arrays(train.event, train.time)
    assert found["all"]["auc_60m"]["value"] == pytest.approx(cumulative_dynamic_auc(z, y, risk, [60])[0][0])
    part = {k: found[k]["c_index"]["value"] for k in ("slide", "omics", "slide+omics")}
    assert part["slide+omics"] > max(part["slide"], part["omics"]) + 0.03  # fusion can win
    low, high = (found["slide"]["c_index"][k] for k in ("low", "high"))
    assert low < part["slide"] < high and found["known"] < found["n"] == 120


def test_status_is_unknown_where_follow_up_ends_early(demo):
    found = status_at(np.array([10, 10, 60, 61, 70.0]), np.array([True, False, True, True, False]))
    np.testing.assert_array_equal(found, [1, np.nan, 1, 0, 0])
    truth, status = demo.truth("train"), demo.status("train")
    assert status.index.tolist() == truth["sample_id"].tolist()
    early = (~truth["event"] & (truth["time"] <= 60)).to_numpy()
    assert status.isna().to_numpy().tolist() == early.tolist() and early.any()


def test_the_card_says_what_can_be_reached(demo):
    card = demo.card()
    assert card["oracle"]["test"]["n"] == 9 and 0 <= card["oracle"]["all patients"]["slide"]["c_index"]["value"] <= 1
    assert card["planted"]["slide"] == SLIDE_EFFECTS and len(card["planted"]["genes"]) == 4
    assert card["slides"]["mpp"] == [0.5] and card["slides"]["n"] == len(demo.planted.patients.slides)
    test = card["splits"]["test"]
    assert test["slides"] >= 9 and test["without_omics"] == 0 and 0 <= test["died_60m"] <= test["known_60m"] <= 9


def test_modalities_are_withheld_from_different_patients():
    data = synthetic(missing={"omics": 0.2, "slide": 0.1})
    counts = data.check().counts
    assert (counts["without_omics"], counts["without_slide"]) == (6, 3)
    inputs = [s.inputs for split in data.splits for s in data.samples(split)]
    assert sum(i["omics"] is None for i in inputs) == 6 and sum(i["slide"] is None for i in inputs) == 3
    assert not any(i["omics"] is None and i["slide"] is None for i in inputs)
    assert data.fingerprint() != synthetic().fingerprint()
    assert set(pd.concat([data.truth(s) for s in data.splits])["has"]) == {"slide and omics", "slide", "omics"}


def test_whole_sites_train_or_test():
    data = synthetic(by_site=True, fractions={"train": 0.6, "val": 0.2, "test": 0.2})
    data.check()
    sites = {s: set(data.truth(s)["site"]) for s in data.splits}
    assert not sites["train"] & sites["test"] and not sites["val"] & sites["test"] and data.card()["split_by"] == "site"
    folds = [set(synthetic(by_site=True, fold=k, folds=3).truth("test")["sample_id"]) for k in range(3)]
    assert sum(map(len, folds)) == len(set().union(*folds)) == 30
    with pytest.raises(UsageError, match="cannot fill 6"):
        synthetic(by_site=True, fold=0, folds=6).prepare()


def test_an_omics_model_runs_on_these_patients(demo):
    """The estimators of the omics room take the same rows: the baselines beside slides and fusion."""
    from clarion.cancer.estimators import RidgeCoxPCs, patient_rows

    X, y, ids = demo.table("train")
    model = RidgeCoxPCs(components=3, clinical=["age"]).fit(X, y)
    rows = patient_rows([s.inputs for s in demo.samples("test")], list(X.columns))
    assert ids == demo.splits["train"] and np.isfinite(model.predict(rows)).all()


# ---- a user's folder ---------------------------------------------------------------------------------------


def test_a_folder_gives_the_same_patients(demo, root):
    data = folder(root)
    report = data.check()
    assert report.counts["slides"] == len(demo.planted.patients.slides) and data.planted is None
    a, b = demo.cohort(), data.cohort()
    b = b.of(a.patients)
    np.testing.assert_allclose(b.time, a.time)
    np.testing.assert_array_equal(b.event, a.event)
    np.testing.assert_allclose(b.omics["rna"], a.omics["rna"], rtol=1e-6)
    for column in ("site", "age", "sex", "stage", "slide_ids"):
        assert b.clinical[column].tolist() == a.clinical[column].tolist(), column
    assert "oracle" not in data.card() and data.card()["slides"]["formats"] == {"tiff": report.counts["slides"]}


def test_tcga_names_find_their_patients_without_a_column(root):
    table = pd.read_csv(root / "clinical.csv").drop_duplicates("patient_id")
    names = {p: f"TCGA-AB-{k:04d}" for k, p in enumerate(table["patient_id"])}
    for path in sorted((root / "slides").iterdir()):
        patient, number = path.stem.rsplit("-DX", 1)
        own = root / "slides" / f"uuid-{path.stem}"  # as gdc-client leaves them
        own.mkdir()
        path.rename(own / f"{names[patient]}-01Z-00-DX{number}.6E1F-77.svs.tif")
    tumour = next((root / "slides").glob("*/TCGA-AB-0000-*"))
    shutil.copy(tumour, root / "slides" / "TCGA-AB-0001-11A-01-TS1.0000.tif")  # normal tissue
    table.assign(case_id=table["patient_id"].map(names)).drop(columns=["patient_id", "slide_id", "site"]).to_csv(
        root / "clinical.csv", index=False)  # fmt: skip
    omics = pd.read_csv(root / "omics.csv")
    omics.assign(patient_id=omics["patient_id"].map(names)).to_csv(root / "omics.csv", index=False)
    data = folder(root, by_site=False)
    report = data.check()
    assert report.counts["without_slide"] == 0 and [w.total for w in report.warnings if w.code == "slide_stray"] == [1]
    assert set(data.truth("test")["site"]) == {"AB"}  # from the barcode


def test_a_real_slide_stands_among_them(root, real_data):
    """CMU-1-Small-Region: Aperio, JPEG, 0.499 um a pixel."""
    path = next((root / "slides").glob("SYN-ALFA-0003-DX1.tif"))
    shutil.copy(real_data / "cancer" / "wsi" / "CMU-1-Small-Region.svs", path.with_suffix(".svs"))
    path.unlink()
    data = folder(root)
    data.check()
    card = data.card()["slides"]
    assert card["formats"]["aperio"] == 1 and card["mpp"] == [0.499, 0.5]


def test_private_patients_get_pseudonyms(root):
    data = folder(root, kind="private")
    data.check()
    text = data.truth("test").to_csv() + str(data.card()) + str([s.sample_id for s in data.samples("test")])
    assert "SYN-ALFA" not in text and all(i.startswith("P-") for i in data.splits["test"])
    assert data.split_hash() == folder(root).split_hash()


def test_patients_without_omics_or_slide_stay(root):
    omics = pd.read_csv(root / "omics.csv")
    omics.iloc[4:].to_csv(root / "omics.csv", index=False)
    table = pd.read_csv(root / "clinical.csv")
    gone = table["patient_id"].iloc[-1]
    table.loc[table["patient_id"] == gone, "slide_id"] = None
    table.to_csv(root / "clinical.csv", index=False)
    for path in (root / "slides").glob(f"{gone}-*"):
        path.unlink()
    counts = folder(root).check().counts
    assert (counts["patients"], counts["without_omics"], counts["without_slide"]) == (30, 4, 1)
    (root / "omics.csv").unlink()
    alone = folder(root)
    assert alone.check().counts["patients"] == 29 and alone.genes == {}
    assert all(s.inputs["omics"] is None for s in alone.samples("test"))


def test_missing_unreadable_and_doubled_slides_are_listed(root):
    first, second, third = sorted((root / "slides").glob("*-DX1.tif"))[:3]
    first.unlink()
    second.write_bytes(second.read_bytes()[:5000])
    shutil.copy(third, root / "slides" / "SYN-ALFA-0010-DX1.tif")
    data = folder(root)
    with pytest.raises(DataError) as caught:
        data.check()
    text = str(caught.value)
    assert "not in slides/" in text and first.stem in text and "cannot be used" in text and second.name in text
    assert "names of two patients" in text and third.stem in text
    assert "SYN-ALFA" not in caught.value.recorded
    lenient = folder(root, allow=["slide_missing", "slide_unreadable", "slide_twice"])
    assert not (root / "slides" / first.name.replace("DX1", "DX2")).exists()  # each was its patient's only slide
    assert not (root / "slides" / second.name.replace("DX1", "DX2")).exists()
    assert lenient.check().counts["without_slide"] == 2  # one is absent, one was left out as unreadable
    used = [p for split in lenient.splits for s in lenient.samples(split) for p in s.inputs["slides"]]
    assert first not in used and second not in used and third in used


def test_a_patient_left_with_nothing_to_read_is_named(root):
    table = pd.read_csv(root / "clinical.csv").drop_duplicates("patient_id")
    slide = next(p for p in sorted((root / "slides").glob("*-DX1.tif"))
                 if not p.with_name(p.name.replace("DX1", "DX2")).exists())  # fmt: skip
    patient = slide.name.removesuffix("-DX1.tif")
    omics = pd.read_csv(root / "omics.csv")
    assert patient in set(table["patient_id"]) & set(omics["patient_id"])
    omics[omics["patient_id"] != patient].to_csv(root / "omics.csv", index=False)
    slide.write_bytes(slide.read_bytes()[:5000])
    with pytest.raises(DataError, match=f"neither a readable slide nor omics.*{patient}"):
        folder(root, allow=["slide_unreadable"]).check()
    with pytest.raises(DataError) as caught:
        folder(root, kind="private", allow=["slide_unreadable"]).check()
    assert patient not in caught.value.recorded


def test_a_patient_in_two_splits_is_refused(root):
    table = pd.read_csv(root / "clinical.csv")
    table["split"] = np.resize(["test", "val", "train"], len(table))
    table.groupby("patient_id").first().reset_index().to_csv(root / "clinical.csv", index=False)
    assert set(folder(root).splits) == {"train", "val", "test"}
    table.to_csv(root / "clinical.csv", index=False)
    with pytest.raises(DataError, match="same patient is in two splits"):
        folder(root).check()
    table.assign(split="holdout").to_csv(root / "clinical.csv", index=False)
    with pytest.raises(UsageError, match="write train, val or test"):
        folder(root).check()


@pytest.mark.parametrize("break_it, words", [
    (lambda r: shutil.rmtree(r / "slides"), "holds no slide"),
    (lambda r: (r / "clinical.csv").unlink(), "no clinical table"),
    (lambda r: shutil.copy(r / "clinical.csv", r / "clinical.tsv"), "keep one"),
    (lambda r: pd.read_csv(r / "clinical.csv").drop(columns="event").to_csv(r / "clinical.csv"), "no event"),
    (lambda r: pd.read_csv(r / "clinical.csv").assign(survival_months=0).to_csv(r / "clinical.csv"), "zero or less"),
    (lambda r: pd.read_csv(r / "omics.csv").assign(patient_id=lambda t: "X" + t.index.astype(str)).to_csv(
        r / "omics.csv"), "both omics and survival"),
])  # fmt: skip
def test_a_broken_folder_is_one_sentence(root, break_it, words):
    break_it(root)
    with pytest.raises((UsageError, DataError), match=words):
        folder(root).check()


@pytest.mark.parametrize("options, words", [
    ({"synthetic": {"patient": 3}}, "synthetic.patient is unknown"), ({"synthetic": {"side": 100}}, "between 512"),
    ({"root": "."}, "data=cancer_slides"), ({"missing": {"omics": 0.9}}, "0 to 0.45"), ({"source": "tcga"}, "unknown"),
    ({"missing": {"mri": 0.1}}, "omics: share"), ({"fold": 7}, "must lie in"),
])  # fmt: skip
def test_wrong_options_are_refused(options, words):
    with pytest.raises(UsageError, match=words):
        synthetic(**options)


@pytest.mark.parametrize("text, stage", [
    ("Stage IIIA", "III"), ("IV", "IV"), ("2", "II"), ("stage i", "I"), ("T2", ""), (None, ""), (float("nan"), ""),
    ("Stage IIB", "II"), ("1A", "I"), (3.0, "III"),
])  # fmt: skip
def test_stages(text, stage):
    assert stage_of(text) == stage


def test_the_configs_build():
    cfg = config.compose_config(["data=slides_demo"]).data
    data = build(cfg, seed=0)
    assert data.recipe == PatientRecipe(**cfg.synthetic) and data.name == "slides_demo"
    assert "cancer_slides" in config.choices("data") and config.group_task("data", "cancer_slides") == "survival"
