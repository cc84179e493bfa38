"""Readers: any export of an OCT device -> a Volume in millimetres. `read_volume` finds the format by itself."""

from .phantom_eye import phantom_volume
from .read import FORMATS, read_volume

__all__ = ["FORMATS", "phantom_volume", "read_volume"]
