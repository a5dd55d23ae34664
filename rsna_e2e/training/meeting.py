"""The address where the hosts of a run meet: read from the environment, and tried before torchrun starts.

Needs nothing but the standard library.
"""

import re
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass

from rsna_e2e.core.errors import MissingCapabilityError, RsnaError, UsageError

LOOPBACK = "127.0.0.1"
_DEFAULT_PORT = "29500"  # torchrun's own
_MEETING_S = 60.0  # how long hosts wait for the first; as long as torchrun would
_NAME_S = 10.0  # how long a name may lead nowhere: some get it when the first host is up
_POLL_S = 0.2
_HIGHEST_PORT = 65535
_NO_ADDRESS = (socket.gaierror, UnicodeError)  # the latter of what is no host name (RFC 3490)


@dataclass(frozen=True, slots=True, kw_only=True)
class Nodes:
    """The hosts of a run: how many, which one this is, the address where they meet, and a name unique to this job.

    endpoint: for a single host its own address, which needs no name resolution, and any free port.
    """

    n_nodes: int = 1
    node_rank: int = 0
    endpoint: str = f"{LOOPBACK}:0"
    job: str = "rsna-e2e"


ALONE = Nodes()


def read_nodes(environment: Mapping[str, str]) -> Nodes:
    """Return the hosts that NNODES, NODE_RANK and MASTER_ADDR[:PORT], or else Slurm's variables, describe.

    Raises UsageError when they do not fit together or the port is none, MissingCapabilityError without Slurm's
    `scontrol`.
    """
    by_hand = bool(environment.get("NNODES"))
    n_nodes = number(environment, "NNODES" if by_hand else "SLURM_JOB_NUM_NODES", least=1)
    if not by_hand and number(environment, "SLURM_LOCALID") > 0:
        raise UsageError(
            "Slurm started several tasks on this node. Use srun --ntasks-per-node=1: one task uses all GPUs of its node"
        )
    if n_nodes == 1:
        return ALONE
    if by_hand and not (environment.get("NODE_RANK") and environment.get("MASTER_ADDR")):
        raise UsageError(
            f"NNODES={n_nodes} needs NODE_RANK=0, 1, ... and MASTER_ADDR=HOST[:PORT], the address of node 0, on all"
        )
    node_rank = number(environment, "NODE_RANK" if by_hand else "SLURM_NODEID")
    if node_rank >= n_nodes:
        raise UsageError(f"node rank {node_rank}, but there are {n_nodes} nodes, counted from 0")
    host = environment["MASTER_ADDR"] if by_hand else _first_host(environment)
    return Nodes(
        n_nodes=n_nodes,
        node_rank=node_rank,
        endpoint=_with_port(host, environment.get("MASTER_PORT") or _DEFAULT_PORT),
        job="rsna-e2e" if by_hand else f"rsna-e2e-{environment.get('SLURM_JOB_ID', 'slurm')}",
    )


def check_meeting(nodes: Nodes, *, patience_s: float = _MEETING_S) -> None:
    """Check that several hosts can meet, before torchrun tries: wait for the first host, or, on it, try to listen.

    Raises UsageError for an invalid address, and on the first host for a port that is in use; RsnaError when the
    first host does not answer; starting again may help.
    """
    if nodes.n_nodes == 1:
        return
    host, _, port = nodes.endpoint.rpartition(":")
    where = host.strip("[]"), int(port)
    if nodes.node_rank == 0:
        _check_is_free(nodes.endpoint, *where)
        return
    began_s = time.monotonic()
    until_s = began_s + patience_s
    while True:
        try:
            socket.create_connection(where, timeout=max(until_s - time.monotonic(), _POLL_S)).close()
            return
        except _NO_ADDRESS as error:
            if time.monotonic() >= min(until_s, began_s + _NAME_S):
                raise _no_address(nodes.endpoint, error) from None
        except OSError as error:
            if time.monotonic() >= until_s:
                raise RsnaError(
                    f"node {nodes.node_rank} of {nodes.n_nodes} does not reach node 0 at {nodes.endpoint}: {error}. "
                    "Start the same command on node 0, and check MASTER_ADDR, MASTER_PORT and the firewall"
                ) from None
        time.sleep(_POLL_S)


def _check_is_free(endpoint: str, host: str, port: int) -> None:
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(address)
    except _NO_ADDRESS as error:
        raise _no_address(endpoint, error) from None
    except OSError as error:
        raise UsageError(
            f"node 0 cannot listen at {endpoint}: {error.strerror}. Give MASTER_ADDR, an address of this host, and a "
            "MASTER_PORT that is free"
        ) from None


def _no_address(endpoint: str, error: Exception) -> UsageError:
    why = error.strerror if isinstance(error, OSError) else "not the name of a host"
    return UsageError(f"{endpoint} leads nowhere: {why}. Give the address of node 0 as MASTER_ADDR")


def number(environment: Mapping[str, str], name: str, *, least: int = 0) -> int:
    """Return a variable as a number; `least` where it is not set."""
    text = environment.get(name) or str(least)
    if not (text.isascii() and text.isdecimal() and int(text) >= least):
        raise UsageError(f"{name}={text!r}: must be a whole number, at least {least}")
    return int(text)


def _first_host(environment: Mapping[str, str]) -> str:
    """Return the first of Slurm's hosts, whose list (`node[07-12,20]`) only Slurm knows how to read."""
    if not shutil.which("scontrol", path=environment.get("PATH")):
        raise MissingCapabilityError(
            "scontrol, which lists the hosts of a Slurm job, is not on PATH. Set NNODES, NODE_RANK and MASTER_ADDR"
        )
    command = ["scontrol", "show", "hostnames", environment.get("SLURM_JOB_NODELIST", "")]
    listed = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(environment))
    if listed.returncode or not listed.stdout.strip():
        raise UsageError(f"scontrol lists no hosts: {listed.stderr.strip()}. Set NNODES, NODE_RANK and MASTER_ADDR")
    return listed.stdout.split()[0]


def _with_port(host: str, port: str) -> str:
    if host.count(":") > 1 and not host.startswith("["):  # an IPv6 address
        host = f"[{host}]"
    endpoint = host if ":" in host.rpartition("]")[2] else f"{host}:{port}"
    text = endpoint.rpartition(":")[2]
    if not (re.fullmatch(r"\d{1,5}", text, re.ASCII) and 1 <= int(text) <= _HIGHEST_PORT):
        raise UsageError(f"{endpoint}: {text!r} is not a port. Give a number from 1 to {_HIGHEST_PORT} as MASTER_PORT")
    return endpoint
