"""Files as devices export them, made from a phantom eye whose geometry is known."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from clarion.oct.phantom import Eye
from clarion.oct.phantom.localiser import draw_localiser


def burn_in(infrared: np.ndarray, direction: str, rows: np.ndarray, current: int, counter: str, arrow=True, bar=True):
    """Scan lines (2 px, anti-aliased), the current one's arrow, a 200 um bar and a counter, as HEYEX draws them."""
    image = infrared.astype(np.float32)
    image = image.copy() if direction == "H" else image.T.copy()
    size = image.shape[0]
    unit = size / 496
    edges = np.arange(size + 1)
    for row in rows:
        cover = np.clip(np.minimum(edges[1:], row + unit) - np.maximum(edges[:-1], row - unit), 0, 1)
        image *= 1 - cover[:, None]
    if arrow:
        row, tip = float(rows[current]), round(10 * unit)
        for k in range(tip):
            half = 5.5 * unit * (k + 0.5) / tip
            column = size - 1 - k if direction == "H" else k
            image[max(round(row - half), 0) : round(row + half) + 1, column] = 0
    image = image if direction == "H" else image.T.copy()
    image = np.clip(image, 0, 255).astype(np.uint8)
    cv2.putText(image, counter, (round(5 * unit), round(16 * unit)), cv2.FONT_HERSHEY_SIMPLEX, 0.4 * unit, 0, 1)
    if bar:
        draw_bar(image, round(10 * unit), round(10 * unit))
    return image


def draw_bar(image: np.ndarray, high: int, wide: int) -> None:
    """The L of the 200 um bar with its grey rim and a label, lower left."""
    unit = image.shape[0] / 496
    foot, left, thick = image.shape[0] - round(9 * unit), round(10 * unit), max(round(2 * unit), 1)
    image[foot - high - 1 : foot + 1, left - 1 : left + thick + 1] = 64
    image[foot - thick - 1 : foot + 1, left - 1 : left + wide + 1] = 64
    image[foot - high : foot, left : left + thick] = 255
    image[foot - thick : foot, left : left + wide] = 255
    at = (left + round(5 * unit), foot - round(4 * unit))
    cv2.putText(image, "200", at, cv2.FONT_HERSHEY_SIMPLEX, 0.28 * unit, 255, 1)


