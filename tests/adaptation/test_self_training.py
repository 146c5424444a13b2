"""What holds of methods on predictions whatever the tensors: finite at one-hot, of low rank, without a trace."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from builders import network
from conf_plugins import build, load
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from graft.adaptation.atdoc import sharpened, weighted_cross_entropy
from graft.adaptation.bank import Bank
from graft.adaptation.base import Adaptation
from graft.adaptation.bnm import nuclear_norm
from graft.adaptation.entropy import entropies
from graft.adaptation.mcc import class_confusion
from graft.adaptation.mean_teacher import consistency
from graft.adaptation.mme import MME
from graft.adaptation.selection import Evidence, is_collapsed, label_free_scores, target_scores
from graft.adaptation.self_training import confident_cross_entropy
from graft.adaptation.shot import centroid_labels, with_one
from graft.adaptation.shot_im import information_maximisation
from graft.batch import UnlabelledBatch
from graft.errors import UserError
from graft.features import Inference
from graft.models.network import Network
from graft.objectives.supervised import Outputs
from graft.regularisers.base import Beginning, Step, Term, Trace, Unlabelled

NAMES = ("atdoc", "bnm", "entropy", "fixmatch", "mcc", "mean_teacher", "mme", "nrc", "self_training", "shot", "shot_im")
LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "entropy": lambda logits: entropies(logits).mean(),
    "information": information_maximisation,
    "mcc": class_confusion,
    "bnm": nuclear_norm,
    "self_training": lambda logits: confident_cross_entropy(logits, logits, 0.5),
    "consistency": lambda logits: consistency(logits, logits.flip(0)),
    "atdoc": lambda logits: weighted_cross_entropy(logits, sharpened(logits.detach().flip(0))),
}
EXTREME = {
    "one-hot": 1e4 * torch.eye(4)[[0, 1, 0, 3, 3]],
    "one class": 1e4 * torch.eye(4)[[2, 2, 2, 2, 2]],
    "huge": 1e30 * torch.eye(4)[[0, 1, 2, 2, 1]],
    "uniform": torch.zeros(5, 4),
    "one sample": 1e4 * torch.eye(4)[[1]],
    "more classes than samples": torch.arange(18.0).view(2, 9).sin(),
    "half precision": 100 * torch.eye(4)[[0, 1, 0, 3, 3]].half(),
}
SIZES = st.tuples(st.integers(1, 6), st.integers(2, 5), st.integers(0, 10_000))


def method(name: str, **changed: Any) -> Adaptation:
    return build(load("adaptation", name)[name] | changed)


def drawn(n: int, k: int, seed: int) -> Tensor:
    return torch.randn(n, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def begun(settings: Adaptation, net: Network, num_samples: int = 8) -> Term:
    domain: Any = None
    images = UnlabelledBatch(views()[0], torch.arange(8))
    target: Any = SimpleNamespace(
        pool=range(num_samples),
        view=SimpleNamespace(evaluate=lambda x: x),
        unlabelled_loader=lambda split, shuffle, shared: [images],
    )
    term = settings.begin(Beginning(net, domain, None, Inference(torch.device("cpu")), seed=0, target=target))
    assert term is not None
    return term


def views() -> Tensor:
    """Two of 8 images of the target: [2, 8, 3, 32, 32]."""
    return torch.randn(2, 8, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def step_on(net: Network, logits: Tensor | None = None) -> Step:
    """A step on 8 images of the target, whose outputs are the network's unless other logits are given."""
    x, second = views()
    features = net.features(x)
    target = Unlabelled(Outputs(net.head(features) if logits is None else logits, features), torch.arange(8), x, second)
    nothing = Outputs(target.outputs.logits[:0], features[:0])
    trace = Trace(features[:0], features[:0], {})
    return Step(net, torch.zeros(0, dtype=torch.int64), nothing, trace, None, target=target, progress=0.5)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", EXTREME)
