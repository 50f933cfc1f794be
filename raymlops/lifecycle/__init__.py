"""The lifecycle functions behind the verbs, composed of the engines. train/: search, train. govern/: evaluate,
promote, reproduce. batch/: predict."""
