"""The former place of `deleatur.evaluation.metrics`, to which every import from here leads."""

import sys

import deleatur.evaluation.metrics

sys.modules[__name__] = deleatur.evaluation.metrics
