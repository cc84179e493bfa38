"""`clarion ask`: a streamed answer of a trained model, grounded in a findings.json, with what a reader must know."""

from __future__ import annotations

import io
import json

import pytest

from clarion import asking, cli, launch
from clarion.findings import Document, Finding
from clarion.llm.grounded import findings_block, grounded_messages
from clarion.llm.prompts import OPHTIMUS_SYSTEM, prompt_messages, user_turn
from clarion.samples import Sample
from clarion.trained import open_model


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A tiny Llama after a few steps on the synthetic cases."""
    runs = tmp_path_factory.mktemp("runs")
    argv = ["model=llama_tiny", "trainer.epochs=1", "data.train=40", "data.val=10", "data.test=10",
            "model.generation.max_new_tokens=24", "+model.generation.min_new_tokens=16",
            "+model.generation.repetition_penalty=2.0"]  # fmt: skip
    assert launch.train([*argv, f"runs_dir={runs}"]) == 0
    return next(runs.glob("*/metrics.json")).parent


@pytest.fixture()
def findings(tmp_path):
    def finding(k: int) -> Finding:
        return Finding(id=f"f{k}", name=f"Finding {k}", value=1.5 * k, unit="um", laterality="OD", data_kind="phantom")

    document = Document("P0001", "ST-1", "phantom", "2026-01-01T00:00:00", data_kind="phantom")
    document.add(*(finding(k) for k in range(1, 100)))
    document.add(Finding(id="erm_present", name="Epiretinal membrane present", value=True, laterality="OD",
                         quality="flagged", why="the fovea is uncertain", data_kind="phantom"))  # fmt: skip
    document.add(Finding(id="erm_area", name="Area of the membrane", value=6.1234, unit="mm2", laterality="OD",
                         interval=(5.8, 6.4, 0.95), data_kind="phantom"))  # fmt: skip
    document.omit("govetto_stage", "the scan has no fovea")
    return document.write(tmp_path / "findings.json")


def test_the_answer_streams_and_is_the_predictors(run):
    """Piece by piece the same greedy answer as in an evaluation, with the system prompt of the training."""

    class Pieces(io.StringIO):
        written: list[str] = []

        def write(self, text: str) -> int:
            self.written.append(text)
            return super().write(text)

    out = Pieces()
    answer = asking.ask("Which stage does this eye have, and why?", str(run), out=out)
    assert out.getvalue().strip() == answer["answer"] and len(out.written) > 2
    messages = grounded_messages("Which stage does this eye have, and why?", None)
    assert answer["messages"] == messages
    assert messages[0] == {"role": "system", "content": OPHTIMUS_SYSTEM}
    predictor = open_model(str(run), "generation", "llama_tiny").predictor
    expected = next(iter(predictor([Sample("a", "a", {"messages": messages})]))).values
    assert answer["answer"] == expected["text"]
    assert any("synthetic" in w for w in answer["warnings"])


def test_findings_ground_the_question(run, findings, capsys):
    argv = ["ask", "Is there a membrane?", "--model", str(run), "--findings", str(findings), "--max-new-tokens", "4"]
    assert cli.main([*argv, "--format", "json"]) == 0
    said = capsys.readouterr()
    answer = json.loads(said.out)
    shown = len(answer["findings"])  # the tiny context holds fewer than 101, and says so
    assert 0 < shown < 101 and f"shown {shown} of 101 findings" in said.err
    assert answer["findings"][:2] == ["erm_present", "erm_area"]  # those in the prompt, in its order, and no others
    prompt = answer["messages"][-1]["content"]
    assert prompt.startswith("Context:\nFindings of the right eye")
    assert prompt.endswith("Question:\nIs there a membrane?")
    assert sum(line.startswith("- ") for line in prompt.splitlines()) == shown + 1  # and the count of the others


def test_the_block_says_units_doubts_and_what_is_missing(findings):
    document = asking.read_document(findings)
    block = findings_block(document, most=10)
    lines = block.splitlines()
    assert lines[0] == "Findings of the right eye of a phantom, no patient:"
    assert lines[1] == "- Epiretinal membrane present: yes (flagged: the fovea is uncertain)"
    assert lines[2] == "- Area of the membrane: 6.123 mm2 [5.8, 6.4; 95 %]"
    assert "91 more findings" in lines[-2] and lines[-1] == "Not measured: govetto_stage (the scan has no fovea)"
    assert "P0001" not in block and "ST-1" not in block and "2026" not in block
    messages = grounded_messages("망막전막이 있습니까?", document)
    assert messages[0]["content"] == OPHTIMUS_SYSTEM  # as in the training
    assert messages[1]["content"] == user_turn("망막전막이 있습니까?", context=findings_block(document))


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["ask", "  ", "--model", "RUN"], 2, "question is empty"),
        (["ask", "x" * 30_000, "--model", "RUN"], 2, "characters"),
        (["ask", "x", "--model", "nowhere"], 2, "no such run"),
        (["ask", "x", "--model", "RUN", "--findings", "nowhere.json"], 1, "cannot be read"),
        (["ask", "x", "--model", "RUN", "--max-new-tokens", "0"], 2, "1 to 8192"),
        (["ask", "blind spot " * 1500, "--model", "RUN"], 1, "tokens"),
    ],
)
def test_mistakes_end_in_a_sentence(run, argv, code, said, capsys):
    assert cli.main([str(run) if a == "RUN" else a for a in argv]) == code
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("clarion ask:") and said in error


BRIEF = "Reply with one word."


@pytest.fixture(scope="module")
def brief(tmp_path_factory):
    """A tiny Llama that has learnt by heart to say one word and stop, under a system prompt of its own."""
    folder, runs = tmp_path_factory.mktemp("brief"), tmp_path_factory.mktemp("brief_runs")
    words = ["membrane", "glaucoma", "cataract", "uveitis", "drusen", "myopia", "edema", "atrophy"]
    for split, kinds in (("train", ("Is", "Was", "Has", "Can")), ("val", ("May",)), ("test", ("Will",))):
        asked = {f"{k}-{w}": f"{k} this eye show {w} today?" for k in kinds for w in words}
        rows = [{"id": i, "patient_id": i, "question": q, "answer": "Yes"} for i, q in asked.items()]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    argv = ["model=llama_tiny", "data=instruct_jsonl", f"data.root={folder}", "data.kind=public",
            f"data.system={BRIEF}", "trainer.epochs=12", "trainer.device=cpu", "trainer.args.learning_rate=3e-3",
            "model.generation.max_new_tokens=24"]  # fmt: skip
    assert launch.train([*argv, f"runs_dir={runs}"]) == 0
    return next(runs.glob("*/metrics.json")).parent


def test_the_system_prompt_of_the_run_and_its_stop_token(brief):
    answer = asking.ask("Will this eye show drusen today?", str(brief))
    assert answer["messages"] == prompt_messages("Will this eye show drusen today?", BRIEF)
    predictor = open_model(str(brief), "generation", "llama_tiny").predictor
    (expected,) = predictor([Sample("a", "a", {"messages": answer["messages"]})])
    assert expected.values["stopped"] and expected.values["tokens"] < 24  # it ended by itself, not by the limit
    assert answer["answer"] == expected.values["text"] == "Yes"


def test_items_with_system_prompts_of_their_own(brief, run, tmp_path, capsys):
    """What the training used most is asked with, others are spoken of, and --system wins."""
    record = json.loads((brief / "checkpoints/best/clarion.json").read_text())["system_prompts"]
    assert record == {"rows": 32, "distinct": 1, "most": [{"text": BRIEF, "rows": 32}]}
    folder = tmp_path / "mixed"
    folder.mkdir()
    for split, count in (("train", 9), ("val", 2), ("test", 2)):
        rows = [{"question": f"{split} question {k}?", "answer": "Yes"} for k in range(count)]
        for row in rows[: count * 2 // 3]:
            row["system"] = "Say yes."
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    argv = ["model=llama_tiny", "data=instruct_jsonl", f"data.root={folder}", "data.kind=public", "trainer.epochs=1",
            "trainer.device=cpu", "model.architecture.num_hidden_layers=1",
            "model.generation.max_new_tokens=4"]  # fmt: skip
    assert launch.train([*argv, f"runs_dir={tmp_path}"]) == 0
    mixed = next(tmp_path.glob("*/metrics.json")).parent
    capsys.readouterr()
    for model in (mixed, mixed / "checkpoints" / "best"):
        answer = asking.ask("Is it?", str(model))
        assert answer["messages"] == prompt_messages("Is it?", "Say yes.")
        said = capsys.readouterr().err
        assert "2 system prompts" in said and "(6 of 9 rows): `Say yes.`. --system" in said
    assert cli.main(["ask", "Is it?", "--model", str(mixed), "--system", "Other.", "--format", "json"]) == 0
    out = capsys.readouterr()
    assert json.loads(out.out)["messages"] == prompt_messages("Is it?", "Other.") and "system prompts" not in out.err
    assert asking.ask("Is it?", str(mixed), system="")["messages"] == prompt_messages("Is it?", None)


def test_the_system_prompt_of_the_config_is_the_published_one():
    from clarion.config import compose_config

    assert compose_config(["data=instruct_jsonl"]).data.system == OPHTIMUS_SYSTEM


def test_a_model_elsewhere_is_refused_in_one_sentence(run, monkeypatch, capsys):
    from clarion import trained
    from clarion.trainers.api import ApiPredictor, connect

    model = {"base_url": "http://127.0.0.1:9/v1", "served": "m"}
    far = trained.Trained(ApiPredictor(connect(model), model), "far", "0", "public", [])
    monkeypatch.setattr(trained, "open_model", lambda *_: far)
    assert cli.main(["ask", "Why?", "--model", str(run)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "answers through http://127.0.0.1:9/v1" in line
