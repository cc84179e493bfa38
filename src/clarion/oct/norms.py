"""Published thickness of healthy eyes, each with its source, and z-scores against it.

These are means of published samples, not a device's normative database: they carry no adjustment for axial length,
sex or ethnicity, and devices draw the outer border at different places (Pierro and Giatsidis, on seven OCT devices:
they are not interchangeable), so a norm is used for its own device only. Where a paper gives no SD there is no z-score.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

SPECTRALIS, CIRRUS = "Heidelberg Spectralis", "Zeiss Cirrus"

_GROVER = "Grover 2009, Am J Ophthalmol, doi 10.1016/j.ajo.2009.03.006 (50 healthy eyes)"
_NIEVES = "Nieves-Moreno 2017, PLOS ONE, PMC5498048 (297 healthy eyes)"
_KIM = "Kim 2016, J Korean Ophthalmol Soc 57(2) (100 healthy eyes, measured with calipers)"
_CIRRUS = "ARVO abstract, iovs.arvojournals.org articleid 2369000 (192 healthy eyes)"


@dataclass(frozen=True)
class Norm:
    """mean, sd in `unit`; sd None where the source gives none. ages: of the sample, years; None where not given."""

    name: str  # as in etdrs.LOINC, or "LAYER/CSF" for a layer's mean in the central subfield
    device: str
    mean: float
    sd: float | None
    n: int
    source: str
    unit: str = "um"
    ages: tuple[int, int] | None = None
    age_effect: str = "not reported"
    # Mean of another sample on the same device, for readers who want to see how far samples differ.
    other: str = ""


NORMS = (
    Norm("CSF", SPECTRALIS, 270.2, 22.5, 50, _GROVER, ages=(20, 84), age_effect="none found (P = .62)",
         other=f"278.2 um in {_NIEVES}; 262.7 +- 19.6 um in El-Hifnawy 2016, doi 10.4103/1110-9173.195269 (105 eyes)"),
    Norm("centre_point", SPECTRALIS, 227.3, 23.2, 50, _GROVER, ages=(20, 84), age_effect="none found (P = .62)"),
    Norm("RNFL/CSF", SPECTRALIS, 12.61, None, 297, _NIEVES, ages=(18, 87), other=f"11.35 +- 2.11 um in {_KIM}"),
    Norm("GCL/CSF", SPECTRALIS, 17.63, None, 297, _NIEVES, ages=(18, 87), age_effect="thins with age (P < .001)",
         other=f"13.33 +- 4.16 um in {_KIM}"),
    Norm("IPL/CSF", SPECTRALIS, 22.02, None, 297, _NIEVES, ages=(18, 87), other=f"19.38 +- 3.20 um in {_KIM}"),
    Norm("GCIPL/CSF", SPECTRALIS, 39.65, None, 297, f"{_NIEVES}: sum of GCL 17.63 and IPL 22.02", ages=(18, 87),
         age_effect="GCL thins with age (P < .001)"),
    Norm("INL/CSF", SPECTRALIS, 18.23, 4.66, 100, _KIM, age_effect="none found"),
    Norm("CSF", CIRRUS, 262.4, 22.8, 192, _CIRRUS, ages=(20, 90), age_effect="none found (P = .45)"),
)  # fmt: skip


@dataclass(frozen=True)
class ZScore:
    """z: (value - mean) / sd of published healthy eyes, None if it cannot be given, and then `why`.

    caution: always there with a z: what it is not.
    """

    z: float | None
    norm: Norm | None
    why: str = ""
    caution: str = ""

    @property
    def source(self) -> str:
        return self.norm.source if self.norm else ""


def norm_of(name: str, device: str) -> Norm | None:
    """The norm of a measurement on a device; devices match by brand: "Heidelberg Spectralis", "spectralis OCT"."""
    brand = next((b for b in (SPECTRALIS, CIRRUS) if b.split()[-1].lower() in device.lower()), None)
    return next((norm for norm in NORMS if norm.name == name and norm.device == brand), None)


def z_score(value: float, name: str, age: float | None = None, device: str = SPECTRALIS) -> ZScore:
    """z of a thickness (um) against published healthy eyes measured on the same device.

    name: "CSF", "centre_point", another ETDRS sector, or "LAYER/CSF". age: years, if known.
    """
    norm = norm_of(name, device)
    if not isfinite(value):
        return ZScore(None, norm, f"{name} was not measured.")
    if norm is None:
        return ZScore(None, None, f"No verified published norm of {name} for {device or 'an unknown device'}.")
    if norm.sd is None:
        return ZScore(None, norm, f"The source of {name} gives a mean ({norm.mean:g} {norm.unit}) without its SD.")
    if age is not None and norm.ages and not norm.ages[0] <= age <= norm.ages[1]:
        return ZScore(None, norm, f"The norm of {name} is of ages {norm.ages[0]} to {norm.ages[1]}, not {age:g}.")
    age_note = "" if norm.age_effect.startswith("none") else f" Age: {norm.age_effect}."
    caution = (
        f"Against {norm.n} published healthy eyes ({norm.mean:g} +- {norm.sd:g} {norm.unit}), "
        f"not the device's normative database; not adjusted for sex, ethnicity or axial length.{age_note}"
    )
    return ZScore((value - norm.mean) / norm.sd, norm, "", caution)
