"""Attacks that try to recover forgotten facts, made on several models with the same settings, and their verdicts.

An attack is a file in `attacks`; `conduct` runs an audit, `verdicts` says what its numbers allow to say. Belongs elsewhere:
metrics of one evaluation (`evaluation`), the page of an audit (`report`). Importing this does not import torch.
"""

from deleatur.auditing.settings import AuditSettings, quick

__all__ = ["AuditSettings", "quick"]
