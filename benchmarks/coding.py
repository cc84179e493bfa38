"""Text to ICD-10-CM codes: rules and embedding against encoding every sentence and taking the nearest title.

    python benchmarks/coding.py                      # the claim: 1,000 notes a minute on two cores
    python benchmarks/coding.py --notes 40 --peer-notes 2

Notes of 6-14 sentences are drawn from lines as clinics write them (findings, negations, history, normal examinations,
treatments, English and some Korean), seeded, so few sentences repeat another note's. Ours is `TextCoder.batch` over all
notes. The peer encodes every sentence by itself with the same MiniLM and takes the nearest of the 2,677 eye titles by
cosine, as published coding evaluations do; its titles are encoded beforehand (not timed). Its notes are fewer, since
its time is a sum over sentences. Both run in turns in one process with the same threads; times are wall and CPU.

The last line is JSON: ratio is peer / ours in CPU seconds a note, notes_per_minute ours by the wall clock, single_ms
the median time of one short text after loading, of the slowest of three (one needs the embedding).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import statistics
import time
import warnings

LINES = (
    "{eye} {finding}, {stage} stage.", "Impression: {finding} {eye}.", "No evidence of {other} in either eye.",
    "Family history of {other}.", "Past ocular history: {other} {eye}, treated years ago.",
    "Visual acuity was 20/{number} {eye}.", "Intraocular pressure {number} mmHg {eye} by applanation.",
    "Slit lamp: cornea clear, anterior chamber deep and quiet.", "Fundus: {finding} {eye} with {number} spots.",
    "The patient reports that the sight of the {side} eye got worse over {number} weeks.",
    "OCT of the macula shows a thickness of {number} micrometers {eye}.", "Rule out {other} {eye}.",
    "The lids droop a little more in the evening, {number} days.",
    "Continue latanoprost every evening, {number} months.",
    "Return in {number} months with visual fields.", "A membrane wrinkles the surface of the macula in zone {number}.",
    "{korean_eye} {korean} 소견, {number}개월 후 재검.", "{korean}은 없음, 안압 {number} mmHg.",
)  # fmt: skip
FINDINGS = ("POAG", "primary open-angle glaucoma", "nuclear sclerotic cataract", "wet AMD", "ERM", "severe NPDR",
    "CRVO",
            "retinal detachment", "macular hole", "dry eye syndrome", "keratoconus", "anterior uveitis",
            "pterygium")  # fmt: skip
KOREAN = ("녹내장", "백내장", "황반변성", "망막전막", "당뇨망막병증", "망막박리")


def note(draw: random.Random) -> list[str]:
    """Sentences of one note."""
    return [
        draw.choice(LINES).format(
            eye=draw.choice(("OD", "OS", "OU")), side=draw.choice(("right", "left")),
            stage=draw.choice(("mild", "moderate")),
            finding=draw.choice(FINDINGS), other=draw.choice(FINDINGS), number=draw.randrange(10, 400),
            korean=draw.choice(KOREAN), korean_eye=draw.choice(("우안", "좌안", "양안")),
        )
        for _ in range(draw.randrange(6, 15))
    ]  # fmt: skip


def timed(work):
    """(result, wall seconds, CPU seconds)"""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--notes", type=int, default=1000)
    parser.add_argument("--peer-notes", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3, help="ours and the peer in turns")
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", "2")))
    args = parser.parse_args()
    logging.disable(logging.INFO)
    warnings.filterwarnings("ignore")

    import torch

    torch.set_num_threads(args.threads)
    from clarion.llm.coding.coder import TextCoder
    from clarion.llm.coding.validation.eye_titles import CHAPTER, title_vectors

    coder = TextCoder().load()
    encoder = coder.index.encoder
    titles = title_vectors([coder.system.title(c) for c in coder.system.descendant_leaves(CHAPTER)], encoder)
    draw = random.Random(0)
    notes = [note(draw) for _ in range(args.notes)]
    rounds = max(1, min(args.rounds, args.notes, args.peer_notes))
    ours_wall = ours_cpu = peer_wall = peer_cpu = 0.0
    codes = sentences = 0

    def peer(part):
        return [int((encoder([s]) @ titles.T.astype(float)).argmax()) for n in part for s in n]

    for k in range(rounds):
        part = notes[k::rounds]
        found, wall, cpu = timed(lambda part=part: coder.batch([" ".join(n) for n in part]))
        ours_wall, ours_cpu = ours_wall + wall, ours_cpu + cpu
        codes += sum(len(f.codes) for f in found)
        mine = notes[: args.peer_notes][k::rounds]
        _, wall, cpu = timed(lambda mine=mine: peer(mine))
        peer_wall, peer_cpu = peer_wall + wall, peer_cpu + cpu
        sentences += sum(map(len, mine))
    texts = ["wet AMD right eye active CNV", "the lids droop a little more in the evening", "no evidence of glaucoma"]
    times = [[timed(lambda t=t: coder(t))[1:] for _ in range(5)] for t in texts]
    single, single_cpu = (max(statistics.median(run[k] for run in one) for one in times) for k in (0, 1))
    a_note, a_peer = ours_cpu / len(notes), peer_cpu / args.peer_notes
    print(
        f"{len(notes)} notes, {codes} codes, {args.threads} thread(s): ours {1000 * a_note:.1f} CPU-ms a note, "
        f"{60 * len(notes) / ours_wall:.0f} notes a minute; peer {1000 * a_peer:.1f} CPU-ms a note ({sentences} "
        f"sentences)"
    )
    print(
        json.dumps(
            {
                "name": "text to ICD-10-CM codes, rules + embedding, notes of 6-14 sentences on a CPU",
                "ratio": round(a_peer / a_note, 2),
                "peer": "MiniLM encodes every sentence one by one, cosine over all 2,677 eye titles (same process)",
                "n": len(notes),
                "n_peer": args.peer_notes,
                "notes_per_minute": round(60 * len(notes) / ours_wall),
                "notes_per_minute_peer": round(60 * args.peer_notes / peer_wall),
                "cpu_ms_a_note": {"ours": round(1000 * a_note, 2), "peer": round(1000 * a_peer, 2)},
                "single_ms": round(1000 * single, 1),
                "single_cpu_ms": round(1000 * single_cpu, 1),
                "threads": args.threads,
                "load": round(os.getloadavg()[0], 1),
            }
        )
    )


if __name__ == "__main__":
    main()
