from pathlib import Path

import pytest
from texts import write_encoder
from transformers import ASTConfig, PretrainedConfig, ViTConfig, Wav2Vec2Config, WhisperConfig

from graft.errors import UserError
from graft.models.backbones.hugging_face import HuggingFaceBackbone


@pytest.mark.parametrize(
    ("config", "takes", "instead"),
    [
        (Wav2Vec2Config(), "wav2vec2 takes waveforms", "hugging_face_audio"),
        (ASTConfig(), "audio-spectrogram-transformer takes spectrograms", "cnn"),
        (WhisperConfig(), "whisper takes spectrograms", "cnn"),
        (ViTConfig(), "vit takes images", "cnn"),
    ],
    ids=["wav2vec2", "ast", "whisper", "vit"],
)
@pytest.mark.parametrize("with_tokenizer", [False, True])
def test_encoders_of_other_samples_are_refused(
    config: PretrainedConfig, takes: str, instead: str, with_tokenizer: bool, tmp_path: Path
) -> None:
    config.save_pretrained(tmp_path)
    if with_tokenizer:
        tokenizer = write_encoder(tmp_path / "texts") / "tokenizer.json"
        tokenizer.rename(tmp_path / "tokenizer.json")
    with pytest.raises(UserError, match=f"{takes}, and backbone=hugging_face takes .* choose backbone={instead}"):
        HuggingFaceBackbone(str(tmp_path))


def test_an_encoder_without_its_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"holds no tokenizer\.json"):
        HuggingFaceBackbone(str(folder))
