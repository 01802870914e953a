"""Label each row of a CSV file by what a column says, and print the file with one more column.

    python examples/label_csv.py reviews.csv text > labelled.csv

Needs a key in CHATANYWHERE_API_KEY, and pydantic: pip install 'chatanywhere[structured]'. Answers are kept in
reviews.csv.journal. If the program is interrupted, or the quota of the day is spent, run it again: only what has no
label yet is asked.
"""

from __future__ import annotations

import csv
import sys
from typing import Literal

from chatanywhere import AuthenticationError, ChatAnywhereError, Client

Label = Literal["praise", "complaint", "question", "other"]


def main() -> int:
    """Read all rows, ask, and print those that have been labelled."""
    path, column = sys.argv[1:]
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    prompts = [f"What is this message of a customer?\n\n{row[column]}" for row in rows]
    output = csv.DictWriter(sys.stdout, [*rows[0], "label"], lineterminator="\n")
    output.writeheader()
    failed = 0
    try:
        with Client().map(prompts, response_format=Label, journal=f"{path}.journal", reuse=True) as run:
            for result in run:
                if result.completion is None:
                    failed += 1
                    print(f"label_csv: row {result.index + 1}: {result.error}", file=sys.stderr)
                else:
                    output.writerow({**rows[result.index], "label": result.completion.parsed})
    except AuthenticationError as error:
        print(f"label_csv: {error}", file=sys.stderr)
        return 2
    except ChatAnywhereError as error:
        print(f"label_csv: {error}\n{error.left} rows are left; go on after {error.resume_at}", file=sys.stderr)
        return 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
