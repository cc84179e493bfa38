"""Trackers: what is written is read back, W&B's offline file included."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas
import pytest
from omegaconf import OmegaConf
from PIL import Image

from clarion.errors import UsageError
from clarion.tracking import LocalTracker, Trackers, read_jsonl, trackers, without_paths
from clarion.tracking_wandb import api_key_configured, choose_mode

CONF = Path(__file__).parents[1] / "conf" / "tracker"


def chosen(name: str, **changes):
    return OmegaConf.merge(OmegaConf.load(CONF / f"{name}.yaml"), changes)


@pytest.fixture(autouse=True)
def signed_out(monkeypatch, tmp_path):
    """No W&B settings of the machine reach these tests."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("NETRC", raising=False)


# --- local ---------------------------------------------------------------------------------------------


def test_local_lines_are_on_disk_at_once(tmp_path):
    tracker = LocalTracker(tmp_path)
    tracker.log({"train/loss": 1.5}, step=0)
    tracker.log({"val/map50": 0.25}, step=0)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [{k: v for k, v in row.items() if k != "time"} for row in rows] == [
        {"step": 0, "train/loss": 1.5},
        {"step": 0, "val/map50": 0.25},
    ]
    assert all(row["time"] > 1.6e9 for row in rows)


def test_local_resume_has_no_doubled_steps(tmp_path):
    first = LocalTracker(tmp_path)
    for step in range(5):
        first.log({"train/loss": float(step)}, step)
        first.log({"val/map50": float(step)}, step)
    (tmp_path / "metrics.jsonl").open("a").write('{"step": 5, "train/l')  # torn by the kill

    second = LocalTracker(tmp_path)
    for step in range(3, 7):
        second.log({"train/loss": 10.0 + step}, step)
        second.log({"val/map50": 10.0 + step}, step)
    rows = read_jsonl(tmp_path / "metrics.jsonl")
    for name in ("train/loss", "val/map50"):
        assert [(row["step"], row[name]) for row in rows if name in row] == (
            [(step, float(step)) for step in range(3)] + [(step, 10.0 + step) for step in range(3, 7)]
        )


@pytest.mark.parametrize("torn", [b'{"step": 2, "los', b'{"step": 2, "a\xec\x98', b"{", b'{"step": 2}\x00\x00'])
def test_a_torn_last_line_is_cut_off_and_said_once(tmp_path, caplog, torn):
    path = tmp_path / "metrics.jsonl"
    first = LocalTracker(tmp_path)
    for step in range(2):
        first.log({"loss": float(step)}, step)
    first.finish()
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    assert [row["step"] for row in read_jsonl(path)] == [0, 1]  # a page of the killed run
    assert path.read_bytes() == whole + torn  # reading mends nothing: the run may still be writing
    assert "1 unreadable line(s) left out" in caplog.text

    caplog.clear()
    second = LocalTracker(tmp_path)
    assert path.read_bytes() == whole
    assert [r.message for r in caplog.records] == [
        "metrics.jsonl: its last line was torn by the end of the earlier process and is dropped."
    ]
    for step in (2, 3):
        second.log({"loss": float(step)}, step)
    assert [(row["step"], row["loss"]) for row in map(json.loads, path.read_text().splitlines())] == [
        (step, float(step)) for step in range(4)
    ]


def test_a_run_that_only_has_a_torn_line_starts_clean(tmp_path):
    """Nothing earlier can be read, so that lines are appended: without the cut the first would be lost."""
    (tmp_path / "metrics.jsonl").write_text('{"st')
    LocalTracker(tmp_path).log({"loss": 1.0}, 0)
    (row,) = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert row["loss"] == 1.0


def test_a_whole_last_line_without_its_break_is_kept(tmp_path, caplog):
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "time": 1.0, "loss": 2.0}')
    tracker = LocalTracker(tmp_path)
    tracker.log({"loss": 1.0}, 1)
    assert [row["loss"] for row in read_jsonl(tmp_path / "metrics.jsonl")] == [2.0, 1.0]
    assert "torn" not in caplog.text


