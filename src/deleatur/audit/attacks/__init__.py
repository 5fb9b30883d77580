"""Attacks, a file each."""

from deleatur.audit.attacks.ask import ASK
from deleatur.audit.attacks.choose import CHOOSE
from deleatur.audit.attacks.compress import COMPRESS
from deleatur.audit.attacks.depth import DEPTH
from deleatur.audit.attacks.draw import DRAW
from deleatur.audit.attacks.member import MEMBER
from deleatur.audit.attacks.nearer import NEARER
from deleatur.audit.attacks.relearn import RELEARN
from deleatur.audit.attacks.steer import STEER
from deleatur.audit.attacks.table import Attack

ATTACKS: dict[str, Attack] = {
    "ask": ASK,
    "choose": CHOOSE,
    "draw": DRAW,
    "compress": COMPRESS,
    "relearn": RELEARN,
    "member": MEMBER,
    "nearer": NEARER,
    "steer": STEER,
    "depth": DEPTH,
}
"""Attacks by name, in the order in which they are made."""
EXPOSING = tuple(name for name, attack in ATTACKS.items() if attack.exposes)
"""Those that can find out a model which only refuses."""
