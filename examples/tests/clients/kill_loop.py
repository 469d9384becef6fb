#!/usr/bin/env python3
"""Kills nodes under load, again and again, and counts what was lost.

    kill_loop.py --binary target/release/twinsand [--cycles 20] [--seed N] [--keep]

A host with two paths (libiscsi) writes, reads, flushes and discards overlapping places of a mirrored volume, 24 requests
at a time. One node after the other is killed with SIGKILL at a random moment, in some cycles once more while it is being
resynchronised, or its source is; now and then one is stopped cleanly, or made to sleep past its lease. A cycle counts if
the dead node's cache was dirty and something had to be copied. After each failover, and in the end through both nodes,
every block is read and checked; then both halves are compared offline. Of ten cycles and more, one in ten must have had
a kill in mid-resync. The exit status is 0 if nothing was lost and all that happened.
"""

import argparse
import random
import shutil
import statistics
import sys
import tempfile
import time

from client import Client
from nodes import TARGET, Pair

DEPTH = 24
# 32 MiB of the volume: small enough to be rewritten again and again.
BLOCKS = 8192


class Story:
    def __init__(self, pair, client):
        self.pair, self.client = pair, client
        self.begun = 0
        self.pauses = []
        self.counted = 0
        self.kills = 0
        self.in_resync = 0
        self.stops = 0
        self.freezes = 0
        self.clean_stops = 0
        self.copied = 0

    def cycle(self, victim):
        """One kill and restart; does it count?"""
        client, nodes = self.client, self.pair.nodes
        survivor = 1 - victim
        self.begun += 1
        client.run(random.uniform(0.1, 1.2))
        dirty = self.dirty(victim)
        client.take_longest()
        killed = time.monotonic()
        self.kill(victim)
        client.run_until(60, lambda: self.serves(survivor, "alone"))
        client.run(random.uniform(0.1, 1.0))
        client.begin_sweep([survivor])
        client.run_until(90, client.is_swept)
        pause = client.take_longest()
        self.pauses.append(pause)
        nodes[victim].start()
        copied = 0
        # By chance, and whenever too few resyncs were met in their midst: some are over before anyone looks.
        if random.random() < 0.5 or self.in_resync * 5 < self.begun:
            copied += self.disturb(victim, survivor)
        client.run_until(90, self.pair.is_paired)
        copied += self.last_copied()
        self.copied += copied
        counts = dirty > 0 and copied > 0
        self.counted += counts
        print(f"cycle: {nodes[victim].name} killed with {dirty >> 10} KiB dirty, pause {pause * 1000:.0f} ms, "
              f"{copied >> 10} KiB copied, whole after {time.monotonic() - killed:.1f} s"
              f"{'' if counts else ' (does not count)'}", flush=True)
        return counts

    def planned(self, victim):
        """A clean stop under load, and back; the other goes on without a word from the register."""
        client, node = self.client, self.pair.nodes[victim]
        client.run(random.uniform(0.1, 0.5))
        client.take_longest()
        node.ask_to_stop()
        client.run_until(60, node.ended)
        clean = node.process.returncode == 0
        client.run_until(60, lambda: self.serves(1 - victim, "alone"))
        client.run(random.uniform(0.1, 0.5))
        pause = client.take_longest()
        self.clean_stops += clean
        self.stops += 1
        node.start()
        client.run_until(90, self.pair.is_paired)
        print(f"planned stop of {node.name}: {'clean' if clean else 'NOT CLEAN'}, pause {pause * 1000:.0f} ms", flush=True)

    def frozen(self, victim):
        """A node that sleeps past its lease and wakes up must not answer, nor act, as if nothing had happened."""
        client, node = self.client, self.pair.nodes[victim]
        client.run(random.uniform(0.1, 0.5))
        node.freeze()
        client.run_until(60, lambda: self.serves(1 - victim, "alone"))
        client.run(random.uniform(0.1, 1.0))
        node.thaw()
        client.run_until(90, self.pair.is_paired)
        client.take_longest()
        self.freezes += 1
        print(f"{node.name} slept past its lease and is back", flush=True)

    def disturb(self, target, source):
        """Kills the target, or the source, in the middle of the resync; what was copied until then."""
        client, nodes = self.client, self.pair.nodes

        def running():
            status = nodes[source].status()
            return status and (status["resync"]["running"] and status or status["state"] == "paired" and status)

        status = client.run_until(60, running)
        if status["state"] == "paired":
            return 0
        victim = random.choice((target, source))
        self.kill(victim)
        self.in_resync += 1
        client.run(random.uniform(0.0, 0.5))
        nodes[victim].start()
        return 0

    def kill(self, victim):
        self.pair.nodes[victim].kill()
        self.kills += 1

    def dirty(self, node):
        """Dirty bytes there, when there are some; at most two seconds are waited for that."""
        end = time.monotonic() + 2
        while True:
            status = self.pair.nodes[node].status()
            if status and status["dirty_bytes"] or time.monotonic() > end:
                return status["dirty_bytes"] if status else 0
            self.client.run(0.02)

    def serves(self, node, state):
        status = self.pair.nodes[node].status()
        return status and status["state"] == state and status["serving"]

    def last_copied(self):
        return max((status["resync"]["bytes_copied"] for status in map(lambda node: node.status(), self.pair.nodes)
                    if status), default=0)


