"""A causal language model that reads patients: embeddings of each modality become soft tokens between the words.

Embeddings before the last layer of the unimodal models are standardised, concatenated and projected to K vectors of
the language model's embedding space, which `masked_scatter` puts where the prompt has its K placeholder tokens. A
modality that a patient lacks is one learned vector; in training, present ones are dropped at random, so that the model
learns to live with either.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from clarion.errors import DataError

IGNORED = -100


class FusionConfig(PretrainedConfig):
    """text_config: of the language model; modalities: name -> width of its embedding (kept by name); tokens: K; hidden:
    of the projector's MLP; dropout; modality_dropout: probability that one modality of a patient with several is hidden
    in training; placeholder_id: the token of the vocabulary whose places the soft tokens take."""

    model_type = "clarion_fusion"
    sub_configs = {"text_config": AutoConfig}

    def __init__(
        self, text_config: Any = None, modalities: Mapping[str, int] | None = None, tokens: int = 8, hidden: int = 256,
        dropout: float = 0.1, modality_dropout: float = 0.2, placeholder_id: int = 0, **kwargs: Any,
    ):  # fmt: skip
        if isinstance(text_config, Mapping):
            text_config = AutoConfig.for_model(**text_config)
        self.text_config = copy.deepcopy(text_config)  # the base class sets its attention; a given model keeps its own
        # by name: JSON does not keep the order, in which embeddings are concatenated
        self.modalities = {name: int(width) for name, width in sorted((modalities or {}).items())}
        self.tokens, self.hidden, self.dropout = int(tokens), int(hidden), float(dropout)
        self.modality_dropout, self.placeholder_id = float(modality_dropout), int(placeholder_id)
        super().__init__(**kwargs)

    def get_text_config(self, *_: Any, **__: Any) -> Any:
        return self.text_config if self.text_config is not None else self


class Projector(nn.Module):
    """Embeddings of the modalities -> K soft tokens of the width of the language model."""

    def __init__(self, config: FusionConfig, width: int):
        super().__init__()
        self.tokens, self.width, self.modality_dropout = config.tokens, width, config.modality_dropout
        self.names = list(config.modalities)
        self.missing = nn.ParameterDict()
        for name, size in config.modalities.items():
            self.register_buffer(f"mean_{name}", torch.zeros(size))
            self.register_buffer(f"scale_{name}", torch.ones(size))
            self.missing[name] = nn.Parameter(0.5 * torch.randn(size))
        self.mlp = nn.Sequential(
            nn.Linear(sum(config.modalities.values()), config.hidden),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, config.tokens * width),
        )
        self.norm = nn.LayerNorm(width)

    @torch.no_grad()
    def fit(self, name: str, embeddings: torch.Tensor) -> None:
        """Mean and spread of a modality from the training patients [n, width]; a constant number keeps scale 1."""
        spread = embeddings.std(0, correction=0)
        getattr(self, f"mean_{name}").copy_(embeddings.mean(0))
        getattr(self, f"scale_{name}").copy_(torch.where(spread > 1e-6, spread, torch.ones_like(spread)))

    @torch.no_grad()
    def match(self, words: torch.Tensor) -> None:
        """Start the soft tokens at the length of the language model's own word vectors [vocabulary, width]."""
        self.norm.weight.fill_(float(words.float().pow(2).mean().sqrt()))

    def average(self, name: str) -> torch.Tensor:
        """What a zeroed modality is: the mean training patient, which standardisation turns into zeros."""
        return getattr(self, f"mean_{name}").float()

    def forward(self, embeddings: Mapping[str, torch.Tensor], present: torch.Tensor) -> torch.Tensor:
        """name -> float [B, width of it] (any numbers where absent); present: bool [B, M] in the order of the config's
        modalities. Returns [B, K, width]."""
        kept = self._dropped(present) if self.training else present
        parts = []
        for k, name in enumerate(self.names):
            given = (embeddings[name].float() - getattr(self, f"mean_{name}")) / getattr(self, f"scale_{name}")
            # a single number far out must not drown the others: 6 SD is beyond what a training patient has
            parts.append(torch.where(kept[:, k : k + 1], given.nan_to_num().clamp(-6, 6), self.missing[name]))
        soft = self.mlp(torch.cat(parts, 1)).unflatten(1, (self.tokens, self.width))
        return self.norm(soft)

    def _dropped(self, present: torch.Tensor) -> torch.Tensor:
        """Of a patient with several modalities one is hidden, with probability modality_dropout."""
        drawn = torch.rand(present.shape, device=present.device).masked_fill(~present, -1).argmax(1, keepdim=True)
        hides = torch.rand(len(present), 1, device=present.device) < self.modality_dropout
        hidden = torch.zeros_like(present).scatter(1, drawn, hides & (present.sum(1, keepdim=True) > 1))
        return present & ~hidden


