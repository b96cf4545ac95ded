"""What MLflow loads of a folder that `regraft export --format mlflow` wrote: its `MLmodel` names this module.

MLflow calls `_load_pyfunc(FOLDER)` once and `predict(DataFrame)` for every request. The artifact is verified and its golden
rows are replayed before the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from regraft.errors import Problem, UsageError
from regraft.registry import missing_extra
from regraft.serving.predictor import Predictor
from regraft.serving.replay import replay_artifact

if TYPE_CHECKING:
    import pandas


class MlflowModel:
    """Answer tables.

    Args:
        predictor: Answers.
    """

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> pandas.DataFrame:
        """Return one answer a row, under the names that `regraft predict` writes.

        Args:
            model_input: A DataFrame with the input column, or whatever else `Predictor.predict` takes.
            params: None; there is nothing to choose.

        Returns:
            Columns `prediction`, `probability.LABEL` for each label (`quantile.LEVEL` for each level), and `error`, which says
            why a row has no answer; of several targets `prediction.TARGET`, `probability.TARGET.LABEL` and so on.

        Raises:
            UsageError: There are parameters.
        """
        try:
            import pandas
        except ModuleNotFoundError as error:
            raise missing_extra(error, "answering MLflow", "pandas") from error
        if params:
            got, fix = ", ".join(params), "leave them out"
            raise UsageError(Problem(what="the model takes no parameters", where="params", got=got, fix=fix))
        answers = self.predictor.predict(model_input)
        targets = self.predictor.task.columns
        columns: dict[str, list[Any]] = {"prediction": [answer.value for answer in answers]} if not targets else {}
        for name in targets:
            columns[f"prediction.{name}"] = [None if answer.error else answer.value[name] for answer in answers]
        numbers = [answer.numbers for answer in answers]
        for name in self.predictor.task.answer_columns:
            columns[name] = [found.get(name) for found in numbers]
        columns["error"] = [answer.error or None for answer in answers]
        index = model_input.index if isinstance(model_input, pandas.DataFrame) else None
        return pandas.DataFrame(columns, index=index)


def _load_pyfunc(path: str) -> MlflowModel:
    """Open the folder; the name is MLflow's.

    Raises:
        ArtifactError: It is not what was written.
        GateError: It does not answer its golden rows as it did.
    """
    predictor = Predictor.load(path)
    replay_artifact(predictor)
    return MlflowModel(predictor)
