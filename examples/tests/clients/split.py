"""Split brain, seen from outside: what one node answered while the other served alone.

A node that is found alone twice in the same epoch was so all the time between: to serve in any other way it needs a higher
epoch. A request that was sent to its partner after the first look and answered before the second was answered by a node
that had no right to it, even if every block looks right afterwards.
"""

import re


class Watch:
    """Is told of every answer, and of what each node says of itself now and then."""

    def __init__(self):
        # Of each node: the epoch in which it was found alone, and since when.
        self.alone = [None, None]
        # Answers of each node that the next look at the other will judge.
        self.open = [[], []]
        self.split = []

    def answered(self, node, kind, sent):
        """A request that was sent to a node at `sent` has just been answered with success."""
        other = self.alone[1 - node]
        if other and sent >= other[1]:
            self.open[node].append(kind)

    def looked(self, node, state, epoch, told):
        """The node was asked after all answers so far, and told this at `told`."""
        judged, self.open[1 - node] = self.open[1 - node], []
        before = self.alone[node]
        if state != "alone":
            self.alone[node] = None
        elif before and before[0] == epoch:
            self.split += [(1 - node, kind, epoch) for kind in judged]
        else:
            self.alone[node] = (epoch, told)


def epochs_shared(logs):
    """Epochs that, by the nodes' own logs, one of them served alone in, and the other served in too."""
    alone, served = [], []
    for log in logs:
        told = re.findall(r"serves (alone|in a pair), epoch (\d+)", log)
        alone.append({int(epoch) for how, epoch in told if how == "alone"})
        served.append({int(epoch) for _, epoch in told})
    return sorted(alone[0] & served[1] | alone[1] & served[0])


def _finds_what_must_not_be():
    """The watch's own exam: what is lawful passes, an answer beside a node alone is found."""
    watch = Watch()
    watch.looked(0, "paired", 4, 1.0)
    watch.answered(1, "write", 1.5)
    watch.looked(0, "alone", 5, 2.0)
    watch.answered(1, "read", 1.9)
    watch.answered(0, "write", 2.1)
    watch.looked(0, "alone", 5, 3.0)
    assert not watch.split, "sent before it was known to be alone, or answered by the one alone"
    watch.answered(1, "write", 2.5)
    watch.looked(0, "paired", 6, 4.0)
    assert not watch.split, "it may have been a pair again when that was answered"
    watch.looked(0, "alone", 7, 5.0)
    watch.answered(1, "write", 5.5)
    watch.looked(0, "alone", 9, 6.0)
    assert not watch.split, "between two times alone it may have been a pair"
    watch.answered(1, "write", 6.5)
    watch.looked(0, "alone", 9, 7.0)
    assert watch.split == [(1, "write", 9)], "two answered, without each other"
    assert epochs_shared(["x: serves in a pair, epoch 3\nx: serves alone, epoch 4\n", "serves in a pair, epoch 3"]) == []
    assert epochs_shared(["x: serves alone, epoch 4\n", "y: serves alone, epoch 4\n"]) == [4]
    assert epochs_shared(["x: serves in a pair, epoch 4\n", "y: serves alone, epoch 4\n"]) == [4]


if __name__ == "__main__":
    _finds_what_must_not_be()
