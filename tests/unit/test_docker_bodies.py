"""What the engine is told of a container, part by part; that it equals Compose's is tested against the real one."""

import io
import tarfile
from typing import Any

import pytest

from domain.errors import StartFailed
from domain.specs import CheckType, HealthCheck, PortRequest, ServiceSpec
from workers.runtimes.docker_config import container_config
from workers.runtimes.docker_endpoints import Joined, endpoint
from workers.runtimes.docker_files import archive, inline_files
from workers.runtimes.docker_mounts import mounts_of
from workers.runtimes.docker_names import Marks
from workers.runtimes.docker_network_names import names_of, wanted
from workers.runtimes.docker_resources import resources_of
from workers.runtimes.docker_versions import EngineTooOld, refuse_unknown

MARKS = Marks("i" * 32)


def spec(container: dict[str, Any] | None = None, **fields: Any) -> ServiceSpec:
    return ServiceSpec("g-a", "a", "g", **({"image": "x", "container": container or {}} | fields))


def config(container: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    return container_config(spec(container, **fields), MARKS, {"clos-g": Joined("net", "default")}, {"db": "c0ffee"})


def test_what_is_not_said_is_left_to_the_engine() -> None:
    made = config()
    assert made.keys() == {
        "Image", "Env", "Labels", "ExposedPorts", "Volumes", "HostConfig", "AttachStdout", "AttachStderr",
        "StopTimeout", "NetworkingConfig",
    }  # fmt: skip
    assert made["HostConfig"].keys() == {"NetworkMode", "RestartPolicy", "PortBindings", "Binds"}


def test_an_empty_entrypoint_takes_the_images_away_and_none_leaves_it() -> None:
    assert config({"entrypoint": []})["Entrypoint"] == []
    assert "Entrypoint" not in config({"entrypoint": None})


def test_the_engines_own_stop_time_is_not_said() -> None:
    assert "StopTimeout" not in config(stop_timeout_s=10.0)
    assert config(stop_timeout_s=2.5)["StopTimeout"] == 3


def test_the_engines_health_check_comes_before_that_of_clos() -> None:
    own = HealthCheck(CheckType.DOCKER, test=("x",))
    assert config({"healthcheck": {"test": ["CMD", "y"], "interval": "2s"}}, health_check=own)["Healthcheck"] == {
        "Test": ["CMD", "y"], "Interval": 2_000_000_000,
    }  # fmt: skip
    assert config({"healthcheck": {"disable": True}})["Healthcheck"] == {"Test": ["NONE"]}
    assert config(health_check=own)["Healthcheck"]["Test"] == ["CMD", "x"]


def test_capabilities_have_the_engines_names() -> None:
    host = config({"cap_add": ["net_admin", "CAP_CHOWN"], "cap_drop": ["all"]})["HostConfig"]
    assert (host["CapAdd"], host["CapDrop"]) == (["CAP_NET_ADMIN", "CAP_CHOWN"], ["ALL"])


def test_modes_of_another_service_name_its_container() -> None:
    made = container_config(
        spec({"pid": "service:db", "ipc": "container:x"}, network_mode="service:db"), MARKS, {}, {"db": "c0ffee"}
    )
    host = made["HostConfig"]
    assert (host["NetworkMode"], host["PidMode"], host["IpcMode"]) == (
        "container:c0ffee", "container:c0ffee", "container:x",
    )  # fmt: skip
    assert made["Labels"]["clos.attached"] == "db=c0ffee"
    assert "PortBindings" not in host


def test_the_engines_default_bridge_is_called_default() -> None:
    port = PortRequest(host_port=8080, container_port=80)
    host = container_config(spec(network_mode="default", ports=(port,)), MARKS, {})["HostConfig"]
    assert host["NetworkMode"] == "bridge"
    assert host["PortBindings"] == {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}]}


def test_a_variable_that_is_a_file_is_none_of_the_containers() -> None:
    secrets = [{"source": "s", "environment": "HUSH"}]
    assert config({"secrets": secrets}, environment={"HUSH": "h", "A": "b"})["Env"] == ["A=b"]


def test_short_volumes_say_how_they_are_mounted_and_which_volume_of_the_engine_is_meant() -> None:
    defined = {"volumes": {"data": {"name": "g_data"}, "plain": {}}}
    short = ("data:/d", "plain:/p:ro", "/srv:/s", "/anonymous")
    made = mounts_of(spec(volumes=short, definitions=defined), {})
    assert made == {"Binds": ["g_data:/d:rw", "plain:/p:ro", "/srv:/s:rw"]}


