"""TRL's SFTTrainer with the fused network's own loss: TRL's fused head would bypass the soft tokens and the weights."""

from __future__ import annotations

from typing import Any

from trl import SFTTrainer


class FusionLoop(SFTTrainer):
    """Batches of FusionCollator; the loss is that of the network (weights of tokens, mean over patients)."""

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **_: Any) -> Any:
        """The network's loss; token accuracy over the supervised tokens goes to the log."""
        mode = "train" if self.model.training else "eval"
        outputs = model(**inputs)
        target = inputs["labels"][:, 1:]
        target = target[target != -100]
        right = (outputs.logits.detach().argmax(-1) == target).float().mean()
        self._metrics[mode]["mean_token_accuracy"].append(float(right))
        if mode == "train":
            self._total_train_tokens += int(inputs["attention_mask"].sum())
        self._metrics[mode]["num_tokens"] = [self._total_train_tokens]
        return (outputs.loss, outputs) if return_outputs else outputs.loss
