"""All that is known of a model without loading its weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from attrs import Factory, field, frozen

from provider.domain.task_specs import DenseTask, ScoreTask, TaskSpec

T = TypeVar("T")


@frozen
class QueryInput:
    """How queries become token ids, for models that treat them differently from documents.

    Attributes:
        max_tokens: most tokens of a query; None for the model's own limit.
        fill_to: tokens that shorter queries are filled up to (query expansion); 0 for no filling.
        fill_token: the token that they are filled with.
        attends_to_filling: whether the other tokens see the filling.
    """

    max_tokens: int | None = None
    fill_to: int = 0
    fill_token: str = ""
    attends_to_filling: bool = False


@frozen
class TokenizerSpec:
    """How a model's texts become token ids.

    Attributes:
        stands_alone: whether `tokenizer.json` says all; if not, transformers' class builds the tokenizer.
        adds_special_tokens: whether they stand around a text.
        lowercase: whether texts are lower-cased first, by sentence-transformers' `do_lower_case`.
        arguments: keyword arguments for transformers' class.
        ids: the largest token id plus one; None where it is known after loading only.
        type_ids: whether the tokenizer gives a pair's segments; None where it is known after loading only.
        markers: texts that stand before queries and documents and are one token each, where the vocabulary has them.
        queries: how queries become token ids, where that differs; None where they are as documents.
        document_tokens: most tokens of an input that is said to be a document; None for the model's own limit.
        cuts_start: whether it cuts texts that are too long at their start, where nothing else is asked for.
    """

    stands_alone: bool = True
    adds_special_tokens: bool = field(default=True, kw_only=True)
    lowercase: bool = False
    arguments: Mapping[str, Any] = field(factory=dict)
    ids: int | None = None
    type_ids: bool | None = None
    markers: tuple[str, ...] = ()
    queries: QueryInput | None = None
    document_tokens: int | None = None
    cuts_start: bool = False


@frozen
class ModelSpec:
    """All that is known of a model without loading its weights.

    Attributes:
        name: the configured name.
        folder: the local folder with configuration, tokenizer and weights.
        root: the whole model's folder, if `folder` is a sub-folder.
        architecture: the transformers class named in `config.json`, or its model type.
        hidden_size: width of the hidden states.
        max_tokens: most tokens of an input, special tokens included.
        max_positions: most tokens the model has positions for; None: no limit.
        fingerprint: digest of the files that decide an output: weights, tokenizer, pipeline.
        tasks: what the model does, the main task first; each gives one output.
        prompts: name to text, from `config_sentence_transformers.json`.
        recipe: prompts of the model's card that its files lack; used only by a name with a prompt's.
        default_prompt: the text put before inputs when a request chooses none.
        config: transformers' configuration, for models read as another class than they name; None: `config.json`.
        vocabulary_size: ids are below it; None: the configuration is silent.
        pad_id: the id that fills a rectangle, always masked.
        tokenizer: how texts become token ids.
        encoder: `transformer`; `layered`: with steps over each token, or scores of a pooled vector; `static`: a table
            whose mean is the vector.
        queries: the spec of queries, where other modules encode them (a Router), with equal dimensions; else None.
        default_role: with `queries`: the role of inputs without one; None: they are rejected.
        similarity: what outputs are compared by, as the files say: `cosine`, `dot` …
    """

    name: str
    folder: Path
    architecture: str
    hidden_size: int
    max_tokens: int
    max_positions: int | None
    fingerprint: str
    tasks: tuple[TaskSpec, ...]
    prompts: Mapping[str, str] = field(factory=dict)
    recipe: Mapping[str, str] = field(factory=dict)
    default_prompt: str = ""
    pad_id: int = 0
    vocabulary_size: int | None = None
    tokenizer: TokenizerSpec = field(factory=TokenizerSpec)
    config: Mapping[str, Any] | None = None
    encoder: Literal["transformer", "layered", "static"] = "transformer"
    queries: "ModelSpec | None" = None
    default_role: Literal["query", "document"] | None = None
    similarity: str | None = None
    root: Path = field(default=Factory(lambda self: self.folder, takes_self=True))

    def place_of(self, name: str) -> Path:
        """Where the model's copy in another format called `name` is, or would be: in `folder`, or else in `root`."""
        return next(
            (place / name for place in (self.folder, self.root) if (place / name).is_file()), self.folder / name
        )

    def names(self, pattern: str) -> list[str]:
        """Sorted names, as `place_of` takes them, of the files that match the `pattern` of `Path.glob`."""
        places = dict.fromkeys((self.folder, self.root))
        found = (path.relative_to(place) for place in places for path in place.glob(pattern) if path.is_file())
        return sorted({path.as_posix() for path in found})

    @property
    def task(self) -> TaskSpec:
        """The main task."""
        return self.tasks[0]

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of all outputs, the main task's first."""
        return tuple(task.output for task in self.tasks)

    @property
    def pooled(self) -> DenseTask | None:
        """How hidden states are pooled, and the steps around it; None where they are not."""
        scores = self.find(ScoreTask)
        return self.find(DenseTask) if scores is None else scores.layers

    def find(self, kind: type[T]) -> T | None:
        """The task of that kind, if the model has it."""
        return next((task for task in self.tasks if isinstance(task, kind)), None)

    @property
    def scores(self) -> ScoreTask:
        """The task that gives scores.

        Raises:
            LookupError: the model has no such task.
        """
        found = self.find(ScoreTask)
        if found is None:
            msg = f"the model {self.name!r} gives {', '.join(self.outputs)}, not scores"
            raise LookupError(msg)
        return found

    @property
    def dense(self) -> DenseTask:
        """The task that gives one vector a text.

        Raises:
            LookupError: the model has no such task.
        """
        found = self.find(DenseTask)
        if found is None:
            msg = f"the model {self.name!r} gives {', '.join(self.outputs)}, not dense vectors"
            raise LookupError(msg)
        return found
