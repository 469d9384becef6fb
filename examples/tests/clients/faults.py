#!/usr/bin/env python3
"""Breaks the link between two nodes under load, in every way that a link can break, and counts what was lost.

    faults.py --binary target/release/twinsand [--rounds 16] [--seed N | --plan FILE] [--keep]

A host with two paths writes, reads, flushes and discards, as in kill_loop.py. Node b reaches node a through link.py. In each
round one fault comes at a random moment and goes after a while; some are met by a second one: a node dies or sleeps while the
link is bad, or anything happens in mid-resync. Then the pair must become whole again, and every block is read and
checked through both nodes. Each round is printed before it is played; --plan plays such lines. --keep keeps the nodes' files.

The exit status is 0 if no acknowledged write was lost and no read was stale, no node answered anything while the other
served alone, every connection in which a bit was flipped was dropped by the nodes themselves, no pause was longer than three
times its target, and both halves are the same in the end.
"""

import argparse
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from os import path

import plan
from client import Client
from nodes import TARGET, Pair
from split import Watch, epochs_shared

DEPTH = 24
# A node that holds its answers, or sleeps, goes on being asked.
STUCK_MAX = 120
# 32 MiB of the volume: small enough to be rewritten again and again.
BLOCKS = 8192
# Within so many seconds of the last fault the pair must be whole.
WHOLE_WITHIN = 60
# Seconds within which hosts shall be served again; three times as long fails the run.
TARGETS = {"death": 3, "planned stop": 3}
TARGET_OF_OTHERS = 10
SLACK = 3
LOOK_EVERY = 0.03


class Broken(Exception):
    """There is no point in going on."""


