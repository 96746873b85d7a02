"""A frozen linear layer and the low-rank change beside it as one function of autograd: exact, and with fewer passes.

    y = x W' + b + s (x' A') B'          x': x, or x after dropout

Step by step, as peft's LoRA and a hook compute it, the change is made, scaled, and added, and on the way back its gradient is
scaled and the two gradients of x are added: five more passes over tensors of the activations' size, and under autocast peft
takes x to float32 and back besides. Here both products are summed by the matrix product itself, forwards into y and
backwards into dL/dx. Equal to rounding; the same tensors are kept for the way back.

`Beside` is the part of our own forms, `lean` exchanges peft's LoRA layers. Where it is not the same thing (trained or
quantised base weights, other dtypes, merged, mixed or several adapters, variants such as DoRA, torch.compile, vmap), what was
there before computes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as PeftLinear
from torch import Tensor, nn

from methods.parts import Activation, in_own_dtype

PART = "_beside"  # in a layer's __dict__: the part whose change its forward pass takes in
Observer = Callable[[Tensor, Tensor], None]


def beside(
    layer: nn.Linear, states: Tensor, down: Tensor, up: Tensor, scale: float = 1.0, *,
    dropped: Tensor | None = None, observer: Observer | None = None,
) -> Tensor:  # fmt: skip
    """`layer(states) + scale * dropped down' up'`, differentiable in all but the layer's own weights.

    Args:
        layer: of which `fits` is true.
        states: (..., in). dropped: what the change reads, of the same shape; None: the states.
        down: (rank, in). up: (out, rank).
        observer: called on the way back with what the change read and with its gradient, (tokens, in), (tokens, out).
    """
    given = [states, layer.weight, layer.bias, down, up, dropped]
    if casts(states):
        dtype = torch.get_autocast_dtype(states.device.type)
        given = [None if one is None else one.to(dtype) for one in given]
    return _Beside.apply(*given, scale, observer)


def fits(layer: nn.Module, states: Tensor, down: Tensor) -> bool:
    """Whether `beside` is this layer and its change."""
    if not isinstance(layer, nn.Linear) or torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    weight, bias = layer.weight, layer.bias
    if weight.requires_grad or (bias is not None and bias.requires_grad) or states.device != weight.device:
        return False
    alike = {states.dtype, weight.dtype, down.dtype} | (set() if bias is None else {bias.dtype})
    floating = all(dtype.is_floating_point for dtype in alike)
    return len(alike) == 1 or (floating and casts(states))


def casts(states: Tensor) -> bool:
    """Whether autocast casts these: it leaves float64 alone, and on the meta device, where memory is estimated, it is not."""
    kind = states.device.type
    return (
        states.dtype is not torch.float64 and torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    )


class _Beside(torch.autograd.Function):
    """`beside` on tensors of one dtype."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, dropped: Tensor | None,
        scale: float, observer: Observer | None,
    ) -> Tensor:  # fmt: skip
        flat = states.reshape(-1, states.shape[-1])
        read = flat if dropped is None else dropped.reshape(flat.shape)
        inner = read @ down.mT
        out = flat @ weight.mT if bias is None else torch.addmm(bias, flat, weight.mT)
        torch.addmm(out, inner, up.mT, alpha=scale, out=out)
        onwards = ctx.needs_input_grad[0] or ctx.needs_input_grad[5]
        # The inputs themselves, not views of them: a gradient of the gradient asks what they came from.
        ctx.save_for_backward(states if dropped is None else dropped, weight if onwards else None, down, up, inner)
        ctx.scale, ctx.observer, ctx.apart = scale, observer, dropped is not None
        return out.view(*states.shape[:-1], out.shape[-1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        read, weight, down, up, inner = ctx.saved_tensors
        read, wide = read.reshape(-1, read.shape[-1]), gradients[0].shape[:-1]
        gradient = gradients[0].reshape(-1, gradients[0].shape[-1])
        again = torch.is_grad_enabled()  # somebody wants a gradient of the gradient
        inner = read @ down.mT if again else inner
        of_inner = gradient @ up
        if ctx.scale != 1:
            of_inner *= ctx.scale
        of_states = of_dropped = of_down = of_up = None
        if ctx.needs_input_grad[3]:
            of_down = of_inner.mT @ read
        if ctx.needs_input_grad[4]:
            of_up = gradient.mT @ inner
            if ctx.scale != 1:
                of_up *= ctx.scale
        if ctx.needs_input_grad[0]:
            of_states = gradient @ weight
            if not ctx.apart:
                of_states = torch.addmm(of_states, of_inner, down, out=None if again else of_states)
            of_states = of_states.view(*wide, -1)
        if ctx.apart and ctx.needs_input_grad[5]:
            of_dropped = (of_inner @ down).view(*wide, -1)
        if ctx.observer is not None:
            ctx.observer(read, gradient)
        return of_states, None, None, of_down, of_up, of_dropped, None, None


class LinearBeside(nn.Linear):
    """Takes the place of a linear layer's class while a part stands beside it."""

    def forward(self, states: Tensor) -> Tensor:
        """The layer's output with the part's change in it."""
        part = self.__dict__.get(PART)
        return super().forward(states) if part is None else part.output(self, states)


class Beside(Activation):
    """A low-rank form beside a linear layer: what `Activation(reads="input")` computes, in fewer passes.

    The form has `factors()`, `(down, up)` with its scale in them; `dropout`, a module; `observer()`, an `Observer` or None;
    and a forward pass, which takes over where the layer is none of torch's own or `fits` is false.
    """

    def __init__(self, site: str, form: nn.Module) -> None:
        super().__init__(site, form, reads="input")
        self._layer: list[Any] = []  # a list, so that it is no child

    def mount(self, model: nn.Module) -> None:
        """Exchange the layer's class, or hook the layer where that is taken."""
        layer: Any = model.get_submodule(self.site)
        if type(layer) is not nn.Linear:
            super().mount(model)
            return
        layer.__class__ = LinearBeside
        layer.__dict__[PART] = self
        self._layer.append(layer)

    def unmount(self) -> None:
        """Give the layer its class back."""
        super().unmount()
        for layer in self._layer:
            del layer.__dict__[PART]
            if type(layer) is LinearBeside:
                layer.__class__ = nn.Linear  # type: ignore[assignment]
        self._layer.clear()

    def output(self, layer: LinearBeside, states: Tensor) -> Tensor:
        """The layer's output and the change, (..., out)."""
        form: Any = self.form
        down, up = form.factors()
        if not fits(layer, states, down):
            own = nn.Linear.forward(layer, states)
            return own + in_own_dtype(form, states)
        dropped = form.dropout(states) if form.dropout.p and form.dropout.training else None
        return beside(layer, states, down, up, dropped=dropped, observer=form.observer())


class LeanLinear(PeftLinear):
    """Takes the place of peft's LoRA layer: same parameters, names and files."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """As peft's, which computes wherever more than one plain adapter is asked for."""
        name = self.active_adapters[0] if len(self.active_adapters) == 1 else ""
        plain = not (args or kwargs or self.disable_adapters or self.merged or torch.compiler.is_compiling())
        if not plain or name not in self.lora_A or name in self.lora_variant or self.lora_bias.get(name):
            return super().forward(x, *args, **kwargs)
        parts: tuple[Any, ...] = self.base_layer, self.lora_A[name], self.lora_B[name], self.lora_dropout[name]
        layer, down, up, dropout = parts
        hooked = any(module._forward_hooks or module._forward_pre_hooks for module in parts)
        if hooked or type(layer) is not nn.Linear or not fits(layer, x, down.weight):
            return super().forward(x, *args, **kwargs)
        dropped = None if isinstance(dropout, nn.Identity) or not dropout.training else dropout(x)
        return beside(layer, x, down.weight, up.weight, self.scaling[name], dropped=dropped)


def lean(model: nn.Module) -> int:
    """Exchange every LoRA layer of peft's beside a linear layer for the lean one, in place. Returns how many there were."""
    found = [module for module in model.modules() if type(module) is PeftLinear]
    for layer in found:
        layer.__class__ = LeanLinear
    return len(found)
