"""The shop's store: keeps stock in memory and answers `GET /items/<name>` and `/health`. Needs nothing."""

import json
import os
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

STOCK = {"apples": 12, "pears": 7, "plums": 0}


class Store(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        name = self.path.removeprefix("/items/")
        if self.path == "/health":
            self.answer(200, {"status": "ok"})
        elif self.path == "/items":
            self.answer(200, STOCK)
        elif name in STOCK:
            self.answer(200, {"name": name, "count": STOCK[name]})
        else:
            self.answer(404, {"error": f"no item {name}"})

    def answer(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, form: str, *values: object) -> None:
        if self.path != "/health":
            print(form % values, flush=True)


if __name__ == "__main__":
    address = os.environ.get("HOST", "127.0.0.1"), int(os.environ["PORT"])
    print("store: loading the stock", flush=True)
    time.sleep(0.2)  # a real one would read files; it makes the order visible
    print(f"store: {len(STOCK)} items, listening on {address[0]}:{address[1]}", flush=True)
    ThreadingHTTPServer(address, Store).serve_forever()
