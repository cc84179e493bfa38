"""`clarion cox`: a genome-wide table from the command line, or one sentence on why not."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from clarion import cli
from clarion.cancer.cox import fit, rank_normal
from clarion.cancer.lookup import LookupTable
from clarion.cancer.synthetic import synthetic_cohort

RECIPE = {"cancers": 2, "patients": 80, "genes": 60, "shared": 3, "specific": 0, "opposed": 0, "effect": 1.0, "cnv": 0,
          "mut": 0}  # fmt: skip
DATA = "data.synthetic={" + ", ".join(f"{k}: {v}" for k, v in RECIPE.items()) + "}"


def test_a_table_of_a_cohort(tmp_path, capsys):
    out = tmp_path / "표"
    assert cli.main(["cox", "omics_demo", DATA, "horizon=36", "--out", str(out), "--format", "json"]) == 0
    said = json.loads(capsys.readouterr().out)
    table = LookupTable.read(out / "table.parquet")
    cohort = synthetic_cohort(**RECIPE, name="omics_demo").of_cancer("ALFA")
    alone = fit(rank_normal(cohort.omics["rna"].to_numpy()).astype(np.float32), cohort.time, cohort.event, horizon=36.0)
    np.testing.assert_allclose(table.of("ALFA")["coef"], alone.coef)
    assert len(pd.read_csv(out / "table.csv")) == said["fits"] == 120 and said["data_kind"] == "phantom"
    first = said["cancers"][0]
    assert first["cancer"] == "ALFA" and first["patients"] == 80 and first["hits"] == len(alone.hits(0.05)) > 0
    assert sum(first["status"].values()) == 60 and first["deaths"] == (cohort.event & (cohort.time <= 36)).sum()
    assert table.settings["scale"] == "rank-normal scores of each cancer"
    assert table.patients["ALFA"].overlap(cohort.patients) == 80
    assert json.loads((out / "summary.json").read_text(encoding="utf-8")) == {k: v for k, v in said.items()
                                                                            if k != "out"}  # fmt: skip


def test_the_summary_is_a_table_of_cancers(tmp_path, capsys):
    assert cli.main(["cox", "omics_demo", DATA, "scale=as_is", "covariates=[age]", "--out", str(tmp_path / "o")]) == 0
    text = capsys.readouterr().out
    assert "| ALFA | 80 |" in text and "rna as log2(TPM+1)" in text and "leaks their outcome" in text


@pytest.mark.parametrize("words, told", [
    (["omics_dem"], "omics_dem: neither a folder nor survival data. Did you mean `omics_demo`"),
    (["omics_demo", "horizn=3"], "horizn: no such option. Did you mean `horizon`"),
    (["omics_demo", "horizon=soon"], "horizon=soon is no number"),
    (["omics_demo", "scale=z"], "scale=z is unknown: use rank or as_is"),
    (["omics_demo", "36"], "36: give KEY=VALUE"),
])  # fmt: skip
def test_wrong_words_are_told_in_one_sentence(words, told, tmp_path, capsys):
    assert cli.main(["cox", *words, "--out", str(tmp_path / "out")]) == 2
    assert told in capsys.readouterr().err and not (tmp_path / "out").exists()
