"""The encoder as a transformer of scikit-learn: structures in, latent vectors out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nesf.api import load_model
from nesf.data.dataset import needs_extra
from nesf.data.files import as_crystals
from nesf.domain import ModelCell, in_cell
from nesf.latent import feature_names
from nesf.saved import TrainedModel
from nesf_io.errors import DataError

with needs_extra("sklearn"):
    from sklearn.base import BaseEstimator, TransformerMixin
    from sklearn.utils.validation import check_is_fitted

if TYPE_CHECKING:
    from sklearn.utils import Tags


class NeSFFeaturizer(TransformerMixin, BaseEstimator):
    """Turn structures into the latent vectors of a trained model, z000, z001, ...

    Takes a list, an array, a pandas Series or a DataFrame of one column, of pymatgen structures,
    ASE atoms or both. Nothing is learned from them: `fit` loads the model.

    Args:
        model: name or folder of a model, as of `nesf.load_model`, or a `TrainedModel`.
        cell: cell to encode; auto: the kind that the model was trained on.
        device: auto, cpu, cuda, ...
        batch_size: structures in one pass of the encoder.

    Attributes:
        model_: the `TrainedModel`, after `fit`.

    Raises:
        DataError: there is no such model, or a structure cannot be used.
    """

    def __init__(
        self,
        model: str | Path | TrainedModel = "starter",
        *,
        cell: ModelCell = "auto",
        device: str = "auto",
        batch_size: int = 1024,
    ) -> None:
        self.model = model
        self.cell = cell
        self.device = device
        self.batch_size = batch_size

    def fit(self, X: Any, y: Any = None) -> NeSFFeaturizer:
        """Load the model; the structures are not looked at."""
        self.model_: TrainedModel = (
            self.model
            if isinstance(self.model, TrainedModel)
            else load_model(self.model, device=self.device)
        )
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Return the latent vectors [B, latent_size] of B structures."""
        check_is_fitted(self)
        if getattr(X, "ndim", 1) == 2:
            if X.shape[1] != 1:
                raise DataError(
                    f"a table of {X.shape[1]} columns: one column of structures is expected"
                )
            X = X.iloc[:, 0] if hasattr(X, "iloc") else X[:, 0]
        used, _ = in_cell(as_crystals(list(X)), self.cell, self.model_.domain)
        return self.model_.encode(used, self.batch_size).cpu().numpy()

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Return the names of the columns."""
        check_is_fitted(self)
        width = self.model_.config.model.latent_size
        return np.asarray(feature_names(width), dtype=object)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        return tags
