"""Lines for machines and for people, with what an operator needs and never a text."""

import io
import json
import logging
import warnings

import pytest
import structlog

from provider.cores import Worker
from provider.domain import Caller
from provider.engine.hooks import BatchDone, DownloadChanged, ModelChanged, ModelState, RequestWaited
from provider.settings import LogSettings
from provider.telemetry.logs import configure_logging, log_event


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_lines_have_timestamp_level_and_what_is_bound() -> None:
    stream = io.StringIO()
    configure_logging(LogSettings(), stream)
    with structlog.contextvars.bound_contextvars(request_id="r1"):
        structlog.get_logger("a.b").info("something", number=3)
    (line,) = lines(stream)
    assert {key: line[key] for key in ("event", "level", "logger", "number", "request_id")} == {
        "event": "something",
        "level": "info",
        "logger": "a.b",
        "number": 3,
        "request_id": "r1",
    }
    assert str(line["timestamp"]).endswith("Z")


def test_a_worker_among_several_is_named_on_every_line() -> None:
    stream = io.StringIO()
    configure_logging(LogSettings(), stream, worker=Worker(1, 2))
    structlog.get_logger("a").info("ours")
    logging.getLogger("uvicorn.error").error("theirs")
    assert [line["worker"] for line in lines(stream)] == [1, 1]


def test_other_libraries_and_warnings_go_through_the_same_format() -> None:
    stream = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        configure_logging(LogSettings(level="DEBUG"), stream)
        logging.getLogger("uvicorn.error").warning("from %s", "elsewhere")
        warnings.warn("careful", UserWarning, stacklevel=1)
        logging.captureWarnings(capture=False)
    first, second = lines(stream)
    assert (first["event"], first["level"]) == ("from elsewhere", "warning")
    assert "careful" in str(second["event"])


@pytest.mark.parametrize("name", ["urllib3.connectionpool", "httpx", "huggingface_hub.file_download", "transformers"])
def test_what_libraries_say_is_told_at_debug_only_and_their_errors_always(name: str) -> None:
    for level, told in (("INFO", ["broken"]), ("DEBUG", ["done", "careful", "broken"])):
        stream = io.StringIO()
        configure_logging(LogSettings(level=level), stream)  # type: ignore[arg-type]
        logger = logging.getLogger(name)
        logger.debug("authorization: Bearer secret")
        logger.info("done")
        logger.warning("careful")
        logger.error("broken")
        assert [line["event"] for line in lines(stream)] == told


