"""The simulation: shared cores, the scheduler on simulated passes, fleets; and what a plan says."""

import json
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from provider.cli import cli
from provider.errors import InvalidRequest
from provider.planning.events import Cores, Events, Thread
from provider.planning.load import Load, simulate, simulate_local
from provider.planning.measure import Served, as_served
from provider.planning.profile import CostProfile, PassCost, RequestCost
from provider.planning.sizing import capacity, plan

# 2 lanes of one thread; a text of 10 tokens takes 4 ms, a full batch of 32 of them 97 ms: 660 texts a second.
PROFILE = CostProfile(
    processor="made up",
    cores=2,
    model="m",
    backend="torch",
    device="cpu",
    dtype="float32",
    lanes=2,
    threads=1,
    max_rows=32,
    max_tokens=512,
    padding_is_free=True,
    forward=PassCost(each=0.001, row=0.0, token=0.0003, token_pair=0.0),
    server=RequestCost(request=0.0001, text=0.00001),
    client=RequestCost(request=0.0001, text=0.00001),
    memory_bytes=400 * 2**20,
    start_seconds=5.0,
)


def test_jobs_share_cores_and_urgent_ones_come_first() -> None:
    events, ends = Events(), {}
    cores = Cores(events, 2)

    def end(name: str) -> None:
        ends[name] = round(events.now, 9)

    for name in ("a", "b", "c"):
        cores.run(1.0, lambda name=name: end(name))  # type: ignore[misc]
    events.at(0.3, lambda: cores.run(0.2, lambda: end("urgent"), urgent=True))
    events.run()
    # Until 0.3 the three have 0.2 each; then the urgent one has a core for itself, and they share the other.
    assert ends["urgent"] == 0.5
    assert ends["a"] == ends["b"] == ends["c"] == 1.6
    assert cores.busy_seconds == pytest.approx(3.2)


def test_a_job_of_several_cores_is_slowed_down_by_others() -> None:
    events, ends = Events(), []
    cores = Cores(events, 2)
    cores.run(1.0, lambda: ends.append(events.now), cores=2)
    cores.run(1.0, lambda: ends.append(events.now))
    events.run()
    # 3 threads on 2 cores.
    assert ends == pytest.approx([1.5, 1.5])


def test_a_thread_does_one_thing_after_the_other() -> None:
    events, ends = Events(), []
    thread = Thread(Cores(events, 4))
    for _ in range(3):
        thread.run(0.1, lambda: ends.append(events.now))
    events.run()
    assert ends == pytest.approx([0.1, 0.2, 0.3])


def test_one_request_takes_its_pass_and_its_cost_on_the_event_loop() -> None:
    out = simulate(PROFILE, Load(1, (10,), concurrency=1), seconds=1, warm_up=0)
    assert out.latency(0.5) == pytest.approx(0.001 + 10 * 0.0003 + 0.00011)
    assert out.refused == 0


def test_many_requests_are_batched_up_to_the_limit_of_the_cores() -> None:
    out = simulate(PROFILE, Load(1, (10,), concurrency=64), seconds=10, warm_up=1)
    # 32 rows a pass: 97 ms on each of two lanes, less what the event loop takes.
    assert out.texts_per_second == pytest.approx(2 * 32 / 0.097, rel=0.05)
    assert out.busy == pytest.approx(1.0, abs=0.01)


def test_overload_is_refused_by_the_scheduler_and_the_rest_is_answered_in_time() -> None:
    out = simulate(PROFILE, Load(8, (10,), rate=400.0), seconds=20, warm_up=10)
    assert 0.7 < out.refused_share < 0.9
    assert out.latency(1.0) < 12
    assert out.texts_per_second > 0.85 * 2 * 32 / 0.097


def test_cached_texts_cost_the_event_loop_alone() -> None:
    out = simulate(PROFILE, Load(1, (10,), rate=100.0, cached=1.0), seconds=5, warm_up=0)
    assert out.latency(1.0) < 0.001
    assert out.busy < 0.02


def test_an_accelerator_leaves_the_cores_to_the_event_loop() -> None:
    gpu = msgspec.structs.replace(PROFILE, device="cuda:0", lanes=1)
    out = simulate(gpu, Load(1, (10,), concurrency=64), seconds=5, warm_up=1)
    assert out.texts_per_second == pytest.approx(32 / 0.097, rel=0.05)
    assert out.busy < 0.1


