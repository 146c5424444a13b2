"""Reading weights from wherever the user has them, and accounting for every key when they are loaded.

Nothing here unpickles code: files are safetensors, or plain values of PyTorch. Those that graft writes carry a hash.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from graft.data.modalities import read_preprocessing
from graft.data.preprocessing import Inputs, Preprocessing
from graft.data.threaded import map_all
from graft.errors import UserError, did_you_mean, listed, nearest_path
from graft.models.backbones.base import Backbone, Overrides
from graft.records.files import atomic_write_bytes
from graft.records.hashing import content_hash
from graft.torch_files import load_plain

RUN_FILE = Path("weights", "backbone.safetensors")
NETWORK_FILE = Path("weights", "network.safetensors")
ADAPTER_FILE = Path("weights", "adapter.safetensors")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class WeightsFile:
    """Weights as they were found."""

    state: dict[str, Tensor]  # names as in the file, usually the backbone's native ones
    preprocessing: Inputs | None  # what they were trained with, the user's overrides applied; None if unknown
    origin: str  # where they came from, for people
    sha256: str  # of names, types, shapes and values: the same weights in another container have the same


@dataclass(frozen=True)
class WeightReport:
    """Where every key went."""

    loaded: tuple[str, ...]  # names of the backbone's `state_dict`
    dropped: tuple[str, ...]  # names in the file: the native classifier, which the head replaces
    reinitialised: tuple[str, ...]  # names of the backbone's `state_dict` that keep their fresh values on demand


def read_weights(spec: str, backbone: Backbone) -> WeightsFile:
    """Weights for `backbone` from a file, an earlier run's folder, or a published name, which may download.

    Args:
        spec: path to a `.safetensors`, `.pth` or `.pt` file; folder of a run; `DEFAULT` or another published name.
        backbone: says what is published, and what its preprocessing is where the file tells only a part.

    Raises:
        UserError: nothing of that name, a damaged or foreign file, or no network.
    """
    published = backbone.published_weights()
    path = Path(spec).expanduser()
    if published and spec in ("DEFAULT", *published):
        return _download(published[0] if spec == "DEFAULT" else spec, backbone)
    if path.exists():
        return _read_path(spec, path, backbone)
    if "/" in spec or path.suffix in READERS:
        raise UserError(f"backbone.weights={spec}: no such file or folder{nearest_path(path)}")
    expected = f"; {did_you_mean(spec, ('source', 'DEFAULT', *published))}" if published else ""
    raise UserError(
        f"backbone.weights={spec}: neither a file, an earlier run's folder, nor published weights{expected}"
    )


def read_network(folder: Path) -> tuple[dict[str, Tensor], Inputs]:
    """The state of a finished run's whole network, adapters merged, and what its inputs go through.

    Raises:
        UserError: there is none in the folder, or a damaged one.
    """
    path = folder / NETWORK_FILE
    if not path.is_file():
        raise UserError(f"{folder}: holds no {NETWORK_FILE}, so no network to be used")
    try:
        state, metadata = _read_safetensors(path)
        return state, read_preprocessing(metadata["preprocessing"])
    except READ_ERRORS as error:
        raise UserError(f"{path}: is damaged, or not the network of a run") from error


def has_folded_norms(backbone: Backbone) -> bool:
    """Whether all norm layers with running statistics have a mean of 0 and a variance of 1.

    So have those that are folded into the layers before them for inference: with statistics of data they would
    normalise again what is normalised already, and nothing but the shift and scale of the fold would remain.
    """
    buffers = dict(backbone.named_buffers())
    means, variances = ([b for name, b in buffers.items() if name.endswith(f"running_{m}")] for m in ("mean", "var"))
    return bool(variances) and not any(map(torch.any, means)) and all((v - 1).abs().max() < 1e-3 for v in variances)


def load_weights(backbone: Backbone, state: Mapping[str, Tensor], reinitialise: Sequence[str] = ()) -> WeightReport:
    """Load `state`, under the backbone's own names or the native ones, and say where every key went.

    Args:
        backbone: unchanged if anything is wrong.
        state: what was read; `num_batches_tracked` may be absent, and floats of fewer bits are widened.
        reinitialise: regexes that match `<group>.<native name>` in full; what they match keeps its fresh values.

    Raises:
        UserError: keys that are missing, unexpected, of the wrong shape or of the wrong dtype, all in one message; or
            a pattern that matches nothing.
    """
    expected = backbone.state_dict()
    kept = _matching(backbone, reinitialise)
    found, dropped, unexpected = _translate(backbone, state)
    wanted = {name for name in expected if name not in kept}
    tensors = {name: tensor for name, tensor in found.items() if name in wanted}
    missing = [name for name in expected if name in wanted - set(tensors) and not name.endswith("num_batches_tracked")]
    _refuse(
        {
            "missing": missing,
            "unexpected": unexpected,
            "wrong shape": [
                f"{name} {list(tensor.shape)} for {list(expected[name].shape)}"
                for name, tensor in tensors.items()
                if tensor.shape != expected[name].shape
            ],
            "wrong dtype": [
                f"{name} {tensor.dtype} for {expected[name].dtype}"
                for name, tensor in tensors.items()
                if torch.promote_types(tensor.dtype, expected[name].dtype) != expected[name].dtype
                or tensor.is_floating_point() != expected[name].is_floating_point()
            ],
        }
    )
    backbone.load_state_dict({**expected, **tensors})
    return WeightReport(tuple(tensors), tuple(dropped), tuple(name for name in expected if name in kept))


def linear_classifier(backbone: Backbone, state: Mapping[str, Tensor]) -> tuple[Tensor, Tensor] | None:
    """Weight [s, d] and bias [s] of the native classifier in `state`; None where it holds none, or more than a layer.

    The backbone's features [n, d] under it give the logits of the classes that the weights were trained for.
    """
    _, dropped, _ = _translate(backbone, state)
    parts = sorted((state[name] for name in dropped), key=lambda tensor: tensor.ndim)
    if [part.ndim for part in parts] != [1, 2] or parts[1].shape != (len(parts[0]), backbone.num_features):
        return None
    return parts[1], parts[0]


def save_weights(module: nn.Module, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a module's state as safetensors with its hash, all or nothing; a backbone's preprocessing goes with it."""
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in module.state_dict().items()}
    own = {"preprocessing": json.dumps(module.preprocessing.as_dict())} if isinstance(module, Backbone) else {}
    atomic_write_bytes(path, save(state, {"sha256": state_sha256(state), **own, **(metadata or {})}))


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """Hash of names, types, shapes and values, whatever their order."""
    names = sorted(state)
    values = map_all(_values_sha256, [state[name] for name in names], torch.get_num_threads())
    described = [[name, str(state[name].dtype), list(state[name].shape)] for name in names]
    return content_hash([described, values])


