"""A model behind a real server process that speaks OpenAI's protocol."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from clarion.errors import ClarionError, DataError, UsageError
from clarion.generating import open_generator
from clarion.samples import Sample
from clarion.trainers.api import ApiPredictor, connect, letters

sys.path.insert(0, str(Path(__file__).parent))
from language_models import multiple_choice  # noqa: E402

SAMPLES = [multiple_choice(k) for k in range(5)]


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


@pytest.mark.parametrize("served", ["strict", "stricter"])
def test_a_server_that_rejects_fields_is_asked_without_them(good, served):
    one = predictor(good[0], served=served, concurrency=1)
    found = [p.values for p in one(SAMPLES[:2])]
    assert all(isinstance(v["text"], str) for v in found)
    assert [v["option_source"] for v in found] == (["top_logprobs"] * 2 if served == "strict" else [None] * 2)
    assert len(one.notes) == 1 and ("fields of vLLM" if served == "strict" else "no log-probabilities") in one.notes[0]
    with pytest.raises(UsageError, match="rejects the request about the options of sample .*unrecognized"):
        list(predictor(good[0], served=served, option_scoring="top_logprobs")(SAMPLES[:1]))


def test_a_server_that_echoes_nothing_is_asked_for_the_first_letter(good, folder):
    one = predictor(good[0], served="strict", path=str(folder), concurrency=1)
    assert [p.values["option_source"] for p in one(SAMPLES[:2])] == ["top_logprobs"] * 2
    assert any("echoes no prompt" in n for n in one.notes)


# ------------------------------------------------------------------------------------- nothing goes elsewhere unasked


@pytest.fixture()
def elsewhere():
    """A machine that notes every request and answers none: what a proxy or the target of a redirect would see."""
    import threading
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Elsewhere(BaseHTTPRequestHandler):
        seen: list[str] = []

        def do_POST(self):
            self.seen.append(self.path)
            self.send_response(502)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_CONNECT = do_POST

        def log_message(self, *_):
            pass

    class Redirects(Elsewhere):
        def do_POST(self):
            self.send_response(307)
            self.send_header("Location", f"http://127.0.0.1:{away.server_port}{self.path}")
            self.send_header("Content-Length", "0")
            self.end_headers()

    away, redirects = (ThreadingHTTPServer(("127.0.0.1", 0), one) for one in (Elsewhere, Redirects))
    for one in (away, redirects):
        threading.Thread(target=one.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{away.server_port}", f"http://127.0.0.1:{redirects.server_port}/v1", Elsewhere.seen
    for one in (away, redirects):
        one.shutdown()
        one.server_close()


def test_no_proxy_gets_what_is_sent_to_this_machine(good, elsewhere, monkeypatch):
    proxy, _, seen = elsewhere
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, proxy)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert len(list(predictor(good[0])(SAMPLES[:1]))) == 1
    spec = {"kind": "openai", "base_url": good[0], "model": "tiny", "max_tokens": 4, "retries": 0}
    assert len(open_generator(spec)([[{"role": "user", "content": "Why?"}]])) == 1
    assert seen == []


def test_no_redirect_carries_a_request_elsewhere(elsewhere):
    _, redirects, seen = elsewhere
    with pytest.raises(ClarionError, match="307 .redirects are not followed"):
        list(predictor(redirects, option_scoring="none")(SAMPLES[:1]))
    with pytest.raises(ClarionError, match="307"):
        open_generator({"kind": "openai", "base_url": redirects, "model": "tiny", "retries": 0})(
            [[{"role": "user", "content": "Why?"}]]
        )
    assert seen == []


@pytest.mark.parametrize("kind", ["private", None])
def test_a_generator_sends_private_texts_nowhere(kind):
    far = {"kind": "openai", "base_url": "http://192.0.2.1/v1", "model": "m"}
    with pytest.raises(UsageError, match="would be sent to http://192.0.2.1/v1.*generator.send_private=true"):
        open_generator(far, data_kind=kind)
    assert open_generator(far, data_kind="public") and open_generator(far | {"send_private": True}, data_kind=kind)


def test_a_predictor_asked_without_a_kind_sends_nothing():
    with pytest.raises(UsageError, match="unknown kind"):
        list(predictor("http://192.0.2.1/v1")(SAMPLES[:1]))


@pytest.mark.parametrize("command", ["corpus", "instruct"])
def test_builds_of_private_documents_ask_no_other_machine(command, tmp_path, capsys):
    from clarion.cli import main

    documents = tmp_path / "in"
    documents.mkdir()
    (documents / "documents.jsonl").write_text('{"id": "d", "text": "A private note."}\n', encoding="utf-8")
    far = "http://192.0.2.1/v1#m"
    if command == "corpus":
        conf = tmp_path / "c.yaml"
        conf.write_text(
            f"name: c\nkind: private\nsources: [{{name: own, path: {documents}}}]\nsummaries: {{generator: '{far}'}}\n"
        )
        argv = ["corpus", "build", str(conf), "--out", str(tmp_path / "out")]
    else:
        argv = ["instruct", "build", "documents", f"documents={documents}", f"generator={far}", "--out", str(tmp_path)]
    assert main(argv) == 2
    assert "private data would be sent to http://192.0.2.1/v1" in capsys.readouterr().err


def test_a_run_of_a_server_as_generator_is_guarded_too(tmp_path, monkeypatch):
    """generator=RUN of model=openai_api: the run's server is elsewhere, the texts are private."""
    from clarion import generating, trained

    far = predictor("http://192.0.2.1/v1")
    opened = trained.Trained(far, "run", "0" * 8, "public", [])
    monkeypatch.setattr(trained, "open_model", lambda *_: opened)
    (tmp_path / "config.yaml").touch()
    spec = {"kind": "local", "path": str(tmp_path)}
    with pytest.raises(UsageError, match="private data would be sent to http://192.0.2.1/v1"):
        open_generator(spec, data_kind="private")([[{"role": "user", "content": "Why?"}]])
    assert isinstance(open_generator(spec, data_kind="private"), generating.LocalGenerator)
