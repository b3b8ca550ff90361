"""python scripts/convert.py import CHECKPOINT FOLDER --like allenai/Molmo2-4B; --help explains every option."""

from __future__ import annotations

import argparse
import sys

from stts.settings.failures import as_message
from stts.settings.launch import USAGE_ERROR, full_errors, say_that_it_starts
from stts.settings.next_command import suggest

GONE = ("export", "strip")
"""Commands of earlier versions."""


def parse(arguments: list[str] | None = None) -> dict:
    """The command line as keywords of stts.convert.convert.from_published."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(description="Published training checkpoints -> Hugging Face folders.")
    if arguments and arguments[0] in GONE:
        parser.error(
            f"{arguments[0]} is gone: plain transformers loads the folders of this library as they are "
            "(Molmo2ForConditionalGeneration.from_pretrained leaves the scorer out)"
        )
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("import", help="training checkpoint -> a folder this library loads")
    command.add_argument("source", help="model.pt, a sharded checkpoint, or the run's folder around either")
    command.add_argument(
        "--like", help="folder or hub id to take config.json and tokenizer from (recommended)"
    )
    command.add_argument(
        "--heads", dest="num_heads", type=int, help="of the scorer's pooling (default: the ViT's)"
    )
    command.add_argument("--prune-ratio", type=float, help="default: as trained")
    command.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="default: as stored")
    command.add_argument("--tied", action="store_true", help="the output head is the table of words")
    command.add_argument("folder", help="where to write: new or empty")
    return vars(parser.parse_args(arguments))


def main(options: dict) -> None:
    say_that_it_starts("convert")

    from safetensors import SafetensorError

    from stts.convert.convert import from_published

    try:
        for remark in from_published(**options):
            print(remark)
    except Exception as error:
        message = as_message(error) or (str(error) if isinstance(error, SafetensorError) else None)
        if message is None or full_errors():
            raise
        print(f"error: {message}", file=sys.stderr)
        sys.exit(USAGE_ERROR)
    print(f"written to {options['folder']}")
    suggest("eval", checkpoint=options["folder"])


if __name__ == "__main__":
    main(parse())
