"""Export, optimise and quantise a model with optimum. Run as a script, in the environment made for it.

It takes a JSON object: `model` (the model's folder), `output` (an empty folder), `task` (as optimum calls it),
`optimize` (a level or null) and `quantize` (an instruction set or null). Lines that start with `step: ` or `error: `
are for the caller; everything else is the libraries' own chatter.
"""

import json
import sys
from pathlib import Path


def main(model: str, output: str, task: str, optimize: str | None, quantize: str | None) -> None:
    """Leave `model.onnx` in `output`, and beside it the quantised file if one is asked for."""
    print("step: loading optimum", flush=True)
    from optimum.exporters.onnx import main_export  # noqa: PLC0415 - takes seconds

    folder = Path(output)
    print("step: exporting the model", flush=True)
    main_export(
        model,
        output=folder,
        task=task,
        library_name="transformers",
        do_validation=False,
        local_files_only=True,
        trust_remote_code=False,
    )
    if not (folder / "model.onnx").is_file():
        found = ", ".join(sorted(path.name for path in folder.glob("*.onnx"))) or "nothing"
        msg = f"optimum writes {found} for this architecture; supported are encoders that become one graph"
        raise ValueError(msg)
    if quantize is not None:
        print(f"step: quantising to int8 for {quantize}", flush=True)
        _quantise(folder, quantize)
    if optimize is not None:
        print(f"step: optimising the graph ({optimize})", flush=True)
        _optimise(folder, task, optimize)


def _quantise(folder: Path, instructions: str) -> None:
    """Dynamic quantisation, one scale a column of the weights: with one a matrix, vectors drift too far.

    It takes the graph as exported: ONNX Runtime optimises the quantised one when it loads it.
    """
    from optimum.onnxruntime import ORTQuantizer  # noqa: PLC0415
    from optimum.onnxruntime.configuration import AutoQuantizationConfig  # noqa: PLC0415

    configuration = getattr(AutoQuantizationConfig, instructions)(
        is_static=False, per_channel=True, nodes_to_exclude=_narrowing(folder / "model.onnx")
    )
    suffix = f"{configuration.weights_dtype.name.lower()}_{instructions}"
    ORTQuantizer.from_pretrained(folder, file_name="model.onnx").quantize(
        configuration, save_dir=folder, file_suffix=suffix
    )


def _narrowing(path: Path) -> list[str]:
    """The names of the layers with more inputs than outputs, which stay as they are.

    In a feed-forward block they take what comes out of the activation function: a few large values there set the scale
    of the whole batch, and leave few of the 256 steps for the others.
    """
    import onnx  # noqa: PLC0415

    graph = onnx.load(path, load_external_data=False).graph
    shapes = {weights.name: tuple(weights.dims) for weights in graph.initializer}
    products = [(node.name, shapes.get(node.input[1], ())) for node in graph.node if node.op_type == "MatMul"]
    return [name for name, shape in products if len(shape) == 2 and shape[0] > shape[1]]


def _optimise(folder: Path, task: str, level: str) -> None:
    from optimum import onnxruntime as optimum  # noqa: PLC0415
    from optimum.onnxruntime import ORTOptimizer  # noqa: PLC0415
    from optimum.onnxruntime.configuration import AutoOptimizationConfig  # noqa: PLC0415

    kinds = {
        "feature-extraction": optimum.ORTModelForFeatureExtraction,
        "text-classification": optimum.ORTModelForSequenceClassification,
    }
    loaded = kinds[task].from_pretrained(folder, file_name="model.onnx", local_files_only=True)
    configuration = getattr(AutoOptimizationConfig, level)()
    ORTOptimizer.from_pretrained(loaded).optimize(configuration, save_dir=folder, file_suffix=level)
    (folder / f"model_{level}.onnx").replace(folder / "model.onnx")
    if (data := folder / f"model_{level}.onnx.data").exists():
        msg = f"the optimised graph keeps weights in {data.name}, which cannot be renamed; export without --optimize"
        raise ValueError(msg)


if __name__ == "__main__":
    try:
        main(**json.loads(sys.argv[1]))
    except Exception as exc:  # noqa: BLE001 - whatever fails is one line for the user
        print(f"error: {type(exc).__name__}: {' '.join(str(exc).split())[:400]}", flush=True)
        sys.exit(1)
