import json

REF = "0123456789abcdef" * 4
ONE = {
    "ref": REF, "runtime": "docker", "service_id": "shop-lost", "group": "shop", "name": "clos-lost",
    "phase": "running",
    "definition": {"image": "nginx:1"}, "unread": ["HostConfig.Privileged"], "first_seen_at": "2030-01-01T00:00:00Z",
    "observed_at": "2030-01-01T00:00:00Z",
}  # fmt: skip


def posted(clos, path):
    return [body for method, called, body in clos.calls if (method, called) == ("POST", path)]


def test_orphans_are_listed_with_what_they_are_marked_as(clos, run):
    assert run("orphans") == (0, "No orphans.\n", "")
    clos.orphans.append(ONE)
    for command in (("orphans",), ("orphans", "list")):
        code, out, err = run(*command)
        assert (code, "shop-lost" in out, REF[:12] in out, REF in out) == (0, True, True, False)
        assert "clos orphans adopt" in err
    assert "HostConfig.Privileged" in run("orphans", "list", "-o", "wide")[1]
    assert json.loads(run("orphans", "list", "-o", "json")[1])[0]["ref"] == REF


def test_one_is_adopted_or_removed_by_the_beginning_of_its_ref(clos, run):
    clos.orphans.append(ONE)
    assert run("orphans", "adopt", REF[:6], "--name", "lost") == (0, "shop-lost\n", "")
    assert posted(clos, f"/orphans/{REF}/adopt") == [{"name": "lost"}]
    assert run("orphans", "remove", REF[:6])[0] == 0
    assert posted(clos, f"/orphans/{REF}/remove") == [{}]
    assert run("orphans", "remove", REF[:6], "--no-wait")[0] == 0


def test_what_is_not_there_or_not_clear_is_said(clos, run):
    clos.orphans += [ONE, ONE | {"ref": "01" * 32}]
    assert run("orphans", "remove", "ff")[0] == 4
    code, _, err = run("orphans", "remove", "01")
    assert (code, "more than one" in err) == (2, True)
