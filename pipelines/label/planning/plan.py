"""The plan of a labelling run: its units, the finished ones, and the actor pools for the rest. Nothing is written."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vrshq.cluster.ray.errors import NotEnoughResources
from vrshq.cluster.ray.needs import lacking
from vrshq.cluster.ray.pool import ActorPool
from vrshq.cluster.ray.resources import Resources, cluster_machines, local_resources, may_grow
from vrshq.cluster.ray.session import ray_session
from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.cluster.storage.uris import is_web
from vrshq.pipelines.config.assignments import SettingsError
from vrshq.pipelines.estimate.sizes import ModelSizes, sizes_of
from vrshq.pipelines.label.asked.growth import check_types, continued_manifest, write_manifest
from vrshq.pipelines.label.asked.instructions import Instructions, folder_of, read_instructions
from vrshq.pipelines.label.asked.units import build_manifest
from vrshq.pipelines.label.planning.costs import Estimate, Measured, estimate
from vrshq.pipelines.label.planning.device import computed_cost, too_small, with_units_at_once
from vrshq.pipelines.label.planning.lengths import Lengths, look_at_headers
from vrshq.pipelines.label.planning.placement import choose_pools, device_of, network_device
from vrshq.pipelines.label.planning.types import with_type
from vrshq.pipelines.label.resources import Pool
from vrshq.pipelines.label.settings import Settings
from vrshq.pipelines.label.tables.carried import carried_schema
from vrshq.pipelines.label.tables.schema import SCHEMA_VERSION
from vrshq.pipelines.label.tables.stats import read_commands
from vrshq.pipelines.label.work.wire import encode_schema
from vrshq.pipelines.label.work.worker import PATIENCE_S, UnitWorker
from vrshq.pipelines.models.locate import DescribedModel, describe_model

_HASHED_ROWS = 65536


@dataclass(frozen=True)
class Plan:
    """The units of a run, the finished ones among them, and where the rest would run.

    Attributes:
        run: the run directory.
        settings: the settings, with what the model and its family decide filled in.
        manifest: the run's units, `vrshq.pipelines.label.tables.schema.MANIFEST`.
        carried: types of the instruction table's other columns.
        identity: the content of `run.json` that a later command must match.
        finished: ids of the manifest's finished units.
        model_name: name of the model's bundle.
        commands: the entries of the run's earlier commands in `stats.json`.
        machines: the machines of the cluster, or this machine.
        grows: whether an autoscaler may add machines.
        pools: the actor pools for the unfinished units.
        expected: the estimated cost of an unfinished unit; None if it was never measured.
        shown: whether somebody will read it, for whom the headers of some videos are read.
        lengths: what the headers of some unfinished units' videos say; None where none was read.
        model: the model's description; its weights may lie elsewhere.
        stored: the manifest of the run directory when the plan was made; None where it had none.
        missing: the resources that the pools need and the machines lack, one line per pool.
        too_small: one line for each pool whose actor does not fit on the machines' smallest GPU.
        sizes: the sizes of the model's networks; None for a family whose needs are not known.
    """

    run: RunDirectory
    settings: Settings
    manifest: pa.Table
    carried: pa.Schema
    identity: dict[str, Any]
    finished: set[str]
    model_name: str
    commands: list[dict[str, Any]]
    machines: Sequence[Resources] = ()
    grows: bool = False
    pools: list[Pool] = field(default_factory=list)
    expected: Estimate | None = None
    missing: list[str] = field(default_factory=list)
    too_small: list[str] = field(default_factory=list)
    sizes: ModelSizes | None = None
    shown: bool = False
    lengths: Lengths | None = None
    model: DescribedModel | None = None
    stored: pa.Table | None = None

    @property
    def added(self) -> pa.Table:
        """The units by which the run grows; none of a fresh run."""
        return self.manifest.slice(self.manifest.num_rows if self.stored is None else self.stored.num_rows)

    @property
    def todo(self) -> pa.Table:
        """The manifest's unfinished rows."""
        if not self.finished:
            return self.manifest
        return self.manifest.filter(pc.invert(pc.is_in(self.manifest["unit_id"], pa.array(self.finished, pa.string()))))


def make_plan(
    instructions: Instructions,
    output: str,
    settings: Settings,
    *,
    videos: str | None = None,
    shown: bool = False,
    grow: bool = False,
    retry_errors: bool = False,
    cluster: str | None = None,
) -> Plan:
    """The plan for this machine. Nothing is written. Arguments and errors as for `check_plan`.

    Args:
        instructions: the instruction table, or its uri.
        output: uri of the run directory.
        settings: of the run.
        videos: root of relative `video_uri`s; default: the table's folder.
        shown: as for `check_plan`.
        grow: as for `check_plan`.
        retry_errors: whether finished units with error rows count as unfinished.
        cluster: as for `check_plan`.
    """
    plan = check_plan(instructions, output, settings, videos=videos, shown=shown, grow=grow, cluster=cluster)
    finished = finished_units(plan.run, plan.manifest) - (plan.run.errored_units() if retry_errors else set())
    return on_machines(replace(plan, finished=finished), plan.machines)


