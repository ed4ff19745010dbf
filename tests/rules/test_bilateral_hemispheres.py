"""Hemispheres, heads and what is made of two: against torch and torchvision, closed forms, and
properties.
"""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from bioplaus import device, rules
from bioplaus.errors import BioplausError
from bioplaus.nets import backbones
from bioplaus.nets.ensembles import Ensemble, Specialists
from bioplaus.nets.sparse_resnet9 import SparseConv
from bioplaus.tasks import hierarchies

SMALL = {
    "n_fine": 6,
    "n_coarse": 3,
    "in_channels": 1,
    "image_size": 8,
    "left": {"widths": [4, 4, 6, 8]},
    "lr": 0.01,
}


def build(name, **values):
    settings = backbones.Config(backbone=name, **values)
    return backbones.build(settings, 3, torch.Generator().manual_seed(0)).double()


def learner(seed=0, **values):
    return rules.make("hemispheric_bp", {**SMALL, **values}, seed=seed, dtype=torch.float64)


def batch(n=12, seed=0):
    stream = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 1, 8, 8, generator=stream, dtype=torch.float64)
    fine = torch.randint(6, (n,), generator=stream)
    return x, torch.stack([fine, fine // 2], dim=1)


def fit(rule, n_steps=3):
    rule.train()
    for step in range(n_steps):
        rule.fit_batch(*batch(seed=step), epoch=0, step=step)
    return rule


def left_state(rule, side="left"):
    return {name: value.clone() for name, value in rule.net.hemispheres[side].state_dict().items()}


def differing(a, b):
    return {name for name in a if not torch.equal(a[name], b[name])}


# --- backbones ------------------------------------------------------------------------------------
# ------------------


def test_vgg11_is_the_one_of_torchvision_without_its_last_layer():
    from bioplaus._torchvision import models

    ours = build("vgg11", widths=(4, 6, 8, 10, 12)).eval()
    with torch.device("meta"):
        theirs = models.vgg11(weights=None)
    assert list(ours.state_dict()) == list(theirs.state_dict())[:-2]
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    hidden = functional.adaptive_avg_pool2d(ours.features(x), 7).flatten(1)
    for k in (0, 3):
        hidden = functional.relu(hidden @ ours.classifier[k].weight.T + ours.classifier[k].bias)
    torch.testing.assert_close(ours(x), hidden, rtol=0, atol=1e-12)


def test_vgg11_without_linear_layers_repeats_the_one_value_of_each_map_of_a_small_image():
    net = build("vgg11_maps").eval()
    assert backbones.parameter_count(net) == 9_220_480  # torchvision's vgg11().features
    features = net(torch.randn(2, 3, 32, 32, dtype=torch.float64))
    assert features.shape == (2, 25_088) and net.n_features == 25_088  # published
    assert (features.view(2, 512, 49) == features.view(2, 512, 49)[..., :1]).all()


def test_vgg11_starts_as_torchvision_says():
    net = build("vgg11", widths=(64, 64, 64, 64, 512))
    conv, linear = net.features[3], net.classifier[3]
    assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.02)
    assert linear.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert not conv.bias.any() and not linear.bias.any()


@pytest.mark.parametrize("name", ["resnet18", "resnet34"])
def test_resnets_are_those_of_torchvision_with_a_small_stem(name):
    from bioplaus._torchvision import models

    ours, theirs = build(name).eval(), getattr(models, name)(weights=None).double().eval()
    theirs.conv1, theirs.maxpool, theirs.fc = (
        nn.Conv2d(3, 64, 3, padding=1, bias=False),
        nn.Identity(),
        nn.Identity(),
    )
    theirs.double().load_state_dict(
        dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True))
    )
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["resnet9", "sparse_resnet9", "sparse_invresnet9", "resnet18"])
def test_any_width_and_any_number_of_colours_gives_that_many_features(name):
    net = backbones.build(
        backbones.Config(backbone=name, widths=(2, 4, 6, 10)), 2, torch.Generator()
    ).eval()
    assert net(torch.randn(3, 2, 16, 16)).shape == (3, net.n_features) and net.n_features == 10


