"""The order in which units are begun: the most expensive videos first, so that no long one is left at the end of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vrshq.cluster.storage.uris import is_remote
from vrshq.pipelines.estimate.terms import Terms
from vrshq.pipelines.label.planning.costs import ASSUMED_FRAMES
from vrshq.pipelines.label.work.videos import size_of_file

# Without known costs, each further instruction adds a quarter of what a frame costs with one.
RELATIVE = Terms(frame=0.75, frame_instruction=0.25)
# Local videos whose size is looked up; a second or two.
_MOST_SIZES = 100_000


def costliest_first(units: pa.Table, known: Mapping[str, int], terms: Terms = RELATIVE) -> pa.Table:
    """The units of the most expensive video (or span of one) first, those of each together; else they keep their order.

    The length of a video is that of its header where it was read. Of other local files it is guessed from the size, in the
    proportion of those whose header was read. All others have the average length. A stated span bounds it.

    Args:
        units: rows of `vrshq.pipelines.label.tables.schema.MANIFEST`.
        known: number of frames by video_uri, from headers.
        terms: cost of a unit.
    """
    videos = units["video_uri"].dictionary_encode().unify_dictionaries().combine_chunks()
    lengths = _lengths(videos.dictionary.to_pylist(), known)[videos.indices.to_numpy()]
    start = units["start"].fill_null(0).to_numpy()
    end = np.minimum(units["end"].cast(pa.float64()).fill_null(np.inf).to_numpy(), lengths)
    counts = pc.list_value_length(units["instruction_ids"]).to_numpy()
    frames = np.maximum(end - start, 1)
    costs = terms.unit + terms.frame * frames + (terms.instruction + terms.frame_instruction * frames) * counts
    spans = np.stack([videos.indices.to_numpy(), start, units["end"].fill_null(-1).to_numpy()])
    _, first, group = np.unique(spans, axis=1, return_index=True, return_inverse=True)
    of_group = np.bincount(group.ravel(), costs)[group.ravel()]
    return units.take(pa.array(np.lexsort((np.arange(len(costs)), first[group.ravel()], -of_group))))


def _lengths(uris: Sequence[str], known: Mapping[str, int]) -> np.ndarray:
    """The expected number of frames of each video, (V,) float64."""
    frames = np.array([known.get(uri, np.nan) for uri in uris], np.float64)
    average = float(np.nanmean(frames)) if known else float(ASSUMED_FRAMES)
    if len(uris) <= _MOST_SIZES:
        sizes = np.array([_size(uri) for uri in uris])
        both = np.isfinite(frames) & np.isfinite(sizes)
        if both.any():
            guessed = sizes * (frames[both].sum() / sizes[both].sum())
            frames = np.where(np.isfinite(frames), frames, guessed)
    result: np.ndarray = np.where(np.isfinite(frames), frames, average)
    return result


def _size(uri: str) -> float:
    """The size of a local file in bytes; not a number for what is remote, a folder, empty or absent."""
    return np.nan if is_remote(uri) else size_of_file(uri) or np.nan
