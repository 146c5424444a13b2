from hydra.core.config_loader import ConfigLoader

from graft.cli.compose import Sweep, compose, compose_sweep, group_config
from graft.records.hashing import content_hash


def test_the_default_is_plain_and_whole(loader: ConfigLoader) -> None:
    config = compose(loader, [])
    content_hash(config)  # refuses what is not plain
    assert "hydra" not in config
    assert config["pretrain"]["seed"] == config["seed"] == 0
    assert config["precision"]["value"] == "32"


def test_baselines_become_the_strategies_they_name(loader: ConfigLoader) -> None:
    config = compose(loader, ["baselines=[scratch,lp_ft]"])
    assert config["baselines"] == {name: group_config(loader, "strategy", name) for name in ("scratch", "lp_ft")}
    assert compose(loader, ["baselines=[]"])["baselines"] == {}


def test_both_stages_have_a_strategy_of_their_own(loader: ConfigLoader) -> None:
    config = compose(loader, ["strategy@pretrain.strategy=linear_probe", "strategy=lp_ft"])
    assert config["pretrain"]["strategy"]["name"] == "linear_probe"
    assert config["strategy"]["name"] == "lp_ft"


def test_a_backbone_with_weights_of_its_own_switches_the_source_off(loader: ConfigLoader) -> None:
    assert compose(loader, ["backbone=mobilenet_v2"])["source"]["name"] == "none"
    assert compose(loader, ["backbone=mobilenet_v2", "source=glyphs"])["source"]["name"] == "glyphs"


def test_what_must_be_given_stays_open(loader: ConfigLoader) -> None:
    target = compose(loader, ["target=image_folder"])["target"]
    assert target["path"] == "???"
    assert target["name"] == target["reader"]["path"] == "???target.path"  # what they are made of must be given


def test_jobs_of_a_sweep(loader: ConfigLoader) -> None:
    sweep = compose_sweep(loader, ["strategy=scratch,lp_ft", "seed=0,1", "precision=32"])
    assert sweep.jobs is not None
    assert len(sweep.jobs) == len(sweep.configs) == 4
    found = [(config["strategy"]["name"], config["seed"]) for config in sweep.configs]
    assert found == [("scratch", 0), ("scratch", 1), ("lp_ft", 0), ("lp_ft", 1)]


def test_sweep_over_precisions(loader: ConfigLoader) -> None:
    sweep: Sweep = compose_sweep(loader, ["precision=32,bf16-mixed"])
    assert [config["precision"]["value"] for config in sweep.configs] == ["32", "bf16-mixed"]