def test_value_and_gradient_are_finite(loss: str, kind: str) -> None:
    logits = EXTREME[kind].clone().requires_grad_()
    value = LOSSES[loss](logits)
    value.backward()
    assert torch.isfinite(value)
    assert value.dtype == torch.float32
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("loss", [name for name in LOSSES if name != "mcc"])  # whose weights take no gradient
@pytest.mark.parametrize("shape", [(6, 3), (3, 6), (2, 2)])
def test_gradients_are_right(loss: str, shape: tuple[int, int]) -> None:
    logits = drawn(*shape, seed=3).requires_grad_()
    given_labels = {
        "consistency": lambda z: consistency(z, drawn(*shape, seed=4)),
        "atdoc": lambda z: weighted_cross_entropy(z, sharpened(drawn(*shape, seed=4))),
        "self_training": lambda z: confident_cross_entropy(z, drawn(*shape, seed=4), 0.5),
    }
    assert torch.autograd.gradcheck(given_labels.get(loss, LOSSES[loss]), [logits])


def test_mccs_weights_of_certainty_take_no_gradient() -> None:
    logits = drawn(1, 3, seed=3).repeat(4, 1)
    logits = torch.stack([row.roll(i) for i, row in enumerate(logits)]).requires_grad_()  # alike in certainty

    def unweighted(logits: Tensor) -> Tensor:
        p = torch.softmax(logits / 2.5, dim=1)
        return 1 - (p / p.sum(dim=0) * p).sum() / 3

    gradients = [torch.autograd.grad(loss(logits), logits)[0] for loss in (class_confusion, unweighted)]
    torch.testing.assert_close(*gradients)


@given(SIZES)
def test_bounds(sizes: tuple[int, int, int]) -> None:
    n, k, _ = sizes
    logits = 3 * drawn(*sizes)
    log_k = torch.tensor(float(k)).log()
    assert ((entropies(logits) >= 0) & (entropies(logits) <= log_k + 1e-6)).all()
    assert -log_k - 1e-6 <= information_maximisation(logits) <= 1e-9
    assert -1e-9 <= class_confusion(logits) <= 1
    assert n**-0.5 * k**-0.5 - 1e-9 <= nuclear_norm(logits) <= min(n, k) ** 0.5 * n**-0.5 + 1e-9


@given(SIZES)
def test_the_order_of_samples_and_classes_does_not_matter(sizes: tuple[int, int, int]) -> None:
    logits = drawn(*sizes)
    for name in ("entropy", "information", "mcc", "bnm", "self_training"):
        again = LOSSES[name](logits.flip(0).roll(1, dims=1))
        torch.testing.assert_close(again, LOSSES[name](logits), atol=1e-7, rtol=1e-6)


def test_what_is_best_for_each() -> None:
    varied, alike = 1e3 * torch.eye(4), 1e3 * torch.eye(4)[[1, 1, 1, 1]]
    assert entropies(varied).max() == entropies(alike).max() == 0
    assert information_maximisation(varied) == pytest.approx(-torch.tensor(4.0).log().item())
    assert information_maximisation(alike) == 0
    assert class_confusion(varied) == pytest.approx(0)
    assert nuclear_norm(varied) > nuclear_norm(alike)


@settings(max_examples=30)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=4, unique=True), st.integers(1, 8), st.integers(0, 10_000))
def test_neighbours_are_others_that_were_seen(seen: list[int], num: int, seed: int) -> None:
    bank = Bank(6, 3, 2).double()
    positions = torch.tensor(seen)
    features = drawn(len(seen), 3, seed)
    bank.put(positions, features, torch.softmax(features[:, :2], dim=1))
    near = bank.nearest(features, positions, num)
    assert near.positions.shape == (len(seen), min(num, 6))
    for own, found, there in zip(seen, near.positions, near.there, strict=True):
        assert set(found[there].tolist()) <= set(seen) - {own}
        assert int(there.sum()) == min(num, len(seen) - 1)


