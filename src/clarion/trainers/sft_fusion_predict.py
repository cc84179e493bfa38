"""Answers of a fused language model: probability of survival by the two statements' log-probabilities, and the text."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any

import torch
from transformers import GenerationConfig

from clarion.errors import DataError, UsageError
from clarion.trainers.base import Prediction, Sample
from clarion.trainers.sft_chat import ChatFormat, render
from clarion.trainers.sft_fusion_rows import FusedInput, fused_inputs, stacked
from clarion.trainers.sft_options import option_logprobs, question


class FusionPredictor:
    """Samples of patients -> Prediction, in their order:

    risk (log odds of dying within the horizon), survival [S(horizon)], times [horizon in months], probability (the same
    S), option_logprobs [survives, dies], missing [modalities], patterns (JSON [{name, share}]: the tissue that the
    prompt names, which the fact check takes for true), text, answer (parsed: survives | dies | None), parse_failed,
    agrees (the parsed answer is the more probable one), stopped, tokens. generation: {max_new_tokens, batch_size} and
    any field of transformers.GenerationConfig; with max_new_tokens=0 no text is written. tissue: names the tissue
    attended to (sft_fusion_tissue.Tissue), or None.
    """

    fused = True

    def __init__(
        self, network: Any, tokenizer: Any, chat: ChatFormat, stop_ids: Iterable[int], generation: Mapping[str, Any],
        template_args: Mapping[str, Any], prompter: Any, encoders: Any, placeholder: str, tissue: Any = None,
    ):  # fmt: skip
        settings = {"max_new_tokens": 256, "do_sample": False} | dict(generation)
        self.batch_size = int(settings.pop("batch_size", 16))
        self.network, self.tokenizer, self.template_args = network.eval(), tokenizer, dict(template_args)
        self.prompter, self.encoders, self.tissue = prompter, encoders, tissue
        self.soft = placeholder * network.config.tokens
        self.stop_ids = sorted({*stop_ids, chat.stop_id})
        self.generates = int(settings["max_new_tokens"]) > 0
        settings["max_new_tokens"] = max(1, int(settings["max_new_tokens"]))
        try:
            self.config = GenerationConfig(**settings, eos_token_id=self.stop_ids, pad_token_id=tokenizer.pad_token_id)
            self.config.validate(strict=True)
        except (TypeError, ValueError) as error:
            raise UsageError(f"model.generation is refused by transformers: {' '.join(str(error).split())}") from error
        if self.config.do_sample:
            raise UsageError("model.generation.do_sample=true: a prognosis is not drawn; leave it false.")
        network.causal.generation_config = self.config
        self.context = int(network.config.get_text_config().max_position_embeddings)

    def __call__(self, samples: Iterable[Sample], text: bool | None = None) -> Iterator[Prediction]:
        iterator = iter(samples)
        while chunk := list(islice(iterator, self.batch_size)):
            inputs = self.inputs(chunk)
            for one, values in zip(inputs, self.answer(inputs, text), strict=True):
                yield Prediction(one.sample_id, one.patient_id, values)

    def without_texts(self, samples: Iterable[Sample]) -> Iterator[Prediction]:
        """As a call, but no text is written: of the validation patients only the probabilities are needed."""
        return self(samples, text=False)

    def inputs(self, samples: Sequence[Sample]) -> list[FusedInput]:
        """Facts of the prompt and embeddings of patients; DataError for one with neither slide nor omics, and where an
        embedding has another size than the projector was trained with."""
        found = fused_inputs(samples, self.prompter, self.encoders, self.tissue)
        for one in found:
            for name, vector in one.embeddings.items():
                if len(vector) != self.network.config.modalities[name]:
                    raise DataError(
                        f"The {name} model gives embeddings of {len(vector)} numbers, the fusion was trained with "
                        f"{self.network.config.modalities[name]}: use the unimodal run it started from."
                    )
        return found

    def average(self, name: str) -> torch.Tensor:
        """The mean embedding of the training patients: a modality that says nothing."""
        return self.network.projector.average(name).cpu()

    def answer(self, inputs: Sequence[FusedInput], text: bool | None = None) -> list[dict[str, Any]]:
        """Values of one Prediction for each; text: also write (default: as generation says)."""
        found: list[dict[str, Any]] = []
        for start in range(0, len(inputs), self.batch_size):
            part = inputs[start : start + self.batch_size]
            messages = [self.prompter.messages(one.facts, self.soft) for one in part]
            found += self._probabilities(part, messages)
            if self.generates if text is None else text:
                for values, written in zip(found[start:], self._texts(part, messages), strict=True):
                    values |= written | self._parsed(written["text"], values["probability"])
        return found

    def _probabilities(self, part: Sequence[FusedInput], messages: Sequence[list]) -> list[dict[str, Any]]:
        questions = [
            question(self.tokenizer, turns, "", self.prompter.statements, self.template_args, one.sample_id)
            for one, turns in zip(part, messages, strict=True)
        ]
        found = []
        for row, (survives, dies) in enumerate(self._option_logprobs(part, questions)):
            risk = dies - survives
            probability = 1 / (1 + math.exp(min(max(risk, -700), 700)))
            found.append({
                "risk": risk, "survival": [probability], "times": [self.prompter.months], "probability": probability,
                "option_logprobs": [survives, dies], "missing": list(part[row].facts.missing),
                "patterns": json.dumps([asdict(p) for p in part[row].facts.patterns], ensure_ascii=False),
            })  # fmt: skip
        return found

    def _option_logprobs(self, part: Sequence[FusedInput], questions: Sequence[Any]) -> list[list[float]]:
        for one, asked in zip(part, questions, strict=True):
            self._check_length(one, asked.packed)
        return option_logprobs(Conditioned(self.network, part), questions, self.tokenizer.pad_token_id)

    def _check_length(self, one: FusedInput, tokens: int) -> None:
        if tokens > self.context:
            raise DataError(f"The prompt of patient {one.sample_id} has {tokens} tokens; this model takes "
                            f"{self.context}: show fewer genes (data.prompt.shown).")  # fmt: skip

    def _texts(self, part: Sequence[FusedInput], messages: Sequence[list]) -> list[dict[str, Any]]:
        prompts = [render(self.tokenizer, turns, self.template_args, generate=True) for turns in messages]
        width, pad = max(map(len, prompts)), self.tokenizer.pad_token_id
        for one, prompt in zip(part, prompts, strict=True):
            self._check_length(one, len(prompt) + int(self.config.max_new_tokens))
        # Left padding: all prompts end in the same column, where generation continues.
        ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], device=self.network.device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=self.network.device)
        output = Conditioned(self.network, part).generate(ids, mask, generation_config=self.config)
        found = []
        for generated in output.tolist():
            stop = next((k for k, token in enumerate(generated) if token in self.stop_ids), None)
            kept = generated if stop is None else generated[:stop]
            text = self.tokenizer.decode(kept, skip_special_tokens=True).strip()
            found.append({"text": text, "stopped": stop is not None, "tokens": len(kept)})
        return found

    def _parsed(self, text: str, probability: float) -> dict[str, Any]:
        survives = self.prompter.parse(text)
        answer = None if survives is None else "survives" if survives else "dies"
        agrees = None if survives is None else survives == (probability >= 0.5)
        return {"answer": answer, "parse_failed": survives is None, "agrees": agrees}


class Conditioned:
    """A fused network with the embeddings of a batch of patients filled in: to the functions that score options it is a
    language model like any other."""

    def __init__(self, network: Any, inputs: Sequence[FusedInput]):
        self.network, self.config = network, network.config.get_text_config()
        self.config = network.causal.config  # that of the model that runs: how it attends
        self.device, self.dtype = network.device, network.causal.dtype
        embeddings, present = stacked(inputs, network.config.modalities)
        self.given = {
            "embeddings": {name: tensor.to(self.device) for name, tensor in embeddings.items()},
            "present": present.to(self.device),
        }

    def __call__(self, input_ids: torch.Tensor, **kwargs: Any) -> Any:
        if kwargs.get("past_key_values") is not None:  # behind the prompt: the soft tokens are in the cache
            return self.network(input_ids, **kwargs)
        return self.network(input_ids, **self.given, **kwargs)

    def generate(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return self.network.generate(input_ids, attention_mask, **self.given, **kwargs)
