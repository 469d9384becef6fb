"""libiscsi's asynchronous API through ctypes: what a client with two paths needs of it, and no more."""

import ctypes
import ctypes.util
import random
import select

GOOD = 0
CHECK_CONDITION = 2
CANCELLED = 0x0F000000
BLOCK = 4096
SECTORS = BLOCK // 512

NORMAL_SESSION = 2
NO_DIGEST_OR_CRC32C = 1

_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


class _Unmap(ctypes.Structure):
    _fields_ = [("lba", ctypes.c_uint64), ("count", ctypes.c_uint32)]


def _load():
    name = ctypes.util.find_library("iscsi") or "libiscsi.so.7"
    library = ctypes.CDLL(name)
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    wide, word = ctypes.c_uint64, ctypes.c_uint32
    tail = [number] * 5 + [_CALLBACK, pointer]
    shapes = {
        "iscsi_create_context": (pointer, [text]),
        "iscsi_destroy_context": (number, [pointer]),
        "iscsi_set_targetname": (number, [pointer, text]),
        "iscsi_set_session_type": (number, [pointer, number]),
        "iscsi_set_header_digest": (number, [pointer, number]),
        "iscsi_set_noautoreconnect": (None, [pointer, number]),
        "iscsi_set_timeout": (number, [pointer, number]),
        "iscsi_full_connect_async": (number, [pointer, text, number, _CALLBACK, pointer]),
        "iscsi_get_fd": (number, [pointer]),
        "iscsi_which_events": (number, [pointer]),
        "iscsi_service": (number, [pointer, number]),
        "iscsi_get_error": (text, [pointer]),
        "iscsi_read16_task": (pointer, [pointer, number, wide, word, number] + tail),
        "iscsi_write16_task": (pointer, [pointer, number, wide, pointer, word, number] + tail),
        "iscsi_synchronizecache10_task": (pointer, [pointer] + [number] * 5 + [_CALLBACK, pointer]),
        "iscsi_unmap_task": (pointer, [pointer] + [number] * 3 + [ctypes.POINTER(_Unmap), number, _CALLBACK, pointer]),
        "scsi_task_add_data_in_buffer": (number, [pointer, number, pointer]),
        "scsi_free_scsi_task": (None, [pointer]),
    }
    for function, (result, arguments) in shapes.items():
        getattr(library, function).restype = result
        getattr(library, function).argtypes = arguments
    return library


LIB = _load()


class Path:
    """One session. `up` tells whether it takes requests; after `failed` it must be closed."""

    def __init__(self, portal, target, lun, number):
        name = f"iqn.2026-01.example.host:client-{number}".encode()
        self.lun = lun
        self.up = False
        self.failed = False
        self.context = LIB.iscsi_create_context(name)
        self._requests = {}
        self._next = 1
        self._done = _CALLBACK(self._finished)
        self._connected = _CALLBACK(self._connection)
        LIB.iscsi_set_targetname(self.context, target.encode())
        LIB.iscsi_set_session_type(self.context, NORMAL_SESSION)
        LIB.iscsi_set_header_digest(self.context, NO_DIGEST_OR_CRC32C if random.random() < 0.5 else 0)
        LIB.iscsi_set_noautoreconnect(self.context, 1)
        LIB.iscsi_set_timeout(self.context, 15)
        if LIB.iscsi_full_connect_async(self.context, portal.encode(), lun, self._connected, None) != 0:
            self.failed = True

    def _connection(self, _context, status, _data, _private):
        self.up = status == GOOD
        self.failed = status != GOOD

    def _finished(self, _context, status, task, private):
        done, buffer = self._requests.pop(private)
        if status not in (GOOD, CHECK_CONDITION) and task is None:
            self.failed = True
        if task is not None:
            LIB.scsi_free_scsi_task(task)
        done(status, bytes(buffer) if buffer is not None and status == GOOD else None)

    def _begin(self, done, buffer=None):
        number = self._next
        self._next += 1
        self._requests[number] = (done, buffer)
        return number

    def _check(self, number, task):
        if not task:
            del self._requests[number]
            self.failed = True
            raise ConnectionError((LIB.iscsi_get_error(self.context) or b"no task").decode())
        return task

    def read(self, block, count, done):
        """Reads blocks; done(status, bytes)."""
        buffer = ctypes.create_string_buffer(count * BLOCK)
        number = self._begin(done, buffer)
        task = self._check(number, LIB.iscsi_read16_task(
            self.context, self.lun, block * SECTORS, count * BLOCK, 512, 0, 0, 0, 0, 0, self._done, number))
        LIB.scsi_task_add_data_in_buffer(task, count * BLOCK, ctypes.addressof(buffer))

    def write(self, block, data, fua, done):
        """Writes blocks; done(status, None)."""
        kept = ctypes.create_string_buffer(data, len(data))
        number = self._begin(lambda status, _: (kept, done(status, None)))
        self._check(number, LIB.iscsi_write16_task(
            self.context, self.lun, block * SECTORS, ctypes.addressof(kept), len(data), 512,
            0, 0, int(fua), 0, 0, self._done, number))

    def unmap(self, block, count, done):
        """Gives blocks back; they read as zero."""
        run = _Unmap(block * SECTORS, count * SECTORS)
        number = self._begin(done)
        self._check(number, LIB.iscsi_unmap_task(
            self.context, self.lun, 0, 0, ctypes.byref(run), 1, self._done, number))

    def flush(self, done):
        """SYNCHRONIZE CACHE of everything."""
        number = self._begin(done)
        self._check(number, LIB.iscsi_synchronizecache10_task(
            self.context, self.lun, 0, 0, 0, 0, self._done, number))

    def close(self):
        """Ends the session; every request in progress is answered as cancelled."""
        context, self.context, self.up, self.failed = self.context, None, False, True
        LIB.iscsi_destroy_context(context)
        # libiscsi forgets those that were open when it logged out, as it does when a target asks for that.
        forgotten, self._requests = self._requests, {}
        for done, _ in forgotten.values():
            done(CANCELLED, None)


def serve(paths, timeout_ms):
    """Waits for the paths' sockets and lets libiscsi work."""
    poll = select.poll()
    by_fd = {}
    for path in paths:
        fd = LIB.iscsi_get_fd(path.context)
        if fd >= 0 and not path.failed:
            poll.register(fd, LIB.iscsi_which_events(path.context))
            by_fd[fd] = path
    ready = dict(poll.poll(timeout_ms))
    for fd, path in by_fd.items():
        if LIB.iscsi_service(path.context, ready.get(fd, 0)) < 0:
            path.failed = True
