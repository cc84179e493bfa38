"""`clarion ask`: one question to a trained language model, alone or over the findings of a measured eye."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from clarion.errors import UsageError
from clarion.findings import read_document

MAX_QUESTION = 20_000  # characters
SHOWN = 200  # characters of a system prompt in a message
LISTED = (100, 40, 20, 10, 5)  # findings that a prompt lists, tried in turn until it fits


def ask(
    question: str,
    model: str,
    findings: Path | None = None,
    max_new_tokens: int | None = None,
    device: str = "auto",
    out: Any = None,
    system: str | None = None,
) -> dict[str, Any]:
    """Answer in the published layout with the model's own template and stop tokens; pieces go to `out` as they come.

    model: a run directory or checkpoint of task generation, whose weights answer on this machine. system: a system
    prompt ("" for none); None takes the one that the training used most, and says on stderr where it used several.
    Returns {"question", "answer", "model", "hash",
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
    if system is None:
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
    """What most conversations of the training began with, as its checkpoint records it; a warning where there were
    others. Without that record data.system of the run's config, and the published one for a bare checkpoint."""
    from clarion.llm.prompts import OPHTIMUS_SYSTEM
    from clarion.record import RunRecord, read_json

    path = Path(model).expanduser()
    record = RunRecord(path.resolve()) if (path / "config.yaml").is_file() else None
    checkpoint = record.directory / str(record.manifest().get("checkpoint")) if record else path
    used = read_json(checkpoint / "clarion.json").get("system_prompts")
    if used is None:
        return record.config().data.get("system", OPHTIMUS_SYSTEM) if record else OPHTIMUS_SYSTEM
    first = used["most"][0]
    if used["distinct"] > 1:
        shown = f"`{first['text'][:SHOWN]}{'...' if len(first['text']) > SHOWN else ''}`" if first["text"] else "none"
        print(
            f"warning: the training used {used['distinct']} system prompts; asked with the commonest "
            f"({first['rows']} of {used['rows']} rows): {shown}. --system TEXT chooses another.",
            file=sys.stderr,
        )
    return first["text"]


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
