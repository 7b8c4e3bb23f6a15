"""int8 by nncf: post-training quantisation, with the ranges of activations taken from calibration texts."""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import rich
from attrs import frozen
from numpy.typing import NDArray

from emb_provider_openvino.compiled import Compiled
from emb_provider_openvino.conversion import one_line
from provider.backends import BackendUnavailable, ModelSpec, arrays_of, pool
from provider.engine.tokenizer import Tokenizer

_log = logging.getLogger(__name__)

_MOST_TEXTS = 300
_INSTALL = "pip install 'emb-provider-openvino[int8]'"


@frozen
class CalibrationTexts:
    """Texts like those that will be embedded.

    Attributes:
        lines: at least one.
        digest: SHA-256 over them, 16 hexadecimal digits.
    """

    lines: tuple[str, ...]
    digest: str

    @classmethod
    def read(cls, path: str | None) -> "CalibrationTexts":
        """The lines of a UTF-8 text file that are not blank, at most 300, spread over the file; None for our own.

        Raises:
            BackendUnavailable: it cannot be read, or is empty.
        """
        try:
            if path is None:
                text = files("emb_provider_openvino").joinpath("calibration.txt").read_text(encoding="utf-8")
            else:
                text = Path(path).expanduser().read_text(encoding="utf-8")
        except (OSError, ValueError) as exc:
            msg = f"options.calibration {path!r} cannot be read as UTF-8 text ({exc}); give a file with one text a line"
            raise BackendUnavailable(msg) from exc
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if not lines:
            msg = f"options.calibration {path!r} has no texts; give a file with one text a line, 100 or more"
            raise BackendUnavailable(msg)
        chosen = tuple(lines[i] for i in sorted({int(at) for at in np.linspace(0, len(lines) - 1, _MOST_TEXTS)}))
        return cls(chosen, hashlib.sha256("\n".join(chosen).encode()).hexdigest()[:16])


def quantise(model: openvino.Model, spec: ModelSpec, texts: CalibrationTexts) -> tuple[openvino.Model, dict[str, Any]]:
    """Quantise `model`, which is left as it is.

    Returns:
        The int8 model with the same inputs and outputs, and `calibration_cosine`: the smallest and the mean cosine to
        the vectors of `model` over the calibration texts.

    Raises:
        BackendUnavailable: nncf is missing, or fails.
        InvalidModel: the tokenizer cannot be loaded.
    """
    try:
        # Seconds and much memory, for those only who quantise.
        import nncf  # noqa: PLC0415
    except ImportError as exc:
        msg = f"dtype int8 needs {exc.name}, which is not installed; {_INSTALL}, or use float32"
        raise BackendUnavailable(msg) from exc
    # As the service does it, so that the ranges are those of the ids that will come.
    tokenizer = Tokenizer.from_folder(
        spec.folder, max_tokens=spec.max_tokens, embedding_rows=spec.vocabulary_size, spec=spec.tokenizer
    )
    encoded = tokenizer.encode(texts.lines, prompt=spec.default_prompt, truncate="end")
    rows = [each.ids[None].astype(np.int64) for each in encoded]
    _log.info("model %s is being quantised with %d calibration texts", spec.name, len(rows))
    # nncf's own way of saying so reaches the handlers of the process, and would silence its warnings.
    logging.getLogger("nncf").setLevel(logging.ERROR)
    names = [each.any_name for each in model.inputs]
    try:
        with _without_progress_bars():
            quantised: openvino.Model = nncf.quantize(
                model,
                nncf.Dataset(rows, lambda ids: arrays_of(names, ids, np.ones_like(ids))),
                model_type=nncf.ModelType.TRANSFORMER,
                subset_size=len(rows),
            )
    except Exception as exc:
        msg = f"nncf {nncf.__version__} cannot quantise the model {spec.name!r} ({one_line(exc)}); use float32"
        raise BackendUnavailable(msg) from exc
    cosines = _cosines(model, quantised, spec, rows)
    facts = {"smallest": round(float(cosines.min()), 4), "mean": round(float(cosines.mean()), 4)}
    return quantised, {"calibration_cosine": facts}


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    """They go to rich's own console, which is standard output: `emb-provider embed` writes vectors there."""
    console = rich.get_console()
    was, console.quiet = console.quiet, True
    try:
        yield
    finally:
        console.quiet = was


def _cosines(
    model: openvino.Model, quantised: openvino.Model, spec: ModelSpec, rows: Sequence[NDArray[np.int64]]
) -> NDArray[np.float32]:
    """Of each row's pooled vector before and after."""
    before, after = Compiled(model), Compiled(quantised)
    found = []
    for ids in rows:
        length, skip = np.array([ids.shape[1]]), np.array([0])
        states = (run(*arrays_of(run.inputs, ids, np.ones_like(ids))) for run in (before, after))
        a, b = (pool(np, each, length, skip, spec.dense.pooling)[0] for each in states)
        found.append(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
    return np.array(found, np.float32)
