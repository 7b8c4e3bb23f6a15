"""Memory stays where it is, whatever the lengths of texts and the shapes of batches."""

import asyncio
import random
from pathlib import Path

import httpx
import pytest
from processes import clean_environment, running
from soak import resident_mib
from waiting import PATIENCE_SECONDS

MODEL = "model"
WORDS = ("the", "cat", "sat", "on", "a", "mat")
REQUESTS, CALLERS = 2400, 16


async def send(url: str, requests: int, seed: int) -> None:
    """As many requests of one to three texts of one to 60 words, by several callers at a time."""
    chance = random.Random(seed)
    left = iter(range(requests))
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:

        async def caller() -> None:
            for _ in left:
                lengths = [int(60 ** chance.random()) for _ in range(chance.randint(1, 3))]
                texts = [" ".join(chance.choices(WORDS, k=length)) for length in lengths]
                answer = await client.post("/v1/embeddings", json={"model": MODEL, "input": texts})
                assert answer.status_code == 200, answer.text
                assert len(answer.json()["data"]) == len(texts)

        await asyncio.gather(*(caller() for _ in range(CALLERS)))


@pytest.mark.slow
def test_thousands_of_varied_requests_add_next_to_nothing_to_memory(minilm: Path) -> None:
    environment = clean_environment(EMB_PROVIDER_CACHE_ENABLED="false")
    with running(["--model", str(minilm)], env=environment) as server:
        server.wait_until_ready()
        asyncio.run(send(server.url, REQUESTS // 2, 1))
        before = resident_mib(server.process.pid)
        asyncio.run(send(server.url, REQUESTS // 2, 2))
        after = resident_mib(server.process.pid)
    assert after <= 1.03 * before, f"{before:.0f} MiB, then {after:.0f} MiB"
    assert after <= 650
