"""A throw-away Slurm cluster of one node in a folder: munge key and socket, ports and state of its own, beside any other.

    python tests/slurm/cluster.py start DIR     then: export SLURM_CONF=DIR/slurm.conf
    python tests/slurm/cluster.py stop DIR

Needs Debian's packages slurmctld, slurmd, slurm-client and munge, nothing else: no slurmdbd, no cgroups, no root.
"""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol")
CONFIGURATION = """\
ClusterName=throwaway
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld
SlurmdLogFile={folder}/log/slurmd-%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
JobRequeue=1
KillWait={kill_wait}
MaxArraySize={array}
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,sched_min_interval=0
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={node_port} CPUs={cpus} RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why no cluster can be started here; "" where it can."""
    lacking = [name for name in PROGRAMS if program(name) is None]
    return f"no {', '.join(lacking)} here (Debian: slurmctld slurmd slurm-client munge)" if lacking else ""


def program(name: str) -> str | None:
    """Where a program is: daemons stand in /usr/sbin, which not every PATH has."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def start(folder: Path, *, cpus: int = 2, array: int = 1001, kill_wait: int = 30) -> Path:
    """Start one and wait until its node is idle; returns its slurm.conf. Raises RuntimeError with the logs' ends."""
    for name in ("state", "log", "spool-n1"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    munge = folder / "munge"
    munge.mkdir(mode=0o700, exist_ok=True)
    key = munge / "key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(128))
    conf = folder / "slurm.conf"
    port, node_port = _free_port(), _free_port()
    conf.write_text(CONFIGURATION.format(
        host=socket.gethostname().split(".")[0], port=port, node_port=node_port, user=getpass.getuser(), folder=folder,
        cpus=cpus, array=array, kill_wait=kill_wait,
    ))  # fmt: skip
    env = os.environ | {"SLURM_CONF": str(conf)}
    _run("munged", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket", f"--pid-file={folder}/munged.pid",
         f"--log-file={folder}/log/munged", f"--seed-file={munge}/seed", env=env)  # fmt: skip
    _run("slurmctld", env=env)
    _run("slurmd", "-N", "n1", env=env)
    for _ in range(600):
        found = subprocess.run(["sinfo", "-h", "-t", "idle", "-o", "%D"], env=env, capture_output=True, text=True)
        if found.stdout.strip() == "1":
            return conf
        time.sleep(0.1)
    logs = [f"{path}: {path.read_text()[-500:]}" for path in sorted((folder / "log").iterdir())]
    stop(folder)
    raise RuntimeError("the cluster's node does not become idle\n" + "\n".join(logs))


def stop(folder: Path) -> None:
    """Cancel its jobs and end its daemons, by their own pid files."""
    env = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
    if (folder / "slurmctld.pid").exists():
        subprocess.run(["scancel", "--full", "--signal=KILL", "--me"], env=env, capture_output=True)
        subprocess.run(["scancel", "--me"], env=env, capture_output=True)
        time.sleep(1)
    for name in ("slurmd-n1", "slurmctld", "munged"):
        try:
            os.kill(int((folder / f"{name}.pid").read_text()), signal.SIGTERM)
        except (OSError, ValueError):
            continue


def _run(name: str, *words: str, env: dict[str, str]) -> None:
    done = subprocess.run([program(name) or name, *words], env=env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr.strip() or done.stdout.strip()}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("start", "stop"):
        sys.exit(__doc__)
    if sys.argv[1] == "stop":
        stop(Path(sys.argv[2]).resolve())
    elif reason := missing():
        sys.exit(reason)
    else:
        print(f"export SLURM_CONF={start(Path(sys.argv[2]).resolve())}")
