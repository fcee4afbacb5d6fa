"""The shop's API: asks the store at STORE_URL, answers `GET /stock` and `/health`. Without a store it ends at once."""

import json
import os
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

STORE_URL = os.environ["STORE_URL"]


def ask_store(path: str) -> dict[str, int]:
    with urllib.request.urlopen(STORE_URL + path, timeout=2) as answer:
        found: dict[str, int] = json.load(answer)
        return found


class Api(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        try:
            if self.path == "/health":
                self.answer(200, {"status": "ok", "store": ask_store("/health")})
            elif self.path == "/stock":
                self.answer(200, {name: count for name, count in ask_store("/items").items() if count})
            else:
                self.answer(404, {"error": f"nothing at {self.path}"})
        except OSError as lost:
            self.answer(502, {"error": f"the store does not answer: {lost}"})

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
    # No retry: CLOS starts this when the store is healthy, so a failure here would show that the order is wrong.
    print(f"api: the store has {len(ask_store('/items'))} items", flush=True)
    time.sleep(0.2)
    print(f"api: listening on {address[0]}:{address[1]}", flush=True)
    ThreadingHTTPServer(address, Api).serve_forever()
