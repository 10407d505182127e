"""`vrshq synth`: synthetic videos, instructions and exact masks, in ReVOS's layout.

numbers of videos -> each made and written by itself (on Ray, or one after the other) -> the tables that span all of them.

    OUT/JPEGImages/<video>/<frame>.jpg     frames 00000, 00001, ... (--format jpeg or both)
    OUT/videos/<video>.mp4                 the same, H.264 (--format mp4 or both)
    OUT/meta_expressions_<split>_.json     ReVOS's; expressions also have kind, subtype, asks and wording
    OUT/mask_dict.json                     a list for each object, of COCO RLEs, null in frames that do not show it
    OUT/mask_dict_foreground.json          the union of all objects
    OUT/instructions_<split>.jsonl         a table for `vrshq label`
    OUT/objects.json                       what each object is and does, for training and for checks
    OUT/synth.json                         seed, configuration, version, checksums; written last: with it, the folder is whole
    OUT/making/                            until then: the settings, and for each video that is whole what the tables will say

The same line again continues what was stopped; the folder then holds the same bytes as if nothing had stopped it.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pyarrow as pa
import yaml
from pydantic import TypeAdapter, ValidationError

from vrshq.cluster.ray.engine import Lost, Pool, WorkerError, stream_receipts
from vrshq.cluster.ray.resources import cluster_resources, local_resources
from vrshq.cluster.ray.session import ray_session
from vrshq.cluster.storage.folder import Folder
from vrshq.cluster.storage.uris import is_remote
from vrshq.operators.masks.rle import encode
from vrshq.operators.synth import SPLITS, VERSION, SynthConfig, SynthVideo, make_video
from vrshq.pipelines.config.assignments import SettingsError

FORMATS = ("jpeg", "mp4", "both")
# Shares of the videos when no split is named; what does not divide goes to train.
SHARES = {"valid": 0.1, "test": 0.1, "test_unseen": 0.1}
FRAMES_PER_SECOND = 10
JPEG_QUALITY = 95
# Constant quality, little loss. One thread, because with more the bytes depend on their number; and no macroblock tree, whose
# assembly reads memory that it has not written: the bytes then depend on what the process did before (x264 in PyAV 18.1).
H264 = {"crf": "16", "preset": "veryfast", "threads": "1", "x264-params": "mbtree=0"}

MADE, MAKING = "synth.json", "making"  # `MAKING` holds settings.json, and videos/<video>.json

_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


@dataclass(frozen=True)
class Synthesised:
    """What was written: the number of videos of each split, of expressions of each kind, and the checksum of everything."""

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
    address: str | None = None,
    workers: int | None = None,
    use_ray: bool = True,
    on_video: Callable[[str], None] = lambda _: None,
) -> Synthesised:
    """Writes videos 0 to n-1 of each split; the same arguments give the same bytes, whatever the number of workers.

    Video i of a split does not depend on how many there are: more of them continue what fewer began. Holds the masks of all
    videos as RLE until the end, some 70 kB a video at the default sizes.

    Args:
        output: folder, local or in a bucket: a new or empty one, or one that the same arguments began (where from, and with
            how many workers, does not matter). Videos that are whole there are not made again.
        videos: how many in all, at least 1.
        split: all of them for this split; default: 70 % train, and 10 % each of valid, test and test_unseen.
        form: what the videos are written as.
        address: Ray cluster; default: RAY_ADDRESS, the cluster of the surrounding job, else one on this machine.
        workers: processes; default: as many as there are CPUs.
        use_ray: False makes one after the other in this process.
        on_video: called with the id of each video that was made.

    Raises:
        SettingsError: an argument cannot be used, or the folder holds something else or videos of other settings.
        WorkerError: a video could not be made.
    """
    config = config or SynthConfig()
    counts = _counts(videos, split)
    if seed < 0:
        raise SettingsError(f"--seed {seed}: expected 0 or more")
    if form not in FORMATS:
        raise SettingsError(f"--format {form}: expected jpeg, mp4 or both")
    target = Folder(output)
    settings = {"version": VERSION, "seed": seed, "config": asdict(config), "format": form, "videos": counts}
    _begin(target, output, settings)
    if not target.exists(MADE):
        records = _make(target, settings, config, address, workers, use_ray, on_video)
        _write_tables(target, records, settings)
    _clear(target)
    about = json.loads(target.read_bytes(MADE))
    return Synthesised(about["videos"], about["kinds"], about["checksum"])


def _begin(target: Folder, output: str, settings: dict[str, Any]) -> None:
    """Claims a new folder for these settings, or makes sure that they are those of what it holds."""
    name = next(filter(target.exists, (MADE, f"{MAKING}/settings.json")), None)
    if name is None:
        if not target.is_empty():
            raise SettingsError(f"OUT {output}: exists and is not empty; give a new folder")
        target.check_writable()
        _write_json(target, f"{MAKING}/settings.json", settings)
        return
    target.remove_abandoned()
    there, given = (_flat(json.loads(text)) for text in (target.read_bytes(name), _JSON.encode(settings)))
    differing = [f"{key} is {there.get(key)}, not {value}" for key, value in given.items() if there.get(key) != value]
    if differing:
        raise SettingsError(
            f"OUT {output}: holds videos of other settings ({'; '.join(differing)}); give those to continue, or a new folder"
        )


def _flat(about: dict[str, Any]) -> dict[str, Any]:
    """Settings by the names that users know."""
    return {**{key: about.get(key) for key in ("version", "seed", "format", "videos")}, **about.get("config", {})}


def _make(
    target: Folder,
    settings: dict[str, Any],
    config: SynthConfig,
    address: str | None,
    workers: int | None,
    use_ray: bool,
    on_video: Callable[[str], None],
) -> dict[str, dict[str, Any]]:
    """Makes the videos that are not there yet; what the tables say of all of them, in order."""
    units = {
        f"{name}_{index:06d}": (name, index) for name, count in settings["videos"].items() for index in range(count)
    }
    whole = {name.rpartition("/")[2].removesuffix(".json") for name in target.list(f"{MAKING}/videos")}
    left = {name: unit for name, unit in units.items() if name not in whole}
    manifest = pa.table(
        {
            "unit_id": pa.array(left, pa.string()),
            "split": pa.array([name for name, _ in left.values()], pa.string()),
            "index": pa.array([index for _, index in left.values()], pa.int64()),
        }
    )
    arguments = {"output": target.uri, "seed": settings["seed"], "form": settings["format"], "config": config}
    records: dict[str, dict[str, Any]] = {}
    if left:
        rows = _on_ray(manifest, arguments, address, workers) if use_ray else _in_process(manifest, arguments)
        for row in rows:
            records[row["unit_id"]] = json.loads(row["record"])
            on_video(row["unit_id"])
    for name in whole:
        records[name] = json.loads(target.read_bytes(f"{MAKING}/videos/{name}.json"))
    return {name: records[name] for name in units}


def _clear(target: Folder) -> None:
    """Removes what was kept in case of a stop."""
    for name in target.list(MAKING):
        target.remove(name)
    if not is_remote(target.uri):
        shutil.rmtree(Path(target.uri) / MAKING, ignore_errors=True)  # empty folders, which buckets do not have


def load_config(config: str | None, assignments: list[str]) -> SynthConfig:
    """A configuration from a YAML file and `key=value` assignments, over the defaults.

    Raises:
        SettingsError: one line that names the file or the key, what was given, and what was expected.
    """
    values: dict[str, Any] = {}
    if config:
        parent, _, name = config.rpartition("/")
        try:
            values = yaml.safe_load(Folder(parent or ".").read_bytes(name)) or {}
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise SettingsError(f"--config {config}: not a YAML file ({' '.join(str(error).split())})") from error
        if not isinstance(values, dict):
            raise SettingsError(f"--config {config}: expected a mapping of settings, got {type(values).__name__}")
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not key or not equals:
            raise SettingsError(f"--set {assignment}: expected key=value, for example frames=[8, 16]")
        try:
            values[key] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise SettingsError(
                f"--set {assignment}: the value is not YAML ({' '.join(str(error).split())})"
            ) from error
    known = [field.name for field in fields(SynthConfig)]
    for key in values:
        if key not in known:
            raise SettingsError(f"setting {key}: no such setting; expected one of {', '.join(known)}")
    try:
        return TypeAdapter(SynthConfig).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise SettingsError(f"setting {name}: {message}" if name else f"setting {message}") from error


def _counts(videos: int, split: str | None) -> dict[str, int]:
    """How many videos each split gets, in the order of `SPLITS`; none with zero."""
    if videos < 1:
        raise SettingsError(f"--videos {videos}: expected 1 or more")
    if split is not None and split not in SPLITS:
        raise SettingsError(f"--split {split}: expected one of {', '.join(SPLITS)}")
    if split is not None:
        return {split: videos}
    parts = {name: int(videos * share) for name, share in SHARES.items()}
    counts = {"train": videos - sum(parts.values()), **parts}
    return {name: counts[name] for name in SPLITS if counts[name]}


def _on_ray(
    manifest: pa.Table, arguments: dict[str, Any], address: str | None, workers: int | None
) -> Iterator[dict[str, Any]]:
    cpus = max(2, int(local_resources().cpus)) if workers is None else workers + 1  # one feeds the others
    with ray_session(address, num_cpus=cpus):
        actors = workers or max(1, int(cluster_resources().cpus) - 1)
        pool = Pool(name="synth", worker=SynthWorker, arguments=arguments, actors=min(actors, manifest.num_rows))
        for row in stream_receipts(manifest, [pool], attempts=2):
            if isinstance(row, Lost):
                raise WorkerError(f"video {row.row['unit_id']} could not be made: {row.reason}")
            yield row


def _in_process(manifest: pa.Table, arguments: dict[str, Any]) -> Iterator[dict[str, Any]]:
    worker = SynthWorker(**arguments)
    for row in range(manifest.num_rows):
        yield from worker(manifest.slice(row, 1)).to_pylist()


class SynthWorker:
    """Makes and writes videos.

    Columns in: unit_id (the video's id), split, index. Columns out: unit_id, and record, a JSON text with all that the tables
    say about the video (some 70 kB at the default sizes). Costs one CPU, and some 550 MB for 64 frames of 480p.
    """

    def __init__(self, output: str, seed: int, form: str, config: SynthConfig) -> None:
        self.folder, self.seed, self.form, self.config = Folder(output), seed, form, config
        cv2.setNumThreads(1)

    def __call__(self, table: pa.Table) -> pa.Table:
        records = [self._one(row["split"], row["index"]) for row in table.to_pylist()]
        return pa.table({"unit_id": table["unit_id"], "record": records})

    def _one(self, split: str, index: int) -> str:
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
        record = _JSON.encode({**describe(video), "checksums": checksums})
        self.folder.write_bytes(f"{MAKING}/videos/{video.video_id}.json", record.encode())  # last: the video is whole
        return record


def encode_jpeg(frame: np.ndarray) -> bytes:
    """A frame (H, W, 3) uint8 RGB as JPEG, its colours at full resolution."""
    sampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    done, data = cv2.imencode(".jpg", frame[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, *sampling])
    assert done
    return bytes(data)


def encode_mp4(frames: np.ndarray) -> bytes:
    """Frames (T, H, W, 3) uint8 RGB, of even height and width, as H.264 in an mp4 file; the same bytes each time."""
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND, options=H264)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return target.getvalue()


def content_checksums(video: SynthVideo) -> dict[str, str]:
    """SHA-256 of a video's frames, masks and texts, before anything is compressed."""
    texts = [[e.text, e.kind, e.subtype, e.wording, e.object_ids] for e in video.expressions]
    return {
        "frames": hashlib.sha256(str(video.frames.shape).encode() + video.frames.tobytes()).hexdigest(),
        "masks": hashlib.sha256(str(video.masks.shape).encode() + np.packbits(video.masks).tobytes()).hexdigest(),
        "texts": hashlib.sha256(_JSON.encode(texts).encode()).hexdigest(),
    }


def describe(video: SynthVideo) -> dict[str, Any]:
    """All that the tables say about a video, as JSON values."""
    frames, height, width = video.frames.shape[:3]
    union = np.asarray(video.masks.any(axis=0))
    return {
        "split": video.split,
        "frames": frames,
        "height": height,
        "width": width,
        "scene": {
            "background": video.background,
            "camera": video.camera,
            "light": video.light,
            "effects": video.effects,
            "theme": video.theme,
        },
        "masks": [_codes(mask, null_if_empty=True) for mask in video.masks],
        "foreground": _codes(union),
        "foreground_ratio": [round(float(ratio), 6) for ratio in union.mean(axis=(1, 2))],
        "objects": [
            {
                "obj_id": item.object_id,
                "shape": item.shape,
                "colour": item.colour,
                "texture": item.texture,
                "motion": item.program,
                "mask_area": video.masks[item.object_id].sum(axis=(1, 2)).tolist(),
                **{
                    name: np.round(getattr(item, name), 3).tolist()
                    for name in ("centre", "world", "radius", "scale", "angle", "area", "inside", "visible")
                },
            }
            for item in video.objects
        ],
        "expressions": [
            {
                "exp": e.text,
                "obj_id": list(e.object_ids),
                "type_id": e.type_id,
                "kind": e.kind,
                "subtype": e.subtype,
                "asks": e.asks,
                "wording": e.wording,
                "names": e.names,
            }
            for e in video.expressions
        ],
    }


def _codes(masks: np.ndarray, null_if_empty: bool = False) -> list[dict[str, Any] | None]:
    """COCO RLE of each mask (T, H, W); None for an empty one if asked for."""
    size = list(masks.shape[1:])
    return [
        None if null_if_empty and not code.area else {"size": size, "counts": code.rle.decode("ascii")}
        for code in encode(masks)
    ]


def _write_tables(target: Folder, records: dict[str, dict[str, Any]], settings: dict[str, Any]) -> None:
    form, counts = settings["format"], settings["videos"]
    masks: dict[str, Any] = {}
    annotations: dict[str, list[int]] = {}
    for name, record in records.items():
        annotations[name] = list(range(len(masks), len(masks) + len(record["masks"])))
        masks |= dict(zip(map(str, annotations[name]), record["masks"], strict=True))
    kinds: dict[str, int] = {}
    for split in counts:
        chosen = {name: record for name, record in records.items() if record["split"] == split}
        metadata = {
            name: _metadata(number, record, annotations[name]) for number, (name, record) in enumerate(chosen.items())
        }
        _write_json(target, f"meta_expressions_{split}_.json", {"videos": metadata})
        lines = list(_instructions(chosen, form))
        target.write_bytes(f"instructions_{split}.jsonl", "".join(f"{_JSON.encode(line)}\n" for line in lines).encode())
        for line in lines:
            kinds[line["kind"]] = kinds.get(line["kind"], 0) + 1
    _write_json(target, "mask_dict.json", masks)
    foreground = {
        name: {"masks_rle": record["foreground"], "foreground_ratio": record["foreground_ratio"]}
        for name, record in records.items()
    }
    _write_json(target, "mask_dict_foreground.json", foreground)
    plain = ("split", "frames", "height", "width", "scene", "objects")
    _write_json(target, "objects.json", {name: {key: r[key] for key in plain} for name, r in records.items()})
    checksums = {name: record["checksums"] for name, record in records.items()}
    total = hashlib.sha256(json.dumps(checksums, sort_keys=True).encode()).hexdigest()
    about = {**settings, "kinds": kinds, "checksum": total, "checksums": checksums}
    _write_json(target, MADE, about)


def _metadata(number: int, record: dict[str, Any], annotations: list[int]) -> dict[str, Any]:
    """A video's entry in ReVOS's meta_expressions."""
    expressions = {
        str(place): {**expression, "anno_id": [annotations[item] for item in expression["obj_id"]]}
        for place, expression in enumerate(record["expressions"])
    }
    return {
        "expressions": expressions,
        "frames": [f"{frame:05d}" for frame in range(record["frames"])],
        "height": record["height"],
        "width": record["width"],
        "vid_id": number,
    }


def _instructions(records: dict[str, dict[str, Any]], form: str) -> Iterable[dict[str, Any]]:
    """Rows of the instruction table, which lies beside the videos."""
    for name, record in records.items():
        for place, expression in enumerate(record["expressions"]):
            yield {
                "video_id": name,
                "video_uri": f"JPEGImages/{name}" if form == "jpeg" else f"videos/{name}.mp4",
                "instruction_id": str(place),
                "text": expression["exp"],
                "kind": expression["kind"],
                "subtype": expression["subtype"],
                "wording": expression["wording"],
            }


def _write_json(target: Folder, name: str, value: Any) -> None:
    target.write_bytes(name, _JSON.encode(value).encode())