def test_building_draws_from_the_given_stream_only():
    before = torch.get_rng_state()
    first, again = (build("resnet9", widths=(2, 2, 2, 2)).state_dict() for _ in range(2))
    assert torch.equal(before, torch.get_rng_state()) and not differing(first, again)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"backbone": "resnet10"}, "unknown backbone 'resnet10'; did you mean 'resnet1"),
        ({"widths": [1, 2, 3]}, "widths is [1, 2, 3], but backbone 'resnet9' needs 4 of them"),
        ({"backbone": "sparse_resnet9", "k": 1.5}, "k is 1.5, but must be from 0 to 1"),
        ({"backbone": "sparse_resnet9", "per_k": -0.1}, "per_k is -0.1, but must be from 0 to 1"),
        ({"k": 0.5, "per_k": 0.5}, "Backbone 'resnet9' has no SparseConv"),
    ],
)
def test_a_hemisphere_that_cannot_be_is_one_sentence(values, sentence):
    with pytest.raises(BioplausError) as error:
        rules.config("hemispheric_bp", {"left": values})
    assert sentence in str(error.value) and "\n" not in str(error.value)


# --- sparse convolution
# ---------------------------------------------------------------------------------------------


def test_sparse_convolution_keeps_k1_of_each_map_and_then_k2_of_each_channel():
    x = torch.rand(5, 3, 4, 6, dtype=torch.float64) + 0.1  # positive, without ties
    layer = SparseConv(0.3, 0.6)
    k1, k2 = layer.counts(5, 4, 6)
    assert (k1, k2) == (math.ceil(0.3 * 24), math.ceil(0.6 * k1 * 5))
    y = layer(x)
    assert (y != 0).sum((0, 2, 3)).tolist() == [k2] * 3 and (y != 0).sum((2, 3)).max() <= k1
    assert torch.equal(y[y != 0], x[y != 0])
    for channel in range(
        3
    ):  # by hand: the K1 largest of each map, then the K2 largest of all of these
        survivors = torch.cat(
            [x[n, channel].flatten().sort(descending=True).values[:k1] for n in range(5)]
        )
        kept = survivors.sort(descending=True).values[:k2]
        assert torch.equal(y[:, channel][y[:, channel] != 0].sort(descending=True).values, kept)


def test_sparse_convolution_ranks_negative_survivors_below_the_zeros_of_the_first_step():
    x = -torch.rand(2, 1, 3, 3, dtype=torch.float64) - 0.1
    assert not SparseConv(0.5, 0.5)(x).any()  # 10 survivors, 8 zeros, 5 kept: only zeros
    # 18 survivors, no zeros, 17 kept
    assert (SparseConv(0.9, 0.9)(x) != 0).sum() == math.ceil(0.9 * 9 * 2)


def test_the_gradient_passes_where_a_value_stays():
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    y = SparseConv(0.5, 0.5)(x)
    weight = torch.randn_like(x)
    (y * weight).sum().backward()
    assert torch.equal(x.grad, weight * (y != 0))


# --- one rule, two hemispheres
# --------------------------------------------------------------------------------------


def test_the_step_is_that_of_adam_on_the_summed_cross_entropies():
    rule = learner(dropout=0.0, weight_decay=0.01, right={})
    rule.train()
    copy = learner(dropout=0.0, weight_decay=0.01, right={}).net.train()
    copy.load_state_dict(rule.net.state_dict())
    x, y = batch()
    logits = copy(x)
    loss = functional.cross_entropy(logits["fine"], y[:, 0]) + functional.cross_entropy(
        logits["coarse"], y[:, 1]
    )
    loss.backward()
    measured = rule.fit_batch(x, y, epoch=0, step=0)
    assert measured["loss"].item() == pytest.approx(loss.item(), abs=1e-12)
    for (name, new), old in zip(rule.net.named_parameters(), copy.parameters(), strict=True):
        # first step of Adam: both averages are the gradient
        gradient = old.grad + 0.01 * old.detach()
        expected = old.detach() - 0.01 * gradient / (gradient.abs() + 1e-8)
        torch.testing.assert_close(new.detach(), expected, rtol=0, atol=1e-10, msg=name)


def test_left_features_come_before_right_ones_and_every_head_reads_all():
    rule = learner(right={"widths": [2, 2, 2, 3]}).eval()
    x, _ = batch()
    left, right = (rule.net.hemispheres[side](x) for side in ("left", "right"))
    features = rule.encode(x)
    assert torch.equal(features, torch.cat([left, right], dim=1)) and features.shape[1] == 8 + 3
    for name, logits in rule.logits(x).items():
        head = rule.net.heads[name]
        torch.testing.assert_close(logits, features @ head.weight.T + head.bias, rtol=0, atol=1e-12)
    assert torch.equal(rule.predict(x), torch.cat(list(rule.logits(x).values()), dim=1))


