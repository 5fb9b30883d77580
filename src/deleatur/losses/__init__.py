"""How a token is pushed away. Importing this does not import torch."""

from deleatur.losses.gradient_difference import GradientDifference
from deleatur.losses.npo import NPO

FORGET_LOSSES: dict[str, type] = {"graddiff": GradientDifference, "npo": NPO}
AnyForgetLoss = GradientDifference | NPO
