"""Kernels used without a model: the plain code that each docstring shows, run as it stands, against the kernel."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from deleatur.modeling.chunked_nll import linear_nll
from deleatur.modeling.packed_attention import make_pack, packed_attention


def plain_code(kernel: Callable) -> str:
    """The indented block behind "The plain code that it replaces"."""
    text = (kernel.__doc__ or "").split("plain code that it replaces")[1]
    block = re.search(r":\n\n((?: {8}.*\n)+)", text)
    assert block, kernel
    return textwrap.dedent(block[1])


def with_gradients(made: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    """The output, and the gradients of a sum in which every number counts differently."""
    counts = torch.linspace(-1, 2, made.numel(), dtype=made.dtype).view(made.shape)
    return [made.detach(), *torch.autograd.grad((made * counts).sum(), inputs)]


@pytest.mark.parametrize(("n", "frozen"), [(1, False), (257, False), (257, True)])
def test_linear_nll_gives_values_and_gradients_of_its_docstrings_code(n, frozen):
    torch.manual_seed(n)
    hidden, head = torch.randn(n, 24, requires_grad=True), torch.nn.Linear(24, 401)
    space = {"torch": torch, "hidden": hidden, "head": head, "target": torch.randint(0, 401, (n,))}
    exec(plain_code(linear_nll), space)
    ours = linear_nll(hidden, space["target"], head, chunk=100, frozen=frozen)
    inputs = [hidden] if frozen else [hidden, head.weight, head.bias]
    for mine, plain in zip(with_gradients(ours, inputs), with_gradients(space["nll"], inputs), strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("rows", [[[1]], [[1, 2, 3, 4, 5], [1, 2, 6], [7, 8]], [list(range(257)), list(range(200))]])
def test_packed_attention_gives_values_and_gradients_of_its_docstrings_code(rows, window):
    """Alone, with common beginnings, and above the length at which torch's own kernel takes over; also a window."""
    torch.manual_seed(0)
    pack = make_pack(rows, window=window)
    inputs = [torch.randn(1, heads, len(pack.tree.ids), 8, requires_grad=True) for heads in (6, 2, 2)]
    space = {"torch": torch, "pack": pack} | dict(zip(("query", "key", "value"), inputs, strict=True))
    exec(plain_code(packed_attention), space)
    ours = packed_attention(*inputs, pack)
    for mine, plain in zip(with_gradients(ours, inputs), with_gradients(space["out"], inputs), strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-4, atol=1e-5)
