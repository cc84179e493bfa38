"""Files that are broken or mean harm, made at test time, and a watch on what is opened and started meanwhile."""

from __future__ import annotations

import io
import os
import pickle
import struct
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def grey(side: int = 64, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 255, (side, side + 16))
    return Image.fromarray(noise.astype(np.uint8))


def encoded(picture: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def png(width: int, height: int, colour: int = 0) -> bytes:
    """A PNG that says it has this size; its pixels are zeros, compressed a thousandfold, at most 1 MB of them."""
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    pixels = zlib.compress(bytes(min(height * (width + 1), 2**20)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def bmp(width: int, height: int) -> bytes:
    """A BMP header of this size without its pixels."""
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return struct.pack("<2sIHHI", b"BM", 54, 0, 0, 54) + info


class Creates:
    """Unpickled, it makes a folder: the proof that somebody unpickled it."""

    def __init__(self, marker: Path):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def hostile_pickle(marker: Path) -> bytes:
    return pickle.dumps(Creates(marker), protocol=4)


def torch_file(marker: Path) -> bytes:
    """As torch.save writes it: a zip whose data.pkl is the pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", hostile_pickle(marker))
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    return buffer.getvalue()


class Watch:
    """What this process opens below a folder, and what it starts, while the watch is on (audit hooks stay)."""

    def __init__(self):
        self.folder, self.seen = None, []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, args: tuple) -> None:
        if self.folder is None:
            return
        if event == "open" and isinstance(args[0], str | bytes | os.PathLike):
            if os.fsdecode(os.path.realpath(args[0])).startswith(self.folder):
                self.seen.append(f"opened {args[0]}")
        elif event in ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen"):
            self.seen.append(f"{event} {args[:1]}")

    def start(self, folder: Path) -> None:
        self.folder, self.seen = str(folder.resolve()), []

    def stop(self) -> list[str]:
        self.folder = None
        return self.seen
