"""Create what runs need on a Prefect server: work pool, deployments, and the automation that finds dead runs.

Whatever is as it should be is left alone, so this may be run again at any time.
"""

from __future__ import annotations

import hashlib
import json
from datetime import timedelta
from importlib import import_module
from typing import Any

from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
from prefect.client.schemas.objects import ConcurrencyOptions, StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectNotFound, ParameterTypeError, PrefectHTTPStatusError
from prefect.utilities.callables import parameter_schema
from prefect.workers.process import ProcessWorker

from flows.operate.deployments import DeploymentSpec, ProjectSpec
from flows.results import Made
from tasks.errors import UserError

TAG = "unicoder-vl"
"""Every deployment has it, so every run; the automation looks at no others."""

MISSED_HEARTBEATS = 3
AUTOMATION = "unicoder-vl: mark runs without a heartbeat as crashed"


def set_up(project: ProjectSpec) -> list[Made]:
    """Create missing pools, deployments and automation; change those that are declared otherwise now.

    Raises:
        UserError: the server wants a password, or a deployment's parameters do not fit its flow.
    """
    flows = [_load_flow(spec) for spec in project.deployments]
    try:
        with get_client(sync_client=True) as client:
            return [
                *(_make_pool(client, name) for name in project.pools),
                *(
                    _make_deployment(client, project, spec, flow)
                    for spec, flow in zip(project.deployments, flows, strict=True)
                ),
                _make_automation(client, project.heartbeat_seconds),
            ]
    except PrefectHTTPStatusError as error:
        if error.response.status_code != 401:
            raise
        raise UserError(
            "the Prefect server wants a password; set PREFECT_API_AUTH_STRING to its NAME:PASSWORD"
        ) from error


def _load_flow(spec: DeploymentSpec) -> Flow[..., Any]:
    """Load the flow of a deployment and check its parameters."""
    module, _, name = spec.entrypoint.rpartition(".")
    try:
        flow = getattr(import_module(module), name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise UserError(f"deployment {spec.name}: there is no flow {spec.entrypoint} ({error})") from error
    if not isinstance(flow, Flow):
        raise UserError(f"deployment {spec.name}: {spec.entrypoint} is not a flow")
    try:
        flow.validate_parameters(spec.parameters)
    except ParameterTypeError as error:
        raise UserError(f"deployment {flow.name}/{spec.name}: {' '.join(str(error).split())}") from error
    return flow


def _make_pool(client: SyncPrefectClient, name: str) -> Made:
    try:
        pool = client.read_work_pool(name)
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        client.create_work_pool(WorkPoolCreate(name=name, type=ProcessWorker.type, base_job_template=template))
        return Made(kind="work pool", name=name, done="made")
    # A pool of containers, say, that somebody has made for these runs.
    return Made(kind="work pool", name=name, done="stands", remark=f"of type {pool.type}")


def _make_deployment(
    client: SyncPrefectClient, project: ProjectSpec, spec: DeploymentSpec, flow: Flow[..., Any]
) -> Made:
    """Register a deployment, unless the one on the server was registered from the same declaration.

    That is told by its version, so what somebody has changed on the server since then (another default, a schedule
    that is off) stays until the declaration changes.
    """
    schema = parameter_schema(flow).model_dump(exclude_unset=True)
    version = _digest({"pull": project.pull, "schema": schema, **spec.model_dump(mode="json")})
    name = f"{flow.name}/{spec.name}"
    found = _find_deployment(client, name)
    if found is not None and found.version == version:
        return Made(kind="deployment", name=name, done="stands")
    limit = spec.concurrency_limit
    client.create_deployment(
        flow_id=client.create_flow(flow),
        name=spec.name,
        version=version,
        description=spec.description,
        tags=list(spec.tags),
        entrypoint=spec.entrypoint,
        pull_steps=list(project.pull),
        work_pool_name=spec.work_pool.name,
        job_variables=spec.work_pool.job_variables,
        parameters=spec.parameters,
        parameter_openapi_schema=schema,
        enforce_parameter_schema=True,
        concurrency_limit=None if limit is None else limit.limit,
        concurrency_options=None if limit is None else ConcurrencyOptions.model_validate(limit.options),
        schedules=_schedules(spec, found),
    )
    return Made(kind="deployment", name=name, done="made" if found is None else "changed")


def _find_deployment(client: SyncPrefectClient, name: str) -> DeploymentResponse | None:
    try:
        return client.read_deployment_by_name(name)
    except ObjectNotFound:
        return None


def _schedules(spec: DeploymentSpec, found: DeploymentResponse | None) -> list[DeploymentScheduleCreate]:
    """The schedules as declared; they stay off where somebody has turned them off."""
    active = found is None or all(schedule.active for schedule in found.schedules)
    return [
        DeploymentScheduleCreate(schedule=CronSchedule(cron=one.cron, timezone=one.timezone), active=active)
        for one in spec.schedules
    ]


def _make_automation(client: SyncPrefectClient, heartbeat_seconds: int) -> Made:
    wanted = _automation(heartbeat_seconds)
    remark = f"after {MISSED_HEARTBEATS * heartbeat_seconds} s without one"
    found = client.read_automations_by_name(AUTOMATION)
    if not found:
        client.create_automation(wanted)
        return Made(kind="automation", name=AUTOMATION, done="made", remark=remark)
    declared = {"trigger", "actions", "description"}
    if found[0].model_dump(include=declared) == wanted.model_dump(include=declared):
        return Made(kind="automation", name=AUTOMATION, done="stands", remark=remark)
    client.update_automation(found[0].id, wanted.model_copy(update={"enabled": found[0].enabled}))
    return Made(kind="automation", name=AUTOMATION, done="changed", remark=remark)


def _automation(heartbeat_seconds: int) -> AutomationCore:
    """An automation that marks a run as crashed after three missed heartbeats.

    A worker tells the server of a run that died, but not where it is killed with the run, or its machine stops.
    """
    return AutomationCore(
        name=AUTOMATION,
        description="Made by `unicoder-vl setup`. Without it a run whose machine has died stays Running for ever, and "
        "the next one of its deployment waits for it.",
        trigger=EventTrigger(
            match=ResourceSpecification.model_validate({"prefect.resource.id": "prefect.flow-run.*"}),
            match_related=ResourceSpecification.model_validate({"prefect.resource.id": f"prefect.tag.{TAG}"}),
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.*"},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=MISSED_HEARTBEATS * heartbeat_seconds),
        ),
        actions=[
            ChangeFlowRunState(
                name="Crashed",
                state=StateType.CRASHED,
                force=False,
                message=f"No heartbeat for {MISSED_HEARTBEATS * heartbeat_seconds} s: its process or machine has died. "
                "Run the deployment again, or retry this run; what is done is kept.",
            )
        ],
    )


def _digest(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
