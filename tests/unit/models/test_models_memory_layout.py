"""Channels last: the same answers, gradients, names and files, whatever the processor."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import AutoModel, ResNetConfig

from regraft.models import memory_layout
from regraft.models.architectures import ARCHITECTURES
from regraft.models.backbones import Backbone, Body, PoolingChoice
from regraft.models.memory_layout import channels_last, gains
from regraft.models.net import weights_digest


def conv_net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


def test_convolutions_are_laid_out_channels_last_and_answer_the_same():
    net = conv_net()
    plain, x = copy.deepcopy(net), torch.randn(2, 3, 9, 7)
    assert channels_last(net)
    assert net[0].weight.stride() == (27, 1, 9, 3)
    assert weights_digest(net) == weights_digest(plain)
    fast = net(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(fast, plain(x), rtol=1e-5, atol=1e-6)
    fast.square().sum().backward()
    plain(x).square().sum().backward()
    torch.testing.assert_close(net[0].weight.grad, plain[0].weight.grad, rtol=1e-4, atol=1e-5)


def test_networks_without_pictures_stay_as_they_are():
    net = nn.Sequential(nn.Conv1d(3, 8, 3), nn.Linear(4, 4))
    before = [parameter.data_ptr() for parameter in net.parameters()]
    assert not channels_last(net)
    assert [parameter.data_ptr() for parameter in net.parameters()] == before


def resnet():
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
    body = Body(AutoModel.from_config(config).eval(), ARCHITECTURES["resnet"])
    return Backbone(body, PoolingChoice("mean", "chosen by option"))


@pytest.mark.parametrize(("capability", "expected"), [("AVX512", True), ("AVX2", False), ("DEFAULT", False)])
def test_a_backbone_is_laid_out_as_the_processor_likes_it(monkeypatch, tmp_path, capability, expected):
    monkeypatch.setattr(memory_layout.torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert gains(torch.device("cpu")) is expected
    assert gains(torch.device("cuda"))
    backbone = resnet()
    weight = next(parameter for parameter in backbone.parameters() if parameter.ndim == 4 and parameter.shape[2] == 3)
    assert (weight.stride(1) == 1) is expected

    inputs, mask = {"pixel_values": torch.randn(2, 3, 32, 32)}, torch.ones(2, 1, dtype=torch.bool)
    plain = copy.deepcopy(backbone)
    for parameter in plain.parameters():
        parameter.data = parameter.data.contiguous()
    torch.testing.assert_close(backbone(inputs, mask).pooled_BD, plain(inputs, mask).pooled_BD, rtol=1e-4, atol=1e-5)

    for number, net in enumerate((backbone, plain)):
        (tmp_path / str(number)).mkdir()
        net.save(tmp_path / str(number))
    files = [(tmp_path / str(number) / "model.safetensors").read_bytes() for number in (0, 1)]
    assert files[0] == files[1]
    again = Backbone.load(tmp_path / "0", backbone.spec())
    assert torch.equal(again(inputs, mask).pooled_BD, backbone(inputs, mask).pooled_BD)
