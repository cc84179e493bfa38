"""A phantom of SD-OCT scans of eyes with and without epiretinal membrane, with everything about them known."""

from .dataset import write_detection_folder, write_stage_folder
from .eye import BScan, Eye, make_eye
from .geometry import SPECTRALIS_25, SPECTRALIS_49, SPECTRALIS_61, SURFACES, Geometry
from .sheet import contact_sheet
from .statistics import display_statistics

PHANTOM_VERSION = "6"  # raise it when any seed's pictures or truth change: caches are named by it

__all__ = [
    "PHANTOM_VERSION", "SPECTRALIS_25", "SPECTRALIS_49", "SPECTRALIS_61", "SURFACES",
    "BScan", "Eye", "Geometry", "contact_sheet", "display_statistics", "make_eye",
    "write_detection_folder", "write_stage_folder",
]  # fmt: skip
