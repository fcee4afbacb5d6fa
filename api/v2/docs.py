"""The OpenAPI document, and a page to browse it whose every asset comes from this process."""

from pathlib import Path

import flask_swagger_ui
from flask import Blueprint, Response, current_app, json, send_from_directory

from api.auth import public

_ASSETS = Path(flask_swagger_ui.__file__).parent / "dist"
_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>CLOS API</title>
<link rel="icon" href="/docs/assets/favicon-32x32.png">
<link rel="stylesheet" href="/docs/assets/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="/docs/assets/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""
_START = """window.ui = SwaggerUIBundle({
  url: "/api/v2/openapi.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis], layout: "BaseLayout"
});
"""

blp = Blueprint("docs", __name__)


@blp.get("/api/v2/openapi.json")
@public
def document() -> Response:
    """What this API is, for programs."""
    made: str | None = current_app.extensions.get("clos_document")
    if made is None:
        made = json.dumps(current_app.extensions["clos_api"].spec.to_dict())
        current_app.extensions["clos_document"] = made
    return Response(made, mimetype="application/json")


@blp.get("/docs")
@public
def page() -> Response:
    """What this API is, for people."""
    response = Response(_PAGE, mimetype="text/html")
    response.headers["Content-Security-Policy"] = _CSP
    return response


@blp.get("/docs/start.js")
@public
def start() -> Response:
    """The page's own script; in a file, so that no inline script need be allowed."""
    return Response(_START, mimetype="text/javascript")


@blp.get("/docs/assets/<string:name>")
@public
def asset(name: str) -> Response:
    """A file of Swagger UI."""
    response = send_from_directory(_ASSETS, name, max_age=86400)
    response.headers["Cache-Control"] = "public, max-age=86400"
    return response
