"""Frozen features kept: for methods that train the head alone, the backbone sees every text once.

The backbone runs without dropout then (a feature that is kept cannot be drawn anew), so this is another stochastic
process than training with it, and part of a run's identity: `train.cache_features`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from harness.errors import ConfigError

FIRST_TOKEN = ("deberta-v2", "roberta")  # whose heads read the first token's state and nothing else


def keep(model: nn.Module) -> None:
    """Make the backbone below the head remember the first token's last state of every text it was given, in place.

    What is kept, a vector a text, lies in the host's memory. Raises ConfigError where anything below the head is
    trained, or the head may read more than the first token.
    """
    inside: Any = getattr(model, "get_base_model", None)
    whole: Any = model if inside is None else inside()
    body = getattr(whole, whole.base_model_prefix)
    if whole.config.model_type not in FIRST_TOKEN:
        raise ConfigError(
            f"train.cache_features=true: the head of a {whole.config.model_type} model reads more than the first token; "
            f"only those of {', '.join(FIRST_TOKEN)} can be fed with kept features"
        )
    # A method of ours keeps what it trains beside the backbone, not in it: all that is no copy of the head counts.
    head = {
        id(parameter) for name, parameter in model.named_parameters() if inside is None or ".modules_to_save." in name
    }
    head -= {id(parameter) for parameter in body.parameters()}
    below = [
        name for name, parameter in model.named_parameters() if parameter.requires_grad and id(parameter) not in head
    ]
    if below:
        raise ConfigError(
            f"train.cache_features=true needs a frozen backbone (method=head); this method trains {len(below)} "
            f"parameters below the head, {below[0]} among them"
        )
    body.forward = Kept(body)


class Kept:
    """Takes the place of a backbone's forward pass. Texts are told apart by their tokens, padding left out."""

    def __init__(self, body: nn.Module) -> None:
        self._body, self._compute = body, body.forward
        self._states: dict[bytes, Tensor] = {}

    def __call__(self, input_ids: Tensor, attention_mask: Tensor, **more: Any) -> Any:
        """As the backbone's, with a sequence of one token: `last_hidden_state` (batch, 1, width)."""
        held = attention_mask.sum(dim=1).tolist()
        keys = [row[:length].numpy().tobytes() for row, length in zip(input_ids.cpu(), held, strict=True)]
        if missing := [place for place, key in enumerate(keys) if key not in self._states]:
            found = self._states_of(input_ids[missing], attention_mask[missing], more, missing)
            self._states |= {keys[place]: state for place, state in zip(missing, found, strict=True)}
        states = torch.stack([self._states[key] for key in keys]).to(input_ids.device, non_blocking=True)
        return Features(states[:, None])

    @torch.no_grad()
    def _states_of(self, ids: Tensor, mask: Tensor, more: dict[str, Any], rows: list[int]) -> Tensor:
        mode = self._body.training
        self._body.eval()
        own = {name: value[rows] if isinstance(value, Tensor) else value for name, value in more.items()}
        try:
            return self._compute(input_ids=ids, attention_mask=mask, **own)[0][:, 0].float().cpu()
        finally:
            self._body.train(mode)


class Features(tuple):
    """A backbone's output that holds its last states alone; by place and by name, as heads read it."""

    hidden_states = attentions = past_key_values = cross_attentions = None

    def __new__(cls, states: Tensor) -> Features:
        """Of last states, (batch, 1, width)."""
        return super().__new__(cls, (states,))

    @property
    def last_hidden_state(self) -> Tensor:
        """(batch, 1, width)."""
        states: Tensor = self[0]
        return states
