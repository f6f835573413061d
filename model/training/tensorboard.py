"""Scalars for TensorBoard, written without it: its file format is small, its package brings a web server and gRPC.

A file is a row of records: length (u64), its checksum, the bytes of a protocol buffer `Event`, their checksum. Only
four fields of it are needed. Sources: TensorFlow's record_writer.h (framing) and event.proto, summary.proto (fields).
"""

from __future__ import annotations

import os
import socket
import struct
import time
from pathlib import Path

_VERSION = b"brain.Event:2"
_START = 1


class EventFile:
    """A file of one process; TensorBoard joins those of a folder and forgets what lies after a later one's start."""

    def __init__(self, folder: Path, first: int) -> None:
        """
        Args:
            first: step that the run goes on from; what an earlier process wrote about later ones is void.
        """
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns():020d}.{socket.gethostname()}.{os.getpid()}"
        self._path = folder / name
        self._append(_event(0, _bytes(3, _VERSION)))
        if first:
            self._append(_event(first + 1, _bytes(7, _varint(1, _START))))

    def write(self, step: int, values: dict[str, float]) -> None:
        """Scalars of one step, each under its name."""
        scalars = [_bytes(1, _bytes(1, name.encode()) + _float(2, value)) for name, value in values.items()]
        self._append(_event(step, _bytes(5, b"".join(scalars))))

    def _append(self, event: bytes) -> None:
        length = struct.pack("<Q", len(event))
        with self._path.open("ab") as stream:
            stream.write(length + _masked_crc(length) + event + _masked_crc(event))


def _event(step: int, content: bytes) -> bytes:
    seconds = struct.pack("<Bd", 1 << 3 | 1, time.time())
    return seconds + _varint(2, step) + content


def _varint(field: int, value: int) -> bytes:
    return bytes([field << 3]) + _base128(value)


def _bytes(field: int, content: bytes) -> bytes:
    return bytes([field << 3 | 2]) + _base128(len(content)) + content


def _float(field: int, value: float) -> bytes:
    return struct.pack("<Bf", field << 3 | 5, value)


def _base128(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_CRC = _crc_table()


def _masked_crc(content: bytes) -> bytes:
    """CRC-32C (Castagnoli), rotated and shifted as the record format wants it."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = crc >> 8 ^ _CRC[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
