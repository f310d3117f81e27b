"""What the gateway serves, and to whom."""

from __future__ import annotations

from dataclasses import dataclass

from crewlog.gateway.admission import AdmissionServer
from crewlog.gateway.budgets import BudgetServer, GateServer
from crewlog.gateway.costing import CostServer
from crewlog.gateway.credentials import CredentialServer
from crewlog.gateway.projects import ProjectServer
from crewlog.gateway.reading import AgentServer, EventServer, FileServer
from crewlog.gateway.runs import RunServer
from crewlog.runtime.serve import Access, Registration
from crewlog.v1.admission_pb2_grpc import add_AdmissionServiceServicer_to_server
from crewlog.v1.agent_pb2_grpc import add_AgentServiceServicer_to_server, add_CredentialServiceServicer_to_server
from crewlog.v1.budget_service_pb2_grpc import (
    add_BudgetServiceServicer_to_server,
    add_CostServiceServicer_to_server,
    add_GateServiceServicer_to_server,
)
from crewlog.v1.events_pb2_grpc import add_EventServiceServicer_to_server
from crewlog.v1.project_pb2_grpc import add_ProjectServiceServicer_to_server
from crewlog.v1.run_service_pb2_grpc import add_RunServiceServicer_to_server
from crewlog.v1.workspace_pb2_grpc import add_FileServiceServicer_to_server


@dataclass(frozen=True, slots=True)
class Servers:
    runs: RunServer
    projects: ProjectServer
    agents: AgentServer
    events: EventServer
    files: FileServer
    credentials: CredentialServer
    budgets: BudgetServer
    gates: GateServer
    costs: CostServer
    admission: AdmissionServer


def registrations(servers: Servers) -> list[Registration]:
    """Everything is for clients, but the key of the model."""
    public = (
        ("RunService", add_RunServiceServicer_to_server, servers.runs),
        ("ProjectService", add_ProjectServiceServicer_to_server, servers.projects),
        ("AgentService", add_AgentServiceServicer_to_server, servers.agents),
        ("EventService", add_EventServiceServicer_to_server, servers.events),
        ("FileService", add_FileServiceServicer_to_server, servers.files),
        ("BudgetService", add_BudgetServiceServicer_to_server, servers.budgets),
        ("GateService", add_GateServiceServicer_to_server, servers.gates),
        ("CostService", add_CostServiceServicer_to_server, servers.costs),
        ("AdmissionService", add_AdmissionServiceServicer_to_server, servers.admission),
    )
    credentials = ("CredentialService", add_CredentialServiceServicer_to_server, servers.credentials)
    return [
        *(Registration(f"crewlog.v1.{name}", add, servicer, Access.CLIENT) for name, add, servicer in public),
        Registration(f"crewlog.v1.{credentials[0]}", credentials[1], credentials[2], Access.CLAIM),
    ]
