"""The settings of one model."""

from pathlib import Path
from typing import Any, Literal

from attrs import frozen

from provider.domain import Truncation
from provider.settings.declaration import option

DEFAULT_MODEL = "all-MiniLM-L12-v2"
"""The model of those who name none and have no packaged one."""


@frozen
class ModelSettings:
    """One model: what it is called, where it comes from, and how it runs."""

    name: str | None = option(
        None,
        "name that clients ask for; without it the name of `path`'s folder, else the packaged model if installed, else "
        f"{DEFAULT_MODEL}",
    )
    path: str | None = option(
        None, "folder of the model, or package:NAME/FOLDER for a folder inside an installed package", path=True
    )
    repo: str | None = option(
        None, "Hugging Face repository, if not `name` itself (a bare name means sentence-transformers/NAME)"
    )
    revision: str | None = option(None, "branch, tag or commit of the repository; a full commit hash pins it")
    aliases: list[str] = option([], "more names that mean this model")
    task: str | None = option(
        None, "sparse for a masked language model without modules.json, or a plugin's task; none: what its files say"
    )
    backend: str = option(
        "torch",
        "backend to run on: one that `emb-provider backends` lists, or auto, on a CPU the fastest of those that give "
        "what torch gives, measured at the first start",
        env="BACKEND",
    )
    device: str = option("auto", "auto, cpu, cuda, cuda:N or mps", env="DEVICE")
    dtype: str = option(
        "auto", "auto, float32, bfloat16, float16 or int8 (CPU); auto is float32 on CPU, half on GPU", env="DTYPE"
    )
    options: dict[str, Any] = option({}, "the backend's own options, by name")
    convert_weights: bool = option(
        False, "convert weights that are pickled only (pytorch_model.bin) to safetensors, once, without running code"
    )
    lazy: bool = option(False, "load on first use instead of at start")
    idle_unload_seconds: int | None = option(
        None, "seconds without a request after which a lazy model is unloaded; none: never", least=1
    )
    pinned: bool = option(False, "whether a lazy model, once loaded, is never unloaded")
    lanes: int | None = option(None, "threads that run forward passes at the same time; none: by core count", least=1)
    threads_per_lane: int | None = option(None, "CPU threads of one forward pass; none: cores / lanes", least=1)
    max_batch_size: int = option(
        32, "most rows in one forward pass; a request may hold more, it is split", env="MAX_BATCH_SIZE", least=1
    )
    max_batch_tokens: int | None = option(
        None, "most tokens in one forward pass (a longer single input still runs); none: the backend's own", least=1
    )
    tune: bool = option(
        True,
        "whether lanes, threads and tokens of a batch not set are measured once, while it serves (CPU; at most 2 s)",
    )
    max_context_length: int | None = option(
        None,
        "most tokens of one input, never above what the model has positions for; "
        "none: 512, or the model's own max_seq_length where that is smaller",
        env="MAX_CONTEXT_LENGTH",
        least=3,
    )
    truncate: Truncation = option(
        "none",
        "what happens to longer inputs unless the request says: none (an error), start or end (what is cut off), or "
        "auto (what the model's files say)",
    )
    token_input: Literal["auto", "reject", "native", "cl100k"] = option(
        "auto",
        "token-id inputs: reject, native (ids of this model's own vocabulary, special tokens included), cl100k (ids of "
        "OpenAI's tokenizer, decoded to text), or auto: cl100k for requests that name an embedding model of OpenAI's "
        "(an alias), else reject",
    )
    verify_at_start: bool = option(
        False, "compare with the float32 reference before serving, and refuse to serve vectors that drift"
    )
    verify_min_cosine: float | None = option(
        None,
        "models of vectors: smallest cosine with the reference that is served; none: by dtype (verify.md)",
        least=0,
        most=1,
    )
    verify_max_score_difference: float | None = option(
        None,
        "models of scores: largest difference to the reference that is served; none: by dtype (verify.md)",
        least=0,
    )
    prompts: dict[str, str] | Literal["recipe"] = option(
        {},
        "texts to put before an input, by name; they win over the prompts in the model's files; or recipe: those that "
        "the model's card states (bge, e5, arctic-embed, mxbai)",
    )
    int8_ranges_file: str | None = option(
        None,
        "file (.npy) with the smallest and largest value of each dimension for int8 and uint8; none: measured at first "
        "use",
        path=True,
    )
    default_prompt: str | None = option(None, "name of the prompt for requests that choose none; none: the model's own")
    normalize: bool | None = option(
        None, "whether vectors have length 1 unless a request says otherwise; none: as the model's files say"
    )

    @property
    def served_name(self) -> str:
        """The name that clients ask for."""
        if self.name is not None:
            return self.name
        if self.path is not None:
            is_package = self.path.startswith("package:")
            return self.path.removeprefix("package:") if is_package else _folder_name(self.path)
        return self.repo or DEFAULT_MODEL

    @property
    def repository(self) -> str:
        """The Hugging Face repository, for models without a `path`."""
        repo = self.repo or self.served_name
        return repo if "/" in repo else f"sentence-transformers/{repo}"


def _folder_name(path: str) -> str:
    """The last part of a path, for `.` and `..` too; the path itself where there is none (`/`)."""
    return Path(path).name.strip(".") or Path(path).resolve().name or path