@pytest.mark.parametrize("num_samples", [5, 128, 129, 1000])
@pytest.mark.parametrize("num", [1, 7])
@pytest.mark.parametrize("share", [0.3, 1.0])
def test_neighbours_are_those_of_a_plain_search(num_samples: int, num: int, share: float) -> None:
    bank, everything = Bank(num_samples, 3, 2).double(), drawn(num_samples, 3, seed=0)
    seen = torch.rand(num_samples, generator=torch.Generator().manual_seed(1)) < share
    seen[:2] = True
    bank.put(seen.nonzero()[:, 0], everything[seen], everything[seen, :2])
    near = bank.nearest(everything[:2], torch.arange(2), num)
    cosines = torch.cosine_similarity(everything[:2, None], everything[None], dim=2)
    for own, found, there in zip(range(2), near.positions, near.there, strict=True):
        others = [i for i in cosines[own].argsort(descending=True).tolist() if seen[i] and i != own]
        assert found[there].tolist() == others[:num]
        assert (found < num_samples).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("again", [False, True])
def test_targets_leave_norm_statistics_and_the_generator_untouched(name: str, again: bool) -> None:
    net = network("resnet20").train()
    term = begun(method(name), net)
    steps = [step_on(net) for _ in range(1 + again)]
    before = {key: buffer.clone() for key, buffer in net.named_buffers()}
    drawn_before = torch.get_rng_state()
    for step in steps:
        loss = term(step)
    assert torch.isfinite(loss)
    assert torch.equal(torch.get_rng_state(), drawn_before)
    changed = [key for key, buffer in net.named_buffers() if not torch.equal(buffer, before[key])]
    if name == "fixmatch":  # whose second view is trained on
        assert len(changed) == len(before)
    else:
        assert changed == []
    assert all(module.training for module in net.modules())


@pytest.mark.parametrize("name", NAMES)
def test_no_method_has_parameters_of_its_own_and_its_state_is_kept(name: str) -> None:
    net = network("cnn")
    term = begun(method(name), net)
    assert list(term.parameters()) == []
    for _ in range(3):
        term(step_on(net))
    again = begun(method(name), network("cnn", seed=1))
    again.load_state_dict(term.state_dict())
    assert torch.equal(again(step_on(net)), term(step_on(net)))


@pytest.mark.parametrize("name", NAMES)
def test_every_method_moves_what_makes_the_features(name: str) -> None:
    net = network("cnn")
    changed = {"threshold": 0.0} if name in ("fixmatch", "self_training") else {}
    term = begun(method(name, **changed), net)
    for _ in range(2):  # the first fills what a method remembers
        loss = term(step_on(net))
    loss.backward()
    gradients = [parameter.grad for parameter in net.backbone.parameters()]
    assert all(gradient is not None for gradient in gradients)
    assert any((gradient != 0).any() for gradient in gradients)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["one-hot", "one class"])
def test_every_method_is_finite_where_the_network_is_sure(name: str, kind: str) -> None:
    net = network("cnn")
    logits = 1e4 * torch.eye(3)[[0, 1, 2, 0, 1, 2, 0, 1] if kind == "one-hot" else [1] * 8]
    term = begun(method(name), net)
    for _ in range(3):
        given = logits.clone().requires_grad_()
        loss = term(step_on(net, given))
        loss.backward()
        assert torch.isfinite(loss)
        assert given.grad is None or torch.isfinite(given.grad).all()


def test_shot_labels_by_the_network_in_eval_mode_and_anew_in_each_epoch() -> None:
    net = network("resnet20").train()
    term = begun(method("shot"), net)
    term(step_on(net))
    with torch.no_grad():
        features = net.eval().features(views()[0])
        logits = net.head(features)
    expected = centroid_labels(torch.nn.functional.normalize(with_one(features)), logits.softmax(dim=1))
    torch.testing.assert_close(term.labels, expected)
    with torch.no_grad():
        net.head.linear.bias += torch.tensor([1e3, 0.0, 0.0])
    term(step_on(net))
    assert (term.labels == 0).all()