def test_local_resume_keeps_other_metrics_of_the_seam(tmp_path):
    first = LocalTracker(tmp_path)
    first.log({"train/loss": 1.0, "lr": 0.1}, 4)
    second = LocalTracker(tmp_path)
    second.log({"train/loss": 2.0}, 4)
    first_line, second_line = read_jsonl(tmp_path / "metrics.jsonl")
    assert first_line["lr"] == 0.1 and "train/loss" not in first_line
    assert second_line["train/loss"] == 2.0


def test_local_restart_from_zero(tmp_path):
    for _ in range(2):
        tracker = LocalTracker(tmp_path)
        for step in range(3):
            tracker.log({"loss": step}, step)
        tracker.finish()
        tracker.finish()
    assert [row["step"] for row in read_jsonl(tmp_path / "metrics.jsonl")] == [0, 1, 2]


def test_not_finite_is_null_and_said_once(tmp_path, caplog):
    tracker = LocalTracker(tmp_path)
    with caplog.at_level(logging.WARNING):
        tracker.log({"a": float("nan"), "b": float("inf"), "c": 1}, 0)
        tracker.log({"a": float("nan")}, 1)
    text = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in text and "Infinity" not in text
    assert read_jsonl(tmp_path / "metrics.jsonl")[0]["a"] is None
    assert sum("Not a finite number" in record.message for record in caplog.records) == 1


def test_local_media_names_stay_inside(tmp_path):
    tracker = LocalTracker(tmp_path / "run")
    tracker.image("../../evil/한글", Image.new("L", (4, 3)))
    tracker.curve("pr", [0, 1], [1, float("nan")])
    tracker.confusion(["a", "b"], [[1, 2], [3, 4]])
    tracker.table("cells", pandas.DataFrame({"x": [1]}))
    assert {path.name for path in (tmp_path / "run" / "media").iterdir()} == {
        "evil_한글.png",
        "pr.json",
        "confusion.json",
        "cells.csv",
    }
    assert not (tmp_path / "evil").exists()
    assert json.loads((tmp_path / "run/media/pr.json").read_text())["y"] == [1, None]


def test_local_disk_error_is_not_hidden(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(OSError):
        trackers(chosen("local"), tmp_path, "phantom").log({"a": 1}, 0)


# --- composition ---------------------------------------------------------------------------------------


class Failing:
    """A tracker whose disk is full."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        def call(*args):
            self.calls.append(name)
            raise OSError("No space left on device")

        return call


def test_a_failing_tracker_is_dropped_with_one_warning(tmp_path, caplog):
    failing = Failing()
    both = Trackers(LocalTracker(tmp_path), failing)
    with caplog.at_level(logging.WARNING):
        for step in range(3):
            both.log({"loss": 1.0}, step)
        both.finish()
    assert failing.calls == ["log", "finish"]
    assert [record.message for record in caplog.records if "No space left" in record.message] == [
        "Failing failed in log (No space left on device); it is off from here on."
    ]
    assert len(read_jsonl(tmp_path / "metrics.jsonl")) == 3


def test_a_tracker_that_cannot_start_leaves_the_local_one(tmp_path, caplog):
    (tmp_path / "wandb").write_text("a file where the folder should be")
    tracker = trackers(chosen("wandb"), tmp_path, "phantom")
    assert isinstance(tracker, LocalTracker)
    assert "local files only" in caplog.text


def test_wrong_mode_is_refused(tmp_path):
    with pytest.raises(UsageError, match="offlin.*online, offline, disabled"):
        trackers(chosen("wandb", mode="offlin"), tmp_path, "phantom")


def test_a_tracker_of_unknown_origin_is_not_built(tmp_path):
    hostile = OmegaConf.create({"_target_": "os.system", "command": f"touch {tmp_path}/owned"})
    with pytest.raises(UsageError, match="os.system"):
        trackers(hostile, tmp_path / "run", "phantom")
    assert not (tmp_path / "owned").exists()


# --- tensorboard ---------------------------------------------------------------------------------------


def test_tensorboard_is_read_back(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = trackers(chosen("tensorboard"), tmp_path, "phantom")
    tracker.config({"seed": 0})
    for step in range(3):
        tracker.log({"train/loss": 3.0 - step, "train/bad": float("nan")}, step)
    tracker.image("overlay", Image.new("RGB", (8, 6), "red"))
    tracker.curve("pr", [0, 0.5, 1], [1, 0.8, 0.2], "recall", "precision")
    tracker.confusion(["no", "yes"], [[5, 1], [2, 7]])
    tracker.table("results", pandas.DataFrame({"metric": ["map50"], "value": [0.5]}))
    tracker.summary({"map50": 0.5, "name": "text is left out"})
    tracker.finish()
    tracker.finish()

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(0, 3.0), (1, 2.0), (2, 1.0)]
    assert set(events.Tags()["scalars"]) == {"train/loss", "summary/map50"}
    assert set(events.Tags()["images"]) == {"overlay", "pr"}
    assert {"config/text_summary", "results/text_summary"} <= set(events.Tags()["tensors"])


def test_tensorboard_resume_purges_later_steps(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = trackers(chosen("tensorboard"), tmp_path, "phantom")
    for step in range(5):
        first.log({"loss": 1.0}, step)
    first.finish()
    second = trackers(chosen("tensorboard"), tmp_path, "phantom")
    for step in range(3, 6):
        second.log({"loss": 2.0}, step)
    second.finish()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(s, 1.0 if s < 3 else 2.0) for s in range(6)]


# --- W&B -----------------------------------------------------------------------------------------------


def wandb_records(path: Path):
    """The records of a .wandb file: a 7-byte header, then LevelDB's log format (32 KiB blocks of
    checksum u32, length u16, type u8: 1 whole, 2 first, 3 middle, 4 last)."""
    from wandb.proto.wandb_internal_pb2 import Record

    data = path.read_bytes()
    assert data[:4] == b":W&B"
    at, parts = 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:  # a block's tail too short for a header is padding
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        if kind == 0:
            at += left
            continue
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def finished(path: Path, seconds: float = 20) -> Path:
    """W&B's service writes its file out shortly after `finish` has returned: wait for the last record."""
    deadline = time.monotonic() + seconds
    while not any(record.WhichOneof("record_type") == "exit" for record in wandb_records(path)):
        assert time.monotonic() < deadline, f"{path} was never finished"
        time.sleep(0.05)
    return path


