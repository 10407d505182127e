"""Damaged streams: with all frames they are read with a note; with lost frames they are refused, or kept and counted."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tests.support.clips import h264, read_code
from vrshq.operators.batch import InputError, close_videos, new_batch
from vrshq.operators.decode import Decode
from vrshq.operators.video.damage import Damage, places_of_gaps, ranges
from vrshq.operators.video.files import DecodeConfig
from vrshq.operators.video.transport import interruptions
from vrshq.operators.video.video import open_video

PACKET = 188  # bytes of a transport packet
KEEP = DecodeConfig(damaged="keep")


def read(path: Path, config: DecodeConfig | None = None) -> tuple[list[int], str | None]:
    """The numbers that the frames show, and the video's note."""
    with open_video(str(path), config) as video:
        frames = list(video.stream())
        assert len(frames) == video.num_frames
        return [read_code(frame) for frame in frames], video.note


def error_of(path: Path, config: DecodeConfig | None = None) -> str:
    with pytest.raises(InputError) as caught:
        read(path, config)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def transport(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """24 frames in groups of six, one slice each, far more than one transport packet a frame."""
    path = tmp_path_factory.mktemp("ts") / "whole.ts"
    return h264(path, frames=24, gop=6, height=192, width=320, qp=4).read_bytes()


def video_packets(data: bytes) -> list[tuple[int, bool]]:
    """(place, whether a frame begins there) of the transport packets of the video stream."""
    found = []
    for place in range(0, len(data), PACKET):
        identity = int.from_bytes(data[place + 1 : place + 3], "big")
        if identity & 0x1FFF == 0x100:
            found.append((place, bool(identity & 0x4000)))
    return found


def without(data: bytes, place: int) -> bytes:
    return data[:place] + data[place + PACKET :]


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_a_lost_transport_packet_inside_a_frame_leaves_all_frames_and_a_note(
    share: float, transport: bytes, tmp_path: Path
) -> None:
    packets = video_packets(transport)
    number = next(number for number in range(int(share * len(packets)), len(packets)) if not packets[number][1])
    frame = sum(begins for _, begins in packets[:number]) - 1  # in the order of decoding
    (tmp_path / "lost.ts").write_bytes(without(transport, packets[number][0]))
    for config in (None, KEEP):
        numbers, note = read(tmp_path / "lost.ts", config)
        assert len(numbers) == 24
        assert note is not None
        assert note.startswith("damaged stream: all 24 frames are there; errors show around frame ")
        faulty = int(note.rpartition(" ")[2].partition("-")[0])
        assert abs(faulty - frame) <= 3


def test_a_frame_that_is_lost_on_its_way_refuses_the_stream_or_is_counted(transport: bytes, tmp_path: Path) -> None:
    packets = video_packets(transport)
    begins = [number for number, (_, begins) in enumerate(packets) if begins]
    alone = next(one for one, other in pairwise(begins) if one > 20 and other == one + 1)  # a frame in one packet
    (tmp_path / "lost.ts").write_bytes(without(transport, packets[alone][0]))
    numbers, note = read(tmp_path / "lost.ts", KEEP)
    [lost] = set(range(24)) - set(numbers)
    assert numbers == [number for number in range(24) if number != lost]
    assert note == f"damaged stream: 1 of 24 frames lost after frame {lost - 1}"
    assert f"breaks at frame {lost} of 24 (1 frames are lost)" in error_of(tmp_path / "lost.ts")


def test_a_stream_whose_first_keyframe_is_damaged_says_what_it_loses(transport: bytes, tmp_path: Path) -> None:
    place, begins = video_packets(transport)[4]
    assert not begins
    (tmp_path / "lost.ts").write_bytes(without(transport, place))
    assert "breaks at frame 0 of 24 (6 frames are lost)" in error_of(tmp_path / "lost.ts")
    numbers, note = read(tmp_path / "lost.ts", KEEP)
    assert numbers == list(range(6, 24))
    assert note is not None
    assert note.startswith("damaged stream: 6 of 24 frames lost at the start")


def test_a_sound_transport_stream_has_no_note(transport: bytes, tmp_path: Path) -> None:
    (tmp_path / "whole.ts").write_bytes(transport)
    assert read(tmp_path / "whole.ts") == (list(range(24)), None)


def broken_h264(path: Path) -> Path:
    """60 frames in groups of 12 without B-frames; the data of frame 30 mean nothing."""
    import av

    h264(path, bf=0)
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        place, size = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size][30]
    assert place is not None
    data[place + 4 : place + size] = bytes([0xFF]) * (size - 4)
    path.write_bytes(data)
    return path


def test_a_frame_that_cannot_be_decoded_refuses_the_video_or_is_counted(tmp_path: Path) -> None:
    path = broken_h264(tmp_path / "broken.mp4")
    message = error_of(path)
    assert "breaks at frame " in message
    assert "decode.damaged=keep" in message
    numbers, note = read(path, KEEP)
    assert len(numbers) == 59
    assert note is not None
    assert note.startswith("damaged stream: 1 of 60 frames lost after frame 29")
    assert numbers[:30] == list(range(30))
    assert numbers[-24:] == list(range(36, 60))


