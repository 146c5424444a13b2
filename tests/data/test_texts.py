import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from texts import reviews, write_reviews, write_text_folder

from graft.batch import LabelledBatch
from graft.data.augment import Augmentation
from graft.data.domain import Domain
from graft.data.modalities import MODALITIES, make_view, read_preprocessing
from graft.data.preprocessing import Preprocessing
from graft.data.readers.digits import Digits
from graft.data.readers.text_folder import TextFolder
from graft.data.readers.text_table import TextTable
from graft.data.several import SeveralDomains
from graft.data.texts import TextAugmentation, TextPreprocessing, TokenisedTexts
from graft.data.tokenizing import HashedNgrams, Subwords
from graft.errors import UserError

INPUTS = TextPreprocessing(8, HashedNgrams(buckets=1000, longest_run=2))
TEXTS = [text for text, _ in reviews(30, seed=3)]


def films(folder: Path, **settings: object) -> Domain:
    return Domain("films", TextTable(write_reviews(folder), domain="films"), **settings)


def test_ngrams_are_numbered_alike_in_every_process() -> None:
    code = "from graft.data.tokenizing import HashedNgrams as H; print(H(1000).encode(['Not good, not bad!'], 99))"
    environment = {"PYTHONHASHSEED": "7", "PYTHONPATH": ":".join(sys.path)}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert found.stdout.strip() == str(HashedNgrams(1000).encode(["Not good, not bad!"], 99))
    crc_of_123456789 = 0xCBF43926  # the check value of CRC-32 in every catalogue
    assert HashedNgrams(1000).encode(["123456789"], 9) == [[1 + crc_of_123456789 % 1000]]


def test_texts_are_cut_and_padded() -> None:
    ids = INPUTS.tokens(["one two three four five six seven", "one", "..."])
    assert ids.dtype == torch.int32
    assert ids.shape == (3, 8)
    assert (ids[0] > 0).all()
    assert ids[1].tolist()[1:] == [0] * 7
    assert ids[1, 0] == ids[0, 0]
    assert (ids[2] > 0).sum() == 2, "a mark and a pair of marks, each once"
    assert ids.max() < INPUTS.tokenizer.num_ids


def test_ngrams_are_taken_once_each_in_the_order_in_which_they_come_first() -> None:
    words = HashedNgrams(10**6, longest_run=1)
    [[good], [bad], [very]] = words.encode(["good", "bad", "very"], 9)
    assert words.encode(["Good bad good very BAD good"], 9) == [[good, bad, very]]
    assert words.encode(["good good good bad very"], 2) == [[good, bad]]


def test_byte_pairs_are_fitted_the_same_each_time_and_read_anything() -> None:
    pytest.importorskip("tokenizers")
    one, two = (Subwords(vocabulary=300).fitted(TEXTS) for _ in range(2))
    assert one == two
    assert one.fitted(["something else"]) is one
    assert one.num_ids == 301
    texts = ["perfect thing", "naïve ☕ 試験", "\ud800", "x" * 5000]
    found = one.encode(texts, 20)
    assert all(0 < number < one.num_ids for ids in found for number in ids)
    assert len(found[0]) < len("perfect thing"), "words that were often seen are pieces"
    assert len(found[3]) == 20
    with pytest.raises(UserError, match=r"backbone.vocabulary=100: expected 257"):
        Subwords(vocabulary=100)
    with pytest.raises(UserError, match="not a tokenizer"):
        Subwords("{}").encode(["a"], 3)


@pytest.mark.parametrize("fitted", [False, True])
def test_preprocessing_survives_metadata(fitted: bool) -> None:
    inputs = TextPreprocessing(8, Subwords(vocabulary=300).fitted(TEXTS)) if fitted else INPUTS
    assert read_preprocessing(json.dumps(inputs.as_dict())) == inputs
    image = Preprocessing(32, (0.5,) * 3, (0.5,) * 3)
    assert "modality" not in image.as_dict(), "records of images stay as they are"
    assert read_preprocessing(json.dumps(image.as_dict())) == image
    with pytest.raises(ValueError, match="unknown kind"):
        read_preprocessing('{"modality": "smell"}')


def test_a_domain_serves_token_ids(tmp_path: Path) -> None:
    domain = films(tmp_path, labels_per_class=5, batch_size=4)
    domain.load(INPUTS)
    [batch, *_] = domain.train_dataloader()
    assert batch.x.dtype == torch.int32
    assert batch.x.shape == (4, 8)
    assert domain.view.evaluate(batch.x).dtype == torch.int64
    assert domain.sizes == {"train": 10, "val": 5, "test": 20}
    assert len(domain.pool) == 33


