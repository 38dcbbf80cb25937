"""What doctor finds out about a real SLURM."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from synthmix.cluster import queue
from synthmix.cluster.doctor.slurm import examine_slurm
from synthmix.config import HardwareConfig, SlurmConfig

pytestmark = pytest.mark.usefixtures("cluster")


def examine(**asked: object) -> list[tuple[str, str]]:
    profile = HardwareConfig(name="node", slurm=SlurmConfig(**asked))  # type: ignore[arg-type]
    return [(one.state, one.what) for one in examine_slurm({"node": profile}, "doctor-asks")]


def test_a_profile_that_this_cluster_takes() -> None:
    found = examine(partition="main", memory="600M", time="00:10:00")
    assert [state for state, _ in found] == ["OK", "OK", "OK"], found
    assert re.search(r"slurm-wlm .*; arrays of up to \d+", found[0][1])
    assert "slurm.partition = main: main is up" in found[1][1]
    assert queue.command(["squeue", "--noheader", "--name=doctor-asks.node"]) == "", "nothing was queued"
    assert examine()[1][0] == "OK", "the default partition"


def test_a_wrong_partition_a_gpu_and_an_option_that_sbatch_does_not_know() -> None:
    found = examine(partition="nowhere")
    assert [state for state, _ in found] == ["OK", "MISSING", "MISSING"]
    assert "no such partition; there are: main" in found[1][1]
    assert "sbatch would refuse its cells: invalid partition specified: nowhere" in found[2][1]
    assert "Invalid generic resource (gres) specification" in examine(gpus="gpu:a100:4")[2][1]
    assert "unrecognized option '--colour=red'" in examine(sbatch=["--colour=red"])[2][1]


def test_an_account_where_there_is_no_accounting_or_it_knows_none() -> None:
    (state, said), *_ = [one for one in examine(account="lab") if "slurm.account" in one[1]]
    assert (state, "slurm.account = lab" in said) == ("unknown", True)


def test_a_controller_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Path(os.environ.get("SLURM_CONF", "/etc/slurm/slurm.conf")).read_text()
    text = re.sub(r"(?m)^(SlurmctldPort|MessageTimeout)=.*\n", "", own) + "SlurmctldPort=9\nMessageTimeout=2\n"
    (tmp_path / "slurm.conf").write_text(text)
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    monkeypatch.setattr(queue, "TIMEOUT_S", 5.0)
    (found,) = examine()
    assert found[0] == "MISSING" and "scontrol" in found[1]
