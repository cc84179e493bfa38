"""JPEG tiles of slides: decoded with shared tables, and refused when their data is damaged.

JPEG carries no checksum, and libjpeg as imagecodecs calls it fills what it cannot read without a word. So the Huffman
codes of a tile are walked first: each block must end within its 64 coefficients, and the last one at the last byte. A
tile that was overwritten or cut fails that walk at a cost of about a third of its decoding.
Source of the syntax: ITU-T T.81, annexes B (markers) and F.2.2 (Huffman decoding).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass

import imagecodecs
import numpy as np
from numba import njit

_LOOK = 10  # bits decoded by one table look-up; longer codes are rare
_END = 128  # steps that end a block
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_EOI, _SOS, _DHT, _DRI, _SOF0, _SOF1 = 0xD9, 0xDA, 0xC4, 0xDD, 0xC0, 0xC1


class DamagedTile(ValueError):
    """The data of one tile is no whole JPEG stream."""


class UnsupportedTile(ValueError):
    """A JPEG that is not baseline Huffman (progressive, arithmetic, 12 bits): another decoder's work."""


@dataclass(frozen=True)
class _Scan:
    """Of one JPEG stream: where its entropy-coded data begins and what its minimum coded units hold."""

    start: int
    width: int
    height: int
    units: int  # minimum coded units
    tables: np.ndarray  # int64 [blocks a unit, 2]: DC and AC table of each block
    restart: int  # units between restart markers, 0: none


def decode_tile(
    data: bytes, tables: bytes | None, colour: str, width: int, height: int, out: np.ndarray | None = None
) -> np.ndarray:
    """One tile as uint8 [height, width, 3] RGB, the pixels libjpeg gives OpenSlide.

    data: an abbreviated or whole JPEG stream; tables: the TIFF's JPEGTables; colour: "YCBCR" or "RGB", what the stream
    holds; width, height: the largest it may be; out: where to decode to. Raises DamagedTile or UnsupportedTile."""
    _check(data, tables, width, height)
    try:
        return imagecodecs.jpeg8_decode(data, tables=tables, colorspace=colour, outcolorspace="RGB", out=out)
    except Exception as error:  # noqa: BLE001  imagecodecs raises its own and numpy's for a size that differs
        raise DamagedTile(str(error)) from error


def _check(data: bytes, tables: bytes | None, width: int, height: int) -> None:
    codes: dict[int, bytes] = {}
    if tables:
        codes.update(_shared_codes(tables))
    scan = _read_markers(data, codes, (width, height))
    look, long = _lookups(tuple(sorted(codes.items())))
    used = np.unique(scan.tables[:, 0] | scan.tables[:, 1] << 8)
    if any(t & 255 not in codes or t >> 8 not in codes for t in used.tolist()):
        raise DamagedTile("a Huffman table is missing")
    for units, stream in _intervals(data, scan):
        if not _walk(np.frombuffer(stream + bytes(8), np.uint8), len(stream), units, scan.tables, look, long):
            raise DamagedTile("its entropy-coded data ends early or late")


