"""The fact check of one prognosis: that of every rationale, and the statement with which a fused model's answer begins.

The statement ("The patient survives five years.") is a form of words that the rules of the fact check leave alone; here
the probability is known, and a statement on the other side of one half is removed like any other wrong sentence.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, replace
from typing import Any

from clarion.evaluators.factcheck_claims import CONTRADICTED, SUPPORTED, Claim
from clarion.evaluators.factcheck_facts import Facts
from clarion.evaluators.factcheck_text import Checked, check


def check_text(text: str, facts: Facts, symbols: Collection[str], statements: tuple[str, str]) -> Checked:
    """statements: (survives, dies), see `Prompter.statements`; said again and again, it is one claim. facts: with the
    probability."""
    found = check(text, facts, symbols)
    right, wrong = statements if facts.survives else statements[::-1]
    sentences, removed, left, said = [], list(found.removed), found.text, False
    for sentence, claims in found.sentences:
        if not claims and sentence in statements:
            about = "survives" if sentence == statements[0] else "dies"
            if sentence == wrong:
                claims = (Claim("outcome", about, sentence, CONTRADICTED, right),)
                removed.append(sentence)
                left = left.replace(sentence, "", 1).strip()
            elif not said:
                claims, said = (Claim("outcome", about, sentence, SUPPORTED),), True
        sentences.append((sentence, claims))
    return replace(found, sentences=tuple(sentences), removed=tuple(removed), text=left)


def counted(checked: Checked | None) -> dict[str, Any]:
    """Counts and what was removed, for the JSON; None: there was no text."""
    if checked is None:
        return {"sentences": 0, "removed": [], "claims": 0, "supported": 0, "precision": None, "unread": 0,
                "repeated": 0, "unsupported": [], "omitted": [], "expected": 0, "empty": True}  # fmt: skip
    claims, wrong = checked.claims, checked.unsupported
    read = sum(bool(own) for _, own in checked.sentences)
    words = [text for text, _ in checked.sentences if text]
    return {
        "sentences": read + checked.unread, "removed": list(checked.removed), "claims": len(claims),
        "supported": len(claims) - len(wrong), "precision": checked.precision, "unread": checked.unread,
        "repeated": len(words) - len(set(words)), "unsupported": [asdict(c) for c in wrong],
        "omitted": list(checked.left_out), "expected": checked.expected, "empty": not checked.text.strip(),
    }  # fmt: skip
