"""The verbs, composed of the engines. train/: search, train. govern/: evaluate, promote, reproduce. batch/: predict."""
