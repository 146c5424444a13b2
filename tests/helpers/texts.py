"""Small texts with labels for tests: a few words give the class away, the others are noise."""

import csv
from pathlib import Path

import numpy as np

TOLD = {"bad": ("awful", "boring", "broken"), "good": ("great", "lovely", "perfect")}
NOISE = [
    "the",
    "a",
    "this",
    "that",
    "one",
    "thing",
    "plays",
    "works",
    "reads",
    "with",
    "for",
    "and",
    "but",
    "it",
    "was",
    "much",
    "day",
    "time",
    "page",
    "sound",
]


def reviews(num_per_class: int, seed: int, words: int = 8) -> list[tuple[str, str]]:
    """Texts of so many words with their labels, class by class."""
    rng = np.random.default_rng(seed)
    return [
        (" ".join(rng.permutation([*rng.choice(NOISE, words - 1), rng.choice(told)])), label)
        for label, told in TOLD.items()
        for _ in range(num_per_class)
    ]


def write_table(path: Path, rows: list[tuple[str, str]]) -> Path:
    """A CSV file with the columns text and label."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return path


def write_reviews(folder: Path, num_per_class: int = 24) -> Path:
    """`books_{train,test}.csv` and `films_{train,test}.csv`."""
    for seed, domain in enumerate(("books", "films")):
        write_table(folder / f"{domain}_train.csv", reviews(num_per_class, 10 * seed))
        write_table(folder / f"{domain}_test.csv", reviews(10, 10 * seed + 1))
    return folder


def write_text_folder(folder: Path, num_per_class: int = 15) -> Path:
    """Class folders of text files."""
    for number, (text, label) in enumerate(reviews(num_per_class, 0)):
        path = folder / label / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
    return folder


def write_encoder(folder: Path, size: int = 24) -> Path:
    """A BERT of two blocks with random weights, as the transformers library writes it, and its tokenizer."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *NOISE, *TOLD["bad"], *TOLD["good"]]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    folder.mkdir(parents=True, exist_ok=True)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=size,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BertModel(config)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / "model.safetensors")
    config.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
