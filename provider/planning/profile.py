"""What serving one model on one machine costs, as measured: a JSON document that a simulation or a plan starts from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import msgspec

from provider.engine.limits import BatchLimits
from provider.errors import InvalidRequest


class PassCost(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds of a forward pass on one lane while the others are busy too.

    Attributes:
        each: of every pass.
        row: of every row.
        token: of every token, padding included where the backend pads.
        token_pair: of every pair of tokens of a row: attention.
    """

    each: float
    row: float
    token: float
    token_pair: float

    def seconds(self, lengths: Sequence[int], *, padding_is_free: bool) -> float:
        """Of a pass over rows of so many tokens each."""
        if not padding_is_free:
            lengths = [max(lengths)] * len(lengths)
        pairs = sum(length * length for length in lengths)
        return self.each + self.row * len(lengths) + self.token * sum(lengths) + self.token_pair * pairs

    def times(self, factor: float) -> "PassCost":
        """The costs of passes that take `factor` times as long."""
        return PassCost(*(factor * cost for cost in (self.each, self.row, self.token, self.token_pair)))


class RequestCost(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Processor seconds of one request beside its forward passes: parsing, tokenising, queueing, writing."""

    request: float
    text: float

    def seconds(self, texts: int) -> float:
        """Of a request with so many texts."""
        return self.request + self.text * texts


class CostProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The costs of one replica.

    Attributes:
        processor: its name, or the accelerator's.
        cores: that the replica has.
        model, backend, device, dtype: what it serves.
        lanes: forward passes at a time.
        threads: CPU threads of a pass.
        max_rows, max_tokens, padding_is_free: of a batch; see `BatchLimits`.
        forward: a forward pass.
        server: a request on the server's event loop.
        client: a request on the load generator's; where that shares the machine, it takes its cores.
        memory_bytes: resident memory of the loaded server.
        start_seconds: from the start of the process to readiness, with the model's files there.
        spread: of the time of a pass: standard deviation as a share of it.
        max_length: most tokens of a text; 0: not known.
    """

    processor: str
    cores: int
    model: str
    backend: str
    device: str
    dtype: str
    lanes: int
    threads: int
    max_rows: int
    max_tokens: int
    padding_is_free: bool
    forward: PassCost
    server: RequestCost
    client: RequestCost
    memory_bytes: int
    start_seconds: float
    spread: float = 0.0
    max_length: int = 0

    @property
    def limits(self) -> BatchLimits:
        """Of a batch."""
        return BatchLimits(self.max_rows, self.max_tokens, padding_is_free=self.padding_is_free)

    @property
    def is_cpu(self) -> bool:
        """Whether forward passes take the cores that the event loop runs on."""
        return self.device == "cpu"

    def pass_seconds(self, lengths: Sequence[int]) -> float:
        """Of a pass over rows of so many tokens each."""
        return self.forward.seconds(lengths, padding_is_free=self.padding_is_free)

    @classmethod
    def read(cls, path: Path) -> Self:
        """The profile in a file that `write` wrote.

        Raises:
            InvalidRequest: it cannot be read, or is none.
        """
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except OSError as exc:
            msg = f"cannot read {path}: {exc.strerror}"
            raise InvalidRequest(msg) from exc
        except msgspec.MsgspecError as exc:
            msg = f"{path} is no cost profile ({exc}); emb-provider plan --save {path} makes one"
            raise InvalidRequest(msg) from exc

    def write(self, path: Path) -> None:
        """Write it to a file.

        Raises:
            InvalidRequest: it cannot be written.
        """
        try:
            path.write_bytes(msgspec.json.format(msgspec.json.encode(self)) + b"\n")
        except OSError as exc:
            msg = f"cannot write {path}: {exc.strerror}"
            raise InvalidRequest(msg) from exc
