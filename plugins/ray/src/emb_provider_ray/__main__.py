"""`python -m emb_provider_ray`."""

from emb_provider_ray.cli import main

main()
