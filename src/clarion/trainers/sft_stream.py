"""One answer of a language model, piece by piece as it is generated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from threading import Event, Thread
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer

from clarion.errors import ClarionError, DataError, UsageError
from clarion.trainers.sft_chat import render


class _Stop(StoppingCriteria):
    """Ends the generation when nobody listens any more."""

    def __init__(self, asked: Event):
        self.asked = asked

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), self.asked.is_set(), device=input_ids.device)


def require_streaming(predictor: Any, what: str) -> None:
    """UsageError for anything but a language model of this process: a server's run, vLLM's, a model of documents."""
    from clarion.trainers.sft_predict import SftPredictor

    if isinstance(predictor, SftPredictor):
        return
    server = getattr(predictor, "server", None)
    where = f"answers through {server.url}" if server is not None else f"is opened by {type(predictor).__name__}"
    raise UsageError(
        f"{what} {where}: clarion ask streams models whose weights transformers opens here (model=smollm2_135m, "
        "hf_causal, ...); give such a run."
    )


def fits(predictor: Any, messages: Sequence[Mapping[str, str]]) -> bool:
    """Whether the prompt leaves room for max_new_tokens."""
    return len(_prompt(predictor, messages)) <= predictor.limit


def _prompt(predictor: Any, messages: Sequence[Mapping[str, str]]) -> list[int]:
    return render(predictor.tokenizer, messages, predictor.template_args, generate=True)


def stream(predictor: Any, messages: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """Pieces of the answer of an SftPredictor (its template, stop tokens and generation settings), special tokens left
    out. Raises DataError for a prompt that leaves no room for max_new_tokens, ClarionError where generation fails."""
    prompt = _prompt(predictor, messages)
    if len(prompt) > predictor.limit:
        raise DataError(
            f"the prompt has {len(prompt)} tokens; with max_new_tokens={predictor.config.max_new_tokens} this model "
            f"takes {predictor.limit}: ask with fewer findings or a shorter question."
        )
    pieces = TextIteratorStreamer(predictor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    ids = torch.tensor([prompt], device=predictor.network.device)
    closed, failed = Event(), []

    def work() -> None:
        try:
            with torch.inference_mode():
                predictor.network.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    generation_config=predictor.config,
                    streamer=pieces,
                    stopping_criteria=StoppingCriteriaList([_Stop(closed)]),
                )
        except Exception as error:  # the reader would wait for ever
            failed.append(error)
            pieces.end()

    thread = Thread(target=work, daemon=True)
    thread.start()
    try:
        yield from (piece for piece in pieces if piece)
    finally:
        closed.set()
        thread.join()
    if failed:
        raise ClarionError(f"the answer could not be generated: {failed[0]}") from failed[0]