@pytest.mark.parametrize(
    ("volume", "bind"),
    [
        ({"type": "bind", "source": "/a", "target": "/b", "bind": {}}, "/a:/b:rw"),
        ({"type": "bind", "source": "/a", "target": "/b", "bind": {"selinux": "Z"}, "read_only": True}, "/a:/b:ro,Z"),
        ({"type": "volume", "source": "v", "target": "/b", "volume": {}}, "v:/b:rw"),
        ({"type": "volume", "source": "v", "target": "/b", "volume": {"nocopy": True}}, None),
        ({"type": "volume", "target": "/b"}, None),
        ({"type": "bind", "source": "/a", "target": "/b", "bind": {"create_host_path": False}}, None),
        ({"type": "bind", "source": "/a", "target": "/b", "bind": {"propagation": "shared"}}, None),
        ({"type": "tmpfs", "target": "/b"}, None),
    ],
)
def test_what_a_bind_can_say_is_one_and_all_else_a_mount(volume: dict[str, Any], bind: str | None) -> None:
    made = mounts_of(spec({"volumes": [volume]}), {})
    assert made["Binds"] == ([bind] if bind else [])
    assert len(made.get("Mounts", ())) == (0 if bind else 1)


def test_mounts_carry_their_options() -> None:
    volumes = [
        {
            "type": "volume",
            "source": "v",
            "target": "/1",
            "volume": {"nocopy": True, "subpath": "s", "labels": {"n": 1}},
        },
        {"type": "bind", "source": "/a", "target": "/2", "bind": {"recursive": "disabled", "propagation": "slave"}},
        {"type": "tmpfs", "target": "/3", "tmpfs": {"size": "100", "mode": 1016}, "read_only": True},
        {"type": "image", "source": "img", "target": "/4", "image": {"subpath": "x"}},
    ]
    one, two, three, four = mounts_of(spec({"volumes": volumes}), {})["Mounts"]
    assert one["VolumeOptions"] == {"NoCopy": True, "Subpath": "s", "Labels": {"n": "1"}}
    assert two["BindOptions"] == {"CreateMountpoint": True, "Propagation": "slave", "NonRecursive": True}
    assert (three["TmpfsOptions"], three["ReadOnly"]) == ({"SizeBytes": 100, "Mode": 1016}, True)
    assert four["ImageOptions"] == {"Subpath": "x"}


def test_a_file_does_not_hide_what_is_mounted_at_its_place() -> None:
    files = [{"source": "c", "target": "/taken", "file": "/srv/c"}, {"source": "d", "file": "/srv/d"}]
    volumes = [{"type": "tmpfs", "target": "/taken"}]
    assert [each["Target"] for each in mounts_of(spec({"configs": files, "volumes": volumes}), {})["Mounts"]] == [
        "/taken", "/d",
    ]  # fmt: skip


def test_inline_files_are_one_plain_tar_each() -> None:
    files = {
        "secrets": [{"source": "s", "environment": "K", "mode": "0400", "uid": "7"}],
        "configs": [{"source": "c", "target": "/deep/c", "content": "text"}],
    }
    secret, plain = inline_files(spec(files, environment={"K": "hush"}))
    assert (secret.path, secret.text, secret.mode, secret.uid, secret.owned) == (
        "/run/secrets/s",
        "hush",
        0o400,
        7,
        True,
    )
    assert (plain.path, plain.mode, plain.owned) == ("/deep/c", 0o444, False)
    with tarfile.open(fileobj=io.BytesIO(archive(plain)), mode="r:") as tar:
        (entry,) = tar.getmembers()
        opened = tar.extractfile(entry)
        assert opened is not None
        assert (entry.name, opened.read()) == ("deep/c", b"text")


def test_resources_have_the_engines_names_and_units() -> None:
    made = resources_of(
        spec(
            {
                "mem_limit": "100", "memswap_limit": -1, "pids_limit": 0,
                "ulimits": {"b": 3, "a": {"soft": 1, "hard": 2}},
                "gpus": [{"count": "all"}, {"capabilities": ["gpu", "utility"], "device_ids": ["0"]}],
                "devices": [{"source": "/dev/x"}],
                "blkio_config": {"weight": 5, "weight_device": [{"Path": "/d", "Weight": 6}]},
            },
            cpu_limit=0.5,
        )
    )  # fmt: skip
    assert (made["Memory"], made["MemorySwap"], made["NanoCpus"]) == (100, -1, 500_000_000)
    assert "PidsLimit" not in made
    assert made["Ulimits"] == [{"Name": "a", "Soft": 1, "Hard": 2}, {"Name": "b", "Soft": 3, "Hard": 3}]
    assert made["Devices"] == [{"PathOnHost": "/dev/x", "PathInContainer": "/dev/x", "CgroupPermissions": "rwm"}]
    assert [each["Capabilities"] for each in made["DeviceRequests"]] == [[["gpu"]], [["gpu", "utility"]]]
    assert (made["BlkioWeight"], made["BlkioWeightDevice"]) == (5, [{"Path": "/d", "Weight": 6}])


