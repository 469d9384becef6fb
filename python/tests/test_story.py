"""The story of SCENARIO: two servers, one volume that stays, whatever happens to one of them."""

import pytest

from twinsan import Cluster, Unfinished

MIB = 2048  # sectors


@pytest.fixture
def san():
    return Cluster(seed=2008)


def pair_with_volume(san, sectors=16 * MIB):
    volume = san.create(sectors)
    san.until_paired()
    return volume


def fill(san, volume, extents, via="a"):
    """Writes the beginning of each of these 64 KiB extents; returns what is there now."""
    return {n * 128: san.write(volume, n * 128, 8, via=via) for n in extents}


def assert_holds(san, volume, contents, via):
    for sector, value in contents.items():
        assert san.read(volume, sector, 8, via=via) == [value] * 8, f"sector {sector} by node {via}"


@pytest.mark.parametrize("victim, survivor", [("a", "b"), ("b", "a")])
def test_a_server_dies_and_the_other_has_everything(san, victim, survivor):
    """A write is acknowledged when it is in the caches of both nodes, so one pulled plug loses nothing."""
    volume = pair_with_volume(san)
    by_both_paths = fill(san, volume, range(0, 10), via="a") | fill(san, volume, range(10, 20), via="b")

    san.kill(victim)

    assert_holds(san, volume, by_both_paths, via=survivor)
    san.until(survivor, "alone")
    by_both_paths |= fill(san, volume, range(15, 25), via=survivor)
    assert_holds(san, volume, by_both_paths, via=survivor)
    san.check()


def test_the_dead_server_returns_and_gets_what_it_missed(san):
    """The survivor has logged what its partner is missing; the mirror is whole again while I/O goes on."""
    volume = pair_with_volume(san)
    contents = fill(san, volume, range(100))
    san.flush(volume)

    san.power_cut("a")
    contents |= fill(san, volume, range(5, 10), via="b")
    san.start("a")
    contents |= fill(san, volume, range(8, 12), via="b")
    san.until_paired()

    assert [san.state(node).phase for node in "ab"] == ["paired", "paired"]
    assert san.counters()["resyncs"] >= 1
    assert_holds(san, volume, contents, via="a")
    san.check()


def test_a_cable_is_pulled_and_only_one_goes_on(san):
    """Both nodes live and do not hear each other: the arbiter lets one serve, never two."""
    volume = pair_with_volume(san)
    contents = fill(san, volume, range(10))

    san.cut()
    contents |= fill(san, volume, range(5, 15))
    san.run(5.0)

    serving = [node for node in "ab" if san.state(node).serving]
    assert len(serving) == 1, "one goes on, the other withdraws"
    # The host whose preferred path is the loser finds the other by itself.
    for path in "ab":
        assert_holds(san, volume, contents, via=path)

    san.heal()
    san.until_paired()
    for path in "ab":
        assert_holds(san, volume, contents, via=path)
    san.check()


def test_both_servers_are_serviced_one_after_the_other(san):
    """A clean stop hands over first; hosts write all the time and lose nothing."""
    volume = pair_with_volume(san)
    contents = fill(san, volume, range(30))
    for node, other in [("a", "b"), ("b", "a")]:
        san.stop(node)
        contents |= fill(san, volume, range(10, 20), via=other)
        san.until(node, "stopped")
        assert_holds(san, volume, contents, via=other)
        san.run(1.0)
        san.start(node)
        san.until_paired()
        contents |= fill(san, volume, range(20, 25), via=node)
    assert_holds(san, volume, contents, via="a")
    assert san.counters()["clean_stops"] == 2
    san.check()


@pytest.mark.parametrize("first, second", [("a", "b"), ("b", "a")])
def test_the_site_loses_power_and_what_was_flushed_is_there(san, first, second):
    """The caches are volatile and say so: what was flushed survives even the loss of both nodes at once."""
    volume = pair_with_volume(san)
    flushed = fill(san, volume, range(20))
    san.flush(volume)

    san.power_cut("a")
    san.power_cut("b")
    with pytest.raises(Unfinished):
        san.read(volume, 0)
    san.start(first)
    san.run(3.0)
    san.start(second)
    san.until_paired()

    for path in "ab":
        assert_holds(san, volume, flushed, via=path)
    san.check()
