"""`emb-provider embed` killed and continued; used by tests and by `scripts/bench-embed`."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
from attrs import frozen
from processes import PATIENCE_SECONDS
from pyarrow import parquet

DIMENSION = 384
COMMAND = [sys.executable, "-m", "provider", "embed"]
_ROWS = 50_000


def write_corpus(path: Path, count: int) -> None:
    """A Parquet file with so many short texts and a column beside them."""
    with parquet.ParquetWriter(path, pa.schema([("id", pa.int64()), ("text", pa.string())])) as file:
        for start in range(0, count, _ROWS):
            ids = range(start, min(start + _ROWS, count))
            texts = [f"how do I reset the password of account number {i}?" for i in ids]
            file.write_table(pa.table({"id": list(ids), "text": texts}))


def embed(arguments: Sequence[str], environment: Mapping[str, str], seconds: float = PATIENCE_SECONDS) -> str:
    """What a run says that must succeed."""
    done = subprocess.run(
        [*COMMAND, *arguments], env=dict(environment), capture_output=True, text=True, timeout=seconds, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def rows_done(folder: Path, shard_rows: int) -> int:
    """Rows that a run has kept so far in its folder of shards."""
    shards = {path.stem.removeprefix("part-") for path in folder.glob("part-*.parquet")}
    rows = shard_rows * len(shards)
    for path in folder.glob(".part/rows-*.npy"):
        # The rows of a shard stay for a moment after it is complete.
        if path.stem.removeprefix("rows-") not in shards:
            with suppress(FileNotFoundError):
                rows += max(0, path.stat().st_size - 128) // (4 * DIMENSION)
    return rows


def killed(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    folder: Path,
    shard_rows: int,
    rows: int,
    *,
    seconds: float = PATIENCE_SECONDS,
) -> int:
    """Rows that a run has kept which was killed when it had `rows`, or a few more."""
    with subprocess.Popen([*COMMAND, *arguments], env=dict(environment), stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + seconds
        while process.poll() is None and rows_done(folder, shard_rows) < rows:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE_SECONDS)
    return rows_done(folder, shard_rows)


@frozen
class KilledRun:
    """What became of a run that was killed.

    Attributes:
        done: rows that were kept at each kill.
        is_same: whether all columns of all shards are those of an uninterrupted run, and the vectors bit by bit.
        largest_difference: between two components of vectors.
        left: names in the folder at the end.
    """

    done: tuple[int, ...]
    is_same: bool
    largest_difference: float
    left: tuple[str, ...]


def run_killed(
    folder: Path,
    environment: Mapping[str, str],
    *,
    texts: int,
    shard_rows: int,
    kills: int,
    seed: int,
    model: Sequence[str] = (),
) -> KilledRun:
    """Embed twice, once with kills at random moments, and compare; `model` are options of the command."""
    corpus, whole, parts = folder / "corpus.parquet", folder / "whole", folder / "parts"
    write_corpus(corpus, texts)

    def arguments(output: Path) -> list[str]:
        return ["--file", str(corpus), "--output", f"{output}/", "--rows-per-shard", str(shard_rows), *model]

    seconds = PATIENCE_SECONDS + texts / 20
    embed(arguments(whole), environment, seconds)
    moments = sorted(random.Random(seed).sample(range(1, max(2, texts * 9 // 10)), kills))
    done = tuple(killed(arguments(parts), environment, parts, shard_rows, rows, seconds=seconds) for rows in moments)
    embed(arguments(parts), environment, seconds)
    is_same, largest = True, 0.0
    names = sorted(path.name for path in whole.iterdir())
    for name in names:
        one, other = (parquet.read_table(each / name) for each in (whole, parts))
        assert one.drop_columns(["embedding"]).equals(other.drop_columns(["embedding"]))
        vectors, others = (_vectors(each) for each in (one, other))
        largest = max(largest, float(np.abs(vectors - others).max()))
        is_same = is_same and bool((vectors == others).all())
    left = tuple(sorted(path.name for path in parts.iterdir()))
    assert list(left) == names
    return KilledRun(done, is_same, largest, left)


def _vectors(table: "pa.Table") -> np.ndarray:
    flat = table.column("embedding").combine_chunks().flatten()
    return flat.to_numpy().reshape(-1, DIMENSION)