def _values_sha256(tensor: Tensor) -> str:
    values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return sha256(values.numpy().data).hexdigest()


def _download(name: str, backbone: Backbone) -> WeightsFile:
    try:
        state, preprocessing = backbone.download(name)
    except Exception as error:  # each downloader raises errors of its own
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"backbone.weights={name}: could not be downloaded ({reason}); "
            "check the network, or give the path of a file that you have"
        ) from error
    origin = f"{type(backbone).__name__} {getattr(backbone, 'name', '')} {name}"
    return WeightsFile(state, backbone.overrides.apply(preprocessing), origin, state_sha256(state))


def _read_path(spec: str, path: Path, backbone: Backbone) -> WeightsFile:
    if path.is_dir():
        if not (path / RUN_FILE).is_file():
            if (path / ADAPTER_FILE).is_file():
                raise UserError(
                    f"backbone.weights={spec}: that run's adapter cannot be merged into a plain backbone; give a run "
                    "with adapter=none or one of lora, rslora, dora, ia3, vera, oft"
                )
            raise UserError(f"backbone.weights={spec}: a folder without {RUN_FILE}, so not that of a finished run")
        path = path / RUN_FILE
    if path.suffix not in READERS:
        raise UserError(f"backbone.weights={spec}: expected a file ending in {', '.join(READERS)}")
    try:
        state, metadata = READERS[path.suffix](path)
        preprocessing = _stated_preprocessing(metadata, backbone)
    except READ_ERRORS as error:
        raise UserError(f"backbone.weights={spec}: {path.name} is damaged, or not a file of plain weights") from error
    return WeightsFile(state, preprocessing, str(path), metadata.get("sha256") or state_sha256(state))


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """State and metadata; a hash in the metadata is that of the state."""
    with safe_open(path, framework="pt") as file:
        state, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    if metadata.get("sha256") not in (None, state_sha256(state)):
        raise ValueError("the values are not those that were written")
    return state, metadata


