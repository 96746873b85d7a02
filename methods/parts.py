"""What stands in the backbone: parts. A part is one form (a small module) at one place.

Two of the four engines live here; the other two are parts as well, in files of their own (`attention.py`: keys and
values; a method's own `Part` subclass: anything else).

- `Activation`: a form reads a module's output (sequential) or input (parallel) and adds to, or replaces, the output.
- `Weight`: a form takes a weight of the backbone and returns the one to compute with. Low-rank deltas, masks,
  re-parameterisations and selection (`Copy`: the trained tensor stands in for the frozen one) are weights.

A part never registers anything in the backbone, so the backbone's parameters keep their names, identity and values.
Activations stand by hooks that are bound methods of the part. Weights stand by turning the owner's attribute into a
computed one: every read computes, so tied tensors, modules called twice, weights read without a call (DeBERTa's
relative embeddings) and gradient checkpointing's second pass all see the same value. Both survive deepcopy and
pickling.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

FORMS = "_weight_parts"  # in an owner's __dict__, not registered: attribute -> the parts that compute it


class Part(nn.Module):
    """A form at a place. Subclasses say how to `mount`; what they hook is undone by `unmount`.

    Trained tensors are parameters of the part (usually of its `form`), kept in float32; what must be saved and not
    trained is a buffer. A part reaches the backbone only through the model passed to `mount` and `merged`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._handles: list[RemovableHandle] = []

    def mount(self, model: nn.Module) -> None:
        """Take the place in `model`, the task model without any wrapper."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it stands in a model")

    def unmount(self) -> None:
        """Leave the place; the backbone computes as if the part had never been there."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def merged(self, model: nn.Module) -> dict[str, Tensor]:
        """The backbone's tensors with this part folded in, by parameter name. Raises ValueError where none exist."""
        raise ValueError(f"{type(self).__name__} is not a change of the backbone's weights, so it cannot be merged")

    def before(self, module: nn.Module, hook: Callable[..., Any]) -> None:
        """Call `hook(module, args, kwargs) -> None | (args, kwargs)` before every call of `module`."""
        self._handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))

    def after(self, module: nn.Module, hook: Callable[..., Any]) -> None:
        """Call `hook(module, args, kwargs, output) -> None | output` after every call of `module`."""
        self._handles.append(module.register_forward_hook(hook, with_kwargs=True))


def hidden(output: Any) -> Tensor:
    """The hidden states in a module's output: the output itself, a tuple's or a `ModelOutput`'s first entry."""
    return output if isinstance(output, Tensor) else output[0]


def with_hidden(output: Any, states: Tensor) -> Any:
    """The same output with other hidden states.

    A `ModelOutput` may list the states of all layers, the last being the same tensor: that one changes too, because
    DeBERTa's model reads it there.
    """
    if isinstance(output, Tensor):
        return states
    if isinstance(output, tuple):
        return (states, *output[1:])
    changed, layers = copy.copy(output), output.get("hidden_states")
    if layers and layers[-1] is output[0]:
        changed["hidden_states"] = (*layers[:-1], states)
    changed[next(iter(output))] = states
    return changed


