"""A model behind a real server process that speaks OpenAI's protocol."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from clarion.errors import ClarionError, DataError, UsageError
from clarion.samples import Sample
from clarion.trainers.api import ApiPredictor, connect, letters

sys.path.insert(0, str(Path(__file__).parent))
from language_models import multiple_choice, save_tiny_llama  # noqa: E402

SAMPLES = [multiple_choice(k) for k in range(5)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_llama(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def good(folder, tmp_path_factory):
    """(base_url of a server that runs, file with a line a request)."""
    seen = tmp_path_factory.mktemp("seen") / "requests"
    seen.touch()
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "openai_server.py"), str(folder)],
        stdout=subprocess.PIPE, text=True, env=os.environ | {"SEEN": str(seen)},
    )  # fmt: skip
    yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1", seen
    process.kill()
    process.wait()


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("CLARION_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def predictor(url: str, **settings) -> ApiPredictor:
    model = {"base_url": url, "served": "tiny", "generation": {"max_new_tokens": 6}, "retries": 0} | settings
    return ApiPredictor(connect(model), model)


@pytest.fixture(scope="module")
def ours(folder):
    """What the predictor of local models says of the same samples."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from clarion.trainers.sft_chat import chat_format
    from clarion.trainers.sft_predict import SftPredictor

    network, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    one = SftPredictor(network, tokenizer, chat_format(tokenizer), [], {"max_new_tokens": 6}, {})
    return [p.values for p in one(SAMPLES)]


def test_echoed_logprobs_are_those_of_the_model_itself(good, folder, ours):
    found = list(predictor(good[0], path=str(folder))(SAMPLES))
    assert [p.sample_id for p in found] == [s.sample_id for s in SAMPLES]
    for prediction, own in zip(found, ours, strict=True):
        for column in ("option_logprobs", "blind_logprobs"):
            assert prediction.values[column] == pytest.approx(own[column], abs=1e-4)
        assert prediction.values["text"] == own["text"] and prediction.values["option_source"] == "echo"


def test_without_a_tokenizer_the_first_letter_is_scored(good, folder):
    found = [p.values for p in predictor(good[0])(SAMPLES)]
    assert all(v["option_source"] == "top_logprobs" and isinstance(v["text"], str) for v in found)
    assert all(v["option_logprobs"] is None or len(v["option_logprobs"]) == 3 for v in found)


def test_letters_of_a_list_of_alternatives():
    options = ["A) Glaucoma", "B) Cataract", "C) Uveitis"]
    listed = {"A": -1.0, " A": -2.0, "B": -3.0, "The": -0.5, "": -0.1}
    assert letters(listed, options) == pytest.approx([-0.6867, -3.0, -3.0], abs=1e-3)
    assert letters({"The": -0.5}, options) is None and letters({}, options) is None
    assert letters({"yes": -1.0, "no": -2.0, "y": -4.0}, ["yes", "no"]) == pytest.approx([-0.9514, -2.0], abs=1e-3)


def test_a_server_without_logprobs_leaves_the_text(good):
    found = [p.values for p in predictor(good[0], served="bare")(SAMPLES[:2])]
    assert all(v["option_logprobs"] is None and isinstance(v["text"], str) for v in found)


def test_answers_are_asked_for_once(good):
    url, seen = good
    one = predictor(url)
    one.use_cache("auto", "public")
    first = [p.values for p in one(SAMPLES)]
    before = len(seen.read_text().splitlines())
    again = predictor(url)
    again.use_cache("auto", "public")
    assert [p.values for p in again(SAMPLES)] == first and len(seen.read_text().splitlines()) == before


def test_no_server_a_wrong_key_and_a_model_it_does_not_have(good, monkeypatch):
    with pytest.raises(ClarionError, match="no server answers at http://127.0.0.1:9/v1 .*: start it, or correct"):
        connect({"base_url": "http://127.0.0.1:9/v1", "served": "tiny", "retries": 0}).check()
    with pytest.raises(UsageError, match="serves no such model. Did you mean `tiny`"):
        connect({"base_url": good[0], "served": "tinny"}).check()
    connect({"base_url": good[0], "served": "tiny"}).check()
    url, seen = good
    before = seen.read_text()
    monkeypatch.setenv("OPENAI_API_KEY", "wrong-key-of-mine")
    with pytest.raises(UsageError, match="refuses the key .401.: put a valid one into .* OPENAI_API_KEY") as error:
        list(predictor(url, served="locked")(SAMPLES))
    assert "wrong-key" not in str(error.value) and seen.read_text() == before
    monkeypatch.setenv("OPENAI_API_KEY", "right")
    assert len(list(predictor(url, served="locked")(SAMPLES))) == 5


@pytest.mark.parametrize("broken", ["broken", "html"])
def test_a_malformed_answer_is_one_sentence(good, broken):
    with pytest.raises(DataError, match="sent a malformed answer about .*sample q00"):
        list(predictor(good[0], served=broken, option_scoring="none")(SAMPLES))


def test_private_data_do_not_leave_this_machine_unasked(good):
    far = predictor("http://192.0.2.1/v1")
    with pytest.raises(UsageError, match="private data would be sent to http://192.0.2.1/v1"):
        far.use_cache("auto", "private")
    predictor("http://192.0.2.1/v1", send_private=True).use_cache("auto", "private")
    predictor(good[0]).use_cache("auto", "private")


def test_samples_without_options_get_text_alone(good):
    sample = Sample("e", "d", {"messages": [{"role": "user", "content": "Why?"}]})
    (one,) = predictor(good[0])([sample])
    assert set(one.values) == {"text", "stopped", "tokens"}
