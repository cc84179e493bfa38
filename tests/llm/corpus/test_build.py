"""The build as a user runs it: what is written, what is reported, interruption, bad settings, memory."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from corpus_files import paragraph, pubmed_xml, scanned, two_columns

from clarion import cli
from clarion.data.cache import cache_dir
from clarion.errors import DataError, UsageError
from clarion.llm.corpus import spec as specs
from clarion.llm.corpus.build import build
from clarion.llm.corpus.pii.names_en import listed
from clarion.llm.corpus.pool import Pool, halved
from clarion.llm.corpus.sources import InputFile, Task

ROOT = Path(__file__).resolve().parents[3]


def write_conf(folder: Path, sources: list[dict], **settings) -> Path:
    conf = {"name": "eyes", "kind": "public", "workers": 0, "tokens": "words", "sources": sources, **settings}
    path = folder / "conf.yaml"
    path.write_text(yaml.safe_dump(conf, allow_unicode=True), encoding="utf-8")
    return path


def rows(out: Path) -> list[dict]:
    shards = sorted(out.glob("documents-*.jsonl"))
    return [json.loads(line) for path in shards for line in path.read_text("utf-8").splitlines()]


def output(out: Path) -> dict[str, bytes]:
    """Everything but the manifest, which holds times."""
    return {p.name: p.read_bytes() for p in sorted(out.iterdir()) if p.name not in ("manifest.json", ".lock")}


KOREAN = "환자 김민수는 2021년 3월 5일 내원하였다. 등록번호: 12345678. 우안 망막전막과 녹내장이 있다. " + " ".join(
    f"제{k}군의 각막과 황반, 유리체는 시력과 안저 검사에서 차이가 있었다." for k in range(12)
)


@pytest.fixture
def mixed(tmp_path):
    """A folder of every kind of trouble, and its conf."""
    folder = tmp_path / "in"
    folder.mkdir()
    two_columns(folder / "a_paper.pdf")
    two_columns(folder / "b_locked.pdf", encrypt=True)
    scanned(folder / "c_scan.pdf")
    (folder / "d_articles.xml").write_text(pubmed_xml(range(4)), encoding="utf-8")
    records = [
        {"id": "r1", "text": paragraph(50), "title": "Letter of Dr. Mary Johnson"},
        {"id": "r2", "text": paragraph(50).upper()},  # exact but for case
        {"id": "r3", "text": paragraph(50, 12)},
        {"id": "r4", "text": paragraph(50, 12).replace("Corneal", "Central corneal", 1)},  # near
        {"id": "r5", "text": "Too short."},
        {"id": "r6", "text": "\n\n".join([paragraph(60)] * 8)},  # repeats itself
        {"id": "r7", "text": " ".join(
            f"Die Netzhaut der Gruppe {k} wurde mit dem neuen Verfahren untersucht und vermessen." for k in range(9))},
        {"id": "r8", "text": " ".join(f"The kidney of rat {k} was weighed in week {k}." for k in range(20))},
        {"id": "r1", "text": paragraph(70)},  # an identifier again
    ]  # fmt: skip
    lines = [json.dumps(r, ensure_ascii=False) for r in records] + ["{not json"]
    (folder / "e_records.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / "f_korean.txt").write_text(KOREAN, encoding="utf-8")
    return tmp_path, [{"name": "mixed", "path": "in", "licence": "CC0"}]


def test_what_is_written_and_what_is_counted(mixed, tmp_path, capsys):
    folder, sources = mixed
    conf = write_conf(folder, sources, language={"keep": ["en", "ko"]}, filters={"min_words": 30},
                      ophthalmology={"threshold": 5}, pii={"dates": "all"})  # fmt: skip
    assert cli.main(["corpus", "build", str(conf), "--out", str(tmp_path / "out"), "--format", "json"]) == 0
    captured = capsys.readouterr()
    manifest = json.loads(captured.out)
    out = tmp_path / "out"
    assert "encrypted" in captured.err and "ocrmypdf" in captured.err and "documents/s" in captured.err
    found = {row["id"]: row for row in rows(out)}
    assert list(found) == [
        "mixed/a_paper.pdf", "mixed:PMID10000", "mixed:PMID10001", "mixed:PMID10002", "mixed:PMID10003",
        "mixed:r1", "mixed:r3", "mixed:r1-2", "mixed/f_korean.txt",
    ]  # fmt: skip
    assert manifest["documents"] == len(found) and manifest["documents_read"] == 15
    assert found["mixed:r1"]["title"] == "Letter of Dr. [NAME]" and found["mixed:r1"]["pii_removed"] == {"NAME": 1}
    korean = found["mixed/f_korean.txt"]
    assert "환자 [NAME]는 [DATE] 내원하였다. 등록번호: [ID]." in korean["text"] and korean["language"] == "ko"
    assert found["mixed:PMID10001"]["mesh"] == ["Retinal Diseases"] and found["mixed:PMID10001"]["licence"] == "CC0"
    card = json.loads((out / "card.json").read_text("utf-8"))
    reasons = ["exact_duplicate", "near_duplicate", "too_short", "duplicate_paragraphs", "language"]
    assert card["dropped"] == dict.fromkeys([*reasons, "not_ophthalmology"], 1)
    assert card["languages_dropped"] == {"de": 1}
    assert card["problems"] == {"encrypted": 1, "scanned": 1, "broken": 1}
    assert card["pii"]["NAME"] == 2 and card["documents_with_pii"] == 2
    assert card["tokens"] == sum(row["tokens"] for row in found.values()) == card["words"]
    (duplicate,) = [json.loads(x) for x in (out / "duplicates.jsonl").read_text("utf-8").splitlines() if '"near"' in x]
    assert duplicate["id"] == "mixed:r4" and list(found)[duplicate["row"]] == "mixed:r3" and duplicate["jaccard"] >= 0.8
    page = (out / "card.md").read_text("utf-8")
    assert "| encrypted | 1 |" in page and "김민수" not in page and not (out / "work").exists()


def test_a_private_corpus_names_no_file_and_no_record(mixed, tmp_path):
    folder, sources = mixed
    spec = specs.load(write_conf(folder, sources, kind="private", ophthalmology={"threshold": 5}))
    build(spec, tmp_path / "out")
    written = b"".join(output(tmp_path / "out").values()).decode()
    for name in ("a_paper", "PMID", "e_records", "mixed:r1"):
        assert name not in written
    ids = [row["id"] for row in rows(tmp_path / "out")]
    assert all(name.startswith("D-") for name in ids) and len(set(ids)) == len(ids)


def test_messages_about_a_private_corpus_name_no_file(mixed, tmp_path, caplog):
    folder, sources = mixed
    build(specs.load(write_conf(folder, sources, kind="private")), tmp_path / "out")
    said = caplog.text
    assert "encrypted" in said or "password" in said
    for name in ("b_locked", "c_scan", "e_records", "a_paper"):
        assert name not in said
    (code,) = set(re.findall(r"file 2 of 6 \((F-\w+)\)", said))
    tables = (cache_dir() / "pseudonyms").glob("corpus-files-*.csv")  # the way back, for the owner alone
    assert any(f"file,{code},b_locked.pdf" in table.read_text("utf-8") for table in tables)


def test_the_patient_of_a_record_is_kept_and_must_be_there(tmp_path):
    (tmp_path / "in").mkdir()
    records = [
        {"id": "a", "text": paragraph(3), "case": "P 77"},
        {"id": "b", "text": paragraph(40), "case": 78},
        {"id": "c", "text": paragraph(80)},
    ]
    (tmp_path / "in" / "a.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    conf = write_conf(tmp_path, [{"name": "s", "path": "in", "patient_field": "case"}])
    build(specs.load(conf), tmp_path / "public")
    assert [row["patient_id"] for row in rows(tmp_path / "public")] == ["P 77", "78"]
    assert json.loads((tmp_path / "public" / "card.json").read_text("utf-8"))["problems"] == {"no_patient": 1}
    build(specs.load(conf, ["kind=private"]), tmp_path / "private")
    hidden = [row["patient_id"] for row in rows(tmp_path / "private")]
    assert len(set(hidden)) == 2 and all(re.fullmatch(r"P-[0-9a-f]{16}", name) for name in hidden)


def test_complete_builds_are_skipped_and_others_refused(mixed, tmp_path):
    folder, sources = mixed
    conf, out = write_conf(folder, sources), tmp_path / "out"
    assert "skipped" not in build(specs.load(conf), out)
    before = output(out)
    assert build(specs.load(conf, ["workers=1"]), out)["skipped"] and output(out) == before
    with pytest.raises(UsageError, match="another corpus"):
        build(specs.load(conf, ["dedup.jaccard=0.7"]), out)


@pytest.mark.parametrize("moment", ["card.json", "duplicates.jsonl", "shard"])
def test_a_kill_while_finishing_loses_nothing(mixed, tmp_path, monkeypatch, moment):
    """The state says all tasks are done, files are already under their names, the manifest is not there yet."""
    folder, sources = mixed
    conf, out = write_conf(folder, sources), tmp_path / "out"
    build(specs.load(conf), tmp_path / "reference")

    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    target = {"card.json": "card.markdown", "duplicates.jsonl": "card.digest_file", "shard": "build.Deduplicator.close"}
    with monkeypatch.context() as patch:
        patch.setattr(f"clarion.llm.corpus.{target[moment]}", killed)
        with pytest.raises(Killed):
            build(specs.load(conf), out)
    assert (out / "documents-00000.jsonl").exists() and not (out / "manifest.json").exists()
    build(specs.load(conf), out, resume=True)
    assert output(out) == output(tmp_path / "reference")


def many(folder: Path, files: int, records: int = 300) -> list[dict]:
    (folder / "in").mkdir()
    for k in range(files):
        lines = [json.dumps({"text": paragraph(k * records + r if r % 5 else 3 * k)}) for r in range(records)]
        (folder / "in" / f"{k:03d}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return [{"name": "many", "path": "in", "licence": "CC0"}]


def start(conf: Path, out: Path, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "clarion.cli", "corpus", "build", str(conf), "--out", str(out), *more]
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, start_new_session=True, **piped)


def wait_for_tasks(process: subprocess.Popen, out: Path, tasks: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if json.loads((out / "work" / "state.json").read_text("utf-8"))["tally"]["tasks"] >= tasks:
                return
        except FileNotFoundError:
            pass
        time.sleep(0.005)
    raise AssertionError(f"ended or too slow: {process.communicate(timeout=10)}")


def worker_of(process: subprocess.Popen) -> int:
    """Process id of a worker: a child that multiprocessing spawned."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rsplit(")", 1)[1].split()[1])
            if parent == process.pid and b"spawn_main" in (path.parent / "cmdline").read_bytes():
                return int(path.parent.name)
        except (OSError, IndexError):
            continue
    raise AssertionError("no worker process")