def check_plan(
    instructions: Instructions,
    output: str,
    settings: Settings,
    *,
    videos: str | None = None,
    shown: bool = False,
    grow: bool = False,
    cluster: str | None = None,
) -> Plan:
    """Reads and checks everything that can be checked before work starts, and does not look for finished units.

    Args:
        instructions: the instruction table, or its uri.
        output: uri of the run directory.
        settings: of the run.
        videos: root of relative `video_uri`s; default: the table's folder.
        shown: whether somebody will read the plan; the headers of some videos are then read for its estimate.
        grow: whether the table may have rows that the run directory does not have yet.
        cluster: address of the Ray cluster, which decides what `dtype: auto` is; None: this machine.

    Returns:
        a plan without finished units and pools, for this machine.

    Raises:
        InstructionTableError: the instruction table cannot be used.
        SettingsError: the settings' pools cannot be used, or do not allow `videos`.
        OtherInstructions: the run directory belongs to a run over other instructions.
        CheckpointError: the model cannot be opened.
        RunDirectoryError: the run directory belongs to other settings, or is none; as `label` refuses it.
        StorageError: the run directory cannot be read.
    """
    if videos and is_web(videos) and not settings.limits.allow_http:
        raise SettingsError(f"--videos {videos}: web servers are not called; add --set limits.allow_http=true")
    table = read_instructions(instructions)
    build = functools.partial(
        build_manifest,
        videos_root=videos,
        base=folder_of(instructions),
        max_instructions_per_unit=settings.max_instructions_per_unit,
    )
    manifest = build(table)
    model = describe_model(settings.model)
    bundle = model.bundle
    run = RunDirectory(output)
    settings = with_type(settings.for_bundle(bundle), run, cluster)
    identity: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "model": {"name": bundle.name, "fingerprint": bundle.fingerprint},
        "manifest_sha256": _manifest_hash(manifest),
        "settings": settings.identity(),
    }
    if settings.tracking.decoder == "original":
        identity["model"]["original_decoder"] = bundle.versions_in("sam2")
    stored = run.read_manifest() if run.has_manifest() else None
    if stored is not None:
        manifest = continued_manifest(run, stored, table, manifest, build, grow=grow)
        if manifest.num_rows > stored.num_rows:
            check_types(run, carried_schema(table))
    if run.folder.exists("run.json"):
        began = run.read_json("run.json")
        if isinstance(began, dict) and isinstance(began.get("identity"), dict):
            identity["settings"] = settings.identity_as(began["identity"].get("settings"))
            if stored is not None or grow:
                # The identity keeps the hash of the instructions with which the run began; these were compared one by one.
                identity["manifest_sha256"] = began["identity"].get("manifest_sha256", identity["manifest_sha256"])
    run.check(identity)
    machines = [local_resources()]
    choose_pools(settings, machines, manifest.num_rows)  # refuses pools that cannot be used
    return Plan(
        run=run,
        settings=settings,
        manifest=manifest,
        carried=carried_schema(table),
        identity=identity,
        finished=set(),
        model_name=bundle.name,
        model=model,
        sizes=sizes_of(bundle),
        commands=read_commands(run),
        shown=shown,
        stored=stored,
        machines=machines,
    )


def begun(plan: Plan, *, retry_errors: bool) -> Plan:
    """Writes a new or grown manifest, and looks for finished units; with the lease, so that no other command adds some.

    Args:
        plan: from `check_plan` or `make_plan`.
        retry_errors: makes finished units with error rows unfinished.
    """
    write_manifest(plan.run, plan.stored, plan.manifest)
    finished = finished_units(plan.run, plan.manifest)
    errored = plan.run.errored_units() & finished if retry_errors else set()
    plan.run.forget(errored)
    run = RunDirectory(plan.run.uri, patience_s=PATIENCE_S)
    return on_machines(replace(plan, finished=finished - errored, run=run), plan.machines)


def plan_for(plan: Plan, address: str | None = None) -> Plan:
    """The plan for the cluster that `label` would use: `address`, else RAY_ADDRESS, else this machine (`plan` unchanged).

    Raises:
        ConnectionError: no cluster answers at the address.
    """
    if not (address or os.environ.get("RAY_ADDRESS")):
        return plan
    with ray_session(address):
        return on_machines(plan, cluster_machines(), grows=may_grow())


