"""Option log-probabilities: one shared prompt gives what one forward an option gives; answers survive a kill."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from clarion.errors import DataError, UsageError
from clarion.samples import Sample
from clarion.trainers import sft_options
from clarion.trainers.answers import wanted
from clarion.trainers.sft_chat import chat_format
from clarion.trainers.sft_predict import SftPredictor

sys.path.insert(0, str(Path(__file__).parent))
from language_models import multiple_choice  # noqa: E402


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("CLARION_CACHE", str(tmp_path / "cache"))


def predictor(network, tokenizer, **generation) -> SftPredictor:
    generation = {"max_new_tokens": 4, "batch_size": 4} | generation
    return SftPredictor(network, tokenizer, chat_format(tokenizer), [], generation, {})


def by_hand(network, tokenizer, messages, lead, option) -> float:
    """The definition: the whole text tokenised, one forward, log-probabilities of the tokens that are the option's."""
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False) + lead
    ids = tokenizer(text + option, add_special_tokens=False, return_offsets_mapping=True)
    begin = next(k for k, (_, end) in enumerate(ids["offset_mapping"]) if end > len(text))
    tokens = torch.tensor([ids["input_ids"]])
    with torch.inference_mode():
        scores = network(input_ids=tokens).logits[0].log_softmax(-1)
    return sum(float(scores[k - 1, tokens[0, k]]) for k in range(begin, tokens.shape[1]))


def test_a_packed_row_gives_what_one_forward_an_option_gives(network, tokenizer):
    samples = [multiple_choice(k) for k in range(11)] + [multiple_choice(11, ("A) yes", "B) no"), blind_messages=None)]
    found = list(predictor(network, tokenizer)(iter(samples)))
    assert [p.sample_id for p in found] == [s.sample_id for s in samples]
    for sample, prediction in zip(samples, found, strict=True):
        for column, name in (("option_logprobs", "messages"), ("blind_logprobs", "blind_messages")):
            if sample.inputs[name] is None:
                assert prediction.values[column] is None
                continue
            expected = [
                by_hand(network, tokenizer, sample.inputs[name], "Answer:\n", o) for o in sample.inputs["options"]
            ]
            assert prediction.values[column] == pytest.approx(expected, abs=1e-4)
        assert {"text", "stopped", "tokens"} <= set(prediction.values)


@pytest.mark.parametrize("attention", ["sdpa", "eager", "cache"])
def test_every_way_of_sharing_the_prompt_agrees(folder, tokenizer, attention, monkeypatch):
    implementation = "eager" if attention == "eager" else "sdpa"
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=implementation)
    if attention == "cache":
        monkeypatch.setattr(sft_options, "MASKED", ())
    assert sft_options.packable(model) == (attention != "cache")
    inputs = [multiple_choice(k).inputs for k in range(4)]
    questions = [sft_options.question(tokenizer, i["messages"], i["lead"], i["options"], {}) for i in inputs]
    for one, sums in zip(inputs, sft_options.option_logprobs(model.eval(), questions, 5), strict=True):
        expected = [by_hand(model, tokenizer, one["messages"], one["lead"], o) for o in one["options"]]
        assert sums == pytest.approx(expected, abs=1e-4)


def test_a_network_with_sliding_windows_is_not_packed(network):
    import copy

    config = copy.deepcopy(network.config)
    config.sliding_window = 128
    assert not sft_options.packable(type("N", (), {"config": config})())


def test_a_token_across_the_border_is_the_options(tokenizer):
    """The blank at the end of a lead belongs to the next word's token: prompt + option must be the joint tokens."""
    messages = [{"role": "user", "content": "Which?"}]
    cases = (("Answer: ", ["Glaucoma", "Cataract"]), ("Answer:\n", ["\nA", "B"]), ("정답: 망", ["막", "각"]))
    for lead, options in cases:
        one = sft_options.question(tokenizer, messages, lead, options, {})
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        for option, ids in zip(options, one.options, strict=True):
            assert [*one.prefix, *ids] == tokenizer(text + lead + option, add_special_tokens=False)["input_ids"]
            assert len(ids) >= 1
    assert one.prefix.count(tokenizer.bos_token_id) == 1, "the template's own BOS, and no second one"


@pytest.mark.parametrize("options", [["A"], ["A", ""], ["A", "A"]])
def test_options_that_are_none_are_refused(tokenizer, options):
    with pytest.raises(DataError, match="sample s1 needs at least two options"):
        sft_options.question(tokenizer, [{"role": "user", "content": "x"}], "", options, {}, "s1")


def test_an_option_that_leaves_the_context_is_refused(network, tokenizer):
    long = multiple_choice(1, messages=[{"role": "user", "content": "pressure of the eye " * 200}])
    with pytest.raises(DataError, match=r"sample q001 has \d+ tokens with its longest option; this model takes 512"):
        list(predictor(network, tokenizer)([long]))


