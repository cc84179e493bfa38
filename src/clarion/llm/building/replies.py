"""Replies of a generator: kept on disk by prompt, and read tolerantly as JSON."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from clarion.errors import DataError

_QUESTION = ("question", "q", "stem", "질문", "문제")
_ANSWER = ("answer", "correct_answer", "correct_option", "correct", "a", "정답", "답변", "답")
_EXPLANATION = ("explanation", "rationale", "reason", "reasoning", "설명", "해설")
_OPTIONS = ("options", "choices", "선택지", "보기")


class Replies:
    """replies.jsonl in a folder: prompt key -> reply text; truncated: keys of those that were cut off at the token
    limit. Appended as replies come, so that a build goes on where it
    was stopped; a line that a kill cut short is left out."""

    def __init__(self, folder: Path):
        self.path = folder / "replies.jsonl"
        self.known: dict[str, str] = {}
        self.truncated: set[str] = set()
        if self.path.is_file():
            whole = self.path.read_bytes()
            end = whole.rfind(b"\n") + 1
            if end != len(whole):  # the next reply must not be glued to half a line
                with open(self.path, "r+b") as file:
                    file.truncate(end)
            for line in whole[:end].splitlines():
                try:
                    row = json.loads(line)
                    self.known[row["key"]] = row["text"]
                    if row.get("truncated"):
                        self.truncated.add(row["key"])
                except (json.JSONDecodeError, KeyError, TypeError):
                    raise DataError(f"{self.path} is damaged; delete it to ask again.") from None

    def add(self, replies: Mapping[str, str], truncated: Collection[str] = ()) -> None:
        """replies: key -> text; truncated: which of the keys were cut off."""
        with open(self.path, "a", encoding="utf-8") as file:
            for key, text in replies.items():
                row = {"key": key, "text": text} | ({"truncated": True} if key in truncated else {})
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        self.known.update(replies)
        self.truncated.update(truncated)


def read_reply(text: str) -> list[dict[str, Any]] | None:
    """The records in a reply: a JSON list or objects, in a code fence or among words, with trailing commas or Python
    quotes; None where there is none. An object that holds a list of objects stands for that list."""
    for candidate in _candidates(text):
        value = _parsed(candidate)
        if isinstance(value, dict):
            inner = [v for v in value.values() if isinstance(v, list) and v and all(isinstance(x, dict) for x in v)]
            value = inner[0] if inner and not _first(value, _QUESTION) else [value]
        if isinstance(value, list):
            if records := [x for x in value if isinstance(x, dict)]:
                return records
    loose = [v for v in map(_parsed, _objects(text)) if isinstance(v, dict)]  # a list cut off at the token limit
    return loose or None


def _candidates(text: str) -> list[str]:
    found = [m[1] for m in re.finditer(r"```(?:json)?\s*(.*?)```", text, re.DOTALL | re.IGNORECASE)] + [text]
    for opening, closing in ("[]", "{}"):
        start, end = text.find(opening), text.rfind(closing)
        if 0 <= start < end:
            found.append(text[start : end + 1])
    return found


def _objects(text: str) -> list[str]:
    """Every balanced {...} at the outermost level that closes."""
    found, depth, start, quoted, escaped = [], 0, 0, False, False
    for k, character in enumerate(text):
        if quoted:
            quoted = escaped or character != '"'
            escaped = character == "\\" and not escaped
        elif character == '"' and depth:
            quoted = True
        elif character == "{":
            start, depth = (k if depth == 0 else start), depth + 1
        elif character == "}" and depth:
            depth -= 1
            if depth == 0:
                found.append(text[start : k + 1])
    return found


def _parsed(text: str) -> Any:
    cleaned = re.sub(r",\s*([\]}])", r"\1", text.strip().replace("“", '"').replace("”", '"'))
    for parse in (json.loads, lambda t: json.loads(t, strict=False), ast.literal_eval):
        try:
            return parse(cleaned)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
    return None


def _first(record: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    lower = {str(k).strip().lower(): v for k, v in record.items()}
    return next((lower[n] for n in names if lower.get(n) not in (None, "")), None)


def fields(record: Mapping[str, Any]) -> dict[str, Any]:
    """question, answer, explanation and options of a record under whichever of the usual names; absent ones left out.

    options stay as they were given (list, {letter: text}, option_a columns); a list of "A) text" loses its labels."""
    lower = {str(k).strip().lower(): v for k, v in record.items()}
    found = {"question": _first(record, _QUESTION), "answer": _first(record, _ANSWER)}
    found["explanation"] = _first(record, _EXPLANATION)
    found["options"] = _first(record, _OPTIONS)
    if isinstance(found["options"], list):
        found["options"] = [_unlabelled(o) for o in found["options"]]
    found |= {k: v for k, v in lower.items() if re.fullmatch(r"option_[a-e]", k)}
    return {k: v.strip() if isinstance(v, str) else v for k, v in found.items() if v is not None}


def _unlabelled(option: Any) -> Any:
    if isinstance(option, dict):  # {"label": "A", "text": "..."} or {"A": "..."}
        option = option.get("text") or next(iter(option.values()), None)
    return re.sub(r"^\(?[A-Ea-e][).:]\s+", "", option) if isinstance(option, str) else option
