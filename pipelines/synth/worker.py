"""The worker of the synthesis: makes videos in order and writes the files and the record of each."""

from __future__ import annotations

import hashlib

import cv2
import pyarrow as pa

from vrshq.cluster.storage.folder import Folder
from vrshq.operators.synth import SynthConfig, make_video
from vrshq.pipelines.synth.encode import content_checksums, encode_jpeg, encode_mp4
from vrshq.pipelines.synth.files import JSON, record_name
from vrshq.pipelines.synth.tables import describe


class SynthWorker:
    """Makes and writes videos.

    In: unit_id (the video's id) string, split string, index int64.
    Out: unit_id string, record string: JSON with everything that the tables hold about the video, about 70 kB at the default
    sizes.
    Cost: one CPU, and about 550 MB of memory for 64 frames of 480p.
    """

    def __init__(self, output: str, seed: int, form: str, config: SynthConfig) -> None:
        self.folder, self.seed, self.form, self.config = Folder(output), seed, form, config
        cv2.setNumThreads(1)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Makes the videos of a manifest's rows."""
        records = [self._one(row["split"], row["index"]) for row in table.to_pylist()]
        return pa.table({"unit_id": table["unit_id"], "record": records})

    def _one(self, split: str, index: int) -> str:
        """Makes and writes one video; returns its record."""
        video = make_video(self.seed, index, split, self.config)
        checksums = content_checksums(video)
        if self.form != "mp4":
            digest = hashlib.sha256()
            for number, frame in enumerate(video.frames):
                data = encode_jpeg(frame)
                digest.update(data)
                self.folder.write_bytes(f"JPEGImages/{video.video_id}/{number:05d}.jpg", data)
            checksums["jpeg"] = digest.hexdigest()
        if self.form != "jpeg":
            data = encode_mp4(video.frames)
            checksums["mp4"] = hashlib.sha256(data).hexdigest()
            self.folder.write_bytes(f"videos/{video.video_id}.mp4", data)
        record = JSON.encode({**describe(video), "checksums": checksums})
        self.folder.write_bytes(
            record_name(video.video_id), record.encode()
        )  # the last file, because it marks the video as finished
        return record