def screen_export(
    folder: Path, eye: Eye, lines=(0, 12, 20), directions="HV", scale=1.0, vertical_shift=(0, 0), bars=True, **options
) -> Path:
    """A HEYEX screen export of some lines. vertical_shift: columns, rows by which the eye moved before the V lines."""
    geometry = eye.geometry
    infrared = draw_localiser(eye)
    rows = np.array([geometry.line_position_mm(k) for k in range(geometry.lines)]) / geometry.extent_mm * 496 + 248
    for direction in directions:
        view = infrared
        if direction == "V":
            view = np.roll(infrared, vertical_shift, (1, 0))
        for line in lines:
            bscan = eye.bscan(direction, line).image.copy()
            size = round(496 * scale)
            if scale != 1:
                bscan = cv2.resize(bscan, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            if bars:
                draw_bar(bscan, int(51 * scale), int(17 * scale))
            shown = cv2.resize(view, (size, size), interpolation=cv2.INTER_AREA) if scale != 1 else view
            shown = burn_in(shown, direction, rows * scale, line, f"{line + 1} / {geometry.lines}", bar=bars, **options)
            name = {"H": "Horizontal", "V": "Vertical"}[direction]
            save(folder / name / f"{line:04d}_{direction}.bmp", np.hstack([shown, bscan]))
    return folder


def save(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return path


def vol_bytes(bscans: np.ndarray, places: np.ndarray, slo: np.ndarray, **head) -> bytes:
    """A Heidelberg .vol of linear intensities [n, depth, width] at places [n, 4] (x0, y0, x1, y1 mm from the SLO's
    upper left corner). head: scale_x, scale_z, slo_mm, eye, pattern, patient, surfaces [k, n, width]."""
    n, depth, width = bscans.shape
    surfaces = head.get("surfaces", np.zeros((0, n, width), np.float32))
    size = 256 + 4 * width * len(surfaces)
    raw = bytearray(2048)
    raw[:11] = b"HSF-OCT-103"
    step = head.get("slo_mm", 0.0181)
    scales = (head.get("scale_x", 0.0117), 0.24, head.get("scale_z", 0.003872))
    struct.pack_into("<3i3d2i2d", raw, 12, width, n, depth, *scales, slo.shape[1], slo.shape[0], step, step)
    raw[84:86] = head.get("eye", "OD").encode()
    struct.pack_into("<2i", raw, 96, head.get("pattern", 3), size)
    patient = head.get("patient", "12345").encode()
    raw[140 : 140 + len(patient)] = patient
    struct.pack_into("<d", raw, 200, 42746.6)
    out = [bytes(raw), slo.tobytes()]
    for k in range(n):
        own = bytearray(256)
        own[:10] = b"HSF-BS-103"
        struct.pack_into("<i4d2if", own, 12, size, *places[k], len(surfaces), 256, head.get("quality", 28.0))
        out += [bytes(own), surfaces[:, k].astype("<f4").tobytes(), bscans[k].astype("<f4").tobytes()]
    return b"".join(out)


def topcon_bytes(bscans, kind="FDA", field=(6.0, 6.0, 3.5), eye=0, mode=2, contours=None, fundus=None) -> bytes:
    """A Topcon .fda (JPEG 2000) or .fds (uint16) of B-scans uint8 [n, depth, width]; field None leaves it out."""
    n, depth, width = bscans.shape

    def chunk(name: str, content: bytes) -> bytes:
        return bytes([len(name)]) + name.encode() + struct.pack("<I", len(content)) + content

    parts = [b"FOCT" + kind.encode() + struct.pack("<2I", 1, 1001)]
    parts.append(chunk("@HW_INFO_03", b"3DOCT-2000".ljust(100, b"\0")))
    patient = b"4711".ljust(32, b"\0") + b"Anna".ljust(32, b"\0") + b"Mueller".ljust(551, b"\0")
    parts.append(chunk("@PATIENT_INFO_02", patient))
    parts.append(chunk("@CAPTURE_INFO_02", bytes([eye, 2]) + b"\0" * 104 + struct.pack("<6H", 2019, 5, 4, 10, 0, 0)))
    if kind == "FDA":
        body = struct.pack("<B6I", mode, 0, 0, width, depth, n, 0)
        for image in bscans:
            stream = io.BytesIO()
            Image.fromarray(image).save(stream, "JPEG2000", no_jp2=True)
            body += struct.pack("<I", stream.tell()) + stream.getvalue()
        parts.append(chunk("@IMG_JPEG", body))
    else:
        values = (bscans.astype("<u2") * 200).tobytes()
        parts.append(chunk("@IMG_SCAN_03", struct.pack("<B4IBI", mode, width, depth, 16, n, 0, len(values)) + values))
    if field is not None:
        parts.append(chunk("@PARAM_SCAN_04", b"\0" * 12 + struct.pack("<5d", *field, 0, 0) + b"\0" * 9))
    for name, rows in (contours or {}).items():
        values = (depth - rows).round().astype("<u2")
        head = name.encode().ljust(20, b"\0") + struct.pack("<H3I", 0, width, len(values), values.nbytes)
        parts.append(chunk("@CONTOUR_INFO", head + values.tobytes()))
    if fundus is not None:
        picture, box = fundus
        stream = io.BytesIO()
        Image.fromarray(np.dstack([picture] * 3)).save(stream, "JPEG2000", no_jp2=True)
        head = struct.pack("<4I", picture.shape[1], picture.shape[0], 24, 1) + b"\x02\n\0\0"
        parts.append(chunk("@IMG_FUNDUS", head + struct.pack("<I", stream.tell()) + stream.getvalue()))
        parts.append(chunk("@REGIST_INFO", b"\0" * 9 + struct.pack("<4i", *box)))
    return b"".join([*parts, b"\0"])
