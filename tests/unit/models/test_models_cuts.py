"""A backbone in two: lower and upper half one after the other are the whole, bit for bit, and the whole is left alone."""

import copy

import pytest
import torch
import transformers
from tiny_families import FAMILIES, SIZES, VOCABULARY, tiny_model

from regraft.errors import OptionsError
from regraft.models import scratch_networks
from regraft.models.architectures import ARCHITECTURES
from regraft.models.attention import NAME
from regraft.models.backbones import Backbone, Body, PoolingChoice, Shapes
from regraft.models.cuts import HIDDEN, halves
from regraft.models.evaluation_mode import without_gradients
from regraft.models.heads import LinearHead
from regraft.models.net import Headed
from regraft.models.vocabulary import PAD_ID
from regraft.training.freeze import learning

SCRATCH = {
    "regraft-lstm": scratch_networks.LstmConfig,
    "regraft-gru": scratch_networks.GruConfig,
    "regraft-cnn": scratch_networks.CnnConfig,
    "regraft-mlp": scratch_networks.MlpConfig,
}
EVERY = [*FAMILIES, *SCRATCH]
# These share their code with another family; one look at them is enough.
TWINS = {"xlm-roberta", "camembert", "mt5", "qwen2", "mistral", "regraft-gru"}
DISTINCT = [name for name in EVERY if name not in TWINS]
LENGTHS = [3, 9, 1, 6, 2, 12, 5, 5, 20, 4, 7]
SHAPES = [Shapes("packed"), Shapes("padded"), Shapes("fixed", 24)]
# T5's layers all add the bias that the first one makes; DeBERTa-v2 adds a convolution of the embeddings after the first layer.
REFUSED = {"t5": {1, 2}, "mt5": {1, 2}, "deberta-v2": {0}}
# Their one dropout module runs before the first layer and after the last: where that learns, it stays on before the first too.
ONE_DROPOUT = {"t5", "mt5", "umt5"}
# What is not a vector a position and used by all layers stays in the upper half, though it counts as lying below.
SHARED = {
    "mpnet": ("body.encoder.relative_attention_bias.",),
    "deberta": ("body.encoder.rel_embeddings.",),
    "deberta-v2": ("body.encoder.rel_embeddings.", "body.encoder.LayerNorm."),
    "t5": ("body.encoder.block.0.",),
    "mt5": ("body.encoder.block.0.",),
}


def model_of(name):
    if name in FAMILIES:
        return tiny_model(name)
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 3, "pad_token_id": PAD_ID}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.AutoModel.from_config(SCRATCH[name](**sizes)).eval()


def backbone_of(name, dropout=0.0, pooling="mean"):
    model = model_of(name)
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    drops = 0
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p, drops = dropout, drops + 1
        for field in ("attention_dropout", "dropout_prob", "dropout"):
            if isinstance(getattr(module, field, None), float):
                setattr(module, field, dropout)
                drops += 1
    assert drops
    return Backbone(Body(model, ARCHITECTURES[name]), PoolingChoice(pooling, ""))