@pytest.mark.skipif(sys.platform != "linux", reason="looks for worker processes in /proc")
def test_a_killed_build_goes_on_to_the_same_bytes(tmp_path):
    conf = write_conf(tmp_path, many(tmp_path, files=12), workers=2, output={"shard_mb": 0.2, "commit_s": 0})
    reference = tmp_path / "whole"
    build(specs.load(conf, ["workers=0"]), reference)
    assert len(list(reference.glob("documents-*.jsonl"))) > 3
    out = tmp_path / "out"
    process = start(conf, out)
    wait_for_tasks(process, out, 3)
    os.kill(worker_of(process), signal.SIGKILL)  # a worker: its tasks are repeated
    done = json.loads((out / "work" / "state.json").read_text("utf-8"))["tally"]["tasks"]
    wait_for_tasks(process, out, done + 6)
    os.killpg(process.pid, signal.SIGKILL)  # all of it
    process.communicate(timeout=30)
    assert (out / "work" / "state.json").is_file() and not (out / "manifest.json").exists()
    with pytest.raises(UsageError, match="add --resume"):
        build(specs.load(conf), out)
    with pytest.raises(UsageError, match="changed since"):
        build(specs.load(conf, ["filters.min_words=3"]), out, resume=True)
    build(specs.load(conf, ["workers=0"]), out, resume=True)
    assert output(out) == output(reference)


