"""What frozen layers gave for each text, in their place: found again instead of computed (harness/features.py says when)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Memory:
    """What a backbone gave for each text. Texts are told apart by their tokens and segments, padding left out."""

    def __init__(self, body: nn.Module) -> None:
        self._body, self._compute = body, body.forward
        self._kept: dict[bytes, Tensor] = {}

    def _of(self, input_ids: Tensor, attention_mask: Tensor, more: dict[str, Any]) -> list[Tensor]:
        """Of every row what is kept of it, on the host; rows that were never seen are computed, without dropout."""
        held = attention_mask.sum(dim=1).tolist()
        told = [one.cpu().numpy() for one in (input_ids, more.get("token_type_ids")) if one is not None]
        keys = [b"|".join(one[row, :length].tobytes() for one in told) for row, length in enumerate(map(int, held))]
        if missing := [place for place, key in enumerate(keys) if key not in self._kept]:
            own = {name: value[missing] if isinstance(value, Tensor) else value for name, value in more.items()}
            found = self._computed(input_ids=input_ids[missing], attention_mask=attention_mask[missing], **own)
            for place, states in zip(missing, found, strict=True):
                self._kept[keys[place]] = states[: int(held[place])].cpu()
        return [self._kept[key] for key in keys]

    @torch.no_grad()
    def _computed(self, **batch: Any) -> Tensor:
        mode = self._body.training
        self._body.eval()
        try:
            return self._run(**batch)
        finally:
            self._body.train(mode)

    def _run(self, **batch: Any) -> Tensor:
        """The states that are kept, (rows, length, width)."""
        raise NotImplementedError


class Kept(Memory):
    """Takes the place of a whole backbone's forward pass, and keeps the first token's last state."""

    def __call__(self, input_ids: Tensor, attention_mask: Tensor, **more: Any) -> Any:
        """As the backbone's, with a sequence of one token: `last_hidden_state` (batch, 1, width)."""
        states = torch.stack(self._of(input_ids, attention_mask, more))
        return Features(states.to(input_ids.device, non_blocking=True))

    def _run(self, **batch: Any) -> Tensor:
        states: Tensor = self._compute(**batch)[0]
        return states[:, :1].float()


class KeptLayers(Memory):
    """Stands around a backbone's forward pass, in which the layers below `first` give what is kept of them."""

    def __init__(self, body: nn.Module, layers: nn.ModuleList, first: int) -> None:
        super().__init__(body)
        self._computing, self._batch, self._pair = False, torch.empty(0), False
        for number, layer in enumerate(layers[:first]):
            layer.forward = self._stand_in(layer.forward, last=number == first - 1)

    def __call__(self, input_ids: Tensor, attention_mask: Tensor, **more: Any) -> Any:
        """As the backbone's; padding has states of zero."""
        rows = self._of(input_ids, attention_mask, more)
        batch = rows[0].new_zeros(*input_ids.shape, rows[0].shape[-1])
        for place, states in enumerate(rows):
            batch[place, : len(states)] = states
        self._batch = batch.to(input_ids.device, non_blocking=True)
        return self._compute(input_ids=input_ids, attention_mask=attention_mask, **more)

    def _run(self, **batch: Any) -> Tensor:
        self._computing = True
        try:
            self._compute(**batch)
        except Reached as end:
            return end.states
        finally:
            self._computing = False
        raise RuntimeError("the last of the frozen layers was not reached")

    def _stand_in(self, compute: Callable[..., Any], last: bool) -> Callable[..., Any]:
        """In place of a frozen layer's forward: the layers between pass on what they get, the last gives what is kept."""

        def forward(states: Tensor, *args: Any, **named: Any) -> Any:
            if self._computing:
                output = compute(states, *args, **named)
                self._pair = isinstance(output, tuple)
                if last:  # what lies above is trained: its dropout, its hooks and its cost are no part of this
                    raise Reached(_states(output))
                return output
            kept = self._batch if last else states
            return (kept, None) if self._pair else kept

        return forward


class Reached(Exception):
    """Ends a forward pass at the last frozen layer."""

    def __init__(self, states: Tensor) -> None:
        super().__init__()
        self.states = states


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
