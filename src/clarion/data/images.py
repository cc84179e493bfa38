"""One look at every image file: does it decode, how large is it, and two hashes of its pixels.

The look is taken once per content: the facts are kept in the file cache, so a second run reads no pixel.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import BmpImagePlugin, ImageFile, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin
from tqdm import tqdm

from clarion.data.filecache import digest_bytes, known_digests, known_facts, remember_digests, remember_facts

IMAGE_SUFFIXES = frozenset({".png", ".bmp", ".jpg", ".jpeg", ".tif", ".tiff", ".webp"})
# The decoder is chosen here by the file's first bytes, so that no other decoder runs; and not by PIL.Image.open,
# which ultralytics replaces with a version that tries to install packages when a file is no image.
_DECODERS = (
    ((b"\x89PNG\r\n\x1a\n",), PngImagePlugin.PngImageFile),
    ((b"BM",), BmpImagePlugin.BmpImageFile),
    ((b"\xff\xd8\xff",), JpegImagePlugin.JpegImageFile),
    ((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), TiffImagePlugin.TiffImageFile),
    ((b"RIFF",), WebPImagePlugin.WebPImageFile),
)
MAX_BYTES = 256 * 2**20
MAX_PIXELS = 64_000_000  # 8000 x 8000: far above any B-scan, far below a decompression bomb
HASH_SIDE = 16  # dHash of 16 x 16 bits
_KIND = "image-4"  # raise the number when ImageFacts or its meaning changes


@dataclass(frozen=True)
class ImageFacts:
    """width, height: pixels as displayed (after the EXIF rotation that OpenCV and ultralytics apply);
    mode: Pillow's; pixels: hash of the decoded pixels, equal for the same picture in two containers;
    dhash: difference hash, 256 bits as hex, "" for a flat image; whole: the file ends as its format demands;
    digest: hash of the file; error: None, or why it cannot be used (then the rest is 0 or empty)."""

    width: int = 0
    height: int = 0
    mode: str = ""
    pixels: str = ""
    dhash: str = ""
    whole: bool = True
    digest: str = ""
    error: str | None = None


def open_image(content: bytes) -> ImageFile.ImageFile:
    """The image in these bytes, its header read and its pixels not yet. Raises what Pillow's decoders raise."""
    for signatures, decoder in _DECODERS:
        if content.startswith(signatures):
            return decoder(io.BytesIO(content))
    raise ValueError("not a PNG, BMP, JPEG, TIFF or WebP file")


def inspect_image(content: bytes) -> ImageFacts:
    """Facts of an image file's bytes. Never raises on bad content: `error` says what is wrong."""
    digest = digest_bytes(content)
    if not content:
        return ImageFacts(digest=digest, error="is empty (0 bytes)")
    try:
        with open_image(content) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                return ImageFacts(digest=digest, error=f"is {width}x{height} pixels, above the limit of {MAX_PIXELS:,}")
            if getattr(image, "n_frames", 1) > 1:
                return ImageFacts(digest=digest, error=f"holds {image.n_frames} frames, one is expected")
            image.load()
            if image.getexif().get(0x0112, 1) in (5, 6, 7, 8):  # orientation: stored on its side
                width, height = height, width
            pixels = hashlib.blake2b(f"{image.mode}{image.size}".encode(), digest_size=16)
            grey = np.asarray(image if image.mode in ("L", "I;16", "I", "F") else image.convert("L"))
            pixels.update(grey if grey.flags.c_contiguous and image.mode == "L" else image.tobytes())
            whole = image.format != "JPEG" or content[-2:] == b"\xff\xd9"
            return ImageFacts(width, height, image.mode, pixels.hexdigest(), difference_hash(grey), whole, digest)
    except Exception as error:  # noqa: BLE001  decoders raise many types on hostile files
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        return ImageFacts(digest=digest, error=f"cannot be decoded ({reason})")


