"""Several runs trained together over one frozen backbone: every forward and backward pass is made once, for all of them.

Each run is the ordinary one (harness/run.py) in a thread of its own, with its own model, rows, losses, clipping,
optimizer, schedule, method's hooks, evaluations and record. Threads never run at the same time: one works until it
needs the backbone and hands on; the one that finds all others waiting makes the pass for all of them.

    run 0:  rows -> forward ..................... loss -> its gradient by logits .............. clip, hooks, AdamW
    run 1:          rows -> forward ............. loss -> ...
    the pack:                  [one forward pass]                          [one backward pass]

The pass is `torch.vmap` over what the runs do not share, stacked: adapters and heads (the weights of the first run's
backbone, which are everybody's, are not), and batches, padded to a common shape. Stacking is part of the graph, so that
gradients arrive at every run's own parameters. Masks of dropout are drawn for each run apart, from one generator of the
pack: equal to a run's alone in law, and not in bits. Without dropout losses are equal to rounding.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import pad

from harness.distributed import Group
from harness.identity import digest
from harness.interrupt import Interrupt
from harness.monitor import living

warnings.filterwarnings(
    "ignore", message="There is a performance drop because we have not yet implemented the batching"
)


class Pack:
    """The runs of one pack, by their ids. `interrupt` notes the signals of the whole process."""

    def __init__(self, runs: list[str], interrupt: Interrupt) -> None:
        self.interrupt = interrupt
        self.seats = [Seat(self, run, [other for other in runs if other != run]) for run in runs]
        self._stream: int | None = int(digest(["pack", *runs])[:15], 16)
        self._turn: Seat | None = self.seats[0]
        self._changed = threading.Condition()

    def make(self, work: Callable[[Seat], None]) -> list[int]:
        """`work` for every seat, in a thread each. Returns the exit codes: of what it raised a SystemExit with, else 0."""
        found = [1] * len(self.seats)

        def alone(place: int, seat: Seat) -> None:
            self.wait(seat)
            try:
                work(seat)
                found[place] = 0
            except SystemExit as end:
                found[place] = int(end.code or 0)
            finally:
                seat.gone = True
                self.hand_on(seat)

        threads = [
            threading.Thread(target=alone, args=one, name=one[1].run, daemon=True) for one in enumerate(self.seats)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found

    def wait(self, seat: Seat) -> None:
        """Until it is this seat's turn."""
        with self._changed:
            self._changed.wait_for(lambda: self._turn is seat)

    def hand_on(self, seat: Seat) -> None:
        """Give the turn to the next one that can work; where all wait, to the first of them, which works for all."""
        place = self.seats.index(seat) + 1
        left = [one for one in self.seats[place:] + self.seats[:place] if not one.gone]
        able = [one for one in left if not one.waits]
        waiting = [one for one in self.seats if not one.gone]
        with self._changed:
            self._turn = next(iter(able or waiting), None)
            self._changed.notify_all()

    def meet(self, seat: Seat) -> None:
        """Come back when what every run has put down is dealt with; the first to come back deals with it."""
        seat.waits = True
        self.hand_on(seat)
        self.wait(seat)
        if seat.waits:
            self._work([one for one in self.seats if one.waits and not one.gone])

    def _work(self, seats: list[Seat]) -> None:
        """The backward pass of the logits that were handed out, then the forward pass of what was put down."""
        if self._stream is not None:
            torch.manual_seed(self._stream)
            self._stream = None
        found = [(ours, theirs.grad) for seat in seats for ours, theirs in seat.given if theirs.grad is not None]
        if found:
            torch.autograd.backward([ours for ours, _ in found], [gradient for _, gradient in found])
        for seat in seats:
            seat.given = []
        if seats[0].inputs is not None:
            logits = forward([seat.model for seat in seats], [seat.inputs or {} for seat in seats])
            for seat, ours in zip(seats, logits, strict=True):
                rows = ours[: len(seat.inputs["input_ids"])] if seat.inputs else ours
                seat.given.append((rows, rows.detach().requires_grad_()))
        for seat in seats:
            seat.inputs, seat.waits = None, False


