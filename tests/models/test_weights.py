"""Every key is accounted for, whatever the file is called and wherever it comes from."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from graft.data.preprocessing import Preprocessing
from graft.errors import UserError
from graft.models.backbones.cnn import Cnn
from graft.models.backbones.resnet_cifar import ResNetCifar
from graft.models.backbones.timm import TimmBackbone
from graft.models.backbones.torchvision import TorchvisionBackbone
from graft.models.heads.linear import LinearHead
from graft.models.weights import has_folded_norms, load_weights, read_weights, save_weights, state_sha256


def native_state(backbone: Cnn | None = None) -> dict[str, Tensor]:
    """A whole network of the tutorial, its classifier `fc3` included."""
    backbone = backbone or Cnn()
    own = backbone.state_dict()
    state = {native: own[name].clone() for name, native in backbone.native_names().items()}
    return {**state, "fc3.weight": torch.zeros(10, 84), "fc3.bias": torch.zeros(10)}


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class TestLoad:
    def test_every_key_is_loaded_or_dropped(self) -> None:
        source, backbone = Cnn(), Cnn()
        report = load_weights(backbone, native_state(source))
        assert equal(backbone.state_dict(), source.state_dict())
        assert report.loaded == tuple(backbone.state_dict())
        assert report.dropped == ("fc3.weight", "fc3.bias")
        assert report.reinitialised == ()

    def test_all_problems_in_one_message_and_nothing_loaded(self) -> None:
        backbone = Cnn()
        before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
        state = native_state()
        del state["conv1.bias"]
        state |= {
            "extra.weight": torch.zeros(1),
            "fc1.weight": torch.zeros(120, 256),
            "fc2.bias": torch.zeros(84).long(),
        }
        with pytest.raises(UserError) as caught:
            load_weights(backbone, state)
        assert str(caught.value) == (
            "the weights do not fit the backbone; missing: 1 (stem.conv1.bias); unexpected: 1 (extra.weight); "
            "wrong shape: 1 (stage2.fc1.weight [120, 256] for [120, 400]); "
            "wrong dtype: 1 (stage3.fc2.bias torch.int64 for torch.float32)"
        )
        assert equal(backbone.state_dict(), before)

    def test_many_problems_are_counted(self) -> None:
        with pytest.raises(UserError, match=r"missing: 6 \(.* and 2 more\)"):
            load_weights(Cnn(), {name: tensor for name, tensor in native_state().items() if "conv1" in name})

    @pytest.mark.parametrize(("dtype", "fits"), [(torch.float16, True), (torch.bfloat16, True), (torch.float64, False)])
    def test_floats_are_widened_but_not_narrowed(self, dtype: torch.dtype, fits: bool) -> None:
        backbone, state = Cnn(), {name: tensor.to(dtype) for name, tensor in native_state().items()}
        if fits:
            load_weights(backbone, state)
            assert torch.equal(backbone.state_dict()["stem.conv1.bias"], state["conv1.bias"].float())
        else:
            with pytest.raises(UserError, match="wrong dtype: 8"):
                load_weights(backbone, state)

    def test_reinitialised_by_name(self) -> None:
        backbone, state = Cnn(), native_state()
        fresh = backbone.state_dict()["stage3.fc2.weight"].clone()
        del state["fc2.bias"]
        report = load_weights(backbone, state, reinitialise=[r"stage3\..*", r"stem\.conv1\.bias"])
        assert report.reinitialised == ("stem.conv1.bias", "stage3.fc2.weight", "stage3.fc2.bias")
        assert torch.equal(backbone.state_dict()["stage3.fc2.weight"], fresh)
        assert torch.equal(backbone.state_dict()["stage2.fc1.weight"], state["fc1.weight"])

    def test_reinitialise_speaks_of_groups_also_where_they_are_views(self) -> None:
        backbone = TimmBackbone("test_vit")
        report = load_weights(backbone, backbone.state_dict(), reinitialise=[r"block6\.norm\..*"])
        assert report.reinitialised == ("model.norm.weight", "model.norm.bias")

    @pytest.mark.parametrize("pattern", [r"stag3\..*", "stage3", r"fc2\..*"])
    def test_an_idle_pattern(self, pattern: str) -> None:
        with pytest.raises(UserError, match=r"matches no parameter.*stage3"):
            load_weights(Cnn(), native_state(), reinitialise=[pattern])

    def test_a_counter_of_batches_may_be_absent(self) -> None:
        backbone, other = ResNetCifar(20), ResNetCifar(20)
        state = {
            name: tensor for name, tensor in other.state_dict().items() if not name.endswith("num_batches_tracked")
        }
        assert set(load_weights(backbone, state).loaded) == set(state)

    def test_prefixes_of_data_parallel(self) -> None:
        state = {f"module.{name}": tensor for name, tensor in native_state().items()}
        assert len(load_weights(Cnn(), state).loaded) == 8

    def test_old_names_of_densenet(self) -> None:
        backbone = TorchvisionBackbone("densenet121", size=32)
        native = {backbone.native_names()[name]: tensor for name, tensor in backbone.state_dict().items()}
        old = {name.replace("norm1", "norm.1").replace("conv2", "conv.2"): tensor for name, tensor in native.items()}
        assert old.keys() != native.keys()
        assert len(load_weights(backbone, old).loaded) == len(native)

    def test_auxiliary_classifiers_are_dropped(self) -> None:
        import torchvision

        native = torchvision.models.inception_v3(init_weights=False)
        backbone = TorchvisionBackbone("inception_v3")
        report = load_weights(backbone, native.state_dict())
        assert {name.partition(".")[0] for name in report.dropped} == {"AuxLogits", "fc"}


class TestRead:
    @pytest.mark.parametrize("wrap", [None, "state_dict", "model"])
    @pytest.mark.parametrize("suffix", [".pth", ".pt"])
    def test_torch_files(self, tmp_path: Path, suffix: str, wrap: str | None) -> None:
        path, state = tmp_path / f"weights{suffix}", native_state()
        torch.save({wrap: state, "epoch": 3} if wrap else state, path)
        file = read_weights(str(path), Cnn())
        assert equal(file.state, state)
        assert (file.preprocessing, file.origin) == (None, str(path))

    def test_a_hash_is_of_the_values_not_of_the_container(self, tmp_path: Path) -> None:
        state = native_state()
        torch.save(state, tmp_path / "weights.pth")
        save_file(dict(reversed(state.items())), tmp_path / "weights.safetensors")
        hashes = {read_weights(str(path), Cnn()).sha256 for path in tmp_path.iterdir()}
        assert hashes == {state_sha256(state)}
        state["fc3.bias"][0] = math.nan
        assert state_sha256(state) not in hashes

    def test_an_earlier_run(self, tmp_path: Path) -> None:
        backbone = Cnn(mean=[0.1, 0.2, 0.3])
        save_weights(backbone, tmp_path / "weights" / "backbone.safetensors")
        file = read_weights(str(tmp_path), Cnn())
        assert equal(file.state, backbone.state_dict())
        assert file.preprocessing == backbone.preprocessing

    @pytest.mark.parametrize(
        ("stated", "expected"),
        [
            ("x in [0,1] -> 2x-1", (32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))),
            ("ImageNet mean/std", (32, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))),
            ("ImageNet mean/std at 48x48", (48, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))),
            ("ImageNet mean/std at 48x49", None),
            ("something like ImageNet mean/std", None),
            (None, None),
        ],
    )
    def test_only_what_is_understood_for_certain(self, tmp_path: Path, stated: str | None, expected: object) -> None:
        path = tmp_path / "weights.safetensors"
        save_file(native_state(), path, {"input": stated} if stated else None)
        found = read_weights(str(path), Cnn()).preprocessing
        assert (found and (found.size, found.mean, found.std)) == expected

    def test_the_user_has_the_last_word(self, tmp_path: Path) -> None:
        path = tmp_path / "weights.safetensors"
        save_file(native_state(), path, {"input": "ImageNet mean/std at 48x48"})
        found = read_weights(str(path), Cnn(size=40, std=[1, 1, 1])).preprocessing
        assert found == Preprocessing(size=40, mean=(0.485, 0.456, 0.406), std=(1.0, 1.0, 1.0))

    @pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth", "weights.pt"])
    @pytest.mark.parametrize("keep", [0, 100, -50])
    def test_damaged(self, tmp_path: Path, name: str, keep: int) -> None:
        path = tmp_path / name
        save_file(native_state(), path) if path.suffix == ".safetensors" else torch.save(native_state(), path)
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(UserError, match=rf"{name} is damaged") as caught:
            read_weights(str(path), Cnn())
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("content", [[1, 2], {"state_dict": {"a": 1}}, {"a": print}, torch.nn.Linear(1, 1)])
    def test_foreign_content(self, tmp_path: Path, content: object) -> None:
        torch.save(content, tmp_path / "weights.pth")
        with pytest.raises(UserError, match="not a file of plain weights"):
            read_weights(str(tmp_path / "weights.pth"), Cnn())

    def test_metadata_that_makes_no_sense(self, tmp_path: Path) -> None:
        save_file(native_state(), tmp_path / "w.safetensors", {"preprocessing": json.dumps({"size": 3})})
        with pytest.raises(UserError, match="damaged"):
            read_weights(str(tmp_path / "w.safetensors"), Cnn())

    def test_missing(self, tmp_path: Path) -> None:
        (tmp_path / "models").mkdir()
        (tmp_path / "models" / "mobilenet.pth").touch()
        for spec, suggestion in (("models/mobilnet.pth", "models/mobilenet.pth"), ("model/mobilenet.pth", "models")):
            with pytest.raises(UserError) as caught:
                read_weights(str(tmp_path / spec), Cnn())
            assert str(tmp_path / spec) in str(caught.value)
            assert repr(str(tmp_path / suggestion)) in str(caught.value)

    def test_neither_name_nor_path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "notes.txt").touch()
        (tmp_path / "folder").mkdir()
        with pytest.raises(UserError, match=r"notes\.txt: expected a file ending in \.safetensors"):
            read_weights("notes.txt", Cnn())
        with pytest.raises(UserError, match=r"folder: a folder without weights/backbone\.safetensors"):
            read_weights("folder", Cnn())
        with pytest.raises(UserError, match=r"DEFAULT: neither"):
            read_weights("DEFAULT", Cnn())
        with pytest.raises(UserError, match="did you mean 'IMAGENET1K_V1'"):
            read_weights("IMAGENET1K_V9", TorchvisionBackbone("squeezenet1_1"))


class TestDownload:
    def test_by_default_the_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        backbone, asked = TorchvisionBackbone("squeezenet1_1", size=112), []
        state = {backbone.native_names()[name]: tensor for name, tensor in backbone.state_dict().items()}
        preprocessing = Preprocessing(size=200, mean=(0.1,) * 3, std=(0.2,) * 3)

        def download(name: str) -> tuple[dict[str, Tensor], Preprocessing]:
            asked.append(name)
            return state, preprocessing

        monkeypatch.setattr(backbone, "download", download)
        file = read_weights("DEFAULT", backbone)
        assert asked == ["IMAGENET1K_V1"]
        assert file.preprocessing == Preprocessing(size=112, mean=(0.1,) * 3, std=(0.2,) * 3)
        assert len(load_weights(backbone, file.state).loaded) == len(state)

    def test_without_a_network(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*args: object, **options: object) -> None:
            raise OSError("no route to host\nand more")

        monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
        monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
        with pytest.raises(UserError, match=r"IMAGENET1K_V1: could not be downloaded \(no route to host\)") as caught:
            read_weights("DEFAULT", TorchvisionBackbone("squeezenet1_1"))
        assert "\n" not in str(caught.value)


class TestSave:
    def test_only_tensors_and_text(self, tmp_path: Path) -> None:
        head = LinearHead(4, 2)
        save_weights(head, tmp_path / "head.safetensors", {"note": "x"})
        with safe_open(tmp_path / "head.safetensors", "pt") as file:
            assert file.metadata() == {"note": "x", "sha256": state_sha256(head.state_dict())}
            assert torch.equal(file.get_tensor("linear.weight"), head.linear.weight)

    def test_tensors_that_are_not_contiguous_or_share_memory(self, tmp_path: Path) -> None:
        head = LinearHead(3, 3)
        head.linear.weight = torch.nn.Parameter(torch.randn(3, 3).T)
        head.register_buffer("view", head.linear.weight.detach()[:2])
        save_weights(head, tmp_path / "head.safetensors")
        with safe_open(tmp_path / "head.safetensors", "pt") as file:
            assert torch.equal(file.get_tensor("linear.weight"), head.linear.weight)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "mean"), [("mobilenet_v2", (0.5, 0.5, 0.5)), ("squeezenet1_1", (0.485, 0.456, 0.406))]
)
def test_real_files(shared: Path, name: str, mean: tuple[float, ...]) -> None:
    backbone = TorchvisionBackbone(name)
    file = read_weights(str(shared / "weights" / f"{name}_imagenet.safetensors"), backbone)
    report = load_weights(backbone, file.state)
    assert len(report.loaded) + len(report.dropped) == len(file.state)
    assert report.dropped == ("classifier.1.bias", "classifier.1.weight")
    assert file.preprocessing is not None
    assert (file.preprocessing.mean, file.preprocessing.size, file.preprocessing.resize) == (mean, 224, 256)


@torch.no_grad()
def test_norm_layers_without_statistics_of_data_are_recognised() -> None:
    assert not has_folded_norms(Cnn())
    backbone = ResNetCifar(depth=20)
    assert has_folded_norms(backbone)
    backbone.train()(torch.randn(4, 3, 32, 32))
    assert not has_folded_norms(backbone)
