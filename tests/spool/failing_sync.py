"""
A disk that fails to keep what was written: from a moment on, fsync answers EIO
in this process. The kernel's system call filter (seccomp) does it, without
privileges; nothing takes it back, so it is for processes of its own.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

_FSYNC, _FDATASYNC, _SECCOMP = {"x86_64": (74, 75, 317), "aarch64": (82, 83, 277)}[platform.machine()]

_PR_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER = 1
_FOR_ALL_THREADS = 1

_LOAD, _IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_FAIL, _ALLOW = 0x00050000 | errno.EIO, 0x7FFF0000

_PROGRAM = (
    (_LOAD, 0, 0, 0),  # the system call's number
    (_IF_EQUAL, 1, 0, _FSYNC),
    (_IF_EQUAL, 0, 1, _FDATASYNC),
    (_RETURN, 0, 0, _FAIL),
    (_RETURN, 0, 0, _ALLOW),
)


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("program", ctypes.c_char_p))


def fail_syncs() -> None:
    """
    From now on, in all threads.

    @raise OSError: the kernel has no such filter.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    program = b"".join(struct.pack("HBBI", *instruction) for instruction in _PROGRAM)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.syscall(
        _SECCOMP, _SET_MODE_FILTER, _FOR_ALL_THREADS, ctypes.byref(_Filter(len(_PROGRAM), program))
    ):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
