"""Whether the frame size may change inside a stream, read from the packets' first bytes without decoding.

decord scales such frames to the first size and says nothing. A hint may be wrong in one direction only: it may be that other
parameters change.
"""

from __future__ import annotations

from typing import Any

from av.packet import Packet

_SEQUENCE_HEADER = 1  # type of an AV1 OBU
_SPS = {"h264": 7, "hevc": 33}  # types of the NAL units that hold the size


class SizeHints:
    """Collects what the packets of a stream say about its frame size.

    Args:
        codec: ffmpeg's name of the codec; other ones than H.264, HEVC, VP9 and AV1 give no hint.
        extradata: the codec's configuration from the container.
    """

    def __init__(self, codec: str, extradata: bytes | None) -> None:
        self.codec = codec
        extradata = extradata or b""
        # where units of an avcC or hvcC stream have their length: in its first bytes, 4 where nothing is said
        place = {"h264": 4, "hevc": 21}.get(codec, len(extradata))
        boxed = extradata[:1] == b"\x01" and len(extradata) > place
        self._length = (extradata[place] & 3) + 1 if boxed else 4
        self._known: set[bytes] = set()
        self._explicit = False

    @property
    def varies(self) -> bool:
        """Whether two packets said different things."""
        return self._explicit or len(self._known) > 1

    def add(self, packet: Packet[Any]) -> None:
        """Looks at one packet, in the order of the file."""
        if packet.has_sidedata("new_extradata"):
            self._explicit = True
        if self.codec == "vp9":
            self._add_vp9(bytes(memoryview(packet)[:16]))
        elif packet.is_keyframe and self.codec in _SPS:
            self._add_units(memoryview(packet))
        elif packet.is_keyframe and self.codec == "av1":
            self._add_obus(memoryview(packet))

    def _add_units(self, data: memoryview) -> None:
        place, length = 0, self._length
        while place + length < len(data):
            size = int.from_bytes(data[place : place + length], "big")
            head = data[place + length]
            if (head & 0x1F if self.codec == "h264" else head >> 1 & 0x3F) == _SPS[self.codec]:
                self._known.add(bytes(data[place + length : place + length + size]))
            place += length + size

    def _add_obus(self, data: memoryview) -> None:
        place = 0
        while place < len(data):
            head = data[place]
            place += 2 if head & 4 else 1
            size = shift = 0
            if not head & 2:  # the last one, without a size
                size = len(data) - place
            while head & 2 and place < len(data):  # LEB128
                byte = data[place]
                place += 1
                size |= (byte & 0x7F) << shift
                shift += 7
                if not byte & 0x80:
                    break
            if head >> 3 & 0x0F == _SEQUENCE_HEADER:
                self._known.add(bytes(data[place : place + size]))
            place += size

    def _add_vp9(self, data: bytes) -> None:
        """The uncompressed header: the size of a keyframe, or whether another frame has none of its references' sizes."""
        bits = f"{int.from_bytes(data, 'big'):0{8 * len(data)}b}"
        profile = bits[2:4][::-1]
        start = 5 if profile == "11" else 4
        if len(bits) < 128 or bits[start] == "1":  # shows a frame again
            return
        between, hidden, resilient = bits[start + 1] == "1", bits[start + 2] == "0", bits[start + 3] == "1"
        place = start + 4
        if not between:
            # sync code, then the colours: 4 bits in profile 0; in the others the size begins within 4 bits of there
            place += 24
            self._known.add(bits[place : place + (36 if profile == "00" else 32)].encode())
            return
        if hidden and bits[place] == "1":  # decoded alone, with its own size
            return
        place += hidden + (0 if resilient else 2) + 8 + 12
        self._explicit = self._explicit or bits[place : place + 3] == "000"
