"""The tokens of a prompt pair as a table, to see before tracing what the model sees."""

from __future__ import annotations

from html import escape

MARK = "≠"  # the difference is told by a mark and by weight, not by colour alone


class TokenTable:
    """Both prompts and both answers of one example, token by token.

    frame: position, base, counterfactual, differs, role ("prompt", "subject", or "answer": the foil stands under base,
    the target under counterfactual, each beneath the prompt that favours it). Shows itself in a notebook.
    """

    def __init__(self, example, pieces):
        import pandas as pd

        sides = [(pieces(example.base), pieces(example.foil)), (pieces(example.counterfactual), pieces(example.target))]
        ids = [(example.base, example.foil), (example.counterfactual, example.target)]
        rows = []
        for part in (0, 1):
            for i in range(max(len(side[part]) for side in ids)):
                in_subject = example.subject and example.subject[0] <= i < example.subject[1]
                base, other = (side[part][i] if i < len(side[part]) else "" for side in sides)
                differs = len({side[part][i:i + 1] for side in ids}) > 1
                rows.append(dict(position=len(rows), base=base, counterfactual=other, differs=differs,
                                 role="answer" if part else "subject" if in_subject else "prompt"))
        self.frame = pd.DataFrame(rows)

    def __repr__(self) -> str:
        return self.frame.assign(differs=[MARK if d else "" for d in self.frame.differs]).to_string(index=False)

    def _repr_html_(self) -> str:
        head = "".join(f'<th scope="col">{name}</th>' for name in self.frame.columns)
        body = "".join(self._row(row) for row in self.frame.itertuples(index=False))
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    @staticmethod
    def _row(row) -> str:
        def cell(text) -> str:
            said = f"<code>{escape(text)}</code>"
            return f"<td><strong>{said}</strong></td>" if row.differs else f"<td>{said}</td>"

        # Half transparent, so that the page's own text colour stays readable on it in light and in dark.
        style = ' style="background: rgba(230, 159, 0, 0.25)"' if row.differs else ""
        return (f"<tr{style}><td>{row.position}</td>{cell(row.base)}{cell(row.counterfactual)}"
                f"<td>{MARK if row.differs else ''}</td><td>{row.role}</td></tr>")
