"""`vrshq plan --on`: what a run would need on machines that are not here, and which of them costs the fewest GPU-hours."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from vrshq.cluster.ray.gpus import Gpu, known_gpus
from vrshq.cluster.ray.resources import Resources
from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.operators.models.families import FAMILIES
from vrshq.pipelines.config.assignments import SettingsError
from vrshq.pipelines.estimate.memory import shortage
from vrshq.pipelines.estimate.sizes import ModelSizes, sized_models, sizes_of, sizes_of_known
from vrshq.pipelines.label.asked.instructions import Instructions, folder_of, read_instructions
from vrshq.pipelines.label.asked.units import build_manifest
from vrshq.pipelines.label.planning.costs import ASSUMED_FRAMES, Estimate, Measured, estimate
from vrshq.pipelines.label.planning.device import computed_cost, pool_memory
from vrshq.pipelines.label.planning.lengths import Lengths, look_at_headers
from vrshq.pipelines.label.planning.placement import PLACED_STAGES
from vrshq.pipelines.label.planning.plan import finished_units
from vrshq.pipelines.label.resources import Pool
from vrshq.pipelines.label.settings import Settings
from vrshq.pipelines.models.locate import describe_model

_MACHINE = re.compile(r"(?:(\d+)x)?(.+)")


@dataclass(frozen=True)
class Corpus:
    """The unfinished units of a run.

    Attributes:
        units: number of them.
        per_unit: average number of instructions of a unit.
        lengths: what the headers of some videos say.
    """

    units: int
    per_unit: float
    lengths: Lengths | None

    @property
    def object_frames(self) -> float:
        """Frames times instructions, of all units: the number of masks, where each instruction has one object."""
        if self.lengths and self.lengths.looked:
            return self.units * self.lengths.frame_instructions
        return self.units * ASSUMED_FRAMES * self.per_unit


@dataclass(frozen=True)
class Forecast:
    """A run on some GPUs of one kind.

    Attributes:
        name: as given, for example "8xH100-80GB".
        gpus: number of GPUs.
        gpu: their kind.
        dtype: type of the networks there.
        memory: GPU memory of an actor by part, in bytes.
        refused: why it cannot run there; "" where it can.
        expected: the cost of a unit.
        gpu_hours: of all units together.
    """

    name: str
    gpus: int
    gpu: Gpu
    dtype: str
    memory: dict[str, int]
    refused: str
    expected: Estimate
    gpu_hours: float


def corpus_of(instructions: Instructions, output: str, settings: Settings, videos: str | None) -> Corpus:
    """The units of an instruction table that the run directory does not hold finished; headers of some videos are read.

    Raises:
        InstructionTableError: the table cannot be used.
    """
    table, run = read_instructions(instructions), RunDirectory(output)
    manifest = build_manifest(
        table,
        videos_root=videos,
        base=folder_of(instructions),
        max_instructions_per_unit=settings.max_instructions_per_unit,
    )
    if run.has_manifest():
        done = pa.array(finished_units(run, manifest), pa.string())
        manifest = manifest.filter(pc.invert(pc.is_in(manifest["unit_id"], done)))
    per_unit = pc.mean(pc.list_value_length(manifest["instruction_ids"])).as_py() or 1.0
    return Corpus(manifest.num_rows, per_unit, look_at_headers(manifest, settings.decode.every))


def forecasts(names: Sequence[str], settings: Settings, corpus: Corpus) -> list[Forecast]:
    """What the corpus needs on each of the named machines, in their order.

    Raises:
        SettingsError: a machine is not known, or the needs of the model are not.
        CheckpointError: the model is not known.
    """
    machines = [named_machine(name) for name in names]
    model, sizes, settings = _described(settings)
    make = functools.partial(_forecast, model=model, sizes=sizes, settings=settings, corpus=corpus)
    return [make(name, gpus, gpu) for name, (gpus, gpu) in zip(names, machines, strict=True)]


def named_machine(name: str) -> tuple[int, Gpu]:
    """The number and the kind of the GPUs that a name such as "8xH100-80GB" says.

    Raises:
        SettingsError: it is not known; the message lists the known ones.
    """
    found = _MACHINE.fullmatch(name)
    number, kind = (int(found[1] or 1), found[2].lower()) if found else (0, "")
    gpu = next((gpu for gpu in known_gpus().values() if gpu.name.lower() == kind), None)
    if gpu is None or number < 1:
        raise SettingsError(f"--on {name}: no such GPU; expected COUNTx and one of {', '.join(known_gpus())}")
    return number, gpu


def cheapest(made: Sequence[Forecast]) -> Forecast | None:
    """The one with the fewest GPU-hours of those on which the run fits; None if it fits on none."""
    return min((one for one in made if not one.refused), key=lambda one: one.gpu_hours, default=None)


def _described(settings: Settings) -> tuple[str, ModelSizes, Settings]:
    """The model's name and sizes, and the settings for it. Models with known sizes are not looked for."""
    if settings.model in sized_models():
        sizes = sizes_of_known(settings.model)
        return settings.model, sizes, settings.for_family(FAMILIES[sizes.family])
    bundle = describe_model(settings.model).bundle
    found = sizes_of(bundle)
    if found is None:
        raise SettingsError(f"--on: the needs of models of the family {bundle.family.name} on a GPU are not known")
    return bundle.name, found, settings.for_bundle(bundle)


def _forecast(
    name: str, gpus: int, gpu: Gpu, *, model: str, sizes: ModelSizes, settings: Settings, corpus: Corpus
) -> Forecast:
    dtype = settings.dtype
    if dtype == "auto":
        dtype = "bfloat16" if gpu.bfloat16 else "float32"
    settings = settings.model_copy(update={"dtype": dtype})
    machine = Resources(cpus=1, gpus=1, memory_bytes=0, nodes=1, gpu=gpu.name, gpu_bytes=gpu.memory_bytes)
    memory = pool_memory(sizes, settings, Pool(operators=PLACED_STAGES, gpus=1))
    refused = shortage(memory, gpu.memory_bytes, dtype, bfloat16=gpu.bfloat16)
    if dtype == "bfloat16" and not gpu.bfloat16:
        refused = f"{gpu.name} does not compute in bfloat16; set dtype=float16 or float32"
    computed = computed_cost(sizes, settings, [machine])
    expected = estimate(Measured(model, "cuda", dtype, gpu.name), corpus.per_unit, (), corpus.lengths, computed)
    assert expected is not None
    hours = corpus.units * expected.of_pool(PLACED_STAGES) / 3600
    return Forecast(name, gpus, gpu, dtype, memory, refused, expected, hours)
