"""From a measured Study to findings with units, intervals, codes and sources; what is missing goes to `omitted`."""

from __future__ import annotations

from math import isfinite
from typing import Any

import numpy as np
from scipy.special import ndtri

from clarion import __version__
from clarion.findings import Finding
from clarion.oct import etdrs, norms, reflectance, shape, thickness
from clarion.oct.association import legacy_score
from clarion.oct.study import Study
from clarion.oct.thickness_error import thickness_sd_um

LEVEL = 0.95
PRESENT_MM2 = 0.1  # under this the projection holds specks between two lines, no membrane (see area_detection)
MIN_COVERAGE = 0.8  # of a sector; less is flagged
LEAST_COVERAGE = 0.25  # of a sector; less is no measurement of it
LEAST_FIELD_MM2 = 1.0  # a smaller field says nothing of an eye
EDGE_NOTE = (
    "an effect that fades in over the membrane's edge is underestimated (by a quarter for 0.6 mm on phantoms), "
    "which the interval does not hold"
)
ICD10CM = {"OD": "H35.371", "OS": "H35.372", None: "H35.379"}  # puckering of macula
SNOMED_ERM = "367649002"  # epiretinal membrane (disorder)


class Writer:
    """Adds findings of one study: laterality, kind and version are the same for all."""

    def __init__(self, study: Study, models: dict[str, dict[str, str]]):
        self.study, self.models = study, models
        self.scans = tuple(scan.scan_id for scan in study.volume.scans)

    def add(self, name: str, title: str, value: Any, unit: str | None = None, **more: Any) -> None:
        """A finding, or an omission (reason: missing) where the value is None or not finite.

        why="" is "ok", else it is flagged.
        """
        missing = more.pop("missing", "it could not be measured in these scans")
        if value is None or (isinstance(value, (float, np.floating)) and not isfinite(value)):
            self.study.document.omit(name, missing)
            return
        source = {"version": __version__, **more.pop("source", {})}
        if model := more.pop("model", None):
            source |= self.models[model]
        why = "; ".join(w for w in (more.pop("why", ""), self.study.doubt) if w)
        self.study.document.add(
            Finding(
                id=name,
                name=title,
                value=float(value) if isinstance(value, np.floating) else value,
                unit=unit,
                source=source,
                derived_from=tuple(more.pop("derived_from", self.scans)),
                laterality=self.study.volume.laterality,
                quality="flagged" if why else "ok",
                why=why,
                data_kind=self.study.volume.data_kind,
                **more,
            )
        )


def add_findings(study: Study, layers: dict[str, str], presence: dict[str, str], presence_from: str) -> None:
    """Write everything the study holds into its document. layers, presence: sources of the models used."""
    write = Writer(study, {"layers": layers, "presence": presence})
    _membrane(write, presence_from)
    _sectors(write)
    _association(write)
    _stage(write)
    _shape(write)
    _reflectance(write)


def _membrane(write: Writer, presence_from: str) -> None:
    study = write.study
    area = study.area
    if area is None:
        _membrane_of_line(write)
        return
    write.add("scanned_area", "Scanned field", area.scanned_mm2, "mm2", method="union of the rasters, where readable")
    if area.scanned_mm2 < LEAST_FIELD_MM2:
        for name in ("erm_present", "erm_area", "erm_share"):
            study.document.omit(name, f"only {area.scanned_mm2:.2g} mm2 were scanned and could be read")
        return
    how = {"head": "per-A-scan network on the ILM-flattened strip", "boxes": "x-extent of detector boxes"}
    flagged = "; ".join(w for w in (_unmeasured_flag(study), _disagreement(study)) if w)
    present = membrane_present(area)
    lateral = study.volume.laterality
    write.add(
        "erm_present", "Epiretinal membrane present", bool(present), model="presence",
        method=f"area of at least {PRESENT_MM2:g} mm2; presence by {how[presence_from]}",
        codes={"icd10cm": ICD10CM[lateral], "snomed": SNOMED_ERM} if present else {}, why=flagged,
    )  # fmt: skip
    low, high, level = area.interval
    parts = ", ".join(f"{name} {sd:.2f}" for name, sd in area.sd_mm2.items())
    write.add(
        "erm_area", "Area of epiretinal membrane inside the scanned field", area.value_mm2, "mm2",
        interval=(low, high, level), model="presence",
        method=f"integral of the fused en-face map of {' and '.join(study.volume.directions)} lines; "
               f"presence by {how[presence_from]}; SD in mm2: {parts}. {' '.join(area.notes)}".strip(), why=flagged,
    )  # fmt: skip
    share = 100 / area.scanned_mm2
    write.add(
        "erm_share", "Share of the scanned field under epiretinal membrane", area.value_mm2 * share, "%",
        interval=(low * share, high * share, level), derived_from=("erm_area",), why=flagged,
        method=f"area over the {area.scanned_mm2:.1f} mm2 scanned",
    )  # fmt: skip
    for name, sector in (study.etdrs_erm or {}).items():
        write.add(
            f"erm_share_{name.lower()}", f"Share of the {_words(name)} under epiretinal membrane",
            _covered(sector, 100), "%", derived_from=("erm_area",), missing=_uncovered(sector),
            why="; ".join(w for w in (_coverage_flag(sector), _fovea_flag(study)) if w),
            method="mean membrane probability over the ETDRS sector, with the area's calibration",
        )  # fmt: skip


