"""Bad input: each case ends in one sentence that names the problem and a fix, and holds nothing of the patient."""

import gzip
import os
import shutil
import tracemalloc

import cv2
import nibabel as nib
import numpy as np
import pytest

from clarion.errors import ClarionError, DataError, UsageError
from clarion.oct.phantom.localiser import draw_localiser
from clarion.oct.readers import read_volume

from .dicom_files import as_bytes, opt, photograph, write, write_deflated
from .exports import save, screen_export, topcon_bytes, vol_bytes

CASES = {}


def case(match, error=DataError):
    def register(build):
        CASES[build.__name__] = (build, match, error)
        return build

    return register


@pytest.fixture(scope="module")
def parts(eye):
    """B-scans, a localiser and places to build files from."""
    bscans = np.stack([eye.bscan("H", k).image for k in (11, 13)])
    places = np.array([(0.0, y, 8.9856, y) for y in (4.0, 4.5)])
    return bscans, draw_localiser(eye), places


# Each case: (folder, eye, parts, a ready export) -> arguments of read_volume.


@case("does not exist: give HEYEX")
def nothing_there(folder, eye, parts, export):
    return {"path": folder / "nowhere"}


@case("is empty: give HEYEX")
def empty_folder(folder, eye, parts, export):
    return {"path": folder}


@case("of no known format")
def unknown_format(folder, eye, parts, export):
    (folder / "notes.txt").write_text("Anna Mueller 4711")
    return {"path": folder / "notes.txt"}


@case("is empty: export it again")
def empty_file(folder, eye, parts, export):
    (folder / "a.vol").write_bytes(b"")
    return {"path": folder / "a.vol"}


@case("holds 2 eyes, in the order of their folders' names: eye 1: 1 horizontal; eye 2: 1 horizontal")
def two_eyes(folder, eye, parts, export):
    for k, name in enumerate(("Mueller Anna OD", "Mueller Anna OS")):
        screen_export(folder / name, eye, lines=(k,), directions="H")
    return {"path": folder}


@case("no 200 um bar was found.*--spacing")
def unknown_scale(folder, eye, parts, export):
    return {"path": screen_export(folder, eye, lines=(3,), directions="H", bars=False)}


@case("is damaged or cut off")
def truncated_picture(folder, eye, parts, export):
    shutil.copytree(export, folder / "x")
    file = next((folder / "x").rglob("0012_V.bmp"))
    file.write_bytes(file.read_bytes()[:300_000])
    return {"path": folder / "x"}


@case("cannot be found in their infrared pictures")
def no_lines_burnt_in(folder, eye, parts, export):
    bscans, infrared, _ = parts
    for k in range(2):
        save(folder / f"{k:04d}_H.png", np.hstack([cv2.GaussianBlur(infrared, (0, 0), 6), bscans[k]]))
    return {"path": folder}


@case("Pictures named as vertical scans show horizontal lines")
def directions_swapped(folder, eye, parts, export):
    file = screen_export(folder / "a", eye, lines=(3,), directions="H") / "Horizontal" / "0003_H.bmp"
    (folder / "b").mkdir()
    shutil.copy(file, folder / "b" / "0003_V.bmp")
    return {"path": folder / "b"}


@case("differ in size or layout")
def mixed_resolutions(folder, eye, parts, export):
    screen_export(folder, eye, lines=(3,), directions="H")
    return {"path": screen_export(folder, eye, lines=(4,), directions="H", scale=1.5)}


@case("says OD and --laterality says OS")
def laterality_mismatch(folder, eye, parts, export):
    (folder / "a.vol").write_bytes(vol_bytes(parts[0] / 255, parts[2], parts[1], eye="OD"))
    return {"path": folder / "a.vol", "laterality": "OS"}


@case("circle scan around the optic disc")
def circle_scan(folder, eye, parts, export):
    (folder / "a.vol").write_bytes(vol_bytes(parts[0][:1] / 255, parts[2][:1], parts[1], pattern=2))
    return {"path": folder / "a.vol"}


@case("star .radial. scan")
def star_scan(folder, eye, parts, export):
    (folder / "a.vol").write_bytes(vol_bytes(parts[0][:1] / 255, parts[2][:1], parts[1], pattern=5))
    return {"path": folder / "a.vol"}


