#!/usr/bin/env python3
"""The mirror link with faults on command: carries the connections that node b makes to node a.

    link.py PORT_OF_NODE_A [SEED]

First it prints the port that node b shall call. Then it takes one command a line, and answers each, once it is in force,
with a line of JSON: what was done to connections and bytes so far. It ends with its input.

    cut                     every connection is closed at both ends
    reset                   the same with RST
    refuse                  the same, and every new one too
    half END                every connection is closed at one end, a or b; the other end, until it passes again, hears nothing
    swallow WAY             bytes are lost, and nobody hears that the other end has closed; connections stay open
    hold WAY                bytes stay on their way, and arrive when it passes again, however old
    delay WAY MS JITTER_MS  every byte comes later, in order
    rate WAY BYTES          at most so many bytes a second
    flip WAY BYTES          one bit of each connection is flipped, after so many bytes on average
    pass                    ends all this
    count                   does nothing more

WAY is ab, from node a to node b, or ba, or both. After `swallow` a stream goes on with a hole in it, after `hold` without. A
hole shows with the next frame; TCP itself has none. Nodes that both wait for what was lost, and so send nothing, are not left
alone with it for ever: after a while the connection is reset, as by a firewall that has forgotten it.
"""

import asyncio
import json
import random
import socket
import struct
import sys
import time

CHUNK_BYTES = 32 << 10
# What may be on its way, as in the buffers of a switch.
LINE_BYTES = 1 << 20
GREETING_BYTES = 64
# So many seconds after the link passes again a stream with a hole in it is reset.
HOLE_PATIENCE = 5
COUNTED = ("connections", "cut", "reset", "refused", "half_open", "swallowed_bytes", "held_bytes", "late_bytes", "slowed_bytes",
           "flipped", "flipped_greetings", "holes_reset")


class Way:
    """One direction: what is done to its bytes."""

    def __init__(self):
        self.passes = asyncio.Event()
        self.heal()

    def heal(self):
        self.loses = self.holds = False
        self.delay_ms = self.jitter_ms = self.rate = self.flip_every = 0
        self.passes.set()

    def stop(self, loses):
        self.loses, self.holds = loses, not loses
        self.passes.clear()


class Stream:
    """One direction of one connection: what arrives waits for its turn, and leaves."""

    def __init__(self, connection, way, source, sink):
        self.connection, self.way, self.source, self.sink = connection, way, source, sink
        self.counts = connection.link.counts
        self.line = asyncio.Queue()
        self.room = asyncio.Event()
        self.line_bytes = 0
        self.passed_bytes = 0
        self.flip_in = None

    async def arrive(self):
        data = True
        while data:
            data = await received(self.source)
            late = self.way.delay_ms + self.connection.link.dice.random() * self.way.jitter_ms
            self.counts["late_bytes"] += len(data) if late else 0
            self.line.put_nowait((time.monotonic() + late / 1000, data))
            self.line_bytes += len(data)
            while self.line_bytes > LINE_BYTES:
                self.room.clear()
                await self.room.wait()

    async def leave(self):
        """Returns when the other end may hear that this one has closed."""
        while True:
            due, data = await self.line.get()
            early = due - time.monotonic()
            if early > 0:
                await asyncio.sleep(early)
            if self.way.holds:
                self.counts["held_bytes"] += len(data)
                await self.way.passes.wait()
            if not data:
                await self.way.passes.wait()
                return
            self.line_bytes -= len(data)
            self.room.set()
            if self.way.loses:
                self.counts["swallowed_bytes"] += len(data)
                self.connection.has_hole = True
            else:
                await self.send(self.flipped(data))

    async def send(self, data):
        self.passed_bytes += len(data)
        if self.way.rate:
            self.counts["slowed_bytes"] += len(data)
            await asyncio.sleep(len(data) / self.way.rate)
        try:
            await asyncio.get_running_loop().sock_sendall(self.sink, data)
        except OSError:
            pass  # That end has closed, and says so on the other stream.

    def flipped(self, data):
        """The data, with a bit flipped if it is this connection's time for that."""
        if not self.way.flip_every or self.connection.flipped:
            return data
        dice = self.connection.link.dice
        if self.flip_in is None:
            self.flip_in = int(dice.expovariate(1 / self.way.flip_every))
        at, self.flip_in = self.flip_in, self.flip_in - len(data)
        if at >= len(data):
            return data
        in_greeting = self.passed_bytes + at < GREETING_BYTES
        self.counts["flipped_greetings" if in_greeting else "flipped"] += 1
        self.connection.flipped = True
        changed = bytearray(data)
        changed[at] ^= 1 << dice.randrange(8)
        return bytes(changed)


