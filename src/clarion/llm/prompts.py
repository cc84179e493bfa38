"""Prompts of the ophthalmology language-model line, and the message lists that every part exchanges."""

from __future__ import annotations

# The system prompt of the published models (Ophtimus); a model tuned with it expects it at inference too.
OPHTIMUS_SYSTEM = (
    "You are an expert ophthalmologist. Please provide accurate and medically sound answers to the user's "
    "ophthalmology-related question."
)

Message = dict[str, str]


def user_turn(question: str) -> str:
    """The published layout of a question without options."""
    return f"Question:\n{question.strip()}"


def prompt_messages(question: str, system: str | None = OPHTIMUS_SYSTEM) -> list[Message]:
    """What the model is asked, never the answer: [system,] user."""
    turns = [{"role": "system", "content": system.strip()}] if system and system.strip() else []
    return [*turns, {"role": "user", "content": user_turn(question)}]


def completion_messages(answer: str) -> list[Message]:
    """What the model is to say. Stripped: a leading blank would merge with the template's own white space."""
    return [{"role": "assistant", "content": answer.strip()}]
