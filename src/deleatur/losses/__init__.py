"""How a token is pushed away, and the sums that losses share.

A new forget loss is a file here and a row in `FORGET_LOSSES`. Belongs elsewhere: which tokens matter (`importance`).
Importing this does not import torch.
"""

from deleatur.losses.ceu import CEU
from deleatur.losses.dpo import DPO, AltPO
from deleatur.losses.erase import Erase
from deleatur.losses.gradient_difference import GradientDifference
from deleatur.losses.jensun import JensUn
from deleatur.losses.npo import NPO
from deleatur.losses.pdu import PDU
from deleatur.losses.rmu import RMU
from deleatur.losses.simnpo import SimNPO
from deleatur.losses.undial import UNDIAL

__all__ = [
    "CEU",
    "DPO",
    "FORGET_LOSSES",
    "NPO",
    "PDU",
    "RMU",
    "UNDIAL",
    "AltPO",
    "AnyForgetLoss",
    "Erase",
    "GradientDifference",
    "JensUn",
    "SimNPO",
]
FORGET_LOSSES: dict[str, type] = {
    "graddiff": GradientDifference,
    "npo": NPO,
    "simnpo": SimNPO,
    "dpo": DPO,
    "altpo": AltPO,
    "rmu": RMU,
    "undial": UNDIAL,
    "jensun": JensUn,
    "ceu": CEU,
    "pdu": PDU,
    "erase": Erase,
}
"""Forget losses by name; each is a frozen dataclass of hyper-parameters.

An instance is called as `loss(tokens, importance, reference)`.

Args:
    tokens: Outputs of the model for the N scored tokens of forget rows, with what `requires` names.
    importance: One number per scored token, (N,), held fixed.
    reference: The start model's numbers for the same tokens.

Returns:
    A scalar, (), with gradient: the sum over `unit`s ("token" or "sequence"), which the loop divides by their global count.

Raises:
    ConfigError: A hyper-parameter is out of range (when the instance is made).

Examples:
    >>> import deleatur
    >>> loss = deleatur.FORGET_LOSSES["npo"](beta=0.05)
    >>> loss(tokens, importance, reference).shape
    torch.Size([])
"""
AnyForgetLoss = GradientDifference | NPO | SimNPO | DPO | AltPO | RMU | UNDIAL | JensUn | CEU | PDU | Erase
