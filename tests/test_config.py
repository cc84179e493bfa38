"""Composition that helps: every mistake named, nearest names offered, nothing heavy imported."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from omegaconf import OmegaConf

from clarion import config, preflight
from clarion.errors import UsageError


def refused(*argv: str) -> str:
    with pytest.raises(UsageError) as caught:
        preflight.preflight(list(argv))
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_both_mistakes_of_one_command_are_named():
    text = refused("modle=yolo11x", "data=erm_fulll")
    assert "`model`" in text and "`erm_full`" in text
    assert "2 problems" in text


def test_a_misspelt_option_behind_a_misspelt_group_is_named_too():
    text = refused("modle=yolo11xx")
    assert "`model`" in text and "`yolo11x`" in text


@pytest.mark.parametrize("argument, expected", [
    ("trainer.epoch=3", "`epochs`"), ("sede=1", "`seed`"), ("model.nam=x", "`name`"),
    ("trainre.epochs=3", "`trainer.epochs`"),
    ("tracker=wnadb", "`wandb`"), ("evaluator=detecton", "`detection`"),
    ("experiment=erm_detektion", "`erm_detection`"),
    ("model=_yolo", "a base that others build on"), ("trainer.device=gpu", "choose auto, cpu"),
    ("trainer.precision=fp16", "choose one of auto, 32, 16, bf16"), ("trainer.epochs=0", "1 or more"),
    ("trainer.epochs=ten", "whole number"), ("seed=-1", "0 or more"), ("seed=1.5", "whole number"),
    ("resume=maybe", "true or false"),
    ("data.root=/no/such/folder", "no such folder"), ("epochs", "not of the form key=value"),
    ("model=yolo11n,yolov8s", "add -m"), ("runs_dir=pyproject.toml", "give a folder"),
    ("init_from.weights=nowhere", "not a complete run"), ("init_from.wieghts=x", "`weights`"), ("model={", "model="),
    ("data.fold=-1", "0 or more"), ("trainer._target_=os.system", "not an admitted class"),
])  # fmt: skip
def test_refusals(argument, expected):
    assert expected in refused(argument)


def test_all_mistakes_are_collected():
    text = refused("sede=1", "trainer.epoch=3", "model=yolo11xx", "tracker=wnadb")
    for name in ("`seed`", "`epochs`", "`yolo11x`", "`wandb`"):
        assert name in text


def test_mismatches_are_refused_by_name():
    assert "model=swin_nano is for classification, data=erm_demo is for detection" in refused(
        "model=swin_nano", "data=erm_demo"
    )
    assert "evaluator=classification is for" in refused("model=yolo11n", "evaluator=classification")
    text = refused("model=yolo11n", "trainer=lightning")
    assert "model=yolo11n runs on trainer=ultralytics" in text
    assert "data=bscan_stages is for classification" in refused("model=yolo11n", "data=bscan_stages")


def test_a_mismatch_in_one_job_of_a_sweep_is_refused_before_any_job():
    assert "swin_nano" in refused("-m", "model=yolo11n,swin_nano", "data=erm_demo")


def test_a_wrong_root_is_answered_with_the_layout(tmp_path):
    (tmp_path / "pictures").mkdir()
    text = refused("data=yolo_folder", f"data.root={tmp_path}")
    assert "not a yolo_folder data set" in text and "images" in text and "labels" in text
    assert "data.root" in refused("data=yolo_folder")


def test_library_arguments_need_no_plus():
    assert preflight.preflight(["trainer.args.mosaic=0.5"]) == ["++trainer.args.mosaic=0.5"]
    assert preflight.preflight(["+trainer.args.mosaic=0.5"]) == ["++trainer.args.mosaic=0.5"]


def test_a_correct_sweep_passes():
    argv = ["-m", "model=yolo11n,swin_nano,llama_tiny", "trainer.epochs=1"]
    assert preflight.preflight(argv) == argv
    assert preflight.preflight(["experiment=erm_detection"]) == ["experiment=erm_detection"]


@pytest.mark.parametrize("model", config.choices("model"))
def test_every_model_composes_with_its_own_defaults(model):
    cfg = config.compose_config([f"model={model}"])
    assert preflight.check_config(cfg) == []
    assert cfg.model.name == model


@pytest.mark.parametrize("data", config.choices("data"))
def test_every_data_set_states_its_task(data):
    known = {config.group_task(group, name) for group in ("model", "evaluator") for name in config.choices(group)}
    assert config.group_task("data", data) in known


@pytest.mark.parametrize("group", config.GROUPS)
def test_every_config_says_what_it_is(group):
    for name in config.choices(group):
        assert len(config.describe(group, name)) > 10, f"conf/{group}/{name}.yaml opens without a sentence"


def test_the_command_line_wins_over_the_models_defaults():
    cfg = config.compose_config(["model=yolo11x", "data=erm_full", "trainer.epochs=7"])
    assert (cfg.data.name, cfg.trainer.epochs, cfg.trainer.name) == ("erm_full", 7, "ultralytics")


def test_several_evaluators_stand_side_by_side():
    cfg = config.compose_config(["evaluator=[detection,agreement]"])
    assert set(cfg.evaluators) == {"detection", "agreement"}


def test_run_id_is_the_configuration_and_nothing_else():
    def name(*overrides):
        return config.run_id(_root_=config.compose_config(list(overrides)))

    base = name("model=yolo11n")
    assert base == name() == name("resume=true", "runs_dir=elsewhere", "tracker=wandb")
    assert base.startswith("yolo11n-erm_demo-s0-")
    different = {base, name("seed=1"), name("trainer.epochs=3"), name("++trainer.args.mosaic=0"), name("data=erm_full")}
    assert len(different) == 5


def test_expand_is_the_product():
    assert len(preflight.expand(["model=a,b", "seed=range(0,3)", "x=1"])) == 6
    assert preflight.expand([], {"model": "a,b"}) == [["model=a"], ["model=b"]]
    assert preflight.expand(["model=c"], {"model": "a,b"}) == [["model=c"]]


def test_targets_nested_anywhere_are_checked(monkeypatch):
    node = {"a": [{"_target_": "subprocess.run"}], "b": {"_target_": "clarion.x"}}
    assert len(config.target_problems(node)) == 1
    monkeypatch.setenv("CLARION_TARGETS", "subprocess.")
    assert config.target_problems(node) == []


def seconds(*argv: str) -> tuple[float, subprocess.CompletedProcess]:
    began = time.perf_counter()
    done = subprocess.run([sys.executable, *argv], capture_output=True, text=True)
    return time.perf_counter() - began, done


@pytest.mark.parametrize("argv, code", [
    (["modle=yolo11x", "data=erm_fulll"], 2), (["model=swin_nano", "data=erm_demo"], 2), (["--help"], 0),
    (["--cfg", "job"], 0), (["model=yolo11x", "data=erm_full", "data.root=/no/such/folder"], 2),
])  # fmt: skip
def test_answers_come_without_torch(argv, code):
    """In a child that reports what it imported. Speed is measured by benchmarks/startup.py."""
    program = (
        "import sys, runpy\nsys.argv = ['train.py'] + sys.argv[1:]\n"
        "try: runpy.run_path('train.py', run_name='__main__')\n"
        "finally: print([m for m in ('torch', 'numpy', 'pandas', 'ultralytics') if m in sys.modules], file=sys.stderr)"
    )
    _, done = seconds("-c", program, *argv)
    assert done.returncode == code, done.stderr
    assert done.stderr.strip().endswith("[]"), done.stderr[-500:]
    if code == 0:
        assert done.stdout.strip()
    else:
        assert not done.stdout and "Traceback" not in done.stderr


def test_cfg_job_prints_the_composed_config():
    _, done = seconds("train.py", "model=yolov8s", "--cfg", "job")
    assert OmegaConf.create(done.stdout).model.name == "yolov8s"
