#!/usr/bin/env python3
"""Persistent reservations over two nodes, as a cluster uses them: reserve.py --binary target/release/twinsand

Two hosts with a path to each node, and a stranger, by libiscsi. What one node is told holds on both, when either is killed,
and when both were off.
"""

import argparse
import ctypes
import struct

from nodes import TARGET, Pair, kept_if_it_fails, wait_until

GOOD, CHECK_CONDITION, BUSY, CONFLICT = 0, 2, 8, 0x18
NORMAL_SESSION = 2
NOTHING, TO_HOST, FROM_HOST = 0, 1, 2
UNIT_ATTENTION, NOT_READY = 6, 2
PREEMPTED = 0x2A05
REGISTER, RESERVE, CLEAR, PREEMPT_AND_ABORT = 0, 1, 3, 5
WRITE_EXCLUSIVE_REGISTRANTS_ONLY = 5


class Data(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("bytes", ctypes.c_char_p)]


class Task(ctypes.Structure):
    """As much of libiscsi's as is looked at here."""

    _fields_ = [
        ("status", ctypes.c_int),
        ("cdb_size", ctypes.c_int),
        ("direction", ctypes.c_int),
        ("expected", ctypes.c_int),
        ("cdb", ctypes.c_ubyte * 16),
        ("residual_status", ctypes.c_int),
        ("residual", ctypes.c_size_t),
        ("error_type", ctypes.c_ubyte),
        ("key", ctypes.c_int),
        ("code", ctypes.c_int),
    ]


def load():
    library = ctypes.CDLL("libiscsi.so.7")
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    task = ctypes.POINTER(Task)
    shapes = {
        "iscsi_create_context": (pointer, [text]),
        "iscsi_destroy_context": (number, [pointer]),
        "iscsi_set_targetname": (number, [pointer, text]),
        "iscsi_set_session_type": (number, [pointer, number]),
        "iscsi_set_noautoreconnect": (None, [pointer, number]),
        "iscsi_set_timeout": (number, [pointer, number]),
        "iscsi_set_isid_oui": (number, [pointer, number, number]),
        "iscsi_full_connect_sync": (number, [pointer, text, number]),
        "iscsi_get_error": (text, [pointer]),
        "iscsi_scsi_command_sync": (task, [pointer, number, task, ctypes.POINTER(Data)]),
        "scsi_create_task": (task, [number, text, number, number]),
        "scsi_task_add_data_in_buffer": (number, [task, number, pointer]),
        "scsi_free_scsi_task": (None, [task]),
    }
    for function, (result, arguments) in shapes.items():
        getattr(library, function).restype = result
        getattr(library, function).argtypes = arguments
    return library


LIB = load()


class Path:
    """One session of a host with one node. `attentions` are the unit attentions that it was told."""

    def __init__(self, host, node):
        self.name = f"iqn.2026-01.example.host:{host}"
        self.node = node
        self.attentions = []
        self.context = LIB.iscsi_create_context(self.name.encode())
        LIB.iscsi_set_targetname(self.context, TARGET.encode())
        LIB.iscsi_set_session_type(self.context, NORMAL_SESSION)
        LIB.iscsi_set_noautoreconnect(self.context, 1)
        LIB.iscsi_set_timeout(self.context, 30)
        # The same initiator port, whenever it comes.
        LIB.iscsi_set_isid_oui(self.context, 0x1234, sum(host.encode()))
        if LIB.iscsi_full_connect_sync(self.context, node.portal.encode(), 0) != 0:
            raise ConnectionError((LIB.iscsi_get_error(self.context) or b"").decode())

    def close(self):
        LIB.iscsi_destroy_context(self.context)

    def _once(self, cdb, data, length):
        direction = FROM_HOST if data else TO_HOST if length else NOTHING
        task = LIB.scsi_create_task(len(cdb), bytes(cdb), direction, len(data) or length)
        buffer = ctypes.create_string_buffer(length + 1)
        if length:
            LIB.scsi_task_add_data_in_buffer(task, length, ctypes.addressof(buffer))
        out = ctypes.byref(Data(len(data), data)) if data else None
        done = LIB.iscsi_scsi_command_sync(self.context, 0, task, out)
        if not done:
            raise ConnectionError((LIB.iscsi_get_error(self.context) or b"no answer").decode())
        found = done.contents.status, done.contents.key, done.contents.code
        LIB.scsi_free_scsi_task(done)
        return found, buffer.raw[:length]

    def do(self, cdb, data=b"", length=0):
        """Status and data. What hosts repeat by themselves is repeated."""

        def attempt():
            (status, key, code), found = self._once(cdb, data, length)
            if status == CHECK_CONDITION and key == UNIT_ATTENTION:
                self.attentions.append(code)
                return None
            if status == BUSY or (status == CHECK_CONDITION and key == NOT_READY):
                return None
            if status == CHECK_CONDITION:
                raise RuntimeError(f"{self.name} at {self.node.name}: {cdb}: {key:x}/{code:04x}")
            return status, found

        return wait_until(30, attempt)

    def order(self, action, kind=0, key=0, other=0, flags=0):
        body = struct.pack(">QQIB3x", key, other, 0, flags)
        return self.do([0x5F, action, kind, 0, 0, 0, 0, 0, len(body), 0], body)[0]

    def write(self):
        return self.do([0x2A, 0, 0, 0, 0, 0, 0, 0, 8, 0], b"r" * 4096)[0]

    def read(self):
        return self.do([0x28, 0, 0, 0, 0, 0, 0, 0, 8, 0], length=4096)[0]

    def ask(self, action):
        """What PERSISTENT RESERVE IN tells: the generation, and the list."""
        _, found = self.do([0x5E, action, 0, 0, 0, 0, 0, 0x10, 0, 0], length=4096)
        generation, length = struct.unpack(">II", found[:8])
        return generation, found[8 : 8 + length]

    def keys(self):
        _, found = self.ask(0)
        return sorted(struct.unpack(f">{len(found) // 8}Q", found))

    def reservation(self):
        """Key and type; None if nothing is reserved."""
        _, found = self.ask(1)
        return (struct.unpack(">Q", found[:8])[0], found[13]) if found else None


