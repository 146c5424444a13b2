import pytest
import torch
from torch import Tensor

from graft.errors import UserError
from graft.models.mappings.alignment import AlignmentMapping, shrunk_covariance
from graft.models.mappings.low_rank import LowRankMapping


def domain(n: int, seed: int, d: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator) @ torch.randn(d, d, generator=generator) + seed


def test_target_statistics_become_those_of_the_source() -> None:
    source, target = domain(20_000, 1), domain(30_000, 2)
    mapping = AlignmentMapping(5)
    mapping.solve(source, target)
    mapped = mapping(target)
    torch.testing.assert_close(mapped.mean(0), source.mean(0), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(mapped.T.cov(), source.T.cov(), rtol=1e-2, atol=1e-2)


def test_equal_domains_need_no_map() -> None:
    mapping = AlignmentMapping(5)
    mapping.solve(domain(50, 1), domain(50, 1))
    torch.testing.assert_close(mapping.weight, torch.eye(5), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(mapping.bias, torch.zeros(5), rtol=1e-4, atol=1e-4)


def test_fewer_samples_than_features() -> None:
    mapping = AlignmentMapping(40)
    mapping.solve(domain(100, 1, d=40), domain(6, 2, d=40))
    assert mapping(domain(6, 2, d=40)).isfinite().all()


def test_shrinkage_is_strong_for_few_samples_and_weak_for_many() -> None:
    def distance(n: int) -> float:
        x = domain(n, 3)
        x = (x - x.mean(0)).double()
        return float((shrunk_covariance(x)[0] - x.T @ x / n).norm() / (x.T @ x / n).norm())

    assert distance(5) > 10 * distance(5000)


@pytest.mark.parametrize("name", ["source", "target"])
@pytest.mark.parametrize(("features", "problem"), [(torch.ones(1, 5), "1 .* samples"), (torch.ones(9, 5), "all alike")])
def test_what_cannot_be_aligned(name: str, features: Tensor, problem: str) -> None:
    domains = {"source": domain(9, 1), "target": domain(9, 2), name: features}
    with pytest.raises(UserError, match=problem):
        AlignmentMapping(5).solve(domains["source"], domains["target"])


@pytest.mark.parametrize("rank", [0, 6])
def test_a_rank_out_of_range(rank: int) -> None:
    with pytest.raises(UserError, match=rf"mapping\.rank={rank}: expected 1 to 5"):
        LowRankMapping(5, rank)
