"""Plans in and out, and what the calls refuse."""

import json

import pytest

from twinsan import Broken, Cluster, ClusterError, PlanError, Refused, Unfinished


def play(cluster):
    volume = cluster.create(32768)
    cluster.until_paired()
    written = cluster.write(volume, 8, 8, via="b")
    cluster.kill("a")
    assert cluster.read(volume, 8, 8, via="b") == [written] * 8
    cluster.start("a")
    cluster.until_paired()
    cluster.zero(volume, 8, 8)
    assert cluster.read(volume, 8, 8, via="b") == [0] * 8
    cluster.check_now()
    return cluster


def test_equal_calls_give_equal_runs():
    runs = [play(Cluster(seed)) for seed in (3, 3, 4)]
    assert runs[0].trace_hash == runs[1].trace_hash != runs[2].trace_hash
    assert runs[0].now == runs[1].now > 0


def test_what_was_done_is_a_plan_that_runs_again():
    plan = play(Cluster(5)).plan()
    setup, *steps = map(json.loads, plan.splitlines())
    assert setup["seed"] == 5
    assert [step["verb"] for step in steps] == ["write", "kill", "read", "start", "zero", "read", "check"]
    again = Cluster.from_plan(plan)
    again.run_plan()
    again.check()
    assert again.counters()["kills"] == 1
    assert again.plan() == plan


def test_a_seed_stands_for_a_plan():
    plan = Cluster.generated(7, ops=50).plan()
    assert plan == Cluster.generated(7, ops=50).plan() != Cluster.generated(8, ops=50).plan()
    assert '"verb":"load"' in plan


def test_hosts_work_on_their_own_and_steps_can_be_given_as_lines():
    cluster = Cluster(9)
    cluster.create(32768)
    cluster.until_paired()
    cluster.load(100)
    cluster.apply('{"at_us": 0, "verb": "cut-one-way", "who": "A"}')
    cluster.run(1.0)
    cluster.heal()
    cluster.check()
    assert cluster.counters()["ops"] >= 100


def test_what_cannot_be_is_refused():
    cluster = Cluster()
    with pytest.raises(ValueError):
        cluster.read(1, 0)
    volume = cluster.create(32768)
    for wrong in (
        lambda: cluster.read(volume, 0, 0),
        lambda: cluster.read(volume, 0, via="c"),
        lambda: cluster.until("a", "dancing"),
        lambda: cluster.run(-1.0),
        lambda: Cluster(arbitration="dice"),
        lambda: cluster.create(0),
    ):
        with pytest.raises(ValueError):
            wrong()
    with pytest.raises(PlanError, match="line 2"):
        Cluster.from_plan('{}\n{"at_us": 1, "verb": "dance"}')
    cluster.until_paired()
    with pytest.raises(ClusterError):
        cluster.create(32768)
    with pytest.raises(ValueError):
        cluster.read(volume, 32768)
    for error in (Broken, Refused, Unfinished):
        assert issubclass(error, ClusterError)
    assert repr(cluster.state("a")).startswith("State(alive=True")