def _membrane_of_line(write: Writer) -> None:
    """One or two lines: what share of them lies under a membrane, and no area."""
    study = write.study
    for name in ("erm_present", "erm_area", "erm_share"):
        study.document.omit(name, "fewer than three B-scans: a line neither establishes nor excludes a membrane")
    known = np.concatenate(study.presence)
    known = known[np.isfinite(known)]
    write.add("erm_line_share", "Share of the scan line under epiretinal membrane",
              100 * float((known >= 0.5).mean()) if known.size else None, "%", model="presence",
              method="A-scans with a probability of at least 0.5", why="one line, not an eye")  # fmt: skip
    depth = np.concatenate([_depth_of_line(study, k) for k in range(len(study.surfaces))])
    depth = depth[np.isfinite(depth)]
    for name, title, share in (("median", "Median", 50), ("least", "Least (1st percentile)", 1)):
        write.add(f"line_thickness_{name}", f"{title} retinal thickness along the line",
                  float(np.percentile(depth, share)) if depth.size else None, "um", model="layers",
                  method="ILM to Bruch's membrane over the A-scans outside the optic disc")  # fmt: skip


def _depth_of_line(study: Study, k: int) -> np.ndarray:
    """ILM to BM, um [width]; NaN where the layers end (the optic disc) or the network is unsure of them."""
    rows, sd = study.surfaces[k], study.surfaces_sd[k]
    depth = (rows[-1] - rows[0]) * study.volume.axial_um
    unsure = np.nan_to_num(np.maximum(sd[0], sd[-1])) > 3.0
    return np.where((depth < 60) | unsure, np.nan, depth)


def _unmeasured_flag(study: Study) -> str:
    missing = float(np.mean([np.isnan(p).mean() for p in study.presence]))
    return f"{100 * missing:.0f} % of the A-scans could not be read" if missing > 0.05 else ""


def membrane_present(area: Any) -> bool:
    """Whether the area found is more than specks between two lines."""
    return area.value_mm2 >= PRESENT_MM2


def _disagreement(study: Study) -> str:
    said = [w["message"] for w in study.document.warnings if w["name"] == "directions_disagree"]
    return said[0] if said else ""


def _fovea_flag(study: Study) -> str:
    return "" if study.fovea is None or study.fovea.confident else f"the fovea is uncertain: {study.fovea.why}"


def _covered(sector: etdrs.Sector, scale: float = 1.0) -> float | None:
    """The sector's mean, None where too little of it was scanned to speak for it."""
    return None if sector.coverage < LEAST_COVERAGE or not isfinite(sector.mean) else scale * sector.mean


def _uncovered(sector: etdrs.Sector) -> str:
    return f"only {100 * sector.coverage:.0f} % of the sector was scanned"


def _coverage_flag(sector: etdrs.Sector) -> str:
    return "" if sector.coverage >= MIN_COVERAGE else f"only {100 * sector.coverage:.0f} % of the sector was scanned"


def _words(sector: str) -> str:
    return "central subfield" if sector == etdrs.CENTRAL else sector.replace("_", " ") + " sector"


