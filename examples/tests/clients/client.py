"""A host with two paths: many requests at once, each retried on the other path until it succeeds, each checked."""

import random
import time

from ledger import Ledger, content
from libiscsi import CHECK_CONDITION, GOOD, Path, serve

EXTENT_BLOCKS = 256
SWEEP_BLOCKS = 64
# A request that neither path has answered after this many seconds fails the run.
PATIENCE = 90
# After both paths have refused a request it is not tried again for so many seconds.
REFUSED_PAUSE = 0.01
# A request that waits longer than this is stuck: a node holds it, or says nothing at all.
STUCK_AFTER = 0.3


class Request:
    __slots__ = ("kind", "first", "count", "identity", "data", "begun", "since", "path", "fua", "sweep", "sent", "refused",
                 "not_before")

    def __init__(self, kind, first, count, path, sweep=False):
        self.kind, self.first, self.count, self.path, self.sweep = kind, first, count, path, sweep
        self.begun = time.monotonic()
        self.identity = self.data = self.since = self.sent = None
        self.fua = random.random() < 0.05
        self.refused, self.not_before = 0, 0.0


class Client:
    """`depth` requests at once on the first `blocks` blocks of a LUN, over both portals."""

    def __init__(self, portals, target, blocks, depth):
        self.portals, self.target, self.depth = portals, target, depth
        self.blocks = blocks
        self.ledger = Ledger(blocks)
        self.paths = [None, None]
        self.retry_at = [0.0, 0.0]
        self.waiting = []
        # So many more at once while others are stuck, so that a node that holds some is asked for more.
        self.stuck_max = 0
        self.asked = set()
        self.loading = False
        self.sweep_left = []
        self.sweeping = 0
        self.counts = {"write": 0, "read": 0, "flush": 0, "unmap": 0, "retry": 0}
        self.wrong = []
        self.longest = 0.0
        self.sessions = 0
        # Hears of every success: the path, what it was, and when it was sent there.
        self.on_success = lambda path, kind, sent: None

    def step(self, timeout_ms=5):
        """Lets everything go on a little."""
        self._tend_paths()
        depth = self.depth + self._stuck()
        while self.loading and len(self.asked) + len(self.waiting) < depth:
            self.waiting.append(self._dice())
        while self.sweep_left and self.sweeping < 8:
            path, first = self.sweep_left.pop()
            count = min(SWEEP_BLOCKS, self.blocks - first)
            self.sweeping += 1
            self.waiting.append(Request("read", first, count, path, sweep=True))
        self._submit()
        serve([path for path in self.paths if path], timeout_ms)

    def run(self, seconds):
        """Works for a while."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.step()

    def run_until(self, bound, reached):
        """Works until `reached`, asked now and then."""
        end = time.monotonic() + bound
        while True:
            found = reached()
            if found:
                return found
            if time.monotonic() > end:
                raise TimeoutError(f"not within {bound} s")
            self.run(0.02)

    def drain(self):
        """Ends the load and waits for what is in progress."""
        self.loading = False
        self.run_until(PATIENCE, lambda: not self.asked and not self.waiting and not self.sweep_left)

    def begin_sweep(self, paths=(0, 1)):
        """Reads and checks every block, through the given paths where they serve, beside the load."""
        for path in paths:
            self.sweep_left += [(path, first) for first in range(0, self.blocks, SWEEP_BLOCKS)]

    def is_swept(self):
        return not self.sweep_left and not self.sweeping

    def take_longest(self):
        longest, self.longest = self.longest, 0.0
        return longest

    def close(self):
        for number, path in enumerate(self.paths):
            if path:
                self._close(number)

    def _judge(self, request, data):
        wrong = self.ledger.read(request.since, request.first, data)
        if wrong:
            self.wrong += wrong
            print(f"wrong: a read of blocks {request.first} to {request.first + request.count - 1} through path {request.path}, "
                  f"sent {time.monotonic() - request.sent:.3f} s before it was answered, begun "
                  f"{time.monotonic() - request.begun:.3f} s before", flush=True)

    def _stuck(self):
        late = time.monotonic() - STUCK_AFTER
        return min(self.stuck_max, sum(request.begun < late for request in self.asked))

    def _dice(self):
        dice, path = random.random(), random.randrange(2)
        if dice < 0.03:
            return Request("flush", 0, 0, path)
        if dice < 0.035:
            return Request("unmap", random.randrange(self.blocks // EXTENT_BLOCKS) * EXTENT_BLOCKS, EXTENT_BLOCKS, path)
        count = random.choice((1, 1, 2, 4, 8, 16))
        first = random.randrange(self.blocks - count + 1)
        if dice < 0.05:
            return Request("unmap", first, count, path)
        return Request("write" if dice < 0.65 else "read", first, count, path)

    def _tend_paths(self):
        now = time.monotonic()
        for number, path in enumerate(self.paths):
            if path and path.failed:
                self._close(number)
                self.retry_at[number] = now + 0.1
            elif not path and now >= self.retry_at[number]:
                self.sessions += 1
                self.paths[number] = Path(self.portals[number], self.target, 0, number)

    def _close(self, number):
        path, self.paths[number] = self.paths[number], None
        path.close()

    def _submit(self):
        waiting, self.waiting = self.waiting, []
        now = time.monotonic()
        for request in waiting:
            if now - request.begun > PATIENCE:
                raise TimeoutError(f"a {request.kind} was not answered for {PATIENCE} s")
            if now < request.not_before:
                self.waiting.append(request)
                continue
            path = self.paths[request.path]
            if not (path and path.up and not path.failed):
                request.path = 1 - request.path
                path = self.paths[request.path]
            if path and path.up and not path.failed:
                self._send(path, request)
            else:
                self.waiting.append(request)

    def _send(self, path, request):
        if request.kind in ("write", "unmap"):
            self._begin_write(request)
        if request.kind == "write" and request.data is None:
            blocks = range(request.first, request.first + request.count)
            request.data = b"".join(content(request.identity, block) for block in blocks)
        if request.since is None:
            request.since = self.ledger.begin_read()

        def done(status, data):
            self.asked.discard(request)
            self._answered(request, status, data)

        self.asked.add(request)
        request.sent = time.monotonic()
        try:
            if request.kind == "write":
                path.write(request.first, request.data, request.fua, done)
            elif request.kind == "read":
                path.read(request.first, request.count, done)
            elif request.kind == "unmap":
                path.unmap(request.first, request.count, done)
            else:
                path.flush(done)
        except ConnectionError:
            self.asked.discard(request)
            self.waiting.append(request)

    def _begin_write(self, request):
        where = (request.first, request.count, request.kind == "unmap")
        if request.identity is None:
            request.identity = self.ledger.begin_write(*where)
        else:
            self.ledger.begin_again(request.identity, *where)

    def _answered(self, request, status, data):
        if status != GOOD:
            self.counts["retry"] += 1
            path = self.paths[request.path]
            if status != CHECK_CONDITION and path:
                # What the other end may still do with a request that it did not answer ends with the session.
                path.failed = True
            request.path = 1 - request.path
            request.refused += 1
            if request.refused % 2 == 0:
                request.not_before = time.monotonic() + REFUSED_PAUSE
            self.waiting.append(request)
            return
        self.on_success(request.path, request.kind, request.sent)
        self.longest = max(self.longest, time.monotonic() - request.begun)
        self.counts[request.kind] += 1
        if request.kind in ("write", "unmap"):
            self.ledger.acknowledged(request.identity, request.first, request.count)
        elif request.kind == "read":
            self._judge(request, data)
        if request.sweep:
            self.sweeping -= 1
