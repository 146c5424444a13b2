"""Logistic regression on tf-idf: what texts in a table can be told apart by without a network.

  python scripts/baselines/tfidf.py ~/text --domain electronics --labels 1 5 10 20 50 all --seeds 0 1 2

Splits and label budgets are those of `target=text_table` with `target.split_seed` set to the seed. Words and word pairs
of the labelled texts alone, with sublinear term frequencies; the inverse strength of the L2 penalty is 10.
"""

import argparse
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from graft.data.readers.base import RawDataset
from graft.data.readers.text_table import TextTable
from graft.data.splits import SplitRules, split_samples


def main() -> None:
    options = parser().parse_args()
    data = TextTable(options.path, domain=options.domain).read()
    for budget in options.labels:
        accuracies = [
            accuracy(data, SplitRules(budget, None, options.val_fraction, options.test_fraction, seed))
            for seed in options.seeds
        ]
        spread = np.std(accuracies, ddof=1) if len(accuracies) > 1 else 0.0
        each = ", ".join(f"{100 * value:.1f}" for value in accuracies)
        mean = f"{100 * np.mean(accuracies):.1f} ± {100 * spread:.1f} %"
        print(f"tf-idf {budget or 'all':>4} labels a class: {mean}  ({each})", flush=True)


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = result.add_argument
    option("path", type=Path, help="a table, or a folder of tables")
    option("--domain", help="which tables of a folder")
    option("--labels", nargs="+", type=budget_of, default=[None], metavar="N|all", help="labels a class")
    option("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of splits and budgets")
    option("--test-fraction", type=float, default=0.2, help="where there is no test table")
    option("--val-fraction", type=float, default=0.1)
    return result


def budget_of(text: str) -> int | None:
    return None if text == "all" else int(text)


def accuracy(data: RawDataset, rules: SplitRules) -> float:
    """On the test split, trained on the label budget."""
    texts, labels = np.array(data.train.samples, dtype=object), data.train.labels
    parts = split_samples(labels, data.class_names, rules, data.val is None, data.test is None)
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10, max_iter=2000)
    )
    model.fit(texts[parts.train], labels[parts.train])
    if data.test is None:
        return float(model.score(texts[parts.test], labels[parts.test]))
    return float(model.score(data.test.samples, data.test.labels))


if __name__ == "__main__":
    main()
