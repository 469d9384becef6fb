#!/usr/bin/env python3
"""Has a target copy blocks from one LUN to another: copy.py URL-OF-SOURCE URL-OF-DESTINATION FROM-MIB TO-MIB MIBS.

EXTENDED COPY by libiscsi, with the NAA designators that the LUNs tell, in segments of 16 MiB, as ESX clones. Both URLs are
of one portal. Exit status 0 if the target says GOOD.
"""

import ctypes
import struct
import sys

GOOD = 0
NORMAL_SESSION = 2
DEVICE_IDENTIFICATION = 0x83
NAA = 3
SECTORS_PER_MIB = 2048
SEGMENT_MIB = 16


class Data(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("bytes", ctypes.c_char_p)]


class Task(ctypes.Structure):
    _fields_ = [("status", ctypes.c_int)]


class Designator(ctypes.Structure):
    pass


Designator._fields_ = [
    ("next", ctypes.POINTER(Designator)),
    ("protocol", ctypes.c_int),
    ("code_set", ctypes.c_int),
    ("piv", ctypes.c_int),
    ("association", ctypes.c_int),
    ("kind", ctypes.c_int),
    ("length", ctypes.c_int),
    ("bytes", ctypes.POINTER(ctypes.c_ubyte)),
]


class Identification(ctypes.Structure):
    _fields_ = [
        ("qualifier", ctypes.c_int),
        ("device_type", ctypes.c_int),
        ("page", ctypes.c_int),
        ("designators", ctypes.POINTER(Designator)),
    ]


def load():
    library = ctypes.CDLL("libiscsi.so.7")
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    shapes = {
        "iscsi_create_context": (pointer, [text]),
        "iscsi_destroy_context": (number, [pointer]),
        "iscsi_set_targetname": (number, [pointer, text]),
        "iscsi_set_session_type": (number, [pointer, number]),
        "iscsi_full_connect_sync": (number, [pointer, text, number]),
        "iscsi_logout_sync": (number, [pointer]),
        "iscsi_get_error": (text, [pointer]),
        "iscsi_inquiry_sync": (ctypes.POINTER(Task), [pointer] + [number] * 4),
        "iscsi_extended_copy_sync": (ctypes.POINTER(Task), [pointer, number, ctypes.POINTER(Data)]),
        "scsi_datain_unmarshall": (pointer, [ctypes.POINTER(Task)]),
    }
    for function, (result, arguments) in shapes.items():
        getattr(library, function).restype = result
        getattr(library, function).argtypes = arguments
    return library


LIB = load()


def parts(url):
    portal, target, lun = url.removeprefix("iscsi://").split("/")
    return portal.encode(), target.encode(), int(lun)


def naa(session, lun):
    task = LIB.iscsi_inquiry_sync(session, lun, 1, DEVICE_IDENTIFICATION, 255)
    page = ctypes.cast(LIB.scsi_datain_unmarshall(task), ctypes.POINTER(Identification)).contents
    designator = page.designators
    while designator:
        found = designator.contents
        if found.kind == NAA and found.association == 0:
            return bytes(found.bytes[: found.length])
        designator = found.next
    sys.exit(f"LUN {lun} tells no NAA designator")


def order(source, destination, from_mib, to_mib, mibs):
    named = b"".join(
        bytes([0xE4, 0, 0, 0, 1, NAA, 0, 16]) + each + bytes([0, 0, 0, 0, 0, 0, 2, 0]) for each in (source, destination)
    )
    segments = b""
    for done in range(0, mibs, SEGMENT_MIB):
        count = min(SEGMENT_MIB, mibs - done) * SECTORS_PER_MIB
        places = ((from_mib + done) * SECTORS_PER_MIB, (to_mib + done) * SECTORS_PER_MIB)
        segments += struct.pack(">BBHHHHHQQ", 2, 0, 24, 0, 1, 0, count, *places)
    return struct.pack(">BBHIII", 1, 0, len(named), 0, len(segments), 0) + named + segments


def main():
    (portal, target, source), (_, _, destination) = parts(sys.argv[1]), parts(sys.argv[2])
    session = LIB.iscsi_create_context(b"iqn.2026-01.example.host:copier")
    LIB.iscsi_set_targetname(session, target)
    LIB.iscsi_set_session_type(session, NORMAL_SESSION)
    if LIB.iscsi_full_connect_sync(session, portal, source) != 0:
        sys.exit(LIB.iscsi_get_error(session).decode())
    designators = naa(session, source), naa(session, destination)
    asked = order(*designators, *(int(word) for word in sys.argv[3:6]))
    status = LIB.iscsi_extended_copy_sync(session, source, Data(len(asked), asked)).contents.status
    if status != GOOD:
        sys.exit(f"status {status}: {LIB.iscsi_get_error(session).decode()}")
    LIB.iscsi_logout_sync(session)
    LIB.iscsi_destroy_context(session)


if __name__ == "__main__":
    main()
