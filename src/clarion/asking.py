"""`clarion ask`: one question to a trained language model, alone or over the findings of a measured eye."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from clarion.errors import UsageError
from clarion.findings import read_document

MAX_QUESTION = 20_000  # characters
LISTED = (100, 40, 20, 10, 5)  # findings that a prompt lists, tried in turn until it fits


def ask(
    question: str,
    model: str,
    findings: Path | None = None,
    max_new_tokens: int | None = None,
    device: str = "auto",
    out: Any = None,
) -> dict[str, Any]:
    """Answer in the published layout with the model's own template and stop tokens; pieces go to `out` as they come.

    model: a run directory or checkpoint of task generation, whose weights answer on this machine. The system prompt is
    the one that the run's data were given (data.system of its config). Returns {"question", "answer", "model", "hash",
    "trained_on", "findings" (ids that stand in the prompt), "messages" (what was asked), "warnings"}. UsageError /
    DataError come before a model is loaded where possible.
    """
    question = _checked(question)
    document = read_document(findings) if findings is not None else None
    from clarion.llm.grounded import grounded_messages, ranked
    from clarion.trained import open_model
    from clarion.trainers.sft_stream import fits, require_streaming, stream

    trained = open_model(model, "generation", "smollm2_135m", device)
    require_streaming(trained.predictor, f"--model {model}")
    system = system_prompt(model)
    if max_new_tokens is not None:
        _limit(trained.predictor, max_new_tokens)
    messages, listed = grounded_messages(question, document, system), 0
    if document is not None:  # a small context takes the leading findings only
        for listed in LISTED:
            messages = grounded_messages(question, document, system, most=listed)
            if fits(trained.predictor, messages):
                break
    parts = []
    for piece in stream(trained.predictor, messages):
        parts.append(piece)
        if out is not None:
            out.write(piece)
            out.flush()
    if out is not None:
        out.write("\n")
    answer = "".join(parts).strip()
    warnings = _warnings(answer, trained.trained_on)
    if document is not None and listed < len(document.findings):
        warnings.append(f"the model was shown {listed} of {len(document.findings)} findings: its context holds no more")
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    used = [f.id for f in ranked(document)[:listed]] if document else []
    said = {"question": question, "answer": answer, **trained.source}
    return said | {"findings": used, "messages": messages, "warnings": warnings}


def system_prompt(model: str) -> str | None:
    """What the run's training data began with: data.system of its config; the published one for a bare checkpoint."""
    from clarion.llm.prompts import OPHTIMUS_SYSTEM
    from clarion.record import RunRecord

    path = Path(model).expanduser()
    if not (path / "config.yaml").is_file():
        return OPHTIMUS_SYSTEM
    return RunRecord(path.resolve()).config().data.get("system", OPHTIMUS_SYSTEM)


def _checked(question: str) -> str:
    question = question.strip()
    if not question:
        raise UsageError('The question is empty: clarion ask "Which stage is this?" --model RUN.')
    if len(question) > MAX_QUESTION:
        raise UsageError(f"The question has {len(question):,} characters; {MAX_QUESTION:,} are taken.")
    return question


def _limit(predictor: Any, tokens: int) -> None:
    if not 1 <= tokens <= 8192:
        raise UsageError(f"--max-new-tokens {tokens}: give 1 to 8192.")
    predictor.limit += int(predictor.config.max_new_tokens) - tokens
    predictor.config.max_new_tokens = tokens


def _warnings(answer: str, trained_on: str) -> list[str]:
    """What a reader should know before believing the answer."""
    found = ["research software: not a medical device, and nobody has checked this answer"]
    if trained_on == "phantom":
        found.append("the model was tuned on synthetic cases")
    if not answer:
        found.append("the model said nothing")
    return found