def test_a_file_that_hangs_its_reader_is_found(tmp_path):
    """A pipe that nobody writes to: reading it never ends."""
    os.mkfifo(tmp_path / "hangs.txt")
    (tmp_path / "good.txt").write_text(paragraph(1), encoding="utf-8")
    conf = write_conf(tmp_path, [{"name": "s", "path": "."}], workers=1, extract={"max_seconds": 12})
    spec = specs.load(conf)
    files = [InputFile(0, tmp_path / name, name, "txt") for name in ("good.txt", "hangs.txt")]
    with Pool(spec, None, "secret") as pool:
        (result,) = pool([Task(files)])
    assert [f.row["id"] for f in result.finished] == ["s/good.txt"]
    assert [(p.reason, p.name) for p in result.problems] == [("crashed", "hangs.txt")]


def test_tasks_are_halved_to_the_single_record():
    file = InputFile(0, Path("x"), "x", "jsonl")
    parts = halved(Task([file], lines=[b"a", b"b", b"c"], first=10))
    assert [(p.lines, p.first) for p in parts] == [([b"a"], 10), ([b"b", b"c"], 11)]
    assert halved(parts[0]) == [] and halved(Task([file])) == []
    assert [len(p.files) for p in halved(Task([file] * 5))] == [2, 3]


