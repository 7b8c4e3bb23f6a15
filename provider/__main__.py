"""`python -m provider` is `emb-provider`."""

from provider.cli import main

if __name__ == "__main__":
    main()
