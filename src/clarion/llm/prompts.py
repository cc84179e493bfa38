"""Prompts of the ophthalmology language-model line, and the message lists that every part exchanges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# The system prompt of the published models (Ophtimus); a model tuned with it expects it at inference too.
OPHTIMUS_SYSTEM = (
    "You are an expert ophthalmologist. Please provide accurate and medically sound answers to the user's "
    "ophthalmology-related question."
)
LETTERS = "ABCDE"  # the published data have two, four or five options
ANSWER_LEAD = "Answer:\n"  # what stands before the chosen option in the published targets

Message = dict[str, str]


def labelled(options: Sequence[str]) -> list[str]:
    """["Glaucoma", "Cataract"] -> ["A) Glaucoma", "B) Cataract"], as prompts and targets write them."""
    return [f"{letter}) {option.strip()}" for letter, option in zip(LETTERS, options, strict=False)]


def user_turn(question: str, options: Sequence[str] = (), context: str = "") -> str:
    """The published layout: [Context,] Question [, Options], blank lines between."""
    parts = [f"Context:\n{context.strip()}"] if context.strip() else []
    if question.strip():
        parts.append(f"Question:\n{question.strip()}")
    if options:
        parts.append("Options:\n" + "\n".join(labelled(options)))
    return "\n\n".join(parts)


def prompt_messages(
    question: str, system: str | None = OPHTIMUS_SYSTEM, options: Sequence[str] = (), context: str = ""
) -> list[Message]:
    """What the model is asked, never the answer: [system,] user."""
    turns = [{"role": "system", "content": system.strip()}] if system and system.strip() else []
    return [*turns, {"role": "user", "content": user_turn(question, options, context)}]


def completion_messages(answer: str) -> list[Message]:
    """What the model is to say. Stripped: a leading blank would merge with the template's own white space."""
    return [{"role": "assistant", "content": answer.strip()}]


def target_text(item: Mapping[str, Any], explanations: bool = True) -> str:
    """The published target of an item with options, with its explanation first where there is one; else the answer."""
    options = item.get("options")
    if not options:
        return str(item["answer"])
    answer = ANSWER_LEAD + labelled(options)[item["answer_index"]]
    explanation = str(item.get("explanation") or "").strip()
    return f"Explanation:\n{explanation}\n\n{answer}" if explanation and explanations else answer