class Link:
    """link.py, as a process."""

    def __init__(self, seed):
        self.seed = seed
        self.process = None

    def lead_to(self, port):
        """Begins to carry; the port that node b calls."""
        command = [sys.executable, "-B", path.join(path.dirname(__file__), "link.py"), str(port), str(self.seed)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return int(self.process.stdout.readline())

    def tell(self, command):
        """Does it; what has been done so far."""
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def counts(self):
        """What has been done so far."""
        return self.tell("count")

    def close(self):
        if self.process:
            self.process.stdin.close()
            self.process.wait()


class Story:
    """A run: what is done to the two nodes and their link, and what is seen of them meanwhile."""

    def __init__(self, pair, link, client):
        self.pair, self.link, self.client = pair, link, client
        self.watch = Watch()
        client.on_success = self.watch.answered
        client.stuck_max = STUCK_MAX
        self.states = [None, None]
        self.looked_at = 0.0
        self.leaving = None
        self.flipped = self.told = 0
        self.begun = Counter()
        self.cuts = 0
        self.pauses = defaultdict(list)
        self.pauses_met = []
        self.troubles = []

    def round(self, todo):
        """One fault, or two, and the pair whole again."""
        second = todo.get("second")
        self.run(todo["after"])
        self.client.take_longest()
        before = self.link.counts()
        begun, epoch = time.monotonic(), self.epoch()
        self.begin(todo)
        if second and second["when"] == "during":
            self.run(second["after"])
            self.begin(second)
            self.run(todo["seconds"] - second["after"])
            self.end(todo)
            self.run(second["seconds"])
            self.end(second)
        else:
            self.run(todo["seconds"])
            if todo["fault"] != "both asleep":
                self.until("a node serves", SLACK * TARGET_OF_OTHERS, self.is_served)
            self.end(todo)
            if second:
                self.until("a resync runs", WHOLE_WITHIN, lambda: self.is_in_resync() or self.is_whole())
                self.run(second["after"])
                self.begin(second)
                self.run(second["seconds"])
                self.end(second)
        healed = time.monotonic()
        self.until("the pair is whole", WHOLE_WITHIN, self.is_whole)
        whole = time.monotonic()
        self.client.begin_sweep()
        self.until("all is read", WHOLE_WITHIN, self.client.is_swept)
        pause = self.client.take_longest()
        self.judge(todo, before, pause)
        self.judge_corruption(todo)
        print(f"    pause {pause * 1000:.0f} ms, whole {whole - healed:.1f} s after it was healed, "
              f"{whole - begun:.1f} s in all, {self.epoch() - epoch} epochs", flush=True)

    def judge(self, todo, before, pause):
        kind = todo["fault"]
        if "second" in todo:
            self.pauses_met.append(pause)
        else:
            self.pauses[kind].append(pause)
            if pause > SLACK * TARGETS.get(kind, TARGET_OF_OTHERS):
                self.troubles.append(f"hosts waited {pause:.1f} s under {kind}")
        if "link" in todo:
            effect = plan.EFFECTS[todo["link"].split()[0]]
            if self.link.counts()[effect] == before[effect]:
                self.troubles.append(f"{kind} had no effect")

    def judge_corruption(self, todo):
        """A connection with a flipped bit ends by itself, and the node that was to receive that bit says why."""
        self.until("corrupted connections are dropped", WHOLE_WITHIN, lambda: not self.link.counts()["flipped_open"])
        flipped = self.link.counts()["flipped"]
        if todo["fault"] == "corruption" and "second" not in todo:
            # Of ten one may be lost with a connection that is dropped for another reason in that moment.
            expected = self.told + (flipped - self.flipped) * 9 // 10
            self.until("flipped bits are noticed by a node", WHOLE_WITHIN, lambda: self.refusals() >= expected)
        self.flipped, self.told = flipped, self.refusals()

    def refusals(self):
        """How often the nodes have dropped the link for what came from the other."""
        return sum(node.told("cannot be used") for node in self.pair.nodes)

    def begin(self, fault):
        self.begun["link" if "link" in fault else fault["fault"]] += 1
        self.cuts += fault["fault"] in plan.CUTS
        if "link" in fault:
            self.link.tell(fault["link"])
        elif fault["fault"] == "death":
            self.until_may_die(self.node(fault))
            self.pair.nodes[self.node(fault)].kill()
        elif fault["fault"] == "planned stop":
            self.stop(self.pair.nodes[self.node(fault)])
        else:
            for node in self.sleepers(fault):
                node.freeze()
        self.look()

    def end(self, fault):
        if "link" in fault:
            self.link.tell("pass")
        elif fault["fault"] in ("death", "planned stop"):
            self.pair.nodes[self.node(fault)].start()
        else:
            for node in self.sleepers(fault):
                node.thaw()

    def node(self, fault):
        return "ab".index(fault["node"])

    def sleepers(self, fault):
        return self.pair.nodes if fault["fault"] == "both asleep" else [self.pair.nodes[self.node(fault)]]

    def stop(self, node):
        """As an operator does; over a bad link it may end as a crash does."""
        self.leaving = node
        node.ask_to_stop()
        self.until("a node has stopped", WHOLE_WITHIN, node.ended)
        self.leaving = node.process = None

    def until_may_die(self, node):
        """Waits until all that was acknowledged is safe without this node's memory.

        A pair promises that for the first failure only: one that has gone on alone may still have in its cache what
        both had, and is the only one whose copy counts; that is over when it has destaged.
        """
        partner = self.pair.nodes[1 - node]

        def is_safe():
            status = self.look()[node]
            state = status and status["state"]
            if state == "alone":
                return status["dirty_bytes"] == 0
            return state not in (None, "deciding") and partner.process

        self.until("a node may die", WHOLE_WITHIN, is_safe)

    def look(self):
        """What each node says of itself; None of one that is dead or asleep."""
        for number, node in enumerate(self.pair.nodes):
            if node.ended() and node is not self.leaving:
                raise Broken(f"node {node.name} ended by itself")
            status = self.states[number] = node.status()
            if status:
                self.watch.looked(number, status["state"], status["epoch"], time.monotonic())
        self.looked_at = time.monotonic()
        return self.states

    def run(self, seconds):
        """Works under load, with an eye on the nodes."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.client.step()
            if time.monotonic() > self.looked_at + LOOK_EVERY:
                self.look()
            if self.watch.split or self.client.wrong:
                raise Broken("a promise was broken, see above")

    def until(self, what, bound, reached):
        end = time.monotonic() + bound
        while not reached():
            if time.monotonic() > end:
                said = [status and (status["state"], status["epoch"], status["serving"]) for status in self.states]
                raise Broken(f"not within {bound} s: {what}; the nodes say {said}")
            self.run(LOOK_EVERY)

    def is_served(self):
        return any(status and status["serving"] and status["state"] in ("paired", "alone") for status in self.look())

    def is_in_resync(self):
        return any(status and status["resync"]["running"] for status in self.look())

    def is_whole(self):
        return self.look() and self.pair.is_paired()

    def epoch(self):
        return max(status["epoch"] for status in self.states if status)


def play(pair, link, rounds):
    """The rounds; what came of them."""
    pair.start()
    client = Client([node.portal for node in pair.nodes], TARGET, BLOCKS, DEPTH)
    story = Story(pair, link, client)
    story.look()
    client.loading = True
    try:
        for todo in rounds:
            print(json.dumps(todo), flush=True)
            story.round(todo)
        finish(story)
    except (Broken, TimeoutError, RuntimeError) as error:
        story.troubles.append(str(error))
    return story


def finish(story):
    """Ends the load, reads all once more, stops both nodes and compares their halves."""
    client, pair = story.client, story.pair
    client.drain()
    client.begin_sweep()
    client.drain()
    client.run_until(90, client.is_swept)
    client.close()
    if not pair.stop():
        story.troubles.append("a node did not stop cleanly in the end")
    code, said = pair.compare()
    print(said, end="")
    if code != 0:
        story.troubles.append("the halves are not the same")


def report(story):
    """Prints what came of it; was all well?"""
    client, counts = story.client, story.link.counts()
    for kind in sorted(story.pauses):
        print(f"pause under {kind}: {spread(story.pauses[kind])}")
    if story.pauses_met:
        print(f"pause under two faults: {spread(story.pauses_met)}")
    if story.pauses:
        print(f"pause under all single faults: {spread(sum(story.pauses.values(), []))}")
    print(f"link: {', '.join(f'{count} {what}' for what, count in counts.items())}")
    print(f"{counts['flipped']} bits flipped between nodes and {counts['flipped_greetings']} in greetings; "
          f"{story.refusals()} times a node dropped the link for what came, {counts['holes_reset']} times both waited for "
          f"what was lost until the connection was reset")
    shared = epochs_shared([node.said() for node in story.pair.nodes])
    for node, kind, epoch in story.watch.split[:20]:
        print(f"node {'ab'[node]} answered a {kind} while the other served alone in epoch {epoch}")
    for epoch in shared:
        print(f"both nodes served in epoch {epoch}, in which one was alone")
    for block, shows in client.wrong[:20]:
        print(f"block {block} reads as write {shows}, which is lost or stale")
    for trouble in story.troubles:
        print(f"WRONG: {trouble}")
    writes = client.counts["write"] + client.counts["unmap"]
    others = ", ".join(f"{what} {count}" for what, count in sorted(story.begun.items()) if what != "link")
    print(f"{story.begun['link']} faults of the link, {story.cuts} of them cut it, {others}")
    print(f"{client.counts['read']} reads checked, {client.counts['retry']} requests retried, {client.sessions} sessions")
    print(f"{writes} acknowledged writes, {len(client.wrong)} lost, {len(story.watch.split) + len(shared)} split-brain acks")
    return not (client.wrong or story.watch.split or shared or story.troubles)


def spread(seconds):
    """Median, 99th percentile and longest."""
    ordered = sorted(seconds)
    high = ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
    return (f"median {statistics.median(ordered) * 1000:.0f} ms, 99 % {high * 1000:.0f} ms, "
            f"longest {ordered[-1] * 1000:.0f} ms, of {len(ordered)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--rounds", type=int, default=len(plan.KINDS))
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--plan", default=None)
    parser.add_argument("--keep", action="store_true")
    args = parser.parse_args()
    seed = random.randrange(1 << 32) if args.seed is None else args.seed
    print(f"seed {seed}", flush=True)
    try:
        if args.plan:
            with open(args.plan) as file:
                rounds = plan.read(file.read())
        else:
            rounds = plan.draw(random.Random(seed), args.rounds)
    except ValueError as error:
        sys.exit(f"{args.plan or '--rounds'}: {error}")
    random.seed(seed)
    directory = tempfile.mkdtemp(prefix="twinsan-faults-")
    link = Link(seed)
    pair = Pair(args.binary, directory, through=link.lead_to)
    well = False
    try:
        well = report(play(pair, link, rounds))
    finally:
        pair.kill()
        link.close()
        if well and not args.keep:
            shutil.rmtree(directory)
        else:
            print(f"the nodes' files and logs are in {directory}")
            for node in pair.nodes if not well else []:
                print(f"the end of what node {node.name} said:", *node.said().splitlines()[-30:], sep="\n    ")
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