class Seat(Group):
    """One run's place in a pack: to the run, a process alone whose forward and backward passes take a little longer."""

    model: Any = None

    def __init__(self, pack: Pack, run: str, others: list[str]) -> None:
        super().__init__()
        self.pack, self.run, self.beside = pack, run, others
        self.waits = self.gone = False
        self.inputs: dict[str, Tensor] | None = None
        self.given: list[
            tuple[Tensor, Tensor]
        ] = []  # logits of the joint pass, and the same as a leaf of the run's own

    @property
    def signal(self) -> int | None:
        """The signal that ends every training of the pack."""
        return self.pack.interrupt.number

    def enter(self, model: nn.Module) -> None:
        """From now on the model's forward pass in training is the pack's."""
        self.model, alone = model, model.forward

        def together(**inputs: Tensor) -> Any:
            if not (model.training and torch.is_grad_enabled()):
                return alone(**inputs)
            self.inputs = inputs
            self.pack.meet(self)
            return SimpleNamespace(logits=self.given[-1][1])

        model.forward = together  # type: ignore[method-assign, assignment]

    def reduce(self, loss: Tensor, parameters: list[nn.Parameter]) -> Tensor:
        """The gradients of the logits become gradients of the parameters."""
        self.pack.meet(self)
        return loss


def own(model: Any) -> dict[str, Tensor]:
    """What a run does not share with the others, by name below the tuner: what it trains, what its adapter holds."""
    prefix = getattr(model.base_model, "prefix", None)
    found = {name.removeprefix("base_model."): tensor for name, tensor in living(model).items()}
    return {name: one for name, one in found.items() if one.requires_grad or (prefix and prefix in name)}


def forward(models: list[Any], batches: list[dict[str, Tensor]]) -> Tensor:
    """The logits of every model on its batch: (runs, most rows of a batch, classes)."""
    tuner, tensors = models[0].base_model, [own(model) for model in models]
    stacked = {name: torch.stack([one[name] for one in tensors]) for name in tensors[0]}
    config = models[0].get_base_model().config
    together = padded(batches, config.pad_token_id)
    together["attention_mask"] = visible(together["attention_mask"], config)

    def one(values: dict[str, Tensor], inputs: dict[str, Tensor]) -> Tensor:
        logits: Tensor = functional_call(tuner, values, args=(), kwargs=inputs).logits
        return logits

    return torch.vmap(one, randomness="different")(stacked, together)


def padded(batches: list[dict[str, Tensor]], pad_token: int) -> dict[str, Tensor]:
    """Batches in one common shape, (runs, rows, tokens). A row of padding has one visible token: attention needs one."""
    rows, tokens = (max(batch["input_ids"].shape[axis] for batch in batches) for axis in (0, 1))
    together = {
        name: torch.stack([
            pad(one[name], (0, tokens - one[name].shape[1], 0, rows - len(one[name])), value=pad_token * (name == "input_ids"))
            for one in batches
        ])
        for name in batches[0]
    }  # fmt: skip
    together["attention_mask"][:, :, 0] = 1
    return together


def visible(mask: Tensor, config: Any) -> Tensor:
    """A mask (runs, rows, tokens) as the backbone reads it without looking at its values, which vmap cannot.

    DeBERTa takes it as it is. Other encoders leave a mask of pairs (rows, 1, tokens, tokens) alone: of truths for
    scaled_dot_product_attention, else of what is added to scores.
    """
    if config.model_type == "deberta-v2":
        return mask
    pairs = mask.bool()[:, :, None, None, :].expand(-1, -1, 1, mask.shape[-1], -1)
    return pairs if config._attn_implementation == "sdpa" else (~pairs).float() * torch.finfo(torch.float32).min
