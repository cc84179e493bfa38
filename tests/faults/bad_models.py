"""Bad input: tables of cohorts, checkpoints, configurations and recorded runs."""


import json
import os
from pathlib import Path

import pandas as pd
import torch
from bad_cases import Place, case, cohort_table
from hostile import hostile_pickle, torch_file

from clarion import config, launch, run
from clarion.cancer.datasets import OmicsData
from clarion.preflight import preflight

# ---- tables of cohorts ---------------------------------------------------------------------------------------


def cohort(root: Path, **options):
    data = OmicsData("cancer_omics", root=str(root), source="folder", kind="public", **options)
    data.prepare()
    return data.check()


@case("tcga_x.parquet cannot be read")
def truncated_parquet(place):
    root = place.folder()
    pd.DataFrame({"case_id": ["a"], "survival_months": [1.0], "censorship": [0]}).to_parquet(root / "tcga_x.parquet")
    (root / "tcga_x.parquet").write_bytes((root / "tcga_x.parquet").read_bytes()[:-200])
    return cohort(root)


@case("cohort.csv is not a table")
def pickle_posing_as_csv(place):
    return cohort(place.folder(cohort_csv=hostile_pickle(place.marker)))


@case("(?s)rows of a patient disagree on survival.*P000")
def patient_listed_twice(place):
    twice = ["P000", "P000", *(f"P{k:03d}" for k in range(2, 40))]
    return cohort(place.folder(cohort_csv=cohort_table(patient_id=twice)))


@case("survival time of zero or less.*P000: -5 months")
def negative_survival_times(place):
    return cohort(place.folder(cohort_csv=cohort_table(time_months=[-5.0] * 40)))


@case("cohort.csv is a link out of data.root")
def cohort_that_links_elsewhere(place):
    os.symlink(place.outside / "cohort.csv", place.folder() / "cohort.csv")
    return cohort(place.root)


# ---- checkpoints ---------------------------------------------------------------------------------------------


@case("pickle that may run any code")
def pickle_posing_as_yolo_weights(place):
    from clarion.trainers import ultralytics_checkpoint, ultralytics_setup

    ultralytics_setup.prepare()
    (place.folder() / "yolo11n.pt").write_bytes(torch_file(place.marker))
    model = torch.nn.Linear(2, 2)
    return ultralytics_checkpoint.load_start_weights(model, str(place.root / "yolo11n.pt"))


def detector(place: Place, weights: bytes = b"", **structure):
    from clarion.trainers import ultralytics_checkpoint, ultralytics_setup

    ultralytics_setup.prepare()
    record = {"format": "clarion-detector/1", "structure": {"nc": 1, **structure}, "class_names": ["a"], "nc": 1}
    place.folder(network_json=json.dumps(record), weights_safetensors=weights)
    return ultralytics_checkpoint.load(place.root)


@case("not a plain torch.nn activation")
def detector_whose_activation_is_code(place):
    return detector(place, activation=f"__import__('os').mkdir('{place.marker}')")


@case("not of the form")
def detector_with_unknown_structure(place):
    return detector(place, surprise=1)


@case("network.json is missing")
def detector_without_its_description(place):
    from clarion.trainers import ultralytics_checkpoint

    return ultralytics_checkpoint.load(place.folder(weights_safetensors=b""))


@case(lambda state: state is None)
def pickle_posing_as_a_state_to_resume_from(place):
    from clarion.trainers import lightning_states, ultralytics_state

    root = place.folder()
    (root / "epoch-000002.ckpt").write_bytes(torch_file(place.marker))
    (root / "epoch-000001.safetensors").write_bytes(hostile_pickle(place.marker))
    return lightning_states.read_newest(root) or ultralytics_state.read_newest(root)


def classifier(place: Place, weights: bytes, **description):
    from clarion.trainers.lightning import LightningTrainer

    record = {"format": "clarion-lightning/1", "module": "os.system", "model": {}, "facts": {}, **description}
    place.folder(model_json=json.dumps(record), model_safetensors=weights)
    return LightningTrainer({"network": "resnet10t"}, 1, 4, "cpu").load(place.root)


@case("cannot be read as a checkpoint")
def pickle_posing_as_safetensors(place):
    return classifier(place, torch_file(place.marker))


