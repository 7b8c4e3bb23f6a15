"""What `scripts/fuzz` sends, in small."""

import fuzz


def test_damaged_requests_are_answered_and_harm_nothing() -> None:
    with fuzz.target() as server:
        found = fuzz.run(server, 2_000, seed=7)
        server.signal()
        assert server.wait() == 0
    assert found.wrong == []
    assert not [line for line in server.log if line["event"] == "request_failed"]
    assert found.answers[200] > 100
    assert found.answers[400] > 500