def items(updates):
    return {(i.key or "/".join(i.nested_key)): json.loads(i.value_json) for i in updates}


def read_wandb(directory: Path):
    """-> config, history rows, summary, the run record of the one W&B run below `directory`."""
    (path,) = (directory / "wandb").glob("offline-run-*/*.wandb")
    config, history, summary, run = {}, [], {}, None
    for record in wandb_records(finished(path)):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
            config |= items(run.config.update)
        elif kind == "config":
            config |= items(record.config.update)
        elif kind == "history":
            history.append(items(record.history.item))
        elif kind == "summary":
            summary |= items(record.summary.update)
    return config, history, summary, run


def use_everything(tracker):
    tracker.config({"seed": 3, "data": {"root": "/home/hong_gildong/scans"}, "model": {"name": "yolo11n"}})
    for epoch in range(3):
        tracker.log({"train/loss": 3.0 - epoch}, epoch)
        tracker.log({"val/map50": epoch / 10, "val/nan": float("nan")}, epoch)
    tracker.curve("pr", [0, 0.5, 1], [1, 0.8, 0.2], "recall", "precision")
    tracker.confusion(["erm", "background"], [[5, 1], [2, 0]])
    tracker.image("overlays/best", Image.new("RGB", (8, 6), "red"), "IoU 0.9")
    tracker.table("results", pandas.DataFrame({"metric": ["map50"], "value": [0.5], "low": [float("nan")]}))
    tracker.table("worst", pandas.DataFrame({"sample_id": ["s1"], "answer": ["a private sentence"]}))
    tracker.summary({"map50": 0.5})
    tracker.finish()
    tracker.finish()


