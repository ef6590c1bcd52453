"""Profiles are found where they should be, and what `doctor` writes can be read back as YAML."""

import stat

import pytest
import yaml

from dlcluster.errors import PreconditionError, UsageError
from dlcluster.launch.doctor import Examination
from dlcluster.launch.doctor_checks import Wanted
from dlcluster.launch.partitions import parse_nodes, parse_partitions
from dlcluster.launch.profiles import best_partition, chosen_profile, find_profile, profile_text, write_profile
from dlcluster.launch.site import parse_config, site_of
from tests.launch.fake_slurm import output


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "project").mkdir()
    return tmp_path / "project"


def put(folder, name):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.yaml").write_text("launch: {}\n")
    return folder / f"{name}.yaml"


def users(tmp_path):
    return tmp_path / "config" / "dlcluster" / "profiles"


def site():
    return site_of(parse_config(output("config_22_05")))


def partitions(nodes="nodes_22_05", old="", new=""):
    text = output("partitions_22_05")
    return parse_partitions(text.replace(old, new) if old else text, parse_nodes(output(nodes)))


def test_the_projects_profile_comes_before_the_users(root, tmp_path):
    users_file = put(users(tmp_path), "gpu")
    assert find_profile("gpu", root) == users_file
    own = put(root / "slurm" / "profiles", "gpu")
    assert find_profile("gpu", root) == own


def test_a_profile_that_is_not_there(root, tmp_path):
    with pytest.raises(UsageError, match=r"no profile 'gpu'\n  hint: there is none in .*doctor --write-profile gpu"):
        find_profile("gpu", root)
    put(users(tmp_path), "gpu-long")
    put(root / "slurm" / "profiles", "cpu")
    with pytest.raises(UsageError, match="there are: cpu, gpu-long"):
        find_profile("zzz", root)
    with pytest.raises(UsageError, match="did you mean 'gpu-long'"):
        find_profile("gpu_long", root)


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a b", "x" * 65, "a\n"])
def test_a_name_is_no_path(root, name):
    with pytest.raises(UsageError, match="is no name for a profile"):
        find_profile(name, root)
    with pytest.raises(UsageError, match="is no name for a profile"):
        write_profile(name, root, Examination(site=site()), Wanted())


def test_without_a_home_in_the_environment(root, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")  # the standard says: ignore it
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    file = put(tmp_path / "home" / ".config" / "dlcluster" / "profiles", "gpu")
    assert find_profile("gpu", root) == file


def test_who_chooses(monkeypatch):
    monkeypatch.setenv("DLCLUSTER_PROFILE", "site")
    assert (chosen_profile("mine"), chosen_profile(None), chosen_profile("")) == ("mine", "site", None)
    monkeypatch.delenv("DLCLUSTER_PROFILE")
    assert chosen_profile(None) is None


def test_what_is_written_can_be_read(root, tmp_path):
    found = Examination(site=site(), partitions=partitions(), accounts=("dlc", "other"))
    path = write_profile("gpu", root, found, Wanted())
    assert path == users(tmp_path) / "gpu.yaml" == find_profile("gpu", root)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert yaml.safe_load(path.read_text()) == {"launch": {"executor": "slurm", "partition": "low", "account": "dlc"}}
    assert '# account: "other"' in path.read_text() and '# partition: "lowg"' in path.read_text()


def test_a_project_with_a_folder_for_profiles_gets_it(root):
    (root / "slurm" / "profiles").mkdir(parents=True)
    path = write_profile("gpu", root, Examination(site=site(), partitions=partitions()), Wanted(partition="high"))
    assert path.parent == root / "slurm" / "profiles"
    assert yaml.safe_load(path.read_text())["launch"] == {"executor": "slurm", "partition": "high"}


def test_nothing_is_replaced(root, tmp_path):
    put(users(tmp_path), "gpu")
    with pytest.raises(UsageError, match="is there already"):
        write_profile("gpu", root, Examination(site=site()), Wanted())
    assert (users(tmp_path) / "gpu.yaml").read_text() == "launch: {}\n"


def test_without_slurm_there_is_nothing_to_write(root, tmp_path):
    with pytest.raises(PreconditionError, match="no Slurm here"):
        write_profile("gpu", root, Examination(), Wanted())
    assert not (tmp_path / "config").exists()


def test_the_best_partition():
    assert best_partition(partitions(), Wanted()).name == "low"
    assert best_partition(partitions(), Wanted(partition="lp")).name == "lp"
    assert best_partition(partitions(), Wanted(partition="gone")) is None
    assert best_partition((), Wanted()) is None
    no_default = partitions(old="Default=YES", new="Default=NO")
    assert best_partition(no_default, Wanted()).gpus_per_node == 2


def test_what_a_scheduler_says_does_not_become_yaml():
    odd = site_of({**parse_config(output("config_22_05")), "ClusterName": "x\nlaunch: {setup: [rm]}\n"})
    name = 'a"b:#c'
    odd_partitions = partitions(old="PartitionName=low ", new=f"PartitionName={name} ")
    text = profile_text("gpu", odd, odd_partitions, ("y\nz: 1",), Wanted(partition=name))
    expected = {"executor": "slurm", "partition": name, "account": "y\nz: 1"}
    assert yaml.safe_load(text) == {"launch": expected}
