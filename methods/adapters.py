"""The adapters of one model: the single peft layer that holds them all, and mounts the active one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import Tensor, nn

from methods import backbone
from methods.parts import Part


class Adapter(nn.ModuleDict):
    """One adapter: its parts, and modules that parts share, by name. Names may hold dots; keys hold `/` instead."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        super().__init__({name.replace(".", "/"): module for name, module in modules.items()})

    def parts(self) -> Iterator[Part]:
        """The parts, in the order in which the method built them, which is the order of mounting and merging."""
        return (module for module in self.values() if isinstance(module, Part))


class Adapters(nn.Module, BaseTunerLayer):
    """Every adapter of one tuner; a child of the task model. Mounts the active one, and unmounts it when disabled."""

    model: nn.Module
    weight = bias = None  # type: ignore[assignment]  # peft's properties read a wrapped layer; there is none

    def __init__(self, model: nn.Module, prefix: str) -> None:
        super().__init__()
        self.__dict__["model"] = model  # not a child: the model is this module's parent
        self.adapter_layer_names = (prefix,)
        self.add_module(prefix, nn.ModuleDict())
        self._active_adapter, self.merged_adapters = [], []
        self._mounted: list[Part] = []
        self._kept: dict[str, Tensor] = {}  # the backbone's tensors under a merged adapter
        self._trained: dict[nn.Parameter, bool] = {}  # requires_grad while disabled

    @property
    def adapters(self) -> nn.ModuleDict:
        """Adapter name -> Adapter."""
        return getattr(self, self.adapter_layer_names[0])

    def adapter(self, name: str) -> Adapter:
        """One adapter. Raises KeyError where there is none of that name."""
        return cast(Adapter, self.adapters[name])

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        """Make one adapter the active one, trainable unless `inference_mode`. Raises ValueError for several."""
        names = [adapter_names] if isinstance(adapter_names, str) else adapter_names
        if len(names) > 1:
            raise ValueError(f"one adapter is active at a time; {names} are {len(names)}")
        super().set_adapter(names, inference_mode)
        self._trained = {}
        self._remount()

    def enable_adapters(self, enabled: bool) -> None:
        """Mount the active adapter, or unmount it. Which parameters are trained comes back as it was."""
        if enabled:
            trained = self._trained
            super().enable_adapters(True)
            for parameter, requires_grad in trained.items():
                parameter.requires_grad_(requires_grad)
        elif not self.disable_adapters:
            self._trained = {parameter: parameter.requires_grad for parameter in self.parameters()}
            self.unmerge()
            super().enable_adapters(False)
        self._remount()

    def delete_adapter(self, adapter_name: str) -> None:
        """Delete an adapter; another one becomes active if this one was."""
        self._unmount()
        super().delete_adapter(adapter_name)
        self._remount()

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Fold adapters into the backbone's tensors, in place; those stay at hand for `unmerge`.

        Raises ValueError, with the backbone as it was, where a part cannot be merged or (`safe_merge`) a value is not
        finite.
        """
        self._unmount()
        for name in check_adapters_to_merge(self, adapter_names):
            self.merged_adapters.append(name)
            try:
                for part in self.adapter(name).parts():
                    self._write(part.merged(self.model), finite=safe_merge)
            except ValueError:
                self.unmerge()
                raise
        self._remount()

    def unmerge(self) -> None:
        """Put the backbone's tensors back, exactly."""
        kept, self._kept = self._kept, {}
        for name, tensor in kept.items():
            self.model.get_parameter(name).data.copy_(tensor)
        self.merged_adapters.clear()
        self._remount()

    @torch.no_grad()
    def _write(self, tensors: dict[str, Tensor], finite: bool) -> None:
        for name, tensor in tensors.items():
            if finite and not torch.isfinite(tensor).all():
                raise ValueError(f"merging {name} gives values that are not finite")
            parameter = self.model.get_parameter(name)
            self._kept.setdefault(name, parameter.detach().clone())
            parameter.copy_(tensor)

    def leave(self) -> None:
        """Unmount for good: the model is about to lose this container. What is merged stays merged."""
        self._unmount()
        self._kept = {}

    def _remount(self) -> None:
        self._unmount()
        if self.disable_adapters or self.merged:
            return
        for name in self.active_adapters:
            for part in self.adapter(name).parts():
                part.mount(self.model)
                self._mounted.append(part)

    def _unmount(self) -> None:
        for part in reversed(self._mounted):
            part.unmount()
        self._mounted.clear()

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        place = device or next(iter(backbone.parameters(self.model).values())).device
        adapter = self.adapter(adapter_name)
        if place.type != "meta" and not any(tensor.is_meta for tensor in adapter.parameters()):
            adapter.to(place)
