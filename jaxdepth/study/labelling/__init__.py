"""A person labels a blind sample of a run's answers, and every rate is corrected by the labels.

label_plan.parquet    the answers that were drawn, and with which probabilities
labels/RATER.json     what a rater has labelled so far, saved after every label
labels.parquet        the labels of all raters, without texts
corrected.parquet     corrected rates of outcomes, by bands of exits
"""
