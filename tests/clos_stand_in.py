"""A small CLOS for tests of the command line: the contract's calls over real HTTP and a real WebSocket.

Operations follow a script of step changes, and every change is an event with an id, so a test can cut the socket
anywhere and look whether anything was lost.
"""

import itertools
import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from flask import Flask, Response, request
from flask_sock import Sock
from werkzeug.serving import make_server

KEY = "clos_test_key"


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def service(group: str, name: str, port: int, **more: Any) -> dict[str, Any]:
    return {
        "id": f"{group}-{name}",
        "name": name,
        "group": group,
        "runtime": "process",
        "status": "running",
        "desired": "running",
        "health": {"status": "healthy"},
        "waiting_for": [],
        "port": port,
        "ports": [{"name": "", "host_ip": "127.0.0.1", "host_port": port, "protocol": "tcp",
                   "url": f"http://127.0.0.1:{port}"}],
        "started_at": now(),
        "spec_version": 1,
    } | more  # fmt: skip


def step(action: str, target: str) -> dict[str, Any]:
    return {"id": f"{action}:{target}", "action": action, "target": target, "depends_on": [], "cause": "it is wanted",
            "status": "pending", "started_at": None, "ended_at": None, "error": None}  # fmt: skip


class StandIn:
    """State that a test may set and look at, and the server around it."""

    def __init__(self) -> None:
        self.services: dict[str, dict[str, Any]] = {}
        self.groups: dict[str, dict[str, Any]] = {}
        self.operations: dict[str, dict[str, Any]] = {}
        self.leases: list[dict[str, Any]] = []
        self.unread: dict[str, str] = {}
        self.log_lines: dict[str, list[dict[str, Any]]] = {}
        self.events: list[dict[str, Any]] = []
        self.calls: list[tuple[str, str, Any]] = []
        self.keys: list[str | None] = []
        self.end: dict[str, Any] = {"status": "completed", "error": None}
        self.ends: list[dict[str, Any]] = []  # of the next operations, before `end` holds
        self.targets: list[tuple[str, str]] = [("start", "shop-store"), ("start", "shop-api"), ("start", "shop-web")]
        self.held = threading.Event()
        self.too_late = False  # a cancel that finds its operation ended already
        self.held.set()
        self.cut_every = 0
        self.sockets = True
        self.connections = 0
        self.page = 200
        # What an import would change, and what an export is, by its format.
        self.imported: dict[str, Any] = {}
        self.exported: dict[str, dict[str, Any]] = {}
        self.next_answer: list[tuple[int, dict[str, Any]]] = []
        self.conflicts: dict[int, dict[str, Any]] = {}
        self.orphans: list[dict[str, Any]] = []
        # What the next operation asks, and what it was answered.
        self.question: dict[str, Any] | None = None
        self.given: list[dict[str, Any]] = []
        self._answered = threading.Event()
        self._changed = threading.Condition()
        self._numbers = itertools.count(1)
        self._extra: list[dict[str, Any]] = []
        self.server = make_server("127.0.0.1", 0, self._app(), threaded=True)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.websocket_url = f"ws://127.0.0.1:{self.server.server_port}/api/v2/ws"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.held.set()
        self.server.shutdown()
        self.server.server_close()

    def shop(self) -> None:
        for number, name in enumerate(("web", "api", "store")):
            one = service("shop", name, 9310 + number)
            self.services[one["id"]] = one
        self.groups["shop"] = {"name": "shop", "status": "running", "services": list(self.services), "spec_version": 1,
                               "counts": {"total": 3, "running": 3, "healthy": 3, "failed": 0}}  # fmt: skip

    def conflict(self, kind: str = "foreign_process", port: int = 9311, **more: Any) -> dict[str, Any]:
        """A port of shop-api that somebody else has."""
        holder = {"kind": "process", "name": "nc", "pid": 812, "command": "nc -l", "user": "app"}
        option = {"cause": "it is taken", "effects": ["it listens elsewhere"], "from_port": port, "service_id": None}
        one = {
            "id": len(self.conflicts) + 1, "kind": kind, "status": "active", "port": port, "host_ip": "127.0.0.1",
            "protocol": "tcp", "claimants": ["shop-api"], "holder": holder, "undoable": False,
            "detail": f"port {port}/tcp, which shop-api claims, is held by nc (pid 812)",
            "options": [
                option | {"strategy": strategy, "description": said, "risk_level": risk, "port": None} | extra
                for strategy, said, risk, extra in (
                    ("migrate_service", "move shop-api to port 9400", "low", {"port": 9400, "service_id": "shop-api"}),
                    ("change_port", "move shop-api to the port that you name", "low", {"service_id": "shop-api"}),
                    ("kill_process", "end nc (pid 812) of user app", "high", {"confirm": "nc (pid 812)"}),
                    ("ask", "ask, and wait for the answer", "low", {}),
                    ("ignore", "leave it as it is", "low", {}),
                )
            ],
            "detected_at": now(), "resolved_at": None, "resolution": None,
        } | more  # fmt: skip
        self.conflicts[one["id"]] = one
        return one

    def tell(self, type_: str, data: dict[str, Any], **subject: Any) -> None:
        """Add an event to the log."""
        with self._changed:
            self.events.append({"id": next(self._numbers), "type": type_, "severity": "info", "actor": "test",
                                "service_id": None, "group_name": None, "operation_id": None, **subject,
                                "data": data, "timestamp": now()})  # fmt: skip
            self._changed.notify_all()

    def log(self, service_id: str, text: str, *, live: bool = True) -> None:
        """Write a line of a service's output; `live`: followers hear of it."""
        line = {"text": text, "at": now(), "stream": "stdout"}
        with self._changed:
            self.log_lines.setdefault(service_id, []).append(line)
            if live:
                self._extra.append(
                    {"id": None, "type": "log.line", "severity": "info", "service_id": service_id, "group_name": None,
                     "operation_id": None, "data": line, "timestamp": now()}
                )  # fmt: skip
            self._changed.notify_all()

    def operation(self, type_: str, **fields: Any) -> dict[str, Any]:
        """Begin an operation that follows the script."""
        number = f"op-{len(self.operations) + 1:04d}"
        one = {"id": number, "type": type_, "status": "pending", "group_name": None, "service_id": None, "progress": 0,
               "current_step": None, "steps": [step(*target) for target in self.targets], "result": None, "error": None,
               "question": None, "dependencies": [], "created_at": now(), "start_time": None, "end_time": None,
               **fields}  # fmt: skip
        self.operations[number] = one
        threading.Thread(target=self._work, args=(one,), daemon=True).start()
        return one

    def _work(self, one: dict[str, Any]) -> None:
        end = self.ends.pop(0) if self.ends else self.end
        one["status"], one["start_time"] = "in_progress", now()
        self._progress(one, None)
        if self.question is not None:
            self._ask(one)
        for each in one["steps"]:
            self.held.wait(20)
            if one["status"] == "cancelling":
                break
            each["status"], each["started_at"] = "running", now()
            self._progress(one, each)
            failing = end["status"] == "failed" and each is one["steps"][-1]
            each["status"], each["ended_at"] = ("failed" if failing else "completed"), now()
            each["error"] = end["error"] if failing else None
            one["progress"] += 100 // len(one["steps"])
            self._progress(one, each)
        self.held.wait(20)
        cancelled = one["status"] == "cancelling"
        one["error"], one["end_time"] = end["error"], now()
        one["status"] = "cancelled" if cancelled else end["status"]
        if one["status"] == "completed":
            one["progress"] = 100
            self._settle(one)
            for member in self.services.values():
                if one["type"] == "group.start" and member["group"] == one["group_name"]:
                    member |= {"status": "running", "health": {"status": "healthy"}}
        self.tell("operation.completed", {"status": one["status"], "progress": one["progress"]},
                  operation_id=one["id"])  # fmt: skip

    def _ask(self, one: dict[str, Any]) -> None:
        one["question"], self.question = self.question, None
        one["status"] = "waiting"
        data = {"status": "waiting", "progress": 0, "current_step": None, "question": one["question"]}
        self.tell("operation.waiting", data, operation_id=one["id"])
        self._answered.wait(20)
        one["question"], one["status"] = None, "in_progress"
        self._progress(one, None)

    def _settle(self, one: dict[str, Any]) -> None:
        """What an operation on conflicts leaves behind."""
        asked = one.get("parameters") or {}
        starts = one["type"] == "group.start" and asked.get("on_conflict") == "migrate"
        if asked.get("dry_run") or not (starts or one["type"] == "conflict.resolve"):
            return
        mine = one.get("conflict_id")
        for each in self.conflicts.values():
            automatic = mine is None and each["kind"] not in ("out_of_range", "reserved")
            if each["status"] != "active" or not (automatic or each["id"] == mine):
                continue
            moved = asked.get("strategy", "migrate_service") in ("migrate_service", "change_port")
            to_port = asked.get("port", 9400) if moved else None
            each["status"] = "ignored" if asked.get("strategy") == "ignore" else "resolved"
            each["undoable"] = moved
            each["resolution"] = {"strategy": asked.get("strategy", "migrate_service"), "from_port": each["port"],
                                  "to_port": to_port, "operation_id": one["id"]}  # fmt: skip
            self.tell("port.conflict_resolved", dict(each), operation_id=one["id"])

    def _progress(self, one: dict[str, Any], each: dict[str, Any] | None) -> None:
        data = {"status": one["status"], "progress": one["progress"], "current_step": each and each["id"]}
        self.tell("operation.progress", data | ({"step": dict(each)} if each else {}), operation_id=one["id"])

    # --- the outside ---------------------------------------------------------------------------------------

    def _app(self) -> Flask:
        app = Flask("stand-in")
        sock = Sock(app)
        app.before_request(self._before)
        for rule, method, view in (
            ("/services", "GET", lambda: self._listed(self.services, "group")),
            ("/services", "POST", self._add_service),
            ("/services/<one>", "GET", lambda one: self._one(self.services, one, "service")),
            ("/services/<one>", "PATCH", self._patch_service),
            ("/services/<one>", "DELETE", lambda one: (self.services.pop(one), ("", 204))[1]),
            ("/services/<one>/logs", "GET", self._logs),
            ("/services/<one>/<verb>", "POST", lambda one, verb: self._begin(f"service.{verb}", service_id=one)),
            ("/groups", "GET", lambda: self._listed(self.groups, "")),
            ("/groups", "POST", self._add_group),
            ("/groups/<one>", "GET", lambda one: self._one(self.groups, one, "group")),
            ("/groups/<one>", "DELETE", lambda one: (self.groups.pop(one), ("", 204))[1]),
            ("/groups/<one>/graph", "GET", lambda one: {"nodes": [{"id": "web"}, {"id": "api"}],
                                                        "edges": [{"from": "web", "to": "api",
                                                                   "condition": "healthy"}]}),
            ("/groups/import", "POST", lambda: self._begin("group.import", result=self.imported)),
            ("/groups/<one>/export", "GET", lambda one: self.exported[request.args["format"]]),
            ("/groups/<one>", "PATCH", self._keep),
            ("/groups/<one>/clone", "POST", self._clone),
            ("/groups/<one>/logs", "GET", self._group_logs),
            ("/groups/<one>/<verb>", "POST", lambda one, verb: self._begin(f"group.{verb}", group_name=one)),
            ("/operations", "GET", self._operations),
            ("/operations", "POST", lambda: self._begin(f"batch.{request.get_json()['action']}")),
            ("/operations/<one>", "GET", self._operation),
            ("/operations/<one>/cancel", "POST", self._cancel),
            ("/operations/<one>/retry", "POST", lambda one: self._begin("group.start", retry_of=one)),
            ("/operations/<one>/answer", "POST", self._answer),
            ("/conflicts", "GET", self._conflicts),
            ("/conflicts/scan", "POST", lambda: self._conflict_work("conflict.scan")),
            ("/conflicts/resolve", "POST", lambda: self._conflict_work("conflict.resolve")),
            ("/conflicts/<int:one>", "GET", lambda one: self._one(self.conflicts, one, "conflict")),
            ("/conflicts/<int:one>/resolve", "POST", lambda one: self._conflict_work("conflict.resolve", one)),
            ("/conflicts/<int:one>/undo", "POST", lambda one: self._conflict_work("conflict.undo", one)),
            ("/ports/<int:one>/conflicts", "GET", self._on_port),
            ("/orphans", "GET", lambda: {"items": self.orphans, "next_cursor": None, "total": len(self.orphans)}),
            ("/orphans/<one>/adopt", "POST", lambda one: ({"id": "shop-lost"}, 201)),
            ("/orphans/<one>/remove", "POST", lambda one: self._begin("orphan.remove")),
            ("/events", "GET", self._past),
            ("/ports", "GET", lambda: {"ranges": [{"project": "core", "start_port": 5000, "end_port": 5999}],
                                       "leases": self.leases, "listeners": []}),
            ("/ports/allocate", "POST", self._allocate),
            ("/ports/leases/<one>", "DELETE", self._release),
            ("/ports/<int:one>/check", "POST", lambda one: self._begin("port.check", result=self.verdict(one))),
            ("/system/info", "GET", lambda: {"websocket_url": self.websocket_url}),
        ):  # fmt: skip
            app.add_url_rule(f"/api/v2{rule}", f"{method} {rule}", view, methods=[method])
        app.add_url_rule("/", "page", lambda: "<h1>In stock</h1><li>apples: 12</li>")
        sock.route("/api/v2/ws")(self._socket)
        return app

    def verdict(self, port: int) -> dict[str, Any]:
        holder = {"kind": "process", "name": "postgres", "pid": 812, "command": "postgres -D /data", "user": "app"}
        return {"port": port, "observed_at": now(), "allocatable": False, "lease": None, "claims": [], "range": None,
                "entries": [
                    {"host_ip": "127.0.0.1", "protocol": "tcp", "verdict": "held", "reason": "", "holders": [holder]},
                    {"host_ip": "127.0.0.1", "protocol": "udp", "verdict": "free", "reason": "", "holders": []},
                ]}  # fmt: skip

    def _before(self) -> Response | None:
        body = request.get_json(silent=True) if request.method in ("POST", "PATCH") else None
        self.calls.append((request.method, request.path.removeprefix("/api/v2"), body))
        self.keys.append(request.headers.get("X-API-Key"))
        if self.next_answer and not request.path.endswith("/ws"):
            status, problem = self.next_answer.pop(0)
            return Response(json.dumps(problem), status, content_type="application/problem+json")
        return None

    def _problem(self, status: int, code: str, **facts: Any) -> Response:
        body = {"type": "about:blank", "title": code, "status": status, "detail": code, "code": code, **facts}
        return Response(json.dumps(body), status, content_type="application/problem+json")

    def _listed(self, things: dict[str, dict[str, Any]], key: str) -> dict[str, Any]:
        found = [one for one in things.values() if not request.args.get(key) or one[key] == request.args[key]]
        start = int(request.args.get("cursor") or 0)
        more = start + self.page < len(found)
        return {"items": found[start : start + self.page], "total": len(found),
                "next_cursor": str(start + self.page) if more else None}  # fmt: skip

    def _conflicts(self) -> Any:
        wanted = request.args.get("status", "active").split(",")
        found = [one for one in self.conflicts.values() if one["status"] in wanted]
        return {"items": found, "next_cursor": None, "total": len(found)}

    def _on_port(self, one: int) -> Any:
        found = [each for each in self.conflicts.values() if each["port"] == one and each["status"] != "resolved"]
        return {"items": found, "next_cursor": None, "total": len(found)}

    def _conflict_work(self, type_: str, conflict_id: int | None = None) -> Any:
        if conflict_id is not None and conflict_id not in self.conflicts:
            return self._problem(404, "conflict_not_found")
        asked = request.get_json(silent=True) or {}
        plan = {
            "steps": [{"action": "migrate_port", "target": "shop-api", "depends_on": [], "cause": "its port is taken"}],
            "conflicts": [],
            "resolutions": [
                {"description": "move shop-api to port 9400", "risk_level": "low", "effects": ["elsewhere"]}
            ],
        }
        active = [one for one in self.conflicts.values() if one["status"] == "active"]
        result = {"plan": plan} if asked.get("dry_run") else {"conflicts": active}
        targets, self.targets = self.targets, []
        if type_ == "conflict.resolve" and not asked.get("dry_run") and active:
            self.targets = [("migrate_port", "shop-api")]
        try:
            return self._begin(type_, result=result, conflict_id=conflict_id)
        finally:
            self.targets = targets

    def _answer(self, one: str) -> Any:
        body = request.get_json()
        if self.operations[one]["status"] != "waiting":
            return self._problem(409, "operation_not_waiting")
        self.given.append(body)
        self.operations[one]["status"] = "pending"
        self.operations[one]["question"] = None
        self._answered.set()
        return self.operations[one], 202

    def _one(self, things: dict[Any, dict[str, Any]], one: Any, noun: str) -> Any:
        if one not in things:
            return self._problem(404, f"{noun}_not_found")
        return Response(json.dumps(things[one]), 200, {"ETag": '"1"'}, content_type="application/json")

    def _add_service(self) -> Any:
        body = request.get_json()
        one = service(body["group"], body["name"], 9000) | body
        self.services[one["id"]] = one
        return one, 201

    def _patch_service(self, one: str) -> Any:
        self.services[one] |= request.get_json() | {"drift": True}
        return self.services[one]

    def _add_group(self) -> Any:
        body = request.get_json()
        if body["name"] in self.groups:
            return self._problem(409, "group_exists")
        for each in body["services"]:
            one = service(body["name"], each["name"], each.get("ports", [{"host_port": 9000}])[0]["host_port"])
            one["ports"][0]["url"] = f"{self.url}/"
            self.services[one["id"]] = one | {"status": "stopped", "health": {"status": "none"}}
        self.groups[body["name"]] = body | {"services": [f"{body['name']}-{s['name']}" for s in body["services"]]}
        return self.groups[body["name"]], 201

    def _logs(self, one: str) -> Any:
        lines = self.log_lines.get(one, [])
        wanted = [line for line in lines if request.args.get("q", "") in line["text"]]
        return {"lines": wanted[-int(request.args.get("lines", 100)) :]}

    def _group_logs(self, one: str) -> Any:
        ids = [each for each, service in self.services.items() if service["group"] == one]
        lines = [{"service_id": each, **line} for each in ids for line in self.log_lines.get(each, [])]
        wanted = [line for line in lines if request.args.get("q", "") in line["text"]]
        wanted.sort(key=lambda line: line["at"])
        return {"group": one, "lines": wanted[-int(request.args.get("lines", 100)) :], "failed": self.unread}

    def _keep(self, one: str) -> Any:
        self._one(self.groups, one, "group")
        body = request.get_json()
        end = "2031-01-01T00:00:00.000000Z" if body.get("ttl") else None
        self.groups[one] = {**self.groups[one], "expires_at": end}
        return self.groups[one]

    def _clone(self, one: str) -> Any:
        body = request.get_json()
        told = {
            "clones": {one: body["as"]},
            "warnings": [{"service": "web", "field": "environment.URL", "text": "the text holds '9310'"}],
        }
        if body.get("start"):
            asked = {"clone": {"name": body["as"], **told}}
            return self.operation("group.start", group_name=body["as"], parameters=asked), 202
        end = "2031-01-01T00:00:00.000000Z" if body.get("ttl") else None
        made = {"name": body["as"], "cloned_from": one, "services": ["a", "b"], "expires_at": end, "asked": body}
        self.groups[body["as"]] = made
        return {**made, **told}, 201

    def _begin(self, type_: str, **fields: Any) -> Any:
        one = self.operation(type_, parameters=request.get_json(silent=True) or {}, **fields)
        return one, 202, {"Location": f"/api/v2/operations/{one['id']}"}

    def _operations(self) -> Any:
        parent = request.args.get("parent")
        found = [one for one in self.operations.values() if parent is None or one.get("parent_id") == parent]
        return {"items": found[::-1], "next_cursor": None}

    def _operation(self, one: str) -> Any:
        if one not in self.operations:
            return self._problem(404, "operation_not_found")
        deadline = float(request.args.get("wait") or 0)
        with self._changed:
            self._changed.wait_for(lambda: self.operations[one]["end_time"] is not None, min(deadline, 0.2))
        return self.operations[one]

    def _cancel(self, one: str) -> Any:
        if not self.too_late:
            self.operations[one]["status"] = "cancelling"
        self.held.set()
        return self.operations[one], 202

    def _past(self) -> Any:
        after = request.args.get("after")
        found = self.events[::-1] if after is None else [e for e in self.events if e["id"] > int(after)]
        return {"items": found[: int(request.args.get("limit", 50))], "next_cursor": None}

    def _allocate(self) -> Any:
        lease = {"id": len(self.leases) + 1, "port": request.get_json().get("preferred_port", 5001), "protocol": "tcp",
                 "project": request.get_json()["project"], "service_id": None, "created_at": now()}  # fmt: skip
        self.leases.append(lease)
        return lease, 201

    def _release(self, one: str) -> Any:
        self.leases = [lease for lease in self.leases if str(lease["id"]) != one]
        return "", 204

    def _socket(self, ws: Any) -> None:
        if not self.sockets:
            ws.close(1013)
            return
        self.connections += 1
        ws.send(json.dumps({"type": "hello", "last_id": len(self.events)}))
        wanted: list[dict[str, Any]] = []
        position, extra, sent = len(self.events), len(self._extra), 0
        while True:
            message = ws.receive(timeout=0.01)
            if message:
                asked = json.loads(message)
                wanted.append(asked)
                position = asked.get("after", position)
                ws.send(json.dumps({"type": "subscribed", "id": len(wanted), "last_id": len(self.events)}))
            fresh, position = self.events[position:], len(self.events)
            lines, extra = self._extra[extra:], len(self._extra)
            for event in [*fresh, *lines]:
                if any(_fits(event, each) for each in wanted):
                    ws.send(json.dumps(event))
                    sent += 1
                    if self.cut_every and sent >= self.cut_every:
                        ws.close(1012)
                        return


def _fits(event: dict[str, Any], wanted: dict[str, Any]) -> bool:
    named = {"operation": "operation_id", "service": "service_id", "group": "group_name"}
    fits: Callable[[str], bool] = lambda each: each == "*" or event["type"].startswith(each.rstrip("*"))  # noqa: E731
    return any(map(fits, wanted["events"])) and all(
        event[field] == wanted[key] for key, field in named.items() if key in wanted
    )
