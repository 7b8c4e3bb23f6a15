"""Standard streams that exist, and speak UTF-8 in every locale."""

import os
import sys


def prepare_streams() -> None:
    """Make standard streams usable: call it first.

    A stream that was closed (`2>&-`) would leave its number to the next file or socket that is opened, into which
    libraries would write. Input is empty then, messages are dropped, and writing results fails as it does elsewhere.
    """
    for number, name, flags in ((0, "stdin", os.O_RDONLY), (1, "stdout", os.O_RDONLY), (2, "stderr", os.O_WRONLY)):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, flags)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", encoding="utf-8"))
    for stream, errors in ((sys.stdout, "strict"), (sys.stderr, "backslashreplace")):
        # pytest and notebooks put in others.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors=errors)


def drop_results() -> None:
    """Forget what standard output still holds: Python would try to write it at its end, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
