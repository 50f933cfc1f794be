"""Estimators and pipelines of scikit-learn that a user would write, among them what other converters get wrong."""

from typing import Any

import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    BaggingClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
)
from sklearn.feature_selection import SelectFromModel, SelectKBest
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    MinMaxScaler,
    Normalizer,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    PowerTransformer,
    QuantileTransformer,
    StandardScaler,
    TargetEncoder,
)
from sklearn.svm import SVC, LinearSVC


def forest_of_scaled(trees: int = 20) -> Any:
    return make_pipeline(StandardScaler(), RandomForestClassifier(trees))


def forest_of_scaled_numbers() -> Any:
    return make_pipeline(StandardScaler(), RandomForestRegressor(20))


def boosting_of_scaled() -> Any:
    return make_pipeline(StandardScaler(), HistGradientBoostingClassifier(max_iter=20))


def boosting_of_components() -> Any:
    return make_pipeline(SimpleImputer(), PCA(4), HistGradientBoostingClassifier(max_iter=20))


def rare_values() -> Any:
    """Categories are columns 6 to 8, of which the rare ones share a column."""
    rare = OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=15)
    numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    return make_pipeline(
        ColumnTransformer([("numbers", numbers, slice(0, 6)), ("values", rare, [6, 7])]), LogisticRegression()
    )


def encoders() -> Any:
    parts = [
        ("numbers", make_pipeline(SimpleImputer(add_indicator=True), PowerTransformer()), [0, 1, 2]),
        ("values", OneHotEncoder(handle_unknown="ignore", drop="first", sparse_output=False), [6]),
        ("order", OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), [8]),
        ("means", TargetEncoder(), [7]),
    ]
    return make_pipeline(ColumnTransformer(parts, remainder=SimpleImputer()), ExtraTreesClassifier(10))


def bins() -> Any:
    cut = KBinsDiscretizer(5, quantile_method="averaged_inverted_cdf")
    return make_pipeline(SimpleImputer(), cut, LogisticRegression())


def curves() -> Any:
    parts = make_union(PCA(2), SelectKBest(k=3), FunctionTransformer(np.tanh), MinMaxScaler(clip=True))
    return make_pipeline(
        SimpleImputer(), StandardScaler(), PolynomialFeatures(2), parts, LogisticRegression()
    )


def vote() -> Any:
    line = make_pipeline(SimpleImputer(), LogisticRegression())
    members = [("line", line), ("forest", RandomForestClassifier(5)), ("boosting", _boosting())]
    return VotingClassifier(members, voting="soft", weights=[1, 2, 1])


def weighed() -> Any:
    """Its members take weights of rows."""
    return VotingClassifier([("forest", RandomForestClassifier(5)), ("boosting", _boosting())], voting="soft")


def stack() -> Any:
    machine = make_pipeline(SimpleImputer(), LinearSVC())
    members = [("machine", machine), ("forest", RandomForestClassifier(5)), ("boosting", _boosting())]
    return StackingClassifier(members, final_estimator=_boosting(), cv=2)


def stack_of_numbers() -> Any:
    members = [("forest", RandomForestRegressor(5)), ("boosting", HistGradientBoostingRegressor(max_iter=10))]
    return StackingRegressor(members, final_estimator=Ridge(), cv=2)


def bag() -> Any:
    line = make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression())
    return BaggingClassifier(line, n_estimators=3, max_features=0.6)


def calibrated() -> Any:
    trees = make_pipeline(SimpleImputer(), GradientBoostingClassifier(n_estimators=10))
    return CalibratedClassifierCV(trees, cv=2)


def one_against_rest() -> Any:
    return OneVsRestClassifier(make_pipeline(SimpleImputer(), SVC()))


def searched() -> Any:
    return GridSearchCV(RandomForestClassifier(5), {"max_depth": [2, 4]}, cv=2)


def near() -> Any:
    chosen = SelectFromModel(ExtraTreesClassifier(5))
    return make_pipeline(SimpleImputer(), Normalizer(), chosen, KNeighborsClassifier(5))


def _boosting() -> Any:
    return HistGradientBoostingClassifier(max_iter=10)


def own_categories() -> Any:
    return HistGradientBoostingClassifier(categorical_features=[6, 7])


def isotonic() -> Any:
    return CalibratedClassifierCV(RandomForestClassifier(5), method="isotonic")


def refuses_unseen() -> Any:
    return make_pipeline(OneHotEncoder(), LogisticRegression())


def labels_vote() -> Any:
    return VotingClassifier([("forest", RandomForestClassifier(5))])


def own_function() -> Any:
    return make_pipeline(FunctionTransformer(lambda rows: rows * 2), RandomForestClassifier(5))


def ranks() -> Any:
    return make_pipeline(QuantileTransformer(), RandomForestClassifier(5))


class OwnForest(RandomForestClassifier):
    pass


def own_class() -> Any:
    return OwnForest(5)


def number() -> Any:
    return 3