def in_resync_min(cycles):
    """Kills in mid-resync that so many cycles must have had: one in ten, rounded up."""
    return (cycles + 9) // 10 if cycles >= 10 else 0


def play(pair, cycles):
    """The loop; True if nothing was lost and both halves are the same."""
    pair.start()
    client = Client([node.portal for node in pair.nodes], TARGET, BLOCKS, DEPTH)
    story = Story(pair, client)
    client.loading = True
    tried = 0
    while story.counted < cycles and tried < cycles * 2:
        story.cycle(tried % 2)
        tried += 1
        if tried % 4 == 3:
            story.planned(random.randrange(2))
        if tried % 5 == 4:
            story.frozen(random.randrange(2))
        if client.wrong:
            break
    client.drain()
    client.begin_sweep()
    client.drain()
    client.run_until(90, client.is_swept)
    client.close()
    clean = pair.stop()
    code, said = pair.compare()
    print(said, end="")
    writes = client.counts["write"] + client.counts["unmap"]
    pauses = sorted(story.pauses)
    print(f"pause at failover: median {statistics.median(pauses) * 1000:.0f} ms, longest {pauses[-1] * 1000:.0f} ms")
    print(f"{story.kills} kills, {story.in_resync} of them in mid-resync; {story.copied >> 20} MiB copied; "
          f"{client.counts['read']} reads checked, {client.counts['retry']} requests retried, "
          f"{client.sessions} sessions")
    for block, shows in client.wrong[:20]:
        print(f"block {block} reads as write {shows}, which is lost or stale")
    print(f"{story.counted} cycles, {writes} acknowledged writes, {len(client.wrong)} lost")
    print(f"{story.clean_stops} of {story.stops} planned stops under load were clean; {story.freezes} times a node slept past its lease")
    if not clean:
        print("a node did not stop cleanly in the end")
    stopped = clean and story.clean_stops == story.stops
    enough = story.in_resync >= in_resync_min(cycles)
    if not enough:
        print(f"only {story.in_resync} kills in mid-resync, expected at least {in_resync_min(cycles)}")
    return story.counted >= cycles and enough and not client.wrong and stopped and code == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--cycles", type=int, default=20)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--keep", action="store_true")
    args = parser.parse_args()
    seed = random.randrange(1 << 32) if args.seed is None else args.seed
    print(f"seed {seed}", flush=True)
    random.seed(seed)
    directory = tempfile.mkdtemp(prefix="twinsan-kill-")
    pair = Pair(args.binary, directory)
    well = False
    try:
        well = play(pair, args.cycles)
    finally:
        pair.kill()
        if well and not args.keep:
            shutil.rmtree(directory)
        else:
            print(f"the nodes' files and logs are in {directory}")
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
