"""`vrshq synth`: synthetic videos, instructions and exact masks, in ReVOS's layout.

numbers of videos per split -> make and write each video, on Ray or one after the other -> tables of all videos.

    OUT/JPEGImages/<video>/<frame>.jpg     frames 00000, 00001, ... (--format jpeg or both)
    OUT/videos/<video>.mp4                 the same frames, H.264 (--format mp4 or both)
    OUT/meta_expressions_<split>_.json     as in ReVOS; expressions also have kind, subtype, asks and wording
    OUT/mask_dict.json                     per object a list of COCO RLEs, null for frames without it
    OUT/mask_dict_foreground.json          the union of all objects
    OUT/instructions_<split>.jsonl         a table for `vrshq label`
    OUT/objects.json                       properties and motion of each object, for training and for checks
    OUT/synth.json                         seed, configuration, version, checksums; written last, marks the folder as complete
    OUT/making/                            until then, the settings and the record of each finished video

The same command continues an interrupted run, and one with more videos continues a finished one. The folder then holds the same
bytes as after an undisturbed run.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from vrshq.cluster.storage.folder import Folder
from vrshq.operators.synth import SynthConfig
from vrshq.pipelines.synth.files import MADE
from vrshq.pipelines.synth.making import claim_folder, make_videos, remove_records
from vrshq.pipelines.synth.settings import Where, run_settings
from vrshq.pipelines.synth.tables import write_tables


@dataclass(frozen=True)
class Synthesised:
    """The content of a folder: videos by split, expressions by kind, and the checksum over all videos."""

    videos: dict[str, int]
    kinds: dict[str, int]
    checksum: str


def synth(
    output: str,
    *,
    videos: int,
    seed: int,
    split: str | None = None,
    form: str = "both",
    config: SynthConfig | None = None,
    where: Where | None = None,
    on_begin: Callable[[], None] = lambda: None,
    on_video: Callable[[str], None] = lambda _: None,
) -> Synthesised:
    """Writes videos 0 to n-1 of each split. The same arguments give the same bytes, whatever the number of workers.

    Video i of a split does not depend on the number of videos, so a run with a larger number of videos has the same first ones.
    The masks of all videos stay in memory as RLE until the end, about 70 kB per video at the default sizes.

    Args:
        output: folder, local or in a bucket: new, empty, or begun with the same arguments; `where` may differ, and `videos`
            be larger. Finished videos are not made again.
        videos: number of videos in all, at least 1.
        seed: seed of the videos, 0 or more.
        split: the split of all videos; None: 70 % train, and 10 % each of valid, test and test_unseen.
        form: file format of the videos: jpeg, mp4 or both.
        config: ranges of the content of the videos; None: the defaults.
        where: Ray or this process; None: a local Ray with all CPUs.
        on_begin: called once the arguments and the folder are accepted, before the work.
        on_video: called with the id of each video that was made.

    Raises:
        SettingsError: an argument is out of range, or the folder holds other files or videos of other settings.
        WorkerError: a video could not be made.
    """
    config, where = config or SynthConfig(), where or Where()
    settings = run_settings(videos, seed, split, form, config)
    target = Folder(output)
    claim_folder(target, output, settings)
    on_begin()
    if not target.exists(MADE):
        write_tables(target, make_videos(target, settings, config, where, on_video), settings)
    remove_records(target)
    about = json.loads(target.read_bytes(MADE))
    return Synthesised(about["videos"], about["kinds"], about["checksum"])
