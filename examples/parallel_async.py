"""Ask several models the same question at the same time, with asyncio, and print who answered what, fastest first.

    python examples/parallel_async.py "What is a monad?" gpt-4o-mini deepseek-v3

Needs a key in CHATANYWHERE_API_KEY. Without names of models, two are asked.
"""

from __future__ import annotations

import asyncio
import sys

from chatanywhere import AsyncClient, ChatAnywhereError

MODELS = ["gpt-4o-mini", "deepseek-v3"]


async def ask(client: AsyncClient, question: str, model: str) -> str:
    """Return a model's name and its answer, or what went wrong."""
    try:
        return f"{model}: {await client.complete(question, model=model)}"
    except ChatAnywhereError as error:
        return f"{model} failed: {error}"


async def main(question: str, models: list[str]) -> None:
    """Print the answers in the order in which they arrive."""
    async with AsyncClient() as client:
        for answer in asyncio.as_completed([ask(client, question, model) for model in models]):
            print(await answer, flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python parallel_async.py QUESTION [MODEL ...]")
    asyncio.run(main(sys.argv[1], sys.argv[2:] or MODELS))
