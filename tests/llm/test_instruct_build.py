"""Instruction data from documents: tolerant reading, every rule that drops a question, splits, resuming, command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from clarion.cli import main
from clarion.errors import DataError, UsageError
from clarion.generating import open_generator
from clarion.llm.building.asking import document_files, passages, read_passages
from clarion.llm.building.build import build_instructions
from clarion.llm.building.replies import Replies, fields, read_reply
from clarion.llm.building.settings import BuildSettings, read_settings
from clarion.llm.building.validation import REASONS, Dropped, grounding, validate
from clarion.llm.instruct import InstructData
from clarion.llm.pretraining import CorpusData

PASSAGE = (
    "Open-angle glaucoma damages the retinal ganglion cells. Timolol lowers the intraocular pressure by 25 percent "
    "because it reduces the production of aqueous humour in the ciliary body."
)
GOOD = {
    "question": "How does the first-line beta blocker lower the pressure of the eye?",
    "options": ["It reduces aqueous humour production", "It opens the angle", "It dilates the pupil", "It thins it"],
    "answer": "A", "explanation": "Timolol reduces the production of aqueous humour.",
}  # fmt: skip
ESSAY = {"question": GOOD["question"], "answer": "It reduces the production of aqueous humour in the ciliary body."}

# A server that speaks the OpenAI protocol and answers well-formed JSON about the document whose title it was sent.
SERVER = """
import json, re, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][-1]["content"]
        title = re.search(r"Passage \\((.*?)\\)", prompt)[1]
        if '"options"' in prompt:
            rows = [{"question": f"Which cells does {title} damage first?", "options": {"A": "ganglion cells",
                     "B": "cones", "C": "rods", "D": "Mueller cells"}, "answer": "A"},
                    {"question": f"Does {title} damage ganglion cells first?", "options": {"A": "ganglion cells",
                     "B": "cones", "C": "rods", "D": "Mueller cells"}, "answer": "A"},
                    {"question": f"Which pressure is normal in {title}?", "options": ["99 mmHg", "1 mmHg"], "answer": "A"},
                    {"question": f"Which of these four is {title}?", "options": ["x", "y"], "answer": "z"}]
        else:
            rows = [{"question": f"What does {title} do to the retina?", "answer": "It damages the ganglion cells."},
                    {"question": "What is said about the retina in general terms?",
                     "answer": "It damages the ganglion cells."}]
        cut = body["max_tokens"] == 3
        text = "Here you are:\\n```json\\n" + json.dumps(rows) + "\\n```"
        message = {"index": 0, "finish_reason": "length" if cut else "stop", "message": {"role": "assistant", "content": text}}
        out = json.dumps({"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [message]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(out)))
        self.end_headers()
        self.wfile.write(out)

    def log_message(self, *args):
        pass

server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
"""  # noqa: E501


@pytest.fixture(scope="module")
def server():
    process = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True)
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1#m"
    finally:
        process.terminate()
        process.wait()


def documents(folder: Path, count: int) -> Path:
    titles = ["Leber neuropathy", "Pigmentary glaucoma", "Arteritic ischaemia", "Papilloedema", "Nutritional amblyopia"]
    tail = "Patients notice the loss late, because both eyes cover for each other in daily life and at work. " * 3
    rows = [
        {"id": f"d{k}", "title": t, "text": f"{t} damages the ganglion cells of the retina before others. {tail}"}
        for k, t in enumerate(titles[:count])
    ]
    path = folder / "documents.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def settings(path, **more):
    base = {"documents": str(path), "splits": {"train": 0.6, "val": 0.2, "test": 0.2}, "data_kind": "public"}
    return BuildSettings.read(base | more)


# -------------------------------------------------------------------------------------------------- reading replies


@pytest.mark.parametrize(
    "text",
    [
        '[{"question": "q", "answer": "a"}]',
        '```json\n[{"question": "q", "answer": "a"}]\n```',
        'Sure! Here is it: {"question": "q", "answer": "a",} Hope it helps.',
        "{'question': 'q', 'answer': 'a'}",
        '{"questions": [{"question": "q", "answer": "a"}]}',
        '[{"question": "q", "answer": "a"}, {"question": "cut o',
        'Two:\n{"question": "q", "answer": "a"}\n',
        '[{“question”: “q”, “answer”: “a”}]',
        '{"Question": "q", "Correct_Answer": "a"}',
    ],
)  # fmt: skip
def test_replies_as_models_write_them(text):
    assert [fields(r) for r in read_reply(text)][:1] == [{"question": "q", "answer": "a"}]


@pytest.mark.parametrize("text", ["", "I cannot do that.", "[1, 2]", "{", "{]", '"question"'])
def test_replies_without_json(text):
    assert read_reply(text) is None


def test_names_and_options_of_other_layouts():
    row = fields({"Stem": "q", "Choices": [{"label": "A", "text": "x"}, "B) y"], "correct": 1, "rationale": " r "})
    assert row == {"question": "q", "options": ["x", "y"], "answer": 1, "explanation": "r"}
    assert fields({"question": "q", "Option_A": "x", "option_b": "y", "answer": "B"})["option_a"] == "x"
    assert fields({"질문": "무엇?", "정답": "가"}) == {"question": "무엇?", "answer": "가"}


# ------------------------------------------------------------------------------------------------------- validation


def test_a_good_question_passes():
    item = validate(GOOD, "mcqa", PASSAGE, 0.6)
    assert item["answer"] == GOOD["options"][0] and item["answer_index"] == 0 and item["explanation"]
    assert validate(ESSAY, "eqa", PASSAGE, 0.6)["answer"] == ESSAY["answer"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"question": None}, "fields_missing"),
        ({"question": ["a"]}, "fields_missing"),
        ({"answer": ""}, "fields_missing"),
        ({"options": None}, "options_missing"),
        ({"options": ["one"]}, "options_missing"),
        ({"options": list("abcdef")}, "options_missing"),
        ({"options": ["It opens the angle", "it opens  the angle"]}, "options_repeated"),
        ({"options": {"A": "x", "B": "X"}}, "options_repeated"),
        ({"answer": "F"}, "answer_not_an_option"),
        ({"answer": "It removes the lens"}, "answer_not_an_option"),
        ({"question": "..."}, "placeholder"),
        ({"question": "What now?"}, "too_short"),
        ({"question": "What does timolol do according to the passage?"}, "refers_to_passage"),
        ({"question": "What does the drug of this study reduce?"}, "refers_to_passage"),
        ({"question": "Why is it that it reduces aqueous humour production?"}, "answer_in_question"),
        ({"answer": "D"}, "not_grounded"),
        ({"options": ["It lowers the pressure by 40 percent", "no"], "answer": "A"}, "not_grounded"),
    ],
)
def test_every_rule_drops_under_its_name(change, reason):
    with pytest.raises(Dropped) as drop:
        validate(GOOD | change, "mcqa", PASSAGE, 0.6)
    assert drop.value.reason == reason and reason in REASONS


def test_essay_rules():
    for change, reason in (
        ({"answer": "Timolol."}, "too_short"),
        ({"answer": "It cures macular holes within several weeks."}, "not_grounded"),
        ({"question": f"Is it true? {ESSAY['answer']}"}, "answer_in_question"),
    ):
        with pytest.raises(Dropped) as drop:
            validate(ESSAY | change, "eqa", PASSAGE, 0.6)
        assert drop.value.reason == reason


def test_a_question_that_names_several_options_gives_nothing_away():
    row = {"question": "Which lowers the pressure, timolol or water?", "options": ["Timolol", "Water"], "answer": "A"}
    assert validate(row, "mcqa", PASSAGE, 0.6)["answer"] == "Timolol"


def test_grounding_is_about_words_and_numbers():
    assert grounding({"answer": "Reducing productions of aqueous humour"}, PASSAGE) == 1.0  # stems
    assert grounding({"answer": "25 percent"}, PASSAGE) == 1.0 and grounding({"answer": "30 percent"}, PASSAGE) == 0.0
    assert grounding({"answer": "Vitrectomy heals ganglion cells"}, PASSAGE) == pytest.approx(0.5)
    assert grounding({"answer": "yes"}, PASSAGE) == 0.0
    assert grounding({"answer": "yes", "explanation": "Timolol lowers it."}, PASSAGE) == 1.0
    assert grounding({"answer": "안압을 낮춘다"}, "티몰롤은 안압이 높을 때 낮추는 약이다") == 1.0


# --------------------------------------------------------------------------------------------------------- passages


def test_passages_are_whole_paragraphs_and_sentences(tmp_path):
    text = "One two three.\n\nFour five. Six seven eight nine. Ten.\n\nEleven."
    assert passages(text, 4) == ["One two three.", "Four five.", "Six seven eight nine.", "Ten.\nEleven."]
    assert passages(text, 100) == ["One two three.\nFour five. Six seven eight nine. Ten.\nEleven."]
    path = tmp_path / "d.jsonl"
    path.write_text('{"id": "a", "text": "x"}\n{"id": "a", "text": "y"}\n')
    with pytest.raises(DataError, match="line 2: the document id a occurs twice"):
        list(read_passages([path], settings(path, least_words=1)))
    path.write_text('{"text": "x"}\n')
    with pytest.raises(DataError, match="line 1 lacks id or text"):
        list(read_passages([path], settings(path)))


# ------------------------------------------------------------------------------------------------------ whole builds


def test_a_build_with_a_server(tmp_path, server):
    chosen = settings(documents(tmp_path, 5))
    out = tmp_path / "out"
    card = build_instructions(chosen, open_generator(server), out)
    assert (card["documents"], card["requests"], card["replies_reused"]) == (5, 10, 0)
    assert card["dropped"]["mcqa"] == {"answer_not_an_option": 5, "answer_in_question": 5, "not_grounded": 5}
    assert card["dropped"]["eqa"] == {"near_duplicate": 4}
    assert card["valid"] == {"mcqa": 5, "eqa": 10} and card["kept"] == {"mcqa": 5, "eqa": 6}
    for kind in ("mcqa", "eqa"):  # nothing vanishes: asked = kept + dropped
        made = {"mcqa": 20, "eqa": 10}[kind]
        assert card["kept"][kind] + sum(card["dropped"][kind].values()) == made
    assert card == json.loads((out / "card.json").read_text())
    assert len(card["answer_letters"]) > 1  # the server always says A; the options are shuffled
    data = InstructData("built", root=str(out), kind="public")
    assert data.check().ok and sum(map(len, data.splits.values())) == 11
    owners = [{i["patient_id"] for i in items} for items in data.items.values()]
    assert sum(map(len, owners)) == len(set.union(*owners)) == 5
    first = next(s for s in data.samples("train") if "options" in s.inputs)
    assert len(first.inputs["options"]) == 4 and "ganglion cells" in str(first.inputs["options"])

    class Silent:
        identity = open_generator(server).identity

        def __call__(self, conversations):
            raise AssertionError("asked again")

    assert build_instructions(chosen, Silent(), out)["replies_reused"] == 10  # nothing is asked twice


def test_a_corpus_that_clarion_built_becomes_instruction_data(tmp_path, server):
    """corpus build -> instruct build -> InstructData; what is one patient's stays in one split all the way."""
    tail = "Patients notice the loss late, because both eyes cover for each other in daily life and at work. " * 3
    (tmp_path / "notes").mkdir()
    with open(tmp_path / "notes/a.jsonl", "w", encoding="utf-8") as file:
        for k in range(18):
            title = f"{'abcdefghijklmnopqrst'[k] * 4} neuropathy of type {k}"
            text = f"{title} damages the ganglion cells of the retina before others. {tail}"
            file.write(json.dumps({"id": f"n{k}", "title": title, "text": text, "subject": 4000 + k // 3}) + "\n")
    conf = {
        "name": "notes", "kind": "private", "workers": 0, "tokens": "words", "output": {"shard_mb": 0.003},
        "sources": [{"name": "s", "path": "notes", "patient_field": "subject"}], "language": {"keep": None},
        "dedup": {"near": False}, "filters": {"duplicate_paragraphs": None, "duplicate_characters": None},
    }  # fmt: skip
    (tmp_path / "conf.json").write_text(json.dumps(conf))  # JSON is YAML
    corpus = tmp_path / "corpus"
    assert main(["corpus", "build", str(tmp_path / "conf.json"), "--out", str(corpus)]) == 0
    shards = sorted(corpus.glob("documents-*.jsonl"))
    rows = [json.loads(line) for path in shards for line in path.read_text("utf-8").splitlines()]
    assert len(shards) > 1 and len(rows) == 18
    patients = [row["patient_id"] for row in rows]
    assert len(set(patients)) == 6 and all(p.startswith("P-") for p in patients) and "400" not in "".join(patients)

    unit_of = {row["id"]: row["patient_id"] for row in rows}
    parts = CorpusData(root=str(corpus), kind="public", val_share=0.2, test_share=0.2).documents
    held = [{unit_of[d.id] for d in documents} for documents in parts.values()]
    assert [sum(map(len, parts.values())), sum(map(len, held)), len(set.union(*held))] == [18, 6, 6]

    out = tmp_path / "out"
    card = build_instructions(settings(corpus, data_kind="private"), open_generator(server), out)
    assert (card["documents"], card["patients"]) == (18, 6)
    assert sum(split["patients"] for split in card["splits"].values()) == 6
    data = InstructData("built", root=str(out), kind="public")
    assert data.check().ok and {i["patient_id"] for items in data.items.values() for i in items} == set(patients)
    owners = [{i["patient_id"] for i in items} for items in data.items.values()]
    assert sum(map(len, owners)) == 6

    (corpus / "manifest.json").unlink()
    (corpus / "work").mkdir()
    (corpus / "work" / "state.json").write_text("{}")
    with pytest.raises(UsageError, match="not complete"):
        document_files(str(corpus))


def test_replies_are_kept_by_all_that_shapes_them_and_truncated_ones_counted(tmp_path, server):
    """Other sampling settings ask again; what was cut off at the token limit is counted, also when it is reused."""
    chosen = settings(documents(tmp_path, 5), kinds=["eqa"])
    spec = {"kind": "openai", "base_url": server.split("#")[0], "model": "m"}
    counts = []
    for change in ({}, {}, {"max_tokens": 3}, {"max_tokens": 3}, {"temperature": 0.5}, {"seed": 7}):
        card = build_instructions(chosen, open_generator(spec | change), tmp_path / "out")
        counts.append((card["replies_reused"], card["replies_truncated"]))
    assert counts == [(0, 0), (5, 0), (0, 5), (5, 5), (0, 0), (0, 0)]
    assert card["generator"]["seed"] == 7 and card["generator"]["max_tokens"] == 512


def test_a_stopped_build_goes_on(tmp_path, server):
    chosen = settings(documents(tmp_path, 5), batch=3)
    real, calls = open_generator(server), []

    class Stops:
        identity = real.identity

        def __call__(self, conversations):
            calls.append(len(conversations))
            if len(calls) == 3:
                raise KeyboardInterrupt
            return real(conversations)

    with pytest.raises(KeyboardInterrupt):
        build_instructions(chosen, Stops(), tmp_path / "out")
    with open(tmp_path / "out" / "replies.jsonl", "a", encoding="utf-8") as file:
        file.write('{"key": "half a li')  # what a kill leaves
    card = build_instructions(chosen, real, tmp_path / "out")
    assert card["replies_reused"] == 6 and len(Replies(tmp_path / "out").known) == 10
    whole = build_instructions(chosen, real, tmp_path / "whole")
    assert {**card, "replies_reused": 0} == whole


def test_the_command(command, tmp_path, server, capsys):
    path = documents(tmp_path, 5)
    args = ["instruct", "build", "documents", f"documents={path.parent}", f"generator={server}"]
    done = command("clarion", *args, "splits={train: 0.6, val: 0.2, test: 0.2}", "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["kept"] == {"mcqa": 5, "eqa": 6}
    assert (tmp_path / "out/train.jsonl").is_file()
    for wrong, said in (
        (["build", "documnts"], "Did you mean `documents`"),
        (["build", "documents", "kind=[x]"], "Did you mean `kinds`"),
        (["build", "documents", f"documents={path}"], "generator=none cannot write questions"),
        (["build", "documents", f"documents={path}x", f"generator={server}"], "no such file"),
        (["build", "documents", f"documents={path}", f"generator={server}", "splits={train: 0.9}"], "sum to 1"),
    ):
        assert main(["instruct", *wrong, "--out", str(tmp_path / "no")]) == 2
        assert said in capsys.readouterr().err and not (tmp_path / "no").exists()


def test_smollm2_is_asked_and_what_it_says_is_counted(tmp_path):
    """A model of 135 M parameters hardly writes valid JSON: every reply is kept or counted under a reason."""
    spec = {"kind": "local", "model": "smollm2_135m", "max_new_tokens": 16, "device": "cpu"}
    chosen = settings(documents(tmp_path, 1), kinds=["mcqa"], per_passage=1, splits={"train": 1.0})
    try:
        build_instructions(chosen, open_generator(spec), tmp_path / "out")
    except DataError as error:
        assert "too few" in str(error) and "card.json" in str(error)
    card = json.loads((tmp_path / "out/card.json").read_text())
    assert card["generator"]["model"] == "smollm2_135m" and card["requests"] == 1
    texts = Replies(tmp_path / "out").known.values()
    assert len(texts) == 1 and all(t.strip() for t in texts)
    records = sum(len(read_reply(t) or [None]) for t in texts)
    assert sum(card["kept"].values()) + sum(n for d in card["dropped"].values() for n in d.values()) == records


def test_too_few_documents(tmp_path):
    chosen = settings(documents(tmp_path, 2))
    with pytest.raises(UsageError, match="2 document.s. cannot fill train, val, test"):
        build_instructions(chosen, lambda turns: [""] * len(turns), tmp_path / "out")
    chosen = settings(documents(tmp_path, 5))
    with pytest.raises(DataError, match="10 the reply holds no JSON object"):
        build_instructions(chosen, lambda turns: ["no"] * len(turns), tmp_path / "out")
    card = json.loads((tmp_path / "out/card.json").read_text())
    assert card["dropped"] == {"mcqa": {"no_json": 5}, "eqa": {"no_json": 5}}
    with pytest.raises(DataError, match="no passage of 5000 words"):
        build_instructions(settings(documents(tmp_path, 5), least_words=5000), lambda turns: [], tmp_path / "out")


def test_all_mistakes_of_a_config_at_once(tmp_path):
    (tmp_path / "mine.yaml").write_text("options: 9\nper_pasage: 2\nnear: 2\n")
    with pytest.raises(UsageError) as error:
        read_settings(str(tmp_path / "mine.yaml"))
    assert all(s in str(error.value) for s in ("per_passage", "options=9", "near=2", "documents=PATH"))
    assert read_settings("documents", ["documents=x.jsonl", "options=5"]).options == 5
