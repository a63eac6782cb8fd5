"""Rows of the shared schema, `question`, `choices`, `answer`, with the fields that lm-eval's own templates name."""

import datasets


def arc(rows: datasets.Dataset) -> datasets.Dataset:
    def mapped(row):
        labels = [chr(ord("A") + i) for i in range(len(row["choices"]))]
        choices = {"text": row["choices"], "label": labels}
        return {"question": row["question"], "choices": choices, "answerKey": labels[row["answer"]]}

    return _mapped(rows, mapped)


def piqa(rows: datasets.Dataset) -> datasets.Dataset:
    return _mapped(
        rows,
        lambda row: {
            "goal": row["question"],
            "sol1": row["choices"][0],
            "sol2": row["choices"][1],
            "label": row["answer"],
        },
    )


def winogrande(rows: datasets.Dataset) -> datasets.Dataset:
    return _mapped(
        rows,
        lambda row: {
            "sentence": row["question"],
            "option1": row["choices"][0],
            "option2": row["choices"][1],
            "answer": str(row["answer"] + 1),
        },
    )


def _mapped(rows, function):
    # Made anew: `rows.map` would cast a field that keeps its name to the type it had.
    return datasets.Dataset.from_list([function(row) for row in rows])