def _read_torch(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    content = load_plain(path)
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError("not a mapping of names to tensors")
    return dict(content), {}


READERS: dict[str, Callable[[Path], tuple[dict[str, Tensor], dict[str, str]]]] = {
    ".safetensors": _read_safetensors,
    ".pth": _read_torch,
    ".pt": _read_torch,
}
READ_ERRORS = (
    SafetensorError,
    ValueError,
    KeyError,
    TypeError,
    OSError,
)


def _stated_preprocessing(metadata: Mapping[str, str], backbone: Backbone) -> Inputs | None:
    """What the metadata says, with the user's overrides; None unless it is understood for certain."""
    if "preprocessing" in metadata:
        return backbone.overrides.apply(read_preprocessing(metadata["preprocessing"]))
    overrides = backbone.overrides
    if not isinstance(backbone.preprocessing, Preprocessing) or not isinstance(overrides, Overrides):
        return None
    stated = metadata.get("input", "")
    default = _usual_canvas(backbone.preprocessing)
    if stated == "x in [0,1] -> 2x-1":
        half = (0.5,) * default.channels
        return overrides.apply(replace(default, mean=half, std=half))
    if match := re.fullmatch(r"ImageNet mean/std(?: at (\d+)x\1)?", stated):
        found = replace(default, mean=IMAGENET_MEAN, std=IMAGENET_STD)
        if match[1] and overrides.size is None:
            found = replace(found, size=int(match[1]), resize=None)
        return overrides.apply(found)
    return None


def _usual_canvas(preprocessing: Preprocessing) -> Preprocessing:
    """The crop to 7/8 of the canvas with which ImageNet models are evaluated unless their recipe says otherwise.

    A file that states no canvas need not share that of the newest published weights, whose recipes chose their own.
    """
    canvas = preprocessing.resize and round(preprocessing.size / 0.875)
    return replace(preprocessing, resize=canvas)


def _matching(backbone: Backbone, patterns: Sequence[str]) -> set[str]:
    """Keys of the backbone's state that a pattern matches under the name `<group>.<native name>`."""
    own_names = {native: own for own, native in backbone.native_names().items()}
    names = {
        f"{group}.{native}": own_names[native]
        for group, module in backbone.layer_groups.items()
        for native in module.state_dict()
    }
    matched: set[str] = set()
    for pattern in patterns:
        hits = {own for name, own in names.items() if re.fullmatch(pattern, name)}
        if not hits:
            suggestion = did_you_mean(pattern.partition("\\")[0].partition(".")[0], backbone.layer_groups)
            raise UserError(
                f"backbone.reinitialise: {pattern!r} matches no parameter; it must match <group>.<name> in full, "
                f"as 'stage1\\..*' does; {suggestion}"
            )
        matched |= hits
    return matched


def _translate(backbone: Backbone, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str], list[str]]:
    """`state` under the backbone's own names; what of it is the native classifier; what of it is unknown."""
    own = backbone.native_names()
    native = {name: key for key, name in own.items()}
    names = {key: _current(key.removeprefix("module.")) for key in state}
    # A native name and one of ours might coincide; a file holds either the one kind or the other.
    layout = max(native, {key: key for key in own}, key=lambda layout: sum(name in layout for name in names.values()))
    found, dropped, unexpected = {}, [], []
    for key, name in names.items():
        if name in layout:
            found[layout[name]] = state[key]
        elif name.startswith(backbone.native_classifier):
            dropped.append(key)
        else:
            unexpected.append(key)
    return found, dropped, unexpected


def _current(name: str) -> str:
    """Today's name of a parameter.

    Torchvision's DenseNet files still say `denselayer1.norm.1` for `norm1`, and those of wav2vec 2.0 and its kin name
    length and direction of normalised weights as torch did before 2.0.
    """
    name = re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2", name)
    part = {"weight_g": "original0", "weight_v": "original1"}.get(name.rpartition(".")[2])
    return name if part is None else f"{name[: -len('weight_g')]}parametrizations.weight.{part}"


def _refuse(problems: Mapping[str, Sequence[str]]) -> None:
    described = [f"{kind}: {_some(names)}" for kind, names in problems.items() if names]
    if described:
        raise UserError(f"the weights do not fit the backbone; {'; '.join(described)}")


def _some(names: Iterable[str], shown: int = 4) -> str:
    names = list(names)
    return f"{len(names)} ({listed(names, shown)})"
