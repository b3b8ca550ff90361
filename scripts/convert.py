"""python scripts/convert.py import CHECKPOINT FOLDER --like allenai/Molmo2-4B; --help explains every option."""

from __future__ import annotations

import argparse
import sys

from stts.settings.failures import as_message
from stts.settings.launch import USAGE_ERROR, full_errors, say_that_it_starts
from stts.settings.next_command import suggest


def parse(arguments: list[str] | None = None) -> dict:
    """The command line as keywords of stts.convert, and which of its functions to call."""
    parser = argparse.ArgumentParser(description="Published training checkpoints <-> Hugging Face folders.")
    commands = parser.add_subparsers(dest="command", required=True)
    to_ours = commands.add_parser("import", help="training checkpoint -> a folder this library loads")
    to_ours.add_argument("source", help="model.pt, a sharded checkpoint, or the run's folder around either")
    to_ours.add_argument(
        "--like", help="folder or hub id to take config.json and tokenizer from (recommended)"
    )
    to_ours.add_argument(
        "--heads", dest="num_heads", type=int, help="of the scorer's pooling (default: the ViT's)"
    )
    to_ours.add_argument("--prune-ratio", type=float, help="default: as trained")
    to_ours.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="default: as stored")
    to_ours.add_argument("--tied", action="store_true", help="the output head is the table of words")
    back = commands.add_parser("export", help="such a folder -> training checkpoint (model.pt)")
    strip = commands.add_parser("strip", help="such a folder -> a plain Molmo2 without scorer")
    for command in (back, strip):
        command.add_argument("source", help="folder written by import or save_pretrained")
    for command in (to_ours, back, strip):
        command.add_argument("folder", help="where to write: new or empty")
    return vars(parser.parse_args(arguments))


def main(options: dict) -> None:
    say_that_it_starts("convert")

    from safetensors import SafetensorError

    from stts.convert import convert

    functions = {
        "import": convert.from_published,
        "export": convert.to_published,
        "strip": convert.strip_scorer,
    }
    command = options.pop("command")
    try:
        for remark in functions[command](**options):
            print(remark)
    except Exception as error:
        message = as_message(error) or (str(error) if isinstance(error, SafetensorError) else None)
        if message is None or full_errors():
            raise
        print(f"error: {message}", file=sys.stderr)
        sys.exit(USAGE_ERROR)
    print(f"written to {options['folder']}")
    if command == "export":
        back = ["import", options["folder"], f"{options['folder']}-again", "--like", options["source"]]
        suggest("convert", back)
    else:
        suggest("eval", checkpoint=options["folder"], policy="none" if command == "strip" else None)


if __name__ == "__main__":
    main(parse())
