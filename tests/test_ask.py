"""`clarion ask`: a streamed answer of a trained model, grounded in a findings.json, with what a reader must know."""

from __future__ import annotations

import io
import json

import pytest

from clarion import asking, cli, launch
from clarion.findings import Document, Finding
from clarion.llm.grounded import GROUNDED_SYSTEM, findings_block, grounded_messages
from clarion.llm.prompts import OPHTIMUS_SYSTEM
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
    assert len(answer["findings"]) == 101 and "of 101 findings" in said.err  # the tiny context holds fewer, and says so


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
    assert messages[0]["content"] == GROUNDED_SYSTEM
    assert messages[1]["content"].endswith("Question:\n망막전막이 있습니까?")


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
