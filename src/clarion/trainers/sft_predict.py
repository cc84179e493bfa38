"""Answers of a language model: generated text and the log-probabilities of answer options, batched and streaming.

Greedy unless the config says otherwise. What was answered before is taken from the cache (answers.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from transformers import GenerationConfig

from clarion.errors import DataError, UsageError
from clarion.trainers.answers import AnswerCache, NoCache, digest, network_identity, wanted
from clarion.trainers.base import Prediction, Sample
from clarion.trainers.sft_chat import ChatFormat, render
from clarion.trainers.sft_options import Question, option_logprobs, question

CHUNK_BATCHES = 8  # batches whose prompts are sorted by length together: less padding, still streaming


class SftPredictor:
    """Samples {"messages" [, "options", "lead", "blind_messages"]} -> predictions, in the order of the samples.

    text: the answer without special tokens, stripped; stopped: it ended with a stop token rather than at
    max_new_tokens; tokens: generated tokens. A sample with options also gets option_logprobs (sum over the tokens of
    each option behind prompt and lead), option_tokens and blind_logprobs (the same behind blind_messages, or None);
    with max_new_tokens=0 nothing else. generation: {max_new_tokens, batch_size} plus any field of
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
        self.stop_id, self.stop_ids = chat.stop_id, sorted({*stop_ids, chat.stop_id})
        defaults = {"max_new_tokens": 128, "do_sample": False}
        unknown = sorted(set(settings) - set(GenerationConfig().to_dict()))
        if unknown:
            raise UsageError(
                f"model.generation has no setting {', '.join(unknown)}: see transformers.GenerationConfig."
            )
        settings = defaults | settings
        self.generates = int(settings["max_new_tokens"]) > 0
        if not self.generates:
            settings["max_new_tokens"] = 1  # transformers refuses 0; nothing will be generated
        # Made anew: a hub model's own generation_config may sample (Llama's does: temperature 0.6).
        try:
            self.config = GenerationConfig(
                **settings, eos_token_id=self.stop_ids, pad_token_id=tokenizer.pad_token_id
            )
            self.config.validate(strict=True)
        except (TypeError, ValueError) as error:
            raise UsageError(f"model.generation is refused by transformers: {' '.join(str(error).split())}") from error
        self.network.generation_config = self.config
        self.context = int(network.config.max_position_embeddings)
        self.limit = self.context - int(self.config.max_new_tokens)
        self.cache: AnswerCache | NoCache = NoCache()

    def use_cache(self, setting: Any, data_kind: str | None) -> None:
        """model.cache (auto | true | false) and the kind of the data that will be asked about."""
        # Hashing the weights takes seconds for the large ones: not before a cache is wanted.
        keep = wanted(setting, data_kind)
        self.cache = AnswerCache(network_identity(self.network, self.tokenizer)) if keep else NoCache()

    def __call__(self, samples: Iterable[Sample]) -> Iterator[Prediction]:
        """Raises DataError for a prompt that does not fit into the context (with room for max_new_tokens)."""
        iterator = iter(samples)
        position = 0
        while chunk := list(islice(iterator, self.batch_size * CHUNK_BATCHES)):
            values: list[dict[str, Any]] = [{} for _ in chunk]
            self._add_option_scores(chunk, values)
            self._add_texts(chunk, values, self.seed + position)
            yield from (Prediction(s.sample_id, s.patient_id, v) for s, v in zip(chunk, values, strict=True))
            position += len(chunk)

    # ------------------------------------------------------------------------------------------------ options

    def _add_option_scores(self, chunk: Sequence[Sample], values: Sequence[dict[str, Any]]) -> None:
        jobs: list[tuple[int, str, Question]] = []  # row, column, what to score
        for row, sample in enumerate(chunk):
            if sample.inputs.get("options") is None:
                continue
            values[row] |= {"option_logprobs": None, "option_tokens": None, "blind_logprobs": None}
            for column, name in (("option_logprobs", "messages"), ("blind_logprobs", "blind_messages")):
                if sample.inputs.get(name) is not None:
                    jobs.append((row, column, self._question(sample, name)))
        scores = self._answered(
            [digest("options", q.prefix, q.options) for _, _, q in jobs],
            [q.packed for _, _, q in jobs],
            lambda part, _: option_logprobs(
                self.network, [jobs[k][2] for k in part], self.tokenizer.pad_token_id
            ),
            self.cache,
        )
        for (row, column, one), score in zip(jobs, scores, strict=True):
            values[row][column] = score
            if column == "option_logprobs":
                values[row]["option_tokens"] = [len(option) for option in one.options]

    def _question(self, sample: Sample, name: str) -> Question:
        inputs = sample.inputs
        one = question(
            self.tokenizer, inputs[name], inputs.get("lead", ""), inputs["options"], self.template_args,
            sample.sample_id,
        )  # fmt: skip
        if one.longest > self.context:
            raise DataError(
                f"the prompt of sample {sample.sample_id} has {one.longest} tokens with its longest option; this model "
                f"takes {self.context}: shorten the prompt."
            )
        return one

    # ------------------------------------------------------------------------------------------------ generation

    def _add_texts(self, chunk: Sequence[Sample], values: Sequence[dict[str, Any]], seed: int) -> None:
        if not self.generates:
            bare = [s.sample_id for s in chunk if s.inputs.get("options") is None]
            if bare:
                raise UsageError(
                    f"sample {bare[0]} has no options to score, and model.generation.max_new_tokens=0 generates no "
                    "text: raise it."
                )
            return
        prompts = [self._prompt(sample) for sample in chunk]
        settings = self.config.to_diff_dict()
        drawn = self.config.do_sample  # such an answer depends on its place too: it cannot be taken from elsewhere
        texts = self._answered(
            [digest("text", p, settings, self.stop_ids, k if drawn else None) for k, p in enumerate(prompts)],
            [len(p) for p in prompts],
            lambda part, start: self._generate([prompts[k] for k in part], seed + start),
            NoCache() if drawn else self.cache,
        )
        for value, text in zip(values, texts, strict=True):
            value |= text

    def _prompt(self, sample: Sample) -> list[int]:
        ids = render(self.tokenizer, sample.inputs["messages"], self.template_args, generate=True)
        if len(ids) > self.limit:
            raise DataError(
                f"the prompt of sample {sample.sample_id} has {len(ids)} tokens; with max_new_tokens="
                f"{self.config.max_new_tokens} this model takes {self.limit}: shorten the prompt."
            )
        return ids

    def _answered(
        self,
        keys: Sequence[str],
        lengths: Sequence[int],
        answer: Callable[[list[int], int], list[Any]],
        cache: AnswerCache | NoCache,
    ) -> list[Any]:
        """The answer to each key: known ones from the cache, the others in batches of similar length, each batch kept
        as soon as it is there; what is asked twice (the same options without their question) is computed once.
        answer(rows, first place) -> their answers."""
        known = cache.find(keys)
        first = {key: k for k, key in reversed(list(enumerate(keys))) if key not in known}
        order = sorted(first.values(), key=lambda k: (lengths[k], k))
        for start in range(0, len(order), self.batch_size):
            part = order[start : start + self.batch_size]
            fresh = dict(zip((keys[k] for k in part), answer(part, start), strict=True))
            cache.keep(fresh)
            known |= fresh
        return [known[key] for key in keys]

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
