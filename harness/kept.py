"""What frozen layers gave for each text, in their place: found again instead of computed (harness/features.py: when)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Memory:
    """What a backbone gave for each text. Texts are told apart by their tokens and segments, padding left out.

    Args:
        body: the backbone without its head.
        room: bytes that what evaluation asks for may take; beyond them it is computed anew. Training's is always kept.
    """

    def __init__(self, body: nn.Module, room: float = float("inf")) -> None:
        self._body, self._compute = body, body.forward
        self._kept: dict[bytes, Tensor] = {}
        self._room = room

    def _of(self, input_ids: Tensor, attention_mask: Tensor, more: dict[str, Any]) -> list[Tensor]:
        """Of every row what is kept of it, on the host; rows that are not kept are computed, without dropout."""
        held = attention_mask.sum(dim=1).tolist()
        told = [one.cpu().numpy() for one in (input_ids, more.get("token_type_ids")) if one is not None]
        keys = [b"|".join(one[row, :length].tobytes() for one in told) for row, length in enumerate(map(int, held))]
        rows = {place: self._kept[key] for place, key in enumerate(keys) if key in self._kept}
        if missing := [place for place in range(len(keys)) if place not in rows]:
            own = {name: value[missing] if isinstance(value, Tensor) else value for name, value in more.items()}
            found = self._computed(input_ids=input_ids[missing], attention_mask=attention_mask[missing], **own)
            for place, states in zip(missing, found, strict=True):
                # A copy: on a CPU it would else be a view, which holds the whole batch.
                rows[place] = states[: int(held[place])].to("cpu", copy=True)
                self._keep(keys[place], rows[place])
        return [rows[place] for place in range(len(keys))]

    def _keep(self, key: bytes, states: Tensor) -> None:
        if not self._body.training:
            if states.nbytes > self._room:
                return
            self._room -= states.nbytes
        self._kept[key] = states

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

    def moved(self, ids: Tensor) -> bool:
        """Whether texts that were kept (all of one length) give other states by now, or states that are trained."""
        mask, mode = torch.ones_like(ids), self._body.training
        self._body.eval()
        try:
            with torch.enable_grad():
                now = self._run(input_ids=ids, attention_mask=mask)
            before = torch.stack(self._of(ids, mask, {})).to(now)
        finally:
            self._body.train(mode)
        return now.requires_grad or not torch.allclose(now, before, rtol=1e-2, atol=1e-3)

    def end(self) -> None:
        """Put the backbone's own forward pass back."""
        self._body.forward = self._compute


class Kept(Memory):
    """Takes the place of a whole backbone's forward pass, and keeps the first token's last state."""

    def __call__(self, input_ids: Tensor, attention_mask: Tensor, **more: Any) -> Any:
        """As the backbone's, with a sequence of one token: `last_hidden_state` (batch, 1, width)."""
        states = torch.stack(self._of(input_ids, attention_mask, more))
        return Features(states.to(input_ids.device, non_blocking=True))

    def _run(self, **batch: Any) -> Tensor:
        states: Tensor = self._compute(**batch)[0]
        return states[:, :1]


class KeptLayers(Memory):
    """Stands around a backbone's forward pass, in which the layers below `first` give what is kept of them."""

    def __init__(self, body: nn.Module, layers: nn.ModuleList, first: int, room: float = float("inf")) -> None:
        super().__init__(body, room)
        self._computing, self._batch, self._pair = False, torch.empty(0), False
        self._layers = [(layer, layer.forward) for layer in layers[:first]]
        for number, (layer, compute) in enumerate(self._layers):
            layer.forward = self._stand_in(compute, last=number == first - 1)

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
                    raise Reached(first_of(output))
                return output
            kept = self._batch if last else states
            return (kept, None) if self._pair else kept

        return forward

    def end(self) -> None:
        """The layers' too."""
        super().end()
        for layer, compute in self._layers:
            layer.forward = compute


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


def first_of(output: Any) -> Tensor:
    """A layer's states, (batch, length, width): DeBERTa's gives its attention beside them."""
    states: Tensor = output[0] if isinstance(output, tuple) else output
    return states


def memories(model: nn.Module) -> list[Memory]:
    """Those that stand in a model."""
    found = [module.__dict__.get("forward") for module in model.modules()]
    return [one for one in found if isinstance(one, Memory)]


def forget(model: nn.Module) -> None:
    """Let a model compute everything again: what a forward pass takes cannot be timed where states are looked up."""
    for memory in memories(model):
        memory.end()
