"""Answers from vLLM in this process: its scheduler batches, its prefix cache reads a shared prompt once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from clarion.errors import UsageError
from clarion.trainers.answers import AnswerCache, NoCache, wanted
from clarion.trainers.base import Prediction, Sample
from clarion.trainers.sft_chat import chat_format, render, use_template
from clarion.trainers.sft_options import question

CHUNK = 256  # requests that vLLM schedules together
SETTINGS = ("temperature", "top_p", "top_k", "seed", "repetition_penalty")


class VllmPredictor:
    """The values of SftPredictor, computed by vLLM. No answer cache: a run of vLLM is quick, and its own hash of the
    weights would have to be taken from the files."""

    def __init__(self, folder: Path, model: Mapping[str, Any], seed: int = 0):
        from transformers import AutoTokenizer
        from vllm import LLM, SamplingParams

        generation = dict(model.get("generation") or {})
        generation.pop("batch_size", None)
        self.max_tokens = int(generation.pop("max_new_tokens", 128))
        unknown = sorted(set(generation) - set(SETTINGS))
        if unknown:
            raise UsageError(f"model.generation.{unknown[0]} is nothing that model=vllm takes: {', '.join(SETTINGS)}.")
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        use_template(self.tokenizer, model.get("template"))
        self.template_args = dict(model.get("template_args") or {})
        self.engine = LLM(model=str(folder), seed=seed, **dict(model.get("engine_args") or {}))
        stop = chat_format(self.tokenizer, self.template_args).stop_id
        self.text = SamplingParams(
            **({"temperature": 0.0} | generation), max_tokens=max(1, self.max_tokens), stop_token_ids=[stop]
        )
        self.score = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0)

    def use_cache(self, setting: Any, data_kind: str | None) -> None:
        """Checks the setting; nothing is kept."""
        wanted(setting, data_kind)
        self.cache: AnswerCache | NoCache = NoCache()

    def __call__(self, samples: Iterable[Sample]) -> Iterator[Prediction]:
        iterator = iter(samples)
        while chunk := list(islice(iterator, CHUNK)):
            values: list[dict[str, Any]] = [{} for _ in chunk]
            for column, name in (("option_logprobs", "messages"), ("blind_logprobs", "blind_messages")):
                self._add_scores(chunk, values, column, name)
            if self.max_tokens:
                self._add_texts(chunk, values)
            yield from (Prediction(s.sample_id, s.patient_id, v) for s, v in zip(chunk, values, strict=True))

    def _add_scores(self, chunk: Sequence[Sample], values: list[dict[str, Any]], column: str, name: str) -> None:
        rows, questions = [], []
        for row, sample in enumerate(chunk):
            if sample.inputs.get("options") is None:
                continue
            values[row].setdefault(column, None)
            if sample.inputs.get(name) is not None:
                inputs = sample.inputs
                rows.append(row)
                questions.append(
                    question(self.tokenizer, inputs[name], inputs.get("lead", ""), inputs["options"],
                             self.template_args, sample.sample_id)
                )  # fmt: skip
        prompts = [{"prompt_token_ids": [*q.prefix, *o]} for q in questions for o in q.options]
        outputs = iter(self.engine.generate(prompts, self.score, use_tqdm=False) if prompts else ())
        for row, one in zip(rows, questions, strict=True):
            sums = []
            for option in one.options:
                listed = next(outputs).prompt_logprobs[len(one.prefix) :]
                sums.append(float(sum(at[token].logprob for at, token in zip(listed, option, strict=True))))
            values[row][column] = sums
            if column == "option_logprobs":
                values[row]["option_tokens"] = [len(o) for o in one.options]

    def _add_texts(self, chunk: Sequence[Sample], values: list[dict[str, Any]]) -> None:
        prompts = [
            {"prompt_token_ids": render(self.tokenizer, s.inputs["messages"], self.template_args, generate=True)}
            for s in chunk
        ]
        for value, output in zip(values, self.engine.generate(prompts, self.text, use_tqdm=False), strict=True):
            done = output.outputs[0]
            value |= {
                "text": done.text.strip(), "stopped": done.finish_reason == "stop", "tokens": len(done.token_ids)
            }  # fmt: skip
