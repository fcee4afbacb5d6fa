from typing import Any

from models.orphans import Orphan
from models.services import Service
from tests.unit.api_kit import Kit, api

__all__ = ["api"]


def orphan(api: Kit, ref: str, service_id: str, **more: Any) -> str:
    detail = {"runtime": "process", "command": ["x"], "environment": {"TOKEN": "canary"}, "unread": []}
    with api.record.write() as session:
        session.add(
            Orphan(
                ref=ref,
                runtime="process",
                service_id=service_id,
                phase=more.pop("phase", "running"),
                detail=detail | more,
            )
        )
    return ref


def test_orphans_are_listed_without_the_values_of_their_environment(api: Kit) -> None:
    group = api.group()
    ref = orphan(api, f"{group}:1", f"{group}-web")
    found = api.get("/orphans?limit=1")
    assert found["total"] >= 1
    one = next(each for each in api.get("/orphans")["items"] if each["ref"] == ref)
    assert (one["service_id"], one["phase"], one["unread"]) == (f"{group}-web", "running", [])
    assert one["definition"] == {"runtime": "process", "command": ["x"], "environment": ["TOKEN"]}
    assert "canary" not in str(found)


def test_one_is_adopted_as_the_service_that_its_mark_says(api: Kit) -> None:
    group = api.group()
    ref = orphan(api, f"{group}:2", f"{group}-web")
    answer = api.call("POST", f"/orphans/{ref}/adopt", {})
    assert (answer.status_code, answer.json["id"], answer.json["desired"]) == (201, f"{group}-web", "running")
    assert answer.headers["Location"] == f"/api/v2/services/{group}-web"
    api.refused("POST", f"/orphans/{ref}/adopt", {}, 404, "orphan_not_found")


def test_one_that_cannot_be_kept_is_refused_by_name(api: Kit) -> None:
    group = api.group()
    ref = orphan(api, f"{group}:3", f"{group}-web", unread=["HostConfig.Privileged"])
    refused = api.refused("POST", f"/orphans/{ref}/adopt", {}, 409, "orphan_not_adoptable")
    assert refused["reasons"] == ["HostConfig.Privileged cannot be kept"]
    api.refused("POST", f"/orphans/{ref}/adopt", {"name": "a/b"}, 422, "validation_failed")


def test_a_removal_is_an_operation_on_exactly_that_one(api: Kit) -> None:
    group = api.group()
    ref = orphan(api, f"{group}:4", f"{group}-web")
    answer = api.call("POST", f"/orphans/{ref}/remove", {})
    assert (answer.status_code, answer.json["type"]) == (202, "orphan.remove")
    assert answer.json["parameters"]["ref"] == ref
    api.refused("POST", f"/orphans/{ref}/remove", {}, 409, "operation_in_progress")
    api.refused("POST", "/orphans/nobody/remove", {}, 404, "orphan_not_found")
    with api.record.read() as session:
        assert session.get(Service, f"{group}-web") is None
