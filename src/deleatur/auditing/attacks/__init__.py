"""Attacks, a file each; a new one has a row in `ATTACKS` and its name in `settings.ATTACK_NAMES`.

Belongs elsewhere: which models an attack is made on (`arms`), and what its numbers allow to say (`verdicts`).
"""

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
"""Those that can detect a model which only refuses."""