def test_texts_that_are_not_kept_are_split_anew(tmp_path: Path) -> None:
    kept, anew = films(tmp_path), films(tmp_path, memory_limit_gib=0.0, num_workers=0)
    for domain in (kept, anew):
        domain.load(INPUTS)
    assert isinstance(anew.datasets["train"].images, TokenisedTexts)
    for one, other in zip(kept.loader("train"), anew.loader("train"), strict=True):
        assert torch.equal(one.x, other.x)
    assert kept.fingerprint == anew.fingerprint


def test_the_fingerprint_knows_texts_and_tokens(tmp_path: Path) -> None:
    def fingerprint(inputs: TextPreprocessing, reader: TextTable) -> str:
        domain = Domain("a", reader)
        domain.load(inputs)
        return domain.fingerprint

    films, books = (TextTable(write_reviews(tmp_path), domain=name) for name in ("films", "books"))
    others = [
        fingerprint(INPUTS, books),
        fingerprint(INPUTS.with_size(9), films),
        fingerprint(TextPreprocessing(8, HashedNgrams(999)), films),
    ]
    assert fingerprint(INPUTS, films) not in others
    assert len(set(others)) == 3


def test_a_tokenizer_is_fitted_on_training_texts_alone(tmp_path: Path) -> None:
    unfitted = TextPreprocessing(8, Subwords(vocabulary=300))
    domain = films(tmp_path, labels_per_class=2)
    read = domain.training_samples(unfitted)
    domain.load(INPUTS)
    assert len(read) == domain.sizes["train"] + len(domain.pool)
    assert domain.fitted(unfitted).tokenizer == Subwords(vocabulary=300).fitted(read)
    assert domain.fitted(INPUTS) is INPUTS
    both = SeveralDomains("both", {"one": films(tmp_path, batch_size=64), "two": films(tmp_path, batch_size=64)})
    assert len(both.training_samples(unfitted)) == 2 * len(read)


def test_tokens_are_left_out_at_random() -> None:
    ids = torch.randint(1, 1000, (200, 8), dtype=torch.int32)
    view = make_view(INPUTS, TextAugmentation(token_dropout=0.25), 2)
    batch = LabelledBatch(ids, torch.zeros(200), torch.arange(200))
    one, same, other = (view.train(batch, torch.Generator().manual_seed(seed)).x for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert 0.2 < float((one == 0).double().mean()) < 0.3
    assert torch.equal(one[one > 0], ids.long()[one > 0])
    assert torch.equal(view.evaluate(ids), ids.long())
    with pytest.raises(UserError, match=r"token_dropout=1.0"):
        TextAugmentation(token_dropout=1.0)


def test_what_is_made_for_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Augmentation does not augment a text; expected TextAugmentation"):
        make_view(INPUTS, Augmentation(mixup=0.2), 2)
    with pytest.raises(UserError, match=r"films holds texts, .* takes images; for texts choose backbone=bag_of_ngrams"):
        films(tmp_path).load(Preprocessing(32, (0.5,) * 3, (0.5,) * 3))
    with pytest.raises(UserError, match=r"digits holds images, .* takes texts; for images choose backbone=cnn"):
        Domain("digits", Digits()).load(INPUTS)


def test_every_kind_is_named_as_it_says() -> None:
    assert all(name == "image" or "image" not in kind.noun for name, kind in MODALITIES.items())


def test_text_files(tmp_path: Path) -> None:
    write_text_folder(tmp_path, 3)
    (tmp_path / "bad" / "empty.txt").write_text(" \n")
    (tmp_path / "good" / "other.txt").write_bytes(b"caf\xe9")
    (tmp_path / "good" / "notes.md").write_text("no text of ours")
    raw = TextFolder(tmp_path).read()
    assert raw.modality == "text"
    assert raw.class_names == ("bad", "good")
    assert raw.train.labels.tolist() == [0] * 3 + [1] * 3
    assert sorted(raw.train.samples) == sorted(text for text, _ in reviews(3, 0))
    reasons = {found.path.name: found.reason for found in raw.broken}
    assert reasons == {"empty.txt": "an empty text", "other.txt": "byte 0xe9 is not utf-8"}
    assert len(TextFolder(tmp_path, encoding="latin-1").read().broken) == 1
