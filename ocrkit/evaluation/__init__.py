"""Score and compare readings of models, engines and files of predictions."""
