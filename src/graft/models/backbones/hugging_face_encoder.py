"""What encoders of Hugging Face have in common as backbones, whatever they take."""

from collections.abc import Sequence

from torch import Tensor, nn

from graft.data.preprocessing import Inputs
from graft.models.backbones.base import AnyOverrides, Backbone
from graft.models.backbones.encoder_files import WEIGHTS, EncoderFiles, built
from graft.models.backbones.views import view_of_group


class HuggingFaceEncoder(Backbone):
    """An encoder of the `transformers` library without its head, whose layer groups are views of its modules.

    Args:
        found: its configuration, and the folder in which its weights may lie.
        preprocessing: what its inputs go through unless the weights or the user say otherwise.
        overrides: what the user said.
        heads: what names of parameters begin with that are of the models which the library builds on it.
    """

    def __init__(
        self, found: EncoderFiles, preprocessing: Inputs, overrides: AnyOverrides, heads: tuple[str, ...]
    ) -> None:
        super().__init__(found.config.hidden_size, preprocessing, overrides, native_classifier=heads)
        self.name = found.name
        self.folder = found.folder
        self.model = built(found.config)

    @property
    def group_names(self) -> Sequence[str]:
        """In order from input to output."""
        raise NotImplementedError

    def group_of(self, name: str) -> str:
        """The group of a parameter or buffer of the encoder."""
        raise NotImplementedError

    @property
    def layer_groups(self) -> dict[str, nn.Module]:
        """Views of the encoder's modules, in order from input to output."""
        return {name: view_of_group(self.model, "", name, self.group_of) for name in self.group_names}

    def native_names(self) -> dict[str, str]:
        """Each key without `model.`."""
        return {key: key.removeprefix("model.") for key in self.state_dict()}

    def published_weights(self) -> tuple[str, ...]:
        """`model.safetensors`, where it is there."""
        return (WEIGHTS,) if (self.folder / WEIGHTS).is_file() else ()

    def download(self, name: str) -> tuple[dict[str, Tensor], Inputs]:
        """The weights in the folder, without the prefix of the encoder in a larger model."""
        from safetensors.torch import load_file

        state = load_file(self.folder / name)
        prefix = f"{self.model.base_model_prefix}."
        return {key.removeprefix(prefix): value for key, value in state.items()}, self.preprocessing