def difference_hash(grey: np.ndarray) -> str:
    """dHash: signs of the differences between horizontal neighbours of a 16 x 17 grid of block means.

    grey: [height, width], any number type. Returns 64 hex digits, or "" when the image is smaller than the
    grid or flat (a hash of nothing would match every other flat image). Robust to scale, brightness and
    compression; of two unlike images half of the 256 bits differ."""
    height, width = grey.shape
    if height < HASH_SIDE or width < HASH_SIDE + 1:
        return ""
    rows = np.linspace(0, height, HASH_SIDE + 1).astype(int)
    columns = np.linspace(0, width, HASH_SIDE + 2).astype(int)
    sums = np.add.reduceat(grey, rows[:-1], axis=0, dtype=np.float32)
    sums = np.add.reduceat(sums, columns[:-1], axis=1) / np.outer(np.diff(rows), np.diff(columns))
    if np.ptp(sums) == 0:
        return ""
    return np.packbits(np.diff(sums, axis=1) > 0).tobytes().hex()


def _look(path: Path) -> tuple[Path, os.stat_result | None, ImageFacts]:
    try:
        stat = os.stat(path)
        if stat.st_size > MAX_BYTES:
            return path, None, ImageFacts(error=f"has {stat.st_size >> 20} MiB, above the limit of {MAX_BYTES >> 20}")
        return path, stat, inspect_image(path.read_bytes())
    except FileNotFoundError:
        return path, None, ImageFacts(error="is missing")
    except OSError as error:
        return path, None, ImageFacts(error=f"cannot be read ({error.strerror})")


def inspect_images(images: Mapping[str, Path], workers: int | None = None) -> dict[str, ImageFacts]:
    """sample id -> facts. Threads suffice: Pillow and hashlib release the interpreter lock while they work."""
    known = known_digests(list(images.values()))
    stored = known_facts(set(known.values()), _KIND)
    facts: dict[Path, ImageFacts] = {}
    for path, digest in known.items():
        if digest in stored:
            facts[path] = ImageFacts(**json.loads(stored[digest]))
    fresh = sorted({path for path in images.values() if path not in facts})
    if fresh:
        tolerant, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False  # others set it globally
        try:
            with ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1)) as pool:
                bar = tqdm(pool.map(_look, fresh), "checking images", len(fresh), disable=len(fresh) < 200, leave=False)
                looks = list(bar)
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = tolerant
        facts |= {path: fact for path, _, fact in looks}
        remember_digests((path, stat, fact.digest) for path, stat, fact in looks if stat)
        remember_facts({f.digest: json.dumps(asdict(f)) for _, stat, f in looks if stat}, _KIND)
    return {sample_id: facts[path] for sample_id, path in images.items()}


def near_duplicates(hashes: list[str], max_distance: int = 12, limit: int = 100_000) -> list[tuple[int, int, int]]:
    """Pairs (i, j, distance), i < j, of hashes that differ in at most `max_distance` of 256 bits.

    Empty hashes match nothing. Blocks of XOR and popcount: 3,000 images 0.2 s, 30,000 about 20 s. At most
    `limit` pairs are returned."""
    index = np.array([i for i, text in enumerate(hashes) if text], dtype=np.int64)
    if index.size < 2:
        return []
    words = np.frombuffer(bytes.fromhex("".join(hashes[i] for i in index)), dtype=np.uint64).reshape(len(index), -1)
    pairs: list[tuple[int, int, int]] = []
    block = max(1, 4_000_000 // len(index))
    for start in range(0, len(index), block):
        part = words[start : start + block]
        distance = np.zeros((len(part), len(index) - start), dtype=np.uint16)
        for k in range(words.shape[1]):
            distance += np.bitwise_count(part[:, k, None] ^ words[None, start:, k])
        rows, columns = np.nonzero(distance <= max_distance)
        keep = columns > rows
        for r, c in zip(rows[keep], columns[keep], strict=True):
            pairs.append((int(index[start + r]), int(index[start + c]), int(distance[r, c])))
        if len(pairs) >= limit:
            return pairs[:limit]
    return pairs
