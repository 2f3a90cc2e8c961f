"""Write the JSON Schema of explain's report from its dataclasses; with --check, only say whether it is current."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from djinn_fx.explain.report import SCHEMA, Report

FILE = Path(__file__).parent.parent / "djinn_fx" / "explain" / "forms" / "schema.json"


def schema() -> dict[str, Any]:
    """The schema. Every field is always there, and nothing else."""
    made = TypeAdapter(Report).json_schema(mode="serialization")
    made["properties"]["schema"] = {"const": SCHEMA}
    for one in (made, *made["$defs"].values()):
        if "properties" in one:
            one["required"] = list(one["properties"])
            one["additionalProperties"] = False
            for field in one["properties"].values():
                field.pop("title", None)
                field.pop("default", None)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"urn:{SCHEMA.replace('/', ':')}", **made}


def main(arguments: list[str]) -> int:
    """Entry point; 1 if the file is out of date under --check."""
    text = json.dumps(schema(), indent=1, sort_keys=True) + "\n"
    if "--check" in arguments:
        current = FILE.exists() and FILE.read_text("utf-8") == text
        if not current:
            print(f"{FILE.name} is out of date: run `make table`", file=sys.stderr)
        return int(not current)
    FILE.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