def test_no_generation_leaves_the_options_alone(network, tokenizer):
    (one,) = predictor(network, tokenizer, max_new_tokens=0)([multiple_choice(1)])
    assert set(one.values) == {"option_logprobs", "option_tokens", "blind_logprobs"}
    essay = Sample("e1", "d", {"messages": [{"role": "user", "content": "Why?"}]})
    with pytest.raises(UsageError, match="sample e1 has no options to score"):
        list(predictor(network, tokenizer, max_new_tokens=0)([essay]))


# ------------------------------------------------------------------------------------------------------- the cache


class Counted:
    """How many token rows a network reads."""

    def __init__(self, network):
        self.rows = 0
        self.handle = network.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, _, args, kwargs):
        self.rows += len(kwargs["input_ids"] if "input_ids" in kwargs else args[0])


def test_answers_are_taken_from_the_cache_and_hold_no_prompt(network, tokenizer):
    samples = [multiple_choice(k) for k in range(6)]
    one = predictor(network, tokenizer)
    one.use_cache("auto", "public")
    first = [p.values for p in one(samples)]
    counted = Counted(network)
    again = predictor(network, tokenizer)
    again.use_cache("auto", "public")
    assert [p.values for p in again(samples)] == first and counted.rows == 0
    longer = predictor(network, tokenizer, max_new_tokens=5)  # other settings: generated anew, options known
    longer.use_cache("auto", "public")
    list(longer(samples))
    counted.handle.remove()
    assert counted.rows > 0
    content = b"".join(p.read_bytes() for p in one.cache.path.parent.iterdir())
    assert b"Which disease" not in content and b"Glaucoma" not in content
    assert one.cache.path.stat().st_mode & 0o077 == 0


def test_another_model_has_another_cache(network, tokenizer, folder):
    one, other = predictor(network, tokenizer), AutoModelForCausalLM.from_pretrained(folder).eval()
    one.use_cache("true", "public")
    with torch.no_grad():
        next(other.parameters())[3, 3] += 1e-3
    changed = predictor(other, tokenizer)
    changed.use_cache("true", "public")
    assert one.cache.path != changed.cache.path


def test_private_answers_are_kept_only_when_asked_for(network, tokenizer):
    one = predictor(network, tokenizer)
    one.use_cache("auto", "private")
    assert one.cache.path is None
    assert [wanted(s, k) for s, k in (("auto", "private"), ("auto", None), ("auto", "phantom"), (True, "private"),
                                      (False, "public"))] == [False, False, True, True, False]  # fmt: skip
    with pytest.raises(UsageError, match="model.cache=maybe is unknown: write auto, true or false"):
        one.use_cache("maybe", "public")


EVALUATION = """
import sys, time
sys.path.insert(0, sys.argv[2])
import torch; torch.set_num_threads(1)
from transformers import AutoModelForCausalLM, AutoTokenizer
from clarion.trainers.sft_chat import chat_format
from clarion.trainers.sft_predict import SftPredictor
from language_models import multiple_choice
network, tokenizer = (c.from_pretrained(sys.argv[1]) for c in (AutoModelForCausalLM, AutoTokenizer))
rows = 0
def count(module, args, kwargs):
    global rows
    rows += len(kwargs["input_ids"])
    time.sleep(float(sys.argv[3]))  # slow enough to be killed half-way
network.eval().register_forward_pre_hook(count, with_kwargs=True)
one = SftPredictor(network, tokenizer, chat_format(tokenizer), [], {"max_new_tokens": 0, "batch_size": 2}, {})
one.use_cache("auto", "public")
found = list(one(multiple_choice(k) for k in range(40)))
print(rows, len(found))
"""


def test_a_killed_evaluation_goes_on_where_it_stopped(folder, tmp_path):
    def start(delay: float) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-c", EVALUATION, str(folder), str(Path(__file__).parent), str(delay)],
            stdout=subprocess.PIPE, env=os.environ, text=True,
        )  # fmt: skip

    def kept() -> int:
        files = list((tmp_path / "cache" / "answers").glob("*.sqlite"))
        if not files:
            return 0
        with sqlite3.connect(f"file:{files[0]}?mode=ro", uri=True) as database:
            try:
                return database.execute("SELECT count(*) FROM answers").fetchone()[0]
            except sqlite3.OperationalError:  # the table is being made
                return 0

    first = start(0.2)
    try:
        deadline = time.time() + 90
        while kept() < 10 and first.poll() is None and time.time() < deadline:
            time.sleep(0.05)
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    before = kept()
    assert 10 <= before < 41, "it was to be killed half-way"
    second = start(0.0)
    out, _ = second.communicate(timeout=120)
    rows, answers = map(int, out.split())
    assert answers == 40 and rows == 41 - before  # 40 questions, and one for the blind ones: they show the same options
