"""What a supervisor and its workers say to each other.

First an `Assignment`, later the reason to end; back come news, and the error that ends the worker, if there is one.
"""

import signal
from typing import Literal

from attrs import frozen

from provider.domain import Worker
from provider.settings import Settings


@frozen
class Loaded:
    """News: every eager model has loaded or failed. `models` names all models but those that failed."""

    models: tuple[str, ...]


News = Literal["listening", "leaving"] | Loaded
"""`listening`: requests are answered. `leaving`: hand over no more connections. And `Loaded`."""

TERMINAL_SIGNALS = {signal.SIGINT, signal.SIGHUP}
"""Signals that a terminal sends to every process of its group. Workers ignore them; the supervisor gives the orders."""


@frozen
class Assignment:
    """What a worker is told first.

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
