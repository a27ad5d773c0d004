"""`EvoSearchCV` under its public name; importing it imports scikit-learn."""

from evo_tune.integrations.sklearn import EvoSearchCV as EvoSearchCV
