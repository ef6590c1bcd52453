"""The cluster that the other tests here stand on: does it behave like a real one, and does it clean up?"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.slurm.cluster import DevCluster, new_folder
from tests.support import REPOSITORY, processes_with, wait_until

pytestmark = pytest.mark.slow

EAT_400_MB = "python3 -c 'x = bytearray(400_000_000)'"
WAIT = "exec sleep 300"


def test_a_second_up_changes_nothing(cluster):
    before = cluster.command("status").out
    cluster.up()
    assert cluster.command("status").out == before
    assert "not running" not in before


def test_other_settings_are_refused_while_it_runs(cluster):
    refused = cluster.command("up", "--variant", "small-arrays", code=1)
    assert "runs with other settings" in refused.err
    assert "hint: run devcluster down first" in refused.err


def test_a_job_runs_as_the_ordinary_user_and_is_accounted(cluster):
    job = cluster.submit("id -un; umask; pwd")
    cluster.wait_for_state(job, "COMPLETED")
    assert cluster.output_of(job).split() == [cluster.user.pw_name, "0077", str(cluster.home)]
    wait_until(lambda: cluster.accounting(job) == ["COMPLETED"], "sacct to know the job")


def test_root_can_submit_too(cluster):
    job = cluster.run_as_root("sbatch", "--parsable", "--output=/dev/null", "--wrap", "true").strip()
    cluster.wait_for_state(job, "COMPLETED")


def test_dlcluster_can_be_run_by_the_user(cluster):
    said = cluster.run_as_user(
        [cluster.user_python(), "-m", "dlcluster", "--help"], env={"PYTHONPATH": str(REPOSITORY)}
    )
    assert "Usage: dlcluster" in said.out


def test_two_jobs_with_a_gpu_each_see_different_ones(cluster):
    one, two = (cluster.submit(f"echo $CUDA_VISIBLE_DEVICES; {WAIT}", "--gpus-per-node=1", "-w", "n1") for _ in "12")
    wait_until(lambda: cluster.output_of(one) and cluster.output_of(two), "both jobs to say their GPU")
    assert sorted(cluster.output_of(job).strip() for job in (one, two)) == ["0", "1"]
    cluster.run_as_user(["scancel", one, two])
    cluster.wait_for_state(one, "CANCELLED")
    cluster.wait_for_state(two, "CANCELLED")


def test_too_much_memory_ends_a_job_where_cgroups_limit_it(cluster):
    job = cluster.submit(EAT_400_MB, "--partition=cg", "--mem=100M")
    assert cluster.wait_for_state(job, "OUT_OF_MEMORY", "FAILED", "COMPLETED") == "OUT_OF_MEMORY"
    wait_until(lambda: cluster.accounting(job) == ["OUT_OF_MEMORY"], "sacct to know the job")


def test_a_high_job_preempts_a_low_one_which_runs_again(cluster):
    low = cluster.submit(f"echo begin; {WAIT}", "--nodelist=n1", "--requeue")
    cluster.wait_for_state(low, "RUNNING")
    high = cluster.submit("true", "--partition=high", "--nodelist=n1", "--cpus-per-task=8")
    cluster.wait_for_state(high, "COMPLETED", timeout=40)
    wait_until(lambda: cluster.output_of(low).count("begin") == 2, "the second run", 40)
    wait_until(lambda: cluster.accounting(low)[:1] == ["PREEMPTED"], "sacct to know the preemption")
    cluster.run_as_user(["scancel", low])
    cluster.wait_for_state(low, "CANCELLED")


def test_a_requeue_from_inside_waits_a_few_seconds(cluster):
    script = """date +%s
        if [ "${SLURM_RESTART_COUNT:-0}" = 0 ]; then scontrol requeue $SLURM_JOB_ID; sleep 60; fi"""
    job = cluster.submit(script, "--requeue")
    cluster.wait_for_state(job, "COMPLETED")
    first, second = (int(line) for line in cluster.output_of(job).splitlines() if line.isdigit())
    assert 5 <= second - first <= 20


def test_a_stopped_slurmctld_keeps_its_jobs(cluster):
    job = cluster.submit(WAIT)
    cluster.wait_for_state(job, "RUNNING")
    cluster.stop("slurmctld")  # with KILL a job of the last 5 s would be forgotten
    assert "slurmctld   not running" in cluster.command("status", code=3).out
    cluster.start("slurmctld")
    assert cluster.jobs()[job] == "RUNNING"
    cluster.run_as_user(["scancel", job])
    cluster.wait_for_state(job, "CANCELLED")


def test_a_power_cut_ends_everything_on_a_node(cluster):
    token = f"cut-{os.getpid()}-{time.monotonic_ns()}"
    script = f"export TOKEN={token}; setsid sleep 300 & sleep 300"
    jobs = [cluster.submit(script, f"--nodelist={node}", "--no-requeue") for node in ("n2", "n4")]
    wait_until(lambda: len(processes_with(token)) >= 4, "the processes of both jobs")
    for node in ("n2", "n4"):
        cluster.stop("node", node)
    assert not processes_with(token)
    cluster.run_as_root("scontrol", "update", "nodename=n2,n4", "state=down", "reason=test")  # or it takes 30 s
    for node in ("n2", "n4"):
        cluster.start("slurmd", node)
    for job in jobs:
        cluster.wait_for_state(job, "NODE_FAIL")
    cluster.wait_for_nodes()


def test_two_clusters_side_by_side_and_down_leaves_nothing(cluster):
    with DevCluster("no-accounting", "small-arrays", settings=["KillWait=6"]) as other:
        shown = other.run_as_root("scontrol", "show", "config")
        assert "KillWait                = 6 sec" in shown
        assert "MaxArraySize            = 17" in shown
        ours, theirs = (each.submit(WAIT, "--nodelist=n1") for each in (cluster, other))
        cluster.wait_for_state(ours, "RUNNING")
        other.wait_for_state(theirs, "RUNNING")
        assert set(other.jobs()) == {theirs}
        folder, used = other.folder, wait_until(lambda: cgroups_of(theirs), "the cgroups of the job")
    assert not processes_with(str(folder))
    assert str(folder) not in Path("/proc/mounts").read_text()
    assert not folder.exists()
    assert not any(path.exists() for path in used)
    assert cluster.jobs()[ours] == "RUNNING"
    cluster.run_as_user(["scancel", ours])
    cluster.wait_for_state(ours, "CANCELLED")


def test_a_cluster_remembers_its_jobs_when_it_comes_up_again(slurm_programs):
    with DevCluster("no-accounting", "no-cgroup") as cluster:
        job = cluster.submit("true", "--hold")
        cluster.down(delete=False)
        assert not processes_with(str(cluster.folder))
        assert "no-accounting+no-cgroup" in cluster.command("up").out
        assert cluster.jobs()[job] == "PENDING"


def test_down_ends_a_job_that_is_suspended(slurm_programs):
    """Where there are cgroups it is frozen, and dies of nothing."""
    with DevCluster("no-accounting") as cluster:
        job = cluster.submit(WAIT, "--nodelist=n1")
        cluster.wait_for_state(job, "RUNNING")
        cluster.run_as_root("scontrol", "suspend", job)
        cluster.wait_for_state(job, "SUSPENDED")
        folder = cluster.folder
    assert not processes_with(str(folder))


def test_the_limits_variant_lets_in_twenty_jobs(make_cluster):
    cluster = make_cluster("limits")
    cluster.submit("true", "--array=0-19", "--hold")
    refused = cluster.run_as_user(["sbatch", "--wrap", "true"], code=1)
    assert "Job violates accounting/QOS policy" in refused.err


def test_errors_say_what_to_do(slurm_programs):
    full = DevCluster(folder=new_folder())
    (full.folder / "letter").write_text("dear diary")
    try:
        assert "is not empty and holds no cluster" in full.command("up", code=1).err
        assert "there is no cluster" in full.command("status", code=1).err
    finally:
        (full.folder / "letter").unlink()
        full.folder.rmdir()
    long = DevCluster(folder=Path("/tmp") / ("x" * 80))
    assert "choose a shorter one with --dir" in long.command("up", code=1).err
    closed = DevCluster(folder=new_folder())
    assert "there are default, no-accounting" in closed.command("up", "--variant", "fast", code=1).err
    closed.folder.rmdir()


def cgroups_of(job: str) -> list[Path]:
    return list(Path("/sys/fs/cgroup").glob(f"*/slurm_n*/uid_*/job_{job}"))
