from pathlib import Path

import pytest
from hydra.core.config_loader import ConfigLoader

from graft.cli.compose import compose, group_config, hydra_application
from graft.cli.overrides import groups
from graft.errors import UserError


def test_source_and_target_take_the_same_names(loader: ConfigLoader, conf: Path) -> None:
    files = {path.stem for path in (conf / "domain").glob("*.yaml") if not path.name.startswith("_")}
    assert set(loader.get_group_options("source")) == set(loader.get_group_options("target")) == files
    assert "domain" not in groups(loader)


def test_the_same_file_lands_in_either_place(loader: ConfigLoader) -> None:
    config = compose(loader, ["source=digits", "target=digits"])
    assert config["source"] == config["target"]


def test_parts_of_others_are_no_choices(loader: ConfigLoader) -> None:
    assert not [name for group in groups(loader) for name in loader.get_group_options(group) if name.startswith("_")]


def test_groups_are_the_folders_of_conf(loader: ConfigLoader, conf: Path) -> None:
    folders = {path.name for path in conf.iterdir() if path.is_dir()}
    assert set(groups(loader)) == folders - {"domain"} | {"source", "target"}


def test_own_folder_adds_choices_and_comes_first(tmp_path: Path) -> None:
    for group, name, text in (
        ("domain", "mine", "defaults: [digits]\nname: mine\n"),
        ("scheduler", "constant", "_target_: graft.strategies.schedules.Step\n"),
    ):
        (tmp_path / group).mkdir()
        (tmp_path / group / f"{name}.yaml").write_text(text)
    with hydra_application(tmp_path) as hydra:
        config = compose(hydra.config_loader, ["source=mine", "target=mine", "scheduler=constant"])
        assert config["source"]["name"] == config["target"]["name"] == "mine"
        assert (
            config["source"]["reader"] == group_config(hydra.config_loader, "source", "digits", resolve=False)["reader"]
        )
        assert config["scheduler"]["_target_"].endswith(".Step")


def test_own_folder_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "my_conf").mkdir()
    with pytest.raises(UserError, match=r"did you mean .*my_conf"), hydra_application(tmp_path / "my_cnf"):
        pass


def test_domains_joined_by_plus_are_the_parts_of_one(loader: ConfigLoader) -> None:
    config = compose(loader, ["source=digits+glyphs+glyphs", "source.parts.glyphs_2.seed=1", "source.batch_size=48"])
    source = config["source"]
    assert source["name"] == "digits+glyphs+glyphs_2"
    assert list(source["parts"]) == ["digits", "glyphs", "glyphs_2"]
    assert [source["parts"][name]["reader"]["seed"] for name in ("glyphs", "glyphs_2")] == [0, 1]
    assert {part["batch_size"] for part in source["parts"].values()} == {48}
    assert source["parts"]["digits"]["labels_per_class"] == 10


@pytest.mark.parametrize(
    ("name", "given", "kind"),
    [
        ("glyphs+digits", "flip=true", "Augmentation"),
        ("audio_folder+audio_folder", "noise=[10,40]", "SoundAugmentation"),
        ("text_table+text_folder", "token_dropout=0.1", "TextAugmentation"),
    ],
)
def test_domains_joined_are_augmented_as_the_first_is(loader: ConfigLoader, name: str, given: str, kind: str) -> None:
    first = name.partition("+")[0]
    config = compose(loader, [f"source={name}", f"source.augmentation.{given}"])["source"]
    alone = compose(loader, [f"source={first}", f"source.augmentation.{given}"])["source"]
    assert config["augmentation"]["_target_"].endswith(f".{kind}")
    assert config["augmentation"] == alone["augmentation"]
