"""A server on loopback that answers as the Materials Project's interface does."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlparse

from pymatgen.core import Structure

KEY = "k" * 32


class Server:
    """Holds documents; applies the criteria and pages that the client sends.

    It can be told to misbehave (`spoil`).
    """

    def __init__(self, structures: dict[str, Structure]) -> None:
        self.documents = [
            {"material_id": i, "structure": s.as_dict()} for i, s in structures.items()
        ]
        self.structures = structures
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.key = KEY
        self.spoil: Callable[[str, dict[str, str]], tuple[int, bytes] | None] = lambda path, query: (
            None
        )
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                url = urlparse(self.path)
                query = {k: v[0] for k, v in parse_qs(url.query).items()}
                outer.requests.append((url.path, query))
                code, body = outer.spoil(url.path, query) or outer.answer(
                    url.path, query, self.headers.get("x-api-key")
                )
                self.send_response(code)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/"

    def answer(self, path: str, query: dict[str, str], key: str | None) -> tuple[int, bytes]:
        """Return status and content for a query."""
        if path.startswith("/heartbeat"):
            return 200, json.dumps(
                {
                    "status": "OK",
                    "version": "0.86.5",
                    "db_version": "2025.09.25",
                    "access_controlled_batch_ids": [],
                }
            ).encode()
        if key != self.key:
            return 401, b'{"message": "Unauthorized"}'
        assert path.rstrip("/") == "/materials/summary"
        found = [d for d in self.documents if self.fits(d, query)]
        if "_sort_fields" in query:
            found.sort(key=lambda d: d[query["_sort_fields"]])
        start = int(query.get("_skip", 0))
        page = found[start : start + int(query.get("_limit", 100))]
        keys = query.get("_fields", "material_id").split(",")
        data = [{k: d[k] for k in keys if k in d} for d in page]
        return 200, json.dumps(
            {"data": data, "meta": {"api_version": "0.86.5", "total_doc": len(found)}}
        ).encode()

    def fits(self, document: dict[str, Any], query: dict[str, str]) -> bool:
        """Tell whether a document meets the query's criteria."""
        if "material_ids" in query:
            return document["material_id"] in query["material_ids"].split(",")
        structure = self.structures.get(document["material_id"])
        if structure is None:
            return True
        return (
            len(structure) <= int(query.get("nsites_max", 10**6))
            and structure.volume <= float(query.get("volume_max", 1e9))
            and (
                "formula" not in query
                or structure.composition.anonymized_formula in query["formula"].split(",")
            )
        )

    def start(self) -> None:
        """Answer in a thread of its own, until the process ends."""
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()
