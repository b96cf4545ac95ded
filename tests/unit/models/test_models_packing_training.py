"""Training on real positions only takes the path of padded rows, draws dropout from the same distribution, and so does MiniLM."""

import copy

import numpy as np
import pytest
import torch
import transformers
from packed_families import PACKED, both, rows, set_dropout

from regraft.models.backbones import Shapes
from regraft.models.heads import LinearHead
from regraft.models.net import Headed

DRAWS, TIMES = 1000, 100
LIMIT = 4.7
# The others share their way through the network with one of these; `make test-all` trains every family.
ALWAYS = {"bert", "mpnet", "modernbert", "mistral", "gpt2"}
FAMILIES = [pytest.param(name, marks=() if name in ALWAYS else pytest.mark.slow) for name in PACKED]


def headed(backbone):
    return Headed(backbone, LinearHead(backbone.width, 2, 0.0, torch.Generator().manual_seed(0)))


def path_of(net, batches, targets, learning_rate, steps=50):
    """Return the loss of every step of plain gradient descent, which hides no difference behind moments."""
    optimizer = torch.optim.SGD(net.parameters(), lr=learning_rate)
    losses = []
    for step in range(steps):
        loss = torch.nn.functional.cross_entropy(net(*batches[step % len(batches)]), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("name", FAMILIES)
def test_fifty_steps_take_the_path_of_padded_rows(name):
    backbone, _ = both(name)
    nets = [headed(backbone)]
    nets.append(copy.deepcopy(nets[0]))
    nets[1].backbone.shapes = Shapes("padded")
    batches = [rows(list(np.random.default_rng(seed).integers(1, 20, 8)), seed) for seed in range(5)]
    losses = [path_of(net.train(), batches, torch.arange(8) % 2, 0.05) for net in nets]
    assert np.abs(np.subtract(*losses)).max() <= 1e-4
    assert losses[0][-1] < losses[0][0]


def draws_of(net, inputs, mask):
    """Return 1,000 draws of the pooled vectors (draws, rows, D): every row stands 100 times in a batch."""
    net.train()
    with torch.no_grad():
        drawn = torch.cat([net(inputs, mask).pooled_BD for _ in range(DRAWS // TIMES)])
    return drawn.view(DRAWS, len(mask) // TIMES, -1).double()


def unlike(first, second):
    """Return what of two samples of draws (n, R, D) is further apart than chance explains.

    For each of the R x D numbers: Welch's z of the means, and the logarithm of the ratio of variances over its standard error
    by the delta method, sqrt((k1 - 1) / n + (k2 - 1) / n) with k the fourth standardised moment of each sample. Beyond 4.7 a
    normal number falls once in 380,000 times: of 2 x 4 x 32 numbers one does in 1 of 1,500 runs. Over all numbers together:
    the mean logarithm of the ratio of variances, which a wrong share of dropout moves the same way everywhere, within 0.05.
    """
    n = len(first)
    means, variances = [x.mean(0) for x in (first, second)], [x.var(0) for x in (first, second)]
    fourth = [((x - x.mean(0)) ** 4).mean(0) / x.var(0) ** 2 for x in (first, second)]
    z_mean = (means[0] - means[1]) / ((variances[0] + variances[1]) / n).sqrt()
    ratio = (variances[0] / variances[1]).log()
    z_variance = ratio / ((fourth[0] + fourth[1] - 2) / n).sqrt()
    found = {"means": float(z_mean.abs().max()), "variances": float(z_variance.abs().max())}
    apart = [f"{what} by {z:.1f} standard errors" for what, z in found.items() if not z < LIMIT]
    return apart + ([f"all variances by {ratio.mean():.3f}"] if not ratio.mean().abs() < 0.05 else [])


def samples_of(name, packed, padded):
    """Return draws of packed and of padded rows; each with dropout (everywhere, of attention) of its own."""
    backbone, _ = both(name)
    inputs, mask = rows([4, 9, 2, 9] if name == "bert" else [4, 9, 2])
    inputs, mask = {key: values.repeat(TIMES, 1) for key, values in inputs.items()}, mask.repeat(TIMES, 1)
    torch.manual_seed(0)
    found = []
    for kind, shares in (("packed", packed), ("padded", padded)):
        set_dropout(backbone.body, *shares)
        backbone.shapes = Shapes(kind)
        found.append(draws_of(backbone, inputs, mask))
    return found


@pytest.mark.parametrize("share", [(0.1, 0.1), (0.0, 0.2)], ids=["everywhere", "in attention alone"])
@pytest.mark.parametrize("name", FAMILIES)
def test_dropout_leaves_mean_and_variance_of_outputs(name, share):
    """Every family drops weights of attention: there alone a wrong share would not hide behind the noise of other layers."""
    first, second = samples_of(name, share, share)
    assert min(first.std(0).min(), second.std(0).min()) > 0, "nothing was dropped"
    assert not unlike(first, second)


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_another_share_of_dropout_is_noticed(name):
    assert unlike(*samples_of(name, (0.0, 0.2), (0.0, 0.17)))
    assert unlike(*samples_of(name, (0.1, 0.1), (0.12, 0.12)))


TEXT = (
    "Dear all, the meeting about the new release is moved to Monday at nine. Please read the notes of the last one, and write "
    "to me if there is anything that you would like to add, or if you cannot come. We shall speak about the tests that fail on "
    "the small machine, the patch of the week before, and who will look after the mailing list while Anna is away. "
)
MINILM = {
    "one row of one": [1],
    "one row of two": [2],
    "all equal": [12] * 6,
    "all different": [3, 31, 1, 6, 17, 2],
    "one very long": [5, 450, 9],
}
LENGTHS = {"one row of one", "all different"}


@pytest.fixture(scope="module")
def words(minilm):
    """Token numbers of a real text, many times over."""
    modality = minilm.modality({"max_length": 512}, lambda: iter([]))
    inputs, _ = modality.collate(modality.encode([TEXT * 9]))
    assert inputs["input_ids"].shape[1] == 512
    return inputs["input_ids"][0]


def real_rows(words, lengths, seed=0):
    """Return inputs and mask of pieces of the text of these lengths."""
    starts = np.random.default_rng(seed).integers(0, len(words) - np.asarray(lengths) + 1)
    ids = np.zeros((len(lengths), max(lengths)), dtype=np.int64)
    for row, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        ids[row, :length] = words[start : start + length]
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return {"input_ids": torch.from_numpy(ids), "token_type_ids": torch.zeros_like(torch.from_numpy(ids))}, mask


@pytest.fixture(scope="module")
def real(minilm):
    """MiniLM under a head, and the hub's own model of the same folder; dropout off."""
    net = headed(minilm.backbone(minilm.modality({}, lambda: iter([])), 0))
    assert net.backbone.pooling_name == "mean"
    plain = transformers.AutoModel.from_pretrained(minilm.folder(), dtype=torch.float32, add_pooling_layer=False)
    for model in (net.backbone.body, plain):
        set_dropout(model, 0.0, 0.0)
    assert not net.backbone.packing.reason
    assert plain.config._attn_implementation != net.backbone.body.config._attn_implementation
    return net.train(), plain.train()


def hub_logits(net, plain, inputs, mask):
    """Return the logits of the head over the mean of the hub's vectors of padded rows."""
    vectors = plain(**inputs, attention_mask=mask.long()).last_hidden_state * mask.unsqueeze(-1)
    return net.head.linear(vectors.sum(1) / mask.sum(1, keepdim=True))


@pytest.mark.base
@pytest.mark.parametrize(
    "lengths",
    [pytest.param(lengths, id=name, marks=() if name in LENGTHS else pytest.mark.slow) for name, lengths in MINILM.items()],
)
def test_minilm_packed_is_the_hubs_minilm_on_padded_rows(real, words, lengths):
    net, plain = real
    inputs, mask = real_rows(words, lengths)
    targets, gradients, outputs = torch.arange(len(lengths)) % 2, [], []
    for logits, model in (
        (lambda: net(inputs, mask), net.backbone.body),
        (lambda: hub_logits(net, plain, inputs, mask), plain),
    ):
        outputs.append(logits())
        torch.nn.functional.cross_entropy(outputs[-1], targets).backward()
        found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        gradients.append({**found, **{f"head.{name}": p.grad for name, p in net.head.named_parameters()}})
        for module in (net, plain):
            module.zero_grad()
    assert (outputs[0] - outputs[1]).abs().max() <= 1e-5
    assert gradients[0].keys() == gradients[1].keys()
    assert len(gradients[0]) > 100
    ours, whole = [torch.cat([g[name].flatten() for name in gradients[1]]).double() for g in gradients]
    assert (ours - whole).norm() <= 1e-5 * whole.norm()
    # A bias adds up as many equal terms as a row has positions, and each addition rounds the same way, by half of float32's step:
    # of the hub's own gradients one is 1.2e-5 away from those in float64 at 31 positions, of ours one 2.2e-5 at 450.
    limit = max(1e-5, max(lengths) * 2.0**-24)
    largest = max(float(gradient.abs().max()) for gradient in gradients[1].values())
    for name, gradient in gradients[1].items():
        if not name.endswith("key.bias"):  # its true gradient is zero: what is there is rounding
            scale = max(float(gradient.abs().max()), 1e-3 * largest)
            assert (gradients[0][name] - gradient).abs().max() <= limit * scale, name


@pytest.mark.base
@pytest.mark.slow
def test_fifty_steps_of_minilm_take_the_path_of_padded_rows(real, words):
    nets = [copy.deepcopy(real[0]) for _ in range(2)]
    nets[1].backbone.shapes = Shapes("padded")
    batches = [real_rows(words, list(np.random.default_rng(seed).integers(2, 50, 8)), seed) for seed in range(5)]
    losses = [path_of(net, batches, torch.arange(8) % 2, 0.05) for net in nets]
    assert np.abs(np.subtract(*losses)).max() <= 1e-4
    assert losses[0][-1] < 0.9 * losses[0][0]
