"""Several processes for one run: `accelerate launch -m harness ...`, `torchrun -m harness ...`, tasks of a Slurm step.

There is no wrapper around the model. Each process computes its share of every micro-batch, weighted so that the shares
sum to the loss of the whole effective batch; gradients are summed over processes before they are clipped; from there on
all of them hold the same numbers and do the same, growing, pruning and masking included. The first process alone
evaluates, writes and speaks.

A failure of one is a failure of all, and nobody waits for ever: every exchange begins with `agree`, in which a process
says that it is well, that a signal came, or why it ends; and a process that ends, for whatever reason, does so with a
last `agree`. What is exchanged is numbers and JSON.

The number of processes is not part of a run's identity, like the number of threads: the same rows, weights and rates
make every update. It changes the order of sums (losses agree to about 1e-6) and, with dropout, what is dropped.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from harness import device
from harness.errors import HarnessError
from harness.interrupt import Interrupt, Stopped

if TYPE_CHECKING:
    from torch import Tensor, nn

MESSAGE_BYTES = 4096
PATIENCE = timedelta(hours=24)  # the others wait while the first one evaluates; one that is gone is noticed at once


class PeerFailed(HarnessError):
    """Another process of this run ended. `state` is that of the record."""

    def __init__(self, message: str, state: str | None = None) -> None:
        super().__init__(message)
        if state is not None:  # without one it was bad input
            self.state = state


class Group:
    """The processes of one run, as one of them sees them. The default is a process alone, for whom all this is nothing.

    Args:
        rank: which one this is; 0 leads.
        size: how many there are.
        interrupt: notes the signals that this one gets.
    """

    def __init__(self, rank: int = 0, size: int = 1, interrupt: Interrupt | None = None) -> None:
        self.rank, self.size, self.interrupt = rank, size, interrupt or Interrupt()
        self.leads = rank == 0
        self.beside: list[str] = []  # ids of the runs that train in the same pack (harness/joint.py)
        self.ended = False  # no exchange is possible any more
        self._noted = 0

    @property
    def signal(self) -> int | None:
        """The signal that ends training after this update; all processes give the same answer."""
        return self.interrupt.number if self.size == 1 else self._noted or None

    def agree(self, error: BaseException | None = None) -> None:
        """Wait for the others. Raises PeerFailed, or Stopped, where one of them ends; with `error` this one does."""
        if self.size == 1 or self.ended:
            return
        import torch

        mine = torch.tensor([error is not None, self.interrupt.number or 0])
        failed, self._noted = self._reduced(mine, "MAX").tolist()
        if failed:
            self.ended = True
            told = self._gathered(None if error is None else described(error))
            first = next(place for place, message in enumerate(told) if message is not None)
            if error is None:
                raise remade(first, told[first])

    def tell(self, value: Any = None) -> Any:
        """What the first process says (JSON), on every process."""
        if self.size == 1:
            return value
        self.agree()
        text = json.dumps(value if self.leads else None).encode()
        import torch
        from torch import distributed

        length = torch.tensor([len(text)])
        distributed.broadcast(length, 0)
        content = torch.frombuffer(bytearray(text), dtype=torch.uint8) if self.leads else None
        content = torch.empty(int(length), dtype=torch.uint8) if content is None else content
        distributed.broadcast(content, 0)
        return json.loads(bytes(content.tolist()))

    def enter(self, model: nn.Module) -> None:
        """Training of this model begins."""

    def share(self, tensors: dict[str, Tensor]) -> None:
        """Give every process the first one's values: processors of different kinds need not draw the same bits."""
        if self.size > 1:
            from torch import distributed

            self.agree()
            for name in sorted(tensors):
                distributed.broadcast(tensors[name].data, 0)

    def reduce(self, loss: Tensor, parameters: list[nn.Parameter]) -> Tensor:
        """Sum the gradients over processes, in place, and the loss, which is returned.

        A parameter that has no gradient anywhere keeps none: AdamW must not move it.
        """
        self.agree()
        if self.size == 1:
            return loss
        import torch

        found = self._reduced(torch.tensor([p.grad is not None for p in parameters], dtype=torch.uint8), "MAX")
        moved = [p for p, anywhere in zip(parameters, found.tolist(), strict=True) if anywhere]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in moved]
        flat = torch.cat([loss.reshape(1).float(), *(gradient.reshape(-1).float() for gradient in gradients)])
        sums = self._reduced(flat, "SUM").split([1, *(gradient.numel() for gradient in gradients)])
        for parameter, gradient, total in zip(moved, gradients, sums[1:], strict=True):
            parameter.grad = gradient.copy_(total.view(gradient.shape))
        return sums[0].view(()).to(loss.dtype)

    def _reduced(self, values: Tensor, how: str) -> Tensor:
        from torch import distributed

        try:
            distributed.all_reduce(values, getattr(distributed.ReduceOp, how))
        except RuntimeError as error:  # what gloo and NCCL raise where a peer is gone
            self.ended = True
            raise PeerFailed("another process of this run is gone without a word (killed?)", "FAILED") from error
        return values

    def _gathered(self, message: Any) -> list[Any]:
        """A short JSON value of each process, on every process."""
        import torch
        from torch import distributed

        text = json.dumps(message).encode()
        mine = torch.zeros(MESSAGE_BYTES, dtype=torch.uint8)
        mine[: len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        found = [torch.zeros_like(mine) for _ in range(self.size)]
        distributed.all_gather(found, mine)
        return [json.loads(bytes(one.tolist()).rstrip(b"\0")) for one in found]


def described(error: BaseException) -> dict[str, Any]:
    """Why a process ends, in JSON of less than MESSAGE_BYTES."""
    if isinstance(error, Stopped):
        return {"signal": int(error.number), "message": error.where}
    known = isinstance(error, HarnessError)
    state = getattr(error, "state", None) if known else device.failed_as(error)
    message = str(error) if known else f"{type(error).__name__}: {error}"
    return {"signal": None, "state": state, "message": message.encode("ascii", "replace").decode()[:2000]}


def remade(rank: int, message: dict[str, Any]) -> BaseException:
    """The same, to be raised in another process."""
    if message["signal"] is not None:
        return Stopped(message["signal"], message["message"])
    return PeerFailed(f"process {rank}: {message['message']}", message["state"])


def _said(names: tuple[str, ...], otherwise: int) -> int:
    """What the launcher says in the first of these variables that is set."""
    return next((int(os.environ[name]) for name in names if os.environ.get(name)), otherwise)


def rank() -> int:
    """Which of them this process is."""
    return _said(("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK"), 0) if size() > 1 else 0


def size() -> int:
    """How many processes the launcher (torchrun's kind, or MPI) started for this run. Torch is not imported to know."""
    return _said(("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"), 1)


@contextlib.contextmanager
def joined(where: str) -> Iterator[Group]:
    """The processes that were launched together; whoever leaves in an error takes the others along.

    Args:
        where: the device, "cpu" or "cuda"; of several GPUs each process takes that of its LOCAL_RANK.
    """
    if size() == 1:
        yield Group()
        return
    import torch
    from torch import distributed

    on_gpu = where == "cuda"
    if on_gpu:
        torch.cuda.set_device(_said(("LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID"), 0))
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    distributed.init_process_group(backend, timeout=PATIENCE, rank=rank(), world_size=size())
    group = Group(rank(), size())
    try:
        yield group
        group.agree()
    except BaseException as error:
        group.agree(error)
        raise
    finally:
        distributed.destroy_process_group()
