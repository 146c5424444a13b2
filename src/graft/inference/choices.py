"""What may be asked for, by name; imports nothing, so that a command can list it at once."""

DEVICES = ("auto", "cpu", "cuda", "mps")
ROW_FORMATS = ("csv", "json")
SPLITS = {"test": ("test",), "val": ("val",), "train": ("train",), "all": ("train", "val", "test")}
SUFFIXES = {"onnx": ".onnx", "torch_export": ".pt2", "safetensors": ".safetensors", "torchscript": ".pt"}
