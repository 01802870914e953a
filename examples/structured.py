"""Read a letter of application on standard input, and print what it says as a table.

    python examples/structured.py < letter.txt

Needs a key in CHATANYWHERE_API_KEY, and pydantic: pip install 'chatanywhere[structured]'.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from chatanywhere import ChatAnywhereError, Client, OutputError


@dataclass
class Applicant:
    """What a letter of application says."""

    name: str
    years_of_experience: int | None
    skills: list[str]


def main() -> int:
    """Read, ask, and print the fields."""
    messages = [
        {"role": "system", "content": "Tell what the letter says. What it does not say is null, or an empty list."},
        {"role": "user", "content": sys.stdin.read()},
    ]
    try:
        with Client() as client:
            applicant = client.complete(messages, response_format=Applicant).parsed
    except OutputError as error:
        print(f"structured: {error}\nThe answer was: {error.partial}", file=sys.stderr)
        return 1
    except ChatAnywhereError as error:
        print(f"structured: {error}", file=sys.stderr)
        return 1
    print(f"name        {applicant.name}")
    print(f"experience  {applicant.years_of_experience}")
    print(f"skills      {', '.join(applicant.skills)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