def test_an_endpoint_has_its_aliases_addresses_and_links() -> None:
    attachment = {
        "aliases": ["x"], "ipv4_address": "10.0.0.9", "link_local_ips": ["169.254.1.1"], "driver_opts": {"a": "b"},
    }  # fmt: skip
    made = spec({"networks": {"back": attachment}, "links": ["db:store"], "mac_address": "02:42:00:00:00:01"})
    found = endpoint(made, Joined("n", "back"), {"db": "c0ffee"}, first=True)
    assert found["Aliases"] == ["a", "a.g", "x"]
    assert found["IPAMConfig"] == {"IPv4Address": "10.0.0.9", "LinkLocalIPs": ["169.254.1.1"]}
    assert (found["Links"], found["MacAddress"], found["DriverOpts"]) == (
        ["c0ffee:store"], "02:42:00:00:00:01", {"a": "b"},
    )  # fmt: skip
    assert endpoint(made, Joined("n", None, named=False), {}, first=False) == {"Aliases": []}
    assert "MacAddress" not in endpoint(made, Joined("n", "other"), {"db": "c"}, first=False)


def test_networks_have_the_name_of_their_definition_or_one_of_clos() -> None:
    defined = {"back": {}, "named": {"name": "corp_net"}, "ext": {"external": True}}
    attached = dict.fromkeys(["back", "named", "ext", "loose", "default"])
    found = wanted(spec({"networks": attached | {"loose": {"priority": 5}}}, definitions={"networks": defined}))
    assert list(found) == ["loose", "clos-g_back", "clos-g", "ext", "corp_net"]
    assert {name: each.owned for name, each in found.items()} == {
        "loose": False, "clos-g_back": True, "clos-g": True, "ext": False, "corp_net": False,
    }  # fmt: skip
    assert found["ext"].external
    for mode in ("service:x", "container:x", "default", "none"):
        assert names_of(spec(network_mode=mode)) == []
    with pytest.raises(StartFailed, match="not supported"):
        names_of(spec(network_mode="nonsense"))


def test_only_what_a_network_is_like_makes_it_another_one() -> None:
    def like(definition: dict[str, Any]) -> str:
        found = wanted(spec({"networks": {"b": None}}, definitions={"networks": {"b": definition}}))
        return next(iter(found.values())).fingerprint()

    assert (
        like({}) == like({"name": "x", "labels": {"a": "b"}, "ipam": {}, "driver": "bridge", "internal": False}) == ""
    )
    assert like({"internal": True}) != like({"internal": True, "driver": "macvlan"}) != ""


def test_an_engine_that_would_leave_something_out_is_refused_by_name() -> None:
    asked = spec(
        {
            "annotations": {"a": "b"}, "healthcheck": {"start_interval": "1s"},
            "volumes": [{"type": "volume", "source": "v", "target": "/x", "volume": {"subpath": "s"}},
                        {"type": "image", "source": "i", "target": "/y"}],
            "networks": {"n": {"gw_priority": 3, "interface_name": "eth7"}},
        },
        definitions={"networks": {"n": {"enable_ipv4": False}}},
    )  # fmt: skip
    with pytest.raises(EngineTooOld) as refused:
        refuse_unknown(asked, "1.41")
    assert refused.value.facts["needs"] == {
        "container.annotations": "1.43",
        "container.healthcheck.start_interval": "1.44",
        "container.volumes[0].volume.subpath": "1.45",
        "container.volumes[1].type": "1.48",
        "container.networks.n.gw_priority": "1.48",
        "container.networks.n.interface_name": "1.49",
        "networks.n.enable_ipv4": "1.47",
    }
    assert refused.value.code == "engine_too_old"
    refuse_unknown(asked, "1.50")
    refuse_unknown(spec({"healthcheck": {"test": ["x"]}}), "1.41")


def test_the_hosts_paths_are_mounted_where_they_really_are() -> None:
    volumes = [{"type": "bind", "source": "/a", "target": "/2", "bind": {"propagation": "slave"}}]
    configs = [{"source": "c", "file": "/f"}]
    made = mounts_of(
        spec({"volumes": volumes, "configs": configs}, volumes=("/l:/3",)), {"/a": "/A", "/f": "/F", "/l": "/L"}
    )
    assert made["Binds"] == ["/L:/3:rw"]
    assert [each["Source"] for each in made["Mounts"]] == ["/A", "/F"]