@case("only 1 of its 2 B-scans are whole")
def truncated_vol(folder, eye, parts, export):
    raw = vol_bytes(parts[0] / 255, parts[2], parts[1], patient="4711")
    (folder / "a.vol").write_bytes(raw[:-100_000])
    return {"path": folder / "a.vol"}


@case("which is impossible")
def hostile_vol(folder, eye, parts, export):
    raw = bytearray(vol_bytes(parts[0][:1] / 255, parts[2][:1], parts[1]))
    raw[12:24] = b"\xff\xff\xff\x7f" * 3
    (folder / "a.vol").write_bytes(raw)
    return {"path": folder / "a.vol"}


@case("no OCT volume that can be read|is damaged or of an unknown version")
def damaged_e2e(folder, eye, parts, export):
    (folder / "a.E2E").write_bytes(b"CMDb" + os.urandom(3000))
    return {"path": folder / "a.E2E"}


@case("is cut off in its part @IMG_JPEG")
def truncated_fda(folder, eye, parts, export):
    (folder / "a.fda").write_bytes(topcon_bytes(parts[0])[:30_000])
    return {"path": folder / "a.fda"}


@case("This is a radial scan")
def radial_fda(folder, eye, parts, export):
    (folder / "a.fda").write_bytes(topcon_bytes(parts[0], mode=3))
    return {"path": folder / "a.fda"}


@case("is no whole XML")
def truncated_xml(folder, eye, parts, export):
    (folder / "a.xml").write_text("<HEDX><BODY><Patient><LastName>Mueller</LastName>")
    return {"path": folder}


@case("no plain HEYEX XML")
def xml_with_entities(folder, eye, parts, export):
    (folder / "a.xml").write_text('<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><HEDX>&b;</HEDX>')
    return {"path": folder}


@case("holds scans of 2 patients")
def two_patients(folder, eye, parts, export):
    for patient in ("4711", "4712"):
        write(folder / f"{patient}.dcm", opt(parts[0][:1], places=[(9, 0, 9, 400)], patient=patient))
    return {"path": folder}


@case("mixes the right and the left eye")
def dicom_of_both_eyes(folder, eye, parts, export):
    for letter in "RL":
        write(folder / f"{letter}.dcm", opt(parts[0][:1], places=[(9, 0, 9, 400)], eye=letter))
    return {"path": folder}


@case("run along curves")
def dicom_circle(folder, eye, parts, export):
    return {"path": write(folder / "a.dcm", opt(parts[0][:1], places=[(9, 5, 9, 5)], orientation="NONLINEAR"))}


@case("no Pixel Spacing, so its scale is unknown: give --spacing")
def dicom_without_scale(folder, eye, parts, export):
    return {"path": write(folder / "a.dcm", opt(parts[0][:1], spacing=None, places=[(9, 0, 9, 400)]))}


@case("holds no Ophthalmic Tomography")
def dicom_photograph(folder, eye, parts, export):
    return {"path": write(folder / "a.dcm", photograph(parts[1], 0.018))}


@case("cannot be decoded|cut off")
def truncated_dicom(folder, eye, parts, export):
    (folder / "a.dcm").write_bytes(as_bytes(opt(parts[0], places=[(9, 0, 9, 400), (20, 0, 20, 400)]))[:300_000])
    return {"path": folder / "a.dcm"}


@case("is a deflated DICOM file, which is not read")
def deflated_dicom(folder, eye, parts, export):
    return {"path": write_deflated(folder / "a.dcm", opt(parts[0][:1], places=[(9, 0, 9, 400)]))}


@case("pixels above 1 GiB")
def dicom_of_too_many_bytes(folder, eye, parts, export):
    data = opt(parts[0][:1].astype(np.uint16), places=[(9, 0, 9, 400)])
    data.NumberOfFrames = 1 + 2**30 // (2 * data.Rows * data.Columns)
    return {"path": write(folder / "a.dcm", data)}


@case("no readable NIfTI")
def damaged_nifti(folder, eye, parts, export):
    (folder / "a.nii.gz").write_bytes(b"\x1f\x8b" + b"Mueller" * 50)
    return {"path": folder / "a.nii.gz"}


