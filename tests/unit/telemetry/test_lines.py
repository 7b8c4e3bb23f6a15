"""Lines are cut, and a pipe that nobody reads stops nobody."""

import io
import json
import logging
import os

import structlog

from provider.settings import LogSettings
from provider.telemetry.lines import LineWriter
from provider.telemetry.logs import configure_logging


def test_what_clients_send_is_cut_and_what_we_say_is_not() -> None:
    stream = io.StringIO()
    configure_logging(LogSettings(), stream)
    log = structlog.get_logger("a")
    log.info("request", path="p" * 10_000, models=["m" * 10_000], more={"k" * 10_000: 1}, hint="h" * 1000)
    log.error("request_failed", model="m" * 201, exc_info=ValueError("v" * 10_000_000))
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert len(first["path"]) == 200
    assert first["path"].startswith("ppp")
    assert "(10000 characters)" in first["path"]
    assert [len(each) for each in first["models"]] == [200]
    assert [len(key) for key in first["more"]] == [200]
    assert len(first["hint"]) == 1000
    assert (len(second["model"]), len(second["exception"])) == (200, 20_000)


def test_a_pipe_that_nobody_reads_stops_nobody_and_what_is_lost_is_counted() -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream, os.fdopen(reading) as pipe:
        writer = LineWriter(stream)
        record = logging.makeLogRecord({"msg": "the last"})
        for number in range(20_000):
            writer.write(f"{number} {'x' * 1000}\n")
        writer.handle(record)
        written = lost = 0
        while written + lost < 20_001:
            said = pipe.readline()
            if "log_lines_dropped" in said:
                lost += json.loads(said)["lines"]
            else:
                assert "xxx" in said or said == "the last\n"
                written += 1
        writer.write("again\n")
        writer.close()
        assert lost
        assert pipe.readline() == "again\n"


def test_the_end_writes_what_is_left() -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream, os.fdopen(reading) as pipe:
        writer = LineWriter(stream)
        for number in range(100):
            writer.write(f"{number}\n")
        writer.close()
        assert [pipe.readline() for _ in range(100)] == [f"{number}\n" for number in range(100)]
