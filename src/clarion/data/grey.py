"""Grey images, read safely: a picture file -> an 8-bit array of the asked size.

Training and prediction both read through `read_grey`, so that a network sees the same pixels in both.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from clarion.data.images import MAX_PIXELS
from clarion.errors import DataError

FORMATS = ("PNG", "BMP", "JPEG", "TIFF", "WEBP")  # no decoder runs that a data set does not need


def read_grey(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """Read one picture as grey uint8 [height, width].

    size: (height, width) to resample to (area-averaging bilinear, the aspect is not kept); None keeps the file's
    own. 16-bit files are scaled by 1/257, colour ones turned to luma (ITU-R 601); EXIF rotation is applied.
    Raises DataError, naming the file, when it is missing, no picture of FORMATS, truncated or above MAX_PIXELS.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise _failed(path, f"has {image.width} x {image.height} pixels; the limit is {MAX_PIXELS:,}.")
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I"):
                image = Image.fromarray((np.asarray(image).astype(np.float64) / 257).clip(0, 255).astype(np.uint8))
            image = image.convert("L")
            if size is not None and image.size != (size[1], size[0]):
                image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
            return np.asarray(image)
    except FileNotFoundError:
        raise _failed(path, "does not exist.") from None
    except (OSError, ValueError, SyntaxError, ImportError, Image.DecompressionBombError) as error:
        said = str(error).replace(str(path), path.name)
        raise _failed(path, f"cannot be read as a picture ({said}): replace or remove it.", "cannot be read") from error


def _failed(path: Path, why: str, told: str = "") -> DataError:
    """The sentence with the file's name for the user, and without it (it may be a patient's) for what is recorded."""
    error = DataError(f"{path} {why}")
    error.recorded = f"A picture of the data {told + '.' if told else why}"
    return error
