"""Where padding reaches real tokens, a text has one vector all the same, alone and among others, on every way in."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from provider.app import create_app
from provider.domain import EmbedRequest
from provider.settings import CacheSettings, ModelSettings, Settings
from provider.testing.tiny.folder import Tiny, write_folder
from provider.testing.tiny.vocabularies import wordpiece

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TOKENS = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True))
TEXTS = tuple("the cat sleeps and the dog eats " * (n // 3) + "a" * (n % 7 + 1) for n in range(14))

ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "FNet": ("equal_length", {}),
    "ConvBert": ("equal_length", {"embedding_size": 32, "head_ratio": 2, "conv_kernel_size": 3}),
    "Nystromformer": ("equal_length", {"num_landmarks": 8, "segment_means_seq_len": 8, "conv_kernel_size": 3}),
    "Bert": ("any", {}),
    "MegatronBert": ("any", {}),
}
"""Name of a family to what may share its batches, and to arguments of its configuration beside the sizes."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    import transformers

    tiny, made = Tiny(), {}
    for name, (_, more) in ARCHITECTURES.items():
        tokenizer = wordpiece(SPECIAL, before="[CLS]", after="[SEP]", unknown="[UNK]")
        sizes: dict[str, Any] = {"vocab_size": tokenizer.get_vocab_size(), "max_position_embeddings": tiny.positions}
        config = getattr(transformers, f"{name}Config")(**sizes, **tiny.sizes, **more)
        about = {**TOKENS, "tokenizer_class": "PreTrainedTokenizerFast"}
        made[name] = write_folder(
            tmp_path_factory.mktemp(name) / "model",
            tiny,
            getattr(transformers, f"{name}Model"),
            config,
            tokenizer=tokenizer,
            tokenizer_config=about,
        )
    return made


@pytest.mark.parametrize("name", ARCHITECTURES)
async def test_a_text_has_the_vector_of_sentence_transformers_alone_and_among_others(
    open_service: Any, folders: dict[str, Path], name: str
) -> None:
    from sentence_transformers import SentenceTransformer

    model = ModelSettings(name="m", path=str(folders[name]))
    async with open_service(Settings(model=model, cache=CacheSettings(enabled=False))) as service:
        loaded = service.runtimes["m"].loaded
        assert loaded is not None, service.runtimes["m"].failure
        assert loaded.neighbours.allowed == ARCHITECTURES[name][0]
        together = (await service.embed(EmbedRequest("m", TEXTS))).vectors
        apart = await asyncio.gather(*(service.embed(EmbedRequest("m", (text,))) for text in TEXTS))
        alone = [await service.embed(EmbedRequest("m", (text,))) for text in TEXTS]
    peer = SentenceTransformer(str(folders[name]), device="cpu", local_files_only=True)
    expected = peer.encode(list(TEXTS), batch_size=1, normalize_embeddings=True)
    for found in (together, *(np.concatenate([each.vectors for each in several]) for several in (apart, alone))):
        assert (found * expected).sum(axis=1).min() > 0.99999


async def test_the_api_says_so_and_answers_the_same(folders: dict[str, Path]) -> None:
    settings = Settings(model=ModelSettings(name="m", path=str(folders["FNet"])), cache=CacheSettings(enabled=False))
    app = create_app(settings)
    async with app.lifespan(), httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
        await app.state.service.runtimes["m"].start_loading()
        (entry,) = (await client.get("/v1/models")).json()["data"]
        assert entry["neighbours"] == "equal_length"

        async def ask(texts: list[str]) -> Any:
            answer = await client.post("/v1/embeddings", json={"model": "m", "input": texts})
            return [each["embedding"] for each in answer.json()["data"]]

        together = await ask(list(TEXTS))
        alone = [vector for text in TEXTS for vector in await ask([text])]
        np.testing.assert_allclose(together, alone, atol=1e-5)


@pytest.mark.slow
def test_so_does_the_command(folders: dict[str, Path]) -> None:
    def embed(texts: list[str]) -> Any:
        command = [sys.executable, "-m", "provider", "embed", "--model", str(folders["FNet"])]
        lines = "\n".join(json.dumps({"text": text}) for text in texts)
        done = subprocess.run(
            [*command, "--input-format", "jsonl"], input=lines, capture_output=True, text=True, check=True, timeout=120
        )
        return [json.loads(line)["embedding"] for line in done.stdout.splitlines()]

    together = embed(list(TEXTS))
    np.testing.assert_allclose(together[:1] + together[-1:], embed([TEXTS[0]]) + embed([TEXTS[-1]]), atol=1e-5)
