"""OmicsData: three sources, splits by patient, and what must stop a run."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clarion import config
from clarion.cancer.cohort import Cohort
from clarion.cancer.datasets import OmicsData
from clarion.cancer.readers.pooling import pool
from clarion.cancer.synthetic import synthetic_cohort
from clarion.errors import DataError, UsageError
from clarion.run import build

SMALL = {"cancers": 2, "patients": 120, "genes": 100, "specific": 1, "shared": 3, "opposed": 1, "cnv": 10, "mut": 5}


def composed(*overrides: str) -> OmicsData:
    data = build(config.compose_config(list(overrides)).data, seed=0)
    data.prepare()
    data.check()
    return data


def porpoise(folder: Path, names=("blca", "luad"), folds: int = 2) -> Path:
    """PORPOISE-style tables and published folds of a synthetic cohort."""
    whole = synthetic_cohort(**SMALL, missing=0, seed=7)
    for name, cancer in zip(names, whole.cancers, strict=True):
        part = whole.of_cancer(cancer)
        ids = [f"TCGA-{k % 5:02d}-{name[0].upper()}{k:03d}" for k in range(len(part))]
        table = pd.DataFrame(
            {
                "case_id": ids,
                "slide_id": [f"{i}-01Z-00-DX1.svs" for i in ids],
                "age": part.clinical["age"].to_numpy(),
                "site": "",
                "survival_months": part.time,
                "censorship": 1 - part.event.astype(int),
                "is_female": (part.clinical["sex"] == "F").astype(int).to_numpy(),
                "oncotree_code": name.upper(),
            }
        )
        for modality, suffix in (("rna", "_rnaseq"), ("cnv", "_cnv"), ("mut", "_mut")):
            own = part.omics[modality].add_suffix(suffix).reset_index(drop=True)
            table = pd.concat([table, own.iloc[:, :-1] if name == "luad" else own], axis=1)
        table = pd.concat([table, table.iloc[:7].assign(slide_id="second")])  # seven patients have two slides
        (folder / "tcga").mkdir(exist_ok=True)
        table.to_parquet(folder / "tcga" / f"tcga_{name}.parquet")
        where = folder / "tcga" / "splits" / "5foldcv" / f"tcga_{name}"
        where.mkdir(parents=True)
        for fold in range(folds):
            test = ids[fold::5]
            train = [i for i in ids if i not in test]
            columns = {"train": pd.Series(train), "val": pd.Series(test)}
            pd.DataFrame(columns).to_csv(where / f"splits_{fold}.csv")
    return folder


def from_folder(root: Path, **options) -> OmicsData:
    return OmicsData("cancer_omics", root=str(root), **{"kind": "public", **options})


# ---- embedded ----------------------------------------------------------------------------------------------


def test_the_demo_is_whole_and_the_same_every_time():
    data, again = composed("data=omics_demo"), composed("data=omics_demo")
    assert data.fingerprint() == again.fingerprint() and data.kind == "phantom" and data.task == "survival"
    assert {s: len(ids) for s, ids in data.splits.items()} == {"train": 360, "val": 90, "test": 150}
    assert sum(map(len, data.splits.values())) == len({p for ids in data.splits.values() for p in ids}) == 600
    truth = data.truth("test")
    assert list(truth.columns) == ["sample_id", "patient_id", "time", "event", "cancer", "age", "sex", "site"]
    samples = list(data.samples("test"))
    assert [s.sample_id for s in samples] == truth["sample_id"].tolist() == data.splits["test"]
    cohort = data.cohort("test")
    np.testing.assert_array_equal(samples[3].inputs["omics"]["rna"], cohort.omics["rna"].iloc[3])
    assert samples[3].inputs["omics"]["rna"].dtype == np.float32 and samples[3].inputs["cancer"] == truth["cancer"][3]
    assert "time" not in samples[3].inputs and "event" not in samples[3].inputs
    assert {m: len(g) for m, g in data.genes.items()} == {"rna": 400, "cnv": 60, "mut": 40}
    assert data.planted.effects.ne(0).any(axis=1).sum() == 14 + 2 and data.card()["recipe"]["cancers"] == 4
    shares = truth.groupby("cancer")["event"].mean()
    assert shares.between(0.5, 0.6).all()  # splits are balanced by cancer and event


def test_the_runs_seed_changes_neither_patients_nor_splits():
    cfg = config.compose_config(["data=omics_demo"])
    a, b = build(cfg.data, seed=0), build(cfg.data, seed=9)
    assert a.splits == b.splits and a.fingerprint() == b.fingerprint()
    assert composed("data=omics_demo", "data.split_seed=1").splits != a.splits


def test_folds_of_its_own_cover_every_patient_once():
    tests = [composed("data=gse7390", f"data.fold={k}").splits["test"] for k in range(5)]
    assert sorted(p for t in tests for p in t) == sorted(composed("data=gse7390").cohort().patients)


def test_gse7390_is_the_published_cohort():
    """198 patients, 51 distant metastases, 76 probes; the strongest probe of cancer.md among them."""
    data = composed("data=gse7390")
    cohort = data.cohort()
    assert (len(cohort), cohort.event.sum(), cohort.omics["rna"].shape[1], data.kind) == (198, 51, 76, "public")
    assert cohort.clinical.iloc[0][["time", "age"]].tolist() == pytest.approx([723 * 12 / 365.25, 57.0])
    assert "X203306_s_at" in cohort.omics["rna"] and data.planted is None
    assert cohort.clinical["er"].value_counts().to_dict() == {"positive": 134, "negative": 64}


def test_modalities_alone_and_together():
    assert set(composed("data=omics_demo", "data.modalities=[cnv]").genes) == {"cnv"}
    assert list(composed("data=omics_demo", "data.modalities=[mut,rna]").genes) == ["mut", "rna"]
    with pytest.raises(UsageError, match="atac is unknown"):
        composed("data=omics_demo", "data.modalities=[atac]")
    with pytest.raises(DataError, match="no cnv data"):
        composed("data=gse7390", "++data.modalities=[cnv]")


def test_a_cancer_left_out_and_a_few_of_its_patients():
    none = composed("data=omics_demo", "data.leave_out=bravo")
    assert set(none.truth("test")["cancer"]) == {"BRAVO"} and len(none.splits["test"]) == 150
    assert "BRAVO" not in set(none.truth("train")["cancer"])
    few = {n: composed("data=omics_demo", "data.leave_out=bravo", f"data.few_shot={n}") for n in (0, 10, 25)}
    assert len({tuple(d.splits["test"]) for d in few.values()}) == 1 and len(few[0].splits["test"]) == 90
    trained = {n: {p for s in ("train", "val") for p in d.splits[s] if "BRAVO" in p} for n, d in few.items()}
    assert [len(trained[n]) for n in (0, 10, 25)] == [0, 10, 25] and trained[10] < trained[25]
    alone = composed("data=omics_demo", "data.leave_out=bravo", "data.few_shot=25", "data.scratch=true")
    assert set(alone.splits["train"]) == trained[25]  # all of them; others are watched, whom nobody tests on
    assert alone.splits["test"] == few[25].splits["test"] and len(alone.splits["val"]) == 10


@pytest.mark.parametrize("options, words", [
    ({"fold": 5}, "must lie in 0..4"), ({"leave_out": "ALPHA"}, "choose one of ALFA"), ({"few_shot": 5}, "leave_out"),
    ({"leave_out": "ALFA", "fold": 0}, "leave data.fold=null"), ({"leave_out": "ALFA", "few_shot": 51}, "0 to 50"),
    ({"leave_out": "ALFA", "scratch": True}, "data.few_shot"), ({"val_fraction": 0}, "between 0 and 1"),
    ({"root": "."}, "is embedded"), ({"kind": "open"}, "data.kind=open"), ({"source": "tcga"}, "data.source=tcga"),
    ({"allow": ["everything"]}, "allow=everything is unknown"),
])  # fmt: skip
def test_wrong_options_are_refused(options, words):
    with pytest.raises(UsageError, match=words):
        OmicsData("demo", **{"source": "synthetic", "synthetic": SMALL} | options).check()


def test_a_cohort_without_events_is_refused():
    data = OmicsData("demo", source="synthetic", synthetic=SMALL, limits={"min_events": 100})
    with pytest.raises(DataError, match="fewer than 100 events"):
        data.check()
    OmicsData("demo", source="synthetic", synthetic=SMALL, limits={"min_events": 100}, allow=["too_few_events"]).check()


# ---- folders -----------------------------------------------------------------------------------------------


def test_published_folds_are_read(tmp_path):
    root = porpoise(tmp_path)
    data = from_folder(root, cohort="blca", fold=1)
    data.check()
    published = pd.read_csv(root / "tcga" / "splits" / "5foldcv" / "tcga_blca" / "splits_1.csv")
    assert data.splits["test"] == published["val"].dropna().tolist() and len(data.splits["test"]) == 24
    assert sorted(data.splits["train"] + data.splits["val"]) == sorted(published["train"])
    assert len(data.splits["val"]) == round(0.15 * 96)
    assert len(data.cohort()) == 120 and data.cohort().clinical["slide_ids"].map(len).sum() == 127
    assert from_folder(root, cohort="blca", fold=2).splits["test"] != data.splits["test"]  # not published: one's own


def test_cohorts_are_pooled(tmp_path):
    root = porpoise(tmp_path)
    data = from_folder(root, fold=0)
    data.check()
    assert data.cohort().cancers == ["BLCA", "LUAD"] and len(data.splits["test"]) == 48
    rna = data.cohort().omics["rna"]
    last = rna.columns[-1]  # not measured in LUAD
    assert rna[last].isna().sum() == 120 and not rna.iloc[:120].isna().any().any()
    one = from_folder(root, cohort=["LUAD"])
    assert one.cohort().omics["rna"].shape[1] == 99
    with pytest.raises(UsageError, match="no such cohort; choose from blca, luad"):
        from_folder(root, cohort="lusd").prepare()


def test_a_patient_on_both_sides_of_a_fold_is_refused(tmp_path):
    root = porpoise(tmp_path)
    path = root / "tcga" / "splits" / "5foldcv" / "tcga_blca" / "splits_0.csv"
    table = pd.read_csv(path)
    table.loc[0, "val"] = table.loc[3, "train"]
    table.to_csv(path)
    data = from_folder(root, cohort="blca", fold=0, kind="private")
    with pytest.raises(DataError, match="the same patient is in two splits") as caught:
        data.check()
    assert table.loc[3, "train"] in str(caught.value) and "TCGA" not in caught.value.recorded


def test_a_patient_of_two_cohorts_is_refused():
    one = synthetic_cohort(**SMALL | {"cancers": 1})
    with pytest.raises(DataError, match="120 patients are in two of the cohorts"):
        pool([one, one], "both")
    other = Cohort(
        "b",
        one.clinical.set_axis([f"x{k}" for k in range(120)]),
        {"rna": one.omics["rna"].set_axis([f"x{k}" for k in range(120)])},
        scale={"rna": "z-score"},
    )
    with pytest.raises(DataError, match="one scale"):
        pool([one, other], "both")


def test_private_patients_get_pseudonyms(tmp_path):
    root = porpoise(tmp_path)
    private, public = from_folder(root, kind="private", fold=0), from_folder(root, fold=0)
    private.check()
    text = str([private.splits, private.card(), private.truth("test"), next(private.samples("val")).sample_id])
    text += str(private.cohort().clinical["slide_ids"].tolist())
    assert "TCGA" not in text and private.splits["test"][0].startswith("P-")
    assert private.split_hash() == public.split_hash()  # the same patients on every machine
    np.testing.assert_array_equal(private.truth("test")["time"], public.truth("test")["time"])


def test_a_root_without_a_cohort_is_refused(tmp_path):
    (tmp_path / "notes.md").write_text("nothing", encoding="utf-8")
    with pytest.raises(UsageError, match="holds no cohort"):
        from_folder(tmp_path).prepare()
    with pytest.raises(UsageError, match="no embedded default"):
        OmicsData("cancer_omics")


def test_plain_tables_of_a_folder_are_cohorts(tmp_path):
    part = synthetic_cohort(**SMALL | {"cancers": 1}, missing=0)
    table = part.omics["rna"].assign(time_months=part.time, event=part.event.astype(int), age=part.clinical["age"])
    table.rename_axis("patient_id").to_csv(tmp_path / "mine.csv")
    data = from_folder(tmp_path, scale={"rna": "log2(TPM+1)"})
    data.check()
    assert data.cohort().cancers == ["MINE"] and data.cohort().omics["rna"].shape == (120, 100)


def test_the_published_folds_of_nine_cohorts(real_data):
    """Patients and events of SUMMARY.csv, and the val of every published fold as our test."""
    data = from_folder(real_data / "cancer", fold=3)
    summary = pd.read_csv(real_data / "cancer" / "tcga" / "SUMMARY.csv").set_index("cohort")
    for cancer in data.cohort().cancers:
        part = data.cohort().of_cancer(cancer)
        assert (len(part), part.event.sum()) == tuple(summary.loc[cancer.lower(), ["cases", "events"]])
        folder = real_data / "cancer" / "tcga" / "splits" / "5foldcv" / f"tcga_{cancer.lower()}"
        published = set(pd.read_csv(folder / "splits_3.csv")["val"].dropna())
        assert published == set(part.patients) & set(data.splits["test"])
    assert len(data.cohort().cancers) == 9 and data.card()["modalities"]["rna"]["scale"] == "z-score"


def test_a_patient_in_the_val_of_two_published_folds_is_refused(tmp_path):
    """He would be tested twice, by two models."""
    root = porpoise(tmp_path)
    where = root / "tcga" / "splits" / "5foldcv" / "tcga_blca"
    table = pd.read_csv(where / "splits_1.csv", index_col=0)
    other = pd.read_csv(where / "splits_0.csv", index_col=0)["val"].dropna().iloc[0]
    table.loc[0, "val"] = other
    table["train"] = table["train"].where(table["train"] != other)
    table.to_csv(where / "splits_1.csv")
    with pytest.raises(DataError, match=r"tests 1 patient\(s\) whom splits_.\.csv tests too") as caught:
        composed("data=cancer_omics", f"data.root={root}", "data.cohort=blca", "data.fold=0")
    assert other not in str(caught.value)
    composed("data=cancer_omics", f"data.root={root}", "data.cohort=luad", "data.fold=0")
