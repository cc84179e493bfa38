"""Models that are never fitted here: recorded, reloaded, refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf
from safetensors.torch import load_file

from clarion.config import compose_config
from clarion.errors import UsageError
from clarion.trainers.base import Trainer
from clarion.trainers.pretrained import PretrainedTrainer

sys.path.insert(0, str(Path(__file__).parent))
from language_models import multiple_choice, save_tiny_llama  # noqa: E402


def trainer(*overrides: str) -> PretrainedTrainer:
    cfg = compose_config(list(overrides))
    model = OmegaConf.to_container(cfg.model, resolve=True)
    return PretrainedTrainer(model, device="cpu")


def fit(one: PretrainedTrainer, folder: Path) -> Path:
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir(parents=True)
    return one.fit(SimpleNamespace(checkpoints=checkpoints))


def test_a_folder_is_recorded_and_reloads(folder, tmp_path):
    one = trainer("model=hf_causal", f"model.path={folder}", "model.generation.max_new_tokens=3")
    tensors = load_file(folder / "model.safetensors").values()
    assert isinstance(one, Trainer) and one.parameters() == sum(t.numel() for t in tensors)
    best = fit(one, tmp_path)
    record = json.loads((best / "clarion.json").read_text())
    assert len(record["files"]["model.safetensors"]) == 64 and not list(best.glob("*.safetensors"))
    samples = [multiple_choice(k) for k in range(3)]
    values = [p.values for p in one.load(best)(samples)]
    bare = PretrainedTrainer({"engine": "transformers"}, device="cpu")  # eval.py on another day: the record tells
    assert [p.values for p in bare.load(best)(samples)] == values
    assert all(len(v["option_logprobs"]) == 3 and isinstance(v["text"], str) for v in values)


def test_other_weights_under_the_same_path_are_refused(tmp_path):
    place = save_tiny_llama(tmp_path / "model")
    one = trainer("model=hf_causal", f"model.path={place}")
    best = fit(one, tmp_path)
    save_tiny_llama(place, seed=1)
    with pytest.raises(UsageError, match="is not what was recorded: model.safetensors differ"):
        one.load(best)


def test_an_adapter_answers_with_its_base(folder, tmp_path):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(folder)
    torch.manual_seed(0)
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")
    samples = [multiple_choice(k) for k in range(2)]
    scores = {}
    for name, extra in (("plain", []), ("adapter", [f"model.base={folder}"])):
        path = folder if name == "plain" else tmp_path / "adapter"
        one = trainer("model=hf_causal", f"model.path={path}", "model.generation.max_new_tokens=0", *extra)
        scores[name] = [p.values["option_logprobs"] for p in one.load(fit(one, tmp_path / name))(samples)]
    assert abs(scores["plain"][0][0] - scores["adapter"][0][0]) > 0.1
    one = trainer("model=hf_causal", f"model.path={tmp_path / 'adapter'}")  # adapter_config.json names the base itself
    assert [p.values["option_logprobs"] for p in one.load(fit(one, tmp_path / "own"))(samples)] == scores["adapter"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model=hf_causal"], "say where it lies with model.path=/folder"),
        (["model=gguf"], "say where it lies with model.path=FILE.gguf"),
        (["model=hf_causal", "model.path=/no/such"], "/no/such does not exist"),
        (["model=llama_tiny", "trainer=pretrained"], "drawn at random before it is trained"),
        (["model=vllm", "model.path=/x"], "needs the package vllm, which is not installed"),
        (["model=openai_api"], "sends nothing before you say where"),
        (["model=openai_api", "model.base_url=localhost:80"], "is no address"),
        (["model=openai_api", "model.base_url=http://me:secret@host/v1"], "must hold no key or password"),
        (["model=openai_api", "model.base_url=http://localhost:1/v1"], "model.served is missing"),
    ],
)
def test_what_cannot_work_is_refused_in_one_sentence(overrides, said):
    with pytest.raises(UsageError, match=said):
        trainer(*overrides).check()


def test_any_language_model_takes_this_trainer():
    from clarion.preflight import check_config

    assert check_config(compose_config(["model=smollm2_135m", "trainer=pretrained"])) == []
    cfg = compose_config(["model=yolo11n", "trainer=pretrained"])
    assert "model=yolo11n runs on trainer=ultralytics" in check_config(cfg)[0]


def test_a_recorded_run_of_an_untouched_model(command, folder, tmp_path):
    done = command(
        "train.py", "model=hf_causal", f"model.path={folder}", "trainer.device=cpu", f"runs_dir={tmp_path}/runs",
        "data.train=5", "data.val=5", "data.test=10", "model.generation.max_new_tokens=4",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    (run,) = [p for p in (tmp_path / "runs").iterdir() if (p / "metrics.json").is_file()]
    assert (run / "predictions/test.parquet").is_file() and (run / "report.html").is_file()
    again = command("eval.py", f"run={run}", "trainer.device=cpu")
    assert again.returncode == 0, again.stderr[-2000:]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model=llama_tiny"], "llama_tiny is drawn at random"),
        (["model=smollm2_135m", "data=corpus", "data.train=8", "data.val=2", "data.test=4"], "holds documents without"),
    ],
)
def test_before_is_refused_before_the_training(overrides, said, tmp_path, monkeypatch, caplog):
    from clarion.run import execute
    from clarion.trainers.sft import SftTrainer

    def fit(*_):
        raise AssertionError("trained")

    monkeypatch.setattr(SftTrainer, "fit", fit)
    argv = [*overrides, "model.before=true", "trainer.device=cpu"]
    assert execute(compose_config(argv), argv, tmp_path / "run")["status"] != "done"
    assert any(said in record.getMessage() for record in caplog.records)


def test_what_is_drawn_at_random_cannot_answer_untuned():
    with pytest.raises(UsageError, match="drawn at random before it is trained"):
        trainer("model=llama_tiny").untuned()


def test_adapters_that_differ_in_scaling_alone_are_two_models(folder):
    """The same matrices with alpha 2 or 8, or with rank-stabilised scaling, answer differently: no shared cache."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from clarion.trainers.answers import network_identity

    tokenizer, found = AutoTokenizer.from_pretrained(folder), []
    for settings in ({"lora_alpha": 2}, {"lora_alpha": 8}, {"lora_alpha": 8, "use_rslora": True}, {"lora_alpha": 2}):
        torch.manual_seed(0)
        base = AutoModelForCausalLM.from_pretrained(folder)
        config = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False, **settings)
        found.append(network_identity(get_peft_model(base, config), tokenizer))
    assert len(set(found)) == 3 and found[0] == found[3]


def test_vllm_takes_no_adapter(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UsageError, match="is an adapter: merge it first"):
        trainer("model=vllm", f"model.path={tmp_path}").check()


def test_liger_kernels_are_refused_off_cuda(tmp_path):
    import torch

    from clarion.trainers.sft_settings import sft_config

    with pytest.raises(UsageError, match="use_liger_kernel=true: its kernels run on CUDA alone"):
        sft_config({"use_liger_kernel": True}, tmp_path, torch.device("cpu"), "32", 1, 1, 0)
