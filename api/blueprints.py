"""flask-smorest with the corners filed off: strict JSON bodies, problem+json in the document, `Allow` on 405.

Every view carries `@requires(…)` or `@public` (api/auth.py); the document shows it.
"""

import http
from collections.abc import Callable
from typing import Any, TypeVar

from flask import Request
from flask_smorest import Api, Blueprint
from flask_smorest.utils import prepare_response
from webargs.flaskparser import FlaskParser

from api.bodies import json_body
from api.schemas import ProblemSchema

PROBLEM_JSON = "application/problem+json"
View = TypeVar("View", bound=Callable[..., Any] | type)


class StrictParser(FlaskParser):
    """Reads bodies by our own rules; an absent body is `{}`. Unknown names in a query are refused as well."""

    DEFAULT_UNKNOWN_BY_LOCATION = FlaskParser.DEFAULT_UNKNOWN_BY_LOCATION | {"query": None, "querystring": None}

    def _raw_load_json(self, _req: Request) -> Any:
        return json_body()


class ClosBlueprint(Blueprint):  # type: ignore[misc]
    """A blueprint of `/api/v2`."""

    ARGUMENTS_PARSER = StrictParser()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._prepare_doc_cbks.append(self._prepare_access_doc)

    def route(self, rule: str, **options: Any) -> Callable[[View], View]:
        """As flask-smorest's, with a type."""
        made: Callable[[View], View] = super().route(rule, **options)
        return made

    def arguments(self, schema: Any, **options: Any) -> Callable[[View], View]:
        """As flask-smorest's, with a type. A body without required fields need not be sent."""
        if options.get("location", "json") == "json":
            known = schema() if isinstance(schema, type) else schema
            options.setdefault("required", any(field.required for field in known.fields.values()))
        made: Callable[[View], View] = super().arguments(schema, **options)
        return made

    def response(self, status_code: int, schema: Any = None, **options: Any) -> Callable[[View], View]:
        """As flask-smorest's, with a type."""
        made: Callable[[View], View] = super().response(status_code, schema, **options)
        return made

    def alt_response(self, status_code: int, response: Any = None, **options: Any) -> Callable[[View], View]:
        """As flask-smorest's, with a type."""
        made: Callable[[View], View] = super().alt_response(status_code, response, **options)
        return made

    def _store_endpoint_docs(self, endpoint: str, obj: Any, parameters: Any, tags: Any, **options: Any) -> None:
        super()._store_endpoint_docs(endpoint, obj, parameters, tags, **options)
        for method, info in self._docs[endpoint].items():
            if method != "parameters":
                info["view"] = getattr(obj, method, None) if isinstance(obj, type) else obj

    @staticmethod
    def _prepare_access_doc(doc: dict[str, Any], doc_info: dict[str, Any], **_kwargs: Any) -> dict[str, Any]:
        # Read here and not when the route was made, so that the order of decorators does not matter.
        view = doc_info.pop("view", None)
        permission = getattr(view, "clos_permission", None)
        if permission is None:
            doc["security"] = []
        else:
            doc["x-permission"] = permission
        if getattr(view, "clos_idempotent", False):
            doc.setdefault("parameters", []).append(
                {
                    "in": "header",
                    "name": "Idempotency-Key",
                    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
                    "description": "The same key and body give the same answer again, for 24 h.",
                }
            )
        return doc


class ClosApi(Api):  # type: ignore[misc]
    """The OpenAPI document. Errors in it are problems."""

    ERROR_SCHEMA = ProblemSchema

    def _register_error_handlers(self) -> None:
        """api/errors.py has registered ours."""

    def _register_responses(self) -> None:
        for status in http.HTTPStatus:
            self._register_response(status.name, status.phrase, with_body=status >= 200 and status not in (204, 304))
        self._register_response("DEFAULT_ERROR", "Every error", with_body=True)

    def _register_response(self, name: str, text: str, *, with_body: bool) -> None:
        response: dict[str, Any] = {"description": text}
        if with_body:
            response["schema"] = self.ERROR_SCHEMA
        prepare_response(response, self.spec, PROBLEM_JSON)
        self.spec.components.response(name, response, lazy=True)
