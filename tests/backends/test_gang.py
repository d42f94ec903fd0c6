"""What replicas of a gang are told of each other."""

from __future__ import annotations

import dataclasses

from cumulus.backends import gang
from cumulus.backends.base import EnvVar, GangMember, Workload
from cumulus.backends.swarm import spec
from cumulus.backends.swarm.environment import engine_environment

APART = (GangMember("a", "10.0.0.1"), GangMember("b", "10.0.0.2"), GangMember("a", "10.0.0.1"))


def workload(replica: int = 0, members: tuple[GangMember, ...] = APART, **more: object) -> Workload:
    fields: dict[str, object] = {
        "name": f"n-r{replica}", "namespace": "default", "job": "j", "job_uid": "u", "attempt": 2, "replica": replica,
        "replicas": len(members), "node": members[replica].node, "command": (), "leases": (), "gang": members,
    }  # fmt: skip
    return Workload(**{**fields, **more})  # type: ignore[arg-type]


def test_replicas_agree_on_where_they_meet_and_differ_in_their_rank() -> None:
    hosts = gang.addresses(workload())
    told = [gang.gang_environment(workload(r), hosts, 29500, "/h") for r in range(3)]
    assert {(t["MASTER_ADDR"], t["MASTER_PORT"], t["WORLD_SIZE"]) for t in told} == {("10.0.0.1", "29500", "3")}
    assert {t["JAX_COORDINATOR_ADDRESS"] for t in told} == {"10.0.0.1:29500"}
    for name in ("RANK", "NODE_RANK", "GROUP_RANK", "PET_NODE_RANK", "JAX_PROCESS_ID", "OMPI_COMM_WORLD_RANK"):
        assert [t[name] for t in told] == ["0", "1", "2"]
    assert {(t["LOCAL_RANK"], t["LOCAL_WORLD_SIZE"]) for t in told} == {("0", "1")}
    assert [t["OMPI_COMM_WORLD_NODE_RANK"] for t in told] == ["0", "0", "1"], "the second on its machine"


def test_the_file_of_hosts_counts_the_devices_of_each() -> None:
    assert gang.hostfile(workload(), gang.addresses(workload())) == "10.0.0.1 slots=2\n10.0.0.2 slots=1\n"
    here = workload(members=(GangMember("a", "10.0.0.1"),) * 2)
    assert gang.hostfile(here, gang.addresses(here)) == "127.0.0.1 slots=2\n"


def test_a_node_whose_address_is_not_known_is_named() -> None:
    assert gang.addresses(workload(members=(GangMember("a"), GangMember("b", "fe80::1")))) == ["a", "fe80::1"]


def test_an_address_of_ipv6_stands_in_brackets() -> None:
    told = gang.gang_environment(workload(), ["fe80::1"], 29500, "/h")
    assert (told["MASTER_ADDR"], told["JAX_COORDINATOR_ADDRESS"]) == ("fe80::1", "[fe80::1]:29500")


def test_containers_find_each_other_by_name_in_a_network_of_their_own() -> None:
    parts = spec.GangParts("net-id", "config-id", "config")
    body = spec.service(workload(1, image="x"), instance="i", node_id="n", image="x", parts=parts)
    assert body["TaskTemplate"]["Networks"] == [{"Target": "net-id", "Aliases": ["replica-1"]}]
    assert body["EndpointSpec"] == {"Mode": "dnsrr"}
    container = body["TaskTemplate"]["ContainerSpec"]
    assert {"MASTER_ADDR=replica-0", "MASTER_PORT=29500", "RANK=1"} <= set(container["Env"])
    assert container["Configs"][0]["File"]["Name"] == "/run/cumulus/hostfile"
    assert spec.hosts(workload()) == ["replica-0", "replica-1", "replica-2"]


def test_containers_in_their_nodes_network_meet_at_its_address() -> None:
    parts = spec.GangParts("", "config-id", "config")
    work = workload(1, image="x", host_network=True)
    body = spec.service(work, instance="i", node_id="n", image="x", parts=parts)
    assert body["TaskTemplate"]["Networks"] == [{"Target": "host"}]
    assert "EndpointSpec" not in body
    variables = spec.gang_variables(work)
    assert variables["MASTER_ADDR"] == "10.0.0.1"
    assert 20_000 <= int(variables["MASTER_PORT"]) < 30_000
    assert variables["MASTER_PORT"] == spec.gang_variables(dataclasses.replace(work, replica=0))["MASTER_PORT"]


def test_the_jobs_own_variables_win() -> None:
    work = workload(env=(EnvVar("MASTER_PORT", "1234"), EnvVar("MASTER_ADDR", "")))
    variables, _ = engine_environment(work, {}, spec.gang_variables(work))
    assert (variables["MASTER_PORT"], variables["MASTER_ADDR"], variables["RANK"]) == ("1234", "", "0")


def test_a_job_of_one_replica_is_told_of_no_gang() -> None:
    work = workload(members=(GangMember("a"),), gang=())
    assert spec.gang_variables(work) == {}
