"""From your own functions and examples to a published adapter, in one file.

python recipes/own_task.py

Writes tickets.jsonl in OpenAI's shape (arguments as JSON text, as their fine-tuning files have them), then does what
`python -m fgpipe publish task=custom task.name=tickets task.dataset.source=tickets.jsonl model=tiny` does.
"""

import itertools
import json
from pathlib import Path

from fgpipe import pipeline
from fgpipe.compose import compose

TOOL = {
    "type": "function",
    "function": {
        "name": "open_ticket",
        "description": "Open a support ticket.",
        "parameters": {
            "type": "object",
            "properties": {
                "device": {"type": "string", "description": "What is broken."},
                "room": {"type": "integer", "description": "Room number."},
                "urgent": {"type": "boolean", "description": "Whether work has stopped."},
            },
            "required": ["device", "room", "urgent"],
        },
    },
}
DEVICES = ["printer", "projector", "heater", "phone", "screen", "door lock", "scanner", "router"]
ROOMS = [12, 104, 117, 210, 233, 305, 318, 402]
REQUESTS = {
    "The {device} in room {room} does not work, please send someone.": False,
    "Nobody can work in {room}: the {device} is dead!": True,
    "{room} again. Their {device} makes a strange noise, no hurry.": False,
    "We are stuck, the {device} of room {room} just failed.": True,
}


def example(device: str, room: int, request: str, urgent: bool) -> dict[str, object]:
    """One conversation in OpenAI's shape."""
    arguments = json.dumps({"device": device, "room": room, "urgent": urgent})
    call = {"id": "call_1", "type": "function", "function": {"name": "open_ticket", "arguments": arguments}}
    question = {"role": "user", "content": request.format(device=device, room=room)}
    return {"messages": [question, {"role": "assistant", "content": None, "tool_calls": [call]}], "tools": [TOOL]}


def main() -> None:
    """Write the rows, train, publish."""
    every = itertools.product(DEVICES, ROOMS, REQUESTS.items())
    rows = [example(device, room, request, urgent) for device, room, (request, urgent) in every]
    source = Path("tickets.jsonl")
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = compose(["task=custom", "task.name=tickets", f"task.dataset.source={source}", "model=tiny"])
    version = pipeline.publish(config)
    print(f"{version.name}@{version.version} in {version.path}")


if __name__ == "__main__":
    main()
