"""Messages between a supervisor and its workers.

The supervisor sends an `Assignment`, then `Ping` again and again, `Reconfigure` at times, and at last
`End`. A worker sends events, and the
error that ends it, if there is one.
"""

import signal
from typing import Literal

from attrs import frozen

from provider.cores import Worker
from provider.settings import Settings


@frozen
class Ping:
    """To a worker: answer `alive` from the event loop."""


@frozen
class End:
    """To a worker: finish what was accepted, and end."""

    reason: str


@frozen
class Reconfigure:
    """To a worker: serve the models of other settings from now on."""

    settings: Settings


@frozen
class Loaded:
    """Event: every eager model has loaded or failed. `models` names all models but those that failed."""

    models: tuple[str, ...]


WorkerEvent = Literal["listening", "alive", "draining"] | Loaded
"""`listening`: requests are answered. `alive`: answers `Ping`. `draining`: hand over no more. And `Loaded`."""

TERMINAL_SIGNALS = {signal.SIGINT, signal.SIGHUP}
"""Signals that a terminal sends to every process of its group. Workers ignore them: the supervisor ends them."""


@frozen
class Assignment:
    """What a worker runs.

    Attributes:
        handover: file descriptor of the Unix socket through which connections come.
        all_loaded: file descriptor of a pipe, the same for all workers. Its other end is closed when all have loaded
            their models once, which they see at the same moment: readiness never goes from green back to red.
    """

    settings: Settings
    worker: Worker
    handover: int
    all_loaded: int
    show_progress: bool
