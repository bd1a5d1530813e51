"""The stages from Python: compose a configuration, run, look at what each left.

python recipes/from_python.py task=email model=tiny
"""

import sys

from rich.console import Console

from fgpipe import chat, evaluation, pipeline
from fgpipe.compose import compose


def main() -> None:
    """Train and score one adapter; stages that are up to date are skipped."""
    config = compose(sys.argv[1:] or ["task=sql", "model=tiny", "experiment=quick"])
    console = Console()

    dataset = pipeline.load(config)
    console.print(dict(dataset.numbers))

    formatted = pipeline.format_dataset(config)
    chat.preview(formatted, console=console, rows=1)

    adapter = pipeline.train(config)
    console.print(f"adapter: {adapter.path}", dict(adapter.numbers))

    console.print(evaluation.render_scores(pipeline.scores(config).scores()))


if __name__ == "__main__":
    main()
