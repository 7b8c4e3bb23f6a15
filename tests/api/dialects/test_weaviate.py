"""The API of Weaviate's modules for local models over HTTP."""

from pathlib import Path
from typing import Any

from provider.settings import AuthSettings, ModelSettings
from provider.testing.tiny import tiny_classifier

TEXTS = ["the cat", "the dog"]
LONG = "word " * 600
# As its Go client writes it.
CONFIG = {"pooling_strategy": "masked_mean", "task_type": "passage"}


async def vectors(client: Any, **body: Any) -> Any:
    answer = (await client.post("/v1/embeddings", json={"model": "org/model", "input": TEXTS} | body)).json()
    return [each["embedding"] for each in answer["data"]]


async def post(client: Any, path: str = "/vectors", status: int = 200, **body: Any) -> Any:
    response = await client.post(path, json=body)
    assert response.status_code == status, response.text
    return response.json()


async def test_one_text_or_many_have_the_vectors_of_v1(client: Any) -> None:
    expected = await vectors(client)
    one = await post(client, text=TEXTS[0], config=CONFIG)
    assert one == {"text": TEXTS[0], "vector": expected[0], "dims": 384}
    assert await post(client, "/vectors/", texts=TEXTS) == {"texts": TEXTS, "vectors": expected, "dims": 384}
    cut = await post(client, texts=TEXTS, config={"dimensions": 5})
    assert cut["vectors"] == await vectors(client, dimensions=5)


async def test_the_task_type_chooses_the_models_prompt(open_app: Any, model: ModelSettings) -> None:
    prompted = ModelSettings(
        name="org/model", path=model.path, backend="fake", lanes=1, prompts={"query": "q: ", "document": "d: "}
    )
    async with open_app(model=prompted) as client:
        for task_type, prompt in (("query", "q: "), ("passage", "d: ")):
            found = await post(client, text="the cat", config={"task_type": task_type})
            assert [found["vector"]] == await vectors(client, input=f"{prompt}the cat")


async def test_what_is_too_long_is_cut_and_that_is_told(client: Any) -> None:
    response = await client.post("/vectors", json={"text": LONG})
    assert response.headers["x-truncated-inputs"] == "1"
    assert [response.json()["vector"]] == await vectors(client, input=LONG, truncate="END")


async def test_what_cannot_be_honoured_is_refused(client: Any) -> None:
    wrong: list[dict[str, Any]] = [
        {},
        {"text": ""},
        {"texts": []},
        {"texts": ["a", ""]},
        {"text": "a", "texts": ["a"]},
        {"text": "a", "config": {"pooling_strategy": "cls"}},
        {"text": "a", "config": {"pooling_strategy": "max"}},
        {"text": "a", "config": {"task_type": "clustering"}},
        {"text": "a", "config": {"dimensions": 5000}},
    ]
    for body in wrong:
        assert list(await post(client, status=400, **body)) == ["error"]


async def test_documents_are_scored_in_their_order(open_app: Any, tmp_path: Path) -> None:
    reranker = ModelSettings(
        name="reranker", path=str(tiny_classifier(tmp_path / "reranker", "bert")), backend="fake", lanes=1
    )
    async with open_app(model=reranker) as client:
        body = {"query": "cat", "documents": TEXTS}
        ranked = await post(client, "/v1/rerank", model="reranker", **body)
        found = await post(client, "/rerank", property="content", **body)
        scores = {TEXTS[each["index"]]: each["relevance_score"] for each in ranked["results"]}
        assert found == {"query": "cat", "scores": [{"document": text, "score": scores[text]} for text in TEXTS]}
        assert list(await post(client, "/rerank", 400, property="content", query="cat", documents=[])) == ["error"]


async def test_weaviate_starts_when_the_models_work(open_app: Any) -> None:
    async with open_app(wait=False) as client:
        assert (await client.get("/.well-known/live")).status_code == 204
        assert (await client.get("/.well-known/ready")).status_code == 503
        await client.app.state.service.runtimes["org/model"].start_loading()
        assert (await client.get("/.well-known/ready")).status_code == 204
        assert (await client.get("/meta")).json() == {"model": "org/model", "architecture": "BertModel", "dims": 384}


async def test_keys_protect_what_runs_a_model(open_app: Any) -> None:
    async with open_app(auth=AuthSettings(keys=["secret"])) as client:
        assert (await post(client, status=401, text="a"))["error"]
        assert (await client.get("/meta")).status_code == 401
