"""The shop's front: a page made from what the API at API_URL says, and `/health`."""

import html
import json
import os
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

API_URL = os.environ["API_URL"]


def page() -> str:
    with urllib.request.urlopen(API_URL + "/stock", timeout=2) as answer:
        stock = json.load(answer)
    rows = "".join(f"<li>{html.escape(name)}: {count}</li>" for name, count in sorted(stock.items()))
    return f"<!doctype html><title>Shop</title><h1>In stock</h1><ul>{rows}</ul>"


class Web(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        try:
            if self.path == "/health":
                self.answer(200, "ok")
            elif self.path == "/":
                self.answer(200, page())
            else:
                self.answer(404, "nothing here")
        except OSError as lost:
            self.answer(502, f"the API does not answer: {html.escape(str(lost))}")

    def answer(self, status: int, text: str) -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, form: str, *values: object) -> None:
        if self.path != "/health":
            print(form % values, flush=True)


if __name__ == "__main__":
    address = os.environ.get("HOST", "127.0.0.1"), int(os.environ["PORT"])
    print("web: making the first page", flush=True)
    page()
    time.sleep(0.2)
    print(f"web: listening on {address[0]}:{address[1]}", flush=True)
    ThreadingHTTPServer(address, Web).serve_forever()