def test_workers_and_the_load_generator_share_one_machine() -> None:
    one, two = (simulate_local(PROFILE, Load(1, (10,), concurrency=64), workers=n, seconds=10) for n in (1, 2))
    assert two.texts_per_second == pytest.approx(one.texts_per_second, rel=0.1)
    assert one.texts_per_second < simulate(PROFILE, Load(1, (10,), concurrency=64), seconds=10).texts_per_second


def test_a_fleet_serves_in_proportion_and_a_better_balancer_shortens_the_tail() -> None:
    load = Load(1, (10,), rate=5 * 450.0)
    found = {
        how: simulate(PROFILE, load, replicas=5, balancing=how, seconds=4, warm_up=1)  # type: ignore[arg-type]
        for how in ("random", "round-robin", "least-requests")
    }
    for out in found.values():
        assert out.texts_per_second == pytest.approx(5 * 450, rel=0.05)
        assert out.refused == 0
    assert found["least-requests"].latency(0.99) < found["random"].latency(0.99)


def test_the_same_seed_gives_the_same_outcome() -> None:
    first, second = (simulate(PROFILE, Load(1, (10, 50), rate=50.0), seconds=2, seed=7) for _ in range(2))
    assert first == second
    assert first != simulate(PROFILE, Load(1, (10, 50), rate=50.0), seconds=2, seed=8)


