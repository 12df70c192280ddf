"""The process that decodes: reads requests from a socket, one at a time, and answers; started by `process` alone.

A request is one byte, with it the file that takes the frames, then a line of JSON; the answer is a line of JSON. It
carries no more than this because the sender may be broken: nothing is unpickled, in either direction. One byte before
the answer says that the request was understood: what ends the process after it is the clip's doing.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import select
import socket
import sys
import threading
from dataclasses import asdict
from typing import Any

import cv2
import numpy as np

from musubi_ext.errors import UserError
from musubi_ext.orbits.clips import iter_frames, probe

Answer = dict[str, Any]
BEGUN = b"!"


def main(arguments: list[str]) -> None:
    """Serve the socket (file descriptor) named first, within the bytes of memory named second, until it closes."""
    control, memory_limit = socket.socket(fileno=int(arguments[0])), int(arguments[1])
    cv2.setNumThreads(0)  # threads of its own would count against the limit
    threading.Thread(target=_end_with_parent, args=(control.fileno(),), daemon=True).start()
    limited = limit_memory(memory_limit)
    _send(control, {"limited": limited})
    with control.makefile("rb") as lines:
        while True:
            _, files, _, _ = socket.recv_fds(control, 1, 1)
            if not files:
                return
            request = json.loads(lines.readline())
            control.sendall(BEGUN)
            _send(control, _answer(control, request, files[0]))
            gc.collect()  # PyAV's objects refer to each other: libav's buffers of many clips would wait for it


def limit_memory(limit: int) -> bool:
    """Let this process allocate `limit` bytes more than it has now; False where the system has no such limit."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash leaves no file behind
    if sys.platform != "linux":  # elsewhere RLIMIT_DATA does not count what malloc maps
        return False
    with open("/proc/self/statm", encoding="ascii") as file:
        held = int(file.read().split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (held + limit, held + limit))
    return True


def _end_with_parent(descriptor: int) -> None:
    """A parent killed while we decode cannot stop us: its end of the socket closes, and that is seen here."""
    poll = select.poll()
    poll.register(descriptor, 0)  # hang-ups are reported unasked
    poll.poll()
    os._exit(1)


def _answer(control: socket.socket, request: dict[str, Any], file: int) -> Answer:
    action = request.pop("action")
    try:
        if action == "stream":
            return _stream(control, request, file)
        return {"info": asdict(probe(request["path"]))} if action == "probe" else {"shape": _load(request, file)}
    except UserError as error:
        return {"problems": error.problems}
    except (MemoryError, cv2.error) as error:
        if isinstance(error, cv2.error) and error.code != cv2.Error.StsNoMem:
            raise
        return {"memory": True}
    finally:
        os.close(file)


def _load(request: dict[str, Any], file: int) -> list[int]:
    count, shape = 0, ()
    with open(file, "wb", closefd=False) as target:
        for frame in iter_frames(request.pop("path"), tuple(request.pop("size")), **request):
            target.write(np.ascontiguousarray(frame).data)
            count, shape = count + 1, frame.shape
    return [count, *shape]


def _stream(control: socket.socket, request: dict[str, Any], file: int) -> Answer:
    """Frames go round the file's slots; one is used again when its frame was taken. No taken frame is left unread."""
    slots, path, size = request.pop("slots"), request.pop("path"), tuple(request.pop("size"))
    sent = taken = 0
    try:
        for frame in iter_frames(path, size, max_bytes=sys.maxsize, **request):
            if sent - taken == slots:
                taken += len(control.recv(1))
            os.pwrite(file, np.ascontiguousarray(frame).data, (sent % slots) * frame.nbytes)
            _send(control, {"frame": sent})
            sent += 1
        return {"end": sent}
    finally:
        while taken < sent:
            taken += len(control.recv(sent - taken))


def _send(control: socket.socket, answer: Answer) -> None:
    control.sendall(json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    main(sys.argv[1:])