def _intervals(data: bytes, scan: _Scan) -> Iterator[tuple[int, bytes]]:
    """(minimum coded units, their bytes without stuffing) between restart markers."""
    end = data.rfind(b"\xff\xd9", scan.start)
    body = data[scan.start : end if end >= 0 else len(data)].rstrip(b"\xff")  # fill bytes before a marker
    pieces = _RESTART.split(body) if scan.restart else [body]
    step = scan.restart or scan.units
    if len(pieces) != -(-scan.units // step):
        raise DamagedTile("its restart intervals are not those of its size")
    for k, piece in enumerate(pieces):
        if piece.count(b"\xff") != piece.count(b"\xff\0"):
            raise DamagedTile("a marker stands within its data")
        yield min(step, scan.units - k * step), piece.replace(b"\xff\0", b"\xff")


@functools.lru_cache(maxsize=8)
def _shared_codes(tables: bytes) -> dict[int, bytes]:
    codes: dict[int, bytes] = {}
    _read_markers(tables, codes)
    return codes


def _read_markers(data: bytes, codes: dict[int, bytes], most: tuple[int, int] | None = None) -> _Scan | None:
    """Walk the marker segments; Huffman tables go to `codes` (class << 4 | number -> counts and symbols).

    most: width and height that an image may have (a tile that declares more would fill the memory); None: tables only,
    there is no image."""
    if data[:2] != b"\xff\xd8":
        raise DamagedTile("it does not start as a JPEG")
    at, restart, frame = 2, 0, None
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            raise DamagedTile("a marker is missing")
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker == _EOI:
            break
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        body = data[at + 4 : at + 2 + length]
        if length < 2 or len(body) != length - 2:
            raise DamagedTile("a segment is cut")
        if marker == _DHT:
            _read_codes(body, codes)
        elif marker == _DRI and len(body) >= 2:
            restart = int.from_bytes(body[:2], "big")
        elif _SOF0 <= marker <= 0xCF and marker not in (0xC8, 0xCC):
            frame = body
            if most and (int.from_bytes(body[3:5], "big") > most[0] or int.from_bytes(body[1:3], "big") > most[1]):
                raise DamagedTile("it declares more pixels than a tile of this slide has")
            if marker > _SOF1:
                raise UnsupportedTile(f"JPEG process {marker - _SOF0}")
        elif marker == _SOS:
            if frame is None:
                raise DamagedTile("the frame header is missing")
            return _layout(frame, body, at + 2 + length, restart)
        at += 2 + length
    if most:
        raise DamagedTile("it holds no scan")
    return None


def _read_codes(body: bytes, codes: dict[int, bytes]) -> None:
    at = 0
    while at + 17 <= len(body):
        total = sum(body[at + 1 : at + 17])
        if total > 256 or at + 17 + total > len(body):
            raise DamagedTile("a Huffman table is cut")
        codes[body[at]] = body[at + 1 : at + 17 + total]
        at += 17 + total


def _layout(frame: bytes, scan: bytes, start: int, restart: int) -> _Scan:
    try:
        precision, height, width, parts = frame[0], frame[1] << 8 | frame[2], frame[3] << 8 | frame[4], frame[5]
        factors = {frame[6 + 3 * k]: (frame[7 + 3 * k] >> 4, frame[7 + 3 * k] & 15) for k in range(parts)}
        selected = [(scan[1 + 2 * k], scan[2 + 2 * k]) for k in range(scan[0])]
        blocks = [(t >> 4, 16 | t & 15) for c, t in selected for _ in range(factors[c][0] * factors[c][1])]
    except (IndexError, KeyError) as error:
        raise DamagedTile("a header is cut") from error
    if precision != 8 or len(selected) != parts:
        raise UnsupportedTile("12 bits, or a scan a component")
    if not (width and height and blocks):
        raise DamagedTile("a size is 0")
    across, down = max(h for h, _ in factors.values()), max(v for _, v in factors.values())
    if parts == 1:  # T.81 A.2.2: a scan of one component has one block a unit, whatever its factors
        across = down = 1
        blocks = blocks[:1]
    units = -(-width // (8 * across)) * -(-height // (8 * down))
    return _Scan(start, width, height, units, np.array(blocks, np.int64), restart)


@functools.lru_cache(maxsize=64)
def _lookups(codes: tuple[tuple[int, bytes], ...]) -> tuple[np.ndarray, np.ndarray]:
    """What one code takes, by table: steps << 8 | bits, the value's own bits included; 0: no such code.

    look: uint16 [32, 2^_LOOK] by a code's first bits (0 also for longer codes). long: int32 [32, 17, 3 + 256], of each
    longer length the smallest and the largest code, and from the fourth on what each takes (T.81 F.2.2.3)."""
    look = np.zeros((32, 1 << _LOOK), np.uint16)
    long = np.zeros((32, 17, 3 + 256), np.int32)
    long[:, :, 1] = -1
    for table, content in codes:
        if table & 15 > 3 or table >> 4 > 1:
            continue
        counts, symbols = content[:16], content[16:]
        code = first = 0
        for length in range(1, 17):
            taken = [_taken(length, symbol, table < 16) for symbol in symbols[first : first + counts[length - 1]]]
            if length <= _LOOK:
                for k, value in enumerate(taken):
                    low = (code + k) << (_LOOK - length)
                    look[table, low : low + (1 << (_LOOK - length))] = value
            elif taken:
                long[table, length, :2] = code, code + len(taken) - 1
                long[table, length, 3 : 3 + len(taken)] = taken
            code, first = (code + len(taken)) << 1, first + len(taken)
    return look, long


def _taken(length: int, symbol: int, is_dc: bool) -> int:
    """steps << 8 | bits of a code: steps are coefficients, _END for the end of the block; 0 for a symbol that T.81
    does not allow."""
    run, extra = symbol >> 4, symbol & 15
    if is_dc:
        return 1 << 8 | (length + symbol) if symbol <= 11 else 0
    if extra:
        return run + 1 << 8 | (length + extra)
    return {0: _END << 8 | length, 15: 16 << 8 | length}.get(run, 0)


@njit(cache=True, nogil=True)
def _walk(data, size, units, tables, look, long):  # pragma: no cover  (compiled)
    """True where `units` minimum coded units end within the last of `size` bytes (without stuffing, zeros behind)."""
    blocks = tables.shape[0]
    bits, held, at = np.uint64(0), 0, 0  # `held` low bits of `bits` are not yet used
    left = size * 8
    for _ in range(units):
        for block in range(blocks):
            k, table = 0, tables[block, 0]
            while k < 64:
                if held < 32:
                    if at + 4 > data.size:
                        return False
                    word = (
                        np.uint64(data[at]) << np.uint64(24) | np.uint64(data[at + 1]) << np.uint64(16)
                        | np.uint64(data[at + 2]) << np.uint64(8) | np.uint64(data[at + 3])
                    )  # fmt: skip
                    bits = bits << np.uint64(32) | word
                    held += 32
                    at += 4
                entry = np.int64(look[table, np.int64(bits >> np.uint64(held - _LOOK)) & ((1 << _LOOK) - 1)])
                if entry == 0:
                    window = np.int64(bits >> np.uint64(held - 16)) & 0xFFFF
                    for length in range(_LOOK + 1, 17):
                        code = window >> (16 - length)
                        low = long[table, length, 0]
                        if low <= code <= long[table, length, 1]:
                            entry = np.int64(long[table, length, 3 + min(code - low, 255)])
                            break
                    if entry == 0:
                        return False
                taken = entry & 255
                held -= taken
                left -= taken
                if left < 0:
                    return False
                k += entry >> 8
                if 64 < k < _END:
                    return False
                table = tables[block, 1]
    return left < 8
