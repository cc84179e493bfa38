"""One table of patients with their omics and their survival, whatever file they came from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from clarion.errors import DataError

MODALITIES = ("rna", "cnv", "mut")
CLINICAL = ("time", "event", "cancer", "site", "age", "sex", "slide_ids")


@dataclass(frozen=True)
class Cohort:
    """Patients x features with survival.

    clinical: one row a patient, index patient_id (unique; pseudonyms where the source is private); columns time
    (float months > 0), event (bool: died or progressed), cancer (str), site (str, "" unknown), age (years, NaN
    unknown), sex ("F", "M" or ""), slide_ids (tuple of str). omics: modality -> float32 DataFrame with the same index,
    columns are gene symbols; NaN is missing and stays missing. kind: "phantom" | "public" | "private".
    """

    name: str
    clinical: pd.DataFrame = field(repr=False)
    omics: dict[str, pd.DataFrame] = field(repr=False)
    kind: str = "private"
    scale: dict[str, str] = field(default_factory=dict)  # modality -> "log2(TPM+1)", "z-score", "counts", "0/1" ...
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        missing = [c for c in CLINICAL if c not in self.clinical.columns]
        if missing:
            raise DataError(f"Cohort {self.name} lacks the clinical column(s) {', '.join(missing)}.")
        if self.clinical.index.has_duplicates:
            twice = self.clinical.index[self.clinical.index.duplicated()].unique()
            raise DataError(f"Cohort {self.name}: {len(twice)} patients come twice; keep one row a patient.")
        for modality, table in self.omics.items():
            if not table.index.equals(self.clinical.index):
                raise DataError(f"Cohort {self.name}: the {modality} table is not in the order of the patients.")

    @property
    def patients(self) -> pd.Index:
        return self.clinical.index

    def __len__(self) -> int:
        return len(self.clinical)

    @property
    def time(self) -> np.ndarray:
        """Months, float64 [n]."""
        return self.clinical["time"].to_numpy(np.float64)

    @property
    def event(self) -> np.ndarray:
        """bool [n]."""
        return self.clinical["event"].to_numpy(bool)

    @property
    def cancers(self) -> list[str]:
        return sorted(self.clinical["cancer"].unique())

    def of(self, patients: Iterable[str]) -> Cohort:
        """The cohort of these patients, in this order. DataError on ids it does not hold."""
        wanted = pd.Index(list(patients))
        unknown = wanted.difference(self.patients)
        if len(unknown):
            raise DataError(f"Cohort {self.name} does not hold {len(unknown)} of the patients asked for.")
        return replace(
            self,
            clinical=self.clinical.loc[wanted],
            omics={name: table.loc[wanted] for name, table in self.omics.items()},
        )

    def of_cancer(self, cancer: str) -> Cohort:
        return self.of(self.patients[self.clinical["cancer"] == cancer])

    def with_omics(self, modalities: Sequence[str]) -> Cohort:
        """Only these modalities; DataError on one it does not have."""
        for name in modalities:
            if name not in self.omics:
                raise DataError(f"Cohort {self.name} has no {name} data (it has {', '.join(self.omics) or 'none'}).")
        return replace(self, omics={name: self.omics[name] for name in modalities})

    def fingerprint(self) -> str:
        """Hash of the patients, their survival and every omics value. A table fitted on them keeps it in its settings;
        what it refuses evaluated patients by are their ids alone (lookup.FittedOn)."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update("\0".join(map(str, self.patients)).encode())
        digest.update(self.time.tobytes() + self.event.tobytes())
        for name in sorted(self.omics):
            table = self.omics[name]
            digest.update(f"{name}\0{chr(0).join(map(str, table.columns))}".encode())
            digest.update(np.ascontiguousarray(table.to_numpy(np.float32)).tobytes())
        return digest.hexdigest()


def patients_digest(patients: Iterable[str]) -> str:
    """Hash of a set of patients, whatever their order."""
    return hashlib.blake2b("\0".join(sorted(map(str, patients))).encode(), digest_size=16).hexdigest()
