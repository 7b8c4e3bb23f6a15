"""The folder of a tiny model: weights, configuration, tokenizer, and the files of sentence-transformers."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from attrs import frozen

if TYPE_CHECKING:
    import tokenizers
    import transformers

CLASSES = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "Dense": "sentence_transformers.base.modules.dense.Dense",
    "Normalize": "sentence_transformers.base.modules.normalize.Normalize",
    "LayerNorm": "sentence_transformers.sentence_transformer.modules.layer_norm.LayerNorm",
    "StaticEmbedding": "sentence_transformers.sentence_transformer.modules.static_embedding.StaticEmbedding",
    "Router": "sentence_transformers.base.modules.router.Router",
}
"""Modules of sentence-transformers: name to class."""


class TinyOptions(TypedDict, total=False):
    """What can be said about a tiny model; see `Tiny`."""

    layers: int
    hidden: int
    max_seq_length: int | None
    positions: int
    plain: bool
    seed: int
    pooling: str | Sequence[str]
    include_prompt: bool
    dense: int | Sequence[int] | None
    activation: str
    bias: bool
    residual: bool
    layer_norm: bool
    normalize: bool
    prompts: Mapping[str, str] | None
    default_prompt_name: str | None


class Sizes(TypedDict):
    """Of a transformer."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int


@frozen
class Tiny:
    """How large a tiny model is, and what follows its transformer. A family has defaults of its own.

    Attributes:
        layers: transformer layers.
        hidden: width of the hidden states, a multiple of 8.
        max_seq_length: most tokens that sentence-transformers gives the model; None for what the tokenizer says.
        positions: most tokens that the model has positions for, and that its tokenizer gives.
        plain: write no sentence-transformers files, as transformers' `save_pretrained` does.
        seed: of the weights.
        pooling: a mode, or several that are concatenated.
        include_prompt: whether prompt tokens are pooled.
        dense: width of a dense layer after pooling, or of several; None for no such layer.
        activation: of the dense layers: the name of a class in torch.nn.
        bias: whether the dense layers have one.
        residual: whether their input is added to their output.
        layer_norm: whether a LayerNorm follows pooling.
        normalize: whether the pipeline ends with Normalize.
        prompts: name to text.
        default_prompt_name: the prompt for inputs that choose none.
    """

    layers: int = 2
    hidden: int = 32
    max_seq_length: int | None = 64
    positions: int = 128
    plain: bool = False
    seed: int = 0
    pooling: str | Sequence[str] = "mean"
    include_prompt: bool = True
    dense: int | Sequence[int] | None = None
    activation: str = "Tanh"
    bias: bool = True
    residual: bool = False
    layer_norm: bool = False
    normalize: bool = True
    prompts: Mapping[str, str] | None = None
    default_prompt_name: str | None = None

    @property
    def sizes(self) -> "Sizes":
        """The arguments by which most configurations of transformers take them."""
        return Sizes(
            hidden_size=self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=4,
            intermediate_size=2 * self.hidden,
        )


def write_folder(
    path: Path,
    tiny: Tiny,
    model_class: "type[transformers.PreTrainedModel]",
    config: "transformers.PretrainedConfig",
    *,
    tokenizer: "tokenizers.Tokenizer",
    tokenizer_config: Mapping[str, Any],
    architecture: str | None = None,
) -> Path:
    """Write everything.

    Args:
        path: the folder; made if need be.
        tiny: sizes, seed and pipeline.
        model_class: whose weights are written.
        config: its configuration.
        tokenizer: written as `tokenizer.json`.
        tokenizer_config: written beside it, with the limit of `tiny`.
        architecture: the class that `config.json` names, where it is not the one whose weights are written.

    Returns:
        `path`.
    """
    import torch  # noqa: PLC0415
    from safetensors.torch import save_file  # noqa: PLC0415

    path.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(tiny.seed)
        model = model_class(config).eval()
        # Random weights as initialised leave texts almost equal; wider ones tell them apart.
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0.0, 0.2)
    state = {name: value for name, value in model.state_dict().items() if "position_ids" not in name}
    # Tied weights are written once, as `save_pretrained` does.
    once = {value.data_ptr(): name for name, value in reversed(state.items())}
    save_file({name: state[name].contiguous() for name in once.values()}, path / "model.safetensors", {"format": "pt"})
    config.architectures = [architecture or model_class.__name__]
    config.save_pretrained(path)
    tokenizer.save(str(path / "tokenizer.json"))
    write_json(path / "tokenizer_config.json", {**tokenizer_config, "model_max_length": tiny.positions})
    if not tiny.plain:
        _write_pipeline(path, tiny)
    return path


