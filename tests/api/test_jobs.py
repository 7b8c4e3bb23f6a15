"""Files and batches: what is accepted, what is answered, and what becomes of jobs in every way that they can end."""

import asyncio
import io
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
from waiting import PATIENCE_SECONDS, until

from provider.settings import AuthSettings, JobSettings, ServerSettings

MODEL = "org/model"
ENDED = {"completed", "failed", "expired", "cancelled"}


def line(name: str, body: Mapping[str, Any] | None = None, url: str = "/v1/embeddings") -> str:
    body = {"model": MODEL, "input": f"text {name}"} if body is None else body
    return json.dumps({"custom_id": name, "method": "POST", "url": url, "body": body})


def lines(*names: str) -> str:
    return "".join(f"{line(name)}\n" for name in names)


async def upload(client: Any, content: str | bytes, **fields: str) -> Any:
    data = {"purpose": "batch"} | fields
    content = content.encode() if isinstance(content, str) else content
    return await client.post("/v1/files", files={"file": ("in.jsonl", io.BytesIO(content))}, data=data)


async def submit(client: Any, content: str | bytes, endpoint: str = "/v1/embeddings", **fields: Any) -> Any:
    file = (await upload(client, content)).json()
    body = {"input_file_id": file["id"], "endpoint": endpoint, "completion_window": "24h"} | fields
    response = await client.post("/v1/batches", json=body)
    assert response.status_code == 200, response.text
    return response.json()