def test_the_right_hemisphere_is_like_the_left_one_but_for_what_is_said_of_it():
    config = rules.config(
        "hemispheric_bp",
        {"left": {"widths": [2, 3, 4, 5], "is_frozen": True}, "right": {"is_frozen": False}},
    )
    left, right = config.sides().values()
    assert (left.widths, right.widths, left.is_frozen, right.is_frozen) == (
        (2, 3, 4, 5),
        (2, 3, 4, 5),
        True,
        False,
    )


@pytest.mark.parametrize("frozen", ["left", "right"])
def test_each_hemisphere_has_its_own_freeze_flag(frozen):
    flags = {side: {"is_frozen": side == frozen} for side in ("left", "right")}
    rule = learner(left={**SMALL["left"], **flags["left"]}, right=flags["right"])
    before = {side: left_state(rule, side) for side in flags}
    fit(rule)
    for side in flags:
        assert bool(differing(before[side], left_state(rule, side))) == (side != frozen)


def test_a_frozen_hemisphere_is_inert_with_eval_and_its_running_statistics_move_with_drift():
    frozen = {"left": {**SMALL["left"], "is_frozen": True}}
    inert, drifting = (learner(frozen_norm=how, **frozen) for how in ("eval", "drift"))
    before = left_state(inert)
    assert not differing(before, left_state(fit(inert)))
    moved = differing(before, left_state(fit(drifting)))
    assert moved and all(
        name.endswith(("running_mean", "running_var", "num_batches_tracked")) for name in moved
    )
    x, _ = batch(seed=9)
    assert not torch.equal(inert.eval().encode(x), drifting.eval().encode(x))


