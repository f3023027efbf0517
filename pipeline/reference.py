"""Write the table of keys in config/README.md from the schema: `python -m pipeline.reference`."""

import json
from pathlib import Path

from dgd.tables import replace_file
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
            default = "by `protocol`" if prefix == "exchange." and default == "*needed*" and key != "name" else default
            choices = f" One of {', '.join(f'`{choice}`' for choice in rule['enum'])}." if "enum" in rule else ""
            rows.append(f"| `{prefix}{key}` | {default} | {rule['description']}{choices} |")

    walk(rules, "")
    exchange = rules["$defs"]["exchange"]
    rows.append(f"| **`exchange`** | | In a row of `methods`. {exchange['description']} |")
    walk(exchange, "exchange.")
    return "\n".join([*rows, "", END])


def main():
    """Replace the table of keys in config/README.md."""
    path = Path("config/README.md")
    before, _, rest = path.read_text().partition(START)
    replace_file(path, (before + render() + rest.partition(END)[2]).encode())


if __name__ == "__main__":
    main()
