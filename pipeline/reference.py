"""Write the table of keys in config/README.md from the schema: `python -m pipeline.reference`."""

import json
import os
from pathlib import Path

from pipeline.config import schema

START, END = "<!-- keys: written by `python -m pipeline.reference` -->", "<!-- end of keys -->"


def render() -> str:
    """The keys of a config as a Markdown table, between the two marks."""
    rows = [START, "", "| key | default | what it is |", "|:--|:--|:--|"]
    rules = schema()

    def walk(rules: dict, prefix: str) -> None:
        for key, rule in rules["properties"].items():
            if "properties" in rule:
                rows.append(f"| **`{prefix}{key}`** | | {rule['description']} |")
                walk(rule, f"{prefix}{key}.")
                continue
            default = f"`{json.dumps(rule['default'])}`" if "default" in rule else "*needed*"
            choices = f" One of {', '.join(f'`{choice}`' for choice in rule['enum'])}." if "enum" in rule else ""
            rows.append(f"| `{prefix}{key}` | {default} | {rule['description']}{choices} |")

    walk(rules, "")
    return "\n".join([*rows, "", END])


def main():
    """Replace the table of keys in config/README.md."""
    path = Path("config/README.md")
    before, _, rest = path.read_text().partition(START)
    partial = path.with_name(path.name + ".part")
    partial.write_text(before + render() + rest.partition(END)[2])
    os.replace(partial, path)


if __name__ == "__main__":
    main()