def _write_pipeline(path: Path, tiny: Tiny) -> None:
    modes = [tiny.pooling] if isinstance(tiny.pooling, str) else list(tiny.pooling)
    pooling = {"embedding_dimension": tiny.hidden, "pooling_mode": modes[0] if len(modes) == 1 else modes}
    write_json(path / "1_Pooling" / "config.json", {**pooling, "include_prompt": tiny.include_prompt})
    widths = [] if tiny.dense is None else [tiny.dense] if isinstance(tiny.dense, int) else list(tiny.dense)
    taken = tiny.hidden * len(modes)
    steps = ["Transformer", "Pooling", *(["LayerNorm"] if tiny.layer_norm else [])]
    if tiny.layer_norm:
        _write_layer_norm(path / "2_LayerNorm", taken, seed=tiny.seed + 9)
    for i, given in enumerate(widths):
        _write_dense(path / f"{len(steps)}_Dense", taken, given, tiny, seed=tiny.seed + 1 + i)
        steps.append("Dense")
        taken = given
    write_modules(path, [*steps, *(["Normalize"] if tiny.normalize else [])])
    limit = {} if tiny.max_seq_length is None else {"max_seq_length": tiny.max_seq_length}
    write_json(path / "sentence_bert_config.json", {**limit, "do_lower_case": False})
    write_about(path, tiny.prompts, tiny.default_prompt_name)


def write_modules(path: Path, steps: Sequence[str]) -> None:
    """Write `modules.json` with the modules `steps`, by their names; the first one lies in the folder itself."""
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{step}" if i else "", "type": CLASSES[step]}
        for i, step in enumerate(steps)
    ]
    write_json(path / "modules.json", modules)


def write_about(path: Path, prompts: Mapping[str, str] | None = None, default_prompt_name: str | None = None) -> None:
    """Write `config_sentence_transformers.json`."""
    kind = {"model_type": "SentenceTransformer", "similarity_fn_name": "cosine"}
    about = {**kind, "prompts": dict(prompts or {}), "default_prompt_name": default_prompt_name}
    write_json(path / "config_sentence_transformers.json", about)


def _write_dense(folder: Path, taken: int, given: int, tiny: Tiny, *, seed: int) -> None:
    import torch  # noqa: PLC0415
    from safetensors.torch import save_file  # noqa: PLC0415

    shape = {"in_features": taken, "out_features": given, "bias": tiny.bias, "use_residual": tiny.residual}
    activation = "linear.Identity" if tiny.activation == "Identity" else f"activation.{tiny.activation}"
    write_json(folder / "config.json", {**shape, "activation_function": f"torch.nn.modules.{activation}"})
    random = torch.Generator().manual_seed(seed)
    layer = {"linear.weight": torch.randn(given, taken, generator=random) * taken**-0.5}
    if tiny.bias:
        layer["linear.bias"] = torch.randn(given, generator=random) * 0.1
    if tiny.activation == "PReLU":
        layer["activation_function.weight"] = torch.tensor([0.4])
    if tiny.residual and taken != given:
        layer["residual.weight"] = torch.randn(given, taken, generator=random) * taken**-0.5
    save_file(layer, folder / "model.safetensors", metadata={"format": "pt"})


def _write_layer_norm(folder: Path, width: int, *, seed: int) -> None:
    import torch  # noqa: PLC0415
    from safetensors.torch import save_file  # noqa: PLC0415

    write_json(folder / "config.json", {"dimension": width})
    random = torch.Generator().manual_seed(seed)
    layer = {"norm.weight": torch.randn(width, generator=random), "norm.bias": torch.randn(width, generator=random)}
    save_file(layer, folder / "model.safetensors", metadata={"format": "pt"})


def write_json(path: Path, document: Any) -> None:  # noqa: ANN401 - JSON
    """Write a JSON document, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2), encoding="utf-8")
