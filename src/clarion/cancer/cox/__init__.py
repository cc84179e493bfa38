"""Cox's model for every gene, in compiled code: fits, p values, false discovery rate, a status for each gene."""

from clarion.cancer.cox.fdr import benjamini_hochberg
from clarion.cancer.cox.fit import fit
from clarion.cancer.cox.model import CoxModel, fit_model
from clarion.cancer.cox.scaling import RankNormal, rank_normal
from clarion.cancer.cox.table import STATUS, CoxTable

__all__ = ["STATUS", "CoxModel", "CoxTable", "RankNormal", "benjamini_hochberg", "fit", "fit_model", "rank_normal"]