async def when(client: Any, batch: Mapping[str, Any], holds: Callable[[Any], object]) -> Any:
    """The batch as soon as it is so."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            found = (await client.get(f"/v1/batches/{batch['id']}")).json()
            if holds(found):
                return found
            await asyncio.sleep(0.01)


async def ended(client: Any, batch: Mapping[str, Any]) -> Any:
    return await when(client, batch, lambda found: found["status"] in ENDED)


async def content(client: Any, file_id: str | None) -> list[Any]:
    """The lines of a file; none of a file that there is not."""
    if file_id is None:
        return []
    response = await client.get(f"/v1/files/{file_id}/content")
    assert response.status_code == 200
    return [json.loads(each) for each in response.text.splitlines()]


async def results(client: Any, batch: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    return await content(client, batch["output_file_id"]), await content(client, batch["error_file_id"])


@asynccontextmanager
async def slow_app(open_app: Any, **settings: Any) -> AsyncIterator[Any]:
    """An application whose forward passes take 50 ms."""
    async with open_app(**settings) as client:
        backend = client.app.state.service.runtimes[MODEL].loaded.backend
        backend.before_run = lambda _: time.sleep(0.05)
        yield client


@pytest.fixture
def jobs(tmp_path: Path) -> JobSettings:
    return JobSettings(folder=str(tmp_path / "jobs"))


@pytest.fixture
async def client(open_app: Any, jobs: JobSettings) -> AsyncIterator[Any]:
    async with open_app(jobs=jobs) as opened:
        yield opened


async def test_a_batch_answers_as_the_route_does_and_lists_what_failed(client: Any) -> None:
    wrong = line("b", {"model": MODEL, "input": []})
    batch = await ended(client, await submit(client, f"{line('a')}\r\n\n{wrong}\n{line('c')}", metadata={"k": "v"}))
    assert (batch["status"], batch["request_counts"]) == ("completed", {"total": 3, "completed": 2, "failed": 1})
    assert (batch["metadata"], batch["errors"], batch["pause"]) == ({"k": "v"}, None, None)
    output, errors = await results(client, batch)
    direct = (await client.post("/v1/embeddings", json={"model": MODEL, "input": "text a"})).json()
    assert output[0]["custom_id"] == "a"
    assert (output[0]["response"]["status_code"], output[0]["error"]) == (200, None)
    assert output[0]["response"]["body"] == direct
    assert [each["custom_id"] for each in output] == ["a", "c"]
    refused = await client.post("/v1/embeddings", json={"model": MODEL, "input": []})
    assert [(each["custom_id"], each["response"]["status_code"]) for each in errors] == [("b", 400)]
    assert errors[0]["response"]["body"] == refused.json()
    assert batch["usage"]["total_tokens"] == sum(each["response"]["body"]["usage"]["total_tokens"] for each in output)
    times = [batch[f"{name}_at"] for name in ("created", "in_progress", "finalizing", "completed")]
    assert times == sorted(times)
    assert all(batch[f"{name}_at"] is None for name in ("failed", "expired", "cancelling", "cancelled"))


async def test_rerank_score_and_classify_are_answered_with_their_own_errors(
    open_app: Any, jobs: JobSettings, minilm: Path
) -> None:
    bodies = {
        "/v1/rerank": {"model": MODEL, "query": "q", "documents": ["a", "b"]},
        "/v1/score": {"model": MODEL, "text_1": "q", "text_2": ["a"]},
        "/v1/classify": {"model": MODEL, "input": ["a"]},
    }
    async with open_app(jobs=jobs) as client:
        for endpoint, body in bodies.items():
            batch = await ended(client, await submit(client, line("a", body, endpoint), endpoint))
            _, (error,) = await results(client, batch)
            direct = await client.post(endpoint, json=body)
            assert (error["response"]["status_code"], error["response"]["body"]) == (400, direct.json())


async def test_lines_that_are_merged_are_answered_as_if_they_were_alone(client: Any) -> None:
    bodies: list[dict[str, Any]] = [{"model": MODEL, "input": f"text {i}"} for i in range(40)]
    bodies += [
        {"model": MODEL, "input": ["two", "texts"], "encoding_format": "base64"},
        {"model": "text-embedding-3-small", "input": "by its alias"},
        {"model": MODEL, "input": "short", "dimensions": 4},
        {"model": MODEL, "input": "long " * 400, "truncate": True},
        {"model": MODEL, "input": ["fits", "long " * 400], "truncate": True},
        {"model": MODEL, "input": "behind what was cut", "truncate": True},
        {"model": MODEL, "input": ["x"] * 100},
        {"model": MODEL, "input": "numbers", "output_dtype": "binary"},
        {"model": MODEL, "input": "after them"},
    ]
    content = "\n".join(line(f"n{i}", body) for i, body in enumerate(bodies))
    output, errors = await results(client, await ended(client, await submit(client, content)))
    assert errors == []
    for body, each in zip(bodies, output, strict=True):
        direct = await client.post("/v1/embeddings", json=body)
        assert (each["response"]["status_code"], each["response"]["body"]) == (200, direct.json())


async def test_lines_in_a_row_are_tokenised_and_run_together(client: Any) -> None:
    def tokenised(text: str) -> float:
        name = 'emb_provider_tokenise_seconds_count{model="org/model"}'
        return float(next(each for each in text.splitlines() if each.startswith(name)).split()[-1])

    before = tokenised((await client.get("/metrics")).text)
    batch = await ended(client, await submit(client, lines(*map(str, range(64)))))
    assert batch["request_counts"]["completed"] == 64
    metrics = (await client.get("/metrics")).text
    assert tokenised(metrics) - before <= 8
    assert 'emb_provider_job_requests_total{endpoint="/v1/embeddings",model="org/model",status="200"} 64.0' in metrics


async def test_a_line_that_fails_fails_alone(client: Any) -> None:
    bodies = [{"model": MODEL, "input": f"text {i}"} for i in range(32)]
    bodies[5] = {"model": MODEL, "input": "long " * 400}
    bodies[9] = {"model": MODEL, "input": ""}
    content = "\n".join(line(f"n{i}", body) for i, body in enumerate(bodies))
    output, errors = await results(client, await ended(client, await submit(client, content)))
    assert [each["custom_id"] for each in errors] == ["n5", "n9"]
    for each, index in zip(errors, (5, 9), strict=True):
        direct = await client.post("/v1/embeddings", json=bodies[index])
        assert (each["response"]["status_code"], each["response"]["body"]) == (400, direct.json())
    assert len(output) == 30


async def test_a_model_that_fails_for_a_while_costs_no_line(open_app: Any, jobs: JobSettings) -> None:
    async with slow_app(open_app, jobs=jobs) as client:
        backend = client.app.state.service.runtimes[MODEL].loaded.backend
        names = [f"n{i}" for i in range(600)]
        batch = await submit(client, lines(*names))
        await when(client, batch, lambda found: found["request_counts"]["completed"])
        backend.before_run, backend.failing = (lambda _: None), True
        batch = await when(client, batch, lambda found: found["pause"] and found["pause"]["code"] == "embedding_failed")
        assert batch["status"] == "in_progress"
        backend.failing = False
        batch = await ended(client, batch)
        output, errors = await results(client, batch)
        assert ([each["custom_id"] for each in output], errors, batch["pause"]) == (names, [], None)


@pytest.mark.parametrize(
    ("text", "code", "number", "param"),
    [
        ("", "empty_file", None, None),
        ("\n\n", "empty_file", None, None),
        ("{", "invalid_json_line", 1, None),
        ("[1]", "invalid_json_line", 1, None),
        (f"{line('a')}\n\n{{}}", "missing_required_parameter", 3, "custom_id"),
        (line("a").replace('"body"', '"bdy"'), "missing_required_parameter", 1, "body"),
        (line("a").replace('"a"', "7"), "invalid_type", 1, "custom_id"),
        (line("a").replace('"POST"', '"GET"'), "invalid_method", 1, "method"),
        (line("a", url="/v1/score"), "invalid_url", 1, "url"),
        (line(""), "invalid_value", 1, "custom_id"),
        (
            json.dumps({"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": []}),
            "invalid_type",
            1,
            "body",
        ),
        (lines("a", "b", "a"), "duplicate_custom_id", 3, "custom_id"),
        (lines("a", "b", "c", "d", "e"), "too_many_requests", None, None),
        (line("x" * 3000), "line_too_long", 1, None),
    ],
)
async def test_a_wrong_file_fails_with_its_lines(
    open_app: Any, jobs: JobSettings, *, text: str, code: str, number: int | None, param: str | None
) -> None:
    server = ServerSettings(max_body_bytes=2048)
    async with open_app(jobs=attrs.evolve(jobs, max_requests=4), server=server) as client:
        batch = await ended(client, await submit(client, text))
        assert batch["status"] == "failed"
        (error,) = batch["errors"]["data"]
        assert (error["code"], error["line"], error["param"]) == (code, number, param)
        assert (batch["output_file_id"], batch["error_file_id"]) == (None, None)


async def test_a_file_of_wrong_lines_is_not_read_to_its_end(client: Any) -> None:
    batch = await ended(client, await submit(client, "{\n" * 1000))
    assert [each["line"] for each in batch["errors"]["data"]] == [*range(1, 101), None]
    assert batch["errors"]["data"][-1]["code"] == "too_many_errors"


async def test_cancelled_every_line_is_in_one_of_the_files(open_app: Any, jobs: JobSettings) -> None:
    async with slow_app(open_app, jobs=jobs) as client:
        names = [f"n{i}" for i in range(400)]
        batch = await submit(client, lines(*names))
        await when(client, batch, lambda found: found["request_counts"]["completed"])
        response = await client.post(f"/v1/batches/{batch['id']}/cancel")
        assert (response.status_code, response.json()["status"]) == (200, "cancelling")
        batch = await ended(client, batch)
        assert batch["status"] == "cancelled"
        output, errors = await results(client, batch)
        assert [each["custom_id"] for each in (*output, *errors)] == names
        assert batch["request_counts"] == {"total": 400, "completed": len(output), "failed": len(errors)}
        assert {each["error"]["code"] for each in errors} == {"batch_cancelled"}
        again = await client.post(f"/v1/batches/{batch['id']}/cancel")
        assert (again.status_code, again.json()["error"]["message"]) == (
            400,
            "Cannot cancel a batch with status 'cancelled'.",
        )


async def test_a_batch_whose_window_is_over_has_expired(open_app: Any, jobs: JobSettings) -> None:
    async with slow_app(open_app, jobs=jobs) as client:
        batch = await submit(client, lines(*map(str, range(4000))), completion_window="2s")
        batch = await ended(client, batch)
        output, errors = await results(client, batch)
        assert (batch["status"], len(output) + len(errors)) == ("expired", 4000)
        assert (batch["expires_at"], errors[-1]["response"]) == (batch["created_at"] + 2, None)
        assert errors[-1]["error"]["code"] == "batch_expired"


async def test_a_job_goes_on_where_the_process_before_left_it(open_app: Any, jobs: JobSettings) -> None:
    names = [f"n{i}" for i in range(600)]
    async with slow_app(open_app, jobs=jobs) as client:
        batch = await submit(client, lines(*names))
        half = await when(client, batch, lambda found: found["request_counts"]["completed"])
    assert half["status"] == "in_progress"
    # What a process that was killed had not said yet.
    for path in (Path(str(jobs.folder)) / "files").glob("*"):
        with path.open("ab") as file:
            file.write(b'{"id":"half a li') if path.stat().st_size and b"response" in path.read_bytes()[:200] else None
    async with open_app(jobs=jobs) as client:
        batch = await ended(client, batch)
        output, errors = await results(client, batch)
        assert ([each["custom_id"] for each in output], errors) == (names, [])


@pytest.mark.parametrize("which", ["input", "output"])
@pytest.mark.parametrize("size", [None, 100])
async def test_a_job_whose_file_is_removed_or_cut_fails_and_frees_its_input(
    open_app: Any, jobs: JobSettings, which: str, size: int | None
) -> None:
    async with slow_app(open_app, jobs=jobs) as client:
        batch = await submit(client, lines(*map(str, range(600))))
        half = await when(client, batch, lambda found: found["request_counts"]["completed"])
    for path in (Path(str(jobs.folder)) / "files").iterdir():
        if (path.name == batch["input_file_id"]) == (which == "input"):
            path.unlink() if size is None else os.truncate(path, size)
    async with open_app(jobs=jobs) as client:
        batch = await ended(client, batch)
        assert (batch["status"], batch["errors"]["data"][0]["code"]) == ("failed", f"{which}_lost")
        output, _ = await results(client, batch)
        if which == "input":
            assert len(output) == batch["request_counts"]["completed"] >= half["request_counts"]["completed"]
        else:
            assert output == []
        assert (await client.delete(f"/v1/files/{batch['input_file_id']}")).status_code == 200


async def test_a_job_that_the_quota_holds_up_can_be_cancelled(open_app: Any, jobs: JobSettings) -> None:
    content = lines(*map(str, range(600)))
    async with open_app(jobs=attrs.evolve(jobs, max_bytes=len(content) + 1000)) as client:
        batch = await submit(client, content)
        batch = await when(client, batch, lambda found: found["pause"])
        assert batch["pause"]["code"] == "storage_limit"
        assert (await client.post(f"/v1/batches/{batch['id']}/cancel")).status_code == 200
        batch = await ended(client, batch)
        output, errors = await results(client, batch)
        assert (batch["status"], len(output) + len(errors)) == ("cancelled", 600)
        assert (await client.delete(f"/v1/files/{batch['input_file_id']}")).status_code == 200


async def test_a_database_without_room_is_no_fault_of_ours(client: Any) -> None:
    file = (await upload(client, lines("a"))).json()
    connection = client.app.state["jobs"].database._connection
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")
    body = {"input_file_id": file["id"], "endpoint": "/v1/embeddings", "metadata": {"k" * 60: "v" * 500}}
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (refused := await client.post("/v1/batches", json=body)).status_code == 200:
            pass
    assert (refused.status_code, refused.json()["error"]["code"]) == (507, "storage_full")


async def test_another_key_sees_nothing(open_app: Any, jobs: JobSettings) -> None:
    keys = AuthSettings(keys={"a": "key-a", "b": "key-b"})
    async with open_app(jobs=jobs, auth=keys) as client:
        client.headers["authorization"] = "Bearer key-a"
        batch = await ended(client, await submit(client, lines("x")))
        client.headers["authorization"] = "Bearer key-b"
        for path in (
            f"/v1/batches/{batch['id']}",
            f"/v1/files/{batch['output_file_id']}",
            f"/v1/files/{batch['output_file_id']}/content",
            f"/v1/files?after={batch['input_file_id']}",
            f"/v1/batches?after={batch['id']}",
        ):
            response = await client.get(path)
            assert (response.status_code, response.json()["error"]["type"]) == (404, "invalid_request_error"), path
        assert (await client.post(f"/v1/batches/{batch['id']}/cancel")).status_code == 404
        assert (await client.delete(f"/v1/files/{batch['input_file_id']}")).status_code == 404
        taken = {"input_file_id": batch["input_file_id"], "endpoint": "/v1/embeddings"}
        assert (await client.post("/v1/batches", json=taken)).status_code == 404
        assert (await client.get("/v1/files")).json()["data"] == []
        assert (await client.get("/v1/batches")).json()["data"] == []
        client.headers["authorization"] = "Bearer key-c"
        assert (await client.get("/v1/batches")).status_code == 401


async def test_a_key_s_rights_and_quota_hold_for_its_jobs(open_app: Any, jobs: JobSettings) -> None:
    keys = AuthSettings(
        keys={"a": "key-a tasks=rerank", "b": "key-b models=none,org/other", "c": "key-c requests_per_minute=2"}
    )
    async with open_app(jobs=jobs, auth=keys) as client:
        client.headers["authorization"] = "Bearer key-a"
        file = (await upload(client, lines("x"))).json()
        refused = await client.post("/v1/batches", json={"input_file_id": file["id"], "endpoint": "/v1/embeddings"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "missing_scope")
        client.headers["authorization"] = "Bearer key-b"
        batch = await ended(client, await submit(client, lines("x")))
        _, (error,) = await results(client, batch)
        assert error["response"]["status_code"] == 403
        client.headers["authorization"] = "Bearer key-c"
        batch = await submit(client, lines(*map(str, range(5))))
        batch = await when(client, batch, lambda found: found["pause"])
        assert (batch["status"], batch["pause"]["code"]) == ("in_progress", "rate_limit")


async def test_jobs_that_are_paused_keep_no_other_key_s_jobs_out(open_app: Any, jobs: JobSettings) -> None:
    keys = AuthSettings(keys={"a": "key-a requests_per_day=2", "b": "key-b"})
    async with open_app(jobs=attrs.evolve(jobs, max_running=2), auth=keys) as client:
        client.headers["authorization"] = "Bearer key-a"
        held = [await submit(client, lines(*map(str, range(5)))) for _ in range(4)]
        for batch in held[:2]:
            await when(client, batch, lambda found: found["pause"])
        client.headers["authorization"] = "Bearer key-b"
        assert (await ended(client, await submit(client, lines("x"))))["status"] == "completed"
        client.headers["authorization"] = "Bearer key-a"
        states = [(await client.get(f"/v1/batches/{each['id']}")).json()["status"] for each in held]
        assert states == ["in_progress", "in_progress", "validating", "validating"]


async def test_the_job_of_a_key_that_is_revoked_is_cancelled(open_app: Any, jobs: JobSettings) -> None:
    async with slow_app(open_app, jobs=jobs, auth=AuthSettings(keys={"a": "key-a"})) as client:
        client.headers["authorization"] = "Bearer key-a"
        batch = await submit(client, lines(*map(str, range(300))))
        await when(client, batch, lambda found: found["request_counts"]["completed"])
    async with open_app(jobs=jobs, auth=AuthSettings(keys={"b": "key-b"})) as client:
        database = client.app.state["jobs"].database
        await until(lambda: database.job(batch["id"]).has_ended)
        job = database.job(batch["id"])
        assert (str(job.status), job.problems[0].code) == ("cancelled", "key_revoked")
        assert job.progress.completed + job.progress.failed == 300


async def test_files_are_listed_shown_and_removed(client: Any) -> None:
    ids = [(await upload(client, lines(name))).json()["id"] for name in "abc"]
    first = (await client.get("/v1/files", params={"limit": 2})).json()
    assert ([each["id"] for each in first["data"]], first["has_more"]) == ([ids[2], ids[1]], True)
    rest = (await client.get("/v1/files", params={"limit": 2, "after": first["last_id"]})).json()
    assert ([each["id"] for each in rest["data"]], rest["has_more"]) == ([ids[0]], False)
    upwards = (await client.get("/v1/files", params={"order": "asc", "purpose": "batch"})).json()
    assert [each["id"] for each in upwards["data"]] == ids
    assert (await client.get("/v1/files", params={"purpose": "batch_output"})).json()["data"] == []
    shown = (await client.get(f"/v1/files/{ids[0]}")).json()
    assert shown == rest["data"][0]
    assert (shown["bytes"], shown["filename"], shown["status"]) == (len(lines("a")), "in.jsonl", "processed")
    assert (await client.get(f"/v1/files/{ids[0]}/content")).text == lines("a")
    removed = await client.delete(f"/v1/files/{ids[0]}")
    assert (removed.status_code, removed.json()) == (200, {"id": ids[0], "object": "file", "deleted": True})
    assert (await client.get(f"/v1/files/{ids[0]}")).status_code == 404
    for wrong in ("limit=0", "limit=x", "order=up", "after=file-0"):
        assert (await client.get(f"/v1/files?{wrong}")).status_code in {400, 404}, wrong


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-9", 0, 10),
        ("bytes=10-", 10, None),
        ("bytes=-7", -7, None),
        ("bytes=-100000", 0, None),
        ("bytes=5-100000", 5, None),
    ],
)
async def test_a_range_of_a_file_is_served_alone(client: Any, asked: str, start: int, stop: int | None) -> None:
    text = lines("a", "b")
    file_id = (await upload(client, text)).json()["id"]
    whole = await client.get(f"/v1/files/{file_id}/content")
    assert (whole.status_code, whole.headers["accept-ranges"]) == (200, "bytes")
    response = await client.get(f"/v1/files/{file_id}/content", headers={"range": asked})
    wanted = range(len(text))[start:stop]
    assert (response.status_code, response.text) == (206, text[start:stop])
    assert response.headers["content-range"] == f"bytes {wanted.start}-{wanted.stop - 1}/{len(text)}"
    same = {"range": asked, "if-range": whole.headers["etag"]}
    assert (await client.get(f"/v1/files/{file_id}/content", headers=same)).status_code == 206


@pytest.mark.parametrize(
    "headers",
    [
        {"range": "bytes=0-1,4-5"},
        {"range": "bytes=5-2"},
        {"range": "bytes=-"},
        {"range": "lines=0-1"},
        {"range": "bytes=0-1", "if-range": '"another"'},
    ],
)
async def test_what_is_no_range_of_this_file_is_answered_with_all_of_it(client: Any, headers: dict[str, str]) -> None:
    file_id = (await upload(client, lines("a"))).json()["id"]
    response = await client.get(f"/v1/files/{file_id}/content", headers=headers)
    assert (response.status_code, response.text) == (200, lines("a"))


@pytest.mark.parametrize("asked", ["bytes=100000-", "bytes=-0"])
async def test_a_range_behind_the_end_is_refused_with_the_size(client: Any, asked: str) -> None:
    file_id = (await upload(client, lines("a"))).json()["id"]
    response = await client.get(f"/v1/files/{file_id}/content", headers={"range": asked})
    assert (response.status_code, response.headers["content-range"]) == (416, f"bytes */{len(lines('a'))}")
    assert response.json()["error"]["code"] == "range_not_satisfiable"


async def test_an_input_is_kept_while_its_batch_runs(open_app: Any, jobs: JobSettings) -> None:
    async with slow_app(open_app, jobs=attrs.evolve(jobs, max_open=1)) as client:
        batch = await submit(client, lines(*map(str, range(300))))
        removed = await client.delete(f"/v1/files/{batch['input_file_id']}")
        assert (removed.status_code, removed.json()["error"]["code"]) == (400, "file_in_use")
        more = {"input_file_id": batch["input_file_id"], "endpoint": "/v1/embeddings"}
        refused = await client.post("/v1/batches", json=more)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "too_many_batches")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"endpoint": "/v1/embeddings"}, "input_file_id"),
        ({"input_file_id": 3, "endpoint": "/v1/embeddings"}, "input_file_id"),
        ({"input_file_id": "file-0", "endpoint": "/v1/chat/completions"}, "endpoint"),
        ({"input_file_id": "file-0", "endpoint": "/v1/embeddings", "completion_window": "soon"}, "completion_window"),
        ({"input_file_id": "file-0", "endpoint": "/v1/embeddings", "completion_window": "99d"}, "completion_window"),
        ({"input_file_id": "file-0", "endpoint": "/v1/embeddings", "metadata": {"a": 1}}, "metadata"),
        (
            {"input_file_id": "file-0", "endpoint": "/v1/embeddings", "output_expires_after": {"seconds": 1}},
            "output_expires_after.seconds",
        ),
    ],
)
async def test_a_wrong_batch_names_its_field(client: Any, body: Any, param: str) -> None:
    response = await client.post("/v1/batches", json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param), response.text


async def test_a_wrong_upload_says_what_to_do(open_app: Any, jobs: JobSettings) -> None:
    async with open_app(jobs=attrs.evolve(jobs, max_file_bytes=20_000, max_bytes=40_000)) as client:
        answers = {
            "purpose": await upload(client, "x", purpose="fine-tune"),
            "file": await client.post("/v1/files", files={"other": b"x"}, data={"purpose": "batch"}),
            "JSON": await client.post("/v1/files", json={"purpose": "batch"}),
            "cut": await client.post(
                "/v1/files",
                content=b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\nabc',
                headers={"content-type": "multipart/form-data; boundary=b"},
            ),
            "seconds": await upload(
                client, "x", **{"expires_after[seconds]": "5", "expires_after[anchor]": "created_at"}
            ),
            "anchor": await upload(client, "x", **{"expires_after[anchor]": "created_at"}),
            "expires_after": await upload(client, "x", expires_after='{"anchor": "created_at", "seconds": 3600}'),
            "gzip": await client.post(
                "/v1/files",
                content=b"x",
                headers={"content-type": "multipart/form-data; boundary=b", "content-encoding": "gzip"},
            ),
        }
        assert {name: each.status_code for name, each in answers.items()} == dict.fromkeys(answers, 400)
        assert (await upload(client, "x" * 20_001)).status_code == 413
        kept = [(await upload(client, "x" * 19_000)).status_code for _ in range(3)]
        assert kept == [200, 200, 507]
        assert "jobs.max_bytes" in (await upload(client, "x" * 19_000)).json()["error"]["message"]
        # Of uploads that failed, nothing is left.
        assert len(list((Path(str(jobs.folder)) / "files").iterdir())) == 2


async def test_a_file_is_kept_as_long_as_is_asked_for(open_app: Any, jobs: JobSettings) -> None:
    async with open_app(jobs=attrs.evolve(jobs, keep_seconds=7200)) as client:
        usual = (await upload(client, lines("a"))).json()
        own = (await upload(client, lines("a"), **{"expires_after[seconds]": "3600"})).json()
        assert [each["expires_at"] - each["created_at"] for each in (usual, own)] == [7200, 3600]
        service = client.app.state["jobs"]
        service.database._clock = lambda: own["expires_at"]
        assert (await client.get(f"/v1/files/{own['id']}")).status_code == 404
        assert [each["id"] for each in (await client.get("/v1/files")).json()["data"]] == [usual["id"]]
        await asyncio.to_thread(service._sweep)
        assert [path.name for path in (Path(str(jobs.folder)) / "files").iterdir()] == [usual["id"]]


async def test_jobs_are_counted_apart_from_requests(client: Any) -> None:
    await ended(client, await submit(client, lines("a", "b")))
    text = ""
    async with asyncio.timeout(PATIENCE_SECONDS):
        # The state is counted once it is in the database, where it was seen.
        while 'emb_provider_jobs_total{state="completed"} 1.0' not in text:
            # An answer may come without a turn of the loop, on which it is counted.
            await asyncio.sleep(0.01)
            text = (await client.get("/metrics")).text
    assert 'emb_provider_job_requests_total{endpoint="/v1/embeddings",model="org/model",status="200"} 2.0' in text
    assert 'emb_provider_requests_total{method="POST",model="org/model",route="/v1/embeddings"' in text
    assert 'route="/v1/embeddings",status="200",task="embed"} 0.0' in text
    assert 'emb_provider_inputs_total{model="org/model"} 2.0' in text


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/files"),
        ("POST", "/v1/files"),
        ("GET", "/v1/batches/batch_1"),
        ("POST", "/v1/batches/batch_1/cancel"),
        ("DELETE", "/v1/files/file-1"),
        ("GET", "/v1/files/file-1/content"),
    ],
)
async def test_without_a_folder_the_routes_say_how_to_switch_them_on(open_app: Any, method: str, path: str) -> None:
    async with open_app() as client:
        response = await client.request(method, path)
        assert response.status_code == 404
        assert "jobs: {folder:" in response.json()["error"]["message"]
        assert "/v1/batches" not in (await client.get("/openapi.json")).text