class Connection:
    """A connection of node b, and the one to node a that goes with it."""

    def __init__(self, link, near, far):
        self.link = link
        self.flipped = self.has_hole = False
        self.ends = (near, far)
        self.ended = asyncio.get_running_loop().create_future()

    async def carry(self):
        near, far = self.ends
        streams = [Stream(self, self.link.ways["ba"], near, far), Stream(self, self.link.ways["ab"], far, near)]
        arrivals = [asyncio.create_task(stream.arrive()) for stream in streams]
        departures = [asyncio.create_task(stream.leave()) for stream in streams]
        await asyncio.wait([*departures, self.ended], return_when=asyncio.FIRST_COMPLETED)
        # Nobody may wait for a socket that is closed: its number is soon another's.
        for task in arrivals + departures:
            task.cancel()
        await asyncio.gather(*arrivals, *departures, return_exceptions=True)
        how = self.ended.result() if self.ended.done() else "cut"
        if how in ("a", "b"):
            close(far if how == "a" else near)
            await self.link.ways["ab"].passes.wait()
        for end in self.ends:
            close(end, abruptly=how == "reset")

    def end(self, how):
        """Ends it: in order (`cut`), abruptly (`reset`), or at one end only."""
        if not self.ended.done():
            self.ended.set_result(how)


class Link:
    def __init__(self, port, dice):
        self.port, self.dice = port, dice
        self.ways = {"ab": Way(), "ba": Way()}
        self.connections = set()
        self.refuses = False
        self.counts = dict.fromkeys(COUNTED, 0)

    async def accept(self, listener):
        loop = asyncio.get_running_loop()
        tasks = set()
        while True:
            near, _ = await loop.sock_accept(listener)
            task = loop.create_task(self.connect(near))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    async def connect(self, near):
        far = quick(socket.socket())
        try:
            if self.refuses:
                self.counts["refused"] += 1
                raise ConnectionRefusedError
            await asyncio.get_running_loop().sock_connect(far, ("127.0.0.1", self.port))
        except OSError:
            far.close()
            close(near, abruptly=True)
            return
        self.counts["connections"] += 1
        connection = Connection(self, quick(near), far)
        self.connections.add(connection)
        await connection.carry()
        self.connections.discard(connection)

    def do(self, verb, way="both", *numbers):
        """Does what a command says; what was done so far."""
        numbers = [int(number) for number in numbers]
        if verb in ("cut", "reset", "refuse", "half"):
            self.refuses = verb in ("refuse", "half")
            self.counts[{"cut": "cut", "half": "half_open"}.get(verb, "reset")] += len(self.connections)
            for connection in self.connections:
                connection.end({"cut": "cut", "half": way}.get(verb, "reset"))
        elif verb == "pass":
            self.refuses = False
            holes = [connection for connection in self.connections if connection.has_hole]
            asyncio.get_running_loop().call_later(HOLE_PATIENCE, self.reset, holes)
        for each in [way] if way in self.ways else self.ways:
            self.change(self.ways[each], verb, numbers)
        flipped = sum(connection.flipped for connection in self.connections)
        return {**self.counts, "open": len(self.connections), "flipped_open": flipped}

    def reset(self, connections):
        """Resets those of these connections that are still open."""
        for connection in self.connections.intersection(connections):
            self.counts["holes_reset"] += 1
            connection.end("reset")

    def change(self, way, verb, numbers):
        if verb == "pass":
            way.heal()
        elif verb in ("swallow", "hold", "half"):
            way.stop(loses=verb != "hold")
        elif verb == "delay":
            way.delay_ms, way.jitter_ms = numbers
        elif verb == "rate":
            way.rate, = numbers
        elif verb == "flip":
            way.flip_every, = numbers


async def received(source):
    """What comes next; nothing when that end has closed, in whatever way."""
    try:
        return await asyncio.get_running_loop().sock_recv(source, CHUNK_BYTES)
    except OSError:
        return b""


def quick(end):
    end.setblocking(False)
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return end


def close(end, abruptly=False):
    if abruptly:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.close()


def say(what):
    print(json.dumps(what), flush=True)


async def main():
    link = Link(int(sys.argv[1]), random.Random(int(sys.argv[2]) if len(sys.argv) > 2 else None))
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    ended = asyncio.Event()

    def command():
        line = sys.stdin.readline()
        if line:
            say(link.do(*line.split()))
        else:
            ended.set()

    asyncio.get_running_loop().add_reader(sys.stdin, command)
    say(listener.getsockname()[1])
    accepting = asyncio.create_task(link.accept(listener))
    await ended.wait()
    accepting.cancel()


if __name__ == "__main__":
    asyncio.run(main())