@case("array of 4 dimensions")
def nifti_of_many_volumes(folder, eye, parts, export):
    nib.save(nib.Nifti1Image(np.zeros((40, 40, 3, 2), np.uint8), np.eye(4)), folder / "a.nii")
    return {"path": folder / "a.nii"}


@case("voxels of more than 1 GiB")
def nifti_of_too_many_bytes(folder, eye, parts, export):
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape((900, 1000, 600))  # 540 million voxels
    (folder / "a.nii.gz").write_bytes(gzip.compress(header.binaryblock + bytes(4)))
    return {"path": folder / "a.nii.gz"}


@case("begin behind 16 MiB of header")
def nifti_with_a_header_that_inflates(folder, eye, parts, export):
    header = nib.Nifti1Header()
    header.set_data_shape((40, 40, 3))
    header["vox_offset"] = 2**31
    (folder / "a.nii.gz").write_bytes(gzip.compress(header.binaryblock + bytes(4)))
    return {"path": folder / "a.nii.gz"}


@case("holds no grey levels")
def nifti_of_colours(folder, eye, parts, export):
    colours = np.zeros((40, 40, 3), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(colours, np.eye(4)), folder / "a.nii")
    return {"path": folder / "a.nii", "spacing": "3.87,11.7,240"}


@case("carry no scale.*--spacing AXIAL,LATERAL")
def pictures_without_scale(folder, eye, parts, export):
    for k in range(2):
        save(folder / f"b{k}.png", parts[0][k])
    return {"path": folder}


@case("need the distance between them")
def pictures_without_distance(folder, eye, parts, export):
    for k in range(2):
        save(folder / f"b{k}.png", parts[0][k])
    return {"path": folder, "spacing": "3.87,11.7"}


@case("differ in size")
def pictures_of_two_sizes(folder, eye, parts, export):
    save(folder / "a.png", parts[0][0])
    save(folder / "b.png", parts[0][1][:, :500])
    return {"path": folder, "spacing": "3.87,11.7,240"}


@case("links to files outside it")
def link_to_elsewhere(folder, eye, parts, export):
    save(folder / "out" / "secret.png", parts[0][0])
    (folder / "in").mkdir()
    (folder / "in" / "b.png").symlink_to(folder / "out" / "secret.png")
    return {"path": folder / "in", "spacing": "3.87,11.7"}


@case("holds 2 scans")
def two_files(folder, eye, parts, export):
    for name in ("Anna.vol", "Mueller.vol"):
        (folder / name).write_bytes(vol_bytes(parts[0] / 255, parts[2], parts[1]))
    return {"path": folder}


@case("is not AXIAL,LATERAL", UsageError)
def wrong_spacing(folder, eye, parts, export):
    return {"path": export, "spacing": "3.87"}


@case("is not AXIAL,LATERAL", UsageError)
def impossible_spacing(folder, eye, parts, export):
    return {"path": export, "spacing": "0.00387,0.0117"}


@case("is not OD .right. or OS", UsageError)
def wrong_laterality(folder, eye, parts, export):
    return {"path": export, "laterality": "right"}


@pytest.mark.parametrize("name", CASES)
def test_one_sentence(name, tmp_path, eye, parts, export, caplog):
    build, match, kind = CASES[name]
    folder = tmp_path / "Mueller Anna 4711"
    folder.mkdir()
    arguments = build(folder, eye, parts, export)
    with pytest.raises(kind, match=match) as caught:
        read_volume(arguments.pop("path"), **arguments)
    message = str(caught.value)
    assert isinstance(caught.value, ClarionError) and "\n" not in message and message.endswith((".", "[:GROWTH]]]."))
    assert not any(word in message + caplog.text for word in ("Mueller", "Anna", "4711", str(tmp_path)))


def test_refused_files_are_not_inflated(tmp_path, parts):
    """64 MiB of zeros in some kilobytes: what they would take must be known before it is taken."""
    data = opt(parts[0][:1], places=[(9, 0, 9, 400)])
    data.PixelData = bytes(2**26)
    file = write_deflated(tmp_path / "a.dcm", data)
    assert file.stat().st_size < 2**17
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="deflated"):
            read_volume(file)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()
