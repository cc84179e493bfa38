"""New tokens are trained or refused; tokenizers and templates that lack something are refused in one sentence."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from sft_small import SMALL, Rows, model_config, run_in, trainer_for

from clarion.errors import DataError, UsageError
from clarion.trainers.sft_chat import chat_format, use_pad

THINK = ["<think>", "</think>"]


def rows(text: str) -> Rows:
    prompt = [{"role": "user", "content": "Which stage is this eye?"}]
    return Rows([{"prompt": prompt, "completion": [{"role": "assistant", "content": text}]}] * 8)


THOUGHTFUL = "<think>The pit is lost.</think>Stage 2."


def fit(folder, text=THOUGHTFUL, tied=True, **model):
    sizes = SMALL | {"tie_word_embeddings": tied}
    config = model_config("llama_tiny", architecture=sizes, new_tokens=THINK, **model)
    trainer = trainer_for(config, max_steps=3, weight_decay=0.0, warmup_steps=0)
    return trainer, trainer.fit(run_in(folder, rows(text)))


@pytest.mark.parametrize("tied", [True, False])
def test_the_rows_of_new_tokens_move_with_lora(tmp_path, tied):
    """Upstream added <think> and never trained it: its rows stayed where they began."""
    import torch
    from safetensors.torch import load_file

    trainer, checkpoint = fit(tmp_path, tied=tied, lora={"r": 2})
    base = load_file(checkpoint / "base/model.safetensors")
    network, tokenizer = (p := trainer.load(checkpoint)).network, p.tokenizer
    ids = tokenizer.convert_tokens_to_ids(THINK)
    start = base["model.embed_tokens.weight"]
    merged = network.merge_and_unload()
    for weight in (merged.get_input_embeddings().weight, merged.get_output_embeddings().weight):
        begun = start if tied or weight is merged.get_input_embeddings().weight else base["lm_head.weight"]
        moved = (weight[: len(begun)] - begun).abs().amax(1)
        assert moved[ids].min() > 1e-4, "the new tokens were never trained"
        others = torch.ones(len(begun), dtype=torch.bool)
        others[ids] = False
        assert moved[others].max() == 0, "tokens that were there before moved"
    assert tokenizer.encode("<think>", add_special_tokens=False) == [ids[0]]


def test_full_tuning_trains_them_too(tmp_path):
    _, checkpoint = fit(tmp_path)
    vocabulary = json.loads((checkpoint / "config.json").read_text())["vocab_size"]
    assert vocabulary == len(json.loads((checkpoint / "tokenizer.json").read_text())["model"]["vocab"]) + len(THINK)


def test_frozen_new_tokens_are_refused(tmp_path):
    with pytest.raises(DataError, match="new tokens <think>, </think> would never be trained: .* frozen"):
        fit(tmp_path, lora={"r": 2, "trainable_token_indices": {}})


def test_half_trained_new_tokens_are_refused(tmp_path):
    """Reading them is learnt, writing them is not: the output rows of an untied model stay frozen."""
    with pytest.raises(DataError, match="would never be trained"):
        fit(tmp_path, tied=False, lora={"r": 2, "modules_to_save": ["embed_tokens"]})


def test_saving_both_embeddings_whole_is_fine(tmp_path):
    assert fit(tmp_path, tied=False, lora={"r": 2, "modules_to_save": ["embed_tokens", "lm_head"]})[1].is_dir()


def test_new_tokens_that_the_data_never_hold_are_refused(tmp_path):
    with pytest.raises(DataError, match="new tokens </think> occur in no training row"):
        fit(tmp_path, text="<think>The pit is lost. Stage 2.", lora={"r": 2})


def test_a_merged_model_with_new_tokens_is_the_same(tmp_path):
    from clarion.merging import merge_run

    _, checkpoint = fit(tmp_path, lora={"r": 2})
    assert merge_run(checkpoint, tmp_path / "merged").difference < 1e-4


# ------------------------------------------------------------------------------------------- tokenizers and templates


@pytest.fixture
def tokenizer():
    from clarion.trainers.sft_chat import use_template
    from clarion.trainers.sft_models import train_tokenizer

    made = train_tokenizer(["Which stage is this eye? Stage 2."] * 3, 300)
    use_template(made, "llama3")
    return made


def test_a_tokenizer_without_pad_takes_llamas_reserved_one_then_the_stop(tokenizer):
    tokenizer.pad_token = None
    use_pad(tokenizer, None)
    assert tokenizer.pad_token == "<|finetune_right_pad_id|>"


def test_a_tokenizer_without_pad_and_end_is_refused(tokenizer):
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(BPE()))
    with pytest.raises(UsageError, match="has neither a padding nor an end token; name one: model.pad_token"):
        use_pad(bare, None)
    with pytest.raises(UsageError, match="model.pad_token=<pad> is not in the tokenizer's vocabulary"):
        use_pad(tokenizer, "<pad>")


def test_a_template_of_another_family_is_refused(tokenizer):
    """ChatML on a Llama tokenizer: <|im_end|> would be spelt letter by letter, and nothing would ever stop."""
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    with pytest.raises(DataError, match="writes no stop token"):
        chat_format(tokenizer)


@pytest.mark.parametrize("template", ["{% for m in messages %}", "{{ raise_exception('roles must alternate') }}"])
def test_a_template_that_breaks_is_one_sentence(tokenizer, template):
    tokenizer.chat_template = template
    with pytest.raises(DataError, match="the chat template cannot write a question and its answer"):
        chat_format(tokenizer)


def test_a_tokenizer_without_template_is_refused(tokenizer):
    tokenizer.chat_template = None
    with pytest.raises(UsageError, match="has no chat template; set model.template=llama3"):
        chat_format(tokenizer)


@pytest.mark.parametrize("tokens", [16, "<think>", ["<think>", 7], [" "]])
def test_new_tokens_that_are_no_list_of_texts_are_refused_before_torch(tokens):
    code = (
        "import json, sys; from clarion.errors import UsageError; from clarion.trainers.sft import SftTrainer\n"
        "try: SftTrainer({'new_tokens': json.loads(sys.argv[1])}).check()\n"
        "except UsageError as error: print(error, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, json.dumps(tokens)], capture_output=True, text=True)
    assert done.stdout.startswith(f"model.new_tokens={tokens}: write a list") and done.stdout.endswith("False\n")
