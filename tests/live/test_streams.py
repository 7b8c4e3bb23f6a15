"""Commands under closed streams, full disks and other locales."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import clean_environment
from waiting import PATIENCE_SECONDS, free_port, wait_until

COMMAND = f"{sys.executable} -m provider"


def shell(script: str, folder: Path, **more: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        cwd=folder,
        env=clean_environment(**more),
        timeout=PATIENCE_SECONDS,
        check=False,
    )


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_server_without_any_stream_serves(tmp_path: Path, workers: str) -> None:
    import urllib.request

    port = free_port()
    command = f"exec {COMMAND} serve --backend example --port {port} --workers {workers} <&- >&- 2>&-"

    def is_ready() -> bool:
        assert process.poll() is None
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=PATIENCE_SECONDS) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    with subprocess.Popen(["bash", "-c", command], cwd=tmp_path, env=clean_environment()) as process:
        try:
            wait_until(is_ready)
            process.terminate()
            assert process.wait(PATIENCE_SECONDS) == 0
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("redirection", "reason"), [(">&-", b"Bad file descriptor"), (">/dev/full", b"No space left on device")]
)
def test_results_that_cannot_be_written_are_one_line_and_exit_1(
    tmp_path: Path, redirection: str, reason: bytes
) -> None:
    done = shell(f"{COMMAND} config {redirection}", tmp_path)
    assert (done.returncode, done.stderr) == (1, b"emb-provider: cannot write the output: " + reason + b"\n")


@pytest.mark.parametrize("arguments", ["config", "config --json", "--help", "completion bash"])
def test_results_that_nobody_reads_exit_141_as_shells_expect(tmp_path: Path, arguments: str) -> None:
    # The reader is gone before the command starts.
    reader = "exec 3> >(exit); wait $!;"
    done = shell(f"{reader} {COMMAND} {arguments} >&3", tmp_path)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


def test_ctrl_c_exits_130_in_every_command(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "texts")
    command = [sys.executable, "-m", "provider", "rerank", "query", "--file", "texts"]
    options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, cwd=tmp_path, env=clean_environment(), **options) as process:
        try:
            with (tmp_path / "texts").open("wb"):  # opens when the command reads
                process.send_signal(signal.SIGINT)
                output, _ = process.communicate(timeout=PATIENCE_SECONDS)
        finally:
            process.kill()
    assert (process.returncode, output) == (128 + signal.SIGINT, b"")


def test_messages_that_nobody_can_read_change_no_exit_code(tmp_path: Path) -> None:
    assert shell(f"{COMMAND} config 2>&-", tmp_path).returncode == 0
    assert shell(f"{COMMAND} config --config none.yaml 2>&-", tmp_path).returncode == 2


def test_files_and_output_are_utf8_in_a_locale_that_is_not(tmp_path: Path) -> None:
    (tmp_path / "locales").mkdir()
    made = shell("localedef -i de_DE -f ISO-8859-1 locales/de_DE.ISO-8859-1", tmp_path)
    assert (tmp_path / "locales" / "de_DE.ISO-8859-1").exists(), made.stderr
    (tmp_path / "litestar.yaml").write_text("model: {name: größe, aliases: [日本]}", encoding="utf-8")
    (tmp_path / ".env").write_text("EMB_PROVIDER_MODEL_REPO=org/größe\n", encoding="utf-8")
    locale = {"LOCPATH": str(tmp_path / "locales"), "LC_ALL": "de_DE.ISO-8859-1"}
    encoding = shell(f"{sys.executable} -c 'import locale; print(locale.getencoding())'", tmp_path, **locale)
    assert encoding.stdout == b"ISO-8859-1\n"
    shown = shell(f"{COMMAND} config", tmp_path, **locale).stdout.decode()
    assert "org/größe" in shown
    wrong = shell(f"{COMMAND} config --config größe.yaml", tmp_path, **locale)
    assert wrong.returncode == 2
    assert b"Traceback" not in wrong.stderr


def test_an_empty_address_of_the_hub_counts_as_unset(tmp_path: Path) -> None:
    done = shell(f"{COMMAND} download org/model --to x", tmp_path, HF_ENDPOINT="", HF_HUB_OFFLINE="1")
    assert done.returncode == 1
    assert b"Request URL" not in done.stderr