@case("holds a os.system, the model config names")
def checkpoint_that_names_its_own_class(place):
    from safetensors.torch import save

    return classifier(place, save({"a": torch.zeros(2)}))


@case("only .safetensors is read")
def pickled_start_weights_of_a_classifier(place):
    from clarion.trainers.lightning_classification import ClassificationModule

    (place.folder() / "w.pth").write_bytes(torch_file(place.marker))
    ClassificationModule.load_start_weights(None, place.root / "w.pth")


def estimator(place: Place, content: bytes):
    from clarion.trainers.estimator_checkpoint import read

    place.folder(model_json=json.dumps({"format": "clarion-estimator/1", "scikit_learn": "0"}), model_skops=content)
    return read(place.root)


@case("cannot be read as a checkpoint")
def pickle_posing_as_skops(place):
    return estimator(place, hostile_pickle(place.marker))


@case("types that are not trusted")
def skops_that_holds_a_foreign_type(place):
    import zipfile

    node = {"__class__": "system", "__module__": "os", "__loader__": "TypeNode", "__id__": 1, "protocol": 2}
    node |= {"_skops_version": "0.13"}
    with zipfile.ZipFile(place.folder() / "x.zip", "w") as archive:
        archive.writestr("schema.json", json.dumps(node))
    return estimator(place, (place.root / "x.zip").read_bytes())


@case("no checkpoint of the sft trainer: it has no clarion.json")
def language_model_without_its_record(place):
    from clarion.trainers.sft import SftTrainer

    place.folder(adapter_model_bin=torch_file(place.marker))
    return SftTrainer({"name": "x"}, 1, 1).load(place.root)


# ---- configurations and recorded runs ------------------------------------------------------------------------


def composed(*overrides: str):
    """What train.py does with a command line before and while it builds its objects."""
    cfg = config.compose_config(preflight(list(overrides)))
    return run.build(cfg.trainer, model=cfg.model, seed=0).check()


@case("not an admitted class")
def target_in_trainer_args(place):
    return composed(
        "model=swin_nano", f"+trainer.args.callbacks=[{{_target_: os.mkdir, path: {place.marker}}}]"
    )


@case("not an admitted class")
def target_in_an_estimator(place):
    path = f"+model.estimator.path={place.marker}"
    return composed("model=logreg_image_stats", "model.estimator._target_=os.mkdir", path)


@case("not an admitted class")
def target_of_the_trainer_itself(place):
    return composed("model=yolo11n", "trainer._target_=os.system")


@case("not an admitted class|not part of|admitted")
def module_that_is_no_module(place):
    return composed("model=swin_nano", "model.module=os.system")


@case("not an admitted class")
def target_in_a_tracker(place):
    from omegaconf import OmegaConf

    from clarion.tracking import trackers

    return trackers(OmegaConf.create({"_target_": "os.mkdir", "path": str(place.marker)}), place.folder(), "public")


def recorded(place: Place, overrides: list[str], checkpoint: str = "checkpoints/best"):
    """eval.py on a run directory from someone else."""
    place.folder(
        manifest_json=json.dumps({"status": "complete", "checkpoint": checkpoint, "run": "x"}),
        metrics_json="{}",
        overrides_yaml=json.dumps(overrides),
        checkpoints__best__model_json="{}",
    )
    cfg, *_ = launch.evaluation_setup([f"run={place.root}"])
    return run.build(cfg.trainer, model=cfg.model, seed=0).check()


@case("not an admitted class")
def run_directory_whose_overrides_name_a_target(place):
    target = f"+trainer.args.callbacks=[{{_target_: os.mkdir, path: {place.marker}}}]"
    return recorded(place, ["model=swin_nano", target])


@case("points outside the run directory")
def run_directory_whose_checkpoint_lies_elsewhere(place):
    return recorded(place, ["model=swin_nano"], checkpoint="../outside")


@case("is damaged")
def run_directory_with_half_a_manifest(place):
    from clarion.record import RunRecord

    return RunRecord.open(place.folder(manifest_json='{"status": "runn'), resume=True)


@case("no checkpoint below it|points outside|no such run|has no checkpoint")
def start_from_a_run_that_points_outside(place):
    root = place.folder(manifest_json=json.dumps({"checkpoint": "../outside"}))
    return run.start_checkpoint("weights", str(root))
