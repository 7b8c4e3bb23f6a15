"""The files of an output: one, or shards of Parquet in a folder."""

import re
from pathlib import Path

from attrs import frozen

from provider.errors import InvalidRequest

DEFAULT_SHARD_ROWS = 100_000
"""Rows of a shard."""


@frozen
class Layout:
    """Where the rows of an output go.

    Attributes:
        output: a file or a folder, as it was named.
        shard_rows: rows of each file in the folder; None for one file.
    """

    output: Path
    shard_rows: int | None = None

    @property
    def _target(self) -> Path:
        """What a link points to is replaced, not the link."""
        return self.output.resolve()

    @property
    def part(self) -> Path:
        """The folder of what is not complete. Readers of the output's folder pass by names with a dot."""
        return (
            self._target.with_name(f".{self._target.name}.part") if self.shard_rows is None else self._target / ".part"
        )

    @property
    def makes_folder(self) -> bool:
        """Whether the output's own folder is to be made."""
        return self.shard_rows is not None and not self._target.exists()

    def file(self, number: int) -> Path:
        """The file of that number, from 0."""
        return self._target if self.shard_rows is None else self._target / f"part-{number:05}.parquet"

    def files(self, total: int) -> int:
        """How many files so many rows make."""
        return 1 if self.shard_rows is None else -(-total // self.shard_rows)

    def rows(self, number: int, total: int) -> int:
        """Rows of that file, of `total`."""
        return total if self.shard_rows is None else min(self.shard_rows, total - number * self.shard_rows)

    def shards(self) -> list[Path]:
        """The shards that are there, in order.

        Raises:
            InvalidRequest: the folder holds Parquet files of other names, which its readers would take for shards.
        """
        if self.shard_rows is None:
            return []
        found = [path for path in self._target.glob("*.parquet") if not path.name.startswith((".", "_"))]
        for path in found:
            if not re.fullmatch(r"part-\d{5,}\.parquet", path.name):
                msg = f"{self.output} holds {path.name}, which is no shard; choose another folder, or move the file"
                raise InvalidRequest(msg)
        return sorted(found, key=lambda path: (len(path.name), path.name))
