"""The `openvino` backend: Intel's OpenVINO on the model's own weights, in float32, bfloat16 or int8.

`backend` loads and embeds, `compiled` runs models, `conversion` makes them from torch modules, `quantisation` makes
them int8, `files` reads those that are OpenVINO's already, and `store` keeps converted ones on disk.
"""

import sys
from typing import cast

# openvino and nncf report their use to Google Analytics through this package, unless it cannot be imported. Nothing
# leaves the machine without being asked for, so it cannot be; both are made to work without it.
cast("dict[str, None]", sys.modules)["openvino_telemetry"] = None

from emb_provider_openvino.backend import OpenVINOBackend, OpenVINOOptions  # noqa: E402 - the line above comes first

__all__ = ["OpenVINOBackend", "OpenVINOOptions"]