def _sectors(write: Writer) -> None:
    study = write.study
    maps, place = study.thickness, study.fovea
    if study.etdrs_um is None:
        return
    doubt = "" if place.confident else f"the fovea is uncertain: {place.why}"
    z = float(ndtri((1 + LEVEL) / 2))
    write.add("fovea_shift", "Distance of the fovea from the centre of the raster",
              place.shift_mm if place.confident else None, "mm", missing=doubt,
              method="pit, thinnest inner retina and thickest outer nuclear layer")  # fmt: skip

    def thick(name: str, title: str, sector: etdrs.Sector, key: str) -> None:
        if _covered(sector) is None:
            study.document.omit(name, _uncovered(sector))
            return
        sd = thickness_sd_um(key, write.models["layers"].get("hash", ""))
        score = norms.z_score(sector.mean, key, device=study.volume.device)
        note = "" if score.z is None else f" z = {score.z:+.1f} against published norms: {score.caution} {score.source}"
        code = etdrs.LOINC.get(key)
        write.add(
            name, title, sector.mean, "um", model="layers", why=doubt or _coverage_flag(sector),
            interval=None if sd is None else (sector.mean - z * sd, sector.mean + z * sd, LEVEL),
            codes={"loinc": code} if code else {}, method=f"ILM to Bruch's membrane, mean over the sector.{note}",
        )  # fmt: skip

    for key, sector in study.etdrs_um.items():
        name = "central_subfield_thickness" if key == etdrs.CENTRAL else f"{key}_thickness"
        thick(name, f"Retinal thickness of the {_words(key)}", sector, key)
    point = etdrs.centre_point(maps.total, study.grid, place)
    thick("centre_point_thickness", "Retinal thickness at the foveal centre", point, "centre_point")
    whole = etdrs.volume_mm3(study.etdrs_um)
    write.add("macular_volume", "Retinal volume within 6 mm of the fovea", _covered(whole), "mm3", model="layers",
              codes={"loinc": etdrs.LOINC["volume"]}, why=doubt or _coverage_flag(whole), missing=_uncovered(whole),
              method="sum over the ETDRS sectors of mean thickness times area")  # fmt: skip
    for slab, title in (("inner", "Inner retina (ILM to INL/OPL)"), ("outer", "Outer retina (INL/OPL to BM)")):
        values = etdrs.sectors(getattr(maps, slab), study.grid, place, study.volume.laterality)[etdrs.CENTRAL]
        write.add(f"central_{slab}_thickness", f"{title}, central subfield", _covered(values), "um", model="layers",
                  method="mean over the central subfield", why=doubt or _coverage_flag(values),
                  missing=_uncovered(values))  # fmt: skip
    crossings = thickness.crossing_difference_um(study.volume, study.surfaces)
    if crossings.n:
        write.add("thickness_repeatability", "Repeatability of thickness where horizontal and vertical lines cross",
                  crossings.repeatability_um, "um", model="layers",
                  method=f"2.77 SD of a single A-scan from {crossings.n} crossings")  # fmt: skip


def _association(write: Writer) -> None:
    """Thickness inside and outside, their adjusted difference, its permutation p, rank correlation, legacy score."""
    study, found = write.study, write.study.association
    if found is None:
        return
    if why := found.omitted.get("association"):
        study.document.omit("erm_thickness_association", why)
        return
    base = {"model": "layers", "derived_from": ("erm_area", *write.scans)}
    write.add("thickness_inside_erm", "Retinal thickness under the membrane", found.inside_um, "um",
              method="mean over the map", **base)  # fmt: skip
    write.add("thickness_outside_erm", "Retinal thickness of bare retina", found.outside_um, "um",
              method="mean over the map", **base)  # fmt: skip

    def interval(name: str, title: str, unit: str, key: str, method: str) -> None:
        value = getattr(found, key)
        if value is None or value.value is None:
            study.document.omit(name, found.omitted.get(key, "it could not be estimated on this map"))
            return
        bounds = None if value.low is None else (value.low, value.high, LEVEL)
        write.add(name, title, value.value, unit, interval=bounds, method=method, **base)

    interval("erm_thickness_difference", "Thickness under the membrane minus bare retina", "um", "difference_um",
             "difference of means; interval by the map's own spatial correlation")  # fmt: skip
    test = "" if found.p_value is None else (
        f"; p = {found.p_value:.3g} from {found.permutations} membranes moved over the map ({found.null})")  # fmt: skip
    interval("erm_thickening", "Thickening under the membrane at equal eccentricity", "um", "adjusted_difference_um",
             "generalised least squares beside a smooth trend in eccentricity and direction"
             f"{test}; {EDGE_NOTE}")  # fmt: skip
    interval("erm_thickness_rank_correlation", "Rank correlation of membrane and thickness at equal eccentricity", "1",
             "adjusted_spearman", "Spearman over map cells, trend and neighbourhood removed (whitened)")  # fmt: skip
    interval("erm_thickening_away", "Thickening well inside the membrane over retina well outside it", "um",
             "away_from_edge_um", f"at equal eccentricity, away from the membrane's edge; {EDGE_NOTE}")  # fmt: skip
    if found.p_value is not None:
        write.add("erm_thickness_p", "p of no association (spatial permutation)", found.p_value, "1",
                  method=f"{found.permutations} {found.null} permutations", **base)  # fmt: skip
    score = legacy_score(study.projection.mask, study.thickness.total)
    write.add("erm_association_legacy", "Association score as published in 2025, for comparison", score, "1",
              method="weighted IoU with nine cumulative thickness classes (quantiles of this map); it grows with the "
                     "membrane's area and measures no association", **base)  # fmt: skip