@pytest.mark.parametrize("threads", [1, 2])
def test_what_is_kept_is_the_same_in_each_order_of_reading(threads: int, tmp_path: Path) -> None:
    path = broken_h264(tmp_path / "broken.mp4")
    config = DecodeConfig(damaged="keep", frame_cache_bytes=0, num_threads=threads)
    with open_video(str(path), KEEP) as video:
        expected = video.frames(range(59))
    with open_video(str(path), config) as video:
        for index in (58, 31, 3, 30):
            np.testing.assert_array_equal(video.frames([index])[0], expected[index])


def cut(path: Path, share: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def test_of_a_file_that_was_cut_short_the_beginning_is_kept(tmp_path: Path) -> None:
    path = cut(h264(tmp_path / "cut.mp4", container={"movflags": "faststart"}, bf=0), 0.7)
    assert "cut short" in error_of(path)
    numbers, note = read(path, KEEP)
    assert 20 < len(numbers) < 60
    assert note is not None
    lost = 60 - len(numbers)
    assert f"damaged stream: {lost} of 60 frames lost" in note
    assert "at the end" in note
    sound = len(numbers) - 2
    assert numbers[:sound] == list(range(sound))


@pytest.mark.parametrize("suffix", [".mkv", ".avi"])
def test_where_nothing_tells_the_length_the_note_says_so(suffix: str, tmp_path: Path) -> None:
    path = cut(h264(tmp_path / f"cut{suffix}", bf=0), 0.6)
    assert "cut short" in error_of(path)
    numbers, note = read(path, KEEP)
    assert 20 < len(numbers) < 60
    assert note is not None
    assert "the file is cut short" in note or "at the end" in note


def test_what_holds_no_frame_is_refused_in_either_case(tmp_path: Path) -> None:
    path = cut(h264(tmp_path / "cut.mp4"), 0.5)  # its header was at the end
    assert "is not a video that can be read" in error_of(path, KEEP)


@pytest.mark.parametrize("make", [h264, lambda path: h264(path.with_suffix(".ts"))])
def test_a_sound_video_is_the_same_with_either_setting(make: Callable[[Path], Path], tmp_path: Path) -> None:
    path = make(tmp_path / "clip.mp4")
    assert read(path) == read(path, KEEP) == (list(range(60)), None)


def test_the_stage_passes_the_note_on(transport: bytes, tmp_path: Path) -> None:
    inside = [place for place, begins in video_packets(transport) if not begins]
    (tmp_path / "lost.ts").write_bytes(without(transport, inside[len(inside) // 2]))
    (tmp_path / "whole.ts").write_bytes(transport)
    units = [
        {"unit_id": str(uri), "video_id": "v", "video_uri": str(uri), "instruction_ids": ["0"], "texts": ["a"]}
        for uri in (tmp_path / "lost.ts", tmp_path / "whole.ts", tmp_path / "none.ts")
    ]
    batch = Decode()(new_batch(units))
    assert [(note or "")[:14] for note in batch["video_note"]] == ["damaged stream", "", ""]
    close_videos(batch)


def test_notes_name_places_in_few_words() -> None:
    assert (
        Damage([3, 4, 5, 9], []).note(20)
        == "damaged stream: all 20 frames are there; errors show around frame 3-5 and 9"
    )
    assert Damage([], [-1, 7, 7], 2).note(15) == (
        "damaged stream: 5 of 20 frames lost at the start and after frame 7, 2 of them at the end"
    )
    assert Damage([], [], None).note(4) == "damaged stream: the file is cut short, it is not known by how many frames"
    many = Damage(list(range(0, 40, 2))).note(40)
    assert many.endswith("around frame 0, 2, 4, 6, 8 and 15 more places")
    assert ranges([]) == []
    assert not Damage()


def test_gaps_between_times_are_counted_in_usual_steps() -> None:
    assert places_of_gaps(np.array([0, 2, 4, 10, 12, 14, 18])) == [2, 2, 5]
    assert places_of_gaps(np.array([0, 100])) == []


def test_a_lost_packet_that_no_frame_shows_is_noted(transport: bytes, tmp_path: Path) -> None:
    place, begins = video_packets(transport)[1]  # the encoder's words about itself
    assert not begins
    (tmp_path / "lost.ts").write_bytes(without(transport, place))
    expected = "damaged stream: all 24 frames are there; data is missing around frame 0"
    assert read(tmp_path / "lost.ts") == (list(range(24)), expected)


def test_interruptions_are_found_at_any_distance_of_packets_and_after_missing_bytes(
    transport: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "stream.ts"
    packets = video_packets(transport)
    lost = packets[20][0]
    for before, after in ((b"", b""), (b"\0\0\0\0", b""), (b"", b"\0" * 16)):
        units = [transport[place : place + PACKET] for place in range(0, len(transport), PACKET)]
        stride = PACKET + len(before) + len(after)
        path.write_bytes(b"".join(before + unit + after for unit in units))
        assert interruptions(path, 0x100) == []
        path.write_bytes(b"".join(before + unit + after for unit in units if unit is not units[lost // PACKET]))
        follower = packets[21][0] // PACKET - 1  # in the file that lacks one
        assert interruptions(path, 0x100) == [follower * stride + len(before)]
        assert interruptions(path, 0x1FF0) == []
    path.write_bytes(transport[: lost + 50] + transport[lost + 100 :])
    assert interruptions(path, 0x100)[0] == lost + PACKET
    path.write_bytes(transport + transport[packets[3][0] :][:PACKET])
    assert len(interruptions(path, 0x100)) == 1
    path.write_bytes(b"no transport stream" * 100)
    assert interruptions(path, 0x100) == []
