"""Fitted estimators of scikit-learn as steps (`number_steps`): what each computes, read from its public attributes as
far as there are any. Trains nothing, and trusts nothing: `sklearn_check` compares the steps with the estimator."""
