"""Bad input: scans of `clarion quantify`, questions and answers."""


import gzip
import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
from bad_cases import SECRET, Place, case
from hostile import bmp, encoded, grey, hostile_pickle
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, OphthalmicTomographyImageStorage, generate_uid

from clarion.llm.instruct import InstructData
from clarion.oct.datasets import HeyexExport
from clarion.oct.readers import read_volume

# ---- HEYEX exports and the scans of `clarion quantify` ---------------------------------------------------------


def heyex(place: Place, **files: bytes):
    data = HeyexExport("heyex", root=str(place.folder(**files)))
    data.prepare()
    return data.check()


@case("0001_H.bmp is damaged or cut off")
def heyex_truncated_bmp(place):
    return heyex(place, Horizontal__0001_H_bmp=encoded(grey(496), "BMP")[:3000])


@case("0001_H.bmp.*900000000 pixels.* exceeds limit")
def heyex_decompression_bomb(place):
    return heyex(place, Horizontal__0001_H_bmp=bmp(30_000, 30_000))


@case("0001_H.bmp is not a readable picture")
def heyex_of_0_x_0(place):
    return heyex(place, Horizontal__0001_H_bmp=bmp(0, 0))


@case("No picture")
def heyex_empty(place):
    return heyex(place)


def opt(rows: int, columns: int, frames: int, pixels: bytes) -> Dataset:
    scan = Dataset()
    scan.file_meta = FileMetaDataset()
    scan.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    scan.file_meta.MediaStorageSOPClassUID = scan.SOPClassUID = OphthalmicTomographyImageStorage
    scan.file_meta.MediaStorageSOPInstanceUID = scan.SOPInstanceUID = generate_uid()
    scan.Modality, scan.PatientName = "OPT", SECRET
    scan.Rows, scan.Columns, scan.NumberOfFrames, scan.SamplesPerPixel = rows, columns, frames, 1
    scan.PhotometricInterpretation, scan.BitsAllocated, scan.BitsStored, scan.HighBit = "MONOCHROME2", 8, 8, 7
    scan.PixelRepresentation, scan.PixelData = 0, pixels
    return scan


def dicom(place: Place, cut: int | None = None, rows: int = 64, columns: int = 64, frames: int = 2):
    path = place.folder() / "scan.dcm"
    opt(rows, columns, frames, bytes(64 * 64 * 2)).save_as(path, enforce_file_format=True)
    if cut:
        path.write_bytes(path.read_bytes()[:cut])
    return read_volume(path)


@case("impossible: export it again")
def truncated_dicom(place):
    return dicom(place, cut=400)


@case("claims 100 B-scans of 30000 x 30000 pixels, which is impossible")
def dicom_of_30000_x_30000(place):
    return dicom(place, rows=30_000, columns=30_000, frames=100)


@case("scan.vol is no Heidelberg .vol file, or cut off in its header")
def truncated_vol(place):
    return read_volume(place.folder(scan_vol=b"HSF-OCT-103" + bytes(300)) / "scan.vol")


@case("scan.e2e is damaged or of an unknown version")
def e2e_of_noise(place):
    noise = np.random.default_rng(0).bytes(5000)
    return read_volume(place.folder(scan_e2e=b"CMDb" + noise) / "scan.e2e")


@case("^[ -~]*cut off in its part[ -~]*export it again")
def fda_of_noise(place):
    return read_volume(place.folder(scan_fda=b"FOCTFDA" + np.random.default_rng(0).bytes(5000)) / "scan.fda")


@case("scan.xml is no plain HEYEX XML .*entities of its own")
def xml_that_reads_a_file(place):
    secret = (place.outside / "secret.txt").as_uri()
    text = f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "{secret}">]><HEDX><BODY><a>&e;</a></BODY></HEDX>'
    return read_volume(place.folder(scan_xml=text) / "scan.xml")


@case("scan.xml is no plain HEYEX XML .*entities of its own")
def xml_that_laughs_a_billion_times(place):
    entities = '<!ENTITY a0 "lol">' + "".join(f'<!ENTITY a{k} "{f"&a{k - 1};" * 10}">' for k in range(1, 10))
    text = f'<?xml version="1.0"?><!DOCTYPE x [{entities}]><HEDX><BODY><a>&a9;</a></BODY></HEDX>'
    return read_volume(place.folder(scan_xml=text) / "scan.xml")


@case("more than any scan")
def nifti_that_unpacks_to_gigabytes(place):
    header = nib.Nifti1Header()
    header.set_data_shape((3000, 3000, 3000))
    header.set_data_dtype(np.uint8)
    return read_volume(place.folder(scan_nii_gz=b"") and _gzip(place.root / "scan.nii.gz", header.binaryblock))


def _gzip(path: Path, head: bytes) -> Path:
    with gzip.open(path, "wb") as file:
        file.write(head + bytes(10_000_000))
    return path


@case("links to files outside|out of")
def scan_that_links_elsewhere(place):
    os.symlink(place.outside / "scan.vol", place.folder() / "scan.vol")
    return read_volume(place.root)


@case("known format")
def pickle_posing_as_scan(place):
    return read_volume(place.folder(scan_bin=hostile_pickle(place.marker)) / "scan.bin")


# ---- questions and answers -----------------------------------------------------------------------------------


def questions(place: Place, content: str | bytes):
    good = "".join(json.dumps({"question": f"What is {k}?", "answer": f"It is {k}."}) + "\n" for k in range(12))
    data = InstructData("instruct_jsonl", root=str(place.folder(train_jsonl=content, test_jsonl=good)), kind="private")
    data.prepare()
    return data.check()


@case("train.jsonl line 1 is not a JSON object in UTF-8")
def pickle_posing_as_jsonl(place):
    return questions(place, hostile_pickle(place.marker))


@case("train.jsonl line 2 is not a JSON object")
def jsonl_cut_short(place):
    return questions(place, '{"question": "a", "answer": "b"}\n{"question": "c", "ans')


@case("train.jsonl line 1 is not a JSON object")
def jsonl_nested_100000_deep(place):
    return questions(place, "[" * 100_000)


@case("line 1 is longer than")
def jsonl_with_a_line_of_5_megabytes(place):
    return questions(place, json.dumps({"question": "a" * 5_000_000, "answer": "b"}))


@case("train.jsonl line 1 lacks answer")
def jsonl_without_answer(place):
    return questions(place, '{"question": "a"}')


@case("question is a list; write it as text")
def jsonl_with_a_list_for_a_question(place):
    return questions(place, '{"question": ["a"], "answer": "b"}')


@case("train.jsonl is a link out of data.root")
def jsonl_that_links_elsewhere(place):
    root = place.folder(test_jsonl='{"question": "a", "answer": "b"}')
    os.symlink(place.outside / "train.jsonl", root / "train.jsonl")
    data = InstructData("instruct_jsonl", root=str(root), kind="private")
    data.prepare()
    return data.check()
