"""The encoder as a transformer of scikit-learn: what its own checks ask for, on structures."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.io.ase import AseAtomsAdaptor
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import estimator_checks_generator

import nesf
from nesf.data.files import as_crystals
from nesf_io.errors import DataError

NUMBERS = "it feeds a table of numbers, where this transformer takes structures"
# checks of scikit-learn that do not apply, and why
NOT_APPLICABLE = {
    **dict.fromkeys(
        (
            *("check_fit_score_takes_y", "check_estimators_dtypes", "check_dtype_object"),
            *("check_pipeline_consistency", "check_estimators_pickle", "check_transformer_general"),
            *("check_f_contiguous_array_estimator", "check_transformer_data_not_an_array"),
            *("check_transformer_preserve_dtypes", "check_methods_sample_order_invariance"),
            *("check_methods_subset_invariance", "check_dict_unchanged", "check_fit_idempotent"),
            "check_fit2d_predict1d",
        ),
        NUMBERS,
    ),
    **dict.fromkeys(
        ("check_n_features_in", "check_n_features_in_after_fitting"),
        "a structure is no row of numbers, so there is no number of columns",
    ),
    **dict.fromkeys(
        (
            *("check_complex_data", "check_estimators_nan_inf", "check_fit1d"),
            *("check_estimators_empty_data_messages", "check_estimator_sparse_tag"),
        ),
        "it wants `fit` to look at the numbers; nothing is learned from structures",
    ),
}


class TakesTables(nesf.NeSFFeaturizer):
    """Says that it takes tables of numbers, so that scikit-learn runs all its checks."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        return tags


CHECKS = [
    pytest.param(estimator, check, id=check.func.__name__)
    for estimator, check in estimator_checks_generator(TakesTables())
    if check.func.__name__ not in {*NOT_APPLICABLE, "check_array_api_input"}
]


@pytest.mark.parametrize(("estimator", "check"), CHECKS)
def test_applicable_checks_of_scikit_learn(estimator: Any, check: Any) -> None:
    check(estimator)


def test_every_check_is_either_run_or_named() -> None:
    names = {c.func.__name__ for _, c in estimator_checks_generator(TakesTables())}
    assert set(NOT_APPLICABLE) <= names and len(CHECKS) >= 20


@pytest.fixture(scope="module")
def structures() -> list[Structure]:
    return nesf.load_dataset("starter").split("test").select(range(8)).to_structures()


@pytest.fixture(scope="module")
def fitted(structures: list[Structure]) -> nesf.NeSFFeaturizer:
    return nesf.NeSFFeaturizer("starter", device="cpu").fit(structures)


def test_it_gives_the_latent_vectors_of_the_model(
    fitted: nesf.NeSFFeaturizer, structures: list[Structure]
) -> None:
    z = fitted.transform(structures)
    expected = nesf.load_model("starter", device="cpu").encode(as_crystals(structures))
    np.testing.assert_array_equal(z, expected.numpy())
    # order and subset do not matter
    np.testing.assert_allclose(fitted.transform(structures[::-1])[::-1], z, atol=1e-5)
    np.testing.assert_allclose(fitted.transform(structures[3:4]), z[3:4], atol=1e-5)


def test_ase_atoms_series_arrays_and_one_column_are_taken(
    fitted: nesf.NeSFFeaturizer, structures: list[Structure]
) -> None:
    z = fitted.transform(structures)
    mixed = [AseAtomsAdaptor.get_atoms(s) if i % 2 else s for i, s in enumerate(structures)]
    array = np.empty(len(structures), dtype=object)
    array[:] = mixed
    frame = pd.DataFrame({"structure": mixed})
    for form in (mixed, tuple(mixed), array, array[:, None], frame["structure"], frame):
        np.testing.assert_allclose(fitted.transform(form), z, atol=1e-4)
    with pytest.raises(DataError, match="2 columns"):
        fitted.transform(frame.assign(other=1))


def test_a_primitive_cell_has_the_latent_vector_of_the_conventional_one(
    fitted: nesf.NeSFFeaturizer,
) -> None:
    salt = Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
    )
    primitive = salt.get_primitive_structure()
    both = fitted.transform([salt, primitive])
    np.testing.assert_allclose(both[0], both[1], atol=1e-3)
    raw = clone(fitted).set_params(cell="as-given").fit(None).transform([primitive])
    assert np.abs(raw - both[1]).max() > 0.01


def test_pandas_output_names_pipeline_clone_and_pickle(structures: list[Structure]) -> None:
    featurizer = nesf.NeSFFeaturizer(device="cpu")
    with pytest.raises(NotFittedError):
        clone(featurizer).transform(structures)
    frame = pd.DataFrame({"structure": structures}, index=[f"m{i}" for i in range(8)])
    table = clone(featurizer).set_output(transform="pandas").fit_transform(frame)
    assert list(table.columns[:2]) == ["z000", "z001"] and table.shape == (8, 192)
    assert list(table.index) == list(frame.index)  # so that frame.join(table) works
    model = nesf.load_model("starter", device="cpu")
    pipeline = make_pipeline(nesf.NeSFFeaturizer(model), Ridge())
    volumes = [s.volume for s in structures]
    assert pipeline.fit(structures, volumes).score(structures, volumes) > 0.9
    assert np.isfinite(cross_val_score(pipeline, structures, volumes, cv=2)).all()
    again = pickle.loads(pickle.dumps(pipeline))
    np.testing.assert_array_equal(again.predict(structures), pipeline.predict(structures))
