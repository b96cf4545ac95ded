"""sentence-transformers' `encode` and scikit-learn's logistic regression: the usual way to learn only a head.

`encode` sorts by length itself. The batch size is chosen by `tune`, as its documentation leaves it to the machine.
"""

from __future__ import annotations

from typing import Any

from speak import Watch, read_rows, serve

PACKAGES = ("torch", "transformers", "sentence-transformers", "scikit-learn", "tokenizers", "numpy")


def fit(*, base: str, train: str, judged: str | None, max_length: int, batch_size: int, seed: int) -> dict[str, Any]:
    """Load, encode, learn; then say how right it is on rows it has not seen."""
    from sentence_transformers import SentenceTransformer
    from sklearn.linear_model import LogisticRegression

    watch = Watch()
    with watch("open and read"):
        texts, labels = read_rows(train)
        model = SentenceTransformer(base, device="cpu")
        model.max_seq_length = max_length
    with watch("train"):
        features = model.encode(texts, batch_size=batch_size, show_progress_bar=False)
    with watch("train"):
        head = LogisticRegression(max_iter=1000, random_state=seed).fit(features, labels)
    facts: dict[str, Any] = {}
    if judged is not None:
        texts, labels = read_rows(judged)
        facts["accuracy"] = float(head.score(model.encode(texts, batch_size=batch_size, show_progress_bar=False), labels))
    return watch.answer(**facts)


def tune(*, base: str, train: str, max_length: int, batch_sizes: list[int]) -> dict[str, Any]:
    """Return the fastest batch size and the processor seconds of each."""
    took = {}
    for batch_size in [batch_sizes[0], *batch_sizes]:  # the first one twice: its first run warms up
        answer = fit(base=base, train=train, judged=None, max_length=max_length, batch_size=batch_size, seed=0)
        took[batch_size] = round(answer["cpu_s"], 3)
    return {"best": min(took, key=took.__getitem__), "tried": took}


def prepare() -> dict[str, Any]:
    """Import what a fit needs, so that no round pays for it."""
    import sentence_transformers  # noqa: F401
    import sklearn.linear_model  # noqa: F401
    import torch
    import transformers.models.bert.modeling_bert  # noqa: F401

    torch.set_num_threads(1)
    return {}


if __name__ == "__main__":
    serve(PACKAGES, prepare=prepare, tune=tune, round=fit)
