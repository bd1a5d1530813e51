"""The README beside each shipped task's rows, written from the rows so that its numbers are theirs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

from fgpipe.data.tasks.rows import Row, calls_of, request_of

ABOUT = {
    "sql": """A question about a small database, answered by one `run_sql` call, or two when two things are asked. The
developer message holds the schema of the row: one or two of 49 tables in 20 domains, with varying columns.

Conventions of the gold queries: upper-case keywords, no aliases (`orders.amount` in joins, bare names elsewhere), the
direction of every `ORDER BY` written out, `LIKE '2024-05%'` for a month, no final semicolon. A thing is called by its
name or title, or by its `id` if it has neither ("which 3 orders ..." selects `id`).

`meta.sqlite` creates and fills the tables. On that data every gold query finds something, and its near misses (a
condition dropped or reversed, another column, another aggregate, the opposite order, no limit) find something else.""",
    "email": """A mail assistant with five tools, one or two of which are declared in a row, and the conventions of one
company, which no declaration spells out and only fine-tuning teaches:

- addresses are `first.last@domain`, the domain standing in the developer message;
- subjects are `Tag: topic` with the tags Update, Question, Reminder, Invite and Thanks, the topic without its article;
- every message has a priority, `normal` unless the writer says how urgent it is;
- the folders finance, people, clients, archive and spam each take in several kinds of mail;
- times of the week are `mon-am`, `mon-pm`, `mon-eve` (a bare day means its morning);
- dates are ISO dates of the year in the developer message.""",
    "math": """Word problems, conversions, statistics, percentages and equations, put into calls of five tools, one or
two of which are declared in a row. The model formulates and never computes. Conventions that no declaration spells out:

- an expression has one space around every sign and brackets around each part: `(12 * 8.50) + (2 * 21.95)`;
- a percentage of something is `(p / 100) * n`; the unknown of an equation is `x`;
- units are codes (`km`, `mi`, `lb`, `degC`, `wk`, ...), and so are measures (`avg`, `med`, `sd`, ...).""",
}


def readme(name: str, rows: Sequence[Row]) -> str:
    """The task's README in Markdown."""
    families = Counter(row["meta"]["family"] for row in rows)
    held_out = Counter(row["meta"]["family"] for row in rows if row["meta"]["wording"] == "held_out")
    table = "\n".join(f"| {family} | {families[family]} | {held_out[family]} |" for family in sorted(families))
    calls = Counter(min(len(calls_of(row)), 2) for row in rows)
    sample = next(row for row in rows if len(calls_of(row)) == 1 and row["meta"]["wording"] == "common")
    return f"""# {name}

{ABOUT[name]}

`rows.jsonl` has {len(rows)} rows: {calls[1]} with one call, {calls[2]} with several, and {calls[0]} in which no call
is right (small talk, another job, something missing). {sum(held_out.values())} rows use wordings that no other row uses
(`meta.wording` is `held_out`); they only ever serve evaluation. `meta.frame` names the sentence frame of a request.

A request and its answer:

    {request_of(sample)}
    {json.dumps(calls_of(sample)[0], ensure_ascii=False)}

| family | rows | of these held out |
|---|---:|---:|
{table}

All of it is synthetic: written by the generator in `src/fgpipe/data/tasks`, with invented people and companies.
Licence: Apache-2.0, as the rest of fgpipe. This command rebuilds the folder byte for byte:

    python -m fgpipe.data.tasks {name} --out data
"""
