"""Widths and limits that a model's configuration says: hidden states, positions, tokens, padding."""

from pathlib import Path
from typing import Any

from provider.errors import InvalidModel
from provider.models.folder import positive

# Without an explicit limit no input is longer, whatever the model could take: memory grows with the length.
DEFAULT_MAX_TOKENS = 512

_HIDDEN_SIZE_KEYS = ("hidden_size", "d_model", "dim", "n_embd", "emb_dim")
POSITION_KEYS = ("max_position_embeddings", "n_positions")
# Positions are relative: `n_positions` in these configurations is the length they were trained with.
_RELATIVE = frozenset({"t5", "mt5", "umt5", "longt5", "switch_transformers", "xlnet"})
# Beyond some length it is drawn at random which blocks see each other; below, all do (`BigBirdModel.forward`).
_DRAWN = frozenset({"big_bird", "bigbird_pegasus"})
# Their first token has position pad_token_id + 1, so that the first rows of the table are never used
# (`create_position_ids_from_input_ids` in transformers' modeling files).
_POSITIONS_BEHIND_PAD = frozenset(
    {"roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "longformer"}
    | {"data2vec-text", "ibert", "luke", "xmod"}
)


def first(keys: tuple[str, ...], *sources: dict[str, Any]) -> Any:  # noqa: ANN401 - what the file holds
    """The first value that is there, of any of `keys`, in the order of `sources`."""
    return next((source[key] for source in sources for key in keys if source.get(key) is not None), None)


def read_hidden_size(folder: Path, config: dict[str, Any], text: dict[str, Any]) -> int:
    """Width of the hidden states.

    Raises:
        InvalidModel: the configuration names none.
    """
    found = first(_HIDDEN_SIZE_KEYS, text, config)
    if found is None:
        msg = f"{folder / 'config.json'} names no hidden size ({', '.join(_HIDDEN_SIZE_KEYS)}); it is no text encoder's"
        raise InvalidModel(msg)
    return positive(found, f"the hidden size in {folder / 'config.json'}")


def count_positions(model_type: str, config: dict[str, Any], found: object) -> int | None:
    """Most tokens of a row, of the positions that `config.json` or the weights say there are."""
    if model_type in _RELATIVE or isinstance(found, bool) or not isinstance(found, int) or found < 1:
        return None
    if model_type in _DRAWN and config.get("attention_type", "block_sparse") == "block_sparse":
        return min(found, int((5 + 2 * config.get("num_random_blocks", 3)) * config.get("block_size", 64)))
    if model_type not in _POSITIONS_BEHIND_PAD:
        return found
    pad = config.get("pad_token_id")
    return found - (pad if isinstance(pad, int) and model_type != "mpnet" else 1) - 1


def choose_max_tokens(asked: int | None, own: int | None, positions: int | None, notices: list[str]) -> int:
    """Most tokens of an input: as `asked`, else the model's `own` limit and its `positions`; notices are added."""
    if asked is None:
        return min(limit for limit in (DEFAULT_MAX_TOKENS, own, positions) if limit is not None)
    if positions is not None and asked > positions:
        notices.append(f"max_context_length is {asked}, but the model has positions for {positions}: {positions} it is")
        return positions
    return asked


def choose_pad_id(
    model_type: str, config: dict[str, Any], text: dict[str, Any], tokenizers_own: int | None, rows: int | None
) -> int:
    """The model's own padding token, else the tokenizer's, else 0: padding is masked, any id with a row does."""
    found = first(("pad_token_id",), config, text)
    if not isinstance(found, int) or found < 0:
        found = 1 if model_type in _POSITIONS_BEHIND_PAD else tokenizers_own or 0
    return found if rows is None or found < rows else 0