def test_features_encoded_once_train_the_heads_like_images_do(tmp_path):
    import numpy as np

    stream = np.random.default_rng(0)
    fine = np.arange(60) % 6
    pixels = stream.integers(0, 256, (60, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", x_train=pixels, y_train=fine, y_train_coarse=fine // 2,
             x_test=pixels, y_test=fine, y_test_coarse=fine // 2)  # fmt: skip
    task = hierarchies.load(str(tmp_path / "a.npz"), pad=0, use_flip=False, dtype=torch.float64)
    frozen = {"left": {**SMALL["left"], "is_frozen": True}, "right": {}}
    on_images, on_features = learner(**frozen), learner(**frozen)
    encoded = task.encoded(on_features.encode, 1, device.generator(0, "views"))
    orders = []
    for rule, data in ((on_images, task), (on_features, encoded)):
        rule.train()
        for epoch in range(2):
            for step, (x, y) in enumerate(data.batches(16, device.generator(epoch, "shuffle"))):
                rule.fit_batch(x, y, epoch=epoch, step=step)
                orders.append(y)
    half = len(orders) // 2
    assert all(torch.equal(a, b) for a, b in zip(orders[:half], orders[half:], strict=True))
    for a, b in zip(
        on_images.net.heads.parameters(), on_features.net.heads.parameters(), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13)
    assert task.evaluate(on_images.eval()) == encoded.evaluate(on_features.eval())


def test_every_head_draws_a_mask_of_its_own_from_the_rules_stream():
    rule = learner(dropout=0.5)
    rule.train()
    features = torch.ones(400, 8, dtype=torch.float64)
    before = torch.get_rng_state()
    fine, coarse = (rule.net.dropouts[head](features) for head in ("fine", "coarse"))
    assert torch.equal(before, torch.get_rng_state())
    assert set(fine.unique().tolist()) == {0.0, 2.0} and not torch.equal(fine, coarse)
    assert fine.mean().item() == pytest.approx(1, abs=0.06)  # 3200 draws, standard error 0.018
    rule.eval()
    assert torch.equal(rule.net.dropouts["fine"](features), features)


def test_mixed_precision_learns_nearly_the_same():
    single = [
        rules.make("hemispheric_bp", {**SMALL, "dropout": 0.0, "use_bfloat16": on})
        for on in (False, True)
    ]
    x, y = batch()
    losses = [rule.train().fit_batch(x.float(), y, epoch=0, step=0)["loss"] for rule in single]
    assert losses[0] != losses[1] and losses[1].dtype == torch.float32
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=0.02)  # bfloat16 has 8 bits


# --- taking over hemispheres
# ----------------------------------------------------------------------------------------


def specialists():
    return fit(learner(1, heads="fine")), fit(learner(2, heads="coarse"))


def test_a_joined_network_starts_from_its_two_specialists():
    fine, coarse = specialists()
    joined = learner(3, right={})
    joined.adopt({"left": fine, "right": coarse})
    assert not differing(left_state(joined, "left"), left_state(fine))
    assert not differing(left_state(joined, "right"), left_state(coarse))


def test_the_published_wiring_exchanges_checkpoints_and_freeze_flags():
    fine, coarse = specialists()
    joined = learner(
        3, left={**SMALL["left"], "is_frozen": True}, right={"is_frozen": False}, wiring="published"
    )
    assert [side.is_frozen for side in joined.net.sides.values()] == [False, True]
    joined.adopt({"left": fine, "right": coarse})
    assert not differing(left_state(joined, "left"), left_state(coarse))
    assert not differing(left_state(joined, "right"), left_state(fine))


def test_with_equal_frozen_hemispheres_the_published_wiring_only_permutes_features():
    fine, coarse = specialists()
    frozen = {"left": {**SMALL["left"], "is_frozen": True}, "right": {}}
    features = {}
    for wiring in ("intended", "published"):
        joined = learner(3, wiring=wiring, **frozen)
        joined.adopt({"left": fine, "right": coarse})
        features[wiring] = joined.encode(batch()[0])
    assert torch.equal(features["published"], features["intended"].roll(8, dims=1))


def test_the_published_wiring_gives_the_right_hemisphere_the_backbone_of_the_left_one():
    values = {"left": {"backbone": "resnet9"}, "right": {"backbone": "vgg11", "widths": None}}
    intended = rules.config("hemispheric_bp", values).sides()
    published = rules.config("hemispheric_bp", {**values, "wiring": "published"}).sides()
    assert (intended["right"].backbone, published["right"].backbone) == ("vgg11", "resnet9")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"left": {"backbone": "sparse_resnet9", "widths": [4, 4, 6, 8]}},
         "not known here: conv1.0.bias, conv1.2.weight, conv1.2.bias, conv1.2.running_mean and"),
        ({"left": {"widths": [4, 4, 6, 9]}},
         "of another shape: conv4.0.weight (9, 6, 3, 3) for (8, 6, 3, 3)"),
    ],
)  # fmt: skip
def test_a_checkpoint_of_another_architecture_is_refused_and_the_names_listed(values, said):
    other, joined = learner(1, heads="fine", **values), learner(3, right={})
    before = left_state(joined)
    with pytest.raises(BioplausError) as error:
        joined.adopt({"left": other})
    assert "another architecture than the left hemisphere" in str(error.value) and said in str(
        error.value
    )
    assert not differing(before, left_state(joined))


def test_a_hemisphere_is_not_taken_from_a_network_with_two_nor_to_a_side_that_is_not_there():
    with pytest.raises(BioplausError, match="taken from a network with one, but this one has 2"):
        learner().adopt({"left": learner(right={})})
    with pytest.raises(BioplausError, match="no 'right' hemisphere to take over, only left"):
        learner().adopt({"right": learner()})


# --- ensembles ------------------------------------------------------------------------------------
# ------------------


def test_an_ensemble_answers_with_the_mean_of_its_members_logits():
    members = [learner(seed).eval() for seed in range(3)]
    x, _ = batch()
    found = Ensemble(members).logits(x)
    for head in ("fine", "coarse"):
        torch.testing.assert_close(
            found[head], sum(m.logits(x)[head] for m in members) / 3, rtol=0, atol=1e-12
        )


def test_an_ensemble_of_one_is_refused_and_so_are_members_with_other_heads():
    with pytest.raises(
        BioplausError, match="An ensemble needs at least two members, but this one has 1."
    ):
        Ensemble([learner()])
    with pytest.raises(BioplausError, match="same heads, but these have fine/coarse and fine"):
        Ensemble([learner(), learner(heads="fine")]).logits(batch()[0])


class Says(nn.Module):
    """A network that always gives these probabilities."""

    def __init__(self, head, probabilities):
        super().__init__()
        self.head, self.p = head, torch.tensor([probabilities], dtype=torch.float64)

    def logits(self, x):
        return {self.head: self.p.log().expand(len(x), -1) + 3.0}


