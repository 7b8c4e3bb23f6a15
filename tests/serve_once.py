"""Stands for `emb-provider serve` where a page shows it: starts the server on a free port and ends once it is ready."""

import os
import sys

from processes import running

if __name__ == "__main__":
    with running([*sys.argv[1:], "--port", "0"], env=os.environ) as server:
        server.wait_until_ready()