def rows(lengths=LENGTHS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    ids = torch.where(mask, torch.randint(5, VOCABULARY, mask.shape, generator=generator), PAD_ID)
    types = torch.where(mask, torch.randint(0, 2, mask.shape, generator=generator), 0)
    return {"input_ids": ids, "token_type_ids": types}, mask


def cuts_of(name, backbone):
    return [cut for cut in range(len(backbone.blocks.layers) + 1) if cut not in REFUSED.get(name, ())]


def gradients(backbone, sequence, mask):
    weights = torch.randn(mask.shape, generator=torch.Generator().manual_seed(1))
    ((sequence.square().mean(dim=-1) * weights)[mask]).sum().backward()
    found = {name: p.grad for name, p in backbone.named_parameters() if p.grad is not None}
    for parameter in backbone.parameters():
        parameter.grad = None
    return found


@pytest.mark.parametrize("name", EVERY)
def test_both_halves_are_the_whole_bit_for_bit_in_evaluation(name):
    backbone = backbone_of(name).eval()
    inputs, mask = rows()
    for backbone.shapes in SHAPES:
        with torch.inference_mode():
            whole = backbone(inputs, mask)
        for cut in cuts_of(name, backbone):
            made = halves(backbone, cut)
            with torch.inference_mode():
                hidden = made.prefix(inputs, mask)
                both = made.suffix.eval()({HIDDEN: hidden}, mask)
            assert not hidden[~mask].any()
            assert torch.equal(both.sequence_BTD[mask], whole.sequence_BTD[mask]), (backbone.shapes, cut)
            assert torch.equal(both.pooled_BD, whole.pooled_BD), (backbone.shapes, cut)
            # The lower half alone decides: another hidden state must give another answer.
            with torch.inference_mode():
                other = made.suffix({HIDDEN: hidden + mask.unsqueeze(-1)}, mask)
            assert not torch.equal(other.pooled_BD, whole.pooled_BD), cut


@pytest.mark.parametrize("name", DISTINCT)
def test_both_halves_train_as_the_whole_bit_for_bit(name):
    backbone = backbone_of(name).train()
    inputs, mask = rows()
    for backbone.shapes in SHAPES:
        for cut in cuts_of(name, backbone) if backbone.shapes.kind == "packed" else [max(cuts_of(name, backbone)) - 1]:
            if cut in REFUSED.get(name, ()):
                continue
            for path, parameter in backbone.named_parameters():
                # As in training: what lies below is frozen, and kernels may differ where a gradient is wanted.
                parameter.requires_grad_(backbone.blocks.layer_of(path) >= cut)
            made = halves(backbone, cut)
            with without_gradients(backbone):
                hidden = made.prefix(inputs, mask)
            whole = backbone.sequence(inputs, mask)
            both = made.suffix.train().sequence({HIDDEN: hidden.clone()}, mask)
            assert torch.equal(both[mask], whole[mask]), (backbone.shapes, cut)
            if not whole.requires_grad:
                assert cut == len(backbone.blocks.layers)
                continue
            expected, found = gradients(backbone, whole, mask), gradients(made.suffix, both, mask)
            assert found.keys() == expected.keys()
            assert {path for path, _ in backbone.named_parameters() if backbone.blocks.layer_of(path) >= cut} == expected.keys()
            for path, gradient in expected.items():
                assert torch.equal(found[path], gradient), (backbone.shapes, cut, path)


@pytest.mark.parametrize("name", EVERY)
def test_the_upper_half_has_the_weights_above_the_cut_under_their_names(name):
    backbone = backbone_of(name)
    whole = dict(backbone.named_parameters())
    for cut in cuts_of(name, backbone):
        found = dict(halves(backbone, cut).suffix.named_parameters())
        above = {path for path in whole if backbone.blocks.layer_of(path) >= cut}
        assert above <= found.keys()
        strangers = [path for path in found.keys() - above if not path.startswith(SHARED.get(name, ()))]
        assert not strangers, cut
        assert all(found[path] is whole[path] for path in found)


def facts(backbone):
    return [
        (path, id(module), type(module), module.training, dict(module._forward_hooks), dict(module._forward_pre_hooks))
        for path, module in backbone.named_modules()
    ] + [(path, id(p), p.requires_grad, p.grad) for path, p in backbone.named_parameters()]


@pytest.mark.parametrize("name", DISTINCT)
def test_cutting_leaves_the_network_as_it_was(name):
    backbone = backbone_of(name)
    for number, module in enumerate(backbone.modules()):
        module.training = number % 3 == 0
    inputs, mask = rows()
    state = copy.deepcopy(backbone.state_dict())
    attention, config = backbone.body.config._attn_implementation, backbone.body.config.to_dict()
    before = facts(backbone)
    with torch.no_grad():
        answer = backbone.sequence(inputs, mask)
        for cut in cuts_of(name, backbone):
            made = halves(backbone, cut)
            made.suffix.train()({HIDDEN: made.prefix(inputs, mask)}, mask)
            for number, module in enumerate(backbone.modules()):  # the halves share modules: what ran them chose their mode
                module.training = number % 3 == 0
            halves(backbone, cut)
            assert facts(backbone) == before
        assert torch.equal(backbone.sequence(inputs, mask), answer)
    assert backbone.body.config._attn_implementation == attention
    assert backbone.body.config.to_dict() == config
    assert all(torch.equal(value, state[path]) for path, value in backbone.state_dict().items())


def test_packed_halves_keep_the_attention_that_the_hub_was_given():
    backbone = backbone_of("bert")
    halves(backbone, 1)
    assert backbone.body.config._attn_implementation == NAME
    assert type(backbone) is Backbone


@pytest.mark.parametrize("name", DISTINCT)
def test_nothing_below_the_cut_is_random_in_evaluation_whatever_mode_it_was_cut_in(name):
    backbone = backbone_of(name, dropout=0.5).train()
    inputs, mask = rows()
    for backbone.shapes in SHAPES[:2]:
        made = [halves(backbone.train(), cut) for cut in cuts_of(name, backbone)]
        made_in_evaluation = [halves(backbone.eval(), one.cut) for one in made[-1:]]
        backbone.train()
        with without_gradients(backbone):
            expected = made_in_evaluation[0].prefix(inputs, mask)
            for one in made:
                first, again = (one.prefix(inputs, mask) for _ in range(2))
                assert torch.equal(first, again), (backbone.shapes, one.cut)
            assert torch.equal(first, expected), backbone.shapes


@pytest.mark.parametrize("name", [name for name in DISTINCT if name not in ONE_DROPOUT])
def test_what_is_frozen_below_a_cut_is_not_random_while_the_rest_learns(name):
    backbone = backbone_of(name, dropout=0.5)
    net = Headed(backbone, LinearHead(backbone.width, 2, 0.5, torch.Generator().manual_seed(0)))
    inputs, mask = rows()
    layers = len(backbone.blocks.layers)
    backbone.shapes = Shapes("padded")
    with without_gradients(net):
        entered = {}
        for number, path in enumerate(backbone.blocks.layers):
            hook = backbone.get_submodule(path).register_forward_pre_hook(
                lambda _m, given, number=number: entered.__setitem__(number, given[0].clone())
            )
            backbone(inputs, mask)
            hook.remove()
    for cut in range(1, layers):
        trainable = {f"backbone.{path}" for path, _ in backbone.named_parameters() if backbone.blocks.layer_of(path) >= cut} | {
            "head.linear.weight"
        }
        seen = []
        with learning(net, trainable):
            layer = backbone.get_submodule(backbone.blocks.layers[cut])
            hook = layer.register_forward_pre_hook(lambda _m, given, seen=seen: seen.append(given[0].clone()))
            answers = [net(inputs, mask) for _ in range(2)]
            hook.remove()
        assert not torch.equal(*answers), "what learns has its dropout"
        assert all(torch.equal(one[mask], entered[cut][mask]) for one in seen), cut


@pytest.mark.parametrize(
    ("cut", "got"), [(-1, "a cut above layer -1"), (4, "a cut above layer 4"), (99, "a cut above layer 99")]
)
def test_a_cut_outside_the_layers_is_refused(cut, got):
    with pytest.raises(OptionsError) as caught:
        halves(backbone_of("bert"), cut)
    (problem,) = caught.value.problems
    assert (problem.what, problem.got, problem.expected) == ("the base does not have so many layers", got, "0 to 3")


@pytest.mark.parametrize(("name", "cut"), [(name, cut) for name, cuts in REFUSED.items() for cut in sorted(cuts)])
def test_layers_that_share_more_than_hidden_states_say_so(name, cut):
    backbone = backbone_of(name)
    before = facts(backbone)
    with pytest.raises(OptionsError) as caught:
        halves(backbone, cut)
    (problem,) = caught.value.problems
    assert problem.what == f"the layers of {name} share more than their hidden states and cannot be cut here"
    assert (problem.got, problem.fix) == (f"a cut above layer {cut}", "leave the cut out")
    assert facts(backbone) == before


@pytest.mark.parametrize(("groups", "layers"), [(1, 3), (2, 4)])
def test_albert_with_layers_that_run_several_times_cannot_be_cut(groups, layers):
    sizes = {**SIZES, "embedding_size": 16, "num_hidden_groups": groups, "num_hidden_layers": layers}
    torch.manual_seed(0)
    model = transformers.AlbertModel(transformers.AlbertConfig(**sizes)).eval()
    model.pooler = None
    backbone = Backbone(Body(model, ARCHITECTURES["albert"]), PoolingChoice("mean", ""))
    for cut in range(groups + 1):
        with pytest.raises(OptionsError, match="the layers of albert share more than their hidden states"):
            halves(backbone, cut)


def test_an_upper_half_without_what_enters_it_says_so():
    suffix = halves(backbone_of("bert").eval(), 1).suffix
    inputs, mask = rows()
    with pytest.raises(RuntimeError, match="run without what enters it"):
        suffix.body(input_ids=inputs["input_ids"], attention_mask=mask.long())


@pytest.mark.base
def test_minilm_is_its_halves(minilm):
    modality = minilm.modality({}, lambda: iter([]))
    backbone = minilm.backbone(modality, 0)
    inputs, mask = modality.collate(modality.encode(["Win a prize", "Dear all, the meeting is moved", "ok"] * 3))
    inputs, mask = {name: torch.from_numpy(array) for name, array in inputs.items()}, torch.from_numpy(mask)
    with torch.inference_mode():
        for cut in (0, 4, 6):
            made = halves(backbone, cut)
            both = made.suffix({HIDDEN: made.prefix(inputs, mask)}, mask).pooled_BD
            assert torch.equal(both, backbone(inputs, mask).pooled_BD)


@pytest.mark.parametrize("pooling", ["mean", "cls", "last", "attention"])
def test_in_fixed_shapes_one_vector_a_row_has_the_same_bits_in_every_batch(pooling):
    backbone = backbone_of("bert", pooling=pooling).eval()
    backbone.shapes = Shapes("fixed", 24)
    for parameter in backbone.pooling.parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(2))
    inputs, mask = rows([11, 3, 9, 1, 6, 2, 12, 7, 5, 20, 4, 13, 15])
    with torch.inference_mode():
        whole = backbone(inputs, mask).pooled_BD
        for taken in ([0], [1, 8], [10, 9, 8, 7, 6, 5, 4, 3, 2], [12, 0, 3], [7], [11]):
            longest = int(mask[taken].sum(dim=1).max())
            part = backbone({name: value[taken, :longest] for name, value in inputs.items()}, mask[taken, :longest])
            assert torch.equal(part.pooled_BD, whole[taken]), taken