def same(what, found, expected):
    if found != expected:
        raise AssertionError(f"{what}: {found}, not {expected}")
    print(f"{what}: {found}")


def reserve(first, second, stranger):
    for path in first:
        same("the first registers", path.order(REGISTER, other=1, flags=1), GOOD)
    for path in second:
        same("the second registers", path.order(REGISTER, other=2, flags=1), GOOD)
    same("a stranger reserves", stranger[0].order(RESERVE, kind=5, key=1), CONFLICT)
    same("the first reserves at a", first[0].order(RESERVE, kind=5, key=1), GOOD)
    for path in (*first, *second, *stranger):
        same(f"the keys at {path.node.name}", path.keys(), [1, 1, 2, 2])
        same(f"the reservation at {path.node.name}", path.reservation(), (1, WRITE_EXCLUSIVE_REGISTRANTS_ONLY))
    same("generations", len({path.ask(0)[0] for path in (*first, *stranger)}), 1)
    for path in (*first, *second):
        same(f"a registrant writes at {path.node.name}", path.write(), GOOD)
    for path in stranger:
        same(f"the stranger writes at {path.node.name}", path.write(), CONFLICT)
        same(f"the stranger reads at {path.node.name}", path.read(), GOOD)


def fail_over(pair, first, second, stranger):
    a, b = pair.nodes
    a.kill()
    print("node a is killed")
    same("the stranger writes at b", stranger[1].write(), CONFLICT)
    same("the first writes at b", first[1].write(), GOOD)
    same("the reservation at b", first[1].reservation(), (1, WRITE_EXCLUSIVE_REGISTRANTS_ONLY))
    same("the second fences the first", second[1].order(PREEMPT_AND_ABORT, kind=5, key=2, other=1), GOOD)
    same("the first writes at b", first[1].write(), CONFLICT)
    same("what it was told", PREEMPTED in first[1].attentions, True)
    same("what the second was told", PREEMPTED in second[1].attentions, False)
    same("the keys", second[1].keys(), [2, 2])
    a.start()
    pair.until_paired(60)
    print("node a is back")
    again = Path("first", a), Path("second", a), Path("stranger", a)
    same("the keys at a", again[2].keys(), [2, 2])
    same("the reservation at a", again[2].reservation(), (2, WRITE_EXCLUSIVE_REGISTRANTS_ONLY))
    same("the first writes at a", again[0].write(), CONFLICT)
    same("the second writes at a", again[1].write(), GOOD)
    for path in again:
        path.close()


def both_off(pair):
    pair.kill()
    for node in pair.nodes:
        node.start()
    pair.until_paired(60)
    print("both were off")
    a, b = pair.nodes
    first, second = Path("first", a), Path("second", b)
    same("the keys", first.keys(), [2, 2])
    same("the first writes", first.write(), CONFLICT)
    same("the second writes", second.write(), GOOD)
    same("the second clears", second.order(CLEAR, key=2), GOOD)
    same("the keys at a", first.keys(), [])
    same("the first writes", first.write(), GOOD)
    first.close()
    second.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True)
    args = parser.parse_args()
    with kept_if_it_fails("twinsan-reserve-") as directory:
        pair = Pair(args.binary, directory)
        try:
            tell(pair)
        finally:
            pair.kill()
    print("reservations held throughout")


def tell(pair):
    pair.start()
    hosts = [[Path(host, node) for node in pair.nodes] for host in ("first", "second", "stranger")]
    reserve(*hosts)
    fail_over(pair, *hosts)
    for path in sum(hosts, []):
        path.close()
    both_off(pair)
    same("both stop cleanly", pair.stop(), True)
    same("the halves are the same", pair.compare()[0], 0)


if __name__ == "__main__":
    main()
