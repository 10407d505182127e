"""The sound of a video, cut to the time that is shown, as AAC beside an encoded picture."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer

RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)  # that AAC has and browsers play
_TOLERANCE_S = 0.04  # by which the stated times of packets are off in common files
_BLOCK = 1024  # samples of an AAC packet


class NoSound(Exception):  # noqa: N818 - no error of a user's
    """The file has no sound that can be decoded."""


class Sound:
    """The first audio stream of a file from one moment to another, encoded again as it is asked for.

    Encoding it again cuts at the sample and gives every browser a codec that it plays. More than two channels become two. A
    pause in the stream is silence. Where it cannot be decoded any further, it ends. A context manager; holds some packets.

    Args:
        path: local file.
        zero: when the first picture of the file is shown, in seconds of the file.
        start: the first moment that is heard, in seconds after `zero`.
        stop: the moment after the last one.

    Raises:
        NoSound: the file has none. FFmpegError: it cannot be opened.
    """

    def __init__(self, path: str, zero: Fraction, start: Fraction, stop: Fraction) -> None:
        self._container = av.open(path)
        heard = [one for one in self._container.streams.audio if _can_be_decoded(one)]
        if not heard:
            self._container.close()
            raise NoSound(path)
        self._stream = heard[0]
        rate = self._stream.rate
        self.rate = rate if rate in RATES else 48_000
        self._layout = "mono" if self._stream.channels == 1 else "stereo"
        self._zero = zero
        self._at, self._stop = (round(moment * self.rate) for moment in (start, stop))
        self._chunks: Iterator[tuple[int, np.ndarray]] = self._decoded()
        self._waiting: tuple[int, np.ndarray] | None = None
        self._slack = 0  # samples; none until the first one is in its place
        self._output: tuple[OutputContainer, AudioStream] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._container.close()

    def begin(self, container: OutputContainer) -> None:
        """Adds the stream to a file that is about to be written."""
        stream = container.add_stream("aac", rate=self.rate, layout=self._layout)
        assert isinstance(stream, AudioStream)
        stream.bit_rate = 96_000 * (1 if self._layout == "mono" else 2)
        stream.time_base = Fraction(1, self.rate)
        self._output = container, stream

    def until(self, moment: Fraction) -> None:
        """Writes the sound up to a moment, in seconds after `zero`."""
        last = min(round(moment * self.rate), self._stop)
        while self._at < last:
            place, samples = self._waiting or next(self._chunks, (0, np.zeros((0, 0), np.float32)))
            self._waiting = None
            if not samples.size:
                break
            if place - self._at > self._slack:  # a pause, or the sound begins later than the pictures
                self._waiting = place, samples
                samples = np.zeros((len(samples), min(place - self._at, last - self._at, self.rate)), np.float32)
            else:
                if self._at - place > self._slack:
                    samples = samples[:, self._at - place :]
                if samples.size:
                    self._slack = round(_TOLERANCE_S * self.rate)
            self._write(samples[:, : self._stop - self._at])

    def end(self) -> None:
        """Writes what is left in the encoder."""
        assert self._output is not None
        container, stream = self._output
        container.mux(stream.encode(None))

    def _write(self, samples: np.ndarray) -> None:
        assert self._output is not None
        container, stream = self._output
        for first in range(0, samples.shape[1], _BLOCK):
            block = np.ascontiguousarray(samples[:, first : first + _BLOCK])
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=self._layout)
            frame.sample_rate, frame.pts, frame.time_base = self.rate, self._at, Fraction(1, self.rate)
            self._at += block.shape[1]
            container.mux(stream.encode(frame))

    def _decoded(self) -> Iterator[tuple[int, np.ndarray]]:
        """The samples (channels, n) float32, each with the place of its first one after `zero`."""
        resampler = av.AudioResampler(format="fltp", layout=self._layout, rate=self.rate)
        place = 0
        with suppress(av.FFmpegError):
            for frame in self._container.decode(self._stream):
                if frame.pts is not None and frame.time_base is not None:
                    place = round((frame.pts * Fraction(frame.time_base) - self._zero) * self.rate)
                for part in resampler.resample(frame):
                    samples = part.to_ndarray()
                    yield place, samples
                    place += samples.shape[1]


def sound_of(path: str, zero: Fraction, start: Fraction, stop: Fraction) -> Sound | None:
    """The sound of a file for `Sound`'s arguments; None for a folder, and for a file without sound that can be decoded."""
    if not Path(path).is_file():
        return None
    try:
        return Sound(path, zero, start, stop)
    except (av.FFmpegError, NoSound):
        return None


def _can_be_decoded(stream: AudioStream) -> bool:
    return bool(stream.codec_context and stream.rate and stream.channels)