class FusedCausalLM(PreTrainedModel):
    """A causal language model of transformers with soft tokens; `save_pretrained` and `from_pretrained` keep it whole.

    llm: the language model; None builds it from config.text_config. An adapter of peft may be put round `llm` later."""

    config_class = FusionConfig
    base_model_prefix = "llm"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # its loss is a mean over patients already
    _supports_sdpa = _supports_flash_attn = _supports_attention_backend = True

    def __init__(self, config: FusionConfig, llm: Any = None):
        super().__init__(config)
        self.projector = Projector(config, config.text_config.hidden_size)
        self.llm = AutoModelForCausalLM.from_config(config.text_config) if llm is None else llm
        for module in llm.modules() if llm is not None else ():
            module._is_hf_initialized = True  # else the next line draws given weights anew
        self.post_init()
        if (words := self.get_input_embeddings().weight).device.type != "meta":
            self.projector.match(words)

    def _init_weights(self, module: nn.Module) -> None:
        """The projector keeps torch's own start; the language model has initialised itself."""

    @property
    def causal(self) -> Any:
        """The language model itself, below an adapter where there is one (whose layers are in it)."""
        return self.llm.get_base_model() if hasattr(self.llm, "get_base_model") else self.llm

    def get_input_embeddings(self) -> nn.Module:
        return self.causal.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        return self.causal.get_output_embeddings()

    def embedded(
        self, input_ids: torch.Tensor, embeddings: Mapping[str, torch.Tensor] | None, present: torch.Tensor | None
    ) -> torch.Tensor:
        """[B, T, width]: the words' vectors with the soft tokens in the places of the placeholders. DataError where a
        row has another number of placeholders than there are soft tokens."""
        words = self.get_input_embeddings()(input_ids)
        place = input_ids == self.config.placeholder_id
        if embeddings is None:
            return words
        soft = self.projector(embeddings, present).to(words.dtype)
        found = place.sum(1)
        if (found != self.config.tokens).any():
            raise DataError(
                f"A prompt holds {int(found[found != self.config.tokens][0])} placeholders for {self.config.tokens} "
                "soft tokens: no text of a patient may hold the placeholder token."
            )
        return words.masked_scatter(place[..., None], soft)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        embeddings: Mapping[str, torch.Tensor] | None = None,
        present: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        weights: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """input_ids [B, T] with placeholders; embeddings, present: see Projector (None: no soft tokens, such as behind
        a cache). labels [B, T] (-100 outside the loss), weights float [B, T]: the loss is the sum over a patient's
        tokens of weight x negative log-likelihood, averaged over the batch; without weights the mean over tokens.
        With labels, logits are made at the labelled places alone and returned as [labelled, vocabulary]."""
        inputs = {"inputs_embeds": self.embedded(input_ids, embeddings, present), "attention_mask": attention_mask}
        if labels is None:
            return self.llm(**inputs, **kwargs)
        kwargs.pop("use_cache", None)
        hidden = self.causal.base_model(**inputs, use_cache=False, **kwargs).last_hidden_state[:, :-1]
        target = labels[:, 1:]
        trained = target != IGNORED
        logits = self.get_output_embeddings()(hidden[trained])
        each = functional.cross_entropy(logits.float(), target[trained], reduction="none")
        loss = each.mean() if weights is None else (each * weights[:, 1:][trained]).sum() / len(labels)
        return CausalLMOutputWithPast(loss=loss, logits=logits)

    @torch.no_grad()
    def generate(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        embeddings: Mapping[str, torch.Tensor],
        present: torch.Tensor,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Token ids of the continuations alone [B, at most max_new_tokens]; kwargs as of transformers' generate."""
        embedded = self.embedded(input_ids, embeddings, present)
        return self.llm.generate(inputs_embeds=embedded, attention_mask=attention_mask, **kwargs)

    def keep_trained_only(self) -> None:
        """From now on `save_pretrained` writes what is trained (projector, adapter) and not the frozen base."""
        trained = {name for name, p in self.named_parameters() if p.requires_grad}
        self._keys_to_ignore_on_save = {
            name for name in self.state_dict() if name.startswith("llm.") and name not in trained
        }
        self.all_tied_weights_keys = {}  # of the base, which is not loaded again


AutoConfig.register(FusionConfig.model_type, FusionConfig, exist_ok=True)
AutoModelForCausalLM.register(FusionConfig, FusedCausalLM, exist_ok=True)