def test_nothing_left_is_an_error(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("Short.", encoding="utf-8")
    two_columns(tmp_path / "in" / "b.pdf", encrypt=True)
    conf = write_conf(tmp_path, [{"name": "s", "path": "in"}])
    assert cli.main(["corpus", "build", str(conf), "--out", str(tmp_path / "out")]) == 1
    assert "empty corpus: 2 files gave no document (1 encrypted, 1 too_short)" in capsys.readouterr().err
    with pytest.raises(DataError, match="hold no files"):
        build(specs.load(conf, ["sources.0.formats=[html]"]), tmp_path / "other")


def test_all_mistakes_at_once_with_the_nearest_names(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    conf = write_conf(tmp_path, [{"name": "a", "path": "inn", "formats": ["pdff"]}, {"name": "a", "path": "in"}],
                      dedupe={}, pii={"mode": "placeholders", "types": ["NAMES"]}, filters={"min_wrods": 3},
                      dedup={"jaccard": 3})  # fmt: skip
    assert cli.main(["corpus", "build", str(conf), "tokens=", "nonsense"]) == 2
    said = capsys.readouterr().err
    for text in (
        "sources[0].path=inn: no such file or folder. Did you mean `in`?", "sources[0].formats=['pdff']", "`pdf`?",
        "sources[1].name=a: two sources", "dedupe: no such setting. Did you mean `dedup`?", "mean `placeholder`?",
        "filters.min_wrods: no such setting. Did you mean `min_words`", "dedup.jaccard=3: write a number from 0.3 to 1",
        "Did you mean `NAME`?", "nonsense: give KEY=VALUE",
    ):  # fmt: skip
        assert text in said, text
    assert cli.main(["corpus", "build", "opthalmology"]) == 2
    assert "Did you mean `ophthalmology`?" in capsys.readouterr().err
    assert cli.main(["corpus", "build", str(conf), "summaries.generator=smolm2_135m"]) == 2


def test_the_configs_that_come_with_clarion_are_valid(tmp_path):
    (tmp_path / "articles").mkdir()
    for name in ("ophthalmology", "demo"):
        overrides = [f"sources.0.path={tmp_path / 'articles'}"] if name == "ophthalmology" else []
        spec = specs.load(specs.find(name), overrides)
        given = yaml.safe_load(specs.find(name).read_text("utf-8"))
        assert spec["name"] == name
        if name == "ophthalmology":  # it documents every setting
            assert {k: set(v) if isinstance(v, dict) else None for k, v in given.items()} == {
                k: set(v) if isinstance(v, dict) else None for k, v in specs.SCHEMA.items()
            }
            assert set(given["sources"][0]) == set(specs.SOURCE)


GROWTH = """
import sys
from pathlib import Path
from clarion.llm.corpus import spec as specs
from clarion.llm.corpus.build import build
manifest = build(specs.load(Path(sys.argv[1])), Path(sys.argv[2]))
peaks = manifest["peak_mb"]
assert peaks["together"] >= peaks["main"] + manifest["workers"] * peaks["largest_worker"] - 1
print(manifest["documents"], peaks["together"])
"""


def peak(folder: Path, megabytes: float) -> tuple[int, float]:
    """(documents, MB of main process and workers together) of a build of `megabytes` of English letters, with
    everything on that is on by default: language, personal information, both de-duplications, a worker process."""
    import random

    folder.mkdir()
    (folder / "in").mkdir()
    rng, size = random.Random(0), 0
    vocabulary = sorted(w for w in listed("words_en") if w.isalpha() and w.isascii())
    with open(folder / "in" / "a.jsonl", "w", encoding="utf-8") as file:
        while size < megabytes * 1e6:
            words = " ".join(rng.choices(vocabulary, k=250))
            letter = f"The patient, Mary Johnson, was seen on 3 May 2019 in the clinic. MRN: 1234567. It is {words}."
            size += file.write(json.dumps({"text": letter}) + "\n")
    conf = write_conf(folder, [{"name": "s", "path": "in"}], kind="private", workers=1)
    command = [sys.executable, "-c", GROWTH, str(conf), str(folder / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=3600)
    documents, mb = done.stdout.split()
    return int(documents), float(mb)


def bounded(small: float, large: float, folder: Path) -> None:
    """Memory grows with the index of documents, not with their text: a gigabyte would stay below 2 GB."""
    (few, low), (more, high) = peak(folder / "small", small), peak(folder / "large", large)
    assert more > 2 * few
    per_megabyte = max(high - low, 0) / (large - small)
    assert high + per_megabyte * (1000 - large) < 2000, (low, high)


def test_memory_is_bounded(tmp_path):
    bounded(2.0, 14.0, tmp_path)  # nearer sizes measure the noise of a few MB


@pytest.mark.long
def test_memory_is_bounded_on_100_megabytes(tmp_path):
    bounded(10.0, 100.0, tmp_path)
