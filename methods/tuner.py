"""The peft plumbing, once: registration, configuration, the container of adapters and the tuner.

A method is a `TunerConfig` with its own fields, a `Tuner` that says in `build` which parts an adapter consists of,
and one call of `register`. From that follow, through peft's own functions: `get_peft_model`, several adapters on one
model, `set_adapter`, `disable_adapter`, `delete_adapter`, `save_pretrained`, `PeftModel.from_pretrained` (in a
process that has imported `methods`), merging where every part can be merged, `unload`, and `transformers.Trainer`.

    class MyTuner(Tuner):
        def build(self, model, config):
            return {name: Weight(names, MyForm(...)) or Activation(site, MyForm(...)) for ...}

    register("my_method", MyConfig, MyTuner)

Why parts beside the modules and not wrappers around them: peft wraps one module at a time and allows one type a
model, so a hybrid needs several kinds of wrapper around one linear layer, and a prefix, a norm or a tied embedding
has no module to wrap. Here one container is the only `BaseTunerLayer` that peft's machinery meets; it holds every
adapter as a plain dictionary of parts and mounts the active one. A disabled adapter is not there at all, hence
disabled equals base, bit for bit, and the backbone's names never change.

Adapters are float32. One adapter is active at a time. The saved configuration carries the backbone's fingerprint;
loading onto another backbone raises ValueError.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from peft import PeftConfig, PeftType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner
from peft.utils import register_peft_method
from peft.utils.constants import DUMMY_TARGET_MODULES
from peft.utils.other import ModulesToSaveWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel

from methods import backbone
from methods.adapters import Adapter, Adapters
from methods.hooks import Hooks


@dataclass
class TunerConfig(PeftConfig):
    """The fields that every method of ours has. A method adds its own, each with `metadata={"help": ...}`."""

    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Modules of the task head: trained as copies and saved with the adapter."}
    )
    backbone_fingerprint: str | None = field(
        default=None, metadata={"help": "The backbone that a saved adapter belongs to; filled in, checked on loading."}
    )
    method: ClassVar[str] = ""  # set by register
    target_modules: ClassVar[str] = DUMMY_TARGET_MODULES  # tells peft that this tuner replaces no module

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType[self.method.upper()]


def register(name: str, config_cls: type[TunerConfig], tuner_cls: type[Tuner]) -> None:
    """Make peft know a method: its type `NAME`, the prefix `name_`, and its two classes. Twice is as good as once.

    peft's enumeration of types is closed: `register_peft_method` refuses a name that is not a member and an
    enumeration with members cannot be subclassed, so a member is added by hand. Raises ValueError for a name that
    peft itself uses: `ADALORA` is peft's AdaLoRA, for everyone in the process.
    """
    key = name.upper()
    if key not in PeftType.__members__:
        member: Any = str.__new__(PeftType, key)
        member._name_, member._value_, member._sort_order_ = key, key, len(PeftType)
        member.__objclass__ = PeftType
        PeftType._member_map_[key] = PeftType._value2member_map_[key] = member
        PeftType._member_names_.append(key)
        type.__setattr__(PeftType, key, member)
    known = PEFT_TYPE_TO_CONFIG_MAPPING.get(PeftType[key])
    if known is not None and not issubclass(known, TunerConfig):
        raise ValueError(f"peft has a method '{name}' of its own; register this one under another name")
    config_cls.method, tuner_cls.prefix = name, f"{name}_"
    mappings: list[Any] = [PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING]
    for mapping in mappings:
        mapping.pop(PeftType[key], None)
    register_peft_method(name=name, config_cls=config_cls, model_cls=tuner_cls)


class Tuner(BaseTuner, Hooks):
    """The wrapper around the task model. A method overrides `build`, and the hooks that its training needs."""

    tuner_layer_cls = Adapters

    def build(self, model: PreTrainedModel, config: Any) -> Mapping[str, nn.Module]:
        """The parts of a new adapter by name, freshly initialised from torch's global generator.

        Names become the keys of the saved tensors and must not depend on the adapter's name. A module that is no Part
        is kept and saved as well: something that parts share. Raises ValueError where the model does not fit.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say which parts an adapter has")

    def adapter(self, name: str | None = None) -> Adapter:
        """One adapter's parts; the active one's by default."""
        return self.container.adapter(name or self.active_adapters[0])

    def adapter_params(self) -> int:
        """Of the active adapter, whatever a phase has frozen; the head's are not among them."""
        return sum(parameter.numel() for parameter in self.adapter().parameters())

    @property
    def container(self) -> Adapters:
        """Where this tuner keeps its adapters."""
        return getattr(self.model, backbone.CONTAINER)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The task model's outputs; while training, a loss that it computed itself gets the penalty added.

        That serves transformers.Trainer. A loop that computes the loss from logits adds `penalty()` itself.
        """
        outputs = self.model(*args, **kwargs)
        if self.training and getattr(outputs, "loss", None) is not None and (penalty := self.penalty()) is not None:
            outputs.loss = outputs.loss + penalty
        return outputs

    def inject_adapter(self, model: Any, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Build a new adapter and let peft do the rest: head copies, freezing, the active adapter."""
        if not hasattr(model, backbone.CONTAINER):
            model.add_module(backbone.CONTAINER, Adapters(model, self.prefix))
            self._mark_only_adapters_as_trainable(model)  # or peft would take the backbone's state for one to keep
        if self.container.merged:
            raise ValueError("an adapter cannot be added while another one is merged; call unmerge_adapter() first")
        # A copy, so that what is filled in here does not travel with the caller's object to another model.
        config = self.peft_config[adapter_name] = copy.copy(self.peft_config[adapter_name])
        self._check_fingerprint(model, config)
        self.container.adapters[adapter_name] = Adapter(self.build(model, config))
        self.container._move_adapter_to_device_of_base_layer(adapter_name)
        super().inject_adapter(model, adapter_name, *args, **kwargs)

    def _check_fingerprint(self, model: nn.Module, config: Any) -> None:
        found = backbone.fingerprint(model, config.modules_to_save or ())
        if config.backbone_fingerprint and found and config.backbone_fingerprint != found:
            raise ValueError(
                f"this adapter belongs to a backbone with fingerprint {config.backbone_fingerprint}, and this one has "
                f"{found}: its weights or architecture are not those that the adapter was trained on. Load it onto "
                f"{config.base_model_name_or_path or 'the original backbone'}"
            )
        config.backbone_fingerprint = found or config.backbone_fingerprint

    def _unload_and_optionally_merge(
        self,
        merge: bool = True,
        progressbar: bool = False,
        safe_merge: bool = False,
        adapter_names: list[str] | None = None,
    ) -> Any:
        """The task model without this tuner; merged, it has the trained head, else the original one.

        peft's own code replaces a head by reading its `weight`, which composite heads lack (peft issue #3114).
        """
        names = adapter_names or self.active_adapters
        if merge:
            self.container.merge(safe_merge, adapter_names)
        else:
            self.container.unmerge()
        self.container.leave()
        for path, module in list(self.model.named_modules()):
            if isinstance(module, ModulesToSaveWrapper):
                trained = [module.modules_to_save[name] for name in names if merge and name in module.modules_to_save]
                parent, _, name = path.rpartition(".")
                setattr(self.model.get_submodule(parent), name, trained[-1] if trained else module.original_module)
        delattr(self.model, backbone.CONTAINER)
        del self.model.peft_config
        return self.model

    def _create_and_replace(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError("a tuner of ours builds parts and replaces no module")

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        return key.replace(f".{cls.prefix}.{adapter_name}.", f".{cls.prefix}.", 1)

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: PeftConfig, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Saved names -> the model's. Raises ValueError where the file has other parts than the configuration."""
        mark = f"{backbone.CONTAINER}.{cls.prefix}."
        own = {key for key in model.state_dict() if f"{mark}{adapter_name}." in key}
        expected = {cls._remove_adapter_name_from_key(key, adapter_name).partition(mark)[2] for key in own}
        found = {key.partition(mark)[2] for key in state_dict if mark in key}
        if expected != found:
            raise ValueError(
                f"the file and the configuration of adapter '{adapter_name}' do not describe the same parts: "
                f"missing {sorted(expected - found)[:3]}, not expected {sorted(found - expected)[:3]}"
            )
        return super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)