def test_shot_without_pseudo_labels_is_shot_im() -> None:
    net = network("cnn")
    losses = [begun(settings, net)(step_on(net)) for settings in (method("shot", pseudo_weight=0.0), method("shot_im"))]
    torch.testing.assert_close(*losses)


def test_the_average_of_mean_teacher_moves_with_the_optimizer_and_not_with_batches() -> None:
    net = network("cnn")
    term = begun(method("mean_teacher", momentum=0.5), net)
    start = [parameter.detach().clone() for parameter in net.parameters()]
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 1.0
    teacher = dict(term.teacher.named_buffers())
    for _ in range(2):  # batches that share a step
        term(step_on(net))
    assert all(torch.equal(teacher[name], own) for (name, _), own in zip(net.named_parameters(), start, strict=True))
    term.after_step(net, 1, 1)
    for (name, parameter), own in zip(net.named_parameters(), start, strict=True):
        torch.testing.assert_close(teacher[name], (parameter.detach() + own) / 2)


def scores_of(logits: Tensor) -> dict[str, float]:
    n = len(logits)
    features = torch.randn(2 * n, 3, generator=torch.Generator().manual_seed(0))
    y = torch.arange(n) % logits.shape[1]
    # right on every image of the source, so that nothing but the guard can make it lose
    return label_free_scores(Evidence(logits, features[:n], torch.nn.functional.one_hot(y).float(), features[n:], y))


def test_a_collapsed_predictor_never_wins() -> None:
    honest = scores_of(2 * torch.randn(60, 3, generator=torch.Generator().manual_seed(1)))
    for collapsed in (100 * torch.eye(3)[[1] * 60], torch.tensor([0.1, 0.0, 0.0]).repeat(60, 1)):
        scores = scores_of(collapsed)
        assert scores.keys() == honest.keys()
        assert all(scores[name] < honest[name] for name in scores)


def test_without_the_guard_it_would_win_by_entropy_and_density() -> None:
    nothing, y = torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)
    honest, collapsed = 2 * torch.randn(60, 3, generator=torch.Generator().manual_seed(1)), 100 * torch.eye(3)[[1] * 60]
    scores = [target_scores(Evidence(logits, logits, nothing, nothing, y)) for logits in (honest, collapsed)]
    assert all(scores[1][name] > scores[0][name] for name in ("entropy", "density"))


def test_collapse_is_almost_all_in_one_class() -> None:
    p = torch.eye(2)[[0] * 200]
    for num_others, expected in ((0, True), (2, True), (3, False), (100, False)):
        logits = p.clone()
        logits[:num_others] = torch.tensor([0.0, 1.0])
        assert is_collapsed(logits) == expected


def test_scores_without_images_of_the_source() -> None:
    logits, none = torch.randn(30, 3), torch.zeros(0, 3)
    scores = label_free_scores(Evidence(logits, logits, none, none, torch.zeros(0, dtype=torch.int64)))
    assert set(scores) == {"entropy", "information", "density", "bnm"}


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("mcc", {"temperature": 0.0}),
        ("atdoc", {"num_neighbours": 0}),
        ("nrc", {"num_expanded": 0}),
        ("nrc", {"affinity": -1.0}),
        ("shot", {"pseudo_weight": -1.0}),
        ("fixmatch", {"threshold": 1.1}),
        ("self_training", {"threshold": -0.1}),
        ("mean_teacher", {"momentum": 2.0}),
        ("entropy", {"weight": -1.0}),
        ("bnm", {"gamma": 0.0}),
    ],
)
def test_settings_that_make_no_sense_are_refused(name: str, changed: dict[str, float]) -> None:
    [key] = changed
    with pytest.raises(UserError, match=f"{key}=.*expected"):
        method(name, **changed)


def test_mme_needs_a_head_that_is_trained() -> None:
    phase: Any = SimpleNamespace(trained_groups=("backbone.stem",))
    with pytest.raises(UserError, match="does not train the head"):
        MME().check(network("cnn"), [phase])
