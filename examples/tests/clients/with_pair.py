#!/usr/bin/env python3
"""Runs a command against a pair of nodes: with_pair.py --binary target/release/twinsand [--dead b] -- COMMAND ...

In the command, {a} and {b} are the URLs of one mirrored volume on the two nodes. --dead kills a node before, and lets it
come back after. In the end the nodes are stopped and their halves compared. The exit status is 0 if the command's was, both stopped cleanly, and the halves are the same.
"""

import argparse
import subprocess
import sys

from nodes import Pair, kept_if_it_fails, wait_until


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--dead", choices="ab")
    parser.add_argument("command", nargs="+")
    args = parser.parse_args()
    with kept_if_it_fails("twinsan-pair-") as directory:
        run(args, Pair(args.binary, directory))


def run(args, pair):
    try:
        pair.start()
        urls = {"a": pair.nodes[0].url(), "b": pair.nodes[1].url()}
        if args.dead:
            dead, alive = pair.nodes if args.dead == "a" else reversed(pair.nodes)
            dead.kill()
            wait_until(60, lambda: (status := alive.status()) and status["state"] == "alone" and status["serving"])
        done = subprocess.run([word.format(**urls) for word in args.command])
        if args.dead:
            dead.start()
            pair.until_paired(60)
        clean = pair.stop()
        code, said = pair.compare()
        print(said, end="")
        print("" if clean else "a node did not stop cleanly\n", end="")
    finally:
        pair.kill()
    if done.returncode != 0 or not clean or code != 0:
        sys.exit(1)


if __name__ == "__main__":
    main()