def arguments(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """A call's arguments by name, however they were passed: what a pre-hook that rewrites inputs wants to see."""
    bound = inspect.signature(module.forward).bind_partial(*args, **kwargs).arguments
    return {**{name: value for name, value in bound.items() if name != "kwargs"}, **bound.get("kwargs", {})}


class Activation(Part):
    """A form at a module's output `y`: `y + form(h)`, or `form(h)` where `add` is false.

    Args:
        site: path of the module whose output changes; a tuple output changes in its first element.
        form: maps `h` to something that adds to `y`; it computes in its own dtype. Scales and gates belong to it.
        reads: "output" for `h = y` (sequential insertion), "input" for `h = x` (parallel insertion), "sum" for
            `h = x + y` (the residual stream after a pre-norm sub-layer whose input is `x`).
        source: path of the module whose first input is `x`; None means `site` itself.
    """

    def __init__(
        self, site: str, form: nn.Module, *, reads: str = "output", source: str | None = None, add: bool = True
    ) -> None:
        super().__init__()
        self.site, self.source, self.reads, self.add = site, source or site, reads, add
        self.form = form
        self._seen: Tensor | None = None

    def mount(self, model: nn.Module) -> None:
        """Hook the site, and the source where that is another module."""
        if self.reads != "output":
            self.before(model.get_submodule(self.source), self._remember)
        self.after(model.get_submodule(self.site), self._change)

    def unmount(self) -> None:
        """Unhook, and let go of a remembered input."""
        super().unmount()
        self._seen = None

    def merged(self, model: nn.Module) -> dict[str, Tensor]:
        """`W + form.delta()` where the form is a linear map beside a linear layer and says its matrix (out x in)."""
        owner = model.get_submodule(self.site)
        linear = isinstance(owner, nn.Linear) and self.reads == "input" and self.source == self.site and self.add
        matrix: Any = getattr(self.form, "delta", None)
        if not linear or matrix is None:
            return super().merged(model)
        weight, delta = owner.get_parameter("weight"), matrix()
        if not weight.is_floating_point():
            raise ValueError(f"{self.site}.weight is quantised ({weight.dtype}): dequantise the backbone, then merge")
        return {f"{self.site}.weight": (weight.to(delta.dtype) + delta).to(weight.dtype)}

    def _remember(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._seen = args[0] if args else next(iter(kwargs.values()))

    def _change(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        y = hidden(output)
        h, self._seen = y if self._seen is None else self._seen, None
        h = h + y if self.reads == "sum" else h
        change = in_own_dtype(self.form, h)
        return with_hidden(output, y + change if self.add else change)


def in_own_dtype(form: nn.Module, states: Tensor) -> Tensor:
    """`form(states)` computed in the form's dtype, returned in the dtype of `states`."""
    own = next((parameter.dtype for parameter in form.parameters()), states.dtype)
    return form(states.to(own)).to(states.dtype)


class Copy(nn.Module):
    """The form of selection: a trained copy that stands in for a frozen tensor. Its start is the tensor itself."""

    def __init__(self, base: Tensor) -> None:
        super().__init__()
        self.value = nn.Parameter(base.detach().to(torch.promote_types(base.dtype, torch.float32), copy=True))

    def forward(self, base: Tensor) -> Tensor:
        """The copy, in the dtype of the tensor that it replaces."""
        return self.value.to(base.dtype)


class Weight(Part):
    """A form in place of a weight: everything that reads the tensor gets `form(tensor)`.

    Args:
        names: the parameter's name and those of its tied aliases (`methods.backbone.aliases`), all in the task model.
        form: maps the frozen tensor to the one to compute with, in the same shape and dtype.
    """

    def __init__(self, names: list[str], form: nn.Module) -> None:
        super().__init__()
        self.names = names
        self.form = form
        self._places: list[tuple[nn.Module, str]] = []

    def mount(self, model: nn.Module) -> None:
        """Turn the attribute into a computed one in every module that owns the tensor."""
        for path, _, attribute in (name.rpartition(".") for name in self.names):
            owner = model.get_submodule(path)
            _refuse_codes(owner._parameters.get(attribute), f"{path}.{attribute}", self.form)
            self._places.append((owner, attribute))
            owner.__dict__.setdefault(FORMS, {}).setdefault(attribute, []).append(self)
            owner.__class__ = _computing(_plain(type(owner)), tuple(sorted(owner.__dict__[FORMS])))

    def unmount(self) -> None:
        """Give the attribute back to the frozen tensor."""
        for owner, attribute in self._places:
            parts = owner.__dict__[FORMS]
            parts[attribute].remove(self)
            if not parts[attribute]:
                del parts[attribute]
            plain = _plain(type(owner))
            owner.__class__ = _computing(plain, tuple(sorted(parts))) if parts else plain
        self._places.clear()

    def merged(self, model: nn.Module) -> dict[str, Tensor]:
        """`form(tensor)` under the first name, which the aliases share. Raises ValueError where there is no tensor."""
        path, _, attribute = self.names[0].rpartition(".")
        base = model.get_submodule(path)._parameters[attribute]
        if base is None:
            raise ValueError(f"{self.names[0]} does not exist in the backbone, so there is nothing to merge into")
        return {self.names[0]: self.form(base).to(base.dtype)}


def _refuse_codes(tensor: Tensor | None, name: str, form: nn.Module) -> None:
    """Raises ValueError for a quantised weight: a form computes with values, and the tensor holds codes."""
    if tensor is not None and not tensor.is_floating_point():
        raise ValueError(
            f"{name} is quantised ({tensor.dtype}), and {type(form).__name__} computes with the full weight; load the "
            "backbone unquantised (quantization=none), or choose a method that adds to activations, such as LoRA"
        )


@cache
def _computing(plain: Any, attributes: tuple[str, ...]) -> Any:
    """`plain` with `attributes` computed by the parts that stand there. Equal arguments give the same class."""
    body: dict[str, Any] = {name: _property(name) for name in attributes}
    body |= {"_plain": plain, "__reduce_ex__": lambda self, _: (_rebuild, (plain, attributes), self.__getstate__())}
    return type(plain.__name__, (plain,), body | {"__module__": plain.__module__, "__qualname__": plain.__qualname__})


def _rebuild(plain: Any, attributes: tuple[str, ...]) -> nn.Module:
    """An empty module of a computing class, for copy and pickle, which then fill in its state."""
    computing = _computing(plain, attributes)
    return computing.__new__(computing)


def _plain(cls: Any) -> Any:
    """The class that a module has when no part computes its weights."""
    return getattr(cls, "_plain", cls)


def _property(attribute: str) -> property:
    """A weight as its parts compute it, in the order in which they were mounted."""

    def value(owner: nn.Module) -> Tensor:
        try:
            weight: Any = owner._parameters[attribute]
            for part in owner.__dict__[FORMS][attribute]:
                weight = part.form(weight)
        except AttributeError as error:  # torch would answer it with the frozen tensor, and nobody would notice
            raise RuntimeError(f"the form of {type(owner).__name__}.{attribute} failed: {error}") from error
        # An alias, or bitsandbytes, which casts a layer's bias by assigning to its data, would cast what is trained.
        return weight.view_as(weight) if isinstance(weight, nn.Parameter) else weight

    return property(value)