def test_warnings_of_a_plugin_are_told() -> None:
    stream = io.StringIO()
    configure_logging(LogSettings(), stream)
    logging.getLogger("emb_provider_yours").warning("careful")
    assert [line["event"] for line in lines(stream)] == ["careful"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environ", "is_terminal", "is_coloured"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"NO_COLOR": "1"}, True, False),
        ({"NO_COLOR": ""}, True, True),
        ({"TERM": "dumb"}, True, False),
        ({"FORCE_COLOR": "1"}, False, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, True, False),
    ],
)
def test_colours_follow_the_terminal_and_the_environment(
    environ: dict[str, str], is_terminal: bool, is_coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    stream = Terminal() if is_terminal else io.StringIO()
    configure_logging(LogSettings(format="console"), stream)
    structlog.get_logger("a").info("something")
    assert ("\x1b[" in stream.getvalue()) == is_coloured


def test_an_exception_is_one_line_too() -> None:
    stream = io.StringIO()
    configure_logging(LogSettings(), stream)
    structlog.get_logger("a").error("failed", exc_info=ValueError("why"))
    (line,) = lines(stream)
    assert "ValueError: why" in str(line["exception"])


def test_people_see_where_it_failed_but_never_what_was_in_the_variables() -> None:
    stream = io.StringIO()
    configure_logging(LogSettings(format="console"), stream)

    def handle(text: str) -> None:
        raise ValueError(len(text))

    try:
        handle("a secret text")
    except ValueError as exc:
        structlog.get_logger("a").error("failed", exc_info=exc)
    assert "ValueError: 13" in stream.getvalue()
    assert "secret" not in stream.getvalue().replace('handle("a secret text")', "")


def test_the_level_holds_for_everyone() -> None:
    stream = io.StringIO()
    configure_logging(LogSettings(level="ERROR"), stream)
    structlog.get_logger("a").warning("quiet")
    logging.getLogger("uvicorn").warning("quiet")
    assert stream.getvalue() == ""


def test_people_get_a_readable_line() -> None:
    stream = io.StringIO()
    configure_logging(LogSettings(format="console"), stream)
    structlog.get_logger("a").info("something", number=3)
    assert "something" in stream.getvalue()
    assert "number=3" in stream.getvalue()
    assert not stream.getvalue().startswith("{")


@pytest.mark.parametrize(
    "sent", ["\x1b[2J", "\x1b]0;title\x07", "\x9b31m", "a\u2028b", "\u202eabc", "\x7f\x08", "a\nb"]
)
def test_a_terminal_gets_no_control_characters_of_clients(sent: str) -> None:
    stream = io.StringIO()
    configure_logging(LogSettings(format="console"), stream)
    structlog.get_logger("a").info("something", model=sent, names=[sent], exc_info=ValueError(sent))
    logging.getLogger("b").error("of a library: %s", sent)
    assert stream.getvalue().replace("\n", "").isprintable()


def test_the_life_of_a_model_is_told() -> None:
    stream = io.StringIO()
    configure_logging(LogSettings(), stream)
    for event in (
        ModelChanged("m", ModelState.RESOLVING, 0.0, {}),
        DownloadChanged("m", "started", 0.0, {"repository": "o/m", "bytes": 5}),
        DownloadChanged("m", "failed", 1.0, {"reason": "no network"}),
        ModelChanged("m", ModelState.LOADING, 1.0, {"folder": "/m"}),
        ModelChanged("m", ModelState.READY, 2.0, {"bytes": 5, "notices": ["mean pooling is used"]}),
        ModelChanged("m", ModelState.FAILED, 2.0, {"reason": "damaged"}),
        ModelChanged("m", ModelState.CLOSED, 9.0, {"unloaded": True}),
        ModelChanged("m", ModelState.CLOSED, 9.0, {"unloaded": False}),
        BatchDone("m", 3, 9, 0.1, 0.2, "RuntimeError"),
        BatchDone("m", 3, 9, 0.1, 0.2),
    ):
        log_event(event)
    assert [(line["event"], line["level"]) for line in lines(stream)] == [
        ("model_resolving", "info"),
        ("download_started", "info"),
        ("download_failed", "error"),
        ("model_resolved", "info"),
        ("model_notice", "warning"),
        ("model_loaded", "info"),
        ("model_failed", "error"),
        ("model_unloaded", "info"),
        ("forward_failed", "error"),
    ]


def test_a_request_that_waited_in_vain_is_told_with_its_caller() -> None:
    stream = io.StringIO()
    configure_logging(LogSettings(), stream)
    log_event(RequestWaited(0.5, "admitted", Caller("search")))
    log_event(RequestWaited(2.0, "refused", Caller("search")))
    (line,) = lines(stream)
    assert (line["event"], line["outcome"], line["seconds"], line["caller"]) == (
        "request_waited",
        "refused",
        2.0,
        "search",
    )


def test_text_that_is_no_unicode_is_logged_as_json_too() -> None:
    stream = io.StringIO()
    configure_logging(LogSettings(), stream)
    structlog.get_logger("a").info("something", folder="name\udce9", bytes=2**70)
    (line,) = lines(stream)
    assert (line["folder"], line["bytes"]) == ("name\udce9", 2**70)


@pytest.mark.parametrize("problem", [BrokenPipeError(), ValueError("I/O operation on closed file")])
def test_a_line_that_cannot_be_written_harms_nothing(problem: Exception) -> None:
    class Broken(io.StringIO):
        def write(self, _text: str) -> int:
            raise problem

    configure_logging(LogSettings(), Broken())
    structlog.get_logger("a").info("something")
