"""How much each token matters: one value per scored token, fixed, or learned by `atwu`.

Importing this does not import torch. How tokens are pushed away belongs in `losses`.
"""

from deleatur.importance.confidence import WGA, SatImp
from deleatur.importance.contrast import Contrast
from deleatur.importance.entropy import ETW
from deleatur.importance.learned import Learned
from deleatur.importance.masks import SEUL, SULLM, Spans, SUNgram, TokenUnlearn
from deleatur.importance.novelty import Novelty
from deleatur.importance.uniform import Uniform

IMPORTANCES: dict[str, type] = {
    "uniform": Uniform,
    "wga": WGA,
    "satimp": SatImp,
    "etw": ETW,
    "tokenunlearn": TokenUnlearn,
    "seul": SEUL,
    "su-llm": SULLM,
    "su-ngram": SUNgram,
    "contrast": Contrast,
    "novelty": Novelty,
    "spans": Spans,
    "learned": Learned,
}
AnyImportance = Uniform | WGA | SatImp | ETW | TokenUnlearn | SEUL | SULLM | SUNgram | Contrast | Novelty | Spans | Learned
