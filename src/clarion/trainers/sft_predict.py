"""Generation with a fine-tuned model: batched, streaming, greedy unless the config says otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from transformers import GenerationConfig

from clarion.errors import DataError, UsageError
from clarion.trainers.base import Prediction, Sample
from clarion.trainers.sft_chat import ChatFormat, render

CHUNK_BATCHES = 8  # batches whose prompts are sorted by length together: less padding, still streaming


class SftPredictor:
    """Samples {"messages"} -> Prediction {"text", "stopped", "tokens"}, in the order of the samples.

    text: the answer without special tokens, stripped; stopped: it ended with a stop token rather than at
    max_new_tokens; tokens: generated tokens. generation: {max_new_tokens, batch_size} plus any field of
    transformers.GenerationConfig; greedy unless do_sample is set, and then drawn from `seed`.
    """

    def __init__(
        self,
        network: Any,
        tokenizer: Any,
        chat: ChatFormat,
        stop_ids: Iterable[int],
        generation: Mapping[str, Any],
        template_args: Mapping[str, Any],
        seed: int = 0,
    ):
        settings = dict(generation)
        self.batch_size = int(settings.pop("batch_size", 16))
        self.network, self.tokenizer, self.template_args, self.seed = network, tokenizer, dict(template_args), seed
        self.stop_ids = sorted({*stop_ids, chat.stop_id})
        defaults = {"max_new_tokens": 128, "do_sample": False}
        unknown = sorted(set(settings) - set(GenerationConfig().to_dict()))
        if unknown:
            raise UsageError(
                f"model.generation has no setting {', '.join(unknown)}: see transformers.GenerationConfig."
            )
        # Made anew: a hub model's own generation_config may sample (Llama's does: temperature 0.6).
        try:
            self.config = GenerationConfig(
                **(defaults | settings), eos_token_id=self.stop_ids, pad_token_id=tokenizer.pad_token_id
            )
            self.config.validate(strict=True)
        except (TypeError, ValueError) as error:
            raise UsageError(f"model.generation is refused by transformers: {' '.join(str(error).split())}") from error
        self.network.generation_config = self.config
        self.limit = int(network.config.max_position_embeddings) - int(self.config.max_new_tokens)

    def __call__(self, samples: Iterable[Sample]) -> Iterator[Prediction]:
        """Raises DataError for a prompt that leaves no room for max_new_tokens."""
        iterator = iter(samples)
        position = 0
        while chunk := list(islice(iterator, self.batch_size * CHUNK_BATCHES)):
            prompts = [self._prompt(sample) for sample in chunk]
            order = sorted(range(len(chunk)), key=lambda k: (len(prompts[k]), k))
            answers: dict[int, Prediction] = {}
            for start in range(0, len(order), self.batch_size):
                part = order[start : start + self.batch_size]
                values = self._generate([prompts[k] for k in part], self.seed + position + start)
                for k, value in zip(part, values, strict=True):
                    answers[k] = Prediction(chunk[k].sample_id, chunk[k].patient_id, value)
            yield from (answers[k] for k in range(len(chunk)))
            position += len(chunk)

    def _prompt(self, sample: Sample) -> list[int]:
        ids = render(self.tokenizer, sample.inputs["messages"], self.template_args, generate=True)
        if len(ids) > self.limit:
            raise DataError(
                f"the prompt of sample {sample.sample_id} has {len(ids)} tokens; with max_new_tokens="
                f"{self.config.max_new_tokens} this model takes {self.limit}: shorten the prompt."
            )
        return ids

    def _generate(self, prompts: list[list[int]], seed: int) -> list[dict[str, Any]]:
        width, pad = max(map(len, prompts)), self.tokenizer.pad_token_id
        # Left padding: all prompts end in the same column, where generation continues.
        ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], device=self.network.device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=self.network.device)
        devices = [self.network.device] if self.network.device.type == "cuda" else []
        with torch.inference_mode(), torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            output = self.network.generate(input_ids=ids, attention_mask=mask, generation_config=self.config)
        return [self._value(row[width:].tolist()) for row in output]

    def _value(self, generated: list[int]) -> dict[str, Any]:
        stops = [k for k, token in enumerate(generated) if token in self.stop_ids]
        kept = generated[: stops[0]] if stops else generated
        text = self.tokenizer.decode(kept, skip_special_tokens=True).strip()
        return {"text": text, "stopped": bool(stops), "tokens": len(kept)}
