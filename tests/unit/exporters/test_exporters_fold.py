"""Batch norms in convolutions: the network answers as before, and a convolution that is not a plain one stays what it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from transformers.models.bit.modeling_bit import WeightStandardizedConv2d

from regraft.exporters.fold import folded
from regraft.models.efficientnet_lite import SameConv2d
from regraft.models.view import view
from regraft.types import Batch


class Net(nn.Module):
    """Two convolutions with norms behind them, one without; takes a batch as a network of the house does."""

    def __init__(self, first: nn.Conv2d) -> None:
        super().__init__()
        self.first, self.norm = first, nn.BatchNorm2d(first.out_channels)
        self.second, self.other = nn.Conv2d(first.out_channels, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.last = nn.Conv2d(4, 2, 1)
        for norm in (self.norm, self.other):
            nn.init.uniform_(norm.running_mean, -1, 1)
            nn.init.uniform_(norm.running_var, 0.5, 2)
            nn.init.uniform_(norm.weight, 0.5, 2)
            nn.init.uniform_(norm.bias, -1, 1)

    def tensors(self, batch: Batch) -> tuple[dict[str, torch.Tensor]]:
        return ({name: torch.from_numpy(values) for name, values in batch.inputs.items()},)

    def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        hidden = torch.relu(self.norm(self.first(inputs["pixels"])))
        out: torch.Tensor = self.last(torch.relu(self.other(self.second(hidden))))
        return out


def make(kind: type[nn.Conv2d], **options: int) -> tuple[Net, Batch]:
    torch.manual_seed(0)
    made = kind(3, 6, 3, **options)
    with torch.no_grad():
        made.weight.mul_(5.0)
    net = Net(made).eval()
    pixels = np.random.default_rng(0).standard_normal((2, 3, 13, 10)).astype(np.float32)
    return net, Batch(inputs={"pixels": pixels}, mask_BT=np.ones((2, 1), dtype=bool))


@pytest.mark.parametrize(
    ("kind", "options", "gone"),
    [
        (nn.Conv2d, {"padding": 1}, {"norm", "other"}),
        (nn.Conv2d, {"stride": 2, "groups": 3}, {"norm", "other"}),
        (SameConv2d, {"stride": 2}, {"norm", "other"}),
        (SameConv2d, {"stride": 1}, {"norm", "other"}),
        (WeightStandardizedConv2d, {}, {"other"}),
    ],
)
def test_a_network_answers_as_before_with_its_norms_folded(kind, options, gone):
    if kind is WeightStandardizedConv2d:
        options = {"padding": "SAME"}
    net, batch = make(kind, **options)
    before = net(*net.tensors(batch))
    found = folded(net, batch)
    assert {path for path, module in found.items() if isinstance(module, nn.Identity)} == gone
    torch.testing.assert_close(view(net, found)(*net.tensors(batch)), before, atol=2e-5, rtol=1e-5)
    assert torch.equal(net(*net.tensors(batch)), before), "the source is not changed"