def test_specialists_weigh_superclasses_evenly_and_classes_within_one_as_the_fine_one_does():
    fine, coarse = Says("fine", [0.5, 0.1, 0.3, 0.1]), Says("coarse", [0.2, 0.8])
    both = Specialists(fine, coarse, torch.tensor([0, 0, 1, 1])).logits(torch.zeros(2, 1))
    c = torch.tensor([math.sqrt(0.6 * 0.2), math.sqrt(0.4 * 0.8)], dtype=torch.float64)
    within = torch.tensor([5 / 6, 1 / 6, 3 / 4, 1 / 4], dtype=torch.float64)
    expected = c[[0, 0, 1, 1]] * within
    torch.testing.assert_close(both["coarse"].softmax(1)[0], c / c.sum(), rtol=0, atol=1e-12)
    torch.testing.assert_close(
        both["fine"].softmax(1)[1], expected / expected.sum(), rtol=0, atol=1e-12
    )
    assert both["fine"].argmax(1).tolist() == [2, 2]  # the fine one alone would say 0


# --- what does not fit
# ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"n_fine": 9}, "n_fine is 9, but data set 'digits' has 10"),
        ({"n_fine": 10, "n_coarse": 3}, "n_coarse is 3, but data set 'digits' has 2"),
        (
            {"n_fine": 10, "n_coarse": 2, "in_channels": 3},
            "in_channels is 3, but data set 'digits' has 1",
        ),
        (
            {"n_fine": 10, "n_coarse": 2, "image_size": 32},
            "image_size is 32, but images of 'digits' are 8 x 8 pixels",
        ),
        (
            {"n_fine": 10, "n_coarse": 2, "left": {"backbone": "vgg11"}},
            "needs images of at least 32 pixels",
        ),
        ({"dropout": 1.0}, "dropout is 1.0, but must be from 0 and below 1"),
        (
            {"frozen_norm": "train"},
            "unknown parameter of rule hemispheric_bp 'frozen_norm' 'train'",
        ),
    ],
)
def test_a_network_that_does_not_fit_its_task_is_one_sentence(values, sentence):
    with pytest.raises(BioplausError) as error:
        rules.config("hemispheric_bp", {**SMALL, "left": {}, **values}, hierarchies.spec("digits"))
    assert sentence in str(error.value)


def test_a_task_without_superclasses_is_refused():
    from bioplaus.tasks import images

    with pytest.raises(
        BioplausError, match="fine and coarse labels, but task 'digits' is classification"
    ):
        rules.config("hemispheric_bp", {}, images.spec("digits"))


def test_useful_operations_are_those_of_the_products():
    rule = rules.make(
        "hemispheric_bp", {"left": {"widths": [2, 4, 6, 8]}, "heads": "fine", "image_size": 32}
    )
    sizes = [
        (3, 2, 32),
        (2, 4, 32),
        (4, 4, 16),
        (4, 4, 16),
        (4, 6, 16),
        (6, 8, 8),
        (8, 8, 4),
        (8, 8, 4),
    ]
    products = [9 * a * b * side**2 for a, b, side in sizes]
    # forward, error to the layer below (none to the image), gradient of the weights; two operations
    # a product
    expected = 2 * (3 * sum(products) - products[0] + 3 * 8 * 100)
    assert rule.useful_flops(5) == 5 * expected


def test_frozen_hemispheres_need_only_their_forward_pass():
    free, frozen = (
        rules.make("hemispheric_bp", {"left": {"widths": [2, 4, 6, 8], "is_frozen": flag}})
        for flag in (False, True)
    )
    assert frozen.useful_flops(1) < 0.4 * free.useful_flops(1)


@pytest.mark.parametrize("heads", ["fine", "coarse"])
def test_a_network_with_one_head_learns_that_label_alone(heads):
    rule = learner(heads=heads)
    assert set(fit(rule).logits(batch()[0])) == {heads}
    x, y = batch()
    swapped = y.clone()
    swapped[:, 1 if heads == "fine" else 0] = 0
    first, second = (fit(learner(heads=heads), 1) for _ in range(2))
    losses = [
        r.fit_batch(x, labels, epoch=0, step=0)["loss"]
        for r, labels in ((first, y), (second, swapped))
    ]
    assert losses[0] == losses[1]
