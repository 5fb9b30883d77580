"""How much each token matters: one value per scored token. Importing this does not import torch."""

from deleatur.importance.confidence import WGA
from deleatur.importance.learned import Learned
from deleatur.importance.uniform import Uniform

IMPORTANCES: dict[str, type] = {"uniform": Uniform, "wga": WGA, "learned": Learned}
AnyImportance = Uniform | WGA | Learned
