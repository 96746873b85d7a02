"""The PEFT methods. Importing this package makes peft know every one of them, which loading an adapter requires.

A method of ours is one file and one YAML; peft's own are one YAML. Its names agree: the file `bitfit.py`,
`conf/method/bitfit.yaml`, peft's type BITFIT, the parameters' prefix `bitfit_`, the classes `BitFitConfig` and
`BitFitTuner`.

    hooks.py     what a method may do during training
    sites.py     where: architecture -> named places
    parts.py     what stands there: a form at a place (activations, weights)
    adapters.py  the adapters of one model
    tuner.py     the peft plumbing
    backbone.py  the network's own parameters, ties and fingerprint
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """A row of the table of methods.

    Args:
        name: the YAML's, and where the method is ours also the file's and peft's.
        family: additive, prompt, selective, reparameterized or hybrid.
        paper: who proposed it.
        file: the module that holds it: one of ours, or `peft`.
        identity: a new adapter leaves the backbone's outputs as they are.
        draws: a new adapter depends on the seed.
        merges: an adapter can be folded into the backbone's weights, where those exist.
    """

    name: str
    family: str
    paper: str
    file: str
    identity: bool = True
    draws: bool = True
    merges: bool = True


METHODS = (
    Method("full", "selective", "the reference: every parameter", "methods.selective.full", draws=False),
    Method("head", "selective", "the reference: the task head alone", "methods.selective.head", draws=False),
    Method(
        "bitfit", "selective", "Ben Zaken et al., ACL 2022, arXiv 2106.10199", "methods.selective.bitfit", draws=False
    ),
    Method("lora", "reparameterized", "Hu et al., ICLR 2022, arXiv 2106.09685", "peft"),
    Method("ia3", "additive", "Liu et al., NeurIPS 2022, arXiv 2205.05638", "peft", draws=False),
)

for _method in METHODS:
    importlib.import_module(_method.file)
