"""What a setting is: a field of an attrs class that says all about itself."""

from typing import Any

from attrs import field


def option(
    default: Any,  # noqa: ANN401 - as the annotation beside the field says
    meaning: str,
    *,
    env: str | None = None,
    least: int | None = None,
    most: int | None = None,
    secret: bool = False,
    path: bool = False,
) -> Any:  # noqa: ANN401 - an attrs field; its type is the annotation beside it
    """A setting: its default, what it means (with the unit), and what is allowed beyond its type.

    Args:
        default: the value when nobody says otherwise.
        meaning: one sentence for `litestar.yaml`, the documentation and `emb-provider config`.
        env: a shorter environment variable than section and name, without the prefix.
        least: the smallest number allowed.
        most: the largest number allowed.
        secret: never shown.
        path: a file or folder: `~` at its start is the home folder.
    """
    metadata = {"meaning": meaning, "env": env, "least": least, "most": most, "secret": secret, "path": path}
    if isinstance(default, list | dict):
        return field(factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)
