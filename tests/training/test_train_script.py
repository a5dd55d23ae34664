"""bin/train.sh with stand-ins for rsna-e2e and torchrun: what it starts, whom it tells to end, how it ends."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rsna_e2e import cli
from rsna_e2e.cli import rank_main
from rsna_e2e.core.errors import MissingCapabilityError, RsnaError, UsageError
from rsna_e2e.training.launch import count_processes, for_ranks, make_command
from rsna_e2e.training.meeting import Nodes, check_meeting, read_nodes

ROOT = Path(__file__).parents[2]
SLURM = {
    "SLURM_JOB_NUM_NODES": "4",
    "SLURM_NODEID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_JOB_NODELIST": "gpu[07-10]",
    "SLURM_JOB_ID": "4711",
}
# Two workers and their parent, each of which writes down that it was told to end. They end then, torchrun with 1.
TORCHRUN = """
echo "$@" >"$SEEN/torchrun"
trap 'echo told >>"$SEEN/torchrun_told"' TERM
work() {
  trap 'touch "$SEEN/$1" "$RUN/preempted"; exit 0' TERM
  touch "$SEEN/ready_$1"
  while :; do sleep 0.05; done
}
work worker0 & work worker1 &
wait
exit 1
"""
TRAIN = """
echo "$@" >"$SEEN/train"
trap 'touch "$RUN/preempted"; exit 0' TERM
touch "$SEEN/ready"
while :; do sleep 0.05; done
"""


class Project:
    """A copy of the script whose .venv holds stand-ins, a RUN, and a folder where they say what they SEEN."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.run, self.seen, self.commands = (folder / n for n in ("project", "run", "seen", "commands"))
        for made in (self.folder / "bin", self.folder / ".venv" / "bin", self.run, self.seen, self.commands):
            made.mkdir(parents=True)
        for name in ("train.sh", "help.sh"):
            shutil.copy(ROOT / "bin" / name, self.folder / "bin")
        command(self.folder / "bin" / "setup.sh", "")
        (self.folder / ".venv" / "bin" / "python").symlink_to(sys.executable)
        for tool in ("bash", "dirname", "awk", "sleep", "touch"):
            (self.commands / tool).symlink_to(str(shutil.which(tool)))

    def stand_in(self, name: str, script: str) -> None:
        command(self.folder / ".venv" / "bin" / name, script)

    def start(self, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "CUDA_", "NNODES", "NPROC"))}
        clean |= {"PATH": str(self.commands), "PYTHONPATH": str(ROOT), "RUN": str(self.run), "SEEN": str(self.seen)}
        return subprocess.Popen(
            [str(self.folder / "bin" / "train.sh"), *arguments],
            env=clean | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def result(self, *arguments: str, **environment: str) -> tuple[int, str]:
        """Exit code and what was said."""
        process = self.start("store", str(self.run), *arguments, **environment)
        out, err = process.communicate(timeout=30)
        return process.returncode, out + err

    def wait_for(self, *names: str) -> None:
        deadline = time.monotonic() + 20
        while not all((self.seen / name).exists() for name in names):
            assert time.monotonic() < deadline, f"{names} not among {sorted(self.seen.iterdir())}"
            time.sleep(0.02)


def command(path: Path, script: str) -> None:
    path.write_text(f"#!{shutil.which('bash')}\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_help_needs_no_set_up(project: Project) -> None:
    (project.folder / "bin" / "setup.sh").unlink()
    for arguments in ([], ["--help"]):
        process = project.start(*arguments)
        out, _ = process.communicate(timeout=30)
        assert process.returncode == 0
        assert "Usage: bin/train.sh STORE RUN [OPTIONS of rsna-e2e train]" in out


def test_a_missing_run_is_a_usage_error(project: Project) -> None:
    process = project.start("store", "--recipe=demo")
    _, err = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "train: bin/train.sh STORE RUN" in err


@pytest.mark.parametrize("code", [0, 3, 6])
def test_one_process_ends_with_its_own_exit_code(project: Project, code: int) -> None:
    project.stand_in("rsna-e2e", f'echo "$@" >"$SEEN/train"; exit {code}')
    (project.run / "preempted").touch()  # of an earlier time
    assert project.result("--recipe", "demo")[0] == code
    assert (project.seen / "train").read_text() == f"train store {project.run} --resume auto --recipe demo\n"


def test_the_ranks_exit_code_is_kept_and_they_are_not_started_again(project: Project) -> None:
    find_file = "for word; do [[ $word != */exit_code ]] || file=$word; done; "
    script = find_file + 'trap "exit 1" TERM; echo 6 >"$file"; for i in {1..400}; do sleep 0.05; done'
    project.stand_in("torchrun", script)
    started = time.monotonic()
    assert project.result(NPROC="2")[0] == 6
    assert time.monotonic() - started < 15


def test_torchrun_that_fails_by_itself(project: Project) -> None:
    project.stand_in("torchrun", "exit 1")
    assert project.result(NPROC="2")[0] == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_one_process_is_told_to_end(project: Project, number: int) -> None:
    project.stand_in("rsna-e2e", TRAIN)
    process = project.start("store", str(project.run))
    project.wait_for("ready")
    process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode == 75


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_workers_are_told_to_end_and_torchrun_is_not(project: Project, number: int) -> None:
    project.stand_in("torchrun", TORCHRUN)
    process = project.start("store", str(project.run), NPROC="2")
    project.wait_for("ready_worker0", "ready_worker1")
    process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode == 75
    project.wait_for("worker0", "worker1")
    assert not (project.seen / "torchrun_told").exists()


def test_workers_that_are_started_again_after_being_told_end_with_torchrun(project: Project) -> None:
    script = 'trap "kill %%; exit 1" TERM; sleep 20 & touch "$SEEN/ready"; wait; sleep 20 & wait; exit 0'
    project.stand_in("torchrun", script)
    process = project.start("store", str(project.run), NPROC="2")
    project.wait_for("ready")
    process.terminate()
    process.communicate(timeout=20)
    assert process.returncode == 143


def test_threads_are_shared_among_the_processes(project: Project) -> None:
    project.stand_in(
        "torchrun", 'echo "$OMP_NUM_THREADS" >"$SEEN/threads"; [[ $TORCH_DISABLE_SHARE_RDZV_TCP_STORE == 1 ]]'
    )
    n_cpus = os.cpu_count() or 1
    for environment, expected in (({}, max(1, n_cpus // 2)), ({"OMP_NUM_THREADS": "5"}, 5)):
        assert project.result(NPROC="2", **environment)[0] == 0
        assert int((project.seen / "threads").read_text()) == expected


def _command(environment: dict[str, str], n_processes: int) -> list[str]:
    nodes = read_nodes(environment)
    words = make_command(["s", "r", "--x"], environment, nodes, n_processes, exit_code_file=Path("/tmp/code"))
    return [Path(words[0]).name, *words[1:]]


def test_what_several_processes_are_started_with() -> None:
    expected = "torchrun --nnodes 1 --node-rank 0 --rdzv-backend c10d --rdzv-id rsna-e2e --rdzv-endpoint 127.0.0.1:0"
    expected += " --rdzv-conf is_host=1 --local-addr 127.0.0.1 --nproc-per-node 4 --max-restarts 3"
    expected += " -m rsna_e2e.cli.rank_main /tmp/code train s r --resume auto --x"
    assert _command({}, 4) == expected.split()
    assert "--max-restarts 1 " in " ".join(_command({"MAX_RESTARTS": "1"}, 4))
    assert _command({"NNODES": "1"}, 1)[:2] == ["rsna-e2e", "train"]


@pytest.mark.parametrize(
    ("address", "endpoint"),
    [
        ("head", "head:29500"),
        ("head:1234", "head:1234"),
        ("10.0.0.1", "10.0.0.1:29500"),
        ("fe80::1", "[fe80::1]:29500"),
        ("[fe80::1]:1234", "[fe80::1]:1234"),
    ],
)
def test_nodes_named_by_hand_meet_at_the_first(address: str, endpoint: str) -> None:
    environment = {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": address}
    words = " ".join(_command(environment, 1))  # torchrun, though one process a node
    assert (
        f"torchrun --nnodes 2 --node-rank 1 --rdzv-backend c10d --rdzv-id rsna-e2e --rdzv-endpoint {endpoint}" in words
    )
    assert "--rdzv-conf is_host=0 --nproc-per-node 1" in words
    assert "--rdzv-conf is_host=1" in " ".join(_command(environment | {"NODE_RANK": "0"}, 1))


def _nodes(node_rank: int, address: str) -> Nodes:
    return read_nodes({"NNODES": "2", "NODE_RANK": str(node_rank), "MASTER_ADDR": address})


@pytest.mark.parametrize("node_rank", [0, 1])
def test_an_address_that_is_none_is_said_at_once(node_rank: int) -> None:
    with pytest.raises(UsageError, match=r"no\.such\.host\.invalid:29500 leads nowhere: .*MASTER_ADDR"):
        check_meeting(_nodes(node_rank, "no.such.host.invalid"), patience_s=0.5)


@pytest.mark.parametrize("node_rank", [0, 1])
@pytest.mark.parametrize("address", ["a..b", 64 * "x", "a\0b"])
def test_what_is_no_host_name_leads_nowhere(address: str, node_rank: int) -> None:
    with pytest.raises(UsageError, match=r":29500 leads nowhere: .*MASTER_ADDR"):
        check_meeting(_nodes(node_rank, address), patience_s=0.1)


@pytest.mark.parametrize("address", ["head:x", "head:", "head:0", "head:65536", "[::1]:-1", "head:\u00b2"])
def test_what_is_no_port_is_said(address: str) -> None:
    with pytest.raises(UsageError, match=r" is not a port\. Give a number from 1 to 65535 as MASTER_PORT"):
        _nodes(0, address)
    with pytest.raises(UsageError, match="is not a port"):
        read_nodes(
            {"NNODES": "2", "NODE_RANK": "0", "MASTER_ADDR": "head", "MASTER_PORT": address.rpartition(":")[2] or " "}
        )


def test_the_first_node_finds_out_whether_it_can_listen() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(
            UsageError, match=rf"node 0 cannot listen at {address}: Address already in use.*MASTER_PORT"
        ):
            check_meeting(_nodes(0, address))
        check_meeting(_nodes(1, address))
    check_meeting(_nodes(0, address))
    with pytest.raises(UsageError, match=r"node 0 cannot listen at 192\.0\.2\.1:29500.*an address of this host"):
        check_meeting(_nodes(0, "192.0.2.1"))  # nobody's: RFC 5737
    with pytest.raises(
        RsnaError, match=rf"node 1 of 2 does not reach node 0 at {address}.*refused.*same command on node 0"
    ):
        check_meeting(_nodes(1, address), patience_s=0.3)


def test_later_nodes_wait_for_the_first() -> None:
    with socket.socket() as first:
        first.bind(("127.0.0.1", 0))
        late = threading.Timer(0.5, first.listen)
        late.start()
        check_meeting(_nodes(1, f"127.0.0.1:{first.getsockname()[1]}"), patience_s=20)
        late.join()


def test_no_name_is_asked_for_where_there_is_one_host() -> None:
    alone = read_nodes({})
    assert alone.endpoint == "127.0.0.1:0"
    check_meeting(alone)
    assert for_ranks(2, {}, alone)["GLOO_SOCKET_IFNAME"] == "lo"
    assert for_ranks(2, {"GLOO_SOCKET_IFNAME": "eth0"}, alone)["GLOO_SOCKET_IFNAME"] == "eth0"
    assert "GLOO_SOCKET_IFNAME" not in for_ranks(2, {}, _nodes(1, "head"))


def test_slurm_names_its_nodes(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    command(project.commands / "scontrol", '[[ $* == "show hostnames gpu[07-10]" ]] && echo gpu07 && echo gpu08')
    monkeypatch.setenv("PATH", str(project.commands))
    environment = SLURM | {"PATH": str(project.commands)}
    expected = Nodes(n_nodes=4, node_rank=2, endpoint="gpu07:29500", job="rsna-e2e-4711")
    assert read_nodes(environment) == expected
    by_hand = {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "head", "MASTER_PORT": "7"}
    assert read_nodes(environment | by_hand) == Nodes(n_nodes=2, node_rank=1, endpoint="head:7")
    with pytest.raises(UsageError, match="scontrol lists no hosts"):
        read_nodes(environment | {"SLURM_JOB_NODELIST": "other"})
    with pytest.raises(MissingCapabilityError, match="scontrol, which lists the hosts of a Slurm job, is not on PATH"):
        read_nodes(environment | {"PATH": "/nowhere"})
    assert read_nodes(environment | {"SLURM_JOB_NUM_NODES": "1", "SLURM_NODEID": "0"}) == Nodes()


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"NNODES": "2"}, "NNODES=2 needs NODE_RANK=0, 1, .* and MASTER_ADDR"),
        ({"NNODES": "2", "NODE_RANK": "0"}, "NNODES=2 needs"),
        (
            {"NNODES": "2", "NODE_RANK": "2", "MASTER_ADDR": "head"},
            "node rank 2, but there are 2 nodes, counted from 0",
        ),
        ({"NNODES": "two"}, "NNODES='two': must be a whole number, at least 1"),
        (SLURM | {"SLURM_LOCALID": "1"}, "--ntasks-per-node=1"),
    ],
)
def test_nodes_that_do_not_fit_together_are_refused(environment: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_nodes(environment)


def test_every_gpu_gets_a_process(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(project.commands))
    environment = {"PATH": str(project.commands)}
    assert count_processes([], environment) == 1
    listed = "GPU 0: a (UUID: x)\n  MIG 1g.5gb Device 0: (UUID: y)\nGPU 1: b (UUID: z)"
    command(project.commands / "nvidia-smi", f'[[ $1 == -L ]] && echo "{listed}"')
    assert count_processes([], environment) == 2
    assert count_processes(["--device", "cpu"], environment) == 1
    assert count_processes(["--device=cpu"], environment) == 1
    assert count_processes(["--device", "cuda", "cpu"], environment) == 2
    assert count_processes(["--device", "cpu"], environment | {"NPROC": "3"}) == 3
    assert count_processes([], environment | {"CUDA_VISIBLE_DEVICES": "1,3,5"}) == 3
    assert count_processes([], environment | {"CUDA_VISIBLE_DEVICES": ""}) == 1
    assert count_processes([], environment | {"CUDA_VISIBLE_DEVICES": "0,-1,1"}) == 1
    with pytest.raises(UsageError, match="NPROC='0': must be a whole number, at least 1"):
        count_processes([], {"NPROC": "0"})


@pytest.mark.parametrize(
    ("code", "returned", "written"), [(0, 0, None), (1, 1, None), (6, 6, "6"), (75, 0, None), (130, 130, "130")]
)
def test_a_rank_leaves_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, returned: int, written: str | None
) -> None:
    monkeypatch.setattr(cli, "main", lambda arguments: code if arguments == ["train", "s"] else 1)
    kept = tmp_path / "exit_code"
    assert rank_main.main([str(kept), "train", "s"]) == returned
    assert (kept.read_text() if kept.exists() else None) == written


def test_a_rank_keeps_the_parsers_exit_code(tmp_path: Path) -> None:
    assert rank_main.main([str(tmp_path / "exit_code"), "train"]) == 2
    assert (tmp_path / "exit_code").read_text() == "2"
