"""What accompanies an exported network: its use as plain values, and a model card, both made from the record."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from graft import __version__
from graft.reports.settings import Record
from graft.reports.tables import ACCURACY
from graft.reports.terminal import percent, points

MARK = "<!-- made by graft export -->"
WEAK = 0.5  # a class of lower accuracy is named among the limits
FEW_SAMPLES = 100


NOUNS = {"image": "image", "audio": "sound", "text": "text"}


def description(
    record: Record, preprocessing: Mapping[str, Any], temperature: float | None, kind: str, name: str
) -> dict[str, Any]:
    """How a file is used: what a sample goes through before, what the file does itself, what comes out."""
    modality = preprocessing.get("modality", "image")
    steps = STEPS[modality](preprocessing)
    holds_weights_alone = kind == "safetensors"
    return {
        "graft": __version__,
        "run": record["id"],
        "format": kind,
        "file": name,
        "modality": modality,
        "classes": list(record["classes"]["names"]),
        "before": [*steps.before, *steps.inside] if holds_weights_alone else steps.before,
        "input": {
            "name": steps.name,
            "type": steps.bare_dtype if holds_weights_alone else steps.dtype,
            "shape": ["n", *(steps.bare_shape if holds_weights_alone else steps.shape)],
        },
        "inside": [] if holds_weights_alone else steps.inside,
        "outputs": {"logits": ["n", len(record["classes"]["names"])]}
        if holds_weights_alone
        else {name: ["n", len(record["classes"]["names"])] for name in ("logits", "probabilities")},
        "temperature": temperature,
        "probabilities": "softmax(logits / temperature)" if temperature else "softmax(logits)",
    }


@dataclass(frozen=True)
class Steps:
    """What a sample goes through on its way to the network."""

    name: str  # of the input of a file that takes the steps inside itself
    dtype: str
    shape: list[int]  # of one input
    before: list[dict[str, Any]]
    inside: list[dict[str, Any]]  # unless the file holds weights alone
    bare_dtype: str  # of what the network itself is given
    bare_shape: list[int]


def image_steps(preprocessing: Mapping[str, Any]) -> Steps:
    """From an image file to normalised pixels."""
    size, channels = preprocessing["size"], len(preprocessing["mean"])
    canvas = preprocessing["resize"] or size
    before = [
        {"step": "turn upright as EXIF says"},
        {"step": "convert", "to": "RGB" if channels == 3 else "grey (ITU-R 601-2 luma)"},
        {
            "step": "resize the shorter edge",
            "to": canvas,
            "longer edge": f"int({canvas} * longer / shorter)",
            "interpolation": preprocessing["interpolation"],
            "antialias": True,
        },
        {"step": "crop the centre", "to": [canvas, canvas], "begins at": f"round((edge - {canvas}) / 2)"},
        {"step": "crop the centre", "to": [size, size], "begins at": round((canvas - size) / 2)},
    ]
    applied = {"scale": 1 / 255, "mean": list(preprocessing["mean"]), "std": list(preprocessing["std"])}
    normalise = {"step": "(pixel * scale - mean) / std, by channel", **applied}
    shape = [channels, size, size]
    return Steps("images", "uint8", shape, before, [normalise], "float32", shape)


def sound_steps(preprocessing: Mapping[str, Any]) -> Steps:
    """From a sound file to a waveform or a spectrogram, normalised."""
    rate, trim_db = preprocessing["rate"], preprocessing["trim_db"]
    samples = round(rate * preprocessing["seconds"])
    trim = {"step": "cut off what is quieter at both ends", "dB below the loudest 20 ms": trim_db}
    before = [
        {"step": "mix to mono", "by": "the mean of the channels"},
        {"step": "resample", "to": rate, "by": "scipy.signal.resample_poly"},
        *([trim] if trim_db is not None else []),
        {"step": "keep the middle, or pad with zeros on both sides", "to": samples},
        {"step": "round to int16", "full scale": 32768},
    ]
    if preprocessing.get("form") == "waveform":
        inside, shape = waveform_steps(preprocessing), [samples]
    else:
        size = preprocessing["size"]
        inside, shape = spectrogram_steps(preprocessing, samples), [len(preprocessing["mean"]), size, size]
    return Steps("waveforms", "int16", [samples], before, inside, "float32", shape)


def waveform_steps(preprocessing: Mapping[str, Any]) -> list[dict[str, Any]]:
    """From int16 samples to what an encoder hears."""
    scale = {"step": "sample * scale", "scale": 1 / 32768}
    normalise = {"step": "(sample - mean) / sqrt(variance + 1e-7), of each sound"}
    return [scale, normalise] if preprocessing["normalised"] else [scale]


def spectrogram_steps(preprocessing: Mapping[str, Any], samples: int) -> list[dict[str, Any]]:
    """From int16 samples to a normalised spectrogram, as `graft.data.log_mel` computes it."""
    size = preprocessing["size"]
    hop = -(-samples // size)
    spectrogram = {
        "step": "log-mel spectrogram",
        "bands": size,
        "frames": size,
        "hop": hop,
        "window": "periodic Hann of 25 ms or two hops, whichever is longer, around the middle of each hop",
        "mel scale": "HTK: 2595 log10(1 + f / 700), triangles of height 1 from 0 Hz to half the rate",
        "scaled": f"from {preprocessing['range_db']:g} dB below the loudest of the sound (0) to the loudest (1)",
    }
    applied = {"mean": list(preprocessing["mean"]), "std": list(preprocessing["std"])}
    return [spectrogram, {"step": "(value - mean) / std, in each channel", **applied}]


def text_steps(preprocessing: Mapping[str, Any]) -> Steps:
    """From a text to token ids."""
    size, tokenizer = preprocessing["size"], preprocessing["tokenizer"]
    how = {
        "distinct_hashed_ngrams": "words (\\w+(?:'\\w+)?|[^\\w\\s]) in lower case and runs of them, each after its "
        "last word; 1 + CRC-32 of the UTF-8 bytes, words joined by a space, modulo the number of buckets; each once",
        "subwords": "as the tokenizers library does with the definition; 1 + its ids",
    }
    before = [
        {"step": "split into tokens", "how": how[tokenizer["kind"]], **tokenizer},
        {"step": "cut, or pad with 0 at the end", "to": size},
    ]
    return Steps("tokens", "int32", [size], before, [], "int64", [size])


STEPS = {"image": image_steps, "audio": sound_steps, "text": text_steps}


def model_card(record: Record, described: Mapping[str, Any]) -> str:
    """A model card in Markdown (Mitchell et al., "Model Cards for Model Reporting", FAT* 2019), from what is known.

    Args:
        record: of a finished run, or a soup.
        described: `description` of the file.
    """
    parts = [
        f"# {record['backbone']} for {record['target']}",
        MARK,
        f"A classifier of {NOUNS[described['modality']]}s, of {len(described['classes'])} classes, trained by graft "
        f"{record['environment']['graft']} (run {record['id']}, {str(record['finished'])[:10]}).",
        *section("Use", use(described)),
        *section("Training", training(record)),
        *section("Results", results(record, described["temperature"])),
        *classes(record),
        *section("Licence", ["Unknown: that of the weights and data it was made from decides, and is not recorded."]),
        *section("Limits", limits(record, described["temperature"])),
    ]
    return "\n\n".join(parts) + "\n"


def section(heading: str, lines: list[str]) -> list[str]:
    """A heading and a list below it."""
    return [f"## {heading}", "\n".join(f"- {line}" for line in lines)]


def use(described: Mapping[str, Any]) -> list[str]:
    """What goes in and comes out."""
    taken = described["input"]
    shape = ", ".join(map(str, taken["shape"]))
    lines = [
        f"File: `{described['file']}` ({described['format']}).",
        f"Before: {in_words(described)}; exact steps are in the JSON file beside it.",
        f"Input: `{taken['name']}`, {taken['type']} [{shape}], any n.",
    ]
    if described["inside"]:
        lines.append(f"Inside: {done_inside(described)}.")
    calibrated = f", calibrated by the temperature {described['temperature']:.4g}" if described["temperature"] else ""
    return [
        *lines,
        f"Outputs: {', '.join(described['outputs'])}; probabilities are {described['probabilities']}{calibrated}.",
    ]


def done_inside(described: Mapping[str, Any]) -> str:
    """What a file does to its inputs itself."""
    if described["modality"] == "image":
        return "pixels are scaled and normalised"
    if described["inside"][0]["step"] == "log-mel spectrogram":
        return "the spectrogram is computed and normalised"
    return "samples are scaled" + (" and normalised" if len(described["inside"]) > 1 else "")


def in_words(described: Mapping[str, Any]) -> str:
    """What is done to a sample before a file is given it."""
    before = described["before"]
    if described["modality"] == "audio":
        samples = next(step["to"] for step in before if step["step"].startswith("keep"))
        return f"mono, resampled to {before[1]['to']} Hz, the middle {samples} samples"
    if described["modality"] == "text":
        return f"split into {before[1]['to']} tokens ({before[0]['kind']}), or padded with 0 up to as many"
    resized, cropped = before[2], before[4]
    return (
        f"upright, shorter edge resized to {resized['to']} ({resized['interpolation']}, antialiased), centre cropped "
        f"to {resized['to']}, then to {cropped['to'][0]}"
    )


def training(record: Record) -> list[str]:
    """Where the network comes from."""
    config, cost = record["config"], record["cost"]
    labels = record.get("training_labels")
    origin = {"source": f"pretrained on {record['source']}", "scratch": "random"}.get(
        record["weights"], record["weights"]
    )
    lines = [
        f"Data: {record['target']}" + (f", {labels} labelled training samples" if labels is not None else "") + ".",
        f"Starting weights: {origin}.",
        f"Strategy: {record['strategy']}, objective {record['objective']}, seed {record['seed']}; "
        f"{cost['trainable_parameters']:,} of {cost['num_parameters']:,} parameters in {cost['steps']:,} steps.",
    ]
    for group in ("adaptation", "regulariser"):
        if config.get(group):
            lines.append(f"{group.capitalize()}: {', '.join(config[group])}.")
    if record.get("adapter"):
        lines.append(f"Adapter: {record['adapter']['kind']}.")
    if "soup" in record:
        num = sum(run["in_soup"] for run in record["soup"]["runs"])
        lines.append(f"Weights: the mean of {num} runs ({record['soup']['kind']} soup).")
    return [*lines, f"Fingerprint of data and splits: `{record['fingerprints']['target_data']}`."]


def results(record: Record, temperature: float | None) -> list[str]:
    """How good it is, against what, and how far its probabilities can be believed."""
    metrics, transfer = record["metrics"], record["transfer"]
    lines = [f"Accuracy: {percent(metrics[ACCURACY])} on {num_tested(record)} test samples of {record['target']}."]
    for name, baseline in record["baselines"].items():
        lines.append(f"Baseline {name}: {percent(baseline['metrics'][ACCURACY])}, same labels, epochs and head.")
    if transfer:
        lines.append(f"Gain: {points(transfer['gain'])} over {transfer['baseline']}.")
    else:
        lines.append("Gain: not measured, the run had no baseline.")
    lines.append(f"Calibration error of the logits as they are: {percent(metrics['target/test/calibration_error'])}.")
    if temperature is not None:
        error = record["after"]["temperature"]["metrics"]["target/test/calibration_error"]
        lines.append(f"Calibration error at the temperature {temperature:.4g}: {percent(error)}.")
    return lines


def classes(record: Record) -> list[str]:
    """A table of the classes."""
    rows = [
        f"| {name.replace('|', '/')} | {sum(counts)} | {percent(accuracy) or 'not tested'} |"
        for name, counts, accuracy in class_rows(record)
    ]
    return ["## Classes", "\n".join(["| class | tested | accuracy |", "| --- | ---: | ---: |", *rows])]


def class_rows(record: Record) -> Iterator[tuple[str, list[int], float | None]]:
    """Name, row of the confusion matrix and accuracy of each class."""
    found = record["classes"]
    yield from zip(found["names"], found["confusion"], found["accuracy"], strict=True)


def num_tested(record: Record) -> int:
    """Samples that the accuracy is measured on."""
    return sum(map(sum, record["classes"]["confusion"]))


def limits(record: Record, temperature: float | None) -> list[str]:
    """What the network must not be taken for."""
    lines = [
        "It knows these classes only: anything else is given one of them.",
        f"It was tested on {record['target']} only; on what was taken otherwise it may be worse "
        "(`graft evaluate RUN target=...` measures it).",
    ]
    if (num := num_tested(record)) < FEW_SAMPLES:
        lines.append(f"There were {num} test samples only: the accuracy is uncertain.")
    weak = [name for name, _, accuracy in class_rows(record) if accuracy is not None and accuracy < WEAK]
    if weak:
        lines.append(f"Below {percent(WEAK)} on: {', '.join(weak)}.")
    if record["transfer"].get("negative"):
        lines.append(f"Transfer hurt: it is below its {record['transfer']['baseline']} baseline.")
    if temperature is None:
        lines.append("Its probabilities are not calibrated (`after=temperature` seeks a temperature on val samples).")
    return lines