def test_a_plan_has_the_fewest_replicas_that_keep_the_latency_and_its_cost() -> None:
    found = plan(PROFILE, Load(1, (10,), rate=2000.0), p95_seconds=0.1, spare=1, dollars=0.1)
    assert found.replicas - found.spare == -(-2000 // found.replica_rate)
    assert found.p95_ms <= found.p95_ms_without_spare <= 100 * 1.1
    assert (found.cores, found.memory_bytes) == (2 * found.replicas, found.replicas * PROFILE.memory_bytes)
    assert found.dollars_per_hour == pytest.approx(0.1 * found.replicas)
    per_token = found.dollars_per_hour / 3600 / 20_000
    assert found.dollars_per_billion_tokens == pytest.approx(per_token * 1e9, rel=0.01)


def test_a_tighter_latency_needs_more_replicas_and_a_cache_needs_fewer() -> None:
    loose, tight = (capacity(PROFILE, Load(1, (10,), rate=1.0), p95_seconds=seconds) for seconds in (0.2, 0.02))
    cached = capacity(PROFILE, Load(1, (10,), rate=1.0, cached=0.5), p95_seconds=0.2)
    assert tight < loose < cached


def test_a_latency_below_that_of_one_request_is_refused_with_its_time() -> None:
    with pytest.raises(InvalidRequest, match=r"one request alone takes 31 ms, and --p95 20 was asked for"):
        capacity(PROFILE, Load(1, (100,), rate=1.0), p95_seconds=0.02)


@pytest.mark.parametrize(
    ("load", "says"),
    [
        (Load(1, (10, 600), rate=1.0), "m takes texts of up to 512 tokens, not of 600"),
        (Load(100_000, (10,), rate=1.0), "a request has at most 2048 texts"),
    ],
)
def test_a_request_that_no_server_takes_is_refused(load: Load, says: str) -> None:
    profile = msgspec.structs.replace(PROFILE, max_length=512)
    with pytest.raises(InvalidRequest, match=says):
        capacity(profile, load, p95_seconds=1.0)


def test_requests_that_are_rare_or_take_long_are_planned_too() -> None:
    rare = plan(PROFILE, Load(1, (10,), rate=1e-9), p95_seconds=0.1)
    alone = plan(PROFILE, Load(1, (10,), rate=0.01), p95_seconds=0.1, spare=1000)
    assert rare.p95_ms == pytest.approx(alone.p95_ms, abs=1)
    slow = msgspec.structs.replace(PROFILE, forward=PROFILE.forward.times(3000.0))
    assert 5000 < plan(slow, Load(1, (10,), rate=0.001), p95_seconds=60.0).p95_ms < 60_000


@pytest.mark.parametrize("option", ["--rate", "--p95", "--price"])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_what_is_no_number_is_refused(option: str, value: str) -> None:
    run = CliRunner().invoke(cli, ["plan", "--rate", "1", "--lengths", "10", "--p95", "100", option, value])
    assert (run.exit_code, "nan" in run.stderr or "inf" in run.stderr) == (2, True)


def test_the_command_plans_on_a_saved_profile(tmp_path: Path) -> None:
    file = tmp_path / "profile.json"
    PROFILE.write(file)
    options = ["plan", "--rate", "1000", "--lengths", "10", "--p95", "100", "--price", "0.08", "--profile", str(file)]
    shown = CliRunner().invoke(cli, options)
    assert shown.exit_code == 0, shown.output
    assert "of which 1 may fail" in shown.stdout
    assert "a billion tokens" in shown.stdout
    document = json.loads(CliRunner().invoke(cli, [*options, "--json"]).stdout)
    assert document["profile"]["processor"] == "made up"
    assert f"{document['plan']['replicas']}, of which" in shown.stdout


@pytest.mark.parametrize(
    ("text", "problem"), [("{}", "is no cost profile"), ("{", "is no cost profile"), ('{"x": 1}', "is no cost profile")]
)
def test_a_file_that_is_no_profile_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "profile.json"
    file.write_text(text)
    with pytest.raises(InvalidRequest, match=problem):
        CostProfile.read(file)
    with pytest.raises(InvalidRequest, match="cannot read"):
        CostProfile.read(tmp_path / "none.json")
    with pytest.raises(InvalidRequest, match="cannot write"):
        PROFILE.write(tmp_path / "none" / "profile.json")


def test_passes_take_as_long_as_the_measured_rates_say() -> None:
    slower = msgspec.structs.replace(PROFILE, forward=PassCost(each=0.004, row=0.0, token=0.00038, token_pair=0.0))
    loads = [Load(1, (15,), concurrency=64), Load(32, (15,), concurrency=4), Load(1, (15,), concurrency=3)]
    *many, few = [Served(load, simulate_local(slower, load).texts_per_second) for load in loads]
    profile = as_served(PROFILE, many, few)
    for served in (*many, few):
        assert served.simulated_rate(profile) == pytest.approx(served.rate, rel=0.04)
    assert profile.forward.each == pytest.approx(0.004, rel=0.3)


def test_rates_that_passes_do_not_hold_back_say_nothing_of_them() -> None:
    forward, server = PassCost(each=1e-5, row=0.0, token=1e-7, token_pair=0.0), RequestCost(request=0.01, text=0.0)
    quick = msgspec.structs.replace(PROFILE, forward=forward, server=server)
    loads = [Load(1, (15,), concurrency=64), Load(32, (15,), concurrency=4), Load(1, (15,), concurrency=3)]
    *many, few = [Served(load, 0.8 * simulate_local(quick, load).texts_per_second) for load in loads]
    assert as_served(quick, many, few) == quick
    # Nothing was answered in time.
    slow = msgspec.structs.replace(PROFILE, forward=PassCost(each=20.0, row=0.0, token=0.1, token_pair=0.0))
    assert as_served(slow, [Served(load, 0.0) for load in loads[:2]], Served(loads[2], 0.0)) == slow


def test_passes_that_vary_keep_the_rate_and_make_some_requests_wait_longer() -> None:
    load = Load(32, (15,), concurrency=4)
    steady, varied = simulate_local(PROFILE, load), simulate_local(msgspec.structs.replace(PROFILE, spread=0.2), load)
    assert varied.texts_per_second == pytest.approx(steady.texts_per_second, rel=0.05)
    assert varied.latency(0.95) > 1.1 * steady.latency(0.95)


def test_passes_of_a_second_are_as_long_as_the_measured_rates_say() -> None:
    slow = msgspec.structs.replace(PROFILE, forward=PassCost(each=0.05, row=0.0, token=0.002, token_pair=0.0))
    loads = [Load(1, (15,), concurrency=64), Load(32, (15,), concurrency=4), Load(1, (15,), concurrency=3)]
    *many, few = [Served(load, 0.8 * simulate_local(slow, load, seconds=60).texts_per_second) for load in loads]
    found, full = as_served(slow, many, few), [15] * 32
    assert found.pass_seconds(full) == pytest.approx(slow.pass_seconds(full) / 0.8, rel=0.1)
