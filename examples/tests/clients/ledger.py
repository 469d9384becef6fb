"""What a host may read: of every block, the writes whose content may be there.

A write has settled when it was acknowledged, or its content was read. From then on nothing may be seen that had settled
before it began; and once a read has shown one write, nothing that had settled before that read. Writes that overlap in
time may come in either order. A write that was refused, or not answered, and is sent again, is another one with the same
content: it may have taken effect before, been overwritten, and take effect once more. Every write has an id and fills its
blocks with it; 0 stands for zeros.
"""

import struct
from collections import deque

BLOCK = 4096


def content(identity, block):
    """The content of a block written by write `identity`."""
    return struct.pack("<QQ", identity, block) * (BLOCK // 16) if identity else bytes(BLOCK)


def identity_of(data, block):
    """The id of the write whose content this is; None if it is nobody's."""
    identity = struct.unpack_from("<Q", data)[0]
    return identity if data == content(identity, block) else None


class _Write:
    __slots__ = ("identity", "shows", "began", "settled")

    def __init__(self, identity, shows, began, settled=None):
        self.identity, self.shows, self.began, self.settled = identity, shows, began, settled


class Ledger:
    """Of the first `blocks` blocks of a volume, zero at first."""

    def __init__(self, blocks):
        self.now = 1
        self.next_identity = 1
        self.possible = [[_Write(0, 0, 0, 0)] for _ in range(blocks)]
        self.gone = [deque(maxlen=64) for _ in range(blocks)]

    def tick(self):
        self.now += 1
        return self.now

    def begin_write(self, first, count, zeros=False):
        """A write, or with `zeros` a discard, begins; its id."""
        identity = self.next_identity
        self.next_identity += 1
        self.begin_again(identity, first, count, zeros)
        return identity

    def begin_again(self, identity, first, count, zeros=False):
        """A write is sent once more: it may take effect now, whatever became of it before."""
        began = self.tick()
        for block in range(first, first + count):
            self.possible[block].append(_Write(identity, 0 if zeros else identity, began))

    def acknowledged(self, identity, first, count):
        """The last attempt has succeeded; those before it can have no effect after it."""
        now = self.tick()
        for block in range(first, first + count):
            attempts = [write for write in self.possible[block] if write.identity == identity]
            if attempts:
                self._drop(block, now, lambda other: other in attempts[:-1])
                self._settle(block, attempts[-1], now)

    def _settle(self, block, write, now):
        write.settled = now if write.settled is None else min(write.settled, now)
        self._drop(block, now, lambda other: other is not write and other.settled is not None
                   and other.settled <= write.began)

    def _drop(self, block, now, overwritten):
        kept = [write for write in self.possible[block] if not overwritten(write)]
        if len(kept) != len(self.possible[block]):
            self.gone[block].extend((write.shows, now) for write in self.possible[block] if write not in kept)
            self.possible[block] = kept

    def begin_read(self):
        return self.tick()

    def read(self, since, first, data):
        """Blocks read since `since`; those that must not read so."""
        now = self.tick()
        wrong = []
        for number, at in enumerate(range(0, len(data), BLOCK)):
            block = first + number
            shows = identity_of(data[at:at + BLOCK], block)
            fitting = [write for write in self.possible[block] if write.shows == shows]
            earlier = any(gone == shows and moment > since for gone, moment in self.gone[block])
            if not fitting and not earlier:
                wrong.append((block, shows))
            elif len(fitting) == 1 and not earlier:
                self._settle(block, fitting[0], now)
                self._drop(block, now, lambda other: other is not fitting[0] and other.settled is not None
                           and other.settled < since)
        return wrong


def _finds_what_must_not_be():
    """The checker's own exam: what is lawful passes, a lost write and a stale read are found."""
    def read(ledger, identity, since=None):
        return ledger.read(ledger.begin_read() if since is None else since, 0, content(identity, 0))

    ledger = Ledger(1)
    early = ledger.begin_read()
    first = ledger.begin_write(0, 1)
    assert not read(ledger, 0), "not acknowledged: the old content"
    assert not read(ledger, first), "or the new one"
    assert read(ledger, 0), "stale: the new one was read"
    ledger.acknowledged(first, 0, 1)
    assert not read(ledger, 0, early), "a read that began before"
    second = ledger.begin_write(0, 1)
    ledger.acknowledged(second, 0, 1)
    assert read(ledger, first), "lost: acknowledged and overwritten by its predecessor"
    assert not read(ledger, second)
    pair = [ledger.begin_write(0, 1), ledger.begin_write(0, 1, zeros=True)]
    for identity in pair:
        ledger.acknowledged(identity, 0, 1)
    assert not read(ledger, 0), "overlapping: either may be last"
    assert read(ledger, pair[0]), "and then it is known which"
    assert ledger.read(ledger.begin_read(), 0, bytes([7]) * BLOCK), "nobody's bytes"

    ledger = Ledger(1)
    retried = ledger.begin_write(0, 1)
    assert not read(ledger, retried), "not acknowledged, but done"
    later = ledger.begin_write(0, 1)
    ledger.acknowledged(later, 0, 1)
    assert read(ledger, retried), "overwritten"
    ledger.begin_again(retried, 0, 1)
    assert not read(ledger, later), "not done once more yet"
    assert not read(ledger, retried), "but then"
    ledger.acknowledged(retried, 0, 1)
    assert read(ledger, later), "lost: the second attempt was acknowledged"
    last = ledger.begin_write(0, 1)
    ledger.acknowledged(last, 0, 1)
    assert read(ledger, retried), "stale: neither attempt may come after that"


if __name__ == "__main__":
    _finds_what_must_not_be()
