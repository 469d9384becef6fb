"""What will happen in a run: which fault in which round, when, for how long, and what meets it in its midst.

All of it is drawn from a seed before anything happens. A round is a line of JSON, and such lines can be played instead.
"""

import json
import random

# By what is done to the link: the counter of link.py that rises when it had an effect.
EFFECTS = {"cut": "cut", "reset": "reset", "refuse": "refused", "half": "half_open",
           "swallow": "swallowed_bytes", "hold": "held_bytes", "delay": "late_bytes", "rate": "slowed_bytes", "flip": "flipped"}
# Nothing gets through any more, one way or both.
CUTS = ("cut", "reset", "refused", "half-open", "one-way cut", "one-way stall", "black hole", "stall")
LINK_FAULTS = CUTS + ("delay", "delay past the lease", "throttle", "corruption")
NODE_FAULTS = ("death", "sleep", "planned stop")
# Node b calls again at once, then after 20, 40, 80 ms, if it has its turn on a busy machine: in less than so many seconds it may
# not have been refused even once, and then nothing was tested.
REFUSED_MIN = 0.4
KINDS = LINK_FAULTS + NODE_FAULTS + ("both asleep",)


def draw(dice, count):
    """`count` rounds: every kind in turn, in an order that changes, some met by a second one; then every cut three times more.

    A cut is what may split the pair, and no two of them come at the same moment of what the nodes do.
    """
    rounds = []
    if count < 1:
        raise ValueError("a run without rounds shows nothing")
    while len(rounds) < count:
        kinds = list(CUTS if len(rounds) % (len(KINDS) + 3 * len(CUTS)) >= len(KINDS) else KINDS)
        dice.shuffle(kinds)
        rounds += [_round(dice, kind, met=dice.random() < 0.4) for kind in kinds]
    return rounds[:count]


def read(text):
    """The rounds of a file, or of what a run has printed, however far it is indented; there must be some."""
    lines = (line.strip() for line in text.splitlines())
    rounds = [json.loads(line) for line in lines if line.startswith("{")]
    for todo in rounds:
        if not {"fault", "seconds", "after"} <= todo.keys():
            raise ValueError(f"no round: {json.dumps(todo)}")
    if not rounds:
        raise ValueError("there is no round in it: a round is a line that begins with {")
    return rounds


def _round(dice, kind, met):
    plan = _fault(dice, kind)
    plan["after"] = _seconds(dice, 0.1, 0.8)
    if met and dice.random() < 0.5:
        # A node dies, sleeps or stops while the link is bad, or comes back to a bad link, or to nobody.
        others = NODE_FAULTS if kind in LINK_FAULTS else LINK_FAULTS
        if kind == "death" and dice.random() < 0.3:
            others = ("death",)
        plan["second"] = _fault(dice, dice.choice(others))
        least = REFUSED_MIN if kind == "refused" else 0.0
        plan["second"].update(when="during", after=_seconds(dice, least, plan["seconds"]))
        if others == ("death",):
            plan["second"]["node"] = "b" if plan["node"] == "a" else "a"
    elif met:
        plan["second"] = _fault(dice, dice.choice(LINK_FAULTS + NODE_FAULTS * 2))
        plan["second"].update(when="resync", after=_seconds(dice, 0.0, 0.2))
    return plan


def _fault(dice, kind):
    one, some = dice.choice(("ab", "ba")), dice.choice(("ab", "ba", "both"))
    # Shorter than the link's grace, about as long as the lease, and longer than both.
    spans = (_seconds(dice, 0.05, 0.8), _seconds(dice, 1.5, 2.6), _seconds(dice, 3.0, 5.0))
    fault = {"fault": kind, "seconds": dice.choice(spans)}
    if kind == "both asleep":
        return fault
    if kind in NODE_FAULTS:
        return {**fault, "node": dice.choice("ab")}
    done = {
        "cut": "cut",
        "reset": "reset",
        "refused": "refuse",
        "half-open": f"half {one[0]}",
        "one-way cut": f"swallow {one}",
        "one-way stall": f"hold {one}",
        "black hole": "swallow both",
        "stall": "hold both",
        "delay": f"delay {some} {dice.choice((2, 30, 300))} {dice.choice((0, 20, 400))}",
        "delay past the lease": f"delay {some} {dice.choice((1500, 2500))} 500",
        "throttle": f"rate {some} {dice.choice((100_000, 1_000_000, 10_000_000))}",
        "corruption": f"flip {some} {dice.choice((3_000, 100_000))}",
    }
    if kind in ("delay past the lease", "throttle", "corruption"):
        fault["seconds"] = max(spans)
    elif kind == "refused":
        fault["seconds"] = max(fault["seconds"], REFUSED_MIN)
    return {**fault, "link": done[kind]}


def _seconds(dice, least, most):
    return round(dice.uniform(least, most), 2)


def _takes_what_a_run_has_printed():
    """The reader's own exam: rounds are found wherever they stand, and a file without any is an error."""
    rounds = draw(random.Random(1), 200)
    printed = "".join(f"    {json.dumps(todo, sort_keys=True)}\r\n        pause 12 ms, whole\n" for todo in rounds)
    assert read(f"seed 1\n{printed}") == rounds, "indented, in another order, between other lines"
    for text in ("", "seed 1\n", '"fault": "cut"', '{"seconds": 1}', '{"fault": "cut"', "{}"):
        try:
            read(text)
        except ValueError:
            continue
        raise AssertionError(f"{text} was taken")
    for todo in rounds:
        assert todo["fault"] != "refused" or todo["seconds"] >= REFUSED_MIN


def _cuts_the_link_often_enough():
    """What `.ci/run` counts on: of so many rounds, whatever the seed, fifty cut the link, and every fault comes twice."""
    for seed in range(100):
        kinds = [todo["fault"] for todo in draw(random.Random(seed), 66)]
        assert sum(kind in CUTS for kind in kinds) >= 50
        assert all(kinds.count(kind) >= 2 for kind in KINDS)


if __name__ == "__main__":
    _cuts_the_link_often_enough()
    _takes_what_a_run_has_printed()
