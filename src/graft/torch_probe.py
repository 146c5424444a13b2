"""What torch finds on this machine, as JSON; a program of its own, since importing torch may fail or crash."""

import json
import warnings
from typing import Any


def probe() -> dict[str, Any]:
    """Versions, devices, and what torch warned of while it looked for them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        import torch
        import torchvision

        torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)  # its compiled part
        available = torch.cuda.is_available()
        devices = [_describe(torch.cuda.get_device_properties(i)) for i in range(torch.cuda.device_count() * available)]
    return {
        "cuda": torch.version.cuda,
        "cuda_available": available,
        "cuda_architectures": torch.cuda.get_arch_list() if available else [],
        "devices": devices,
        "mps_available": torch.backends.mps.is_available(),
        "threads": torch.get_num_threads(),
        "warnings": [str(warning.message) for warning in caught],
    }


def _describe(device: Any) -> dict[str, Any]:
    return {"name": device.name, "capability": f"{device.major}.{device.minor}", "memory": device.total_memory}


if __name__ == "__main__":
    print(json.dumps(probe()))
