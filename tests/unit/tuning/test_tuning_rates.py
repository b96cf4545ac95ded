"""Rates by layer and by part, and layers drawn anew: for every tuning, against the papers' own arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from adapted_nets import headed, tuned
from test_tuning_by_part import Parts

from regraft.errors import OptionsError
from regraft.models.net import Headed
from regraft.options import build
from regraft.training.optimizers import Rates, parameter_groups
from regraft.tuning import TUNINGS
from regraft.tuning.parts import Decided, layers_above, new_parameters, part_of

RATES = Rates(backbone=1e-4, new=1e-2, adapters=1e-3)


def tuning_of(name="full", **options):
    cls = TUNINGS.get(name)
    return cls(build(cls.Options, options))


def peaks(net, tuning):
    """Return the peak rate of every weight that learns, as the optimiser gets it."""
    decided = Decided(tuning.trainable(net), tuning.shares(net))
    groups = parameter_groups(net, decided.trainable(net), new_parameters(net), RATES, 0.1)
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    assert groups[0]["peak"] == max(group["peak"] for group in groups if group["peak"] <= groups[0]["peak"])
    found = {names[id(weight)]: group["peak"] for group in groups for weight in group["params"]}
    assert found.keys() == tuning.trainable(net)
    return found


def test_the_rate_of_a_layer_is_that_of_the_one_above_divided_by_a_number():
    net = headed("bert")
    found = peaks(net, tuning_of(layer_decay=1 / 2.6))
    for name, rate in found.items():
        if name.startswith("head."):
            expected = 1e-2
        elif ".embeddings." in name:
            expected = 1e-4 / 2.6**3
        else:
            expected = 1e-4 / 2.6 ** (2 - int(name.split(".layer.")[1][0]))
        assert rate == pytest.approx(expected, rel=1e-12), name
    assert len(set(found.values())) == 5


def test_one_rate_is_what_it_is_without_the_option():
    net = headed("bert")
    plain = parameter_groups(net, tuning_of().trainable(net), new_parameters(net), RATES, 0.1)
    asked = Decided(tuning_of().trainable(net), tuning_of(layer_decay=1.0).shares(net)).trainable(net)
    assert [group["peak"] for group in plain] == [1e-4, 1e-4, 1e-2, 1e-2]
    assert [{**group, "params": [id(one) for one in group["params"]]} for group in plain] == [
        {**group, "params": [id(one) for one in group["params"]]}
        for group in parameter_groups(net, asked, new_parameters(net), RATES, 0.1)
    ]


def test_adapters_decay_with_their_layer_and_parts_have_factors():
    net = tuned("bert", "lora")
    found = peaks(net, tuning_of("lora", layer_decay=0.5, rates={"head": 3.0, "adapters": 0.1}))
    for name, rate in found.items():
        layer = int(name.split(".layer.")[1][0]) if ".layer." in name else 2
        expected = 3e-2 if name.startswith("head.") else 1e-4 * 0.5 ** (2 - layer)
        assert rate == pytest.approx(expected, rel=1e-12), name


def test_every_part_has_its_name():
    net = tuned("gpt2", "lora")
    found = {str(part) for part in part_of(net).values()}
    assert found == {"embeddings", "layers", "final", "adapters", "head"}
    fused = Headed(Parts(), torch.nn.Linear(2, 2))
    named = {name: str(part) for name, part in part_of(fused).items()}
    assert named["backbone.parts.1.words.weight"] == "photo: embeddings"
    assert named["backbone.pooling.weight"] == "pooling"
    assert [layers_above(fused, f"backbone.parts.0.{path}") for path in ("words.weight", "layers.0.weight")] == [2, 1]
    found = tuning_of(rates={"photo": 2.0, "embeddings": 5.0}).shares(fused)
    assert found["backbone.parts.1.words.weight"] == 10.0
    assert found["backbone.parts.0.words.weight"] == 5.0
    assert found["backbone.parts.1.layers.0.weight"] == 2.0
    assert "backbone.pooling.weight" not in found


def test_each_part_can_have_rates_of_its_own():
    fused = Headed(Parts(), torch.nn.Linear(2, 2))
    tuning = tuning_of("by-part", parts={"title": {"name": "full", "layer_decay": 0.5}}, others="full", rates={"title": 4.0})
    tuning.check(fused)
    found = tuning.shares(fused)
    assert found == {  # 4 / 2 / 2 of the table is 1
        "backbone.parts.0.layers.0.weight": 2.0,
        "backbone.parts.0.layers.1.weight": 4.0,
    }
    with pytest.raises(OptionsError, match=r"no part 'head'(.|\n)*where: tuning\.parts\.title, tuning\.rates"):
        tuning_of("by-part", parts={"title": {"name": "full", "rates": {"head": 2.0}}}).check(fused)


def test_what_does_not_fit_is_refused_all_at_once():
    net = headed("bert")
    with pytest.raises(OptionsError) as caught:
        tuning_of("head", layer_decay=0.9, rates={"hed": 2.0}, reinit=1).check(net)
    assert len(caught.value.problems) == 3
    for text in (
        "the network has no part 'hed' that learns",
        "did you mean 'head'",
        "no layer of the base learns",
        "layers would be drawn anew that the tuning does not let learn",
        "weights stay frozen, such as backbone.body.encoder.layer.2.",
    ):
        assert text in str(caught.value)
    with pytest.raises(OptionsError, match=r"where: tuning\.reinit(.|\n)*at most 3"):
        tuning_of(reinit=4).check(net)
    with pytest.raises(OptionsError, match="drawn anew"):
        tuning_of("top-k", layers=1, reinit=2).check(net)
    tuning_of("top-k", layers=2, reinit=2).check(net)
    for bad in ({"layer_decay": 0.0}, {"layer_decay": 1.1}, {"rates": {"head": 0.0}}, {"reinit": -1}):
        with pytest.raises(OptionsError):
            tuning_of(**bad)


@pytest.mark.parametrize("name", ["bert", "gpt2", "vit", "wav2vec2", "swin"])
def test_top_layers_are_drawn_as_before_pretraining_and_nothing_else_moves(name):
    net = headed(name)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    tuning_of(reinit=1).begin(net, 7)
    assert torch.equal(torch.random.get_rng_state(), state)
    inside = f"backbone.{net.backbone.blocks.layers[-1]}."
    moved = {key for key, value in net.state_dict().items() if not torch.equal(value, before[key])}
    learnt = {key for key, _ in net.named_parameters() if key.startswith(inside)}
    tables = {key for key in learnt if "relative_position" in key or "lambda" in key}
    assert learnt - tables <= moved <= learnt
    twin, other = headed(name), headed(name)
    tuning_of(reinit=1).begin(twin, 7)
    tuning_of(reinit=1).begin(other, 8)
    maps = [key for key in learnt if key.endswith("weight") and net.get_parameter(key).ndim == 2]
    assert all(torch.equal(twin.get_parameter(key), net.get_parameter(key)) for key in learnt)
    assert not any(torch.equal(other.get_parameter(key), net.get_parameter(key)) for key in maps)


def test_berts_layers_are_normal_with_the_range_of_its_configuration():
    net = headed("bert")
    tuning_of(reinit=2).begin(net, 0)
    for number in (1, 2):
        layer = net.backbone.body.encoder.layer[number]
        drawn = torch.cat([one.weight.detach().flatten() for one in layer.modules() if isinstance(one, torch.nn.Linear)])
        spread = net.backbone.body.config.initializer_range
        assert float(drawn.std()) == pytest.approx(spread, rel=0.05)
        assert float(drawn.mean()) == pytest.approx(0.0, abs=4 * spread / np.sqrt(len(drawn)))
        assert all(not one.bias.detach().any() for one in layer.modules() if isinstance(one, torch.nn.Linear))
        assert all((one.weight == 1).all() for one in layer.modules() if isinstance(one, torch.nn.LayerNorm))
