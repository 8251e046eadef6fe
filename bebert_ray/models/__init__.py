"""BERT checkpoints, and the verbs that change a model in place: narrow, ternarize, split."""