def _stage(write: Writer) -> None:
    stage = write.study.stage
    if stage.value is None:
        write.study.document.omit("govetto_stage", stage.why)
        return
    write.add("govetto_stage", "Stage of epiretinal membrane (Govetto)", int(stage.value), model="layers",
              derived_from=stage.scan_ids, method=" ".join(stage.trace))  # fmt: skip
    for key, title in (("pit_depth_um", "Depth of the foveal pit"), ("onl_um", "Outer nuclear layer at the fovea"),
                       ("eifl_um", "Inner layers at the foveal centre (EIFL)")):  # fmt: skip
        write.add(f"fovea_{key[:-3]}", title, stage.measures.get(key), "um", model="layers",
                  derived_from=stage.scan_ids, method="scans through the fovea, central 200 um")  # fmt: skip


def _shape(write: Writer) -> None:
    study = write.study
    found = shape.measure_shape(study.volume, study.surfaces, study.fovea, study.presence)
    doubt = _fovea_flag(study)
    for key, where in (("all", "macula"), ("inside", "under the membrane"), ("outside", "outside the membrane")):
        if found.fold_um[key] is None:
            continue
        end = "" if key == "all" else f"_{key}"
        write.add(f"fold_index{end}", f"Fold height of the ILM, {where}", found.fold_um[key], "um", model="layers",
                  why=doubt, method="RMS, wavelengths 0.1 to 0.6 mm (ISO 16610-21)")  # fmt: skip
        write.add(f"traction_index{end}", f"Traction index, {where}", found.traction_um_per_mm[key], "um/mm",
                  model="layers", why=doubt,
                  method="RMS gradient of inner-surface displacement along the scans")  # fmt: skip
        write.add(f"fold_crests{end}", f"Fold crests of the ILM, {where}", found.crests_per_mm[key], "1/mm",
                  model="layers", why=doubt, method="crests that stand out by 2 um, per mm of line")  # fmt: skip
    _pit(write, doubt)
    bend = np.concatenate([c[np.isfinite(c)] for c in shape.curvature(study.volume, study.surfaces)])
    if bend.size:
        write.add("bm_curvature", "Curvature of Bruch's membrane as the picture shows it", float(np.median(bend)),
                  "1/mm", model="layers", method="median over the A-scans, quadratic over 2 mm")  # fmt: skip


def _pit(write: Writer, doubt: str) -> None:
    """Shape of the foveal pit in the map, where there is a map and a fovea."""
    study = write.study
    if study.thickness is None or study.fovea is None:
        return
    found = shape.measure_pit(study.thickness.total, study.grid, study.fovea)
    missing = "the thickness round the fovea is not known" if found is None else "no pit stands out by 15 um"
    how = "mean of 36 meridians of the thickness map"
    for key, title, unit in (("rim_um", "Height of the foveal rim", "um"), ("rim_mm", "Radius of the rim", "mm"),
                             ("width_mm", "Width of the foveal pit at half its depth", "mm"),
                             ("slope_deg", "Steepest slope of the foveal pit", "deg"),
                             ("volume_mm3", "Volume of the foveal pit", "mm3")):  # fmt: skip
        value = getattr(found, key) if found is not None and found.present else None
        name = f"pit_{key}" if key.startswith("rim") else f"pit_{key.split('_')[0]}"
        write.add(name, title, value, unit, model="layers", why=doubt, method=how, missing=missing)


def _reflectance(write: Writer) -> None:
    study = write.study
    found = reflectance.measure_reflectance(study.volume, study.surfaces, study.presence)
    for layer in thickness.LAYERS:
        write.add(f"reflectance_{layer.lower().replace('-', '_')}", f"Mean reflectance of the {layer} band",
                  found.all.relative[layer], "1", model="layers",
                  method="display grey level, 0 = vitreous, 1 = RPE of the same A-scan")  # fmt: skip
