"""Attacks, a file each."""

from deleatur.auditing.attacks.ask import ASK
from deleatur.auditing.attacks.choose import CHOOSE
from deleatur.auditing.attacks.compress import COMPRESS
from deleatur.auditing.attacks.depth import DEPTH
from deleatur.auditing.attacks.draw import DRAW
from deleatur.auditing.attacks.member import MEMBER
from deleatur.auditing.attacks.nearer import NEARER
from deleatur.auditing.attacks.relearn import RELEARN
from deleatur.auditing.attacks.steer import STEER
from deleatur.auditing.attacks.table import Attack

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
