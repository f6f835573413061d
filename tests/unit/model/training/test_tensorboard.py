import struct

import pytest

from model.training.tensorboard import EventFile


def masked_crc(content: bytes) -> bytes:
    """CRC-32C (Castagnoli), rotated and shifted as the record format wants it: bit by bit."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def records(content: bytes) -> list[bytes]:
    """The events of a file, both checksums of each checked."""
    events = []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        assert content[8:12] == masked_crc(content[:8])
        event = content[12 : 12 + length]
        assert content[12 + length : 16 + length] == masked_crc(event)
        events.append(event)
        content = content[16 + length :]
    return events


def fields(message: bytes) -> list[tuple[int, object]]:
    """Number and value of each field of a protocol buffer, in order."""
    found: list[tuple[int, object]] = []
    position = 0

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = message[position]
            position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while position < len(message):
        key = varint()
        if key & 7 == 0:
            value: object = varint()
        else:
            size = {1: 8, 5: 4}.get(key & 7) or varint()
            value = message[position : position + size]
            position += size
        found.append((key >> 3, value))
    return found


def test_checksum_is_crc32c_masked():
    # The published check value of CRC-32C.
    crc = 0xE3069283
    assert masked_crc(b"123456789") == struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def test_scalars_stand_in_a_file_under_their_names_and_step(tmp_path):
    EventFile(tmp_path, 0).write(300, {"loss": 2.5, "x" * 200: -1.0})
    (path,) = tmp_path.iterdir()
    version, event = records(path.read_bytes())
    assert dict(fields(version))[3] == b"brain.Event:2"
    (_, _), step, (number, summary) = fields(event)
    assert step == (2, 300) and number == 5
    values = [dict(fields(value)) for _, value in fields(summary)]
    assert {value[1].decode(): struct.unpack("<f", value[2])[0] for value in values} == {"loss": 2.5, "x" * 200: -1.0}


def test_what_was_written_is_there_before_the_process_ends(tmp_path):
    events = EventFile(tmp_path, 0)
    (path,) = tmp_path.iterdir()
    for step in (1, 2):
        events.write(step, {"loss": 1.0})
        assert len(records(path.read_bytes())) == 1 + step


def test_files_of_one_second_are_read_in_the_order_they_were_begun(tmp_path):
    for step in (1, 2, 3):
        EventFile(tmp_path, 0).write(step, {"loss": 1.0})
    in_order = [records(path.read_bytes())[1] for path in sorted(tmp_path.iterdir())]
    assert [dict(fields(event))[2] for event in in_order] == [1, 2, 3]


@pytest.mark.parametrize(("first", "starts"), [(0, 0), (70, 1)])
def test_a_resumed_run_voids_what_was_written_about_later_steps(tmp_path, first, starts):
    EventFile(tmp_path, first)
    (path,) = tmp_path.iterdir()
    starts_seen = [fields(event) for event in records(path.read_bytes())][1:]
    assert [(dict(event)[2], dict(event)[7]) for event in starts_seen] == [(first + 1, b"\x08\x01")] * starts