def test_wandb_offline_is_read_back(tmp_path, capfd):
    changes = dict(group="erm_detection", job_type="train", tags=["small", "cpu"])
    use_everything(trackers(chosen("wandb", **changes), tmp_path / "run", "phantom", run_name="yolo11n-s3"))

    config, history, summary, run = read_wandb(tmp_path / "run")
    assert (run.project, run.run_group, run.job_type, list(run.tags), run.display_name) == (
        "clarion",
        "erm_detection",
        "train",
        ["small", "cpu"],
        "yolo11n-s3",
    )
    assert config["seed"] == 3 and config["model"] == {"name": "yolo11n"} and config["data_kind"] == "phantom"
    assert [(row["step"], row["train/loss"]) for row in history if "train/loss" in row] == [
        (0, 3.0),
        (1, 2.0),
        (2, 1.0),
    ]
    assert [row["val/map50"] for row in history if "val/map50" in row] == [0.0, 0.1, 0.2]
    assert not any("val/nan" in row for row in history)
    assert summary["map50"] == 0.5
    logged = {name: value for row in history for name, value in row.items()}
    assert logged["overlays/best/_type"] == "image-file" and logged["overlays/best/caption"] == "IoU 0.9"
    assert logged["pr_table/ncols"] == 2 and logged["confusion_table/nrows"] == 4
    assert logged["results/_type"] == logged["worst/_type"] == "table-file"
    # everything lies below the run directory, and the console was left alone
    (media,) = (tmp_path / "run/wandb").glob("offline-run-*/files/media")
    assert len(list(media.rglob("*.png"))) == 1 and len(list(media.rglob("*.table.json"))) == 4
    assert list((tmp_path / "home").iterdir()) == []
    assert not [name for name in os.environ if name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR")]
    assert capfd.readouterr().out == ""


def test_wandb_sends_no_real_images_rows_or_identifiers(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        use_everything(trackers(chosen("wandb"), tmp_path / "run", "private"))
    assert "Kept from W&B, as the data is no phantom: overlays/best, worst" in caplog.text
    files = [path for path in (tmp_path / "run" / "wandb").rglob("*") if path.is_file()]
    assert not [path for path in files if path.suffix == ".png"]
    (run_file,) = [path for path in files if path.suffix == ".wandb"]
    content = finished(run_file).read_bytes() + b"".join(path.read_bytes() for path in files if "media" in path.parts)
    host = os.uname().nodename.encode()
    secrets = [b"hong_gildong", b"a private sentence", *([host] if len(host) > 5 else [])]  # "vm" is in any binary file
    for secret in secrets:
        assert secret not in content
    config, history, *_ = read_wandb(tmp_path / "run")
    assert config["data"] == {}  # of private data: no root, no words of the user
    assert any("results/_type" in row for row in history)


def test_wandb_sends_real_images_when_told(tmp_path):
    use_everything(trackers(chosen("wandb", log_images=True), tmp_path / "run", "private"))
    assert len(list((tmp_path / "run" / "wandb").rglob("*.png"))) == 1


def test_wandb_resumed_run_keeps_its_id(tmp_path):
    ids = set()
    for step in (0, 1):
        tracker = trackers(chosen("wandb"), tmp_path, "phantom")
        tracker.log({"loss": 1.0}, step)
        tracker.finish("failed")
        ids |= {path.stem for path in tmp_path.glob("wandb/offline-run-*/*.wandb")}
    assert len(ids) == 1


@pytest.mark.skipif(not shutil.which("strace"), reason="strace shows the connections; it is not installed")
def test_wandb_offline_opens_no_connection(tmp_path):
    code = (
        "from omegaconf import OmegaConf; from clarion.tracking import trackers; import sys;"
        "t = trackers(OmegaConf.load(sys.argv[1]), sys.argv[2], 'phantom');"
        "t.log({'a': 1}, 0); t.summary({'b': 2}); t.finish()"
    )
    trace = tmp_path / "trace.txt"
    strace = ["strace", "-f", "-qq", "-e", "trace=connect,sendto", "-o", str(trace)]
    done = subprocess.run(
        [*strace, sys.executable, "-c", code, str(CONF / "wandb.yaml"), str(tmp_path / "run")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    if "ptrace" in done.stderr or not trace.exists():
        pytest.skip("strace may not trace here")
    assert done.returncode == 0, done.stderr
    assert "Cannot" not in done.stderr
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    assert [line for line in trace.read_text().splitlines() if "AF_INET" in line] == []


def test_wandb_mode_follows_the_documented_order(tmp_path):
    home = {"HOME": str(tmp_path)}
    assert choose_mode(None, home) == "offline"
    assert choose_mode("disabled", home) == "disabled"
    assert choose_mode("online", home | {"WANDB_MODE": "offline"}) == "offline"
    assert choose_mode(None, home | {"WANDB_API_KEY": "x" * 40}) == "online"
    with pytest.raises(UsageError, match="wandb login"):
        choose_mode("online", home)
    (tmp_path / ".netrc").write_text(f"machine api.wandb.ai\n  login user\n  password {'x' * 40}\n")
    assert choose_mode(None, home) == "online"
    assert not api_key_configured(home | {"WANDB_BASE_URL": "https://wandb.lab.local"})
    (tmp_path / ".netrc").write_text("machine \0 nonsense")
    assert choose_mode(None, home) == "offline"


def test_paths_are_masked_and_numbers_stay():
    import numpy

    assert without_paths(
        {"a": ["~/x", "C:\\x", Path("/y"), "rel/z"], "n": numpy.float32(0.5), "i": numpy.int64(2)}
    ) == {
        "a": ["<local path>", "<local path>", "<local path>", "rel/z"],
        "n": 0.5,
        "i": 2,
    }


# --- W&B: groups, sweeps, artifacts --------------------------------------------------------------------


def artifacts_of(directory: Path) -> dict[str, dict]:
    """type -> the artifact record of the one W&B run below `directory`."""
    (path,) = (directory / "wandb").glob("offline-run-*/*.wandb")
    found = {}
    for entry in wandb_records(finished(path)):
        artifact = entry.artifact
        if entry.WhichOneof("record_type") == "request" and entry.request.HasField("log_artifact"):
            artifact = entry.request.log_artifact.artifact
        if artifact.name:
            found[artifact.type] = artifact
    return found


def test_tables_with_pictures_reach_every_tracker(tmp_path):
    pictures = [Image.new("RGB", (8, 6), colour) for colour in ("red", "blue")]
    cases = pandas.DataFrame({"sample_id": ["a", "b"], "overlay": pictures})
    for name in ("local", "tensorboard", "wandb"):
        tracker = trackers(chosen(name), tmp_path / name, "phantom")
        tracker.table("cases", cases)
        tracker.finish()
        kept = pandas.read_csv(tmp_path / name / "media" / "cases.csv")
        assert kept["overlay"].tolist() == ["cases_000.png", "cases_001.png"]
        assert Image.open(tmp_path / name / "media" / "cases_001.png").getpixel((0, 0)) == (0, 0, 255)
    _, history, _, _ = read_wandb(tmp_path / "wandb")
    (row,) = (row for row in history if "cases/_type" in row)
    assert row["cases/_type"] == "table-file" and row["cases/nrows"] == 2
    table = artifacts_of(tmp_path / "wandb")["run_table"]  # the table as W&B shows it: pictures beside their rows
    files = {item.path: Path(item.local_path) for item in table.manifest.contents}
    rows = json.loads(files["cases.table.json"].read_text())["data"]
    assert [row[0] for row in rows] == ["a", "b"] and all(row[1]["_type"] == "image-file" for row in rows)
    assert Image.open(files[rows[1][1]["path"]]).getpixel((0, 0)) == (0, 0, 255)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard" / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["images"]) == {"cases/000", "cases/001"}


@pytest.mark.parametrize("send", [False, True])
def test_wandb_artifacts_hold_hashes_and_weights_only_when_told(tmp_path, send):
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"weights " * 100)
    tracker = trackers(chosen("wandb", log_checkpoint=send), tmp_path / "run", "phantom")
    facts = {"checkpoint_hash": "ab" * 32, "files": {"model.safetensors": {"bytes": 800, "sha256": "cd" * 32}}}
    tracker.artifact("yolo11n checkpoint", "model", facts, {"model.safetensors": weights})
    tracker.artifact("erm_demo-data", "dataset", {"fingerprint": "9f" * 16, "evaluated_files": ["01" * 16]}, {})
    tracker.finish()
    found = artifacts_of(tmp_path / "run")
    assert found["model"].name == "yolo11n_checkpoint" and found["dataset"].name == "erm_demo-data"
    assert json.loads(found["dataset"].metadata) == {"fingerprint": "9f" * 16}
    inside = {item.path for item in found["model"].manifest.contents}
    assert inside == ({"facts.json", "model.safetensors"} if send else {"facts.json"})
    staged = b"".join(p.read_bytes() for p in (tmp_path / "run" / "wandb").rglob("*") if p.is_file())
    assert (b"weights weights" in staged) == send
    assert b"cd" * 32 in staged and b"01" * 16 in staged  # the hashes are in the artifacts' files


def test_wandb_private_data_gives_no_words_of_the_user(tmp_path):
    tracker = trackers(chosen("wandb"), tmp_path / "run", "private")
    data = {"name": "yolo_folder", "kind": "private", "root": "(private)", "patient_regex": "HONG_(\\d+)", "fold": 0}
    tracker.config({"seed": 1, "data": data})
    tracker.table("subgroups", pandas.DataFrame({"column": ["site"], "group": ["Dr Hong"], "value": [0.5]}))
    tracker.finish()
    config, history, _, _ = read_wandb(tmp_path / "run")
    assert config["data"] == {"name": "yolo_folder", "kind": "private", "fold": 0}
    assert not any("subgroups/_type" in row for row in history)
    content = b"".join(p.read_bytes() for p in (tmp_path / "run" / "wandb").rglob("*") if p.is_file())
    assert b"Hong" not in content and b"HONG_" not in content


def test_a_run_of_a_wandb_sweep_keeps_the_agents_id(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SWEEP_ID", "s1w2e3e4")
    monkeypatch.setenv("WANDB_RUN_ID", "agent-run-7")
    tracker = trackers(chosen("wandb"), tmp_path, "phantom")
    tracker.summary({"val/map50": 0.5})
    tracker.finish()
    _, _, summary, run = read_wandb(tmp_path)
    assert (run.run_id, run.sweep_id) == ("agent-run-7", "s1w2e3e4") and summary["val/map50"] == 0.5


def test_the_documented_wandb_sweep_starts_runs(monkeypatch):
    """The agent's own expansion of the yaml's command passes the pre-flight of train.py."""
    import yaml
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    from clarion.preflight import preflight

    sweep = yaml.safe_load((CONF.parents[1] / "docs" / "wandb_sweep.yaml").read_text())
    drawn = {name: {"value": p["value"] if "value" in p else (p.get("values") or [p["min"]])[0]}
             for name, p in sweep["parameters"].items()}  # fmt: skip
    parts = create_sweep_command_args({"args": drawn}) | {"env": ["/usr/bin/env"]}
    words = [w for c in create_sweep_command(sweep["command"]) for w in (parts.get(c[2:-1]) or [c])]
    assert words[:3] == ["/usr/bin/env", "python", "train.py"]
    checked = preflight(words[3:])
    assert "tracker=wandb" in checked and "model=yolo11n" in checked and "trainer.args.lr0=0.0001" in " ".join(checked)


def test_group_and_job_type_come_from_the_experiment(tmp_path, monkeypatch):
    from hydra import compose, initialize_config_dir
    from hydra.core.hydra_config import HydraConfig

    from clarion import config
    from clarion.jobs import BOARD
    from clarion.tracking import belonging

    assert belonging(tmp_path) == {"job_type": "train"}
    config.register_resolvers()
    monkeypatch.setenv(BOARD, str(tmp_path / "0123456789ab"))
    with initialize_config_dir(str(CONF.parent), version_base="1.3"):
        try:
            for overrides, group in (
                (["experiment=demo"], "demo"),
                (["experiment=demo", "hydra.mode=MULTIRUN"], "demo-0123456789ab"),
                (["hydra.mode=MULTIRUN"], "sweep-0123456789ab"),
                ([], None),
            ):
                HydraConfig.instance().set_config(compose("config", overrides, return_hydra_config=True))
                assert belonging(tmp_path).get("group") == group
            (tmp_path / "manifest.json").write_text('{"kind": "evaluation"}')
            assert belonging(tmp_path)["job_type"] == "eval"
        finally:
            HydraConfig.instance().cfg = None
