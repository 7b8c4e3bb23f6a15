"""Ollama's API over HTTP."""

from datetime import datetime
from typing import Any

from provider.settings import AuthSettings, ModelSettings

MODEL = "org/model"
TEXTS = ["the cat", "the dog"]
LONG = "word " * 600
# What Open WebUI, LangChain and LlamaIndex send.
FULL = {"truncate": None, "keep_alive": "5m", "options": {"num_ctx": None, "mirostat": None, "temperature": 0.8}}


async def vectors(client: Any, **body: Any) -> list[list[float]]:
    answer = (await client.post("/v1/embeddings", json={"model": MODEL, "input": TEXTS} | body)).json()
    return [each["embedding"] for each in answer["data"]]


async def embed(client: Any, status: int = 200, path: str = "/api/embed", **body: Any) -> Any:
    response = await client.post(path, json={"model": MODEL} | body)
    assert response.status_code == status, response.text
    return response


async def test_texts_have_the_vectors_of_v1(client: Any) -> None:
    sent: list[dict[str, Any]] = [{}, FULL, {"dimensions": 5}, {"options": {"num_ctx": 8192}}]
    for more in sent:
        answer = (await embed(client, input=TEXTS, **more)).json()
        assert answer["embeddings"] == await vectors(client, dimensions=more.get("dimensions"))
        assert answer["model"] == MODEL
        assert answer["prompt_eval_count"] == 8
        assert all(isinstance(answer[name], int) for name in ("total_duration", "load_duration"))
        assert (await embed(client, input=TEXTS[0], **more)).json()["embeddings"] == answer["embeddings"][:1]


async def test_the_former_route_answers_one_vector(client: Any) -> None:
    answer = (await embed(client, path="/api/embeddings", prompt=TEXTS[0])).json()
    assert answer == {"embedding": (await vectors(client))[0]}


async def test_nothing_to_embed_gives_nothing(client: Any) -> None:
    for nothing in ({}, {"input": None}, {"input": []}, {"input": ""}):
        assert (await embed(client, **nothing)).json()["embeddings"] == []
    assert (await embed(client, path="/api/embeddings")).json() == {"embedding": []}


async def test_what_is_too_long_is_cut_and_that_is_told(client: Any) -> None:
    cut = await vectors(client, input=["a", LONG], truncate="END")
    response = await embed(client, input=["a", LONG])
    assert (response.json()["embeddings"], response.headers["x-truncated-inputs"]) == (cut, "1")
    response = await embed(client, path="/api/embeddings", prompt=LONG)
    assert (response.json()["embedding"], response.headers["x-truncated-inputs"]) == (cut[1], "1")


async def test_truncate_false_makes_it_an_error(client: Any) -> None:
    error = (await embed(client, 400, input=["a", LONG], truncate=False)).json()
    assert list(error) == ["error"]
    assert error["error"].startswith("Invalid 'input[1]': maximum input length is")


async def test_latest_is_taken_off_names_that_are_unknown_with_it(open_app: Any, model: ModelSettings) -> None:
    other = ModelSettings(name="a:latest", path=model.path, backend="fake", lanes=1)
    async with open_app(models=[other]) as client:
        for name in (f"{MODEL}:latest", "a:latest", MODEL):
            assert (await embed(client, model=name, input="x")).json()["model"] == name
        await embed(client, 404, model="a", input="x")


async def test_texts_under_the_other_routes_name_are_refused(client: Any) -> None:
    for path, other, own in (("/api/embed", "prompt", "input"), ("/api/embeddings", "input", "prompt")):
        response = await client.post(path, json={"model": MODEL, other: "a"})
        assert (response.status_code, f'"{own}"' in response.json()["error"]) == (400, True)


async def test_latest_is_no_prompt_of_a_model_that_is_yet_to_be_loaded(open_app: Any, model: ModelSettings) -> None:
    lazy = ModelSettings(name=MODEL, path=model.path, backend="fake", lanes=1, lazy=True)
    async with open_app(model=lazy, wait=False) as client:
        assert len((await embed(client, model=f"{MODEL}:latest", input="x")).json()["embeddings"]) == 1


async def test_an_unknown_model_is_told_in_ollamas_words(client: Any) -> None:
    for path in ("/api/embed", "/api/embeddings", "/api/show"):
        error = (await embed(client, 404, path=path, model="nope", input="x", prompt="x")).json()["error"]
        assert error.startswith('model "nope" not found, try pulling it first')
        assert MODEL in error


async def test_what_cannot_be_honoured_is_refused(client: Any) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"input": [1, 2]}, "input[0]"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": "a", "truncate": "END"}, "truncate"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "options": {"num_ctx": 2}}, "'options.num_ctx'"),
        ({"input": "a", "options": {"num_ctx": "8"}}, "num_ctx"),
        ({"input": "a", "images": ["x"]}, "images"),
    ]
    for body, words in wrong:
        error = (await embed(client, 400, **body)).json()
        assert list(error) == ["error"]
        assert words in error["error"]


async def test_models_are_listed_by_every_name(client: Any) -> None:
    names = [each["id"] for each in (await client.get("/v1/models")).json()["data"]]
    for path in ("/api/tags", "/api/ps"):
        models = (await client.get(path)).json()["models"]
        assert [each["model"] for each in models] == [f"{name}:latest" for name in names]
        assert all(each["name"] == each["model"] and each["size"] > 0 for each in models)
        assert {each["details"]["quantization_level"] for each in models} == {"F32"}
    assert datetime.fromisoformat((await client.get("/api/tags")).json()["models"][0]["modified_at"])
    assert (await client.get("/api/version")).json()["version"]


async def test_one_model_is_shown(client: Any) -> None:
    shown = (await client.post("/api/show", json={"model": MODEL})).json()
    assert (await client.post("/api/show", json={"name": f"{MODEL}:latest"})).json() == shown
    assert shown["capabilities"] == ["embedding"]
    information = {"general.architecture": "bert", "bert.context_length": 256, "bert.embedding_length": 384}
    assert shown["model_info"] == information
    assert shown["parameters"] == "num_ctx 256"


async def test_a_model_that_is_loading_is_listed_without_facts(open_app: Any) -> None:
    async with open_app(wait=False) as client:
        listed = (await client.get("/api/tags")).json()["models"]
        assert {each["size"] for each in listed} == {0}
        assert (await client.get("/api/ps")).json() == {"models": []}
        assert (await client.post("/api/show", json={"model": MODEL})).json()["model_info"] == {}


async def test_a_pull_of_what_is_here_succeeds_and_others_are_refused(client: Any) -> None:
    assert (await embed(client, path="/api/pull")).json() == {"status": "success"}
    assert MODEL in (await embed(client, 400, path="/api/pull", model="llama3")).json()["error"]


async def test_what_is_not_served_is_refused(client: Any) -> None:
    for path in ("/api/generate", "/api/chat", "/api/create", "/api/copy", "/api/push"):
        assert (await embed(client, 400, path=path)).json()["error"].startswith(f"{path} is not served")


async def test_its_clients_probe_the_root(client: Any) -> None:
    assert [(await client.request(method, "/")).status_code for method in ("GET", "HEAD")] == [200, 200]


async def test_keys_protect_it(open_app: Any) -> None:
    async with open_app(auth=AuthSettings(keys=["secret"])) as client:
        for method, path in (
            ("GET", "/api/tags"),
            ("POST", "/api/show"),
            ("POST", "/api/embed"),
            ("POST", "/api/chat"),
        ):
            response = await client.request(method, path, json={})
            assert (response.status_code, list(response.json())) == (401, ["error"])
