"""Two nodes as processes: started, killed, asked, stopped. Only processes started here are ever ended, by their id."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time

TARGET = "iqn.2026-01.example.twinsan:test"


def wait_until(bound, reached, every=0.02):
    """What `reached` gives as soon as it is true; an error after `bound` seconds."""
    end = time.monotonic() + bound
    while True:
        found = reached()
        if found:
            return found
        if time.monotonic() > end:
            raise TimeoutError(f"not within {bound} s")
        time.sleep(every)


@contextlib.contextmanager
def kept_if_it_fails(prefix):
    """A directory, removed in the end unless by an exception."""
    directory = tempfile.mkdtemp(prefix=prefix)
    try:
        yield directory
    except BaseException:
        print(f"the nodes' files and logs are in {directory}")
        raise
    shutil.rmtree(directory)


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Node:
    def __init__(self, binary, directory, name, port, text):
        self.binary, self.name, self.port = binary, name, port
        self.portal = f"127.0.0.1:{port}"
        self.config = os.path.join(directory, f"{name}.toml")
        self.log = os.path.join(directory, f"{name}.log")
        self.socket = os.path.join(directory, name, "status.sock")
        self.process = None
        self.asleep = False
        with open(self.config, "w") as file:
            file.write(text)

    def url(self, lun=0):
        return f"iscsi://{self.portal}/{TARGET}/{lun}"

    def start(self):
        with open(self.log, "a") as log:
            command = [self.binary, "run", "--with-parent", "--config", self.config]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log)

    def kill(self):
        """As a power failure would."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None
            self.asleep = False

    def ask_to_stop(self):
        self.process.send_signal(signal.SIGTERM)

    def freeze(self):
        self.process.send_signal(signal.SIGSTOP)
        self.asleep = True

    def thaw(self):
        self.process.send_signal(signal.SIGCONT)
        self.asleep = False

    def stop(self):
        """Clean stop; was it one?"""
        self.ask_to_stop()
        code = self.process.wait(timeout=40)
        self.process = None
        return code == 0

    def ended(self):
        """Has it ended by itself?"""
        return self.process is not None and self.process.poll() is not None

    def status(self):
        """What it says of itself; None if it does not answer."""
        if self.asleep:
            return None
        try:
            with socket.socket(socket.AF_UNIX) as stream:
                stream.settimeout(5)
                stream.connect(self.socket)
                parts = []
                while part := stream.recv(65536):
                    parts.append(part)
            return json.loads(b"".join(parts))
        except (OSError, ValueError):
            return None

    def said(self):
        """Its log, of all its lives."""
        with open(self.log) as file:
            return file.read()

    def told(self, what):
        """How often that is in its log."""
        return self.said().count(what)

    def is_open(self):
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            return True
        except OSError:
            return False


class Pair:
    def __init__(self, binary, directory, size="8GiB", through=lambda port: port):
        """`through` gives the port that node b calls, for the one on which node a listens for it."""
        self.directory = directory
        link, *ports = free_ports(3)
        links = (link, through(link))
        self.nodes = [
            Node(binary, directory, name, ports[n], _configuration(name, links[n], ports[n], ports[1 - n], size))
            for n, name in enumerate("ab")
        ]

    def start(self):
        for node in self.nodes:
            node.start()
        self.until_paired(60)

    def is_paired(self):
        for node in self.nodes:
            if node.ended():
                raise RuntimeError(f"node {node.name} ended by itself; see {node.log}")
        states = [node.status() for node in self.nodes]
        paired = all(status and status["state"] == "paired" and status["serving"] for status in states)
        return paired and all(node.is_open() for node in self.nodes)

    def until_paired(self, bound):
        wait_until(bound, self.is_paired)

    def kill(self):
        for node in self.nodes:
            node.kill()

    def stop(self):
        """Stops both, one after the other; were both clean?"""
        return all([node.stop() for node in self.nodes])

    def compare(self):
        """Checks both pools offline and compares the halves; the exit status and what was said."""
        a, b = self.nodes
        command = [a.binary, "check", "--config", a.config, "--compare", b.config]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        return done.returncode, done.stdout + done.stderr


def _configuration(name, link, port, partners, size):
    return f"""
[node]
name = "{name}"
directory = "{name}"
[partnership]
name = "test"
[[pool]]
name = "main"
disks = [{{ path = "disk0.img", size = "{size}" }}]
[[volume]]
id = 1
name = "v"
size = "64GiB"
mirrored = true
[[host]]
name = "any"
iqns = ["*"]
[[mapping]]
volume = "v"
host = "any"
lun = 0
[target]
iqn = "{TARGET}"
portals = ["127.0.0.1:{port}"]
[partner]
link = "127.0.0.1:{link}"
portals = ["127.0.0.1:{partners}"]
[arbiter]
file = "register"
"""
