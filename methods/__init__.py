"""The PEFT methods. Importing this package makes peft know every one of them, which loading an adapter requires.

A method of ours is one file and one YAML; peft's own are one YAML. Its names agree: the file `bitfit.py`,
`conf/method/bitfit.yaml`, peft's type BITFIT, the parameters' prefix `bitfit_`, the classes `BitFitConfig` and
`BitFitTuner`.

    hooks.py     what a method may do during training
    sites.py     where: architecture -> named places
    parts.py     what stands there: a form at a place (activations, weights)
    lowrank.py   a linear layer and the low-rank change beside it in fewer passes, peft's LoRA too
    attention.py, disentangled.py, disentangled_kernel.py   a slot for prefixes; DeBERTa's attention lean, and by Triton
    adapters.py  the adapters of one model
    tuner.py     the peft plumbing
    backbone.py  the network's own parameters, ties and fingerprint
    saved.py     an adapter's folder and the backbone it belongs to
"""

from __future__ import annotations

import importlib
import logging
from dataclasses import dataclass

NEEDLESS = (  # what bitsandbytes says that calls for nothing: peft imports it wherever it is installed
    ("bitsandbytes.backends.cpu.ops", "Failed to load CPU gemm_4bit_forward"),  # an optional kernel from a hub
    ("bitsandbytes.autograd._functions", "MatMul8bitLt: inputs will be cast"),  # int8 as it is defined, at every call
)


def _needed(told: logging.LogRecord) -> bool:
    """Whether a message is none of those two: any other warning of bitsandbytes' is heard."""
    return not any(told.name == name and str(told.msg).startswith(start) for name, start in NEEDLESS)


for _logger, _ in NEEDLESS:
    logging.getLogger(_logger).addFilter(_needed)


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
        peft_type: peft's name of it, where the method's own is taken by a method of peft's.
        driver: the module with hooks for a tuner of peft's, which has none itself.
        scores: how the names of those parameters end that only choose a binary mask: their gradient is straight
            through, and a saved adapter holds the mask's bits in their place.
    """

    name: str
    family: str
    paper: str
    file: str
    identity: bool = True
    draws: bool = True
    merges: bool = True
    peft_type: str = ""
    driver: str = ""
    scores: str = ""


METHODS = (
    Method("full", "selective", "the reference: every parameter", "methods.selective.full", draws=False),
    Method("head", "selective", "the reference: the task head alone", "methods.selective.head", draws=False),
    Method(
        "bitfit", "selective", "Ben Zaken et al., ACL 2022, arXiv 2106.10199", "methods.selective.bitfit", draws=False
    ),
    Method(
        "houlsby",
        "additive",
        "Houlsby et al., ICML 2019, arXiv 1902.00751",
        "methods.additive.houlsby",
        identity=False,
        merges=False,
    ),
    Method(
        "pfeiffer",
        "additive",
        "Pfeiffer et al., EACL 2021, arXiv 2005.00247",
        "methods.additive.pfeiffer",
        identity=False,
        merges=False,
    ),
    Method(
        "prefix",
        "prompt",
        "Li and Liang, ACL 2021, arXiv 2101.00190",
        "methods.prompt.prefix",
        identity=False,
        merges=False,
    ),
    Method("lora", "reparameterized", "Hu et al., ICLR 2022, arXiv 2106.09685", "peft"),
    Method(
        "adalora",
        "reparameterized",
        "Zhang et al., ICLR 2023, arXiv 2303.10512",
        "methods.reparameterized.adalora",
        peft_type="ADALORA_SVD",
    ),
    Method(
        "adalora_peft",
        "reparameterized",
        "Zhang et al., ICLR 2023, arXiv 2303.10512",
        "peft",
        driver="methods.reparameterized.adalora_peft",
    ),
    Method(
        "increlora",
        "reparameterized",
        "Zhang et al., 2023, arXiv 2308.12043",
        "methods.reparameterized.increlora",
    ),
    Method("qlora", "reparameterized", "Dettmers et al., NeurIPS 2023, arXiv 2305.14314", "peft"),  # LoRA, quantised
    Method("ia3", "additive", "Liu et al., NeurIPS 2022, arXiv 2205.05638", "peft", draws=False),
    Method(
        "propetl",
        "hybrid",
        "Zeng et al., ACL 2023, arXiv 2305.17682",
        "methods.hybrid.propetl",
        identity=False,
        merges=False,
        scores=".scores",
    ),
    Method(
        "propetl_lora",
        "hybrid",
        "Zeng et al., ACL 2023, arXiv 2305.17682",
        "methods.hybrid.propetl_lora",
        scores=".scores",
    ),
    Method(
        "propetl_prefix",
        "hybrid",
        "Zeng et al., ACL 2023, arXiv 2305.17682",
        "methods.hybrid.propetl_prefix",
        identity=False,
        merges=False,
        scores=".scores",
    ),
)

for _method in METHODS:
    for _module in filter(None, (_method.file, _method.driver)):
        importlib.import_module(_module)
