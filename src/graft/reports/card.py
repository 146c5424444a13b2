"""What accompanies an exported network: its use as plain values, and a model card, both made from the record."""

from collections.abc import Iterator, Mapping
from typing import Any

from graft import __version__
from graft.reports.settings import Record
from graft.reports.tables import ACCURACY
from graft.reports.terminal import percent, points

MARK = "<!-- made by graft export -->"
WEAK = 0.5  # a class of lower accuracy is named among the limits
FEW_IMAGES = 100


def description(
    record: Record, preprocessing: Mapping[str, Any], temperature: float | None, kind: str, name: str
) -> dict[str, Any]:
    """How a file is used: what an image goes through before, what the file does itself, what comes out."""
    size, channels = preprocessing["size"], len(preprocessing["mean"])
    canvas = preprocessing["resize"] or size
    applied = {"scale": 1 / 255, "mean": list(preprocessing["mean"]), "std": list(preprocessing["std"])}
    holds_weights_alone = kind == "safetensors"
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
    normalise = {"step": "(pixel * scale - mean) / std, by channel", **applied}
    return {
        "graft": __version__,
        "run": record["id"],
        "format": kind,
        "file": name,
        "classes": list(record["classes"]["names"]),
        "before": [*before, normalise] if holds_weights_alone else before,
        "input": {
            "name": "images",
            "type": "float32" if holds_weights_alone else "uint8",
            "shape": ["n", channels, size, size],
        },
        "inside": [] if holds_weights_alone else [normalise],
        "outputs": {"logits": ["n", len(record["classes"]["names"])]}
        if holds_weights_alone
        else {name: ["n", len(record["classes"]["names"])] for name in ("logits", "probabilities")},
        "temperature": temperature,
        "probabilities": "softmax(logits / temperature)" if temperature else "softmax(logits)",
    }


def model_card(record: Record, described: Mapping[str, Any]) -> str:
    """A model card in Markdown (Mitchell et al., "Model Cards for Model Reporting", FAT* 2019), from what is known.

    Args:
        record: of a finished run, or a soup.
        described: `description` of the file.
    """
    parts = [
        f"# {record['backbone']} for {record['target']}",
        MARK,
        f"An image classifier of {len(described['classes'])} classes, trained by graft "
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
    resized, cropped = described["before"][2], described["before"][4]
    shape = ", ".join(map(str, taken["shape"]))
    lines = [
        f"File: `{described['file']}` ({described['format']}).",
        f"Before: upright, shorter edge resized to {resized['to']} ({resized['interpolation']}, antialiased), "
        f"centre cropped to {resized['to']}, then to {cropped['to'][0]}; exact steps are in the JSON file beside it.",
        f"Input: `{taken['name']}`, {taken['type']} [{shape}], any n.",
    ]
    if described["inside"]:
        lines.append("Inside: pixels are scaled and normalised.")
    calibrated = f", calibrated by the temperature {described['temperature']:.4g}" if described["temperature"] else ""
    return [
        *lines,
        f"Outputs: {', '.join(described['outputs'])}; probabilities are {described['probabilities']}{calibrated}.",
    ]


def training(record: Record) -> list[str]:
    """Where the network comes from."""
    config, cost = record["config"], record["cost"]
    labels = record.get("training_labels")
    origin = {"source": f"pretrained on {record['source']}", "scratch": "random"}.get(
        record["weights"], record["weights"]
    )
    lines = [
        f"Data: {record['target']}" + (f", {labels} labelled training images" if labels is not None else "") + ".",
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
    lines = [f"Accuracy: {percent(metrics[ACCURACY])} on {num_test_images(record)} test images of {record['target']}."]
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
    return ["## Classes", "\n".join(["| class | test images | accuracy |", "| --- | ---: | ---: |", *rows])]


def class_rows(record: Record) -> Iterator[tuple[str, list[int], float | None]]:
    """Name, row of the confusion matrix and accuracy of each class."""
    found = record["classes"]
    yield from zip(found["names"], found["confusion"], found["accuracy"], strict=True)


def num_test_images(record: Record) -> int:
    """Images that the accuracy is measured on."""
    return sum(map(sum, record["classes"]["confusion"]))


def limits(record: Record, temperature: float | None) -> list[str]:
    """What the network must not be taken for."""
    lines = [
        "It knows these classes only: an image of anything else is given one of them.",
        f"It was tested on images of {record['target']} only; on images taken otherwise it may be worse "
        "(`graft evaluate RUN target=...` measures it).",
    ]
    if (num := num_test_images(record)) < FEW_IMAGES:
        lines.append(f"There were {num} test images only: the accuracy is uncertain.")
    weak = [name for name, _, accuracy in class_rows(record) if accuracy is not None and accuracy < WEAK]
    if weak:
        lines.append(f"Below {percent(WEAK)} on: {', '.join(weak)}.")
    if record["transfer"].get("negative"):
        lines.append(f"Transfer hurt: it is below its {record['transfer']['baseline']} baseline.")
    if temperature is None:
        lines.append("Its probabilities are not calibrated (`after=temperature` seeks a temperature on val images).")
    return lines
