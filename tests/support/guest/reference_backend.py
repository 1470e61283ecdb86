# SPDX-License-Identifier: Apache-2.0
"""A back-end to test the software guest against, which shares no code with it.

It knows the protocol by its numbers alone, maps the memory itself, and can be told to misbehave.
"""

import mmap
import os
import select
import socket
import struct
import threading

from support.guest.reference_rings import Behaviour, ReferenceRings


class ReferenceBackEnd(ReferenceRings):
    def __init__(self, sock: socket.socket, behaviour: Behaviour) -> None:
        super().__init__(behaviour)
        self.error: BaseException | None = None
        self._sock = sock
        self._stop = os.eventfd(0)
        self._loading = -1
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End as if killed: the connection breaks, rings stay as they are."""
        if self._stop >= 0:
            os.eventfd_write(self._stop, 1)
            self._thread.join(10)
            assert not self._thread.is_alive()
            os.close(self._stop)
            self._stop = -1
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        try:
            while self._step():
                pass
        except BaseException as error:
            self.error = error
        finally:
            self._sock.close()
            for vring in self.vrings:
                for fd in (vring.kick, vring.call):
                    if fd >= 0:
                        os.close(fd)
            for region in self.regions:
                region.data.release()

    def _step(self) -> bool:
        poll = select.poll()
        for fd in [self._sock.fileno(), self._stop, *(v.kick for v in self.vrings if v.kick >= 0)]:
            poll.register(fd, select.POLLIN)
        ready = {fd for fd, _ in poll.poll()}
        if self._stop in ready:
            return False
        for index, vring in enumerate(self.vrings):
            if vring.kick in ready:
                os.eventfd_read(vring.kick)
                self.seen.kicks += 1
                self.serve(index // 2)
        return self._sock.fileno() not in ready or self._serve_message()

    def _serve_message(self) -> bool:
        header, fds, _, _ = socket.recv_fds(self._sock, 12, 8)
        if not header:
            return False
        request, flags, size = struct.unpack("<III", header)
        payload = self._sock.recv(size, socket.MSG_WAITALL) if size else b""
        self.seen.requests.append((request, payload))
        self.seen.flags[request] = flags
        answer = self._handle(request, payload, list(fds))
        if answer is None and flags & 8:
            answer = struct.pack("<Q", request == self.behaviour.refuse)
        if request == self.behaviour.hang_up_on:
            return False
        if answer is not None and request != self.behaviour.silent_on:
            number = request + (request == self.behaviour.wrong_on)
            self._sock.sendall(struct.pack("<III", number, 5, len(answer)) + answer)
        return True

    def _handle(self, request: int, payload: bytes, fds: list[int]) -> bytes | None:
        numbers = struct.unpack(f"<{len(payload) // 4}I", payload)
        number = int.from_bytes(payload[:8], "little")
        match request:
            case 1:
                return struct.pack("<Q", self.behaviour.features)
            case 2:
                self.features = number
            case 5:
                self.map(payload, fds)
            case 6:
                size, offset = struct.unpack("<QQ", payload)
                self.log = mmap.mmap(fds[0], size, offset=offset)
                os.close(fds[0])
                return b""
            case 8:
                self.vrings[numbers[0]].size = numbers[1]
            case 9:
                index, flags, desc, used, avail, log = struct.unpack("<IIQQQQ", payload)
                vring = self.vrings[index]
                vring.flags, vring.log = flags, log
                vring.desc, vring.used, vring.avail = map(self.guest, (desc, used, avail))
            case 10:
                self.vrings[numbers[0]].base = numbers[1]
            case 11:
                vring = self.vrings[numbers[0]]
                os.close(vring.kick)
                vring.kick = -1
                return struct.pack("<II", numbers[0], vring.base)
            case 12:
                self.vrings[number].kick = fds[0]
            case 13:
                self.vrings[number].call = fds[0]
            case 15:
                return struct.pack("<Q", self.behaviour.protocol_features)
            case 17:
                return struct.pack("<Q", self.behaviour.queue_pairs)
            case 18:
                self.vrings[numbers[0]].enabled = bool(numbers[1])
                self.serve(numbers[0] // 2)
            case 19:
                self.seen.rarps.append(payload[:6])
            case 42:
                direction, phase = numbers
                assert phase == 0 and all(vring.kick < 0 for vring in self.vrings)
                if direction:
                    self._loading = fds[0]
                else:
                    os.write(fds[0], self.behaviour.state)
                    os.close(fds[0])
                return struct.pack("<Q", 1 << 8)
            case 43:
                if self._loading >= 0:
                    with open(self._loading, "rb") as pipe:  # noqa: PTH123
                        self.seen.state = pipe.read()
                    self._loading = -1
                return struct.pack("<Q", request == self.behaviour.refuse)
            case 3 | 16 | 20:
                pass
            case _:
                raise AssertionError(f"request {request}")
        return None
