"""Print the JSON Schema of the configuration, for editors: `python -m mtlora.config schema [GROUP]`.

Without GROUP it is that of a composed configuration, which `python -m mtlora.train --cfg job` prints and a record contains; with
GROUP, such as `task`, that of the files in `conf/GROUP/`.
"""

import json

from mtlora.base import cli
from mtlora.config.json_schema import GROUPS, json_schema


def main() -> None:
    """Print the schema."""
    parser = cli.Parser(prog="python -m mtlora.config", description="Print the JSON Schema of the configuration.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("schema", help="print the JSON Schema")
    command.add_argument("group", nargs="?", choices=[*GROUPS], help="of the files in conf/GROUP/ instead")
    print(json.dumps(json_schema(parser.parse_args().group), indent=1))


if __name__ == "__main__":
    cli.run(main)