def in_this_process(plan: Plan) -> Plan:
    """The plan for the for-loop: one worker for each pool, in this process."""
    return replace(plan, pools=choose_pools(plan.settings, plan.machines, units=1), missing=[])


def on_machines(plan: Plan, machines: Sequence[Resources], *, grows: bool = False) -> Plan:
    """The plan with actor pools for its unfinished units on the given machines."""
    todo, settings = plan.todo, plan.settings
    device = network_device(settings, machines)
    plan = replace(plan, machines=machines, grows=grows, expected=_expected(plan, machines))
    expected = plan.expected
    if expected and not expected.known and plan.lengths is None and todo.num_rows and (plan.shown or device == "cuda"):
        plan = replace(plan, lengths=look_at_headers(todo, settings.decode.every))
        plan = replace(plan, expected=_expected(plan, machines))
    pools = choose_pools(settings, machines, todo.num_rows)
    if device == "cuda" and settings.resources.pools is None and plan.sizes:
        pools = with_units_at_once(plan.sizes, settings, pools, machines)
    plan = replace(plan, pools=pools, missing=[], too_small=[])
    if not todo.num_rows:
        return plan
    on_gpus = [pool for pool in pools if device_of(settings, pool) == "cuda"]
    small = too_small(plan.sizes, settings, on_gpus, machines) if plan.sizes else []
    return replace(plan, missing=lacking(actor_pools(plan), machines), too_small=small)


def refuse(plan: Plan) -> None:
    """Refuses what cannot be done.

    Raises:
        NotEnoughResources: an actor does not fit on the GPUs that there are, and no others may come.
        SettingsError: the keyframe is to be chosen by the ground truth, which a labelling does not have.
    """
    if (method := plan.settings.keyframe.method).startswith("oracle"):
        raise SettingsError(
            f"setting keyframe.method {method}: it looks at the ground truth; expected `vrshq ablate --study keyframe`, or "
            "another method"
        )
    if plan.too_small and not plan.grows:
        raise NotEnoughResources("; ".join(plan.too_small))


def _expected(plan: Plan, machines: Sequence[Resources]) -> Estimate | None:
    """The cost of an unfinished unit on the machines; on GPUs it can be computed where it was never measured."""
    todo, settings, device = plan.todo, plan.settings, network_device(plan.settings, machines)
    per_unit = (pc.mean(pc.list_value_length(todo["instruction_ids"])).as_py() if todo.num_rows else None) or 1.0
    kinds = {machine.gpu for machine in machines if machine.gpus}
    gpu = kinds.pop() if device == "cuda" and len(kinds) == 1 else None
    computed = computed_cost(plan.sizes, settings, machines) if device == "cuda" and plan.sizes else None
    measured = Measured(plan.model_name, device, settings.dtype, gpu)
    return estimate(measured, per_unit, plan.commands, plan.lengths, computed)


def actor_pools(plan: Plan) -> list[ActorPool]:
    """The plan's pools as the engine takes them; none has more actors than there are units to do."""
    return [
        ActorPool(
            name="+".join(pool.operators),
            worker=UnitWorker,
            arguments={**worker_arguments(plan, pool), "log_units": True},
            actors=min(pool.actors, plan.todo.num_rows),
            max_actors=pool.max_actors,
            num_cpus=pool.cpus,
            num_gpus=pool.gpus,
            calls=pool.units,
            deadline_s=plan.settings.resources.opening(),
        )
        for pool in plan.pools
    ]


def worker_arguments(plan: Plan, pool: Pool) -> dict[str, Any]:
    """The arguments of a pool's `UnitWorker`: some kB that travel to each actor, without the model and the table."""
    return {
        "settings": plan.settings.model_dump_json(),
        "operators": pool.operators,
        "run": plan.run.uri,
        "device": device_of(plan.settings, pool),
        "carried": encode_schema(plan.carried),
        "gpus": pool.gpus,
        # units that are worked on at once take turns
        "cost": plan.expected.terms.times(pool.units) if plan.expected else None,
    }


def finished_units(run: RunDirectory, manifest: pa.Table) -> set[str]:
    """Ids of the manifest's units that the run directory holds finished."""
    found = pa.array(run.finished_units(), pa.string())
    return set(manifest["unit_id"].filter(pc.is_in(manifest["unit_id"], found)).to_pylist())


def _manifest_hash(manifest: pa.Table) -> str:
    """SHA-256 of the unit ids and the carried columns, in manifest order. Video uris do not enter it."""
    digest = hashlib.sha256()
    hashed = manifest.select(["unit_id", "carried"])
    for row in range(0, hashed.num_rows, _HASHED_ROWS):
        digest.update(json.dumps(hashed.slice(row, _HASHED_ROWS).to_pydict()).encode())
    return digest.hexdigest()
